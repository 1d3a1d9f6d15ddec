"""The line of a study: one row of the paper's, or one case, with what is printed, was counted and was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bench import roofline, studies
from bench.cases import Case, Mix, parse
from bench.errors import UsageError
from bench.stats import Estimate
from bench.studies import Study
from reports import printed
from reports.about import about
from reports.measured import Results
from reports.printed import Printed, PrintedRow
from reports.rows import Counts, Timing

ANALYSIS = "core"  # the convention of everything that is not a comparison with a printed number
TOO_WIDE = 0.1  # half-width of an interval, relative to its value
USUAL_SIZE = (224, 224)  # of an image, in pixels
BYTES_OF = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2}  # an element, by dtype


@dataclass(frozen=True)
class Line:
    """One row of one of the paper's tables, or a case that the paper prints no row for."""

    case: Case
    study: Study
    results: Results
    row: PrintedRow | None
    counts: Counts | None
    timing: Timing | None
    reference: Line | None = None  # the line whose speed is 1.00 ×

    @property
    def printed(self) -> dict[str, Printed]:
        """What the paper prints, by metric: parameters, macs, throughput or ms, and what it says of accuracy."""
        return self.row.numbers if self.row else {}

    @property
    def part(self) -> str:
        """Of the paper's table: `(b)`."""
        return self.row.part if self.row else ""

    @property
    def title(self) -> str:
        """The paper's name of the row, else the model's with its options."""
        return self.row.name if self.row else self.case.title

    @property
    def name(self) -> str:
        """The title, with the part of the table, and with the size where it is not the usual one."""
        size = "" if self.is_usual_size else f"at {self.case.shape}"
        return " ".join(filter(None, (self.part, self.title, size)))

    @property
    def is_usual_size(self) -> bool:
        return self.case.size == USUAL_SIZE and not self.case.mix

    @property
    def is_training(self) -> bool:
        return self.case.mode != "infer"

    @property
    def outcome(self) -> str:
        """ok, failed, or missing: nobody has tried."""
        return str(self.timing.row["outcome"]) if self.timing else "missing"

    @property
    def reason(self) -> str | None:
        if self.timing is None:
            return "not measured yet"
        return None if self.timing.ok else str(self.timing.row.get("reason") or "no reason given")

    @property
    def dtype(self) -> str | None:
        return self.timing.case.dtype if self.timing else self.case.dtype

    @property
    def batch(self) -> int | None:
        """As it ran; as it was asked for where it did not run."""
        if self.timing is None:
            return self.case.batch
        return self.timing.batch if self.timing.ok else self.timing.case.batch

    @cached_property
    def seconds(self) -> Estimate | None:
        """Of one iteration over one batch: of a step, in training."""
        return self.timing.estimate if self.timing and self.timing.ok else None

    @cached_property
    def images_per_s(self) -> Estimate | None:
        return self.timing.images_per_s if self.timing and self.timing.ok else None

    @property
    def printed_images_per_s(self) -> float | None:
        """As the paper prints it, or the time of an image."""
        if "ms" in self.printed:
            return 1e3 / self.printed["ms"].value
        return self.printed["throughput"].value if "throughput" in self.printed else None

    @property
    def times_printed(self) -> float | None:
        """The printed speed, as a multiple of the reference's."""
        base = self.reference.printed_images_per_s if self.reference else None
        return self.printed_images_per_s / base if self.printed_images_per_s and base else None

    @property
    def parts(self) -> dict[str, Estimate]:
        """Seconds of one iteration by part of the model; empty where they were not taken apart."""
        return self.timing.parts if self.timing and self.timing.ok else {}

    @property
    def times_here(self) -> float | None:
        """The measured speed, as a multiple of the reference's."""
        base = self.reference.images_per_s if self.reference else None
        return self.images_per_s.value / base.value if self.images_per_s and base else None

    @property
    def times_inference(self) -> float | None:
        """How many times as long an image takes in training as in inference, at this batch and dtype."""
        if not (self.is_training and self.timing and self.timing.ok):
            return None
        inference = self.results.inference(self.timing)
        return inference.images_per_s.value / self.timing.images_per_s.value if inference else None

    @property
    def counted(self) -> Counts | None:
        """The counts, if counting succeeded."""
        return self.counts if self.counts and self.counts.row["outcome"] == "ok" else None

    @property
    def convention(self) -> str:
        """The one that the paper's own number for this row follows, else the study's."""
        return self.printed["macs"].convention if "macs" in self.printed else self.study.convention

    def macs(self, convention: str | None = None) -> int | None:
        """Of one image's forward pass."""
        return self.counted.macs.get(convention or self.convention) if self.counted else None

    @property
    def parameters(self) -> int | None:
        return self.counted.parameters if self.counted else None

    def count(self, metric: str) -> int | None:
        """Our number for a printed `metric`: macs or parameters."""
        return self.macs() if metric == "macs" else self.parameters

    def verdict(self, metric: str) -> str:
        """MATCH or NO MATCH with the printed number, or empty where there is nothing to compare."""
        number, count = self.printed.get(metric), self.count(metric)
        if number is None or count is None:
            return ""
        return "MATCH" if number.matches(count) else "NO MATCH"

    def remark(self, metric: str) -> str | None:
        """Why a printed number is not reproduced, or what else is known of it, once it is compared."""
        number, count, verdict = self.printed.get(metric), self.count(metric), self.verdict(metric)
        if number is None or count is None or not verdict:
            return None
        if verdict == "MATCH":
            return number.note or None
        what = f"{number.text} {number.unit}{' parameters are' if metric == 'parameters' else ' is'} printed"
        if number.note:
            return f"NO MATCH: {what}, {number.as_printed(count)} counted: {number.note}"
        return (
            self._computed_reason(number)
            if metric == "macs"
            else f"NO MATCH: {what}, {number.as_printed(count)} counted"
        )

    def _computed_reason(self, number: Printed) -> str:
        """From what was counted in the other conventions."""
        all_macs = self.counted.macs if self.counted else {}
        others = [name for name, macs in all_macs.items() if number.matches(macs)]
        if others:
            return f"{number.text} G is printed, which is `{'` and `'.join(others)}`, not `{self.convention}`"
        low, high = (f"{value / 1e9:.2f}" for value in (min(all_macs.values()), max(all_macs.values())))
        spread = f"{low} in every convention" if low == high else f"{low} to {high} over all conventions"
        return f"NO MATCH: {number.text} G is printed, counted {spread}"

    @property
    def macs_per_s(self) -> Estimate | None:
        """Achieved core MACs a second; none in training, where those of the backward pass are not counted, nor of a
        mix, whose count is of all images and whose time is of a few shapes."""
        macs, speed = self.macs(ANALYSIS), self.images_per_s
        if macs is None or speed is None or self.is_training or self.case.mix:
            return None
        return speed.map(lambda images_per_s: roofline.macs_per_s(macs, images_per_s))

    @property
    def too_uncertain(self) -> bool:
        """Whether its interval is so wide that nothing should be concluded from its speed."""
        speed = self.images_per_s
        return speed is not None and speed.low is not None and speed.half_width > TOO_WIDE

    @property
    def share_of_peak(self) -> float | None:
        macs, speed = self.macs(ANALYSIS), self.images_per_s
        if macs is None or speed is None or self.is_training or self.case.mix:
            return None
        return self.results.peaks.share(macs, speed.value, self.dtype or "")

    @property
    def peak_memory_bytes(self) -> int | None:
        """The device's memory at its fullest; None where it was not read."""
        result = self.timing.row.get("result") if self.timing else None
        return result.get("peak_memory_bytes") if result else None


