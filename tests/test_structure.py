"""Where code lives and who imports whom: read from the source of every folder, not from lists of files."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support import file_map

ROOT = Path(__file__).resolve().parents[1]
OURS = ("bench", "kernels", "models", "reports", "notebooks", "tests")

# Below each folder: what of ours its files may import, and what of that they may not. The deepest folder decides.
FLOORS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "kernels": (("kernels",), ()),
    "models": (("models", "kernels"), ()),
    "bench": (("bench", "models", "kernels"), ("bench.harness", "bench.regression")),
    "bench/machine": (("bench.machine", "bench.errors"), ()),
    "bench/harness": (("bench", "models", "kernels"), ("bench.regression", "bench.runner", "bench.process")),
    "bench/regression": (("bench", "models", "kernels"), ()),
    "reports": (("reports", "bench", "models"), ("bench.harness", "bench.regression", "reports.chapters")),
    "reports/chapters": (("reports", "bench", "models"), ("bench.harness", "bench.regression")),
    "notebooks": (("reports",), ()),
    "tests": (OURS, ()),
}
# The only folders whose files may import torch, or what imports it.
TORCH = ("torch", "torchvision", "triton", "timm", "fvcore")
WAYS_IN = ("__main__.py", "frame.py")  # of reports: where chapters are told
DOORS = ("bench/harness", "bench/regression", "kernels", "models", "tests")


@cache
def sources(root: Path = ROOT) -> list[Path]:
    """Every Python file of ours."""
    return [
        path
        for package in OURS
        for path in sorted((root / package).rglob("*.py"))
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]


def nodes(path: Path, *words: str) -> list[ast.AST]:
    """Every node of a file that has one of the words, if any are given; not kept: the collector would walk them."""
    text = path.read_text(encoding="utf-8")
    return list(ast.walk(ast.parse(text))) if not words or any(word in text for word in words) else []


@cache
def imported(path: Path, root: Path) -> list[tuple[int, str]]:
    """Line and dotted name of every import of a file, wherever in it: `from a import b` is a.b."""
    package, found = path.relative_to(root).parent.parts, []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and called(node).endswith(("import_module", "__import__")):
            found += [(node.lineno, str(name.value)) for name in node.args if isinstance(name, ast.Constant)]
    return found


def called(call: ast.Call) -> str:
    """The last part of the name of what is called, if that has a name."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def floor(path: Path, root: Path = ROOT) -> str:
    """The deepest entry of FLOORS that holds a file."""
    folder = path.relative_to(root).parent.as_posix()
    return max((name for name in FLOORS if f"{folder}/".startswith(f"{name}/")), key=len)


def breaches(path: Path, root: Path = ROOT) -> list[str]:
    """Imports that this file may not have, as `file:line imports name`."""
    where = floor(path, root)
    may, not_these = FLOORS[where]
    found = []
    for line, name in imported(path, root):
        ours = name.split(".")[0] in OURS
        wrong = ours and (not within(name, may) or within(name, not_these))
        if where == "reports/chapters" and path.name != "__init__.py":
            wrong |= within(name, ["reports.chapters"])
        if where == "reports" and path.name in WAYS_IN:
            wrong &= name != "reports.chapters"
        if not where.startswith(DOORS):
            wrong |= any(part in TORCH for part in name.split("."))
        if wrong:
            found.append(f"{path.relative_to(root)}:{line} imports {name}")
    return found


def test_every_import_goes_down_a_floor_or_stays_on_its_own():
    found = sources()
    assert {path.relative_to(ROOT).parts[0] for path in found} >= set(OURS) - {"notebooks"}
    assert [breach for path in found for breach in breaches(path)] == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("kernels/op/op.py", "from models import config"),
        ("kernels/op/op.py", "import bench.stats"),
        ("models/net.py", "from bench.cases import parse"),
        ("models/net.py", "def build():\n    import reports"),
        ("bench/runner.py", "from reports import tables"),
        ("bench/runner.py", "import tests.bench.test_cases"),
        ("bench/runner.py", "from ..reports import tables"),
        ("bench/runner.py", "import torch"),
        ("bench/runner.py", "def run():\n    from bench.harness import macs"),
        ("bench/machine/state.py", "from bench import cases"),
        ("bench/machine/state.py", "import torch.cuda"),
        ("bench/harness/speed.py", "from bench import runner"),
        ("bench/harness/speed.py", "from reports import tables"),
        ("bench/regression/speed.py", "from ...reports import tables"),
        ("reports/page.py", "from bench.harness import worker"),
        ("reports/page.py", "import timm"),
        ("reports/page.py", "from reports.chapters import dense"),
        ("reports/lines.py", "from reports import chapters"),
        ("reports/page.py", "import importlib\nimportlib.import_module('bench.harness.macs')"),
        ("reports/chapters/dense.py", "from reports.chapters import classifiers"),
        ("reports/chapters/dense.py", "from . import classifiers"),
        ("notebooks/story.py", "from bench import record"),
    ],
)
def test_an_import_in_the_wrong_direction_is_found(tmp_path, file, line):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert len(breaches(path, tmp_path)) == 1


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


@cache
def graph() -> dict[str, set[str]]:
    """Which of our modules imports which others, at any depth of a file; those for types alone are left out."""
    modules = {module_of(path): path for path in sources()}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = {name for _, name in imported(path, ROOT)} - names_for_types(path)
        nearest = (next((p for p in (name, name.rpartition(".")[0]) if p in modules), None) for name in names)
        found[module] = {name for name in nearest if name and name != module}
    return found


