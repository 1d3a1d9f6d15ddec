"""A results folder as the reports need it: each row checked once, and found by the case it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench import record, roofline, stats
from bench.cases import Case, parse, unknown
from bench.errors import Failure, UsageError
from bench.record import Row
from bench.studies import Study

TIMED = ("throughput", "latency")


@dataclass(frozen=True)
class Timing:
    """One timed case, or the reason why it could not be timed."""

    case: Case
    row: Row

    @property
    def ok(self) -> bool:
        return bool(self.row["outcome"] == "ok")

    @cached_property
    def seconds(self) -> stats.Estimate:
        """Seconds of one iteration over one batch."""
        return stats.estimate(self.row["result"]["samples_s"], self.row["result"]["statistic"])

    @property
    def batch(self) -> int:
        """Images in that batch; less than asked for where memory ran out."""
        return int(self.row["result"]["batch"])

    @property
    def images_per_s(self) -> stats.Estimate:
        return self.seconds.map(lambda seconds: self.batch / seconds)

    @property
    def protocol(self) -> str:
        return str((self.row.get("protocol") or {}).get("name", "unknown"))

    @property
    def notes(self) -> list[str]:
        """What a reader must know before believing the number, one line each."""
        if not self.ok:
            return [f"failed: {self.row.get('reason') or 'no reason given'}"]
        result, notes = self.row["result"], list(self.row.get("notes") or [])
        asked = result.get("batch_requested") or self.batch
        if asked != self.batch and not any(str(self.batch) in note for note in notes):
            notes.append(f"batch {self.batch} instead of {asked}")
        if result.get("stopped_by") == "time cap":
            notes.append("stopped by the time cap, before its interval was narrow enough")
        if result.get("discarded"):
            notes.append("some samples were discarded and taken again (the machine throttled)")
        if result.get("power_capped"):
            notes.append("the power limit held the clock down")
        if self.seconds.low is None:
            notes.append(f"{result.get('statistic', 'median')} of {self.seconds.n} samples, no interval")
        return notes


@dataclass(frozen=True)
class CrossCheck:
    """Another counter's MACs beside ours in the convention that comes nearest to what it counts."""

    counter: str
    compared_with: str
    macs: int
    ours: int
    why: str

    @property
    def difference(self) -> float:
        """Relative to ours."""
        return self.macs / self.ours - 1 if self.ours else 0.0


@dataclass(frozen=True)
class Counts:
    """What was counted for one case: the same for each of its implementations, batches and dtypes."""

    case: Case
    row: Row

    @property
    def parameters(self) -> int:
        return int(self.row["result"]["parameters"])

    @property
    def macs(self) -> dict[str, int]:
        """MACs of one image, by convention."""
        return {name: int(each["macs"]) for name, each in self.row["result"]["conventions"].items()}

    def by_operator(self, convention: str) -> dict[str, int]:
        return dict(self.row["result"]["conventions"][convention]["by_operator"])

    @property
    def cross_checks(self) -> list[CrossCheck]:
        checks = self.row["result"].get("cross_checks") or []
        return [
            CrossCheck(
                str(check["counter"]),
                str(check["compared_with"]),
                int(check["macs"]),
                int(check["ours"]),
                str(check.get("why") or ""),
            )
            for check in checks
        ]


@dataclass
class Results:
    """One device's measurements: the newest row of each key, oldest first, and what could not be read."""

    key: str
    folder: Path
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    timings: dict[str, list[Timing]] = field(default_factory=lambda: {name: [] for name in TIMED})
    counts: list[Counts] = field(default_factory=list)
    others: list[Row] = field(default_factory=list)  # compare, peaks

    @property
    def when(self) -> str:
        """Of the newest row."""
        return when(self.rows[-1])

    @property
    def device(self) -> dict[str, Any]:
        return self.rows[-1].get("device") or {}

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

    def timing(self, asked: Case, study: Study) -> Timing | None:
        """The row that answers `asked` in `study`, which may leave batch and dtype open.

        Where several do, the newest at the batch and dtype of the study's latest row: a model timed by hand
        at batch 1 must not slip into a table of batch 64. Nor must another GPU of the same kind, or a quick
        look where there is a result.
        """
        found = [timing for timing in self.timings[study.harness] if answers(timing.case, asked)]
        usual = asked
        if ours := [
            timing.case for timing in self.timings[study.harness] if timing.row.get("study") == study.name
        ]:
            usual = asked.resolve(ours[-1].batch or 1, ours[-1].dtype or "fp32")

        def rank(timing: Timing) -> tuple[bool, bool, bool, str]:
            here = (timing.row.get("device") or {}).get("uuid") == self.device.get("uuid")
            return timing.case == usual, here, timing.protocol != "quick", when(timing.row)

        return max(found, key=rank, default=None)

    def counted(self, asked: Case) -> Counts | None:
        """The newest count of the same mathematics, whatever ran it."""
        wanted = (asked.model, asked.model_options, asked.size)
        same = [c for c in self.counts if (c.case.model, c.case.model_options, c.case.size) == wanted]
        return next(
            (each for each in reversed(same) if each.row["outcome"] == "ok"), same[-1] if same else None
        )


def when(row: Row) -> str:
    return str(row.get("when") or "")


def answers(ran: Case, asked: Case) -> bool:
    """Whether `ran` is `asked`, where an open batch or dtype may have been filled in with anything."""
    return ran == asked.resolve(ran.batch or 0, ran.dtype or "")


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
    ok = row["outcome"] == "ok"
    if row["harness"] in TIMED:
        timing = Timing(parse(row["case"]), row)
        if ok and not timing.images_per_s.value > 0:
            raise ValueError("not a time")
        _ = timing.notes
        results.timings[row["harness"]].append(timing)
    elif row["harness"] == "macs":
        counts = Counts(parse(row["case"]), row)
        if ok:
            _ = counts.parameters, counts.cross_checks, [counts.by_operator(name) for name in counts.macs]
        results.counts.append(counts)
    else:
        if ok and row["harness"] == "compare":
            _ = (
                row["result"]["a"],
                row["result"]["b"],
                stats.ratio(row["result"]["blocks"], row["result"]["batch"]),
            )
        if ok and row["harness"] == "peaks":
            _ = [float(rate) for rate in row["result"]["tflops"].values()]
        results.others.append(row)


def _line(error: Exception) -> str:
    text = f"no {error}" if isinstance(error, KeyError) else str(error)
    return text.splitlines()[0] if text else type(error).__name__


def usual(values: Sequence[str]) -> str | None:
    """The most frequent of `values`; the first of them on a tie."""
    return max(dict.fromkeys(values), key=values.count, default=None)
