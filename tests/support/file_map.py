"""The map of files in CONTRIBUTING, made from the first line of each file's docstring.

`python -m tests.support.file_map` writes it anew.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kernels", "models", "bench", "reports")
START, END = "<!-- files: written by python -m tests.support.file_map -->", "<!-- end of files -->"


def first_line(path: Path) -> str:
    """The first line of a file's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")


def files() -> list[Path]:
    """Python files of the product, empty ones left out, folder by folder."""
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.stat().st_size]
    return sorted(
        found, key=lambda path: (PACKAGES.index(path.relative_to(ROOT).parts[0]), path.parent, path)
    )


def file_map() -> str:
    """Markdown: a table a folder, a row a file."""
    folders: dict[Path, list[Path]] = {}
    for path in files():
        folders.setdefault(path.parent, []).append(path)
    tables = [
        "\n".join(
            [
                f"| `{folder.relative_to(ROOT).as_posix()}/` | |",
                "|---|---|",
                *(f"| `{path.name}` | {first_line(path)} |" for path in paths),
            ]
        )
        for folder, paths in folders.items()
    ]
    return "\n\n".join([START, *tables, END])


def written(text: str) -> str:
    """The map as it stands in `text`.

    Raises:
        ValueError: the marks around it are missing.
    """
    return text[text.index(START) : text.index(END) + len(END)]


if __name__ == "__main__":
    contributing = ROOT / "CONTRIBUTING.md"
    text = contributing.read_text(encoding="utf-8")
    contributing.write_text(text.replace(written(text), file_map()), encoding="utf-8")
