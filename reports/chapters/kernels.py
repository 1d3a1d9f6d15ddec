"""The fused kernels beside eager, SDPA and torch.compile: a core, MLP or model a row, an implementation a column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.cases import IMPLS, RUN_OPTIONS, Case, format_size
from bench.stats import Estimate
from bench.studies import SDPA_KERNELS
from bench.traffic import BYTES_OF
from reports.chapter import MANY, Chapter, Told, grouped, pair_notes, setting
from reports.columns import COUNT, MEBIBYTES, NUMBER, RATIO_WITH_INTERVAL, SHARE, SIZE, Column
from reports.figures import FAINT, WIDE, Plot, finish, for_both, new_figure, round_numbers
from reports.lines import Line, Pair
from reports.tables import Table, made_of
from reports.text import share

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

SDPA_KERNEL = "sdpa="
IN_WINDOWS = " in windows"
COLD = " cold"  # what the name of a way ends with where the caches were flushed before each call
COLUMNS_AT_ONCE = 5  # that a terminal has room for beside those that say which row it is


def problem(case: Case) -> Case:
    """The case without how it is run: what is computed, whatever runs it."""
    options = tuple(option for option in case.options if option[0] not in RUN_OPTIONS)
    return replace(case, options=options, impl="eager")


def way(case: Case) -> str:
    """Implementation and run options of a case, as a column's name; `graph` is left to the caption."""
    options = dict(case.options)
    if "sdpa" in options:
        return f"{SDPA_KERNEL}{options['sdpa']}"
    return f"{case.impl}{COLD}" if "cold" in options else case.impl


@dataclass(frozen=True)
class Problem:
    """One core or model, at one size and batch, with everything that ran it."""

    case: Case
    lines: dict[str, Line]  # by way
    pairs: dict[tuple[str, str], Pair]  # by the ways of the first and the second

    @property
    def name(self) -> str:
        """The model, with the stage of a core or an MLP."""
        if self.case.core:
            return "{}, stage {}".format(*self.case.core)
        if part := self.case.attention:
            where = "in windows" if self.case.windowed else "over the map"
            return f"attention of {part.of.title} {where}, stage {part.stage}"
        return "MLP of {}, stage {}".format(*self.case.mlp) if self.case.mlp else self.case.title

    @property
    def batch(self) -> int | None:
        """The largest batch that it ran at; where memory halved that of some ways, the notes say so."""
        return max((line.batch or 0 for line in self.lines.values()), default=0) or self.case.batch

    @property
    def dtype(self) -> str | None:
        """The dtype of all."""
        return next((line.dtype for line in self.lines.values()), None)

    @cached_property
    def floors_s(self) -> dict[str, float]:
        """Seconds below which an iteration cannot be done, at the batch that each way ran at."""
        return {name: floor for name, line in self.lines.items() if (floor := floor_s(line)) is not None}

    @property
    def floor_s(self) -> float | None:
        """Seconds below which an iteration cannot be done, at the largest batch."""
        return max(self.floors_s.values(), default=None)

    def seconds(self, way: str) -> Estimate | None:
        """Seconds of an iteration, run this way."""
        line = self.lines.get(way)
        return line.seconds if line else None

    def share_of_floor(self, way: str) -> float | None:
        """The floor's time over the measured one."""
        seconds = self.seconds(way)
        return self.floors_s[way] / seconds.value if seconds and way in self.floors_s else None

    def share_of_roof(self, way: str) -> float | None:
        """The floor's time over that of a cold call: 1 cannot be done better. None where launches were timed.

        The floor counts what memory moves, which a call that finds its tensors in a cache does not wait for.
        """
        if any(self.lines[name].is_launch_bound for name in (way, f"{way}{COLD}") if name in self.lines):
            return None
        return self.share_of_floor(f"{way}{COLD}")


def floor_s(line: Line) -> float | None:
    """Seconds of an iteration below which no implementation comes; None for a whole model, or an unknown peak."""
    if line.counted is None or line.counted.least_traffic is None or not line.dtype or not line.batch:
        return None
    for_image, for_batch = line.counted.least_traffic
    by_operator = line.counted.by_operator("core")
    products = by_operator.get("matmul", 0) + by_operator.get("linear", 0)
    moved = BYTES_OF[line.dtype] * (line.batch * for_image + for_batch)
    return line.results.peaks.floor_s(line.batch * products, moved, line.dtype)


