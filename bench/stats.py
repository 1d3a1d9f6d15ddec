"""Medians, ratios and their intervals. No torch, no clock: numbers in, numbers out."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb, exp, inf, log

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % confidence interval, whose ends are None where there are too few samples."""

    value: float
    low: float | None
    high: float | None
    n: int

    @property
    def half_width(self) -> float:
        """Half of the interval, relative to the value; infinite while there is no interval."""
        if self.low is None or self.high is None:
            return inf
        return (self.high - self.low) / 2 / abs(self.value)

    def map(self, function: Callable[[float], float]) -> Estimate:
        """The estimate of a monotonic `function` of the quantity: images/s from seconds, say."""
        if self.low is None or self.high is None:
            return Estimate(function(self.value), None, None, self.n)
        low, high = sorted((function(self.low), function(self.high)))
        return Estimate(function(self.value), low, high, self.n)


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


def ratio(blocks: Sequence[Sequence[float]], batches: tuple[int, int] = (1, 1)) -> Estimate:
    """How many times as long A takes as B for an image, from interleaved blocks of seconds (A, B, B, A).

    Each block gives one ratio in which a steady drift cancels; the estimate is the median of those, taken on
    logarithms so that A/B and B/A are each other's inverse.

    Args:
        batches: images in one iteration of A, and of B.
    """
    of_a, of_b = batches
    logs = [log((a1 + a2) / of_a) - log((b1 + b2) / of_b) for a1, b1, b2, a2 in blocks]
    return median(logs).map(exp)
