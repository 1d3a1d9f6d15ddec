"""The figure of Table 3: MACs by operator beside the time by part of the model, style by style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports import drawing
from reports.detection import OPERATORS, PARTS, counted_by_column, windows_pair
from reports.drawing import INK, MUTED, Plot, finish, new_figure
from reports.lines import Line
from reports.pairs import Pair
from reports.text import significant

LOOKS = {
    **drawing.OPERATORS,
    "others": drawing.OPERATORS["norm"],  # which is nearly all of them
    "backbone": ("#D55E00", ""),
    "fpn": ("#E8C7A4", "///"),
    "rpn": ("#FBE9DA", "..."),
    "heads": ("#BDBDBD", "xxx"),
}


def styles(lines: Sequence[Line], pairs: Sequence[Pair], machine: str) -> Plot | None:
    """Two panels that share their rows; None where no line is both counted and taken apart."""
    shown = [line for line in lines if line.counted and "fvcore" in line.counted.macs and line.parts]
    if not shown:
        return None
    title = _title(pairs)
    with new_figure(7.6, 1.75 + 0.42 * len(shown), title, f"Time measured on {machine}.") as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        macs = [
            {name: each / 1e9 for name, each in counted_by_column(line.counted).items()}
            for line in shown
            if line.counted
        ]
        times = [{name: 1e3 * each.value for name, each in line.parts.items()} for line in shown]
        _bars(left, macs, list(OPERATORS))
        _bars(right, times, [name for name in PARTS if any(name in each for each in times)])
        left.set_yticks(range(len(shown)), [line.title for line in shown], color=INK)
        left.set_ylim(len(shown) - 0.5, -0.5)  # the table's first row on top
        left.set_xlabel("GMACs an image, counted")
        right.set_xlabel("ms an image, measured")
        _printed(right, shown)
        _legends(figure, left, right)
        alt = f"MACs by operator and time by part of Mask R-CNN in {len(shown)} styles. {title}."
        return finish(figure, "table3_macs_and_time", title, alt)


def _bars(axes: Axes, rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> None:
    ends = [0.0] * len(rows)
    for name in names:
        widths = [row.get(name, 0.0) for row in rows]
        colour, hatch = LOOKS[name]
        axes.barh(
            range(len(rows)),
            widths,
            left=ends,
            height=0.66,
            label=PARTS.get(name, name),
            facecolor=colour,
            hatch=hatch,
            edgecolor=INK,
            linewidth=0.5,
        )
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for row, end in enumerate(ends):
        axes.annotate(
            significant(end), (end, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.18 * max(ends))
    axes.spines["left"].set_visible(False)


def _printed(axes: Axes, shown: Sequence[Line]) -> None:
    """The paper's times at the scale on which its global style takes as long as here."""
    labels = ["the paper's V100, scaled to Global"]
    for row, line in enumerate(shown):
        base = line.reference
        if line.times_printed and base and base.seconds and base.case != line.case:
            at = 1e3 * base.seconds.value / line.times_printed
            axes.plot(
                at,
                row,
                marker="^",
                markersize=7,
                linestyle="",
                color=MUTED,
                markeredgecolor="white",
                label=labels.pop() if labels else "",
                zorder=5,
            )
            axes.set_xlim(0, max(axes.get_xlim()[1], 1.08 * at))


def _legends(figure: Figure, left: Axes, right: Axes) -> None:
    handles, labels = left.get_legend_handles_labels()
    how: dict[str, Any] = {"frameon": False, "fontsize": 8, "columnspacing": 1.0}
    figure.legend(handles, labels, loc="outside lower left", ncols=2, **how)
    handles, labels = right.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda at: labels[at] not in PARTS.values())  # the parts first
    handles, labels = [handles[at] for at in order], [labels[at] for at in order]
    figure.legend(handles, labels, loc="outside lower right", ncols=3, **how)


def _title(pairs: Sequence[Pair]) -> str:
    """Windows beside global attention, as the two were compared; where they were not, only what is shown."""
    pair = windows_pair(pairs)
    if pair is None or pair.here is None or not (pair.first.macs() and pair.second.macs()):
        return "MACs and time of Mask R-CNN by style of attention"
    macs = (pair.first.macs() or 0) / (pair.second.macs() or 1)
    return (
        f"Windows: {macs:.2f}× the MACs of global attention in Mask R-CNN, {pair.here.value:.2f}× its time here, "
        f"{pair.printed:.2f}× in the paper"
    )
