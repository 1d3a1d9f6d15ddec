"""The gate's verdicts: from the restarts of two revisions to same, faster, slower or undecided. Numbers in, words out.

A restart is a fresh pair of processes, one a revision, which take turns at each case; it gives a case a ratio a block:
how many times as long the new revision takes. What a process does to all of its samples differs from one restart to
the next, so the interval is over restarts. A case is judged after some, and again after more while it is undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import expm1, log
from statistics import median

from bench import stats
from bench.stats import PRACTICAL, Estimate, Verdict

# A machine whose noise is larger tells nothing the same: a change of this size must be seen.
LOUD = 0.05


@dataclass(frozen=True)
class Visit:
    """A restart's visit to a case: for each block the ratio new / old of seconds, and on a GPU that of clock cycles."""

    times: Sequence[float]
    cycles: Sequence[float] | None = None  # seconds × SM clock; None where no clock was read


@dataclass(frozen=True)
class Plan:
    """How many restarts a case gets."""

    looks: tuple[int, ...] = (4, 6, 9, 12)  # after so many it is judged; the last is the budget
    fresh: int = 4  # more, which by themselves must say slower too


@dataclass(frozen=True)
class Finding:
    """The verdict on a case, with the ratio new / old that it rests on."""

    verdict: Verdict
    ratio: Estimate
    reason: str
    restarts: int
    practical: float = PRACTICAL  # a smaller change is none
    notes: list[str] = field(default_factory=list)


Restart = Callable[[Sequence[str]], Mapping[str, Visit]]  # visits these cases in one fresh pair of processes


def settle(
    cases: Sequence[str], restart: Restart, practical: Mapping[str, float], plan: Plan | None = None
) -> dict[str, Finding]:
    """The finding of each case, after as many restarts as it takes.

    A case that is slower by its interval, by its size, and beside all others of the suite (Holm, at 5 %) is visited in
    fresh processes, and only what those say by themselves, at 5 % once more, makes it slower: a false alarm has to come
    twice. The ratio of a slower case is that of the fresh visits, which nobody chose for being large.

    Args:
        practical: the size of each case below which a change is none.
    """
    plan = plan or Plan()
    visits: dict[str, list[Visit]] = {case: [] for case in cases}
    settled: dict[str, Finding] = {}

    def take(asked: Sequence[str], wanted: int) -> dict[str, list[Visit]]:
        """Take so many more visits to each."""
        taken: dict[str, list[Visit]] = {case: [] for case in asked}
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
        judged = judge(visits, practical)
        suspects = [case for case in open_ if judged[case].verdict is Verdict.SLOWER]
        if suspects:
            fresh = take(suspects, plan.fresh)
            again = judge(fresh, practical)
            for case in suspects:
                visits[case] += fresh[case]
                if again[case].verdict is Verdict.SLOWER:
                    settled[case] = replace(again[case], restarts=len(visits[case]))
            judged = judge(visits, practical)
            for case in suspects:
                judged[case] = _doubted(judged[case])
        for case in open_:
            if judged[case].verdict in (Verdict.SAME, Verdict.FASTER):
                settled.setdefault(case, judged[case])
        if len(settled) == len(cases):
            break
    return {case: settled.get(case) or judged[case] for case in cases}


def _doubted(finding: Finding) -> Finding:
    """The finding of all visits to a case that the fresh ones did not call slower: not slower, whatever the rest."""
    if finding.verdict is not Verdict.SLOWER:
        return finding
    reason = f"slower at first, which fresh processes did not confirm; {finding.reason}"
    return replace(finding, verdict=Verdict.UNDECIDED, reason=reason)


def judge(visits: Mapping[str, Sequence[Visit]], practical: Mapping[str, float]) -> dict[str, Finding]:
    """The finding of each case by the visits that there are; a difference has to stand beside all others (Holm)."""
    stand = stats.holm(
        {case: stats.chance([visit.times for visit in of_case]) for case, of_case in visits.items()}
    )
    found = {}
    for case, of_case in visits.items():
        size = practical.get(case, PRACTICAL)
        ratio = stats.over_visits([visit.times for visit in of_case], 2)
        verdict, reason = stats.verdict(ratio, size)
        if verdict in (Verdict.SLOWER, Verdict.FASTER) and case not in stand:
            verdict, reason = (
                Verdict.UNDECIDED,
                f"{reason}, and by chance one of {len(visits)} cases may look so",
            )
        if verdict is Verdict.SAME and stats.verdict(ratio, min(size, LOUD))[0] is not Verdict.SAME:
            verdict = Verdict.UNDECIDED
        if verdict is Verdict.SLOWER and (why := _only_by_the_clock(of_case, size)):
            verdict, reason = Verdict.UNDECIDED, why
        if verdict is Verdict.UNDECIDED and ratio.low is not None and size > PRACTICAL:
            reason += f"; the noise here is {size:.1%}"
        found[case] = Finding(verdict, ratio, reason, len(of_case), size)
    return found


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
    """The practical size of a case by visits in which both revisions are one: the least at which they are the same.

    Never less than PRACTICAL. It is as wide as their interval, or, where there is none, as the visit furthest from 1.
    """
    ratio = stats.over_visits([visit.times for visit in visits], 2)
    if ratio.low is None or ratio.high is None:
        far = max(abs(log(median(visit.times))) for visit in visits)
    else:
        far = max(abs(log(ratio.low)), abs(log(ratio.high)))
    return max(PRACTICAL, expm1(far))


def exit_status(findings: Mapping[str, Finding]) -> int:
    """1 where a case is slower, else 3 where one is undecided, else 0."""
    verdicts = [finding.verdict for finding in findings.values()]
    return 1 if Verdict.SLOWER in verdicts else 3 if Verdict.UNDECIDED in verdicts else 0
