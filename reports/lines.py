"""A case, or a pair of cases, of a study: what is printed of it, what was counted, what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bench import roofline, visits
from bench.cases import Case, parsed
from bench.errors import UsageError
from bench.stats import Estimate
from bench.study import Study
from reports import printed, verdicts
from reports.measurements import Comparison, Counts, Timing
from reports.printed import Printed, PrintedRow
from reports.results import Results
from reports.verdicts import Status, Verdict

ANALYSIS = "core"  # the convention of everything that is not a comparison with a printed number
USUAL_SIZE = (224, 224)  # of an image, in pixels


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
    beside: Comparison | None = None  # with that line, measured in turns

    # ---- what it is

    @property
    def printed(self) -> dict[str, Printed]:
        """The paper's numbers by metric: parameters, macs, throughput or ms, and what it says of accuracy."""
        return self.row.numbers if self.row else {}

    @property
    def panel(self) -> str:
        """The panel of the paper's table, `(b)`; empty where there is none."""
        return self.row.panel if self.row else ""

    @property
    def title(self) -> str:
        """The paper's name of the row, else the model's with its options."""
        return self.row.name if self.row else self.case.title

    @property
    def name(self) -> str:
        """The title, with the panel of the table, and with the size where it is not the usual one."""
        size = "" if self.is_usual_size else f"at {self.case.shape}"
        return " ".join(filter(None, (self.panel, self.title, size)))

    @property
    def is_usual_size(self) -> bool:
        """Whether images have the one size that most tables have."""
        return self.case.size == USUAL_SIZE and not self.case.mix

    @property
    def is_training(self) -> bool:
        """Whether an iteration is a step of training."""
        return self.case.mode != "infer"

    # ---- what was measured

    @property
    def outcome(self) -> str:
        """The outcome: ok, failed or refused; missing where nobody has tried."""
        return str(self.timing.row["outcome"]) if self.timing else "missing"

    @property
    def reason(self) -> str | None:
        """Why there is no time; None where there is one."""
        if self.timing is None:
            return "not measured yet"
        return None if self.timing.ok else str(self.timing.row.get("reason") or "no reason given")

    @property
    def dtype(self) -> str | None:
        """The dtype that it ran in; as it was asked for where it did not run."""
        return self.timing.case.dtype if self.timing else self.case.dtype

    @property
    def batch(self) -> int | None:
        """The batch that it ran at; as it was asked for where it did not run."""
        if self.timing is None:
            return self.case.batch
        return self.timing.batch if self.timing.ok else self.timing.case.batch

    @cached_property
    def seconds(self) -> Estimate | None:
        """Seconds of one iteration over one batch: of a step, in training."""
        return self.timing.estimate if self.timing and self.timing.ok else None

    @cached_property
    def images_per_s(self) -> Estimate | None:
        """Images that one second takes here."""
        return self.timing.images_per_s if self.timing and self.timing.ok else None

    @property
    def by_module(self) -> dict[str, Estimate]:
        """Seconds of one iteration by module of the model; empty where they were not taken apart."""
        return self.timing.by_module if self.timing and self.timing.ok else {}

    @property
    def is_wide(self) -> bool:
        """Whether its interval, which is one over visits, is too wide to conclude anything from."""
        return self.seconds is not None and self.seconds.is_wide

    @property
    def too_uncertain(self) -> bool:
        """Whether nothing can be concluded from its speed: no interval, one of a single visit, or too wide a one."""
        return self.seconds is not None and self.seconds.is_uncertain

    @cached_property
    def unlike(self) -> list[str]:
        """Notes on code, versions and threads that differ from those of the newest row of its study."""
        newest = self.results.newest(self.study)
        return self.timing.unlike(newest) if self.timing and newest else []

    @property
    def peak_memory_bytes(self) -> int | None:
        """The device's memory at its fullest; None where it was not read."""
        result = self.timing.row.get("result") if self.timing else None
        return result.get("peak_memory_bytes") if result else None

    @property
    def device_share(self) -> float | None:
        """The share of an iteration in which the GPU computed; None on a CPU, and where it was not profiled."""
        return visits.device_shares(self.timing.row)[0] if self.timing else None

    @property
    def is_launch_bound(self) -> bool:
        """Whether its time is that of the CPU's launches, of which nothing is said as of computing."""
        return self.timing is not None and self.timing.is_launch_bound

    @property
    def joules_per_image(self) -> float | None:
        """Joules that the whole board took for an image; None where it was not counted."""
        result = self.timing.row.get("result") if self.timing else None
        return result.get("joules_per_image") if result else None

    # ---- its speed beside others

    @property
    def printed_images_per_s(self) -> float | None:
        """The paper's speed, as it is printed or from the printed time of an image."""
        if "ms" in self.printed:
            return 1e3 / self.printed["ms"].value
        return self.printed["throughput"].value if "throughput" in self.printed else None

    @property
    def times_printed(self) -> float | None:
        """The printed speed, as a multiple of the reference's."""
        base = self.reference.printed_images_per_s if self.reference else None
        return self.printed_images_per_s / base if self.printed_images_per_s and base else None

    @property
    def times_here(self) -> float | None:
        """The measured speed, as a multiple of the reference's: of the two taken in turns.

        Never of two rows taken apart: what the machine did between them would be in it.
        """
        if self.reference and self.reference.case == self.case:
            return 1.0 if self.study.pairs(self.results.kind, False) else None
        ratio = self.time_beside
        return 1 / ratio.value if ratio else None

    @property
    def time_beside(self) -> Estimate | None:
        """The time of an image as a multiple of the reference's, taken in turns; None where they were not."""
        return self.beside.estimate if self.beside and self.beside.ok else None

    @cached_property
    def times_inference(self) -> float | None:
        """The time of an image in training over that in inference, at one batch and dtype, taken in turns."""
        if not self.is_training:
            return None
        inference = replace(self.case, mode="infer")
        comparison = self.results.comparison(self.case, inference, self.study)
        return comparison.estimate.value if comparison and comparison.ok else None

    # ---- what was counted

    @property
    def counted(self) -> Counts | None:
        """The counts, if counting succeeded."""
        return self.counts if self.counts and self.counts.ok else None

    @property
    def convention(self) -> str:
        """The convention that the paper's own number for this row follows, else the study's."""
        return self.printed["macs"].convention if "macs" in self.printed else self.study.convention

    def macs(self, convention: str | None = None) -> int | None:
        """MACs of one image's forward pass, in the line's own convention unless another is asked for."""
        return self.counted.macs.get(convention or self.convention) if self.counted else None

    @property
    def parameters(self) -> int | None:
        """Parameters of the model."""
        return self.counted.parameters if self.counted else None

    @property
    def _rated_macs(self) -> int | None:
        """Core MACs that a rate can be made of. None in training, where those of the backward pass are not counted,
        of a mix, whose count is of all images and whose time is of a few shapes, and where launches were timed."""
        return None if self.is_training or self.case.mix or self.is_launch_bound else self.macs(ANALYSIS)

    @property
    def macs_per_s(self) -> Estimate | None:
        """Achieved core MACs a second; None where no rate can be made of the MACs."""
        macs, speed = self._rated_macs, self.images_per_s
        if macs is None or speed is None:
            return None
        return speed.map(lambda images_per_s: roofline.macs_per_s(macs, images_per_s))

    @property
    def share_of_peak(self) -> float | None:
        """The share of the device's peak that core MACs come to; None where no rate can be made of them."""
        macs, speed = self._rated_macs, self.images_per_s
        if macs is None or speed is None:
            return None
        return self.results.peaks.share(macs, speed.value, self.dtype or "")

    # ---- counts beside printed ones

    def verdict(self, metric: str) -> Verdict | None:
        """Whether our count prints as the paper's number for a `metric` (macs, parameters) does.

        Its reason is why not, or what else is known of the number. None where there is nothing to compare.
        """
        number = self.printed.get(metric)
        count = self.macs() if metric == "macs" else self.parameters
        if number is None or count is None:
            return None
        if number.matches(count):
            return Verdict(Status.MATCH, number.note)
        noun = " parameters are" if metric == "parameters" else " is"
        reason = f"NO MATCH: {number.text} {number.unit}{noun} printed, {number.as_printed(count)} counted"
        if number.note:
            reason += f": {number.note}"
        elif metric == "macs":
            reason = self._reason_by_convention(number)
        return Verdict(Status.NO_MATCH, reason)

    def _reason_by_convention(self, number: Printed) -> str:
        """Why printed MACs are not reproduced, from what was counted in the other conventions."""
        all_macs = self.counted.macs if self.counted else {}
        others = [name for name, macs in all_macs.items() if number.matches(macs)]
        if others:
            return f"{number.text} G is printed, which is `{'` and `'.join(others)}`, not `{self.convention}`"
        low, high = (f"{value / 1e9:.2f}" for value in (min(all_macs.values()), max(all_macs.values())))
        spread = f"{low} in every convention" if low == high else f"{low} to {high} over all conventions"
        return f"NO MATCH: {number.text} G is printed, counted {spread}"


