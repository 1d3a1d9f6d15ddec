"""Two real processes, a revision each, that take turns at a user's tiny network."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cases import parse
from bench.jobs import Job, job_of
from bench.machine.devices import cpu_device
from bench.pair import visit
from bench.protocols import Rules
from bench.sides import CaseFailed, Sides
from bench.stats import ratios
from tests.support.sweeps import sweep

RULES = Rules("turns", 2, 0.0, 0.002, 5, 5, 0.0, limit_s=100)
NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range({convs})), nn.Flatten(), nn.Linear(3072, 5))
"""


@pytest.fixture
def folders(tmp_path, monkeypatch) -> list[Path]:
    """Her package at two revisions: forty convolutions, and two."""
    for name, convs in (("head", 40), ("base", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "her_net.py").write_text(NET.format(convs=convs))
    monkeypatch.chdir(tmp_path)
    return [tmp_path / "head", tmp_path / "base"]


def job(text: str) -> Job:
    return job_of("turns", cpu_device(), RULES, parse(text))


def test_each_process_runs_its_own_revision_in_turns(folders):
    sides = Sides(cpu_device(), folders)
    sides.start()
    try:
        found = visit(sides, job("her_net:Net@32"), (None, None))
        counts = sides.count(job("her_net:Net@32"))
        again = visit(sides, job("her_net:Net@32"), found["digests"])
    finally:
        sides.close()
    assert len(found["blocks"]) == len(found["coins"]) == RULES.min_samples
    assert min(ratios(found["blocks"])) > 2  # forty convolutions beside two
    begun = sorted(found["coins"].count(side) for side in "AB")
    assert begun == [RULES.min_samples // 2, RULES.min_samples - RULES.min_samples // 2]
    assert [state["threads"] for state in found["during"]] == [1, 1]
    assert again["digests"] == found["digests"]
    assert counts is not None
    linear = 3072 * 5
    assert [count["MACs"] for count in counts] == [n * 32 * 32 * 3 * 3 * 9 + linear for n in (40, 2)]


@sweep
def test_a_case_that_runs_in_one_revision_alone_says_in_which(folders):
    (folders[1] / "her_net.py").write_text("class Other: pass")
    sides = Sides(cpu_device(), folders)
    sides.start()
    try:
        with pytest.raises(CaseFailed) as failed:
            visit(sides, job("her_net:Net@32"), (None, None))
        assert sides.is_new
    finally:
        sides.close()
    assert failed.value.side == 1
    assert "Net" in str(failed.value)
