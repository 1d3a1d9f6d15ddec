"""The study `kernels` as tables: an implementation a column, a core or a model a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bench.cases import IMPLS, RUN_OPTIONS, Case, format_size
from bench.stats import Estimate
from reports.about import about
from reports.lines import BYTES_OF, Line, shown_lines
from reports.measured import Results
from reports.pairs import Pair, study_pairs
from reports.table import Cell, Table, number, ratio, size, text
from reports.text import share, significant

SDPA_KERNEL = "sdpa="


def problem(case: Case) -> Case:
    """What is computed, whatever runs it and how."""
    options = tuple(option for option in case.options if option[0] not in RUN_OPTIONS)
    return replace(case, options=options, impl="eager")


def way(case: Case) -> str:
    """How it is run: the implementation, and what else the options of the run say. A graph is said in the caption."""
    options = dict(case.options)
    if "sdpa" in options:
        return f"{SDPA_KERNEL}{options['sdpa']}"
    return f"{case.impl} cold" if "cold" in options else case.impl


@dataclass(frozen=True)
class Problem:
    """One core or model, at one size and batch, with everything that ran it."""

    case: Case
    lines: dict[str, Line]  # by way
    pairs: dict[tuple[str, str], Pair]  # by the ways of the first and the second

    @property
    def name(self) -> str:
        return "{}, stage {}".format(*self.case.core) if self.case.core else self.case.title

    @property
    def batch(self) -> int | None:
        """As it ran; where memory halved that of some ways, the notes say so."""
        return max((line.batch or 0 for line in self.lines.values()), default=0) or self.case.batch

    @property
    def dtype(self) -> str | None:
        return next((line.dtype for line in self.lines.values()), None)

    @cached_property
    def floors_s(self) -> dict[str, float]:
        """Of an iteration at the batch that each way ran at."""
        return {name: floor for name, line in self.lines.items() if (floor := floor_s(line)) is not None}

    @property
    def floor_s(self) -> float | None:
        return max(self.floors_s.values(), default=None)

    def seconds(self, way: str) -> Estimate | None:
        line = self.lines.get(way)
        return line.seconds if line else None

    def share_of_roof(self, way: str) -> float | None:
        """The floor's time over the measured one: 1 cannot be done better."""
        seconds = self.seconds(way)
        return self.floors_s[way] / seconds.value if seconds and way in self.floors_s else None

    @property
    def fastest_sdpa(self) -> str | None:
        """Among the kernels of SDPA that were asked for one by one."""
        found = {
            name.removeprefix(SDPA_KERNEL): line.seconds.value
            for name, line in self.lines.items()
            if name.startswith(SDPA_KERNEL) and line.seconds
        }
        return min(found, key=lambda name: found[name], default=None)


def floor_s(line: Line) -> float | None:
    """Seconds of an iteration below which no implementation comes; None for a whole model, or an unknown peak."""
    if line.counted is None or line.counted.least_traffic is None or not line.dtype or not line.batch:
        return None
    for_image, for_batch = line.counted.least_traffic
    products = line.counted.by_operator("core").get("matmul", 0)
    moved = BYTES_OF[line.dtype] * (line.batch * for_image + for_batch)
    return line.results.peaks.floor_s(line.batch * products, moved, line.dtype)


def problems(results: Results) -> list[Problem]:
    """In the study's order, as far as they were tried."""
    found: dict[Case, Problem] = {}
    for line in shown_lines(results, "kernels"):
        key = problem(line.case)
        found.setdefault(key, Problem(key, {}, {})).lines[way(line.case)] = line
    for pair in study_pairs(results, "kernels"):
        key = problem(pair.first.case)
        if pair.comparison and key in found:
            found[key].pairs[way(pair.first.case), way(pair.second.case)] = pair
    return list(found.values())


# ---- tables

Column = tuple[bool, Callable[[Problem], Cell]]
WHO: dict[str, Column] = {
    "of": (False, lambda it: text(it.name)),
    "Size": (True, lambda it: size(it.case)),
    "batch": (True, lambda it: number(it.batch, str)),
    "dtype": (False, lambda it: text(it.dtype)),
}


def all_tables(results: Results, setting: str) -> list[Table]:
    """Of the cores, of the models, and of what was measured in turns; `setting` is of the whole study."""
    found = problems(results)
    cores, models = ([it for it in found if bool(it.case.core) is core] for core in (True, False))
    return [
        *_tables("kernels", about("kernels").title, _CORES, cores, setting, _caption(cores)),
        *_tables("kernels_models", "Whole models, by implementation", _MODELS, models, setting, ""),
        *_tables("kernels_pairs", "In turns", _RATIOS, found, setting, _RATIOS_CAPTION),
    ]


