"""A results folder as the reports need it: each row checked once, and found by the case it answers."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench import record, roofline, studies, visits
from bench.cases import Case, parsed, unknown
from bench.errors import Failure, UsageError
from bench.jobs import HARNESSES
from bench.record import Row
from bench.studies import STUDIES
from bench.study import Study
from bench.text import printable
from reports import nodes
from reports.branch_rows import READERS
from reports.measurements import Comparison, Counts, Measured, Profiled, Timing, comparison
from reports.nodes import Node
from reports.rows import check_peaks, check_shape, shown

if TYPE_CHECKING:
    from reports.beside import Device

TYPE = ("kind", "name", "mig", "memory_gib", "compute_capability")  # as `Device.type` has it
TIMED = tuple(name for name, harness in HARNESSES.items() if harness.is_timed)
AnyMeasured = TypeVar("AnyMeasured", bound=Measured)
Answer = Timing | Comparison | Counts | Row
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass
class Results:
    """One device's measurements: the newest row of each key, oldest first, and what could not be read."""

    key: str
    folder: Path
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    timings: dict[str, list[Timing]] = field(default_factory=lambda: {name: [] for name in TIMED})
    comparisons: list[Comparison] = field(default_factory=list)
    counts: list[Counts] = field(default_factory=list)
    others: list[Row] = field(default_factory=list)  # peaks, and the analyses of branches
    own_studies: dict[str, Study] = field(default_factory=dict)  # a user's, from files beside the rows
    beside: list[Device] = field(default_factory=list)  # others, whose results stand beside these
    nodes: list[Node] = field(default_factory=list)  # devices of this type that measured the same cases

    @property
    def device(self) -> dict[str, Any]:
        """The device, as the newest row has it."""
        return self.rows[-1].get("device") or {}

    @property
    def kind(self) -> str:
        """The kind of device, as studies have it: cuda or cpu."""
        return "cuda" if self.on_gpu else "cpu"

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.get("kind") == "cuda"

    @property
    def machine(self) -> str:
        """One line on what was measured, fit for a caption."""
        name = str(self.device.get("name") or self.key)
        threads = (self.rows[-1].get("environment") or {}).get("threads")
        if not self.on_gpu:
            return f"{name}{f', {threads} threads' if threads else ''} (not run on a GPU)"
        mig = self.device.get("mig")
        return f"{name}{f', MIG slice {mig}' if mig else ''}"

    @cached_property
    def peaks(self) -> roofline.Peaks:
        """The device's upper bounds: a GPU's from its profile, a CPU's as they were measured."""
        measured = [
            row["result"] for row in self.others if row["harness"] == "peaks" and row["outcome"] == "ok"
        ]
        return roofline.peaks_of(self.device, measured[-1] if measured else None)

    # ---- studies

    @property
    def studies(self) -> dict[str, Study]:
        """Every study that is known here: the built-in ones, then the user's own."""
        return {**STUDIES, **self.own_studies}

    def study(self, name: str) -> Study:
        """The study of a name.

        Raises:
            UsageError: no such study, with the nearest name there is.
        """
        known = self.studies
        if name not in known:
            raise unknown("study", name, known)
        return known[name]

    @cached_property
    def ran(self) -> list[str]:
        """The studies that were run here, in the order of `studies`.

        A run leaves the file of its study even where earlier studies had measured every row of it already.
        """
        named = {str(row.get("study")) for row in self.rows}
        named |= {path.name.partition(".")[0] for path in self.folder.glob("*.jsonl")}  # of each shard
        return [name for name in self.studies if name in named]

    @cached_property
    def _cases_of(self) -> dict[str, frozenset[Case]]:
        """The cases that each study asks for in a whole run."""
        return {
            name: frozenset(parsed(text) for text in study.cases(self.kind, False))
            for name, study in self.studies.items()
        }

    def protocols(self, study: str) -> set[str]:
        """The names of the protocols under which rows of a study were timed."""
        timed = [timing for timings in self.timings.values() for timing in timings]
        return {row.protocol for row in (*timed, *self.comparisons) if str(row.row.get("study")) == study}

    # ---- which row answers a case

    def timing(self, asked: Case, study: Study) -> Timing | None:
        """The row that answers `asked` in `study`, which may leave batch and dtype open.

        Where several do, one at the batch and dtype that the study ran at: a model timed by hand at batch 1 must
        not slip into a table of batch 64. Of those the code and the versions of the newest decide, then that it was
        measured at all, then that it is no quick look.
        """
        answering = [
            timing
            for timing in self._timings_of.get((study.harness, asked.left_open), [])
            if answers(timing.case, asked)
        ]
        ours = self._timings_for.get((study.harness, study.name), [])
        if not ours:  # every row of it was there before it ran: an earlier study had asked for the same
            asking = {name for name, cases in self._cases_of.items() if asked in cases}
            ours = [timing for timing in answering if str(timing.row.get("study")) in asking]
        usual = asked.resolve(ours[-1].case.batch or 1, ours[-1].case.dtype or "fp32") if ours else asked
        return self._best(answering, lambda timing: timing.case == usual)

    def comparison(self, first: Case, other: Case, study: Study) -> Comparison | None:
        """The row that compares the two; where several do, that at the batch and dtype of the study's timings."""
        timing = self.timing(first, study)
        answering = [
            comparison
            for comparison in self._comparisons_of.get((first.left_open, other.left_open), [])
            if answers(comparison.case, first)
            and answers(comparison.other, other)
            and (comparison.case.batch == comparison.other.batch or (first.batch and other.batch))
            and comparison.case.dtype == comparison.other.dtype
        ]
        return self._best(answering, lambda row: timing is not None and row.case == timing.case)

    def in_turns(self, first: Case, other: Case) -> Comparison | None:
        """The row that compares two of the paper's cases as it runs them: eager, inference, one batch, one dtype.

        Whatever study asked for it.
        """
        names = first.paper_name, other.paper_name
        answering = [
            row
            for row in self.comparisons
            if (row.case.paper_name, row.other.paper_name) == names
            and all(case.left_open == case.without_run for case in row.cases)
            and (row.case.batch, row.case.dtype) == (row.other.batch, row.other.dtype)
        ]
        return self._best(answering, lambda row: True)

    def counted(self, asked: Case) -> Counts | None:
        """The newest count of the same mathematics, whatever ran it, and whether it was then trained."""
        same = self._counts_of.get(asked.mathematics, [])
        return next((counts for counts in reversed(same) if counts.ok), same[-1] if same else None)

    def _best(
        self, answering: Sequence[AnyMeasured], is_wanted: Callable[[AnyMeasured], bool]
    ) -> AnyMeasured | None:
        """The one to show of rows that answer the same, oldest first.

        An old result of other code, or of another torch, must not stand for a new quick look; nor one that failed for
        one that did not.
        """
        answering = [measured for measured in answering if is_wanted(measured)] or list(answering)
        alike = [measured for measured in answering if not measured.unlike(answering[-1])]
        # the newest is the last of those that rank highest, and max gives the first
        return max(
            reversed(alike), key=lambda measured: (measured.ok, measured.protocol != "quick"), default=None
        )

    def newest(self, study: Study) -> Timing | None:
        """The newest row that the study itself measured: what code and versions its other rows are held against."""
        return next(reversed(self._timings_for.get((study.harness, study.name), [])), None)

    # A study of a thousand cases asks for each of them: looking through all rows every time would take minutes.

    @cached_property
    def _timings_of(self) -> dict[tuple[str, Case], list[Timing]]:
        timings = ((name, timing) for name in TIMED for timing in self.timings[name])
        return grouped(((name, timing.case.left_open), timing) for name, timing in timings)

    @cached_property
    def _timings_for(self) -> dict[tuple[str, str], list[Timing]]:
        timings = ((name, timing) for name in TIMED for timing in self.timings[name])
        return grouped(((name, str(timing.row.get("study"))), timing) for name, timing in timings)

    @cached_property
    def _comparisons_of(self) -> dict[tuple[Case, Case], list[Comparison]]:
        return grouped(((row.case.left_open, row.other.left_open), row) for row in self.comparisons)

    @cached_property
    def _counts_of(self) -> dict[tuple[Any, ...], list[Counts]]:
        return grouped((counts.case.mathematics, counts) for counts in self.counts)


