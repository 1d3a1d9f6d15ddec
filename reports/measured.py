"""A results folder as the reports need it: each row checked once, and found by the case it answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from bench import record, roofline
from bench.cases import Case, parse, unknown
from bench.errors import Failure, UsageError
from bench.record import Row
from bench.studies import STUDIES, Study
from reports import branch_rows
from reports.rows import Comparison, Counts, Measured, Timing, when

TIMED = ("throughput", "latency")
AnyMeasured = TypeVar("AnyMeasured", bound=Measured)
Key = TypeVar("Key", bound=Hashable)


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

    @property
    def when(self) -> str:
        """Of the newest row."""
        return when(self.rows[-1])

    @property
    def device(self) -> dict[str, Any]:
        return self.rows[-1].get("device") or {}

    @property
    def kind(self) -> str:
        return "cuda" if self.on_gpu else "cpu"

    @property
    def on_gpu(self) -> bool:
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
        measured = [
            row["result"] for row in self.others if row["harness"] == "peaks" and row["outcome"] == "ok"
        ]
        return roofline.peaks_of(self.device, measured[-1] if measured else None)

    @cached_property
    def ran(self) -> list[str]:
        """The studies that were run here.

        A run leaves the file of its study even where earlier studies had measured every row of it already.
        """
        named = {str(row.get("study")) for row in self.rows}
        named |= {path.stem for path in self.folder.glob("*.jsonl")}
        return [name for name in STUDIES if name in named]

    @property
    def studies(self) -> list[str]:
        """Those to be shown: what was run; Table 1 where all there is was timed or counted by hand."""
        by_hand = any(self.timings.values()) or self.counts or self.comparisons
        return self.ran or (["table1"] if by_hand else [])

    def timing(self, asked: Case, study: Study) -> Timing | None:
        """The row that answers `asked` in `study`, which may leave batch and dtype open.

        Where several do, the newest at the batch and dtype that the study ran at: a model timed by hand at
        batch 1 must not slip into a table of batch 64. Nor must another GPU of the same kind, or a quick look
        where there is a result.
        """
        found = [
            timing
            for timing in self._timings_of.get((study.harness, _open(asked)), [])
            if answers(timing.case, asked)
        ]
        ours = self._timings_for.get((study.harness, study.name), [])
        if not ours:  # every row of it was there before it ran: an earlier study had asked for the same
            ours = [timing for timing in found if _asks(str(timing.row.get("study")), asked, self.kind)]
        usual = asked.resolve(ours[-1].case.batch or 1, ours[-1].case.dtype or "fp32") if ours else asked
        return self._best(found, lambda timing: timing.case == usual)

    def comparison(self, first: Case, other: Case, study: Study) -> Comparison | None:
        """The row that compares the two; where several do, that at the batch and dtype of the study's timings."""
        timing = self.timing(first, study)
        found = [
            each
            for each in self._comparisons_of.get((_open(first), _open(other)), [])
            if answers(each.case, first)
            and answers(each.other, other)
            and (each.case.batch, each.case.dtype) == (each.other.batch, each.other.dtype)
        ]
        return self._best(found, lambda each: timing is not None and each.case == timing.case)

    # A study of a thousand cases asks for each of them: looking through all rows every time would take minutes.

    @cached_property
    def _timings_of(self) -> dict[tuple[str, Case], list[Timing]]:
        return _grouped(((name, _open(each.case)), each) for name in TIMED for each in self.timings[name])

    @cached_property
    def _timings_for(self) -> dict[tuple[str, str], list[Timing]]:
        return _grouped(
            ((name, str(each.row.get("study"))), each) for name in TIMED for each in self.timings[name]
        )

    @cached_property
    def _comparisons_of(self) -> dict[tuple[Case, Case], list[Comparison]]:
        return _grouped(((_open(each.case), _open(each.other)), each) for each in self.comparisons)

    @cached_property
    def _counts_of(self) -> dict[tuple[Any, ...], list[Counts]]:
        found: dict[tuple[Any, ...], list[Counts]] = {}
        for each in self.counts:
            found.setdefault(_mathematics(each.case), []).append(each)
        return found

    def inference(self, training: Timing) -> Timing | None:
        """The newest inference of the same model here, at the dtype and the batch that a training step ran at."""
        asked = replace(training.case, mode="infer", batch=None)
        found = [
            each
            for each in self.timings["throughput"]
            if each.ok
            and replace(each.case, batch=None) == asked
            and (each.batch, each.uuid) == (training.batch, training.uuid)
        ]
        return self._best(found, lambda _: True)

    def _best(
        self, found: Iterable[AnyMeasured], wanted: Callable[[AnyMeasured], bool]
    ) -> AnyMeasured | None:
        def rank(each: AnyMeasured) -> tuple[bool, bool, bool, str]:
            here = each.uuid == self.device.get("uuid")
            return wanted(each), here, each.protocol != "quick", when(each.row)

        return max(found, key=rank, default=None)

    def counted(self, asked: Case) -> Counts | None:
        """The newest count of the same mathematics, whatever ran it, and whether it was then trained."""
        same = self._counts_of.get(_mathematics(asked), [])
        return next(
            (each for each in reversed(same) if each.row["outcome"] == "ok"), same[-1] if same else None
        )


