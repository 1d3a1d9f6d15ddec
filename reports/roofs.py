"""The figure of rooflines: the rate that an operator reaches, below what peak and memory allow at its FLOPs a byte."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from bench.roofline import Peaks
from bench.trace.tables import Line
from reports.figures import (
    FAINT,
    INK,
    MUTED,
    OPERATOR_LOOKS,
    OTHER_OPERATOR,
    WIDE,
    Plot,
    finish,
    footnote,
    for_both,
    grid_behind,
    name_rows,
    new_figure,
    no_minor_ticks,
    round_numbers,
    settle,
)
from reports.labels import Box, label_points
from reports.profiles import Profile
from reports.text import share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

SHOWN = 0.01  # share of the time from which on an operator is a point
KNOWN = 0.5  # share of its time for which bytes must be known
SHARES = (1.0, 0.1, 0.01)  # of the roof, a line each
MARKERS = {"conv": "o", "linear": "s", "matmul": "D", "attention": "^", "fused": "P"}
OTHER_MARKER = "X"


@dataclass(frozen=True)
class Point:
    """An operator of a profile, and what the roof allows it."""

    letter: str  # of the profile; empty where there is one
    profile: Profile
    line: Line
    of_roof: float

    @property
    def name(self) -> str:
        """The operator's name with the profile's letter."""
        return f"{self.letter} {self.line.name}".strip()

    @property
    def label(self) -> str:
        """The name with the share of the roof."""
        return f"{self.name} {share(self.of_roof)}"

    @property
    def colour(self) -> str:
        """The colour of the operator everywhere."""
        return OPERATOR_LOOKS.get(self.line.name, OTHER_OPERATOR)[0]

    @property
    def marker(self) -> str:
        """The operator's marker."""
        return MARKERS.get(self.line.name, OTHER_MARKER)


def points(profiles: Sequence[Profile]) -> list[Point]:
    """The operators that take any time to speak of, and whose roof is known."""
    letters = ascii_uppercase if len(profiles) > 1 else [""]
    return [
        Point(letter, profile, line, line.share_of_attainable)
        for letter, profile in zip(letters, profiles, strict=False)
        for line in profile.operators
        if line.share >= SHOWN and (line.bytes_known or 0) >= KNOWN and line.share_of_attainable
    ]


def rooflines(profiles: Sequence[Profile], name: str, subtitle: str) -> Plot | None:
    """Operators below the roof of the device that all profiles are of; None where the roof is unknown."""
    found = [point for point in points(profiles) if _is_product(point) or _is_of_memory(point)]
    if not found or not profiles[0].peaks.bandwidth_gb_s:
        return None
    if len(profiles) > 1:
        named = zip(ascii_uppercase, profiles, strict=False)
        subtitle = f"{subtitle} {', '.join(f'{letter} {profile.title}' for letter, profile in named)}."
    return for_both(name, lambda named, width: _drawn(found, profiles[0].peaks, named, subtitle, width))


def _is_product(point: Point) -> bool:
    """Whether an operator has a place below the roof: a density, a rate, and a peak of its dtype."""
    line = point.line
    return bool(line.flop_per_byte and line.tflops and _dtypes(point, point.profile.peaks))


def _is_of_memory(point: Point) -> bool:
    """Whether an operator has no MACs, and a rate of its own."""
    return not point.line.macs and bool(point.line.gb_per_s)


def title_of(found: Sequence[Point]) -> str:
    """The figure's title: how far below the roof the operator is that takes most of the time without reaching it."""
    most = max(found, key=lambda point: point.line.share * (1 - min(point.of_roof, 1)))
    return (
        f"{most.line.name} of {most.profile.title} takes {share(most.line.share)} of the time "
        f"and reaches {share(most.of_roof)} of its roof"
    )


