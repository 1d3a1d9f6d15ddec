"""Time from what can be counted, t = MACs / R + bytes / B: fitted, and judged on families it has not seen. No torch.

MACs alone stand beside it on the same split. Rates have the units of a datasheet: TFLOP/s (1 MAC = 2 FLOP), GB/s, and
µs a launch. A rate is a device's over whole models, with all that it loses on the way, and no peak.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, exp, inf, log, sqrt
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from bench.conventions import FLOPS_PER_MAC
from bench.stats import student

COVERED = 0.9  # of held-out rows, by the interval of a prediction
LEAST_FAMILIES = 3  # below which no family can be left out for another to be told of it
NEGLIGIBLE = 0.01  # a relative error below which a fit does not care: nearer is noise
EPSILON = float(np.finfo(float).eps)
SLACK = 1e-9  # of a sum of weighted shares, below which what pulls at a term is rounding
WEIGHTS_AT_ONCE = 1 << 15
STEPS = 50  # of reweighting at the most
SETTLED = 1e-4  # change of a rate in a step, as a share of it, at which that ends
MACS_ALONE = ("macs",)
TWO_NUMBERS = ("macs", "bytes")
SPLIT = ("conv_macs", "product_macs", "bytes")  # two kinds of MACs, each with a rate of its own
MORE = ("launches", "casts", "calls")  # terms that a model may have besides
Terms = tuple[str, ...]


class Work(NamedTuple):
    """Countable work of one image: a term of the model each."""

    macs: float  # as `core` counts
    bytes: float  # with its part of what is moved once a call
    launches: float = 0.0  # of a call, over the images of its batch
    conv_macs: float = 0.0  # those of convolutions
    casts: float = 0.0  # bytes that autocast moves besides, around norms that it computes in fp32
    calls: float = 0.0  # 1 / batch

    @property
    def product_macs(self) -> float:
        """MACs of linear layers, matrix products and attention."""
        return self.macs - self.conv_macs


@dataclass(frozen=True)
class Timed:
    """One measurement: what was run, the family that is left out with it, its work, and seconds an image."""

    name: str
    family: str
    work: Work
    seconds: float
    doubts: tuple[str, ...] = ()  # why nothing can be concluded from this one alone


@dataclass(frozen=True)
class CostModel:
    """Seconds by what they go to. No seconds a MAC, or a byte, is a rate without bound."""

    terms: Terms
    seconds_each: tuple[float, ...]  # a MAC, a byte, a launch, a call

    def seconds(self, work: Work) -> float:
        """Predicted seconds of an image."""
        return sum(each * getattr(work, term) for term, each in self._pairs())

    def _pairs(self) -> Iterable[tuple[str, float]]:
        return zip(self.terms, self.seconds_each, strict=True)

    @property
    def rates(self) -> dict[str, float]:
        """The parameters as a datasheet has them: TFLOP/s, GB/s, µs, by term."""
        return {term: UNITS[term].value(each) for term, each in self._pairs()}


class Unit(NamedTuple):
    """A way to tell a parameter: its column in files, its unit, and the factor from seconds."""

    column: str
    unit: str
    factor: float
    is_rate: bool  # work a second, and no seconds

    def value(self, seconds_each: float) -> float:
        """The parameter in this unit."""
        if not self.is_rate:
            return self.factor * seconds_each
        return self.factor / seconds_each if seconds_each else inf


UNITS = {
    "macs": Unit("tflops", "TFLOP/s", FLOPS_PER_MAC / 1e12, True),
    "conv_macs": Unit("conv_tflops", "TFLOP/s in convolutions", FLOPS_PER_MAC / 1e12, True),
    "product_macs": Unit("product_tflops", "TFLOP/s in products", FLOPS_PER_MAC / 1e12, True),
    "bytes": Unit("gb_per_s", "GB/s", 1e-9, True),
    "casts": Unit("casts_gb_per_s", "GB/s of casts", 1e-9, True),
    "launches": Unit("us_per_launch", "µs a launch", 1e6, False),
    "calls": Unit("us_per_call", "µs a call", 1e6, False),
}


def of_rates(tflops: float, gb_per_s: float) -> CostModel:
    """The model of two numbers."""
    return CostModel(TWO_NUMBERS, (FLOPS_PER_MAC / tflops / 1e12, 1e-9 / gb_per_s))


class HeldOut(NamedTuple):
    """A measurement beside what a model says of it that was fitted without its family."""

    row: Timed
    predicted: float  # seconds an image

    @property
    def error(self) -> float:
        """Error of the prediction, as a share of the measurement."""
        return self.predicted / self.row.seconds - 1

    @property
    def ratio(self) -> float:
        """Measured as a multiple of predicted."""
        return self.row.seconds / self.predicted


class Errors(NamedTuple):
    """Absolute errors in % of what was measured: half of the rows have less than `median`, nine in ten than `ninth`."""

    median: float
    ninth: float  # the ninth decile


def fit(rows: Sequence[Timed], terms: Terms = TWO_NUMBERS) -> CostModel:
    """Fit non-negative rates to rows so that the sum of absolute relative errors is least.

    Absolute and not squared, so that a few rows that the model is not true of do not move it: least squares, with
    weights renewed from the last errors until they stay.

    Raises:
        ValueError: there are fewer rows than terms.
    """
    if len(rows) < len(terms):
        raise ValueError(f"{len(rows)} rows for {len(terms)} terms")
    shares = _shares(rows, terms)
    (found,) = _settled(shares, np.ones((1, len(rows))))
    return CostModel(terms, tuple(map(float, found)))


def _shares(rows: Sequence[Timed], terms: Terms) -> Any:
    """The work of each row for a second of its time: times the right parameters, that is 1 a row."""
    each = attrgetter(*terms, terms[0])  # of one name it would give no tuple
    works = np.array([each(row.work) for row in rows], dtype=float)[:, :-1]
    return works / np.array([row.seconds for row in rows])[:, None]


def _settled(shares: Any, parts: Any, start: Any = None) -> Any:
    """The parameters that reweighting ends at for each of several parts of the rows, all at once.

    Args:
        shares: rows by terms.
        parts: parts by rows, 1 where a row is in a part and 0 where not.
        start: a guess, from which it takes fewer steps; without one, all rows weigh the same in the first.
    """
    scale = shares.mean(axis=0)
    scale[scale == 0] = 1.0
    shares = np.ascontiguousarray((shares / scale).T)  # term by term, as the sums below run through it
    one, other = np.triu_indices(len(shares))
    summands = np.concatenate([shares[one] * shares[other], shares])
    found = np.tile(np.zeros(len(scale)) if start is None else start * scale, (len(parts), 1))
    moving = np.arange(len(parts))
    for _ in range(STEPS + (start is None)):  # the first step has no weights yet
        last = found[moving]
        sums = _weighted_sums(shares, summands, parts[moving], last)
        gram = np.empty((len(moving), len(scale), len(scale)))
        gram[:, one, other] = gram[:, other, one] = sums[:, : len(one)]
        found[moving] = _non_negative(gram, sums[:, len(one) :], last)
        moving = moving[(np.abs(found[moving] - last) > SETTLED * last).any(axis=1)]
        if not len(moving):
            break
    return found / scale


def _weighted_sums(shares: Any, summands: Any, parts: Any, at: Any) -> Any:
    """The sums of `summands` over each part, every row weighted by how near the parameters `at` come to it.

    They are made of a few thousand weights at a time, which then stay in the processor's cache.
    """
    total = np.zeros((len(parts), len(summands)))
    length = max(WEIGHTS_AT_ONCE // len(parts), 1)
    for first in range(0, shares.shape[1], length):
        here = slice(first, first + length)
        # einsum, because BLAS would start threads for it, which takes longer
        off = np.einsum("pj,jr->pr", at, shares[:, here]) - 1
        weights = parts[:, here] / np.maximum(np.abs(off), NEGLIGIBLE)
        total += np.einsum("pr,qr->pq", weights, summands[:, here])
    return total


def _non_negative(gram: Any, aim: Any, near: Any) -> Any:
    """The least squares with no x below 0, one for each part of the rows.

    Args:
        gram, aim: the normal equations gram @ x = aim; parts by terms by terms, and parts by terms.
        near: guesses of x, which tell what terms are above 0.
    """
    found, above = np.zeros_like(aim), near > 0
    for chosen in {tuple(row) for row in above.tolist()}:
        alike, part = (above == chosen).all(axis=1), np.flatnonzero(chosen)
        inner = gram[alike][:, part][:, :, part]
        solved = np.zeros((len(inner), len(chosen)))
        solved[:, part] = _shortest(inner, aim[alike][:, part])
        found[alike] = solved
    pull = np.einsum("pij,pj->pi", gram, found) - aim
    is_right = (found >= 0).all(axis=1) & (pull >= -SLACK * aim).all(axis=1)  # not where a number is none
    for place in np.flatnonzero(~is_right):
        found[place] = _searched(gram[place], aim[place])
    return found


def _shortest(gram: Any, aim: Any) -> Any:
    """The least squares, and of equal columns, or of one that is 0 throughout, the shortest x, as `_searched` has it.

    By the eigenvectors whose eigenvalues are more than rounding: `np.linalg.pinv` makes the whole inverse of them
    first, and takes longer.
    """
    lengths, axes = np.linalg.eigh(gram)
    is_none = lengths <= gram.shape[-1] * EPSILON * lengths[:, -1:]
    along = np.einsum("pij,pi->pj", axes, aim) / np.where(is_none, np.inf, lengths)
    return np.einsum("pij,pj->pi", axes, along)


def _searched(gram: Any, aim: Any) -> Any:
    """The least squares with no x below 0, of terms of which nothing is known.

    Those that may be above 0 are tried, set by set, until one has no reason to let another in (Karush, Kuhn and
    Tucker): there is one such solution, which no other set can better.
    """
    terms = range(len(aim))
    sets = (chosen for size in range(len(aim), 0, -1) for chosen in itertools.combinations(terms, size))
    best, least = np.zeros(len(aim)), 0.0  # where rounding hides which it is
    for chosen in sets:
        part = list(chosen)
        found = np.zeros(len(aim))
        found[part] = np.linalg.lstsq(gram[np.ix_(part, part)], aim[part], rcond=None)[0]
        pull = gram @ found - aim
        if found.min() < 0:
            continue
        if (pull >= -SLACK * aim).all():
            return found
        if (loss := found @ (pull - aim)) < least:
            best, least = found, loss
    return best


# ---- judged on what it has not seen


def held_out(rows: Sequence[Timed], terms: Terms = TWO_NUMBERS) -> list[HeldOut]:
    """Each row as the other families predict it, in the order of the rows.

    Raises:
        ValueError: there are fewer than three families, or too few rows beside one of them.
    """
    predicted = _by_others(_shares(rows, terms), [row.family for row in rows])
    return [HeldOut(row, row.seconds * share) for row, share in zip(rows, predicted.tolist(), strict=True)]


def _by_others(shares: Any, families: Sequence[str]) -> Any:
    """The time that the rows of the other families predict of each row, as a share of the time measured.

    Raises:
        ValueError: as `held_out` says.
    """
    names, of_row = np.unique(families, return_inverse=True)
    if len(names) < LEAST_FAMILIES:
        raise ValueError(
            f"{len(names)} families: {LEAST_FAMILIES} are the least of which one can be left out"
        )
    others = (np.arange(len(names))[:, None] != of_row).astype(float)
    if len(few := np.flatnonzero(others.sum(axis=1) < shares.shape[1])):
        raise ValueError(f"too few rows beside family {names[few[0]]} for {shares.shape[1]} terms")
    (whole,) = _settled(shares, np.ones((1, len(shares))))
    return np.einsum("rj,rj->r", shares, _settled(shares, others, whole)[of_row])


def errors(held: Sequence[HeldOut]) -> Errors:
    """Median and ninth decile of the absolute errors, in %."""
    return _errors([each.error for each in held])


def _errors(off: Any) -> Errors:
    """Median and ninth decile, in %, of errors as shares of what was measured."""
    absolute = np.sort(100 * np.abs(off)).tolist()
    return Errors(statistics.median(absolute), absolute[ceil(0.9 * len(absolute)) - 1])


def best_terms(rows: Sequence[Timed]) -> Terms:
    """The terms whose errors on left-out families are least, as median times ninth decile; of two, the fewer terms.

    A term that no row has any of is none. The choice is among a score of models by the errors that are then told of it,
    so that these are a little too good; MACs alone and the two numbers, which nobody chose, stand beside it.
    """
    more = [term for term in MORE if len({getattr(row.work, term) for row in rows}) > 1 or term == "calls"]
    more = [term for term in more if any(getattr(row.work, term) for row in rows)]
    bases = [TWO_NUMBERS, SPLIT] if any(row.work.conv_macs for row in rows) else [TWO_NUMBERS]
    families, every = [row.family for row in rows], tuple(UNITS)
    shares = dict(zip(every, _shares(rows, every).T, strict=True))
    found: dict[Terms, float] = {}
    for size in range(len(more) + 1):
        for base, chosen in itertools.product(bases, itertools.combinations(more, size)):
            predicted = _by_others(np.stack([shares[term] for term in base + chosen], axis=1), families)
            both = _errors(predicted - 1)
            found[base + chosen] = both.median * both.ninth
    return min(found, key=lambda terms: (found[terms], len(terms)))


# ---- intervals


class Interval(NamedTuple):
    """The ends of a prediction, as factors of it."""

    low: float
    high: float

    def holds(self, ratio: float) -> bool:
        """Whether measured over predicted lies between them."""
        return self.low <= ratio <= self.high


def interval(held: Sequence[HeldOut], covered: float = COVERED) -> Interval:
    """The factors on a prediction such that a share `covered` of the rows of a family not yet seen lies between them.

    Of many families, and of one alone, the split conformal interval of measured over predicted, whose ranks are those
    of n + 1 rows, the one to come included (Vovk, Gammerman and Shafer 2005). Rows of a family are off together: of few
    families no rank reaches so far, and the interval is that of Student's t over the families' means.
    """
    ratios = sorted(each.ratio for each in held)
    families = _logs_of_families(held)
    if 1 < len(families) < 2 / (1 - covered) - 1 - 1e-9:
        return _of_families(families, covered)
    n = len(ratios)
    beyond = min(
        int((1 - covered) / 2 * (n + 1) + 1e-9), (n + 1) // 2
    )  # rows on either side, its end with them
    return Interval(ratios[max(beyond - 1, 0)], ratios[min(n - beyond, n - 1)])


def _logs_of_families(held: Sequence[HeldOut]) -> list[list[float]]:
    found: dict[str, list[float]] = {}
    for each in held:
        found.setdefault(each.row.family, []).append(log(each.ratio))
    return list(found.values())


def _of_families(families: Sequence[Sequence[float]], covered: float) -> Interval:
    """The interval of a row of another family: families vary around one mean, and rows around their family's.

    The variance of the families' means has a part of the rows' in it, each as its family has rows. Degrees of freedom
    are those of both variances together (Satterthwaite 1946).
    """
    means, n = [statistics.fmean(logs) for logs in families], len(families)
    freedom = max(sum(map(len, families)) - n, 1)
    squares = sum((each - mean) ** 2 for logs, mean in zip(families, means, strict=True) for each in logs)
    of_families = statistics.variance(means) * (1 + 1 / n)
    of_rows = squares / freedom * (1 - statistics.fmean(1 / len(logs) for logs in families))
    both = of_families**2 / (n - 1) + of_rows**2 / freedom
    together = (of_families + of_rows) ** 2 / both if both else n - 1
    half = student(covered, int(together + 1e-9)) * sqrt(of_families + of_rows)
    return Interval(exp(statistics.fmean(means) - half), exp(statistics.fmean(means) + half))


def coverage(held: Sequence[HeldOut], covered: float = COVERED) -> float:
    """The share of rows that lie in the interval which the other families' rows give."""
    families = {each.row.family for each in held}
    ends = {
        family: interval([each for each in held if each.row.family != family], covered) for family in families
    }
    return statistics.fmean(ends[each.row.family].holds(each.ratio) for each in held)
