"""The gate's verdicts: from the restarts of two revisions to same, faster, slower or undecided. Numbers in, words out.

A restart is a fresh pair of processes, one a revision, which take turns at each case; it gives a case a ratio a block:
how many times as long the new revision takes. What a process does to all of its samples differs from one restart to
the next, so the interval is over restarts. A case is judged after some, and again after more while it is undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import expm1, log, log1p, sqrt
from statistics import median
from typing import TypeVar

from bench import stats
from bench.stats import PRACTICAL, Estimate, Verdict

# A change of this size must be seen, however loud the machine: nothing is the same whose interval reaches further.
LOUD = 0.03
AA_RESTARTS = 6  # of the A/A run by which a machine's noise is known


@dataclass(frozen=True)
class Visit:
    """A restart's visit to a case: for each block the ratio new / old of seconds, and on a GPU that of clock cycles."""

    times: Sequence[float]
    cycles: Sequence[float] | None = None  # seconds × SM clock; None where no clock was read


@dataclass(frozen=True)
class Plan:
    """The numbers of restarts after which a case is judged; the last is the budget.

    A case that is found slower gets as many again.
    """

    looks: tuple[int, ...] = (4, 6, 9, 12, 18, 24)


@dataclass(frozen=True)
class Finding:
    """The verdict on a case, with the ratio new / old that it rests on."""

    verdict: Verdict
    ratio: Estimate
    reason: str
    restarts: int
    practical: float = PRACTICAL  # a smaller change is none

    def doubted(self, reason: str) -> Finding:
        """The same, undecided for a reason."""
        return replace(self, verdict=Verdict.UNDECIDED, reason=reason)


DIFFERENT = (Verdict.SLOWER, Verdict.FASTER)
V = TypeVar("V")  # what is seen in a visit
Judge = Callable[[Mapping[str, Sequence[V]]], dict[str, Finding]]
Restart = Callable[[Sequence[str]], Mapping[str, V]]  # visits these cases in fresh processes


def settle(
    cases: Sequence[str],
    restart: Restart[V],
    judge: Judge[V],
    plan: Plan | None = None,
) -> dict[str, Finding]:
    """The finding of each case, after as many restarts as it takes.

    A case that is slower by its interval, by its size, and beside all others of the suite (Holm, at 5 %) is visited in
    fresh processes, and only what those say by themselves, at 5 % once more, makes it slower: a false alarm has to come
    twice. They are as many as this look at it has: fewer would not confirm what took so many to be seen. The ratio of a
    slower case is that of the fresh visits, which nobody chose for being large.
    """
    plan = plan or Plan()
    visits: dict[str, list[V]] = {case: [] for case in cases}
    settled: dict[str, Finding] = {}

    def take(asked: Sequence[str], wanted: int) -> dict[str, list[V]]:
        """Take so many more visits to each."""
        taken: dict[str, list[V]] = {case: [] for case in asked}
        for _ in range(wanted):
            for case, visit in restart(asked).items():
                taken[case].append(visit)
        return taken

    judged: dict[str, Finding] = {}
    for look in plan.looks:
        open_ = [case for case in cases if case not in settled]
        while lacking := [case for case in open_ if len(visits[case]) < look]:
            for case, taken in take(lacking, 1).items():
                visits[case] += taken
        judged = judge(visits)
        suspects = [case for case in open_ if judged[case].verdict is Verdict.SLOWER]
        if suspects:
            fresh = take(suspects, look)
            again = judge(fresh)
            for case in suspects:
                visits[case] += fresh[case]
                if again[case].verdict is Verdict.SLOWER:
                    settled[case] = replace(again[case], restarts=len(visits[case]))
            judged = judge(visits)
            for case in suspects:
                if judged[case].verdict is Verdict.SLOWER:  # by all, but not by the fresh ones alone
                    why = f"slower at first, which fresh processes did not confirm; {judged[case].reason}"
                    judged[case] = judged[case].doubted(why)
        for case in open_:
            if judged[case].verdict in (Verdict.SAME, Verdict.FASTER):
                settled.setdefault(case, judged[case])
        if len(settled) == len(cases):
            break
    return {case: settled.get(case) or judged[case] for case in cases}