def _drawn(found: Sequence[Point], peaks: Peaks, name: str, subtitle: str, width: float) -> Plot:
    title = title_of(found)
    products = [point for point in found if _is_product(point)]
    others = [point for point in found if _is_of_memory(point)]
    names = [point.line.name for point in others]
    others.sort(key=lambda point: names.index(point.line.name))  # the same operator's beside each other
    notes = [
        line
        for point in found
        for remark in point.line.remarks
        for line in textwrap.wrap(f"{point.name}: {remark}", round(14 * width))
    ]
    tall, low = 3.4 if products else 0.0, 0.6 + 0.2 * len(others) if others else 0.0
    height = 1.4 + tall + low + 0.15 * len(notes)
    with new_figure(width, height, title, subtitle) as figure:
        heights = [amount for amount in (tall, low) if amount]
        panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0].tolist()
        if notes:
            footnote(figure, *notes)
        if others:
            _memory(panels[-1], others, peaks, width)
        if products:
            _legend(panels[0])
            taken = _roof(panels[0], products, peaks, width)
            settle(figure)
            _names(panels[0], products, taken)
        alt = f"Roofline of {len(found)} operators. {title}. {subtitle}"
        return finish(figure, name, title, alt)


# ---- operators with MACs


def _roof(axes: Axes, products: Sequence[Point], peaks: Peaks, width: float) -> list[object]:
    """Draw the roof with its tenth and hundredth and the points; returns the texts, which no label may cover."""
    dtypes = [dtype for point in products for dtype in _dtypes(point, peaks)]
    main = max(dict.fromkeys(dtypes), key=dtypes.count)
    memory, peak = (peaks.bandwidth_gb_s or 0) / 1e3, peaks.tflops[main]  # TB/s and TFLOP/s
    ridge = peak / memory
    densities = [point.line.flop_per_byte or 0 for point in products]
    rates = [point.line.tflops or 0 for point in products]
    left, right = (
        min(*densities, ridge / 10) / 2.5,
        max(*densities, ridge * 3) * (2.5 if width == WIDE else 8),
    )
    top = max(*rates, *(peaks.tflops[dtype] for dtype in dtypes)) * (2.2 if width == WIDE else 6)
    bottom = min(*rates, peak / 100) / 2.5
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
    texts: list[object] = []
    for amount in SHARES:
        axes.plot(
            [left, ridge, right],
            [amount * memory * left, amount * peak, amount * peak],
            color=INK if amount == 1 else MUTED,
            linewidth=1.6 if amount == 1 else 0.8,
            linestyle="-" if amount == 1 else (0, (5, 3)),
            zorder=1,
        )
        if amount < 1:
            texts.append(_text(axes, f"{100 * amount:g} %", right, amount * peak, (-3, 2), "right", "bottom"))
    roof = f"{main} {peak:.4g} TFLOP/s"
    at_ridge = f"100 %: {roof}" if width == WIDE else roof.replace(" ", "\n", 1)
    texts.append(_text(axes, at_ridge, ridge, peak, (-8, 1), "right", "bottom"))
    for dtype in dict.fromkeys(dtypes):
        if dtype != main:
            level = peaks.tflops[dtype]
            axes.plot(
                [level / memory, right], [level, level], color=INK, linewidth=1.0, linestyle=":", zorder=1
            )
            texts.append(
                _text(axes, f"{dtype} {level:.4g} TFLOP/s", right, level, (-3, 2), "right", "bottom")
            )
    axes.axvline(ridge, color=FAINT, linewidth=0.8, zorder=0)
    memory_text = "memory-bound" if width < WIDE else f"memory-bound: {peaks.bandwidth_gb_s:.4g} GB/s"
    texts.append(_text(axes, memory_text, ridge, bottom, (-6, 4), "right", "bottom"))
    texts.append(_text(axes, "compute-bound", ridge, bottom, (6, 4), "left", "bottom"))
    for point, density, rate in zip(products, densities, rates, strict=True):
        allowed = rate / point.of_roof
        axes.plot([density, density], [rate, allowed], color=MUTED, linewidth=0.8, zorder=2)
        look: dict[str, Any] = {"linestyle": "", "marker": point.marker, "markeredgecolor": INK}
        axes.plot(density, allowed, **look, markersize=6, markerfacecolor="white", zorder=3)
        axes.plot(density, rate, **look, markersize=8, markerfacecolor=point.colour, zorder=4)
    _decades(axes.xaxis, left, right, width)
    _decades(axes.yaxis, bottom, top, width)
    axes.set_xlabel("FLOPs a byte, of tensors read and written" if width == WIDE else "FLOPs a byte")
    axes.set_ylabel("TFLOP/s")
    return texts


