"""The figure of the study `kernels`: how near each implementation comes to the roof."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from bench.cases import format_size
from reports.drawing import FAINT, Plot, finish, new_figure, round_numbers
from reports.kernel_study import Problem, problems
from reports.measured import Results
from reports.text import share

# Okabe and Ito's colours and shapes, by way.
LOOKS = {
    "eager": ("#0072B2", "s"),
    "sdpa": ("#A86F00", "^"),
    "compile": ("#009E73", "D"),
    "fused": ("#D55E00", "o"),
}


def roof(results: Results) -> Plot | None:
    """Share of the roof against batch: a column a stage, a row a model and size."""
    cores = [it for it in problems(results) if it.case.core and it.floors_s]
    shown = [it for it in cores if any(it.share_of_roof(name) for name in LOOKS)]
    if not shown:
        return None
    grid: dict[tuple[str, str], dict[str, list[Problem]]] = {}
    for it in shown:
        model, stage = it.case.core or ("", "")
        row = grid.setdefault((model, format_size(it.case.size)), {})
        row.setdefault(stage, []).append(it)
    stages = sorted({stage for row in grid.values() for stage in row})
    parts = [part for it in shown for name in LOOKS if (part := it.share_of_roof(name)) is not None]
    lowest = max(number for number in round_numbers(1e-6, 1) if number < min(parts))
    title = _roof_title(shown)
    subtitle = f"EMSAv2's core on {results.machine}; the roof is computed from its peaks."
    with new_figure(7.6, 1.1 + 1.75 * len(grid), title, subtitle) as figure:
        panels = figure.subplots(len(grid), len(stages), squeeze=False, sharey=True, sharex=True)
        for (model, of_size), row, of_row in zip(grid, grid.values(), panels, strict=True):
            of_row[0].set_ylabel(f"{model} at {of_size}\nshare of roof")
            for stage, axes in zip(stages, of_row, strict=True):
                _panel(axes, row.get(stage, []), lowest)
        for stage, top, bottom in zip(stages, panels[0], panels[-1], strict=True):
            top.set_title(f"stage {stage}")
            bottom.set_xlabel("batch")
        handles, labels = _legend(panels.flat)
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        alt = f"Share of the roof by stage, batch and implementation. {title}."
        return finish(figure, "kernels_roof", title, alt)


def _panel(axes: Axes, here: Sequence[Problem], lowest: float) -> None:
    for name, (colour, marker) in LOOKS.items():
        points = sorted((it.batch or 1, part) for it in here if (part := it.share_of_roof(name)) is not None)
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5, label=name)
    batches = sorted({it.batch or 1 for it in here})
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_xlim(min(batches, default=1) / 1.5, max(batches, default=1) * 1.5)
    axes.set_yscale("log")  # twice as fast is as high everywhere
    axes.set_ylim(lowest, 1)
    axes.set_yticks(round_numbers(lowest, 1), [f"{100 * value:g} %" for value in round_numbers(lowest, 1)])
    axes.minorticks_off()
    axes.grid(axis="y", color=FAINT, linewidth=0.6)


def _legend(panels: Iterable[Axes]) -> tuple[list[Artist], list[str]]:
    """Each way that is in any panel, once."""
    found: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    names = [name for name in LOOKS if name in found]
    return [found[name] for name in names], names


def _roof_title(shown: Sequence[Problem]) -> str:
    """The best that was reached, and by whom."""
    best, name, it = max(
        ((part, name, it) for it in shown for name in LOOKS if (part := it.share_of_roof(name)) is not None),
        key=lambda found: found[0],
    )
    at = f"{it.name} at {format_size(it.case.size)}, batch {it.batch}"
    return f"The nearest to the roof is {name}: {share(best)} of it in {at}"