def judge_ratios(visits: Mapping[str, Sequence[Visit]], noise: Mapping[str, float]) -> dict[str, Finding]:
    """The finding of each case by the visits that there are; a difference has to stand beside all others (Holm).

    Args:
        noise: of each case, as `floor` tells it.
    """
    ratios = {
        case: stats.over_visits([visit.times for visit in of_case], 2) for case, of_case in visits.items()
    }
    stand = stats.holm(
        {case: stats.chance([visit.times for visit in of_case]) for case, of_case in visits.items()}
    )
    found = {}
    for case, of_case in visits.items():
        finding = found_of(ratios[case], noise.get(case, PRACTICAL), len(of_case))
        if finding.verdict in DIFFERENT and case not in stand:
            finding = finding.doubted(
                f"{finding.reason}, and by chance one of {len(visits)} cases may look so"
            )
        if finding.verdict is Verdict.SLOWER and (why := _only_by_the_clock(of_case, finding.practical)):
            finding = finding.doubted(why)
        found[case] = finding
    return found


def found_of(ratio: Estimate, noise: float, restarts: int, alike: float | None = None) -> Finding:
    """The finding by a ratio alone.

    A difference has to be larger than what so many restarts of an A/A run would show. The same is what lies within the
    noise of one as it was run, and within LOUD; a difference that is clear and only smaller than that noise is
    undecided: with more restarts it may be larger.

    Args:
        alike: restarts of an A/A run that tell as much; default: as many.
    """
    size = practical(noise, alike or restarts)
    verdict, reason = stats.verdict(ratio, size)
    if verdict is Verdict.SAME or verdict is Verdict.UNDECIDED:
        is_same = stats.verdict(ratio, PRACTICAL)[0] is Verdict.SAME or (
            stats.verdict(ratio, min(noise, LOUD))[0] is Verdict.SAME and not is_clear(ratio)
        )
        verdict = Verdict.SAME if is_same else Verdict.UNDECIDED
    if verdict is Verdict.UNDECIDED and ratio.low is not None and size > PRACTICAL:
        reason += f"; the noise here is {size:.1%}"
    return Finding(verdict, ratio, reason, restarts, size)


def is_clear(ratio: Estimate) -> bool:
    """Whether an interval leaves 1 out."""
    return ratio.low is not None and ratio.high is not None and not ratio.low <= 1 <= ratio.high


def practical(noise: float, restarts: float) -> float:
    """The size below which a difference is none, by so many restarts: that of an A/A run with as many.

    The noise of a mean falls with the square root of its number; what an A/A run of AA_RESTARTS found is not taken for
    larger where there are fewer, and no size is below PRACTICAL.
    """
    return max(PRACTICAL, expm1(log1p(noise) * min(1.0, sqrt(AA_RESTARTS / restarts))))


def _only_by_the_clock(visits: Sequence[Visit], size: float) -> str:
    """Why a slower time is none of the code's: in cycles it is not. Empty where it is, or nobody knows the clock."""
    cycles = [visit.cycles for visit in visits if visit.cycles]
    if len(cycles) < len(visits):
        return ""
    verdict, reason = stats.verdict(stats.over_visits(cycles, 2), size)
    return (
        "" if verdict is Verdict.SLOWER else f"slower in time and not in cycles of the clock, where {reason}"
    )


def floor(visits: Sequence[Visit]) -> float:
    """The noise of a case by visits in which both revisions are one: the least at which they are the same.

    Never less than PRACTICAL. It is as wide as their interval, or, where there is none, as the visit furthest from 1.
    """
    ratio = stats.over_visits([visit.times for visit in visits], 2)
    if ratio.low is None or ratio.high is None:
        return max(PRACTICAL, expm1(max(abs(log(median(visit.times))) for visit in visits)))
    return width(ratio)


def width(ratio: Estimate) -> float:
    """The distance from 1 that an interval reaches, relative, and PRACTICAL at least."""
    ends = [end for end in (ratio.low, ratio.high) if end is not None]
    return max(PRACTICAL, expm1(max(abs(log(end)) for end in ends)))


def exit_status(findings: Mapping[str, Finding]) -> int:
    """1 where a case is slower, else 3 where one is undecided, else 0."""
    verdicts = [finding.verdict for finding in findings.values()]
    return 1 if Verdict.SLOWER in verdicts else 3 if Verdict.UNDECIDED in verdicts else 0
