"""The figures, as SVG with its text kept as text, and as PNG. Readable in colour, in grey and in print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from bench.cases import format_size
from bench.stats import Estimate
from reports import branches, kernel_roof, macs_and_time, window_padding
from reports.drawing import FAINT, INK, OPERATORS, Plot, family_look, finish, new_figure, settle
from reports.labels import label_line_ends
from reports.lines import ANALYSIS, Line, shown_lines
from reports.measured import Results
from reports.pairs import study_pairs
from reports.scatter import throughput_against_macs
from reports.switches import macs_against_time
from reports.text import significant

OTHER_OPERATOR = ("#FFFFFF", "***")


def all_plots(results: Results) -> list[Plot]:
    """Every figure that the rows allow."""
    machine = results.machine
    table1, table2, table3, table4, table5, table6, sweep = (
        shown_lines(results, name)
        for name in ("table1", "table2", "table3", "table4", "table5", "table6", "sweep")
    )
    makers = (
        lambda: throughput_against_macs(table1, machine),
        lambda: macs_by_operator(table1),
        lambda: macs_against_time("table2", table2, machine),
        lambda: macs_and_time.styles(table3, study_pairs(results, "table3"), machine) if table3 else None,
        lambda: macs_against_time("table4", table4, machine),
        lambda: macs_against_time("table5", table5, machine),
        lambda: branches.figure1() if table6 else None,  # all of it printed numbers
        lambda: macs_against_time("table6", table6, machine),
        lambda: branches.figure3(results),
        lambda: branches.figure4(results),
        lambda: rate_against_batch(sweep, machine),
        lambda: rate_against_resolution(sweep, machine),
        lambda: kernel_roof.roof(results),
        lambda: window_padding.padding() if shown_lines(results, "windows") else None,
    )
    return [plot for make in makers if (plot := make())]


# ---- MACs by operator


def macs_by_operator(table1: Sequence[Line]) -> Plot | None:
    """Stacked bars in the table's order, one panel a size, because 384 pixels need three times the room."""
    shown = [line for line in table1 if line.macs(ANALYSIS)]
    if not shown:
        return None
    sizes = sorted({line.case.size for line in shown})
    groups = [[line for line in shown if line.case.size == size] for size in sizes]
    title = _operator_title(shown)
    height = 1.5 + 0.75 * len(groups) + 0.26 * len(shown)
    with new_figure(
        7.6, height, title, f"Nominal MACs in the {ANALYSIS} convention; counted, not measured."
    ) as figure:
        panels = figure.subplots(
            len(groups), 1, squeeze=False, height_ratios=[len(group) + 0.5 for group in groups]
        )
        for axes, group, size in zip(panels[:, 0], groups, sizes, strict=True):
            _stacked_bars(axes, group)
            axes.set_title(f"One image of {' × '.join(map(str, size))} pixels")
        panels[-1, 0].set_xlabel(
            "GMACs per image (each panel has its own scale)" if len(groups) > 1 else "GMACs per image"
        )
        used = [name for name in _operators(shown) if any(_operator_macs(line, name) for line in shown)]
        handles = [Patch(label=name, **_operator_look(name)) for name in used]
        panels[0, 0].legend(
            handles=handles,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=len(handles),
            frameon=False,
            fontsize=8.5,
            handlelength=2.2,
            handleheight=1.1,
        )
        alt = f"MACs by operator of {len(shown)} models, stacked bars. {title}."
        return finish(figure, "macs_by_operator", title, alt)