def problems(told: Told) -> list[Problem]:
    """The problems in the study's order, as far as they were tried."""
    by_case: dict[Case, Problem] = {}
    for line in told.shown:
        case = problem(line.case)
        by_case.setdefault(case, Problem(case, {}, {})).lines[way(line.case)] = line
    for pair in told.pairs:
        case = problem(pair.first.case)
        if pair.comparison and case in by_case:
            is_other = problem(pair.second.case) != case  # the same block without windows, and in them
            second = f"{way(pair.second.case)}{IN_WINDOWS * is_other}"
            by_case[case].pairs[way(pair.first.case), second] = pair
    return list(by_case.values())


# ---- tables


def _of_way(way: str, value: Callable[[Line], float | int | None]) -> Callable[[Problem], float | int | None]:
    """A value of the line that ran a problem this way."""

    def value_of_way(problem: Problem) -> float | int | None:
        line = problem.lines.get(way)
        return value(line) if line else None

    return value_of_way


def _outcome(way: str) -> Callable[[Problem], str | None]:
    """The outcome of a problem run this way; None where nobody has tried."""
    return lambda problem: problem.lines[way].outcome if way in problem.lines else None


def _microseconds(way: str) -> Column[Problem]:
    def microseconds(line: Line) -> float | None:
        return 1e6 * line.seconds.value if line.seconds else None

    return Column(f"{way}_us", f"{way}, µs", _of_way(way, microseconds), NUMBER, _outcome(way))


def _images_per_s(way: str) -> Column[Problem]:
    def images_per_s(line: Line) -> float | None:
        return line.images_per_s.value if line.images_per_s else None

    name, header = f"{way}_images_per_s", f"{way}, images/s"
    return Column(name, header, _of_way(way, images_per_s), NUMBER, _outcome(way))


def _peak_memory(way: str) -> Column[Problem]:
    value = _of_way(way, lambda line: line.peak_memory_bytes)
    return Column(f"{way}_peak_memory_bytes", f"{way}, peak MiB", value, MEBIBYTES)


def _ratio(first: str, second: str) -> Column[Problem]:
    def ratio(problem: Problem) -> Estimate | None:
        pair = problem.pairs.get((first, second))
        return pair.here if pair else None

    def outcome(problem: Problem) -> str | None:
        pair = problem.pairs.get((first, second))
        return pair.outcome if pair else None

    return Column(f"{first}_by_{second}", f"{first} / {second}", ratio, RATIO_WITH_INTERVAL, outcome)


WHO: tuple[Column[Problem], ...] = (
    Column("name", "of", lambda problem: problem.name),
    Column("size", "Size", lambda problem: problem.case, SIZE),
    Column("batch", "batch", lambda problem: problem.batch, COUNT),
    Column("dtype", "dtype", lambda problem: problem.dtype),
)
_CORE_IMPLS = [impl for impl in IMPLS if impl not in ("fused+compile", "auto")]
_MODEL_IMPLS = [impl for impl in IMPLS if impl != "auto"]
CORES: tuple[Column[Problem], ...] = (
    Column("floor_us", "floor, µs", lambda problem: problem.floor_s and 1e6 * problem.floor_s, NUMBER),
    *map(_microseconds, _CORE_IMPLS),
    Column("share_of_roof", "fused, share of roof", lambda problem: problem.share_of_roof("fused"), SHARE),
    *(_microseconds(f"{SDPA_KERNEL}{kernel}") for kernel in SDPA_KERNELS["cuda"]),
    *(_microseconds(f"{impl}{COLD}") for impl in _CORE_IMPLS),
    *map(_peak_memory, _CORE_IMPLS),
)
MODELS: tuple[Column[Problem], ...] = (
    *map(_images_per_s, _MODEL_IMPLS),
    *map(_peak_memory, _MODEL_IMPLS),
)
RATIOS: tuple[Column[Problem], ...] = (
    *(_ratio(impl, "fused") for impl in ("eager", "sdpa", "compile")),
    _ratio("compile", "fused+compile"),
    _ratio("fused", f"fused{IN_WINDOWS}"),
    *(_ratio(impl, "eager") for impl in ("sdpa", "compile")),
)
RATIOS_CAPTION = (
    "How many times as long the first takes as the second, with a 95 % interval. Measured in turns (A B B A), so that "
    "a drift of the machine favours neither."
)