def names_for_types(path: Path) -> set[str]:
    """Imports under `if TYPE_CHECKING`, which do not run."""
    blocks = [
        node
        for node in nodes(path, "TYPE_CHECKING")
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    return {
        f"{inner.module}.{alias.name}"
        for block in blocks
        for inner in block.body
        if isinstance(inner, ast.ImportFrom)
        for alias in inner.names
    }


def knows_torch(edges: dict[str, set[str]]) -> set[str]:
    """Modules of ours that import torch or what brings it, directly or through another module, at any depth."""
    paths = {module_of(path): path for path in sources()}
    found = {
        module
        for module, path in paths.items()
        if any(part in TORCH for _, name in imported(path, ROOT) for part in name.split("."))
    }
    while more := {module for module, others in edges.items() if others & found} - found:
        found |= more
    return found


def test_nothing_outside_the_doors_comes_to_torch_by_way_of_another_module():
    edges = graph()
    with_torch = knows_torch(edges)
    assert {"models", "models.rest", "bench.harness.speed", "kernels.emsa_upsample.op"} < with_torch
    outside = {
        module_of(path)
        for path in sources()
        if path.relative_to(ROOT).parts[0] in ("bench", "reports") and not floor(path).startswith(DOORS)
    }
    assert outside & with_torch == set()
    # a way through a function of a module on a lower floor is seen
    assert knows_torch({**edges, "bench.runner": {"models.rest"}, "bench.__main__": {"bench.runner"}}) >= {
        "bench.runner",
        "bench.__main__",
    }


def test_no_import_runs_in_a_circle():
    edges = graph()
    try:
        order = list(TopologicalSorter(edges).static_order())
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))
    assert len(order) == len(edges)


def test_no_test_imports_another():
    tests = [path for path in sources() if path.name.startswith("test_") and "tests" in path.parts]
    assert len(tests) > 20
    offenders = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in tests
        for _, name in imported(path, ROOT)
        if any(part.startswith("test_") for part in name.split("."))
    ]
    assert offenders == []


def test_in_kernels_only_references_and_ops_know_torch():
    """Any Triton can compile the kernels, and a cost can be computed, without torch; operators use it."""
    offenders = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "kernels").rglob("*.py"))
        if path.name
        not in (
            *("device.py", "arguments.py", "reference.py", "partition.py"),
            *("op.py", "launch.py", "backward.py", "op_backward.py"),
        )
        for line, name in imported(path, ROOT)
        if name.split(".")[0] == "torch"
    ]
    assert offenders == []


def test_the_set_up_needs_nothing_but_python():
    """It runs before there is an environment."""
    todo, foreign = [ROOT / "bench" / "setup_env.py"], []
    for path in todo:  # which grows by what of ours each needs
        for line, name in imported(path, ROOT):
            if name.split(".")[0] in OURS:
                module = name.split(".")
                files = [ROOT.joinpath(*module[:n]).with_suffix(".py") for n in (2, 3)]
                todo += [file for file in files if file.is_file() and file not in todo]
            elif name.split(".")[0] not in sys.stdlib_module_names:
                foreign.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert foreign == []


def test_no_path_is_edited_and_no_import_of_ours_is_tried():
    for path in sources():
        package = path.relative_to(ROOT).parts[0]
        of_file = nodes(path, "sys.path", "ImportError")
        edits = [
            node.lineno
            for node in of_file
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and ast.unparse(node.func).startswith("sys.path.")
        ]
        assert edits == [], path
        tried = [
            ast.unparse(inner)
            for node in of_file
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


def test_packages_do_nothing_when_imported():
    """But `models`, whose `build` is the way in, and the chapters, which are put in order there."""
    with_code = [
        path.relative_to(ROOT).as_posix()
        for path in sources()
        if path.name == "__init__.py" and path.read_text().strip()
    ]
    assert sorted(with_code) == ["models/__init__.py", "reports/chapters/__init__.py"]


def test_what_must_do_without_torch_does():
    """Everything outside the doors, imported where torch cannot be."""
    code = (
        "import importlib, sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {TORCH!r}:\n"
        "            raise ImportError(f'there is no {name} here')\n"
        "sys.meta_path.insert(0, Without())\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
    )
    outside = [
        module_of(path)
        for path in sources()
        if path.relative_to(ROOT).parts[0] in ("bench", "reports") and not floor(path).startswith(DOORS)
    ]
    assert {"bench.__main__", "bench.runner", "reports.__main__", "reports.page"} < set(outside)
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        [*command, "models", *outside], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    # the same, on what is known to need torch, fails: the blocking works
    blocked = subprocess.run(
        [*command, "models.rest"], cwd=ROOT, capture_output=True, timeout=120, check=False
    )
    assert b"there is no torch here" in blocked.stderr


def test_torchs_compiler_is_not_imported_before_a_case_is_compiled():
    """Every worker, and `macs CASE`, would wait for it longer than for all the rest of torch."""
    code = "import sys, bench.harness.worker; print('torch' in sys.modules, 'torch._dynamo' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "True False\n", done.stderr


# ---- the map in CONTRIBUTING


def test_the_map_in_contributing_says_what_each_file_says_of_itself():
    assert file_map.written((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")) == file_map.file_map()


def test_every_file_says_what_it_is():
    assert [path for path in file_map.files() if len(file_map.first_line(path)) < 10] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no repository: the source alone was unpacked")
def test_no_link_is_committed():
    """It would point to where nobody else has anything; an environment's once did."""
    index = subprocess.run(
        ["git", "ls-files", "--stage"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = index.stdout.splitlines()
    assert len(files) > 400 and not [line for line in files if line.startswith("120000")]
