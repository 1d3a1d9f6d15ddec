"""Profiles as rows: what a model does to the process that measures it, and what is used again."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import profiles, record, visits
from bench.cases import parse
from bench.jobs import Job, job_of
from bench.machine import devices, provenance
from tests.support.runs import RULES, run
from tests.support.sweeps import sweep

pytestmark = pytest.mark.timeout(900)  # three processes import torch

NETS = """
import ctypes
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

class Refuses(Net):
    def forward(self, x):
        raise ValueError("only for moons")

class Segfaults(Net):
    def forward(self, x):
        ctypes.string_at(0)
"""


def profile(text: str) -> Job:
    return job_of("profile", devices.cpu_device(), RULES, parse(text), study="a study")


@sweep
def test_a_case_that_dies_costs_itself_alone_and_good_rows_are_used_again(tmp_path, monkeypatch):
    (tmp_path / "row_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(provenance.ROOT))
    jobs = [
        profile(text)
        for text in (
            *("row_nets:Segfaults@32:b2", "row_nets:Refuses@32:b2", "core_lite@32:b1:fused"),
            "row_nets:Net@32:b2",
        )
    ]
    folder = Path("rows")
    summary, _ = run(folder, jobs)
    rows = {row["case"].split("@")[0]: row for row in summary.rows}
    assert [rows[name]["outcome"] for name in ("row_nets:Segfaults", "row_nets:Refuses")] == ["failed"] * 2
    assert "SIGSEGV" in rows["row_nets:Segfaults"]["reason"]
    assert rows["row_nets:Refuses"]["reason"].startswith("only for moons")
    assert rows["core_lite"]["outcome"] == "refused"
    good = rows["row_nets:Net"]
    assert good["outcome"] == "ok"
    assert {part.line.name for part in profiles.parts(good)} >= {"conv", "linear", "pool"}
    assert visits.seconds(good).value > 0
    assert good["readings"]["during"] is not None
    again, _ = run(folder, jobs[-1:])
    assert (again.measured, again.reused) == (0, 1)
    assert record.read(folder).problems == []
