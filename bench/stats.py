"""Medians, ratios, their intervals, and when none can be given. No torch, no clock: numbers in, numbers out.

The interval of the default protocol is over visits: a case is measured some times, each time in a process of its own
and between other cases, and the value of a visit is the median of its samples. What a process, a place in the run or a
neighbour in time does to every sample of a visit is then within the interval, which samples alone know nothing of.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from math import atan, comb, cos, exp, inf, log, pi, sin, sqrt

CONFIDENCE = 0.95

# A smaller change is none in practice: another build of the process, a patch of the driver or the addresses that the
# allocator hands out move the very same code by as much.
PRACTICAL = 0.01

# One case in a hundred of steady, independent noise is called unsteady by each test; most visits must be.
TREND_LEVEL = 0.01
LEAST_FOR_TREND = 6  # samples; fewer show a trend that is none
LEAST_FOR_MODES = 12  # samples of all visits together, to tell two modes from noise
MODES_APART = 6  # standard deviations of the noise around each
TAIL_SAMPLES = 5  # samples that must lie beyond a percentile for it to be more than the largest few


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % confidence interval, whose ends are None where none can be given."""

    value: float
    low: float | None
    high: float | None
    n: int  # samples, or visits where the interval is over those
    why: str = ""  # there is no interval
    blocks: int = 0  # of an interleaved comparison, all visits together
    within_run: bool = False  # the interval is the spread within one run: nothing can be concluded from it

    @property
    def half_width(self) -> float:
        """Half of the interval, relative to the value; infinite while there is no interval."""
        if self.low is None or self.high is None:
            return inf
        return (self.high - self.low) / 2 / abs(self.value)

    def map(self, function: Callable[[float], float]) -> Estimate:
        """The estimate of a monotonic `function` of the quantity: images/s from seconds, say."""
        if self.low is None or self.high is None:
            return replace(self, value=function(self.value))
        low, high = sorted((function(self.low), function(self.high)))
        return replace(self, value=function(self.value), low=low, high=high)


