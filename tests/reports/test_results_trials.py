"""Many rows: reading, checking and telling them takes work and memory in proportion. The times are for the reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.machine.provenance import ROOT
from tests.support import many_rows

pytestmark = pytest.mark.trials

FEWER, MORE, A_MILLION = 10_000, 40_000, 1_000_000


def benchmark(folder: Path, rows: int) -> dict[str, Any]:
    """The benchmark in a process of its own, whose memory is then known."""
    command = [sys.executable, "-m", "tests.support.many_rows", str(folder), str(rows)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    print(done.stdout, end="")
    return dict(json.loads(done.stdout))


def test_work_and_memory_grow_in_proportion_to_the_rows(tmp_path):
    fewer, more = (benchmark(tmp_path / str(rows), rows) for rows in (FEWER, MORE))
    assert [found["problems"] for found in (fewer, more)] == [0, 0]
    assert [found["rows"] for found in (fewer, more)] == [FEWER, MORE]  # none is dropped
    calls = {rows: many_rows.calls(tmp_path / str(rows)) for rows in (FEWER, MORE)}
    assert calls[MORE] <= MORE / FEWER * calls[FEWER]
    # one device after the other: as many more rows as make a million take as many times the memory
    needed_gb = more["before_gb"] + (more["memory_gb"] - more["before_gb"]) * A_MILLION / MORE
    assert needed_gb < 4
