"""What the numbers say, in words: computed from the lines of Table 1, never typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from scipy.stats import spearmanr

from reports.lines import ANALYSIS, Line
from reports.text import rate


@dataclass(frozen=True)
class Inversion:
    """A model that does more arithmetic than another and is still faster."""

    more: Line
    less: Line

    @property
    def macs_ratio(self) -> float:
        return _macs(self.more) / _macs(self.less)

    @property
    def speed_ratio(self) -> float:
        return _speed(self.more) / _speed(self.less)

    def __str__(self) -> str:
        return (
            f"{self.more.name} needs {self.macs_ratio:.2f}× the MACs of {self.less.name} "
            f"and runs {self.speed_ratio:.2f}× as fast"
        )


def compared(lines: Sequence[Line]) -> list[Line]:
    """Those with a count and a speed that is known well enough to say something about it."""
    return [line for line in lines if line.macs_per_s and not line.too_uncertain]


def rank_correlation(lines: Sequence[Line]) -> float | None:
    """Spearman's, between core MACs and time per image: 1 if MACs order the models as time does."""
    shown = compared(lines)
    if len(shown) < 3:
        return None
    return float(spearmanr([_macs(line) for line in shown], [1 / _speed(line) for line in shown]).statistic)


def largest_inversion(lines: Sequence[Line]) -> Inversion | None:
    """The pair whose order MACs get most wrong, by the product of both ratios.

    Only models given the same image are a choice one has, and their speeds must differ beyond doubt.
    """
    pairs = [
        Inversion(more, less)
        for more, less in permutations(compared(lines), 2)
        if more.case.size == less.case.size and _macs(more) > _macs(less) and _surely_faster(more, less)
    ]
    return max(pairs, key=lambda pair: pair.macs_ratio * pair.speed_ratio, default=None)


def rate_span(lines: Sequence[Line]) -> tuple[Line, Line] | None:
    """The lines with the lowest and the highest achieved MACs a second."""
    shown = compared(lines)
    if len(shown) < 2:
        return None
    return min(shown, key=_rate), max(shown, key=_rate)


def headline(lines: Sequence[Line]) -> str:
    """One sentence for the top of the page."""
    if inversion := largest_inversion(lines):
        return f"{inversion}"
    if span := rate_span(lines):
        slow, fast = span
        return (
            f"The same MAC takes {_rate(fast) / _rate(slow):.1f}× as long in {slow.name} as in {fast.name}: "
            f"{rate(_rate(slow))} against {rate(_rate(fast))}"
        )
    return "Too little is measured yet to compare speed with MACs"


def span_sentence(lines: Sequence[Line]) -> str | None:
    """How far the achieved rates lie apart: were FLOPs speed, there would be one rate."""
    if not (span := rate_span(lines)):
        return None
    slow, fast = span
    return (
        f"The machine does {rate(_rate(fast))} in {fast.name} and {rate(_rate(slow))} in {slow.name}, "
        f"{_rate(fast) / _rate(slow):.1f}× apart"
    )


def _macs(line: Line) -> int:
    return line.macs(ANALYSIS) or 0


def _speed(line: Line) -> float:
    return line.images_per_s.value if line.images_per_s else 0.0


def _rate(line: Line) -> float:
    return line.macs_per_s.value if line.macs_per_s else 0.0


def _surely_faster(a: Line, b: Line) -> bool:
    """Whether the intervals of their speeds lie apart; without intervals, the values must."""
    fast, slow = a.images_per_s, b.images_per_s
    if fast is None or slow is None:
        return False
    return (fast.value if fast.low is None else fast.low) > (slow.value if slow.high is None else slow.high)