def median(samples: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The median, with the interval between two order statistics.

    Nothing is assumed of the distribution's shape, only that samples are independent: the number of samples below the
    true median is binomial(n, 1/2). Under 6 samples no such interval reaches 95 %.

    Raises:
        ValueError: no samples.
    """
    ordered, n = sorted(samples), len(samples)
    if not n:
        raise ValueError("the median of no samples")
    k = _rank(n, confidence)
    low, high = (ordered[k - 1], ordered[n - k]) if k else (None, None)
    return Estimate(statistics.median(ordered), low, high, n)


@cache
def _rank(n: int, confidence: float) -> int:
    """The largest k with P(fewer than k of n samples lie below the median) <= (1 - confidence) / 2.

    Counted in whole numbers: importing a library of distributions would take longer than most reports.
    """
    numerator, denominator = ((1 - confidence) / 2).as_integer_ratio()
    k, outcomes = 0, 1  # of 2**n, those with at most k samples below
    while outcomes * denominator < numerator << n:
        k += 1
        outcomes += comb(n, k)
    return k


def mean(samples: Sequence[float]) -> Estimate:
    """The plain mean, without an interval: the paper's protocol."""
    return Estimate(statistics.fmean(samples), None, None, len(samples))


def estimate(samples: Sequence[float], statistic: str) -> Estimate:
    """The mean or the median of samples, as the protocol's `statistic` says."""
    return {"mean": mean, "median": median}[statistic](samples)


def over_visits(visits: Sequence[Sequence[float]], asked: int, confidence: float = CONFIDENCE) -> Estimate:
    """The geometric mean of the visits' medians, with the t interval over them on logarithms.

    Args:
        visits: the samples of each visit, all of one thing.
        asked: the number of visits that the protocol asks for; with fewer there is no interval.
        confidence: larger than 95 % where the most extreme of several is picked; see `corrected`.

    Raises:
        ValueError: no visit, or one without samples.
    """
    logs = [log(statistics.median(samples)) for samples in visits]
    value, n = exp(statistics.fmean(logs)), len(logs)
    if n < max(asked, 2):
        return Estimate(value, None, None, n, why=f"{n} of {max(asked, 2)} visits")
    if why := unsteady(visits):
        return Estimate(value, None, None, n, why=why)
    half = _t(confidence, n - 1) * statistics.stdev(logs) / sqrt(n)
    return Estimate(value, value * exp(-half), value * exp(half), n)


@cache
def _t(confidence: float, freedom: int) -> float:
    """The quantile of Student's t for a two-sided interval, to 12 digits.

    By bisection of the distribution's closed form for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and
    26.7.4): importing a library of distributions would take longer than most reports.
    """
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return high


def _within(quantile: float, freedom: int) -> float:
    """The probability that Student's t is no further from 0 than a quantile."""
    angle = atan(quantile / sqrt(freedom))
    odd = freedom % 2
    term, total = (cos(angle), 0.0) if odd else (1.0, 0.0)
    for power in range(1 + odd, freedom, 2):
        total += term
        term *= cos(angle) ** 2 * power / (power + 1)
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total


def corrected(looked_at: int) -> float:
    """The confidence at which each of so many intervals is taken, for all to hold together at 95 % (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / max(looked_at, 1)


def unsteady(visits: Sequence[Sequence[float]]) -> str:
    """Why no interval over the visits could be relied on; empty where one can."""
    trending = sum(trends(samples) for samples in visits)
    if 2 * trending > len(visits):
        return f"not steady: {trending} of {len(visits)} visits have a trend"
    if _settles(visits):
        return "not steady: each visit differs from the one before in the same direction"
    return "two modes: the samples lie around two values" if bimodal(visits) else ""


def trends(samples: Sequence[float], least: float = PRACTICAL / 2) -> bool:
    """Whether samples rise or fall with time, significantly, and by at least a share of their value."""
    n = len(samples)
    if n < LEAST_FOR_TREND:
        return False
    logs = [log(sample) for sample in samples]
    middle, mean_log = (n - 1) / 2, statistics.fmean(logs)
    spread = n * (n * n - 1) / 12
    slope = sum((place - middle) * value for place, value in enumerate(logs)) / spread
    if abs(slope) * (n - 1) < least:
        return False
    rest = sum((value - mean_log - slope * (place - middle)) ** 2 for place, value in enumerate(logs))
    if rest == 0:
        return True
    return abs(slope) / sqrt(rest / (n - 2) / spread) > _t(1 - TREND_LEVEL, n - 2)


def _settles(visits: Sequence[Sequence[float]]) -> bool:
    """Whether the visits' medians only rise or only fall, and by more than the samples' own noise explains."""
    if len(visits) < 4:
        return False
    logs = [log(statistics.median(samples)) for samples in visits]
    steps = [after - before for before, after in itertools.pairwise(logs)]
    if not (all(step > 0 for step in steps) or all(step < 0 for step in steps)):
        return False
    fewest = min(map(len, visits))
    noise = 1.25 * local_noise(visits) / sqrt(fewest)  # of a median
    return fewest > 1 and abs(logs[-1] - logs[0]) > 4 * noise


def local_noise(visits: Sequence[Sequence[float]]) -> float:
    """The standard deviation of logarithms from one sample to the next: what changes slowly is not in it."""
    steps = [abs(log(after / before)) for samples in visits for before, after in itertools.pairwise(samples)]
    return statistics.median(steps) / 0.954 if steps else 0.0


def bimodal(visits: Sequence[Sequence[float]]) -> bool:
    """Whether samples lie around two values, far apart beside the noise around each.

    A rare slow sample is no mode: each has a tenth of the samples, and three.
    """
    logs = sorted(log(sample) for samples in visits for sample in samples)
    n = len(logs)
    if n < LEAST_FOR_MODES:
        return False
    least, noise = max(3, n // 10), max(local_noise(visits), 1e-4)
    total, below, best, cut = sum(logs), 0.0, -1.0, 0
    for place, value in enumerate(logs[:-1], 1):
        below += value
        between = (below / place - (total - below) / (n - place)) ** 2 * place * (n - place)
        if least <= place <= n - least and between > best:
            best, cut = between, place
    if not cut:
        return False
    low, high = logs[:cut], logs[cut:]
    rest = sqrt((cut * statistics.pvariance(low) + (n - cut) * statistics.pvariance(high)) / n)
    apart = statistics.fmean(high) - statistics.fmean(low)
    return apart > max(MODES_APART * noise, PRACTICAL / 2) and rest < 1.3 * noise


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99, as far as enough samples lie beyond each."""
    ordered, n = sorted(samples), len(samples)
    return {
        f"p{per_cent}": ordered[min(n - 1, n * per_cent // 100)]
        for per_cent in (50, 90, 99)
        if n * (100 - per_cent) >= 100 * TAIL_SAMPLES
    }


def ratio(blocks: Sequence[Sequence[float]], batches: tuple[int, int] = (1, 1)) -> Estimate:
    """How many times as long A takes as B for an image, from interleaved blocks of seconds (A, B, B, A).

    Each block gives one ratio in which a steady drift cancels; the estimate is the median of those, taken on
    logarithms so that A/B and B/A are each other's inverse.

    Args:
        batches: images in one iteration of A, and of B.
    """
    return median([log(each) for each in ratios(blocks, batches)]).map(exp)


def ratios(blocks: Sequence[Sequence[float]], batches: tuple[int, int] = (1, 1)) -> list[float]:
    """The ratio of each block, as `ratio` has it."""
    of_a, of_b = batches
    return [(a1 + a2) / of_a / ((b1 + b2) / of_b) for a1, b1, b2, a2 in blocks]


class Verdict(Enum):
    """The first of a pair beside the second, in a word: significance and practical size together."""

    FASTER = "faster"
    SAME = "same"
    SLOWER = "slower"
    UNDECIDED = "undecided"


def verdict(ratio: Estimate) -> tuple[Verdict, str]:
    """The verdict on a ratio of two times, and its reason.

    The same: the whole interval is within PRACTICAL of 1. Slower or faster: the interval leaves 1 out, and the value is
    further from 1 than PRACTICAL. All else is undecided.
    """
    if ratio.low is None or ratio.high is None:
        return Verdict.UNDECIDED, f"no interval: {ratio.why or f'{ratio.n} blocks are too few'}"
    interval = f"the interval is {ratio.low:.3f} to {ratio.high:.3f}"
    if ratio.within_run:
        return Verdict.UNDECIDED, f"{interval}, the spread within one run"
    if ratio.low >= 1 / (1 + PRACTICAL) and ratio.high <= 1 + PRACTICAL:
        return Verdict.SAME, interval
    if ratio.low > 1 and ratio.value > 1 + PRACTICAL:
        return Verdict.SLOWER, interval
    if ratio.high < 1 and ratio.value < 1 / (1 + PRACTICAL):
        return Verdict.FASTER, interval
    return Verdict.UNDECIDED, interval