def _stacked_bars(axes: Axes, group: Sequence[Line]) -> None:
    rows = range(len(group))
    ends = [0.0] * len(group)
    for name in _operators(group):
        widths = [_operator_macs(line, name) / 1e9 for line in group]
        axes.barh(rows, widths, left=ends, height=0.72, **_operator_look(name))
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for row, end in zip(rows, ends, strict=True):
        axes.annotate(
            significant(end), (end, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.set_yticks(rows, [line.title for line in group], color=INK)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(group) - 0.5, -0.5)  # the table's first row on top
    axes.set_xlim(0, max(ends) * 1.1)
    axes.spines["left"].set_visible(False)


def _operators(shown: Sequence[Line]) -> list[str]:
    """Known ones in a fixed order, then whatever else a counter named."""
    named = {name for line in shown if line.counted for name in line.counted.by_operator(ANALYSIS)}
    return [name for name in OPERATORS if name in named] + sorted(named - set(OPERATORS))


def _operator_macs(line: Line, name: str) -> int:
    return line.counted.by_operator(ANALYSIS).get(name, 0) if line.counted else 0


def _operator_look(name: str) -> dict[str, Any]:
    colour, hatch = OPERATORS.get(name, OTHER_OPERATOR)
    return {"facecolor": colour, "hatch": hatch, "edgecolor": INK, "linewidth": 0.5}


def _operator_title(shown: Sequence[Line]) -> str:
    """The two models that lie furthest apart in their share of convolutions."""

    def share(line: Line) -> float:
        return _operator_macs(line, "conv") / (line.macs(ANALYSIS) or 1)

    least, most = min(shown, key=share), max(shown, key=share)
    if least is most:
        return f"Convolutions are {_part(share(most))} of {most.title}'s MACs"
    high, low = _part(share(most)), _part(share(least))
    return f"Convolutions are {high} of {most.title}'s MACs, {low} of {least.title}'s"


def _part(share: float) -> str:
    """In per cent; nearly all is not all, and nearly none is not none."""
    if 0.995 <= share < 1:
        return "over 99 %"
    return "under 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


# ---- the sweep: achieved rate against batch and against resolution


def rate_against_batch(sweep: Sequence[Line], machine: str) -> Plot | None:
    """Achieved core GMAC/s over the batch, at 224 pixels."""
    series = _series([line for line in sweep if line.is_usual_size], lambda line: float(line.batch or 0))
    return _rate_plot(
        series, "sweep_batch", "batch, images of 224 × 224 pixels", "batch {}", machine, _integer
    )


def rate_against_resolution(sweep: Sequence[Line], machine: str) -> Plot | None:
    """Achieved core GMAC/s over the image's pixels, at the batch that most sizes were run at."""
    batches = [line.batch for line in sweep if not line.is_usual_size]
    if not batches:
        return None
    batch = max(set(batches), key=batches.count)
    at = [line for line in sweep if line.batch == batch]
    sizes = {float(line.case.size[0] * line.case.size[1]): format_size(line.case.size) for line in at}
    series = _series(at, lambda line: float(line.case.size[0] * line.case.size[1]))
    axis = f"image side in pixels (axis: pixels per image, log), batch {batch}"
    return _rate_plot(series, "sweep_resolution", axis, "{} pixels", machine, lambda x: sizes.get(x, ""))


Series = dict[str, list[tuple[float, Estimate, Line]]]


def _series(shown: Sequence[Line], x: Callable[[Line], float]) -> Series:
    """Model's title → points in the order of x."""
    found: Series = {}
    for line in shown:
        if line.macs_per_s:
            found.setdefault(line.title, []).append((x(line), line.macs_per_s, line))
    return {
        title: sorted(points, key=lambda point: point[0])
        for title, points in found.items()
        if len(points) > 1
    }


def _rate_plot(
    series: Series, name: str, axis: str, what: str, machine: str, tick: Callable[[float], str]
) -> Plot | None:
    if not series:
        return None
    xs = sorted({x for points in series.values() for x, _, _ in points})
    title = _gain_title(series, what, tick)
    with new_figure(7.6, 4.6, title, f"Measured on {machine}. Core MACs.") as figure:
        axes = figure.subplots()
        for model, points in series.items():
            colour, marker = family_look(points[0][2].case.family)
            values = [rate.value / 1e9 for _, rate, _ in points]
            ends = [
                [rate.value - (rate.low or rate.value), (rate.high or rate.value) - rate.value]
                for _, rate, _ in points
            ]
            axes.errorbar(
                [x for x, _, _ in points],
                values,
                [[low / 1e9 for low, _ in ends], [high / 1e9 for _, high in ends]],
                color=colour,
                marker=marker,
                markersize=6,
                linewidth=1.6,
                capsize=3,
                label=model,
            )
        axes.set(xscale="log", xlabel=axis, ylabel="achieved GMAC/s")
        axes.set_xticks(xs, [tick(x) for x in xs])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(0, None)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        # the names stand right of the axes; the layout leaves room for them
        widest = max(series, key=len)
        room = axes.annotate(
            widest,
            (1, 0.5),
            xycoords="axes fraction",
            xytext=(10, 0),
            textcoords="offset points",
            weight="bold",
        )
        settle(figure)
        room.remove()
        last = {title: points[-1] for title, points in series.items()}
        label_line_ends(
            axes,
            [
                (x, rate.value / 1e9, title, family_look(line.case.family)[0])
                for title, (x, rate, line) in last.items()
            ],
        )
        alt = f"Achieved GMAC/s of {len(series)} models against {axis}. {title}."
        return finish(figure, name, title, alt)


def _gain_title(series: Series, what: str, tick: Callable[[float], str]) -> str:
    """Who gains most and who least from the smallest to the largest step."""

    def gain(model: str) -> float:
        points = series[model]
        return points[-1][1].value / points[0][1].value

    most, least = max(series, key=gain), min(series, key=gain)
    steps = what.format(" to ".join(tick(series[most][end][0]) for end in (0, -1)))
    rest = f", {least} {gain(least):.1f}×" if least != most else ""
    return f"From {steps} {most} reaches {gain(most):.1f}× the MACs a second{rest}"


def _integer(value: float) -> str:
    return f"{value:.0f}"
