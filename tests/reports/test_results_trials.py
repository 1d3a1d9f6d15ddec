"""Many rows: reading them takes work in proportion, and a report of a million little memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench.machine.provenance import ROOT
from tests.support import many_rows

pytestmark = pytest.mark.trials

FEWER, MORE, A_MILLION = 10_000, 40_000, 1_000_000


def test_work_grows_in_proportion_to_the_rows(tmp_path):
    calls = {}
    for rows in (FEWER, MORE):
        many_rows.write(tmp_path / str(rows), rows)
        assert many_rows.read(tmp_path / str(rows)) == {"rows": rows, "problems": 0}  # none is dropped
        calls[rows] = many_rows.calls(tmp_path / str(rows))
    assert calls[MORE] <= MORE / FEWER * calls[FEWER]


def test_a_report_of_a_million_rows_takes_less_than_4_gb(tmp_path):
    """One run over a hundredth of them, and one over all, whose seconds are for the reader."""
    for rows in (FEWER, A_MILLION):
        command = [sys.executable, "-m", "tests.support.many_rows", str(tmp_path / str(rows)), str(rows)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        print(done.stdout, end="")
        assert json.loads(done.stdout)["memory_gb"] < 4
