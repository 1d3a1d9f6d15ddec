"""The figure of the headline: throughput against MACs, with the lines on which FLOPs would be speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bench.cases import format_size
from bench.stats import Estimate
from reports import finding
from reports.drawing import (
    FAINT,
    MUTED,
    Plot,
    family_look,
    finish,
    new_figure,
    plain_log_ticks,
    round_numbers,
    settle,
)
from reports.labels import Box, label_points
from reports.lines import ANALYSIS, USUAL_SIZE, Line

SIZE_ON_PAPER = "DsoXP^v*"  # markers by area: the smaller is drawn over the larger


def throughput_against_macs(table1: Sequence[Line], machine: str) -> Plot | None:
    """Images/s over core MACs, here and on the paper's V100; None where nothing is both counted and timed."""
    shown = [line for line in table1 if line.macs_per_s]
    if not shown:
        return None
    title = finding.headline(table1)
    subtitle = f"Measured on {machine}. On a grey line all do equally many MACs a second."
    with new_figure(7.6, 9.2, title, subtitle) as figure:
        here, paper = figure.subplots(2, 1, sharex=True, height_ratios=(1.15, 1))
        points = [
            _Point(line, (line.macs(ANALYSIS) or 0) / 1e9, line.images_per_s)
            for line in shown
            if line.images_per_s
        ]
        _scatter(here, points, "Measured here")
        printed = [
            _Point(
                line,
                (line.macs(ANALYSIS) or 0) / 1e9,
                Estimate(line.printed["throughput"].value, None, None, 1),
            )
            for line in table1
            if line.macs(ANALYSIS) and "throughput" in line.printed
        ]
        _scatter(paper, printed, "The paper's V100, as printed")
        paper.set_xlabel("GMACs per image (core: conv + linear + matmul)")
        _size_and_family_legend(here, [point.line for point in points])
        figure.align_ylabels()
        settle(figure)
        for axes, marks in ((here, points), (paper, printed)):
            taken = [*_draw_iso_rates(axes), *_error_bars(axes, marks)]
            label_points(
                axes, [(point.gmacs, point.images_per_s.value, point.line.title) for point in marks], taken
            )
        span = finding.span_sentence(table1) or ""
        alt = f"Throughput against MACs of {len(points)} models, log-log. {title}. {span}"
        return finish(figure, "throughput_against_macs", title, alt)


@dataclass(frozen=True)
class _Point:
    line: Line
    gmacs: float
    images_per_s: Estimate


def _scatter(axes: Axes, points: Sequence[_Point], title: str) -> None:
    axes.set(xscale="log", yscale="log", ylabel="images / s", title=title)
    for point in points:
        colour, marker = family_look(point.line.case.family)
        speed = point.images_per_s
        if speed.low is not None and speed.high is not None:
            ends = [[speed.value - speed.low], [speed.high - speed.value]]
            axes.errorbar(point.gmacs, speed.value, ends, ecolor=colour, elinewidth=1.2, capsize=3, zorder=2)
        filled = point.line.is_usual_size
        axes.plot(
            point.gmacs,
            speed.value,
            marker,
            markersize=8 if filled else 7,
            # a filled marker has a white rim, so that two which overlap stay two
            markeredgecolor="white" if filled else colour,
            markerfacecolor=colour if filled else "white",
            markeredgewidth=0.8 if filled else 1.6,
            zorder=3 + SIZE_ON_PAPER.index(marker) / 10,
        )
    xs, ys = [point.gmacs for point in points], [point.images_per_s.value for point in points]
    axes.set_xlim(min(xs) / 1.35, max(xs) * 1.55)
    axes.set_ylim(min(ys) / 1.5, max(ys) * 1.5)
    plain_log_ticks(axes)


def _error_bars(axes: Axes, points: Sequence[_Point]) -> list[Box]:
    """Where the points' intervals are drawn, caps included."""
    scale = 72 / axes.figure.dpi
    boxes = []
    for point in points:
        x, speed = point.gmacs, point.images_per_s
        if speed.low is not None and speed.high is not None:
            ends = scale * axes.transData.transform([(x, speed.low), (x, speed.high)])
            (middle, bottom), (_, top) = ends
            boxes.append(Box(middle - 3, bottom - 1, middle + 3, top + 1))
    return boxes


def _draw_iso_rates(axes: Axes) -> list[Box]:
    """Lines of equal MAC/s: were FLOPs speed, all points would lie on one. Returns their labels' boxes."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    angle = _slope_on_paper(axes)
    taken = []
    for rate in _iso_rates(left * bottom, right * top):
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


def _iso_rates(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 … between the ends; 1, 10, 100 … if that is too many."""
    rates = round_numbers(low, high)
    return rates if len(rates) <= 12 else [rate for rate in rates if f"{rate:e}"[0] == "1"]


def _slope_on_paper(axes: Axes) -> float:
    """The angle in degrees at which y = 1/x appears."""
    (x0, y0), (x1, y1) = axes.transData.transform([(1, 1), (10, 0.1)])
    return math.degrees(math.atan2(y1 - y0, x1 - x0))


def _size_and_family_legend(axes: Axes, shown: Sequence[Line]) -> None:
    handles = []
    for family in dict.fromkeys(line.case.family for line in shown):
        colour, marker = family_look(family)
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", markersize=7, label=family))
    for size in sorted({line.case.size for line in shown}):
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
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        handletextpad=0.2,
        columnspacing=1.2,
    )