def _tables(
    name: str, title: str, columns: dict[str, Column], rows: Sequence[Problem], setting: str, caption: str
) -> list[Table]:
    """The one table, or none where there is nothing for it."""
    layout = {**WHO, **columns}
    if name == "kernels_pairs":
        rows = [it for it in rows if it.pairs]
    if not rows:
        return []
    made = Table(
        name,
        title,
        caption,
        list(layout),
        [[cell(it) for _, cell in layout.values()] for it in rows],
        [numeric for numeric, _ in layout.values()],
        _notes(rows) if name != "kernels_pairs" else [],
        setting=setting,
    )
    made = made.without(made.empty())
    there = [header for header in columns if header in made.headers]
    who = [header for header in WHO if header in made.headers]
    parts = [
        [*who, *there[start : start + 5]] for start in range(0, len(there), 5)
    ]  # as a terminal has room for
    return [replace(made, narrow=parts)]


def _microseconds(way: str) -> Column:
    def cell(it: Problem) -> Cell:
        line = it.lines.get(way)
        if line is not None and not line.seconds:
            return text(line.outcome)
        seconds = it.seconds(way)
        return number(1e6 * seconds.value if seconds else None, significant)

    return True, cell


def _images_per_s(way: str) -> Column:
    def cell(it: Problem) -> Cell:
        line = it.lines.get(way)
        if line is not None and not line.images_per_s:
            return text(line.outcome)
        return number(line.images_per_s.value if line and line.images_per_s else None, significant)

    return True, cell


def _mebibytes(way: str) -> Column:
    def cell(it: Problem) -> Cell:
        line = it.lines.get(way)
        peak = line.peak_memory_bytes if line else None
        return number(peak, lambda n: f"{n / 2**20:.0f}")

    return True, cell


def _ratio(first: str, second: str) -> Column:
    def cell(it: Problem) -> Cell:
        pair = it.pairs.get((first, second))
        if pair is None or pair.here is None:
            return text(pair.outcome if pair else None)
        return ratio(pair.here)

    return True, cell


_CORE_IMPLS = [impl for impl in IMPLS if impl not in ("fused+compile", "auto")]
_CORES: dict[str, Column] = {
    "floor, µs": (True, lambda it: number(1e6 * it.floor_s if it.floor_s else None, significant)),
    **{f"{impl}, µs": _microseconds(impl) for impl in _CORE_IMPLS},
    "fused, share of roof": (True, lambda it: number(it.share_of_roof("fused"), share)),
    "fastest SDPA kernel": (False, lambda it: text(it.fastest_sdpa)),
    **{f"{impl} cold, µs": _microseconds(f"{impl} cold") for impl in _CORE_IMPLS},
    **{f"{impl}, peak MiB": _mebibytes(impl) for impl in _CORE_IMPLS},
}
_MODELS: dict[str, Column] = {
    **{f"{impl}, images/s": _images_per_s(impl) for impl in IMPLS if impl != "auto"},
    **{f"{impl}, peak MiB": _mebibytes(impl) for impl in IMPLS if impl != "auto"},
}
_RATIOS: dict[str, Column] = {
    f"{first} / {second}": _ratio(first, second)
    for first, second in (
        *((impl, "fused") for impl in ("eager", "sdpa", "compile")),
        ("compile", "fused+compile"),
        *((impl, "eager") for impl in ("sdpa", "compile")),
    )
}
_RATIOS_CAPTION = (
    "How many times as long the first takes as the second, with a 95 % interval. Measured in turns (A B B A), so that "
    "a drift of the machine favours neither."
)


def _caption(cores: Sequence[Problem]) -> str:
    """What the columns are."""
    graph = any(line.case.has("graph") for it in cores for line in it.lines.values())
    how = "Replayed from CUDA graphs, so that no launch is waited for. " if graph else ""
    return f"{how}µs are of one call for the whole batch, back to back; cold ones with the caches flushed before each."


def _notes(rows: Sequence[Problem]) -> list[str]:
    """What a reader must know of single cells; those with the same note share a line."""
    whose: dict[str, list[str]] = {}
    for it in rows:
        for name, line in it.lines.items():
            for note in line.timing.notes if line.timing else ():
                at = f" at {format_size(it.case.size)}, batch {it.case.batch}" if it.case.batch else ""
                whose.setdefault(note, []).append(f"{it.name}{at}, {name}")
    return [
        f"{'; '.join(names) if len(names) <= 3 else f'{len(names)} measurements'}: {note}"
        for note, names in whose.items()
    ]
