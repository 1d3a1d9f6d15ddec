"""Claims: what a sentence of the paper asks, and whether print, counts, or pairs measured in turns bear it out.

Printed numbers and counts are exact. A ratio of times is decided only by a pair that was taken in turns, on the machine
that the rows are of, and by its whole interval. The more sentences are decided so, the wider the intervals: that any of
them is decided wrongly has a chance of 5 % at most (Holm, Scandinavian Journal of Statistics 6, 1979).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import inf, nextafter

from bench.cases import parsed
from bench.stats import PRACTICAL, Estimate
from reports.arithmetic import COUNTED, Term
from reports.measurements import Comparison
from reports.results import Results
from reports.text import interval
from reports.verdicts import Status, Verdict

Interval = Callable[[int], Estimate]  # of a value, that holds for the most extreme of so many


# ---- what a claim asks


@dataclass(frozen=True)
class Range:
    """The values for which a claim is true, its ends among them."""

    low: float = -inf
    high: float = inf
    words: str = ""

    def judged(self, low: float, high: float) -> Status:
        """Confirmed where all that a value may be lies inside, refuted where all of it lies outside."""
        if self.low <= low and high <= self.high:
            return Status.CONFIRMED
        if high < self.low or low > self.high:
            return Status.REFUTED
        return Status.UNDECIDED


def as_printed(text: str) -> Range:
    """Everything that rounds to a printed number."""
    half = Decimal(5).scaleb(int(Decimal(text).as_tuple().exponent) - 1)
    slack = Decimal(1).scaleb(-9)  # 82.3 − 81.3 of binary fractions is not quite 1
    return Range(float(Decimal(text) - half - slack), float(Decimal(text) + half - slack), f"{text}, rounded")


def at_least(value: float) -> Range:
    """The value, or more."""
    return Range(low=value, words=f"{value:.3g} or more")


def at_most(value: float) -> Range:
    """The value, or less."""
    return Range(high=value, words=f"{value:.3g} or less")


def above(value: float) -> Range:
    """More than the value, by however little: of numbers that are exact."""
    return Range(low=nextafter(value, inf), words=f"above {value:g}")


def below(value: float) -> Range:
    """Less than the value, by however little: of numbers that are exact."""
    return Range(high=nextafter(value, -inf), words=f"below {value:g}")


def near(value: float, factor: float) -> Range:
    """Within a factor of the value, up or down."""
    low, high = value / factor, value * factor
    return Range(low, high, f"{low:.3g} to {high:.3g}")


FASTER = at_least(1 + PRACTICAL)  # a smaller difference is none in practice
SLOWER = at_most(1 / (1 + PRACTICAL))


# ---- claims


@dataclass(frozen=True)
class InTurns:
    """Two cases measured in turns: the speed of the first as a multiple of the second's."""

    first: str
    second: str


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper, with one value that it says something of.

    `quote` is the paper's own text, `place` its section or table. `says` is what is checked, where the quote leaves
    that open.
    """

    name: str
    place: str
    quote: str
    evidence: Term | InTurns
    asks: Range
    says: str = ""

    @property
    def by(self) -> str:
        """The kind of evidence that decides it: printed, counted or measured."""
        if isinstance(self.evidence, InTurns):
            return "measured"
        return "counted" if COUNTED in self.evidence.sources else "printed"


@dataclass(frozen=True)
class Finding:
    """A claim with what was found: its verdict, the value, and the arithmetic or the pair that it comes from.

    An exact value is an estimate whose interval has no width.
    """

    claim: Claim
    verdict: Verdict
    effect: Estimate | None = None
    working: str = ""


def find(results: Results | None, claims: Sequence[Claim]) -> list[Finding]:
    """The claims in their order, each with its verdict.

    Args:
        results: the rows of one machine; without them only what is printed is decided.
    """
    measured = _measured(results, [claim for claim in claims if isinstance(claim.evidence, InTurns)])
    return [measured.get(claim.name) or _computed(results, claim) for claim in claims]


def _computed(results: Results | None, claim: Claim) -> Finding:
    assert not isinstance(claim.evidence, InTurns)
    try:
        value, working = claim.evidence.known(results)
    except LookupError as missing:
        return Finding(claim, Verdict(Status.NOT_MEASURED, str(missing.args[0])))
    return Finding(claim, Verdict(claim.asks.judged(value, value)), Estimate(value, value, value, 1), working)


# ---- pairs in turns, and the error of all of them together


def _measured(results: Results | None, claims: Sequence[Claim]) -> dict[str, Finding]:
    """The findings of claims about time, by name."""
    findings: dict[str, Finding] = {}
    told: list[tuple[Claim, str, Interval]] = []
    for claim in claims:
        assert isinstance(claim.evidence, InTurns)
        pair = claim.evidence
        working = f"{pair.first} beside {pair.second}"
        comparison, is_inverse = _comparison(results, pair)
        if comparison is None:
            how = f"not measured in turns here: `python -m bench compare '{pair.first}' '{pair.second}'` does it"
            useless: Verdict | None = Verdict(Status.NOT_MEASURED, how)
        else:
            useless = _useless(comparison)
        if useless:
            findings[claim.name] = Finding(claim, useless, None, working)
        elif comparison:
            told.append((claim, working, _speed(comparison, is_inverse)))
    decisions = decide([(speed, claim.asks) for claim, _, speed in told])
    for (claim, working, _), (status, estimate) in zip(told, decisions, strict=True):
        reason = estimate.why or f"The interval is {interval(estimate)}, as one of {len(told)}."
        findings[claim.name] = Finding(claim, Verdict(status, reason), estimate, working)
    return findings


def _comparison(results: Results | None, pair: InTurns) -> tuple[Comparison | None, bool]:
    """The comparison of a pair, and whether it was measured the other way round."""
    if results is None:
        return None, False
    first, second = parsed(pair.first), parsed(pair.second)
    straight = results.in_turns(first, second)
    return (straight, False) if straight else (results.in_turns(second, first), True)


def _speed(comparison: Comparison, is_inverse: bool) -> Interval:
    """The speed of a pair's first beside its second's, from how many times as long one takes as the other."""
    if is_inverse:
        return comparison.among
    return lambda looked_at: comparison.among(looked_at).map(lambda times: 1 / times)


def _useless(comparison: Comparison) -> Verdict | None:
    """The verdict where no interval can decide; None where one may."""
    if not comparison.ok:
        return Verdict(Status.NOT_MEASURED, str(comparison.row.get("reason") or comparison.row["outcome"]))
    if comparison.is_launch_bound:
        return Verdict(Status.UNDECIDED, "the CPU's launches were timed, not the computing")
    if comparison.estimate.within_run:
        return Verdict(Status.UNDECIDED, "one visit: its interval is the spread within one run")
    return None


def decide(asked: Sequence[tuple[Interval, Range]]) -> list[tuple[Status, Estimate]]:
    """Verdicts on several values together, by Holm's steps: each with the last interval that was looked at.

    All that are left are held against intervals that hold for as many; what these decide is out, and the rest is held
    against narrower ones. A verdict is false only where its interval misses the value.
    """
    decided: dict[int, tuple[Status, Estimate]] = {}
    while left := [place for place in range(len(asked)) if place not in decided]:
        looked_at = {place: _judged(*asked[place], len(left)) for place in left}
        new = {place: found for place, found in looked_at.items() if found[0] is not Status.UNDECIDED}
        decided |= new or looked_at
    return [decided[place] for place in range(len(asked))]


def _judged(value: Interval, asks: Range, looked_at: int) -> tuple[Status, Estimate]:
    estimate = value(looked_at)
    if estimate.low is None or estimate.high is None:
        return Status.UNDECIDED, estimate
    return asks.judged(estimate.low, estimate.high), estimate