def all_tables(told: Told) -> list[Table]:
    """The tables of cores, MLPs and models, and of what was measured in turns, as far as there is something."""
    rows, machine = problems(told), setting(told.results, told.shown)
    cores = [problem for problem in rows if problem.case.core]
    mlps = [problem for problem in rows if problem.case.mlp]
    attentions = [problem for problem in rows if problem.case.attention]
    models = [problem for problem in rows if not problem.case.takes_tokens]
    compared = [problem for problem in rows if problem.pairs]
    in_turns = pair_notes([pair for pair in told.pairs if pair.comparison], "comparisons")
    mlps_title, models_title = "The MLP alone, by implementation", "Whole models, by implementation"
    attentions_title = "A block's attention in windows, by implementation"
    return [
        *_tables("kernels", told.chapter.title, CORES, cores, machine, _caption(cores), _notes(cores)),
        *_tables("kernels_mlp", mlps_title, CORES, mlps, machine, _caption(mlps), _notes(mlps)),
        *_tables(
            "kernels_attention",
            attentions_title,
            CORES,
            attentions,
            machine,
            _caption(attentions),
            _notes(attentions),
        ),
        *_tables("kernels_models", models_title, MODELS, models, machine, "", _notes(models)),
        *_tables("kernels_pairs", "In turns", RATIOS, compared, machine, RATIOS_CAPTION, in_turns),
    ]


def _tables(
    name: str,
    title: str,
    columns: Sequence[Column[Problem]],
    rows: Sequence[Problem],
    machine: str,
    caption: str,
    notes: Sequence[str],
) -> list[Table]:
    """The one table without its empty columns, or none where there is nothing for it."""
    if not rows:
        return []
    table = made_of([*WHO, *columns], rows, name, title, caption, notes=notes, setting=machine)
    table = table.without(table.empty())
    who = [column.header for column in WHO if column.header in table.headers]
    there = [header for header in table.headers if header not in who]
    parts = [
        [*who, *there[start : start + COLUMNS_AT_ONCE]] for start in range(0, len(there), COLUMNS_AT_ONCE)
    ]
    return [replace(table, narrow=parts)]


def _caption(cores: Sequence[Problem]) -> str:
    """The caption of the cores' table: what its columns are."""
    has_graph = any(line.case.has("graph") for problem in cores for line in problem.lines.values())
    how = "Replayed from CUDA graphs, so that no launch is waited for. " if has_graph else ""
    return (
        f"{how}µs are of one call for the whole batch, back to back; cold ones with the caches flushed before each, "
        "and the share of the roof is of those."
    )


def _notes(rows: Sequence[Problem]) -> list[str]:
    """Notes on single cells; those with the same note share a line."""
    whose = grouped(
        (note, f"{problem.name}{_where(problem.case)}, {name}")
        for problem in rows
        for name, line in problem.lines.items()
        if line.timing
        for note in [*line.timing.notes, *_below_floor(problem, name)]
    )
    return [
        f"{'; '.join(names) if len(names) <= MANY else f'{len(names)} measurements'}: {note}"
        for note, names in whose.items()
    ]


def _below_floor(problem: Problem, way: str) -> list[str]:
    """A note where a way takes less than the floor allows; none elsewhere."""
    if (problem.share_of_floor(way) or 0) <= 1:
        return []
    cached = "" if way.endswith(COLD) else "tensors stayed in a cache, or "
    return [f"faster than the floor: {cached}the peaks of the device are too low"]


def _where(case: Case) -> str:
    return f" at {format_size(case.size)}, batch {case.batch}" if case.batch else ""


# ---- the figure: how near each implementation comes to the roof

# Okabe and Ito's colours and shapes, by way.
LOOKS = {
    "eager": ("#0072B2", "s"),
    "sdpa": ("#A86F00", "^"),
    "compile": ("#009E73", "D"),
    "fused": ("#D55E00", "o"),
}


@dataclass(frozen=True)
class Mark:
    """One point of the figure: a problem, run one way, and its share of the roof."""

    problem: Problem
    way: str
    share: float


def roof(told: Told) -> Plot | None:
    """Share of the roof against batch: a column a stage, a row a model and size."""
    marks = [
        Mark(problem, name, reached)
        for problem in problems(told)
        if problem.case.core
        for name in LOOKS
        if (reached := problem.share_of_roof(name)) is not None
    ]
    if not marks:
        return None
    return for_both("kernels_roof", lambda name, width: _drawn(told, marks, name, width))