def grouped(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    """The values of each key, in their order."""
    groups: dict[Key, list[Value]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def answers(ran: Case, asked: Case) -> bool:
    """Whether `ran` is `asked`, where an open batch or dtype may have been filled in with anything."""
    return ran == asked.resolve(ran.batch or 0, ran.dtype or "")


def usual(values: Sequence[str]) -> str | None:
    """The most frequent of `values`; the first of them on a tie."""
    return max(dict.fromkeys(values), key=values.count, default=None)


# ---- reading


def folders(root: Path) -> dict[str, Path]:
    """The folders with result files by device key; the committed references are `reference/KEY`."""
    files = [*root.glob("*/*.jsonl"), *root.glob("reference/*/*.jsonl")]
    return {path.parent.relative_to(root).as_posix(): path.parent for path in sorted(files)}


@dataclass(frozen=True)
class Source:
    """Where the rows of a device lie: a folder, or one file."""

    key: str
    path: Path

    def read(self) -> Results:
        """The results, each row of which is read and checked."""
        return _read(self.key, self.path)


def load(root: Path, key: str | None = None) -> Results:
    """The results under `root` of the device `key`, or of the one of the last run.

    Raises:
        Failure: there are no rows.
        UsageError: no such key, with the nearest there is.
    """
    known = folders(root)
    if key is not None and known and key not in known:
        raise unknown("device key", key, known)
    # a reference is shown when it is asked for, never because it is newer than one's own rows
    found = sorted(sources(root), key=lambda source: source.key.startswith("reference/"))
    for source in found:
        if key in (None, source.key) and (results := source.read()).rows:
            return results
    raise _nothing(root)


def named(root: Path, name: str) -> Source:
    """The rows of a device's key under `root`, of a folder, or of one file.

    Raises:
        UsageError: there is no such thing, with the nearest key there is.
    """
    if not name:
        raise UsageError("a device's key, a folder or a file is needed, and not an empty text")
    path, known = Path(name), folders(root)
    if (key := path.as_posix()) in known:
        return Source(key, known[key])
    if path.exists():
        return Source(path.stem if path.is_file() else path.name, path)
    if (root / name).is_dir():
        return Source(key, root / name)
    if not known:
        raise UsageError(f"{name}: there is no such file or folder, and no measurements under {root}/")
    raise unknown("device key", name, known)


def _nothing(root: Path) -> Failure:
    return Failure(f"no measurements under {root}/; `make bench` or `python -m bench run` makes some")


def neighbours(root: Path, results: Results) -> list[Source]:
    """The rows of the other devices that have a folder where these have theirs, those of the last run first.

    A link to one of these folders is no other device.
    """
    beside = [source for source in sources(root) if source.path.parent == results.folder.parent]
    by_place = {source.path.resolve(): source for source in reversed(beside)}
    by_place.pop(results.folder.resolve(), None)
    return list(by_place.values())[::-1]


def sources(root: Path) -> list[Source]:
    """Every device with result files, that of the last run first."""
    found = [Source(key, folder) for key, folder in folders(root).items()]
    return sorted(found, key=lambda source: _touched(source.path), reverse=True)


def _touched(folder: Path) -> int:
    """When a run last wrote here; a run touches its file at its end, because it may have found every row there."""
    return max(path.stat().st_mtime_ns for path in folder.glob("*.jsonl"))


def _read(key: str, folder: Path) -> Results:
    raw = record.read(folder)
    results = Results(key, folder, problems=list(raw.problems))
    good: list[Row] = []
    answers_of: dict[int, Answer] = {}  # of the good rows, by their ids
    for row in raw.rows:
        is_plain = id(row) in raw.plain
        try:
            row = row if is_plain else shown(row)
            check_shape(row, is_plain=is_plain)
            answers_of[id(row)] = _checked(row)
        except (
            *(UsageError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError),
            RecursionError,  # of values in values in values
        ) as error:
            results.problems.append(f"row {_named(row)}: {_line(error)}, passed over")
        else:
            good.append(row)
    for row in _of_one_device(_joined(good, results), results):
        _file(row, answers_of.get(id(row)) or _checked(row), results)  # a row of several visits is a new one
        results.rows.append(row)
    _read_own_studies(folder, results)
    times = Counter(map(printable, results.problems))  # the visits to one case may all have the same
    results.problems = [problem if n == 1 else f"{problem} ({n} times)" for problem, n in times.items()]
    return results


def _named(row: Row) -> str:
    """The row's harness and case, short enough for a line."""
    return textwrap.shorten(f"{row['harness']} {row['case']}", 120, placeholder=" …")


def _of_one_device(rows: list[Row], results: Results) -> list[Row]:
    """The rows of the device that the newest is of, all counts, and what shards measured on devices of its type.

    A number of another machine must not stand under this one's name: how many are left out is a problem to be told, but
    for those that a shard took so that devices compare.
    """
    here = rows[-1]["device"] if rows else {}
    of_type = [row for row in rows if _type(row["device"]) == _type(here)]
    if len({row["device"].get("uuid") for row in of_type}) > 1:
        timed = [Timing(parsed(row["case"]), row) for row in of_type if row["harness"] in TIMED]
        results.nodes = nodes.beside(timed)
    in_shards = {(row["harness"], row["case"]) for row in of_type if "shard" in row}
    ids, kept, left = {id(row) for row in of_type}, [], dict[str, int]()
    for row in rows:
        of_shard = "shard" in row and id(row) in ids
        is_here = of_shard or row["device"].get("uuid") == here.get("uuid")
        if is_here or not HARNESSES[row["harness"]].by_device:
            kept.append(row)
        elif id(row) not in ids or (row["harness"], row["case"]) not in in_shards:
            name = f"{row['device'].get('name')} ({row['device'].get('uuid')})"
            left[name] = left.get(name, 0) + 1
    results.problems += nodes.told(results.nodes)
    results.problems += [
        f"{count} row{'s were' if count > 1 else ' was'} measured on another device, {name}: left out"
        for name, count in left.items()
    ]
    return kept


def _type(device: dict[str, Any]) -> list[Any]:
    return [*map(device.get, TYPE)]


def _joined(rows: list[Row], results: Results) -> list[Row]:
    """The visits to each case as one row; visits that cannot be joined are a problem."""
    joined = []
    for members in visits.groups(rows):
        try:
            joined.append(visits.join(members))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            results.problems.append(f"visits {_named(members[0])}: {_line(error)}, passed over")
    return joined


def _checked(row: Row) -> Answer:
    """The answer that a row gives, after reading everything in it that a report will read.

    Raises:
        ValueError: something in it is not what it has to be; and whatever else reading a damaged row raises.
    """
    harness, is_ok = row["harness"], row["outcome"] == "ok"
    answer: Answer = row
    if harness in TIMED:
        answer = (Profiled if harness == "profile" else Timing)(parsed(row["case"]), row)
        answer.check()
    elif harness == "compare":
        answer = comparison(row)
        answer.check()
    elif harness == "macs":
        answer = Counts(parsed(row["case"]), row)
        answer.check()
    elif is_ok and harness in READERS:
        READERS[harness](row).check()
    elif is_ok and harness == "peaks":
        check_peaks(row["result"])
    return answer


def _file(row: Row, answer: Answer, results: Results) -> None:
    """Put what a row answers where it belongs."""
    if isinstance(answer, Timing):
        results.timings[row["harness"]].append(answer)
    elif isinstance(answer, Comparison):
        results.comparisons.append(answer)
    elif isinstance(answer, Counts):
        results.counts.append(answer)
    else:
        results.others.append(row)


def _read_own_studies(folder: Path, results: Results) -> None:
    """Take in the studies that a user's run kept beside its rows; one that cannot be read is a problem."""
    for path in sorted(folder.glob("*.toml")):
        try:
            study = studies.load(path)
            texts = [*study.cases(results.kind, False), *study.cases(results.kind, True)]
            texts += [text for pair in study.pairs(results.kind, False) for text in pair]
            _ = [parsed(text) for text in texts]
        except (Failure, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            text = _line(error)
            named = text if path.name in text else f"{path.name}: {text}"
            results.problems.append(f"{named}, passed over")
        else:
            results.own_studies[study.name] = study


def _line(error: Exception) -> str:
    """The error's text, in one line."""
    text = f"no {error}" if isinstance(error, KeyError) else str(error)
    return text.splitlines()[0] if text else type(error).__name__
