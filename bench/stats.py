"""Medians, ratios, their intervals, and when none can be given. No torch, no clock: numbers in, numbers out.

The interval of the default protocol is over visits: a case is measured some times, each time in a process of its own
and between other cases, and the value of a visit is the median of its samples. What a process, a place in the run or a
neighbour in time does to every sample of a visit is then within the interval, which samples alone know nothing of.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from math import atan, comb, cos, exp, expm1, fsum, hypot, inf, log, pi, sin, sqrt

CONFIDENCE = 0.95

# A smaller change is none in practice: another build of the process, a patch of the driver or the addresses that the
# allocator hands out move the very same code by as much.
PRACTICAL = 0.01

# One case in a hundred of steady, independent noise is called unsteady by each test; most visits must be.
DRIFT_ERRORS = 3
LEAST_FOR_TREND = 6  # samples; fewer show a trend that is none
STRETCHES = 30  # of many samples: a burst then moves no line
SLOWEST_S, MOST_TO_COME = 30.0, 2.5
SMALL_BESIDE = 3  # a drift beside half an interval: what is still to come may be a few times what was seen
GROWS = 1.25  # a later step between visits, beside the first, of a machine that drifts evenly
LEAST_FOR_MODES = 12  # samples of all visits together, to tell two modes from noise
MODES_APART = 6  # standard deviations of the noise around each
TOO_WIDE = (
    0.1  # half-width of an interval, relative to its value, above which nothing is concluded from it alone
)
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

    @property
    def is_wide(self) -> bool:
        """Whether the interval, which is one over visits, is too wide to conclude anything from."""
        return not self.within_run and TOO_WIDE < self.half_width < inf

    @property
    def is_uncertain(self) -> bool:
        """Whether its interval lets nothing be concluded: it has none, one of one visit, or too wide a one."""
        return self.within_run or not self.half_width <= TOO_WIDE

    def map(self, function: Callable[[float], float]) -> Estimate:
        """The estimate of a monotonic `function` of the quantity: images/s from seconds, say."""
        value, low, high = function(self.value), self.low, self.high
        if low is not None and high is not None:
            low, high = sorted((function(low), function(high)))
        # written out, for a report of many rows makes one of each
        return Estimate(value, low, high, self.n, self.why, self.blocks, self.within_run)


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


def over_visits(
    visits: Sequence[Sequence[float]],
    asked: int,
    confidence: float = CONFIDENCE,
    settling: Sequence[Drift | None] = (),
) -> Estimate:
    """The geometric mean of the visits' medians, with the t interval over them on logarithms.

    Where the machine was still settling, the interval is extended, to the side to which it moved, by the drift that was
    still to come less half its error; where that drift is significant and more than a third of half the interval, none
    is given. Where samples lie around two values, it holds both.

    Args:
        visits: the samples of each visit, all of one thing.
        asked: the number of visits that the protocol asks for; with fewer there is no interval.
        confidence: larger than 95 % where the most extreme of several is picked; see `corrected`.
        settling: how far the machine still moved when each visit began, where that is known.

    Raises:
        ValueError: no visit, or one without samples.
    """
    enough = len(visits) >= max(asked, 2)
    logs = [log(statistics.median(samples)) for samples in visits]
    value, n = exp(statistics.fmean(logs)), len(logs)
    if not enough:
        return Estimate(value, None, None, n, why=f"{n} of {max(asked, 2)} visits")
    half = student(confidence, n - 1) * sqrt(_squares(logs) / (n - 1) / n)
    drift = pooled(settling)
    if drift and drift.moves(half / SMALL_BESIDE):
        why = f"not steady: times still moved by {abs(drift.change):.1%} when sampling began"
    else:
        why = unsteady(visits, drift)
    low, high = log(value) - half, log(value) + half
    if drift:
        low, high = (
            low - max(-drift.change - drift.error / 2, 0.0),
            high + max(drift.change - drift.error / 2, 0.0),
        )
    if modes := modes_of(visits):  # how often at each, so few visits do not tell
        low, high = min(low, modes[0]), max(high, modes[1])
    if why:
        return Estimate(value, None, None, n, why=why)
    return Estimate(value, exp(low), exp(high), n)


def _squares(values: Sequence[float]) -> float:
    """The sum of squared distances from the mean. `statistics` has its variances exact in fractions, and is slow."""
    mean = statistics.fmean(values)
    return fsum((value - mean) ** 2 for value in values)


@cache
def student(confidence: float, freedom: int) -> float:
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


def chance(visits: Sequence[Sequence[float]]) -> float:
    """The probability that visits lie this far from 1 where there is no difference: the t test of their log medians.

    Raises:
        ValueError: fewer than two visits.
    """
    logs = [log(statistics.median(samples)) for samples in visits]
    if len(logs) < 2:
        raise ValueError("a test of fewer than two visits")
    mean, error = statistics.fmean(logs), sqrt(_squares(logs) / (len(logs) - 1) / len(logs))
    if not error:
        return 0.0 if mean else 1.0
    return 1 - _within(abs(mean) / error, len(logs) - 1)


def beside(now: Sequence[float], then: Sequence[float]) -> Estimate:
    """The ratio of now to then, from logarithms of visits at two times, with Welch's interval.

    Raises:
        ValueError: fewer than two visits on a side.
    """
    difference, error, freedom = _welch(now, then)
    half = student(CONFIDENCE, freedom) * error
    return Estimate(exp(difference), exp(difference - half), exp(difference + half), len(now))


def chance_beside(now: Sequence[float], then: Sequence[float]) -> float:
    """The probability that visits at two times lie this far apart where there is no difference: Welch's test.

    Raises:
        ValueError: fewer than two visits on a side.
    """
    difference, error, freedom = _welch(now, then)
    if not error:
        return 0.0 if difference else 1.0
    return 1 - _within(abs(difference) / error, freedom)


def _welch(now: Sequence[float], then: Sequence[float]) -> tuple[float, float, int]:
    """The difference of means, its standard error and its degrees of freedom, rounded down (Biometrika 34, 1947)."""
    if min(len(now), len(then)) < 2:
        raise ValueError("a comparison of fewer than two visits")
    shares = [statistics.variance(side) / len(side) for side in (now, then)]
    squares = sum(share**2 / (len(side) - 1) for share, side in zip(shares, (now, then), strict=True))
    freedom = int(sum(shares) ** 2 / squares) if squares else min(len(now), len(then)) - 1
    return statistics.fmean(now) - statistics.fmean(then), sqrt(sum(shares)), max(1, freedom)


def holm(chances: Mapping[str, float], level: float = 1 - CONFIDENCE) -> set[str]:
    """The names that are rejected together, so that one in `1 / level` families has a false one at the most.

    Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979): the k-th smallest of m is held to
    level / (m + 1 - k), and the first that fails ends it.
    """
    rejected = set[str]()
    for place, name in enumerate(sorted(chances, key=lambda name: chances[name])):
        if chances[name] > level / (len(chances) - place):
            break
        rejected.add(name)
    return rejected


def corrected(looked_at: int) -> float:
    """The confidence at which each of so many intervals is taken, for all to hold together at 95 % (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / max(looked_at, 1)


def unsteady(visits: Sequence[Sequence[float]], drift: Drift | None = None) -> str:
    """Why no interval over the visits could be relied on; empty where one can.

    Args:
        drift: how the machine still moved when they began, if known: where it moved the other way, they do not settle.
    """
    trending = sum(trends(samples) for samples in visits)
    if 2 * trending > len(visits):
        return f"not steady: {trending} of {len(visits)} visits have a trend"
    if (way := _settles(visits)) and not (drift and drift.change * way < 0):
        return "not steady: each visit differs from the one before in the same direction, as where a machine settles"
    return ""


@dataclass(frozen=True)
class Drift:
    """The change of samples from the first to the last, of their logarithm, and its standard error."""

    change: float
    error: float

    def times(self, factor: float) -> Drift:
        """The drift, so many times as large."""
        return Drift(factor * self.change, factor * self.error)

    def moves(self, least: float = 0.0, errors: float = DRIFT_ERRORS) -> bool:
        """Whether that is a change, significantly, and by at least so much."""
        return abs(self.change) >= least and abs(self.change) > errors * self.error


def drift(samples: Sequence[float]) -> Drift | None:
    """The change along a line fitted to samples, or, where there are many, to the medians of stretches of them.

    Its error allows for neighbours that are alike, by the correlation of what lies between the line and each with the
    next. Too few samples have no drift that could be told.
    """
    if len(samples) < LEAST_FOR_TREND:
        return None
    if (length := len(samples) // STRETCHES) > 1:
        first = len(samples) % length  # so that all stretches are as long
        places = range(first, len(samples), length)
        samples = [statistics.median(samples[place : place + length]) for place in places]
    logs = [log(sample) for sample in samples]
    n = len(logs)
    middle, mean_log = (n - 1) / 2, statistics.fmean(logs)
    spread = n * (n * n - 1) / 12
    slope = sum((place - middle) * value for place, value in enumerate(logs)) / spread
    rest = [value - mean_log - slope * (place - middle) for place, value in enumerate(logs)]
    square = sum(value * value for value in rest)
    error = sqrt(square / (n - 2) / spread)
    if square > 0:
        alike = sum(one * after for one, after in itertools.pairwise(rest)) / square
        alike += (2 + 4 * alike) / n  # what fitting the line has taken from it
        alike = min(max(alike, 0.0), 0.95)
        error *= sqrt((1 + alike) / (1 - alike))
    return Drift(slope * (n - 1), error * (n - 1))


def to_come(times: Sequence[float]) -> Drift | None:
    """The change that may follow a warm-up, from that over its later half.

    A machine settles exponentially: what is still to come is less than a slow one would have, and less than the two
    halves tell where both are seen.
    """
    half = len(times) // 2
    before, later = drift(times[:half]), drift(times[half:])
    if later is None:
        return None
    left = min(1 / expm1(max(sum(times), 1e-9) / 2 / SLOWEST_S), MOST_TO_COME)
    if before and before.moves() and 0 < (share := later.change / before.change) < 1:
        left = min(left, share / (1 - share))
    return later.times(left)


def pooled(drifts: Sequence[Drift | None]) -> Drift | None:
    """The mean of drifts; one that is not known well is taken for none. None of none."""
    known = [each for each in drifts if each and each.error < PRACTICAL]
    if not known:
        return None
    n = len(drifts)
    return Drift(sum(each.change for each in known) / n, hypot(*(each.error for each in known)) / n)


def trends(samples: Sequence[float], least: float = PRACTICAL / 2) -> bool:
    """Whether samples rise or fall with time, significantly, and by at least a share of their value."""
    found = drift(samples)
    return found is not None and found.moves(least)


def _settles(visits: Sequence[Sequence[float]]) -> int:
    """1 where the visits' medians rise as a machine's do that settles, or drifts; -1 where they fall so.

    They do so by more than the samples' own noise explains, and at no step by more than at the first. Levels that each
    process has by chance are in order once in twelve times, where there are four, and a third as often with such steps.
    """
    if len(visits) < 4:
        return 0
    logs = [log(statistics.median(samples)) for samples in visits]
    steps = [after - before for before, after in itertools.pairwise(logs)]
    if not (all(step > 0 for step in steps) or all(step < 0 for step in steps)):
        return 0
    fewest = min(map(len, visits))
    noise = 1.25 * local_noise(visits) / sqrt(fewest)  # of a median
    if fewest < 2 or abs(logs[-1] - logs[0]) <= 4 * noise:
        return 0
    error = sqrt(6) * noise  # of a difference of steps, which is of three medians, one of them twice
    if max(map(abs, steps[1:])) > GROWS * abs(steps[0]) + 2 * error:
        return 0
    return 1 if steps[0] > 0 else -1


def local_noise(visits: Sequence[Sequence[float]]) -> float:
    """The standard deviation of logarithms from one sample to the next: what changes slowly is not in it."""
    steps = [abs(log(after / before)) for samples in visits for before, after in itertools.pairwise(samples)]
    return statistics.median(steps) / 0.954 if steps else 0.0


def modes_of(visits: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """The logarithms of two values around which samples lie, far apart beside the noise around each.

    Some rare slow samples are no mode, but somebody else's work, unless two come together. Nothing makes a sample fast:
    one is enough where they are few.
    """
    placed = sorted((log(sample), place) for place, samples in enumerate(visits) for sample in samples)
    logs, n = [value for value, _ in placed], len(placed)
    if n < LEAST_FOR_MODES:
        return None
    together = placed[-1][1] == placed[-2][1]
    fast, slow = max(1, n // 10), max(2 if together else 3, n // 10)
    total, below, best, cut = sum(logs), 0.0, -1.0, 0
    for place, value in enumerate(logs[:-1], 1):
        below += value
        between = (below / place - (total - below) / (n - place)) ** 2 * place * (n - place)
        if fast <= place <= n - slow and between > best:
            best, cut = between, place
    low, high = logs[:cut], logs[cut:]
    rest = sqrt((_squares(low) + _squares(high)) / n)
    noise = max(local_noise(visits), 1e-4)
    modes = statistics.fmean(low), statistics.fmean(high)
    apart = modes[1] - modes[0] > max(MODES_APART * noise, PRACTICAL / 2)
    few = 8 / n  # from which the noise is not well known
    return modes if apart and rest < (1.3 + few) * noise else None


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99, as far as enough samples lie beyond each."""
    ordered, n = sorted(samples), len(samples)
    return {
        f"p{per_cent}": ordered[min(n - 1, n * per_cent // 100)]
        for per_cent in (50, 90, 99)
        if n * (100 - per_cent) >= 100 * TAIL_SAMPLES
    }


def ratio(blocks: Sequence[Sequence[float]], batches: tuple[int, int] = (1, 1)) -> Estimate:
    """The time of A for an image as a multiple of B's, from interleaved blocks of seconds (A, B, B, A).

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


def verdict(ratio: Estimate, practical: float = PRACTICAL) -> tuple[Verdict, str]:
    """The verdict on a ratio of two times, and its reason.

    The same: the whole interval is within `practical` of 1. Slower or faster: the interval leaves 1 out, and the value
    is further from 1 than that. All else is undecided.
    """
    if ratio.low is None or ratio.high is None:
        return Verdict.UNDECIDED, f"no interval: {ratio.why or f'{ratio.n} blocks are too few'}"
    interval = f"the interval is {ratio.low:.3f} to {ratio.high:.3f}"
    if ratio.within_run:
        return Verdict.UNDECIDED, f"{interval}, the spread within one run"
    if ratio.low >= 1 / (1 + practical) and ratio.high <= 1 + practical:
        return Verdict.SAME, interval
    if ratio.low > 1 and ratio.value > 1 + practical:
        return Verdict.SLOWER, interval
    if ratio.high < 1 and ratio.value < 1 / (1 + practical):
        return Verdict.FASTER, interval
    return Verdict.UNDECIDED, interval


# Images behind a CKA. Of 8, 16, 64 and 128 images of features that have nothing in common, the unbiased estimate has a
# standard deviation of 0.22, 0.10, 0.045 and 0.03 (simulated, 4 to 64 independent directions): below the first number
# it is noise, below the second blocks that are unlike by 0.1 cannot be told apart.
CKA_SHOWN, CKA_TOLD = 16, 64


def cka_doubt(images: int) -> str | None:
    """A line on how far a CKA of so few images can be relied on; None where there are enough."""
    if images >= CKA_TOLD:
        return None
    if images < CKA_SHOWN:
        return f"CKA of {images} images is noise, and no figure: it takes {CKA_SHOWN}, and {CKA_TOLD} to compare blocks"
    return f"CKA of {images} images is off by 0.1 and more by chance: it takes {CKA_TOLD} to compare blocks"