@dataclass(frozen=True)
class Pair:
    """Two lines measured in turns: how many times as long `first` takes for an image as `second`."""

    first: Line
    second: Line
    comparison: Comparison | None

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.first_name} beside {self.second_name}"

    @property
    def first_name(self) -> str:
        """The first's name, with what tells it from the second."""
        return self._told_apart(self.first.case, self.second.case, self.first.name)

    @property
    def second_name(self) -> str:
        """The second's name, with what tells it from the first."""
        return self._told_apart(self.second.case, self.first.case, self.second.name)

    @staticmethod
    def _told_apart(case: Case, other: Case, name: str) -> str:
        impl = case.impl if case.impl != other.impl else ""
        batch = f"batch {case.batch}" if case.batch != other.batch else ""
        dtype = case.dtype if case.dtype != other.dtype else ""
        mode = (
            "" if case.mode == other.mode else "inference" if case.mode == "infer" else "a step of training"
        )
        return ", ".join(filter(None, (name, impl, batch, dtype, mode)))

    @property
    def outcome(self) -> str:
        """The outcome: ok, failed or refused; missing where nobody has tried."""
        return str(self.comparison.row["outcome"]) if self.comparison else "missing"

    @property
    def batch(self) -> int | None:
        """The batch of both, as it ran; as it was asked for where it did not run. None where each has its own."""
        if self.comparison is None or self.comparison.case.batch != self.comparison.other.batch:
            return None
        if not self.comparison.ok:
            return self.comparison.case.batch
        return int(self.comparison.row["result"]["batch"][0])

    @property
    def dtype(self) -> str | None:
        """The dtype of both."""
        return self.comparison.case.dtype if self.comparison else None

    @property
    def unlike(self) -> list[str]:
        """Notes on code, versions and threads that differ from those of the newest row of its study."""
        newest = self.first.results.newest(self.first.study)
        return self.comparison.unlike(newest) if self.comparison and newest else []

    @property
    def printed(self) -> float | None:
        """The ratio of the printed speeds; None of one model run in two ways, which the paper prints once."""
        if self.first.case.paper_name == self.second.case.paper_name:
            return None
        first, second = self.first.printed_images_per_s, self.second.printed_images_per_s
        return second / first if first and second else None

    @property
    def here(self) -> Estimate | None:
        """The ratio as it was measured."""
        return self.comparison.estimate if self.comparison and self.comparison.ok else None

    @property
    def is_launch_bound(self) -> bool:
        """Whether the time of one of them is that of the CPU's launches."""
        return self.comparison is not None and self.comparison.is_launch_bound

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on which is faster, by the interval and the size of the ratio; None where there is no ratio."""
        return verdicts.of_ratio(self.here)

    def verdict_among(self, looked_at: int) -> Verdict | None:
        """The verdict where this pair is picked from so many for what it says: its interval is then wider."""
        return verdicts.of_ratio(self.comparison.among(looked_at)) if self.here and self.comparison else None


# ---- the lines and pairs of a study


def lines_of(results: Results, study: Study, references: Sequence[str] = ()) -> list[Line]:
    """The paper's rows in its order, then those cases of the study that it prints no row for, and what a quick look
    took in place of them.

    `references` name the cases whose speed is 1.00 ×.

    Raises:
        UsageError: the study times nothing.
    """
    if not study.is_timed:
        raise UsageError(f"{study.name} times nothing: it has a figure, and no table")
    whole, quick = (
        [parsed(text) for text in study.cases(results.kind, is_quick)] for is_quick in (False, True)
    )
    cases = {case.paper_name: case for case in whole}
    paper = [row for row in printed.rows(study.name) if row.case in cases]
    in_paper = {row.case for row in paper}
    rows: list[tuple[Case, PrintedRow | None]] = [(cases[row.case], row) for row in paper]
    rows += [(case, None) for case in whole if case.paper_name not in in_paper]
    instead = [case for case in quick if case.paper_name not in cases]
    rows += [(case, _row_at_another_size(case, paper)) for case in instead if results.timing(case, study)]
    lines = _with_references([_line(results, study, case, row) for case, row in rows], references)
    return [
        replace(line, beside=results.comparison(line.case, line.reference.case, study))
        if line.reference and line.reference.case != line.case
        else line
        for line in lines
    ]


def pairs_of(results: Results, study: Study, lines: Sequence[Line]) -> list[Pair]:
    """The comparisons of a study between its `lines`, in the study's order."""
    by_case = {line.case: line for line in lines}

    def line(case: Case) -> Line:
        """The study's own line; of a case that is compared and not timed, one made for it."""
        return by_case.get(case) or _line(results, study, case, None)

    cases = [(parsed(first), parsed(second)) for first, second in study.pairs(results.kind, False)]
    return [
        Pair(line(first), line(second), results.comparison(first, second, study)) for first, second in cases
    ]


def _line(results: Results, study: Study, case: Case, row: PrintedRow | None) -> Line:
    return Line(case, study, results, row, results.counted(case), results.timing(case, study))


def _row_at_another_size(case: Case, paper: Sequence[PrintedRow]) -> PrintedRow | None:
    """The paper's row of the same model at another size, without its numbers: none of them holds for `case`."""
    for row in paper:
        if replace(parsed(row.case), size=case.size).paper_name == case.paper_name:
            return replace(row, case=case.paper_name, numbers={})
    return None


def _with_references(lines: Sequence[Line], references: Sequence[str]) -> list[Line]:
    """The lines, each with the nearest reference at or above it, else the first; one of its own size is preferred."""
    places = [place for place, line in enumerate(lines) if line.case.paper_name in references]
    referred: list[Line] = []
    for place, line in enumerate(lines):
        alike = [other for other in places if lines[other].case.shape == line.case.shape] or places
        above = [other for other in alike if other <= place] or alike[:1]
        referred.append(replace(line, reference=lines[above[-1]] if above else None))
    return referred
