"""The notebooks: they run from what is committed, say what they are committed with, and hold nothing of a machine."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import pytest

from tests.support import notebooks
from tests.support.notebooks import NOTEBOOKS, ROOT
from tests.support.sweeps import sweep

ALL = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
NAMES = ["flops_against_speed", "global_against_window", "inside_the_kernel"]


def cells(path: Path, kind: str) -> list[str]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@ALL
def test_they_import_the_reports_alone_and_define_nothing(path):
    trees = [ast.parse(source) for source in cells(path, "code")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda | ast.For) for node in nodes)
    imported = {
        name.split(".")[0]
        for node in nodes
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert imported <= {"pathlib", "reports"}


@ALL
def test_they_are_committed_with_outputs_and_nothing_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    shown = notebooks.outputs(notebook)
    assert any("image/png" in output for output in shown) and any(
        "text/markdown" in output for output in shown
    )
    words = "".join(str(output.get(kind)) for output in shown for kind in ("text/plain", "text/markdown"))
    assert not re.search(r"Traceback|/home/|/tmp/|/root/|/work/", words)
    assert str(ROOT) not in text
    assert path.stat().st_size < 2**20


@sweep
@ALL
def test_they_run_and_say_what_they_are_committed_with(path):
    if os.environ.get("CI") != "true":  # where the environment is not one that `make` has just set up
        pytest.importorskip("nbclient")
        pytest.importorskip("ipykernel")

    def said(notebook) -> list[str]:
        texts = (output.get("text/markdown", output["text/plain"]) for output in notebooks.outputs(notebook))
        return ["".join(text) for text in texts]

    committed = json.loads(path.read_text(encoding="utf-8"))
    assert said(notebooks.executed(path)) == said(committed), (
        "python -m tests.support.notebooks writes them anew"
    )