def study_lines(results: Results, study_name: str) -> list[Line]:
    """The paper's rows in its order, then those cases of the study that it prints no row for, and what a quick look
    took in place of them.

    Raises:
        UsageError: no such study, or one that times nothing.
    """
    study = studies.find(study_name)
    if not study.is_timed:
        raise UsageError(f"{study_name} times nothing: it has a figure, and no table")
    parsed = study.parsed(results.kind, False)
    cases = {paper_key(case): case for case in parsed}
    paper = [row for row in printed.rows(study_name) if row.case in cases]
    shown = {row.case for row in paper}
    rows: list[tuple[Case, PrintedRow | None]] = [(cases[row.case], row) for row in paper]
    rows += [(case, None) for case in parsed if paper_key(case) not in shown]
    quick = [case for case in study.parsed(results.kind, True) if paper_key(case) not in cases]
    rows += [(case, _named(case, paper)) for case in quick if results.timing(case, study)]
    lines = [
        Line(case, study, results, row, results.counted(case), results.timing(case, study))
        for case, row in rows
    ]
    return _referred(lines, about(study_name).references)


def _named(case: Case, paper: Sequence[PrintedRow]) -> PrintedRow | None:
    """The paper's row of the same model at another size, of which no number holds for `case`."""
    alike = (row for row in paper if paper_key(replace(parse(row.case), size=case.size)) == paper_key(case))
    return next((replace(row, case=paper_key(case), numbers={}) for row in alike), None)


def _referred(lines: Sequence[Line], references: Sequence[str]) -> list[Line]:
    """`lines`, each with its reference: the last at or above it, or else the first of all; of its size, if one is."""
    found: list[Line] = []
    at = [number for number, line in enumerate(lines) if paper_key(line.case) in references]
    for number, line in enumerate(lines):
        alike = [each for each in at if lines[each].case.shape == line.case.shape] or at
        above = [each for each in alike if each <= number] or alike[:1]
        found.append(replace(line, reference=lines[above[-1]] if above else None))
    return found


def paper_key(case: Case) -> str:
    """How the paper's CSV names a case: by model, the model's options and size, not by how it is run; of a mix by its
    images, not by how many shapes are timed in place of them, which depends on the device."""
    plain = without_run(case)
    return named(replace(plain, mix=Mix(case.mix.source)) if case.mix else plain)


def without_run(case: Case) -> Case:
    """The case without what says how it is run."""
    options = tuple((name, value) for name, value in case.options if name in case.model_options)
    return Case(case.model, options, case.size, mix=case.mix)


def named(case: Case) -> str:
    return str(case).removesuffix(f":{case.impl}")


def shown_lines(results: Results, study_name: str) -> list[Line]:
    """The lines of a study that was run, none of another; of a long one, those that were tried.

    Raises:
        UsageError: as `study_lines`.
    """
    if study_name not in results.studies:
        return []
    lines = study_lines(results, study_name)
    return [line for line in lines if line.timing] if about(study_name).is_long else lines
