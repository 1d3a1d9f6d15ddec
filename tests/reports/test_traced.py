"""`python -m reports profile TRACE`: what it writes of a trace, and what of it never gets there."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from reports import __main__ as command
from tests.support import traces
from tests.support.reporting import run

HOSTILE = "Net</script><img src=x onerror=alert(1)>"
SECRETS = {"hostName": "build-host-7", "displayTimeUnit": "ms", "traceName": "/home/somebody/weights"}


def module(name: str, ts: float, dur: float) -> traces.Event:
    return traces.operator(f"nn.Module: {name}", ts, dur, cat="python_function")


@pytest.fixture
def trace(tmp_path) -> Path:
    """Two modules in one of a hostile name: a product of 2 × 1024³ FLOPs, and a softmax."""
    sizes = [[1024, 1024], [1024, 1024]]
    events = [
        module(HOSTILE, 0, 100),
        module("Linear_0", 1, 20),
        *traces.launched("aten::mm", 2, 60, sizes, 1, values=["", ""]),
        module("Softmax_0", 30, 20),
        *traces.launched("aten::_softmax", 31, 40, [[1024, 1024]], 2, kernel="softmax"),
    ]
    return traces.written(tmp_path / "my_trace.json.gz", events, **SECRETS)


def test_tables_figures_and_a_page_stand_beside_the_trace(trace):
    done = run(trace.parent, "profile", trace.name)
    assert done.returncode == 0, done.stderr
    folder = trace.with_name("my_trace-report")
    written = {path.name for path in folder.iterdir()}
    figures = [f"trace_{name}" for name in ("shares", "modules", "roofline")]
    assert written == {
        "index.html",
        *(f"trace_{name}.md" for name in ("answers", "whole", "operators", "modules")),
        *(f"{name}.{end}" for name in figures for end in ("svg", "png")),
    }
    assert "matmul" in done.stdout
    page = (folder / "index.html").read_text("utf-8")
    assert "<h1>40 % of the time of my_trace is without MACs</h1>" in page
    assert "NVIDIA H100" in page
    for name in figures:
        assert page.count(f'<svg id="{name}"') == page.count(f'<svg id="{name}_narrow"') == 1


def test_names_are_text_and_nothing_of_the_metadata_is_copied(trace, tmp_path):
    command.report_trace(trace, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        for secret in ("build-host-7", "somebody", str(tmp_path)):
            assert secret.encode() not in content, path.name
        if path.suffix == ".svg":
            ElementTree.fromstring(content)
        if path.suffix in (".svg", ".html"):
            assert b"<img" not in content and content.count(b"<script") == (path.suffix == ".html")
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "Net&lt;/script&gt;" in page
    markdown = (tmp_path / "out" / "trace_modules.md").read_text("utf-8")
    assert re.search(r"(?<!\\)<", markdown) is None and r"Net\</script\>" in markdown


def test_a_trace_without_peaks_or_modules_has_fewer_figures(tmp_path):
    events = traces.launched("aten::mm", 2, 60, [[8, 8], [8, 8]], 1)
    command.report_trace(traces.written(tmp_path / "t.json", events, device=None), tmp_path / "out")
    svg = {path.stem for path in (tmp_path / "out").glob("*.svg")}
    assert svg == {"trace_shares"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["profile"], "profile takes a TRACE"),
        (["tables", "t.json"], "no measurements in t.json"),
        (["tables", "--out", "x"], "profile takes a TRACE"),
        (["profile", "t.json", "--gpu", "cpu"], "profile takes a TRACE"),
        (["profile", "absent.json"], "absent.json"),
        (["profile", "t.json"], "t.json"),
        (["profile", "."], "is a folder, and no trace"),
    ],
)
def test_wrong_usage_is_told_in_a_line(tmp_path, arguments, said):
    (tmp_path / "t.json").write_text("no trace")
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and said in line
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize(
    ("more", "folder"), [([], "somewhere/a.b-report"), (["--out", "here/it/is"], "here/it/is")]
)
def test_the_folder_is_beside_the_trace_or_one_of_the_readers_choice(monkeypatch, more, folder):
    asked = []
    monkeypatch.setattr(command, "report_trace", lambda trace, folder: asked.append(folder))
    command.main(["profile", "somewhere/a.b.pt.trace.json.gz", *more], standalone_mode=False)
    assert asked == [Path(folder)]
