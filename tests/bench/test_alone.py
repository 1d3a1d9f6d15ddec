"""A real process that measures a user's tiny network between a product and a copy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.alone import UNITS, visit
from bench.cases import parse
from bench.jobs import job_of
from bench.machine.devices import cpu_device
from bench.protocols import Rules
from bench.sides import CaseFailed, Sides

RULES = Rules("turns", 2, 0.0, 0.002, 4, 4, 0.0, limit_s=100)
NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 3, 3, padding=1), nn.Flatten(), nn.Linear(3072, 5))


class Broken(Net):
    def forward(self, image):
        raise ZeroDivisionError("hers")
"""


@pytest.fixture
def alone(tmp_path, monkeypatch) -> Iterator[Sides]:
    """A process in her folder."""
    (tmp_path / "her_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    process = Sides(cpu_device(), [None])
    process.start()
    yield process
    process.close()


def test_a_case_is_measured_in_rounds_with_a_product_and_a_copy(alone):
    job = job_of("turns", cpu_device(), RULES, parse("her_net:Net@32"))
    found = visit(alone, job, (None,))
    (counts,) = alone.count(job) or [{}]
    again = visit(alone, job, found["digests"])
    assert len(found["rounds"]) == RULES.min_samples
    assert all(len(in_round) == len(UNITS) and min(in_round) > 0 for in_round in found["rounds"])
    assert found["calls"].keys() == set(UNITS)
    assert [state["threads"] for state in found["during"]] == [1]
    assert again["digests"] == found["digests"]
    assert counts["MACs"] == 3 * 3 * 9 * 32 * 32 + 3072 * 5
    broken = job_of("turns", cpu_device(), RULES, parse("her_net:Broken@32"))
    with pytest.raises(CaseFailed, match="hers"):
        visit(alone, broken, (None,))