def _dtypes(point: Point, peaks: Peaks) -> list[str]:
    """The dtypes of an operator's products whose peaks are known."""
    return [dtype for dtype in (point.line.dtype or "").split("+") if dtype in peaks.tflops]


def _text(
    axes: Axes, text: str, x: float, y: float, offset: tuple[float, float], across: str, along: str
) -> object:
    return axes.annotate(
        text,
        (x, y),
        xytext=offset,
        textcoords="offset points",
        ha=across,
        va=along,
        fontsize=8,
        color=MUTED,
        zorder=1,
        in_layout=False,
        bbox={"facecolor": "#ffffff", "edgecolor": "none", "boxstyle": "square,pad=0.1"},
    )


def _names(axes: Axes, products: Sequence[Point], texts: Sequence[object]) -> None:
    """Write each point's name near it, clear of the lines to the roof and of what stands there."""
    scale = 72 / axes.figure.dpi
    taken = [Box.of(text) for text in texts]
    for point in products:
        density, rate = point.line.flop_per_byte or 1, point.line.tflops or 1
        ends = [scale * axes.transData.transform((density, y)) for y in (rate, rate / point.of_roof)]
        low, high = sorted(float(y) for _, y in ends)
        middle = float(ends[0][0])
        taken.append(Box(middle - 2, low, middle + 2, high))
        taken.append(Box(middle - 4, ends[1][1] - 4, middle + 4, ends[1][1] + 4))
    label_points(
        axes, [(p.line.flop_per_byte or 1, p.line.tflops or 1, p.label, INK) for p in products], taken
    )


def _decades(axis: Axis, low: float, high: float, width: float) -> None:
    """Ticks at 1, 10, 100 …; at 2 and 5 too where there is room."""
    ticks = round_numbers(low, high)
    if len(ticks) > width:
        ticks = [tick for tick in ticks if f"{tick:e}"[0] == "1"]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    no_minor_ticks(axis)


# ---- operators without MACs


def _memory(axes: Axes, others: Sequence[Point], peaks: Peaks, width: float) -> None:
    """Draw operators without MACs below the memory's rate, a row each."""
    memory = peaks.bandwidth_gb_s or 0
    rates = [point.line.gb_per_s or 0 for point in others]
    left, right = min(*rates, memory / 100) / 1.5, max(*rates, memory) * 1.5
    axes.set(xscale="log", xlim=(left, right))
    axes.set_title("Without MACs: memory alone", pad=17)
    for amount in SHARES:
        axes.axvline(
            amount * memory,
            color=INK if amount == 1 else MUTED,
            linewidth=1.6 if amount == 1 else 0.8,
            linestyle="-" if amount == 1 else (0, (5, 3)),
            zorder=1,
        )
        axes.annotate(
            f"{100 * amount:g} %",
            (amount * memory, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color=MUTED,
        )
    for row, (point, rate) in enumerate(zip(others, rates, strict=True)):
        axes.plot(rate, row, "o", markersize=7, markerfacecolor=point.colour, markeredgecolor=INK, zorder=3)
        axes.annotate(
            share(point.of_roof),
            (rate, row),
            xytext=(-7, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
            color=INK,
            zorder=2,
            bbox={"facecolor": "#ffffff", "edgecolor": "none", "boxstyle": "square,pad=0.1"},
        )
    name_rows(axes, [point.name for point in others])
    axes.tick_params(axis="y", length=0)
    grid_behind(axes, "y")
    _decades(axes.xaxis, left, right, width)
    axes.set_xlabel("GB/s, of tensors read and written" if width == WIDE else "GB/s")


def _legend(axes: Axes) -> None:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"linestyle": "", "marker": "o", "markeredgecolor": INK}
    axes.legend(
        handles=[
            Line2D([], [], **look, markersize=6, markerfacecolor="white", label="allowed by the roof"),
            Line2D([], [], **look, markersize=8, markerfacecolor=FAINT, label="reached"),
        ],
        loc="upper left",
        frameon=False,
        fontsize=8,
        handletextpad=0.2,
    )