def _drawn(told: Told, marks: Sequence[Mark], name: str, width: float) -> Plot:
    grid, is_wide = _grid(marks), width == WIDE
    stages = sorted({stage for row in grid.values() for stage in row})
    lowest = max(number for number in round_numbers(1e-6, 1) if number < min(mark.share for mark in marks))
    title = _roof_title(marks)
    subtitle = f"EMSAv2's core on {told.results.machine}, cold; the roof is computed from its peaks."
    with new_figure(width, 1.1 + 1.75 * len(grid), title, subtitle) as figure:
        panels = figure.subplots(len(grid), len(stages), squeeze=False, sharey=True, sharex=True)
        _scale(panels, marks, lowest, is_wide)
        for (model, size), row, row_panels in zip(grid, grid.values(), panels, strict=True):
            row_panels[0].set_ylabel(f"{model} at {size}\nshare of roof")
            for stage, axes in zip(stages, row_panels, strict=True):
                _panel(axes, row.get(stage, []), 5 if is_wide else 3.5)
        for stage, top, bottom in zip(stages, panels[0], panels[-1], strict=True):
            top.set_title(f"stage {stage}")
            bottom.set_xlabel("batch")
        handles, labels = _legend(panels.flat)
        columns = len(labels) if is_wide else 2
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
        alt = f"Share of the roof by stage, batch and implementation. {title}."
        return finish(figure, name, title, alt)


def _grid(marks: Sequence[Mark]) -> Mapping[tuple[str, str], Mapping[str, Sequence[Mark]]]:
    """The marks by model and size, then by stage."""
    grid: dict[tuple[str, str], dict[str, list[Mark]]] = {}
    for mark in marks:
        case = mark.problem.case
        model, stage = case.core or ("", "")
        row = grid.setdefault((model, format_size(case.size)), {})
        row.setdefault(stage, []).append(mark)
    return grid


def _scale(panels: Any, marks: Sequence[Mark], lowest: float, is_wide: bool) -> None:
    """Give all panels the same two log axes, on which twice as fast is as high everywhere; the outer ones name them."""
    batches = sorted({mark.problem.batch or 1 for mark in marks})
    named = batches if is_wide else {batches[0], batches[-1]}
    shares = round_numbers(lowest, 1)
    one = panels[0, 0]  # of all, for they share their axes
    one.set_xscale("log", base=2)
    one.set_xticks(batches, [str(batch) if batch in named else "" for batch in batches])
    one.set_xlim(min(batches) / 1.5, max(batches) * 1.5)
    one.set_yscale("log")
    one.set_ylim(lowest, max(1.0, 1.1 * max(mark.share for mark in marks)))
    one.set_yticks(shares, [f"{100 * value:g} %" for value in shares])
    for axes in panels.flat:
        axes.minorticks_off()
        # one artist for all lines: a grid has one for each, and drawing it took most of the figure's time
        axes.hlines(
            shares, 0, 1, transform=axes.get_yaxis_transform(), color=FAINT, linewidth=0.6, zorder=0.5
        )
    # nobody reads the inner ticks, and they take as long as the outer ones
    for axis in (*(axes.xaxis for axes in panels[:-1].flat), *(axes.yaxis for axes in panels[:, 1:].flat)):
        axis.set_visible(False)


def _panel(axes: Axes, marks: Sequence[Mark], size: float) -> None:
    """Draw a line a way over the batch."""
    for name, (colour, marker) in LOOKS.items():
        points = sorted((mark.problem.batch or 1, mark.share) for mark in marks if mark.way == name)
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=size, label=name)


def _legend(panels: Iterable[Axes]) -> tuple[list[Artist], list[str]]:
    """Handles and names of the ways that are in any panel, once each."""
    by_name: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        by_name |= dict(zip(labels, handles, strict=True))
    names = [name for name in LOOKS if name in by_name]
    return [by_name[name] for name in names], names


def _roof_title(marks: Sequence[Mark]) -> str:
    """The figure's title: the best that was reached, and by whom."""
    best = max(marks, key=lambda mark: mark.share)
    problem = best.problem
    where = f"{problem.name} at {format_size(problem.case.size)}, batch {problem.batch}"
    return f"The nearest to the roof is {best.way}: {share(best.share)} of it in {where}"


CHAPTERS = (
    Chapter(
        study="kernels",
        title="EMSAv2 alone, by implementation",
        heading="The fused kernels beside eager, SDPA and torch.compile",
        nav="Kernels",
        text="What lies between the projections of EMSAv2, softmax(q kᵀ / √d) v + LayerNorm(PixelShuffle(DWConv(v))), "
        "for each stage. The floor is the time in which the device could move q, k, v, the parameters and the output "
        "once, or do the two matrix products at its peak, whichever is longer; it is computed, not measured. The "
        "MLP of a block, fc1, GELU and fc2, is a kernel too, in half precision and for up to 256 channels; `fused` and "
        "`auto` run both kernels wherever they can.",
        is_long=True,
        tables=all_tables,
        figures=(roof,),
    ),
)
