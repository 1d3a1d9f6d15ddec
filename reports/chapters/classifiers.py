"""Tables 1, 8 and 9: classifiers on one machine, their steps of training, and their FLOPs counted another way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import correlation

from bench.stats import Estimate
from reports.chapter import TOO_LITTLE, Chapter, Told
from reports.columns import Layout
from reports.figures import WIDE, Plot, finish, for_both, new_figure, settle
from reports.lines import ANALYSIS, Line, Pair
from reports.scatter import (
    Point,
    draw_points,
    iso_rates,
    macs_label,
    name_points,
    same_slopes,
    size_and_family_legend,
)
from reports.text import rate
from reports.verdicts import Status

# ---- what Table 1 says in words: computed from its lines, never typed

LEAST_RANKED = 7  # models: four in any order are in that of their MACs once in 24 times


@dataclass(frozen=True)
class Inversion:
    """A model that does more arithmetic than another and is still faster, measured in turns."""

    more: Line
    less: Line
    speed_ratio: float  # of the one with more MACs, as a multiple of the other's

    @property
    def macs_ratio(self) -> float:
        """MACs of the one with more, as a multiple of the other's."""
        return _macs(self.more) / _macs(self.less)

    def __str__(self) -> str:
        return (
            f"{self.more.name} needs {self.macs_ratio:.2f}× the MACs of {self.less.name} "
            f"and runs {self.speed_ratio:.2f}× as fast"
        )


def _inversion(pair: Pair, looked_at: int) -> Inversion | None:
    """The inversion that a pair shows, whichever of its two has more MACs; None where it shows none."""
    verdict, first, second = pair.verdict_among(looked_at), pair.first, pair.second
    if pair.here is None or verdict is None or pair.is_launch_bound or not (_macs(first) and _macs(second)):
        return None
    if _macs(first) > _macs(second) and verdict.status is Status.FASTER:
        return Inversion(first, second, 1 / pair.here.value)
    if _macs(second) > _macs(first) and verdict.status is Status.SLOWER:
        return Inversion(second, first, pair.here.value)
    return None


def compared(lines: Sequence[Line]) -> list[Line]:
    """The lines with a count, and a speed that is known well enough, by the same code, to say something about it."""
    return [line for line in lines if line.macs_per_s and not line.too_uncertain and not line.unlike]


def rank_correlation(lines: Sequence[Line]) -> float | None:
    """Spearman's, between core MACs and time per image: 1 if MACs order the models as time does; None of too few."""
    shown = compared(lines)
    if len(shown) < LEAST_RANKED:
        return None
    return correlation(_ranks([_macs(line) for line in shown]), _ranks([1 / _speed(line) for line in shown]))


def _ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from the smallest, which is 1; equal ones share the mean of theirs."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in values]


def largest_inversion(pairs: Sequence[Pair]) -> Inversion | None:
    """The pair whose order MACs get most wrong, by the product of both ratios.

    Only pairs taken in turns are looked at, and none whose time is that of the CPU's launches; because the largest is
    picked, the interval of each is as wide as for all to hold together.
    """
    found = [one for pair in pairs if (one := _inversion(pair, len(pairs)))]
    return max(found, key=lambda one: one.macs_ratio * one.speed_ratio, default=None)


def rate_span(lines: Sequence[Line]) -> tuple[Line, Line] | None:
    """The lines with the lowest and the highest achieved MACs a second."""
    shown = compared(lines)
    if len(shown) < 2:
        return None
    return min(shown, key=_rate), max(shown, key=_rate)


def title_of(lines: Sequence[Line], pairs: Sequence[Pair] = ()) -> str:
    """The figure's title: what is seen. A multiple stands in it only if the two were taken in turns."""
    if inversion := largest_inversion(pairs):
        return f"{inversion}"
    if (rank := rank_correlation(lines)) is not None:
        return f"MACs order {_how_many(lines)} by time with a rank correlation of {rank:.2f}"
    if (timed := _timed(lines)) >= LEAST_RANKED:
        return f"The speeds of {timed} models are too uncertain to be compared with their MACs"
    return TOO_LITTLE


