"""Trials of intervals: the product's own loop, rounds and estimate on synthetic machines, noisy in every known way.

Nothing here was measured. Seeds are fixed. A short version of each runs in `make test`, the long one in `make trials`;
`pytest -m trials -rP` on this file prints the shares.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import product

import pytest

from bench import stats
from bench.harness import timing
from bench.machine.state import NoMonitor
from bench.protocols import PROTOCOLS
from bench.stats import Estimate
from tests.support import noise
from tests.support.noise import Machine, Noise
from tests.support.sweeps import sweep, swept

TRUE_S = {"cuda": 0.02, "cpu": 0.1}
OTHERS_S = [0.0, 40.0]  # of a round, besides the case
LONG = pytest.param(1000, marks=pytest.mark.trials)

# Each with the least share of runs that must be given an interval.
THROUGHPUT: dict[str, tuple[Noise, float]] = {
    "independent": (noise.independent, 0.98),
    "skewed": (noise.exponential, 0.95),
    "AR(1) 0.5": (noise.correlated(0.5), 0.9),
    "AR(1) 0.8": (noise.correlated(0.8), 0.6),
    "AR(1) 0.9": (noise.correlated(0.9), 0.4),
    "a level a process": (noise.of_process, 0.95),
    "bursts": (noise.bursts, 0.8),
    "two modes": (noise.sticky(0.5), 0.8),
    "two modes, one rare": (noise.sticky(0.25), 0.8),
    **{
        f"settles {100 * share:.0f} % in {tau} s": (noise.settling(share, tau), 0.0)
        for share in (0.03, 0.1)
        for tau in (2, 10, 30)
    },
}
# The median of all that a machine does, where that is not the time it would take without noise.
MEDIAN = {"two modes": 1.015, "two modes, one rare": 1.0013}
COMPARISON: dict[str, Noise] = {
    "independent": noise.independent,
    "skewed": noise.exponential,
    "AR(1) 0.5": noise.correlated(0.5),
    "AR(1) 0.8": noise.correlated(0.8),
    "AR(1) 0.9": noise.correlated(0.9),
    "a level a process": noise.of_process,
    "bursts": noise.bursts,
    "two modes": noise.sticky(0.5),
    "two modes, one rare": noise.sticky(0.25),
    "the period of a block": noise.periodic,
    **{
        f"settles {100 * share:.0f} % in {tau} s": noise.settling(share, tau)
        for share in (0.03, 0.1)
        for tau in (2, 10, 30)
    },
}


KINDS = swept(
    ["cuda", "cpu"], lambda kind: kind == "cpu"
)  # the simulated runs of a GPU take five times as long


def estimates(
    how: Callable[..., Estimate], kind: str, of: Noise, runs: int, others_s: float = 40.0
) -> list[Estimate]:
    """The estimate of each run."""
    rules = PROTOCOLS["default"][kind]
    machines = (Machine(of, seed, TRUE_S[kind], kind) for seed in range(runs))
    return [how(machine, rules, others_s) for machine in machines]


def holds(runs: list[Estimate], truth: float) -> tuple[float, float]:
    """The share of runs with an interval, and of those the share whose interval holds the truth."""
    given = [run for run in runs if run.low is not None]
    assert all(run.why for run in runs if run.low is None)  # where there is none, it says why
    hits = sum(run.low <= truth <= run.high for run in given if run.low and run.high)
    return len(given) / len(runs), hits / max(len(given), 1)


def least(share: float, runs: int) -> float:
    """The share that must be reached, less three standard deviations of chance where runs are few."""
    return share if runs >= 900 else share - 3 * (share * (1 - share) / max(runs, 1)) ** 0.5


@pytest.mark.parametrize("runs", [40, LONG])
@pytest.mark.parametrize(
    ("kind", "others_s"),
    [
        *product(["cpu"], OTHERS_S),
        pytest.param("cuda", OTHERS_S[1], marks=sweep),
        pytest.param("cuda", OTHERS_S[0], marks=pytest.mark.trials),
    ],
)
@pytest.mark.parametrize("name", THROUGHPUT)
def test_an_interval_of_a_time_holds_the_truth(name, kind, others_s, runs):
    of, least_given = THROUGHPUT[name]
    given, held = holds(
        estimates(noise.throughput, kind, of, runs, others_s), MEDIAN.get(name, 1.0) * TRUE_S[kind]
    )
    print(f"{name}, {kind}, {others_s:.0f} s of others: {given:.1%} of {runs} given, {held:.1%} of them hold")
    assert given >= least(least_given, runs)
    assert held >= least(0.9, round(given * runs)) or given == 0


@pytest.mark.parametrize("runs", [60, LONG])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COMPARISON)
def test_an_interval_of_a_ratio_holds_the_truth(name, kind, runs):
    given, held = holds(estimates(noise.comparison, kind, COMPARISON[name], runs), 0.5)
    print(f"{name}, {kind}: {given:.1%} of {runs} given, {held:.1%} of them hold")
    assert given >= least(0.75, runs)
    assert held >= least(0.9, runs)


@sweep
def test_a_gpu_that_settles_within_its_warm_up_is_given_its_interval_and_a_cpu_that_does_not_is_given_none():
    """A minute is too short for a board that follows its load in 30 s: three are not."""
    slow = noise.settling(0.1, 30)
    given, _ = holds(estimates(noise.throughput, "cuda", slow, 20, 40.0), TRUE_S["cuda"])
    assert given >= 0.9
    none = estimates(noise.throughput, "cpu", slow, 20, 0.0)
    assert all("not steady: times still moved by" in run.why for run in none)


@pytest.mark.parametrize("others_s", OTHERS_S)
@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_is_not_much_wider_than_that_of_as_many_independent_samples(kind, others_s):
    """Beside the order statistics of one visit of the same length, which hold for independent noise alone."""
    rules = PROTOCOLS["default"][kind]
    over_visits = [
        run.half_width
        for run in estimates(noise.throughput, kind, noise.independent, 60, others_s)
        if run.low
    ]
    one_visit = []
    for seed in range(60):
        machine = Machine(noise.independent, seed, TRUE_S[kind])
        long = rules.__class__(**{**rules.as_dict(), "cap_s": rules.visits * rules.cap_s, "min_samples": 6})
        taken = timing.sample(noise.first, machine, NoMonitor(), long)
        one_visit.append(stats.median(taken.samples_s).half_width)
    assert statistics.median(over_visits) <= 1.5 * statistics.median(one_visit)
