"""The figure of variants beside their reference: what a switch does to the MACs, beside what it does to the time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.stats import PRACTICAL
from reports.chapter import Told, grouped
from reports.figures import (
    FAINT,
    INK,
    MUTED,
    NARROW,
    WIDE,
    Plot,
    apart,
    finish,
    for_both,
    grid_behind,
    name_rows,
    new_figure,
    no_minor_ticks,
)
from reports.lines import ANALYSIS, Line
from reports.text import enumerated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TIME, MACS = "#D55E00", "#0072B2"
MACS_LOOK: dict[str, Any] = {
    **{"marker": "D", "markersize": 7, "linestyle": ""},
    **{"color": MACS, "markerfacecolor": "white", "markeredgewidth": 1.5},
}
TIME_LOOK: dict[str, Any] = {
    **{"marker": "o", "markersize": 7.5, "linestyle": ""},
    **{"color": TIME, "markeredgecolor": "white"},
}
PRINTED_LOOK: dict[str, Any] = {
    **{"marker": "^", "markersize": 7, "linestyle": ""},
    **{"color": MUTED, "markeredgecolor": "white"},
}
COLUMN = {WIDE: 46.0, NARROW: 40.0}  # points that a column of numbers right of the axes takes
ROW = {WIDE: 0.27, NARROW: 0.42}  # inches; on a phone a row's name stands above it
MOST_TICKS = {WIDE: 9, NARROW: 5}
# Where ticks may stand, as many of them as have room.
TICKS = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.3, 1.5, 1.75, 2, 2.5, 3, 4, 5, 7, 10)


@dataclass(frozen=True)
class Switch:
    """One case beside its reference, under every name that the paper's table has for it."""

    lines: Sequence[Line]

    @property
    def line(self) -> Line:
        """The first of the lines; all have the same case."""
        return self.lines[0]

    @property
    def _base(self) -> Line:
        assert self.line.reference  # `switches` gives no other
        return self.line.reference

    @property
    def label(self) -> str:
        """Its names with the panels in which each stands: `EMSA (c), w/o (a, b)`."""
        panels = grouped((line.title, line.panel.strip("()")) for line in self.lines)
        return ", ".join(
            f"{title} ({', '.join(letters)})" if any(letters) else title for title, letters in panels.items()
        )

    @property
    def reference(self) -> str:
        """The reference's name; in panels of a table it has one in each, and then the model's is used."""
        base = self._base
        return base.case.title if base.panel else base.name

    @property
    def macs(self) -> float:
        """Core MACs, as a multiple of the reference's."""
        return (self.line.macs(ANALYSIS) or 0) / (self._base.macs(ANALYSIS) or 1)

    @property
    def printed_time(self) -> float | None:
        """The time on the paper's machine, as a multiple of the reference's."""
        return 1 / self.line.times_printed if self.line.times_printed else None

    def time(self, looked_at: int) -> tuple[float, float, float]:
        """The time of an image, as a multiple of the reference's, taken in turns: value, low, high.

        Without an interval over visits the ends are the value: of one visit nothing is concluded.

        Args:
            looked_at: switches whose intervals are to hold together.
        """
        assert self.line.beside  # `switches` gives no other
        ratio = self.line.beside.among(looked_at)
        if ratio.low is None or ratio.high is None or ratio.within_run:
            return ratio.value, ratio.value, ratio.value
        return ratio.value, ratio.low, ratio.high

    def beyond_macs(self, looked_at: int) -> float:
        """The factor by which the time surely changes more than the MACs, either way.

        It is 1 where it may be the same, and where the CPU's launches were timed.

        Args:
            looked_at: switches of which the largest is picked.
        """
        assert self.line.beside
        ratio = self.line.beside.among(looked_at)
        if ratio.low is None or ratio.high is None or ratio.within_run or self.line.beside.is_launch_bound:
            return 1.0
        return max(ratio.low / self.macs, self.macs / ratio.high, 1.0)


def switches(lines: Sequence[Line]) -> list[Switch]:
    """The cases that are not references, once each, where both numbers are known for the case and its reference."""
    alike: dict[str, list[Line]] = {}
    for line in lines:
        base = line.reference
        if base and line.case != base.case and line.time_beside and _has_macs(line) and _has_macs(base):
            alike.setdefault(str(line.case), []).append(line)
    return [Switch(lines) for lines in alike.values()]


def _has_macs(line: Line) -> bool:
    """Whether its MACs are known, and not none."""
    return bool(line.macs(ANALYSIS))


def macs_against_time(told: Told) -> Plot | None:
    """The change in MACs and in time of each switch, a panel a reference; None where nothing is known of both."""
    shown = switches(told.shown)
    if not shown:
        return None
    return for_both(f"{told.study.name}_switches", lambda name, width: _drawn(told, shown, name, width))


