"""FLOPs as a guide to time: were they speed, two models measured in turns would differ in time as they do in MACs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from bench.cases import Case
from bench.stats import PRACTICAL, Estimate
from reports.lines import ANALYSIS, USUAL_SIZE
from reports.measurements import Comparison
from reports.results import Results
from reports.text import sentences


@dataclass(frozen=True)
class Pair:
    """Two models measured in turns: the ratio of their times beside that of their MACs, the larger model's first."""

    larger: Case
    smaller: Case
    macs_ratio: float
    time: Estimate  # an image's, with an interval that holds for the most extreme of all pairs

    @property
    def is_off(self) -> bool:
        """Whether the times surely have another ratio than the MACs, by more than counts in practice."""
        if self.time.low is None or self.time.high is None:
            return False
        return (
            self.time.high * (1 + PRACTICAL) < self.macs_ratio
            or self.time.low / (1 + PRACTICAL) > self.macs_ratio
        )

    @property
    def is_inverted(self) -> bool:
        """Whether the model with more MACs is surely the faster one, by more than counts in practice."""
        is_larger = self.macs_ratio > 1 + PRACTICAL
        return is_larger and self.time.high is not None and self.time.high < 1 / (1 + PRACTICAL)

    @property
    def distance(self) -> float:
        """The distance of the two ratios, as the logarithm of one over the other."""
        return abs(math.log(self.time.value / self.macs_ratio))

    def __str__(self) -> str:
        return (
            f"{name(self.larger)} has {self.macs_ratio:.2f} × the MACs of {name(self.smaller)} and takes "
            f"{self.time.value:.2f} × its time"
        )


def name(case: Case) -> str:
    """The model with its options, and with its size where that is not the usual one."""
    return case.title if case.size == USUAL_SIZE and not case.mix else f"{case.title} at {case.shape}"


@dataclass(frozen=True)
class Guide:
    """The pairs of one machine, and what they say of MACs as a guide to time."""

    results: Results

    @cached_property
    def pairs(self) -> list[Pair]:
        """The pairs of models, run alike, whose MACs are counted and whose interval is one over visits."""
        found = list(_comparisons(self.results))
        return [_pair(comparison, macs, len(found)) for comparison, macs in found]

    @property
    def off(self) -> list[Pair]:
        """The pairs whose times surely have another ratio than their MACs, the furthest off first."""
        return sorted((pair for pair in self.pairs if pair.is_off), key=lambda pair: -pair.distance)

    def sentence(self) -> str:
        """A sentence on what was seen; or that no pair was measured that could tell."""
        pairs, off, machine = self.pairs, self.off, self.results.machine
        if not pairs:
            return sentences(
                f"No two models were measured in turns on {machine} with an interval over visits, so that nothing is "
                "said here of whether their times have the ratio of their MACs"
            )
        counted = f"{len(off)} of {len(pairs)} pairs" if len(pairs) > 1 else "the one pair"
        if not off:
            return sentences(
                f"Of {len(pairs)} pair{'s' if len(pairs) > 1 else ''} of models measured in turns on {machine}, none "
                "has surely another ratio of times than of MACs"
            )
        inverted = sum(pair.is_inverted for pair in pairs)
        more = f", and in {inverted} the one with more MACs is the faster" if inverted else ""
        return sentences(
            f"Measured in turns on {machine}, the times of {counted} of models have another ratio than their "
            f"MACs{more}; furthest off, {off[0]}"
        )


def _comparisons(results: Results) -> Iterator[tuple[Comparison, tuple[int, int]]]:
    """The newest comparison of each two models that can say something, with the MACs of both."""
    newest = {row.cases: row for row in results.comparisons}
    for row in newest.values():
        if not row.ok or row.is_launch_bound or row.estimate.within_run or not _are_alike(*row.cases):
            continue
        first, second = (results.counted(case) for case in row.cases)
        if first and second and first.ok and second.ok:
            macs = first.macs[ANALYSIS], second.macs[ANALYSIS]
            if all(macs):
                yield row, macs


def _are_alike(first: Case, second: Case) -> bool:
    """Whether two models, and not two ways to run one, were run alike on images of one size each."""
    ways = [(case.impl, case.dtype, case.batch, case.mode, case.mix) for case in (first, second)]
    return ways[0] == ways[1] and ways[0][3:] == ("infer", None) and first.mathematics != second.mathematics


def _pair(comparison: Comparison, macs: Sequence[int], looked_at: int) -> Pair:
    first, second = comparison.cases
    time, ratio = comparison.among(looked_at), macs[0] / macs[1]
    if ratio >= 1:
        return Pair(first, second, ratio, time)
    return Pair(second, first, 1 / ratio, time.map(lambda times: 1 / times))
