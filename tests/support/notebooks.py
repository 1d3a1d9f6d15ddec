"""Notebooks executed as a reader would; `python -m tests.support.notebooks` writes them with their outputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LIMIT_S = 240  # of a cell


def executed(path: Path) -> Any:
    """The notebook with the outputs of a new kernel that finds this repository."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=LIMIT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    notebook.metadata["language_info"] = {"name": "python"}  # not the Python that it happened to be
    return notebook


def outputs(notebook: Any) -> list[dict[str, Any]]:
    """The outputs of all cells, by kind of data; what is printed is `text/plain`."""
    return [
        {"text/plain": output["text"]} if output["output_type"] == "stream" else dict(output["data"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    ]


def main() -> None:
    """Execute all and write them where they are."""
    import nbformat

    for path in NOTEBOOKS:
        nbformat.write(executed(path), path)


if __name__ == "__main__":
    main()