def _drawn(told: Told, shown: Sequence[Switch], name: str, width: float) -> Plot:
    is_wide = width == WIDE
    groups = grouped((switch.reference, switch) for switch in shown)
    title = _title(shown)
    subtitle = f"Measured on {told.results.machine}. Multiples of the reference's; {ANALYSIS} MACs."
    if len(shown) > 1 and _has_bars(shown):  # as the title picks the furthest of all
        subtitle += f" Intervals are widened so that all {len(shown)} hold at once."
    height = (1.6 if is_wide else 2.0) + 0.5 * len(groups) + ROW[width] * len(shown)
    with new_figure(width, height, title, subtitle) as figure:
        panels = figure.subplots(
            len(groups),
            1,
            sharex=True,
            squeeze=False,
            height_ratios=[len(group) + 0.5 for group in groups.values()],
        )[:, 0].tolist()
        for axes, (reference, group) in zip(panels, groups.items(), strict=True):
            _panel(axes, group, len(shown), width)
            axes.set_title(f"Beside {reference}")
        _scale(panels, shown, MOST_TICKS[width])
        panels[-1].set_xlabel("times the reference's (log scale)")
        for column, text, colour in ((1, "MACs", MACS), (2, "time", TIME)):
            _note(
                panels[0], column * COLUMN[width], -1 if is_wide else -0.6, text, colour=colour, weight="bold"
            )
        _legend(figure, shown, None if is_wide else 1)
        alt = f"{told.chapter.title}: MACs and time of {len(shown)} variants beside their reference. {title}."
        return finish(figure, name, title, alt)


def _panel(axes: Axes, group: Sequence[Switch], looked_at: int, width: float) -> None:
    """Draw a row a switch: its MACs, its time with its interval, and the printed time."""
    for row, switch in enumerate(group):
        time, low, high = switch.time(looked_at)
        axes.plot([switch.macs, time], [row, row], color=FAINT, linewidth=3, zorder=1)
        axes.plot([low, high], [row, row], color=TIME, linewidth=1.2, marker="|", markersize=6, zorder=2)
        if switch.printed_time:
            axes.plot(switch.printed_time, row, **PRINTED_LOOK, zorder=3)
        axes.plot(switch.macs, row, **MACS_LOOK, zorder=4)
        axes.plot(time, row, **TIME_LOOK, zorder=5)
        _note(axes, COLUMN[width], row, _change(switch.macs))
        _note(axes, 2 * COLUMN[width], row, _change(time))
    axes.axvline(1, color=MUTED, linewidth=1, zorder=0)
    if width == WIDE:
        name_rows(axes, [switch.label for switch in group])
    else:
        _name_above(axes, [switch.label for switch in group])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _name_above(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows, each above what is drawn of it."""
    for row, name in enumerate(names):
        axes.annotate(
            name,
            (0, row),
            xycoords=("axes fraction", "data"),
            xytext=(0, 8),
            textcoords="offset points",
            color=INK,
            annotation_clip=False,
        )
    axes.set_yticks([])
    axes.set_ylim(len(names) - 0.6, -0.7)


def _note(
    axes: Axes, column: float, row: float, text: str, *, colour: str = INK, weight: str = "normal"
) -> None:
    """Write `text` right of the axes, `column` points from them, beside `row`."""
    axes.annotate(
        text,
        (1, row),
        xycoords=("axes fraction", "data"),
        xytext=(column, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=8.5,
        color=colour,
        fontweight=weight,
        annotation_clip=False,
    )


def _scale(panels: Sequence[Axes], shown: Sequence[Switch], most: int) -> None:
    """Give all panels one log scale that holds every point, with at most so many ticks, evenly."""
    ends = [
        end for switch in shown for end in (switch.macs, *switch.time(len(shown)), switch.printed_time or 1.0)
    ]
    low, high = min(*ends, 1.0), max(*ends, 1.0)
    margin = max(0.06 * math.log(high / low), 0.01)
    panels[0].set_xscale("log")
    panels[0].set_xlim(low * math.exp(-margin), high * math.exp(margin))
    near_one_first = sorted(TICKS, key=lambda tick: abs(math.log(tick)))
    ticks = apart([tick for tick in near_one_first if low <= tick <= high], math.log(high / low) / most)
    for axes in panels:
        axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
        no_minor_ticks(axes.xaxis)
        grid_behind(axes, "x")


def _has_bars(shown: Sequence[Switch]) -> bool:
    """Whether any of them has an interval over visits."""
    return any(low < high for _, low, high in (switch.time(len(shown)) for switch in shown))


def _legend(figure: Figure, shown: Sequence[Switch], columns: int | None) -> None:
    from matplotlib.lines import Line2D

    bar = "95 % interval" if _has_bars(shown) else "none, of one visit"
    handles = [
        Line2D([], [], **MACS_LOOK, label="MACs, counted"),
        Line2D([], [], **{**TIME_LOOK, "linestyle": "-"}, label=f"time here, in turns (bar: {bar})"),
    ]
    if any(switch.printed_time for switch in shown):
        handles.append(Line2D([], [], **PRINTED_LOOK, label="time on the paper's V100, as printed"))
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=columns or len(handles),
        frameon=False,
        fontsize=8,
        handletextpad=0.3,
        columnspacing=1.2,
    )


def _change(times: float) -> str:
    """A multiple as a change: `+12 %`; from twice on, `2.2×`."""
    if times >= 2:
        return f"{times:.1f}×"
    percent = 100 * (times - 1)
    if abs(percent) < 0.05:
        return "±0 %"
    return f"{percent:+.{0 if abs(percent) >= 9.95 else 1}f} %".replace("-", "−")


def _title(shown: Sequence[Switch]) -> str:
    """The figure's title: the switch whose time lies surely furthest from its MACs."""
    most = max(shown, key=lambda switch: switch.beyond_macs(len(shown)))
    if most.beyond_macs(len(shown)) < 1 + PRACTICAL:
        return "Of no switch the time is known to change otherwise than the MACs"
    title = enumerated(list(dict.fromkeys(line.name for line in most.lines)))
    return f"{title}: {most.macs:.2f}× the MACs of {most.reference}, {most.time(1)[0]:.2f}× its time"
