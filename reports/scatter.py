"""Points over MACs on log axes: speeds with intervals, names beside them, and the lines of equal MACs a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.cases import format_size
from bench.stats import Estimate
from reports.figures import FAINT, MUTED, WIDE, family_look, plain_log_ticks, round_numbers
from reports.labels import Box, label_points
from reports.lines import USUAL_SIZE, Line
from reports.results import grouped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_ON_PAPER = "DsoXP^v*"  # markers by area: the smaller is drawn over the larger


@dataclass(frozen=True)
class Point:
    """A line over its MACs: its speed, or its time."""

    line: Line
    gmacs: float
    y: Estimate


def draw_points(axes: Axes, points: Sequence[Point], title: str, what: str) -> None:
    """Draw each point with its interval; images of the usual size are filled, others hollow."""
    axes.set(xscale="log", yscale="log", ylabel=what, title=title)
    for point in points:
        colour, marker = family_look(point.line.case.family)
        y = point.y
        if y.low is not None and y.high is not None:
            ends = [[y.value - y.low], [y.high - y.value]]
            axes.errorbar(point.gmacs, y.value, ends, ecolor=colour, elinewidth=1.2, capsize=3, zorder=2)
        filled = point.line.is_usual_size
        axes.plot(
            point.gmacs,
            y.value,
            marker,
            markersize=8 if filled else 7,
            # a filled marker has a white rim, so that two which overlap stay two
            markeredgecolor="white" if filled else colour,
            markerfacecolor=colour if filled else "white",
            markeredgewidth=0.8 if filled else 1.6,
            zorder=3 + SIZE_ON_PAPER.index(marker) / 10,
        )
    xs, ys = [point.gmacs for point in points], [point.y.value for point in points]
    axes.set_xlim(min(xs) / 1.35, max(xs) * 1.55)
    axes.set_ylim(min(ys) / 1.5, max(ys) * 1.5)
    plain_log_ticks(axes)


def macs_label(of: str, width: float) -> str:
    """The label of the axis of MACs in a figure of that `width` in inches: GMACs of an image, say."""
    return f"GMACs per {of}{' ' if width == WIDE else chr(10)}(core: conv + linear + matmul)"


def name_points(axes: Axes, points: Sequence[Point], taken: Sequence[Box] = ()) -> None:
    """Write each point's title near it, clear of intervals and of what is `taken`; the layout must be settled.

    Where points share a title, what tells them apart is written too.
    """
    named = [
        (point.gmacs, point.y.value, name, family_look(point.line.case.family)[0])
        for point, name in zip(points, _names([point.line for point in points]), strict=True)
    ]
    label_points(axes, named, [*taken, *_error_bars(axes, points)])


def _names(lines: Sequence[Line]) -> list[str]:
    """The lines' titles, with the implementation, batch and dtype where lines of one title and size differ in it."""
    alike = grouped(((line.title, line.case.shape), line) for line in lines)

    def name(line: Line) -> str:
        others = [other for other in alike[line.title, line.case.shape] if other.timing]
        parts = [
            line.case.impl if len({other.case.impl for other in others}) > 1 else "",
            f"b{line.batch}" if len({other.batch for other in others}) > 1 else "",
            str(line.dtype) if len({other.dtype for other in others}) > 1 else "",
        ]
        return ", ".join(filter(None, [line.title, *parts]))

    return [name(line) for line in lines]


def _error_bars(axes: Axes, points: Sequence[Point]) -> list[Box]:
    """The boxes in which the points' intervals are drawn, caps included."""
    scale = 72 / axes.figure.dpi
    boxes = []
    for point in points:
        if point.y.low is not None and point.y.high is not None:
            ends = scale * axes.transData.transform([(point.gmacs, point.y.low), (point.gmacs, point.y.high)])
            (middle, bottom), (_, top) = ends
            boxes.append(Box(middle - 3, bottom - 1, middle + 3, top + 1))
    return boxes


def same_slopes(*panels: Axes) -> None:
    """Give panels of one height and one x axis as many decades each, so that a rate has one slope in all of them."""
    decades = max(math.log10(top / bottom) for bottom, top in (axes.get_ylim() for axes in panels))
    for axes in panels:
        bottom, top = axes.get_ylim()
        wider = 10 ** ((decades - math.log10(top / bottom)) / 2)
        axes.set_ylim(bottom / wider, top * wider)
        plain_log_ticks(axes)


def iso_rates(axes: Axes) -> list[Box]:
    """Draw lines of equal MACs a second: were FLOPs speed, all points would lie on one. Returns their labels' boxes."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    angle = _slope_on_paper(axes)
    taken = []
    for rate in _rates_between(left * bottom, right * top):
        axes.plot([left, right], [rate / left, rate / right], color=FAINT, linewidth=0.8, zorder=0)
        # the label stands where the line leaves the axes: at the right edge, or at the bottom
        x, y = (right, rate / right) if rate / right > bottom else (rate / bottom, bottom)
        nearer = 10 ** (0.075 * math.log10(right / left))  # just inside
        x, y = x / nearer, y * nearer
        if not (left * nearer**2 < x and y < top / nearer**2):
            continue
        text = axes.annotate(
            f"{rate / 1000:g} TMAC/s" if rate >= 1000 else f"{rate:g} GMAC/s",
            (x, y),
            color=MUTED,
            fontsize=8,
            rotation=angle,
            rotation_mode="anchor",
            ha="center",
            va="bottom",
            zorder=1,
        )
        taken.append(Box.of(text))
    return taken


def _rates_between(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 … between the ends; 1, 10, 100 … if that is too many."""
    rates = round_numbers(low, high)
    return rates if len(rates) <= 12 else [rate for rate in rates if f"{rate:e}"[0] == "1"]


def _slope_on_paper(axes: Axes) -> float:
    """The angle in degrees at which y = 1/x appears."""
    (x0, y0), (x1, y1) = axes.transData.transform([(1, 1), (10, 0.1)])
    return math.degrees(math.atan2(y1 - y0, x1 - x0))


def size_and_family_legend(axes: Axes, lines: Sequence[Line], columns: int | None = None) -> None:
    """Put a legend above the axes: the marker of each family, and what filled and hollow mean.

    Args:
        columns: of the legend; None: all in one row.
    """
    from matplotlib.lines import Line2D

    handles = []
    for family in dict.fromkeys(line.case.family for line in lines):
        colour, marker = family_look(family)
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", markersize=7, label=family))
    for size in sorted({line.case.size for line in lines}):
        fill = MUTED if size == USUAL_SIZE else "white"
        text = f"{format_size(size)} pixels, {'filled' if size == USUAL_SIZE else 'hollow'}"
        handles.append(
            Line2D(
                [], [], marker="o", linestyle="", color=MUTED, markerfacecolor=fill, markersize=7, label=text
            )
        )
    axes.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.06),
        ncols=columns or len(handles),
        frameon=False,
        fontsize=8,
        handletextpad=0.2,
        columnspacing=1.2,
    )
