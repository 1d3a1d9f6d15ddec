"""The clock of a CPU's turns, on a time that is made up."""

from __future__ import annotations

import pytest

from bench.harness import turns


@pytest.mark.parametrize(
    ("took_s", "iterations", "told_s"),
    [
        ([3.0, 1.0, 2.0], 3, 3 * 1.0),
        ([3.0, 3.0, 3.0, 0.5], 4, 4 * 0.5),
        ([2.0, 5.0, 4.0], 1, 2.0),  # of one alone the fastest would be whatever it is
    ],
)
def test_all_iterations_are_told_as_long_as_the_fastest(took_s, iterations, told_s, monkeypatch):
    now, left = 10.0, list(took_s)

    def run() -> None:
        nonlocal now
        now += left.pop(0)

    monkeypatch.setattr(turns.time, "process_time", lambda: now)
    assert turns.CpuTime()(run, iterations) == pytest.approx(told_s)
    assert not left
