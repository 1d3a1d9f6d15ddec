"""The gate's verdicts on simulated restarts: how often it cries wolf, and what it finds. Nothing here was measured."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import exp, log

import pytest
from scipy.stats import beta

from bench import gate
from bench.gate import Plan, Visit, exit_status, floor, judge_ratios, practical, settle
from bench.stats import PRACTICAL, Verdict
from bench.suite import RULES

Noise = Callable[
    [random.Random, int], list[float]
]  # the log ratios of a restart's blocks; which restart it is
BLOCKS = min(rules.min_samples for rules in RULES.values())


def independent(source: random.Random, number: int) -> list[float]:
    """A level a restart, sd 0.5 %, and blocks around it, sd 1 %."""
    level = source.gauss(0, 0.005)
    return [level + source.gauss(0, 0.01) for _ in range(BLOCKS)]


def heavy_tailed(source: random.Random, number: int) -> list[float]:
    """Every fifth block is off by up to 30 %, to either side; one restart in ten is by 3 %."""
    level = source.gauss(0, 0.005) + (source.choice((-0.03, 0.03)) if source.random() < 0.1 else 0.0)
    return [
        level + (source.uniform(-0.3, 0.3) if source.random() < 0.2 else source.gauss(0, 0.01))
        for _ in range(BLOCKS)
    ]


def drifting(source: random.Random, number: int) -> list[float]:
    """A machine that slows down by 1 % a block: within A B B A it cancels, but for what is not a line."""
    level = source.gauss(0, 0.003)
    return [level + source.gauss(0, 0.008) + 0.002 * source.random() for _ in range(BLOCKS)]


def bimodal(source: random.Random, number: int) -> list[float]:
    """Each of the two processes is in one of two modes, 4 % apart, for as long as it lives."""
    level = 0.04 * (source.randrange(2) - source.randrange(2))
    return [level + source.gauss(0, 0.005) for _ in range(BLOCKS)]


def of_the_blocks_period(source: random.Random, number: int) -> list[float]:
    """A disturbance of 4 % that comes once a block: which side begins turns it to one side or the other."""
    level = source.gauss(0, 0.003)
    turned = [(-0.04, 0.04)[number % 2] for number in range(BLOCKS)]  # as many of either, as in `pair.visit`
    source.shuffle(turned)
    return [level + by + source.gauss(0, 0.005) for by in turned]


def busy(source: random.Random, number: int) -> list[float]:
    """A level a restart, sd 1 %, and blocks of sd 2 %: a host on which others work."""
    level = source.gauss(0, 0.01)
    return [level + source.gauss(0, 0.02) for _ in range(BLOCKS)]


NOISES = (independent, busy, heavy_tailed, drifting, bimodal, of_the_blocks_period)


def machine(noise: Noise, effects: Sequence[float], source: random.Random) -> gate.Restart:
    """Restarts in which case i of the suite takes `effects[i]` more."""
    numbers = {str(place): 0 for place in range(len(effects))}

    def restart(asked: Sequence[str]) -> dict[str, Visit]:
        visits = {}
        for case in asked:
            logs = noise(source, numbers[case])
            numbers[case] += 1
            visits[case] = Visit([(1 + effects[int(case)]) * exp(value) for value in logs])
        return visits

    return restart


def settled(
    cases: Sequence[str], restart: gate.Restart, noise: Mapping[str, float], plan: Plan | None = None
) -> dict[str, gate.Finding]:
    return settle(cases, restart, partial(judge_ratios, noise=noise), plan)


def run(noise: Noise, effects: Sequence[float], source: random.Random) -> dict[str, gate.Finding]:
    """One run of the gate on a machine whose noise was measured by an A/A run of six restarts."""
    cases = [str(place) for place in range(len(effects))]
    of_aa = machine(noise, [0.0] * len(effects), source)
    aa = [of_aa(cases) for _ in range(6)]
    return settled(
        cases,
        machine(noise, effects, source),
        {case: floor([visits[case] for visits in aa]) for case in cases},
    )


def bounds(found: int, runs: int) -> tuple[float, float]:
    """The 95 % upper and lower bounds of a probability, each one-sided (Clopper and Pearson)."""
    upper = beta.ppf(0.95, found + 1, runs - found) if found < runs else 1.0
    lower = beta.ppf(0.05, found, runs - found + 1) if found else 0.0
    return float(lower), float(upper)


@pytest.mark.parametrize("cases", [1, 5])
@pytest.mark.parametrize("noise", NOISES)
def test_equal_revisions_are_called_slower_in_no_run_of_a_hundred(noise, cases):
    source = random.Random(f"{noise.__name__} {cases}")
    runs = 100 // cases
    assert not any(exit_status(run(noise, [0.0] * cases, source)) == 1 for _ in range(runs))


@pytest.mark.trials
@pytest.mark.parametrize("cases", [1, 9])
@pytest.mark.parametrize("noise", NOISES)
def test_equal_revisions_are_called_slower_in_three_runs_of_a_hundred_at_the_most(noise, cases, capsys):
    source, runs = random.Random(f"{noise.__name__} {cases}"), 2000
    alarms = sum(exit_status(run(noise, [0.0] * cases, source)) == 1 for _ in range(runs))
    _, upper = bounds(alarms, runs)
    with capsys.disabled():
        print(
            f"\n{noise.__name__}, {cases} cases: {alarms} alarms in {runs} runs, at most {upper:.2%} (95 %)"
        )
    assert upper <= 0.03


@pytest.mark.parametrize("runs", [40, pytest.param(1000, marks=pytest.mark.trials)])
@pytest.mark.parametrize(
    ("noise", "effect", "power"),
    [
        (independent, 0.03, 0.9),
        (busy, 0.025, 0.8),  # what takes so many restarts to be seen takes as many to be confirmed
        (drifting, 0.03, 0.9),
        (heavy_tailed, 0.08, 0.8),
        (of_the_blocks_period, 0.06, 0.8),
        (bimodal, 0.15, 0.8),
    ],
)
def test_a_slower_revision_is_found(noise, effect, power, runs, capsys):
    source = random.Random(f"{noise.__name__} {effect}")
    found = sum(exit_status(run(noise, [effect], source)) == 1 for _ in range(runs))
    lower, _ = bounds(found, runs)
    with capsys.disabled():
        if runs > 40:
            print(
                f"\n{noise.__name__}: {effect:.0%} is found in {found} of {runs} runs, at least {lower:.1%}"
            )
    assert found / runs >= power


def test_the_slower_case_of_a_suite_is_named_and_the_others_are_not():
    found = run(independent, [0.0, 0.0, 0.06, 0.0, -0.06], random.Random(1))
    verdicts = [finding.verdict for finding in found.values()]
    assert verdicts == [Verdict.SAME, Verdict.SAME, Verdict.SLOWER, Verdict.SAME, Verdict.FASTER]
    assert exit_status(found) == 1


def fixed(*of_restarts: float) -> gate.Restart:
    """Restarts of one case with these ratios, one after the other."""
    left = list(of_restarts)
    return lambda asked: {case: Visit([left.pop(0)] * 6) for case in asked}


TWO = Plan(looks=(4,))
SLOW = (1.10, 1.101, 1.099, 1.1)


def test_slower_counts_only_where_fresh_processes_say_so_too():
    confirmed = settled(["a"], fixed(*SLOW, 1.08, 1.081, 1.079, 1.08), {}, TWO)["a"]
    assert confirmed.verdict is Verdict.SLOWER
    assert confirmed.restarts == 8
    assert confirmed.ratio.value == pytest.approx(1.08)  # of the fresh ones alone
    doubted = settled(["a"], fixed(*SLOW, 1.0, 1.001, 0.999, 1.0), {}, TWO)["a"]
    assert doubted.verdict is Verdict.UNDECIDED
    assert exit_status({"a": doubted}) == 3


def test_an_undecided_case_takes_more_restarts_up_to_its_budget_and_a_decided_one_none():
    asked: list[list[str]] = []
    wide = iter([0.9, 1.1] * 12)

    def restart(cases: Sequence[str]) -> dict[str, Visit]:
        asked.append(list(cases))
        return {case: Visit([next(wide) if case == "wide" else 1.0] * 6) for case in cases}

    found = settled(["wide", "narrow"], restart, {})
    assert found["wide"].verdict is Verdict.UNDECIDED
    assert found["narrow"].verdict is Verdict.SAME
    assert [len(cases) for cases in asked] == [2] * 4 + [1] * 20


def test_slower_is_confirmed_by_as_many_restarts_as_found_it():
    source = random.Random(1)
    asked: list[str] = []

    def restart(cases: Sequence[str]) -> dict[str, Visit]:
        asked.extend(cases)
        return {case: Visit([exp(source.gauss(0.03, 0.03))] * 6) for case in cases}

    finding = settled(["a"], restart, {})["a"]
    assert finding.verdict is Verdict.SLOWER
    assert finding.restarts == len(asked) >= 2 * finding.ratio.n
    assert finding.ratio.n in Plan().looks[1:]


def test_more_restarts_tell_a_smaller_difference_from_noise_and_never_one_below_the_practical_size():
    assert practical(0.04, 4) == practical(0.04, 6) == pytest.approx(0.04)
    assert practical(0.04, 24) == pytest.approx(exp(log(1.04) / 2) - 1)  # half on logarithms
    assert practical(0.04, 10_000) == PRACTICAL


def test_a_change_within_this_machines_noise_is_the_same_only_where_it_is_not_clear():
    visits = {"a": [Visit([ratio] * 6) for ratio in (1.03, 1.031, 1.029, 1.03)]}
    assert judge_ratios(visits, {})["a"].verdict is Verdict.SLOWER
    assert judge_ratios(visits, {"a": 0.05})["a"].verdict is Verdict.UNDECIDED  # clear, and within the noise
    more = {"a": visits["a"] * 6}
    assert judge_ratios(more, {"a": 0.05})["a"].verdict is Verdict.SLOWER  # of which 24 restarts have less
    around = {"a": [Visit([ratio] * 6) for ratio in (1.015, 0.995, 0.99, 1.01)]}
    assert judge_ratios(around, {"a": 0.05})["a"].verdict is Verdict.SAME


def test_what_may_be_three_percent_slower_is_not_the_same_on_a_loud_machine():
    around = {"a": [Visit([ratio] * 6) for ratio in (1.03, 0.99, 0.98, 1.02)]}  # -3.2 to 4.3 %
    assert judge_ratios(around, {"a": 0.05})["a"].verdict is Verdict.UNDECIDED


def test_nothing_is_the_same_on_a_machine_that_is_too_loud():
    visits = {"a": [Visit([ratio] * 6) for ratio in (0.85, 1.15, 0.9, 1.1)]}
    assert judge_ratios(visits, {"a": 0.5})["a"].verdict is Verdict.UNDECIDED
    near = {"a": [Visit([ratio] * 6) for ratio in (0.999, 1.001, 1.0, 1.0)]}
    assert judge_ratios(near, {"a": 0.5})["a"].verdict is Verdict.SAME


def test_a_slower_clock_is_no_slower_code():
    visits = [Visit([ratio] * 6, [ratio / 1.1] * 6) for ratio in SLOW]
    finding = judge_ratios({"a": visits}, {})["a"]
    assert finding.verdict is Verdict.UNDECIDED
    assert "not in cycles" in finding.reason
    slower = [Visit([ratio] * 6, [ratio] * 6) for ratio in SLOW]
    assert judge_ratios({"a": slower}, {})["a"].verdict is Verdict.SLOWER


def test_the_noise_is_as_wide_as_the_interval_of_an_aa_run_and_never_below_the_practical_size():
    assert floor([Visit([1.0] * 6)] * 4) == PRACTICAL
    # log ratios ±0.04: mean 0, sd 0.04·√(4/3), t(0.95, 3) = 3.182446: half an interval of 0.0734976
    wide = [Visit([exp(value)] * 6) for value in (0.04, -0.04, 0.04, -0.04)]
    assert floor(wide) == pytest.approx(exp(0.0734976) - 1, rel=1e-4)


def test_statuses():
    def finding(verdict: Verdict) -> gate.Finding:
        return gate.Finding(verdict, judge_ratios({"a": [Visit([1.0] * 6)] * 4}, {})["a"].ratio, "", 4)

    assert exit_status({"a": finding(Verdict.SAME), "b": finding(Verdict.FASTER)}) == 0
    assert exit_status({"a": finding(Verdict.SAME), "b": finding(Verdict.UNDECIDED)}) == 3
    assert exit_status({"a": finding(Verdict.SLOWER), "b": finding(Verdict.UNDECIDED)}) == 1