def _grouped(found: Iterable[tuple[Key, AnyMeasured]]) -> dict[Key, list[AnyMeasured]]:
    groups: dict[Key, list[AnyMeasured]] = {}
    for key, each in found:
        groups.setdefault(key, []).append(each)
    return groups


def _open(case: Case) -> Case:
    """The case with batch and dtype left open."""
    return replace(case, batch=None, dtype=None)


def _mathematics(case: Case) -> tuple[Any, ...]:
    """What a count depends on."""
    images = case.mix.source if case.mix else case.size
    return case.model, tuple(sorted(case.model_options.items())), images


def answers(ran: Case, asked: Case) -> bool:
    """Whether `ran` is `asked`, where an open batch or dtype may have been filled in with anything."""
    return ran == asked.resolve(ran.batch or 0, ran.dtype or "")


def _asks(study: str, asked: Case, kind: str) -> bool:
    return study in STUDIES and asked in STUDIES[study].parsed(kind, False)


def folders(root: Path) -> dict[str, Path]:
    """Device key → folder with result files; the committed references are `reference/KEY`."""
    files = [*root.glob("*/*.jsonl"), *root.glob("reference/*/*.jsonl")]
    return {path.parent.relative_to(root).as_posix(): path.parent for path in sorted(files)}


def load(root: Path, key: str | None = None) -> Results:
    """The results under `root` of the device `key`, or of the one of the last run.

    Raises:
        Failure: no rows. UsageError: no such key, with the nearest there is.
    """
    known = folders(root)
    if key is not None:
        if known and key not in known:
            raise unknown("device key", key, known)
        known = {key: known[key]} if known else {}
    # a reference is shown when it is asked for, never because it is newer than one's own rows
    order = sorted(
        known, key=lambda key: (not key.startswith("reference/"), _touched(known[key])), reverse=True
    )
    for key in order:
        if (results := _read(key, known[key])).rows:
            return results
    raise Failure(f"no measurements under {root}/; `make bench` or `python -m bench run` makes some")


def _touched(folder: Path) -> int:
    """When a run last wrote here; a run touches its file at its end, because it may have found every row there."""
    return max(path.stat().st_mtime_ns for path in folder.glob("*.jsonl"))


def _read(key: str, folder: Path) -> Results:
    raw = record.read(folder)
    results = Results(key, folder, problems=list(raw.problems))
    for row in sorted(record.newest(sorted(raw.rows, key=when)).values(), key=when):
        try:
            _file(row, results)
        except (UsageError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            results.problems.append(f"row {row['harness']} {row['case']}: {_line(error)}, passed over")
        else:
            results.rows.append(row)
    return results


def _file(row: Row, results: Results) -> None:
    """Put `row` where it belongs, after reading everything in it that a report will read."""
    ok, harness = row["outcome"] == "ok", row["harness"]
    if harness in TIMED:
        timing = Timing(parse(row["case"]), row)
        if ok and not timing.images_per_s.value > 0:
            raise ValueError("not a time")
        if ok and not all(part.value > 0 for part in timing.parts.values()):
            raise ValueError("not the time of a part")
        _ = timing.notes
        results.timings[harness].append(timing)
    elif harness == "compare":
        first, _, other = row["case"].partition(" / ")
        texts = (row["result"]["a"], row["result"]["b"]) if ok else (first, other)
        comparison = Comparison(parse(texts[0]), row, parse(texts[1]))
        if ok and not comparison.estimate.value > 0:
            raise ValueError("not a ratio")
        _ = comparison.notes
        results.comparisons.append(comparison)
    elif harness == "macs":
        counts = Counts(parse(row["case"]), row)
        if ok:
            _ = counts.parameters, counts.cross_checks, [counts.by_operator(name) for name in counts.macs]
        results.counts.append(counts)
    else:
        if ok and harness in branch_rows.READERS:
            branch_rows.check(row)
        if ok and harness == "peaks":
            _ = [float(rate) for rate in row["result"]["tflops"].values()]
        results.others.append(row)


def _line(error: Exception) -> str:
    text = f"no {error}" if isinstance(error, KeyError) else str(error)
    return text.splitlines()[0] if text else type(error).__name__


def usual(values: Sequence[str]) -> str | None:
    """The most frequent of `values`; the first of them on a tie."""
    return max(dict.fromkeys(values), key=values.count, default=None)
