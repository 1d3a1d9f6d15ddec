"""Who may import whom: DESIGN.md's directions, read from the source; and what has to do without torch."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("bench", "kernels", "models", "reports", "notebooks", "tests")

# Each of our packages, and the packages and modules of ours that it may import.
MAY_IMPORT = {
    "kernels": ["kernels"],
    "models": ["models", "kernels"],
    "bench": ["bench", "models", "kernels"],
    "reports": [
        "reports",
        *(f"bench.{name}" for name in ("cases", "studies", "record", "stats", "roofline")),
        *(f"bench.{name}" for name in ("gpus", "errors", "costmodel", "sizes", "windowcost", "windowwork")),
    ],
    "notebooks": ["reports"],
    "tests": list(OURS),
}

# Modules that have to import on a machine, or in an environment, without torch.
TORCH_FREE = [
    *(
        "bench.cases",
        "bench.studies",
        "bench.record",
        "bench.stats",
        "bench.roofline",
        "bench.gpus",
        "bench.errors",
        "bench.sizes",
        "bench.windowcost",
        "bench.windowwork",
    ),
    *("bench.environment", "bench.timing", "bench.runner", "bench.screen", "bench.__main__"),
    *("models", "models.config", "reports", "reports.__main__", "reports.page", "reports.chapters"),
]


def sources() -> list[Path]:
    return [
        path
        for package in OURS
        for path in sorted((ROOT / package).rglob("*.py"))
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    ]


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a file imports, wherever in it: `from a import b` is a.b."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (
                (node.lineno, str(name.value)) for name in node.args if isinstance(name, ast.Constant)
            )


def within(name: str, packages: list[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def breaches(path: Path) -> list[str]:
    """Imports of ours that this file may not have, as `file:line imports name`."""
    package = path.relative_to(ROOT).parts[0]
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for line, name in imported(path)
        if name.split(".")[0] in OURS and not within(name, MAY_IMPORT[package])
    ]


def test_imports_go_in_the_design_s_directions():
    found = sources()
    assert {path.relative_to(ROOT).parts[0] for path in found} >= {
        "bench",
        "kernels",
        "models",
        "reports",
        "tests",
    }
    assert [breach for path in found for breach in breaches(path)] == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("kernels/op/op.py", "from models import config"),
        ("kernels/op/op.py", "import bench.stats"),
        ("models/net.py", "from bench.cases import parse"),
        ("models/net.py", "def build():\n    import reports"),
        ("bench/macs.py", "from reports import tables"),
        ("bench/macs.py", "import tests.test_cases"),
        ("bench/macs.py", "from ..reports import tables"),
        ("bench/regression/speed.py", "from ...reports import tables"),
        ("reports/page.py", "from bench import worker"),
        ("reports/page.py", "import bench"),
        ("reports/page.py", "import models"),
        ("reports/page.py", "import importlib\nimportlib.import_module('bench.runner')"),
        ("notebooks/story.py", "from bench import record"),
    ],
)
def test_an_import_in_the_wrong_direction_is_found(tmp_path, monkeypatch, file, line):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert len(breaches(path)) == 1


def test_in_kernels_only_references_and_ops_know_torch():
    """So that any Triton can compile the kernels, and a cost can be computed, without torch."""
    allowed = ("reference.py", "op.py")
    offenders = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "kernels").rglob("*.py"))
        if path.name not in allowed
        for line, name in imported(path)
        if name.split(".")[0] == "torch"
    ]
    assert offenders == []


def test_the_set_up_needs_nothing_but_python():
    """It runs before there is an environment."""
    todo, foreign = [ROOT / "bench" / "setup_env.py"], []
    for path in todo:  # which grows by what of ours each needs
        for line, name in imported(path):
            if name.split(".")[0] in OURS:
                file = ROOT.joinpath(*name.split(".")[:2]).with_suffix(".py")
                todo += [file] if file not in todo else []
            elif name.split(".")[0] not in sys.stdlib_module_names:
                foreign.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert foreign == []


def test_no_path_is_edited_and_no_import_of_ours_is_tried():
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        package = path.relative_to(ROOT).parts[0]
        edits = [
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("sys.path.")
        ]
        assert edits == [], path
        tried = [
            ast.unparse(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.Try)
            and any("ImportError" in ast.unparse(handler.type) for handler in node.handlers if handler.type)
            for inner in node.body
            if isinstance(inner, ast.Import | ast.ImportFrom)
            and any(name in ast.unparse(inner) for name in OURS)
        ]
        assert tried == [] or package == "tests", path


@pytest.mark.parametrize("package", ["bench", "kernels", "models", "reports"])
def test_our_packages_are_those_of_this_repository(package):
    """Other packages are known by these names: a path in the wrong order would give those."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve() == ROOT / package / "__init__.py"


@pytest.mark.parametrize("package", ["bench", "kernels", "kernels/emsa_upsample"])
def test_these_packages_do_nothing_when_imported(package):
    assert (ROOT / package / "__init__.py").read_text() == ""


def test_what_must_do_without_torch_does():
    code = (
        "import importlib, sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'torchvision', 'triton', 'timm', 'fvcore'):\n"
        "            raise ImportError(f'there is no {name} here')\n"
        "sys.meta_path.insert(0, Without())\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *TORCH_FREE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # the same, on what is known to need torch, fails: the blocking works
    blocked = subprocess.run(
        [sys.executable, "-c", code, "models.restv2"], cwd=ROOT, capture_output=True, timeout=120, check=False
    )
    assert b"there is no torch here" in blocked.stderr