def span_sentence(lines: Sequence[Line]) -> str | None:
    """The least and the most MACs a second: were FLOPs speed, there would be one rate."""
    if not (span := rate_span(lines)):
        return None
    slow, fast = span
    return f"The machine does {rate(_rate(fast))} in {fast.name} and {rate(_rate(slow))} in {slow.name}"


def _how_many(lines: Sequence[Line]) -> str:
    """The models that are compared; of how many that were timed, where some are too uncertain."""
    known, timed = len(compared(lines)), _timed(lines)
    return f"{known} models" if known == timed else f"the {known} of {timed} models with a narrow interval"


def _timed(lines: Sequence[Line]) -> int:
    return sum(line.images_per_s is not None for line in lines)


def _macs(line: Line) -> int:
    return line.macs(ANALYSIS) or 0


def _speed(line: Line) -> float:
    return line.images_per_s.value if line.images_per_s else 0.0


def _rate(line: Line) -> float:
    return line.macs_per_s.value if line.macs_per_s else 0.0


# ---- the figure


def throughput_against_macs(told: Told) -> Plot | None:
    """Images/s over core MACs, here and on the paper's V100, with the lines on which FLOPs would be speed.

    None where nothing is both counted and timed.
    """
    shown = [line for line in told.shown if line.macs_per_s and not line.unlike]
    if not shown:
        return None
    return for_both("throughput_against_macs", lambda name, width: _drawn(told, shown, name, width))


def _drawn(told: Told, shown: Sequence[Line], name: str, width: float) -> Plot:
    lines, is_wide = told.shown, width == WIDE
    title = title_of(lines, told.pairs)
    subtitle = f"Measured on {told.results.machine}. On a grey line all do equally many MACs a second."
    with new_figure(width, 9.2 if is_wide else 10.4, title, subtitle) as figure:
        here, paper = figure.subplots(2, 1, sharex=True)
        points = [Point(line, _macs(line) / 1e9, line.images_per_s) for line in shown if line.images_per_s]
        draw_points(here, points, "Measured here", "images / s")
        printed = [
            Point(line, _macs(line) / 1e9, Estimate(line.printed["throughput"].value, None, None, 1))
            for line in lines
            if _macs(line) and "throughput" in line.printed
        ]
        draw_points(paper, printed, "The paper's V100, as printed", "images / s")
        paper.set_xlabel(macs_label("image", width))
        if printed:
            same_slopes(here, paper)
        size_and_family_legend(here, [point.line for point in points], None if is_wide else 3)
        figure.align_ylabels()
        settle(figure)
        for axes, marks in ((here, points), (paper, printed)):
            name_points(axes, marks, iso_rates(axes))
        span = span_sentence(lines) or ""
        alt = f"Throughput against MACs of {len(points)} models, log-log. {title}. {span}"
        return finish(figure, name, title, alt)


# ---- the chapters

TRAINING = (
    *("model", "size", "core_macs", "images_per_s", "step_ms", "half_width", "times_inference"),
    *("device_share", "peak_memory_bytes", "millijoules_per_image", "batch", "dtype", "asked"),
)

CHAPTERS = (
    Chapter(
        study="table1",
        title="Table 1, measured",
        heading="Table 1: the paper's numbers beside those of this machine",
        nav="Table 1",
        references=("restv2_tiny@224",),
        figures=(throughput_against_macs,),
    ),
    Chapter(
        study="table8",
        title="Table 8, steps of training",
        heading="Table 8: what a step of training costs",
        nav="Training",
        text="The paper's Table 8 has the settings of training, and no speed. A step here is forward, loss, backward, "
        "gradient clipping and AdamW with those settings; augmentation, the schedule and EMA are left out. Stochastic "
        "depth is each model's own: timm's ConvNeXt-T has none.",
        layout=Layout(TRAINING, (TRAINING[:-1],)),
    ),
    Chapter(
        study="table9",
        title="Table 9, FLOPs counted another way",
        heading="Table 9: the same models with fewer FLOPs",
        nav="Table 9",
        text="Table 9 prints fewer GMACs than Table 1 for the same models at the same size.",
        references=("restv2_tiny@224",),
    ),
)
