"""Every quantity that tables and files show, once: its name in files, its header for people, its value, its form."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from bench.cases import Case
from bench.stats import Estimate
from bench.text import inert
from reports.lines import ANALYSIS, Line, Pair
from reports.printed import Printed
from reports.rows import when
from reports.text import hundredths, interval, percent, share, significant, with_interval
from reports.verdicts import Verdict

DASH = "–"  # nothing to show, in every table
# pandas' own types: a whole number stays whole where another is missing, and text is the same in pandas 2 and 3
WHOLE, REAL, TEXT = "Int64", "float64", "object"
Row = TypeVar("Row")
Sortable = float | str | None


TONES = {
    **dict.fromkeys(("MATCH", "confirmed"), "good"),
    **dict.fromkeys(("NO MATCH", "failed", "refuted", "impossible"), "bad"),
    "missing": "open",
    DASH: "empty",
}


@dataclass(frozen=True)
class Cell:
    """A text as it is shown, and what its column is sorted by: None sorts last."""

    text: str
    sort: Sortable = None

    @property
    def tone(self) -> str:
        """The look of the text: good, bad, open (nobody has tried), empty, or as usual (no tone)."""
        return TONES.get(self.text, "")


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Form:
    """The ways in which the values of a column are written: for people, for sorting, in files and frames."""

    text: Callable[[Any], str] = str
    dtype: str = REAL
    is_number: bool = True  # numbers stand right
    raw: Callable[[Any], Any] = _same  # what a file or frame holds
    sort: Callable[[Any], Sortable] = _same


def _word(verdict: Verdict) -> str:
    return verdict.word


def _printed_text(number: Printed) -> str:
    return number.text


def _printed_value(number: Printed) -> float:
    return number.value


def _estimated(estimate: Estimate) -> float:
    return estimate.value


def _pixels(case: Case) -> int | None:
    """The area of a case's images; None for a mix of sizes."""
    return None if case.mix else case.size[0] * case.size[1]


WORDS = Form(dtype=TEXT, is_number=False)
INTERVAL = Form(dtype=TEXT)
VERDICT = Form(_word, TEXT, is_number=False, raw=_word, sort=_word)
SIZE = Form(lambda case: str(case.shape), TEXT, raw=lambda case: str(case.shape), sort=_pixels)
COUNT = Form(lambda count: f"{count:.0f}", WHOLE)
PRINTED = Form(_printed_text, raw=_printed_value, sort=_printed_value)
PRINTED_COUNT = Form(_printed_text, WHOLE, raw=lambda number: round(number.value), sort=_printed_value)
NUMBER = Form(significant)
TIMES = Form(lambda times: f"{times:.2f}")
RATIO = Form(lambda ratio: f"{ratio:.3f}")
RATIO_WITH_INTERVAL = Form(with_interval, raw=_estimated, sort=_estimated)
HALF_WIDTH = Form(percent)
SHARE = Form(share)
MILLIONS = Form(lambda count: hundredths(count / 1e6), WHOLE)
GIGA = Form(lambda macs: hundredths(macs / 1e9), WHOLE)
MEBIBYTES = Form(lambda size: f"{size / 2**20:.0f}", WHOLE)


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One quantity of a row. Its value is the same wherever it is shown; None is unknown.

    `absent` says what stands for people where there is no value: a dash, unless the row has a word for it.
    """

    name: str  # in CSV files and frames
    header: str  # for people
    value: Callable[[Row], Any]
    form: Form = WORDS
    absent: Callable[[Row], str | None] | None = None

    def cell(self, row: Row) -> Cell:
        """The value for people."""
        value = self.value(row)
        if value is None or value == "":
            return Cell((self.absent(row) if self.absent else None) or DASH)
        return Cell(self.form.text(value), self.form.sort(value))

    def raw(self, row: Row) -> Any:
        """The value for a file or a frame: int, float, text or None."""
        value = self.value(row)
        if value is None or value == "":
            return None
        return {WHOLE: int, REAL: float, TEXT: str}[self.form.dtype](self.form.raw(value))


def to_csv(columns: Sequence[Column[Row]], rows: Sequence[Row]) -> str:
    """The rows as CSV, every number with all its digits; what is unknown is left empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    writer.writerows([[inert(column.raw(row)) for column in columns] for row in rows])
    return file.getvalue()


# ---- the quantities of a line

# Modules of detectors and segmenters whose time is taken apart, as tables name them.
MODULES = {"backbone": "backbone", "fpn": "FPN", "rpn": "RPN", "heads": "heads", "decoder": "decoder"}


def _printed(metric: str) -> Callable[[Line], Printed | None]:
    return lambda line: line.printed.get(metric)


def _verdict(metric: str) -> Callable[[Line], Verdict | None]:
    return lambda line: line.verdict(metric)


def _remark(metric: str) -> Callable[[Line], str | None]:
    """Why a printed number is not reproduced, or what else is known of it."""

    def remark(line: Line) -> str | None:
        verdict = line.verdict(metric)
        return verdict.reason if verdict else None

    return remark


def _value(estimate: Estimate | None) -> float | None:
    return estimate.value if estimate else None


def _half_width(estimate: Estimate | None) -> float | None:
    return None if estimate is None or estimate.low is None else estimate.half_width


def _milliseconds(line: Line) -> Estimate | None:
    return line.seconds.map(lambda seconds: 1e3 * seconds) if line.seconds else None


def _millijoules(line: Line) -> float | None:
    joules = line.joules_per_image
    return None if joules is None else 1e3 * joules


def _module_seconds(module: str) -> Callable[[Line], float | None]:
    return lambda line: line.by_module[module].value if module in line.by_module else None


def _outcome(line: Line) -> str:
    return line.outcome


def _launch_bound(line: Line) -> str | None:
    """A word in place of a rate of computing, where the CPU's launches were timed."""
    return "launch-bound" if line.is_launch_bound and line.macs(ANALYSIS) else None


def _as_asked(line: Line) -> str:
    """The case as somebody would type it to ask for this row."""
    case = line.case.without_run
    return str(case).removesuffix(f":{case.impl}") + (":train" if line.is_training else "")


def _notes(line: Line) -> str | None:
    return "; ".join(line.timing.notes) if line.timing and line.timing.ok else None


def named(columns: Sequence[Column[Row]]) -> dict[str, Column[Row]]:
    """The columns by name."""
    return {column.name: column for column in columns}


COLUMNS: dict[str, Column[Line]] = named(
    [
        # what it is
        Column(
            "case", "case as it ran", lambda line: line.timing.row["case"] if line.timing else str(line.case)
        ),
        Column("asked", "case", _as_asked),
        Column("title", "title", lambda line: line.title),
        Column("model", "Model", lambda line: f"{line.panel} {line.title}".strip()),
        Column("source", "source", lambda line: line.row.source if line.row else None),
        Column("family", "family", lambda line: line.case.family),
        Column("size", "Size", lambda line: line.case, SIZE),
        Column("height", "height", lambda line: None if line.case.mix else line.case.size[0], COUNT),
        Column("width", "width", lambda line: None if line.case.mix else line.case.size[1], COUNT),
        Column("mix", "mix", lambda line: str(line.case.mix) if line.case.mix else None),
        # what was counted, beside what is printed
        Column("paper_parameters", "M params paper", _printed("parameters"), PRINTED_COUNT),
        Column("parameters", "M params ours", lambda line: line.parameters, MILLIONS),
        Column("parameters_verdict", "params verdict", _verdict("parameters"), VERDICT),
        Column("parameters_remark", "params remark", _remark("parameters")),
        Column("paper_macs", "GMACs paper", _printed("macs"), PRINTED_COUNT),
        Column("macs", "GMACs ours", lambda line: line.macs(), GIGA),
        Column("convention", "counted as", lambda line: line.convention),
        Column("macs_verdict", "GMACs verdict", _verdict("macs"), VERDICT),
        Column("macs_remark", "GMACs remark", _remark("macs")),
        Column("core_macs", "GMACs forward", lambda line: line.macs(ANALYSIS), GIGA),
        # what was measured, beside what is printed
        Column("seconds", "s here", lambda line: _value(line.seconds), NUMBER, _outcome),
        *(
            Column(f"{module}_s", f"{header}, s", _module_seconds(module), NUMBER)
            for module, header in MODULES.items()
        ),
        Column("paper_ms", "ms paper", _printed("ms"), PRINTED),
        Column("ms", "ms here", lambda line: _value(_milliseconds(line)), NUMBER, _outcome),
        Column("step_ms", "ms/step", lambda line: _value(_milliseconds(line)), NUMBER),
        Column("ms_low", "ms from", lambda line: (ms := _milliseconds(line)) and ms.low, NUMBER),
        Column("ms_high", "ms to", lambda line: (ms := _milliseconds(line)) and ms.high, NUMBER),
        Column("ms_half_width", "± 95 %", lambda line: _half_width(line.seconds), HALF_WIDTH),
        Column("paper_throughput", "images/s paper", _printed("throughput"), PRINTED),
        Column("paper_images_per_s", "images/s paper", lambda line: line.printed_images_per_s, NUMBER),
        Column("images_per_s", "images/s here", lambda line: _value(line.images_per_s), NUMBER, _outcome),
        Column(
            "images_per_s_low",
            "images/s from",
            lambda line: line.images_per_s and line.images_per_s.low,
            NUMBER,
        ),
        Column(
            "images_per_s_high",
            "images/s to",
            lambda line: line.images_per_s and line.images_per_s.high,
            NUMBER,
        ),
        Column("half_width", "± 95 %", lambda line: _half_width(line.images_per_s), HALF_WIDTH),
        Column("times_paper", "paper ×", lambda line: line.times_printed, TIMES),
        Column("times_here", "here ×", lambda line: line.times_here, TIMES),
        Column("times_inference", "× inference", lambda line: line.times_inference, TIMES),
        Column(
            "gmacs_per_s",
            "GMAC/s here",
            lambda line: line.macs_per_s.value / 1e9 if line.macs_per_s else None,
            NUMBER,
            _launch_bound,
        ),
        Column("share_of_peak", "share of peak", lambda line: line.share_of_peak, SHARE, _launch_bound),
        Column("device_share", "GPU computed", lambda line: line.device_share, SHARE),
        Column("joules_per_image", "J / image", lambda line: line.joules_per_image, NUMBER),
        Column("millijoules_per_image", "mJ / image", _millijoules, NUMBER),
        Column("peak_memory_bytes", "peak memory, MiB", lambda line: line.peak_memory_bytes, MEBIBYTES),
        # how it was measured
        Column("batch", "batch", lambda line: line.batch, COUNT),
        Column("dtype", "dtype", lambda line: line.dtype),
        Column("impl", "implementation", lambda line: line.case.impl),
        Column("protocol", "protocol", lambda line: line.timing and line.timing.protocol),
        Column("when", "when", lambda line: line.timing and when(line.timing.row)),
        Column("outcome", "outcome", _outcome),
        Column("reason", "reason", lambda line: line.reason),
        Column("notes", "notes", _notes),
        # what the paper says of accuracy
        Column("paper_top1", "Top-1 %, printed", _printed("top1"), PRINTED),
        Column("paper_ap_box", "box AP, printed", _printed("ap_box"), PRINTED),
        Column("paper_ap_mask", "mask AP, printed", _printed("ap_mask"), PRINTED),
        Column("paper_miou", "mIoU, printed", _printed("miou"), PRINTED),
    ]
)

# ---- the quantities of a pair

PAIR_COLUMNS: dict[str, Column[Pair]] = named(
    [
        Column("first_name", "first", lambda pair: pair.first_name),
        Column("second_name", "second", lambda pair: pair.second_name),
        Column(
            "first",
            "first case",
            lambda pair: str(pair.comparison.case if pair.comparison else pair.first.case),
        ),
        Column(
            "second",
            "second case",
            lambda pair: str(pair.comparison.other if pair.comparison else pair.second.case),
        ),
        Column("paper_ratio", "time × paper", lambda pair: pair.printed, RATIO),
        Column("ratio", "time × here", lambda pair: _value(pair.here), RATIO, lambda pair: pair.outcome),
        Column("ratio_low", "time × from", lambda pair: pair.here and pair.here.low, RATIO),
        Column("ratio_high", "time × to", lambda pair: pair.here and pair.here.high, RATIO),
        Column("interval", "95 % interval", lambda pair: pair.here and interval(pair.here), INTERVAL),
        Column("verdict", "verdict", lambda pair: pair.verdict, VERDICT),
        Column("blocks", "blocks", lambda pair: pair.here and pair.here.blocks, COUNT),
        Column("batch", "batch", lambda pair: pair.batch, COUNT),
        Column("dtype", "dtype", lambda pair: pair.dtype),
        Column("protocol", "protocol", lambda pair: pair.comparison and pair.comparison.protocol),
        Column("when", "when", lambda pair: pair.comparison and when(pair.comparison.row)),
        Column("outcome", "outcome", lambda pair: pair.outcome),
    ]
)

# ---- which of them are shown: layouts, by name


@dataclass(frozen=True)
class Layout:
    """The columns of a table by name, and the narrower tables it is split into where room is scarce."""

    names: tuple[str, ...]
    narrow: tuple[tuple[str, ...], ...] = ()

    def instead(self, other: Mapping[str, str]) -> Layout:
        """The same layout with other columns in the places of some."""
        return replace(
            self,
            names=_instead(self.names, other),
            narrow=tuple(_instead(names, other) for names in self.narrow),
        )


def _instead(names: Sequence[str], other: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(other.get(name, name) for name in names)


WHO = ("model", "size")
PARAMETERS = ("paper_parameters", "parameters", "parameters_verdict")
MACS = ("paper_macs", "macs", "convention", "macs_verdict")
SPEED = ("paper_throughput", "images_per_s", "half_width", "times_paper", "times_here")
COUNTED = (*WHO, *PARAMETERS, *MACS)

# A table of the paper's; each half fits a terminal of 80 columns.
PAPER = Layout(
    (
        *COUNTED,
        *SPEED,
        *("gmacs_per_s", "share_of_peak", "device_share", "peak_memory_bytes", "millijoules_per_image"),
        *("batch", "dtype", "impl", "paper_top1", "asked"),
    ),
    (COUNTED, (*WHO, *SPEED, "share_of_peak", "batch", "dtype", "impl", "paper_top1")),
)
PAIRS = Layout(
    (
        *("first_name", "second_name", "paper_ratio", "ratio", "interval", "verdict", "blocks"),
        *("batch", "dtype"),
    ),
    (("first_name", "second_name", "paper_ratio", "ratio", "interval", "verdict", "dtype"),),
)

# The columns of CSV files and frames.
CSV = (
    *("case", "title", "source", "family", "height", "width", "mix"),
    *("parameters", "macs", "convention", "core_macs", "paper_macs", "paper_parameters"),
    *("macs_verdict", "parameters_verdict", "macs_remark", "parameters_remark", "paper_top1"),
    *("seconds", "images_per_s", "images_per_s_low", "images_per_s_high", "paper_images_per_s"),
    *("times_here", "times_paper", "times_inference", "batch", "dtype", "impl", "share_of_peak"),
    *("device_share", "joules_per_image"),
    *(f"{module}_s" for module in MODULES),
    *("paper_ap_box", "paper_ap_mask", "paper_miou"),
    *("peak_memory_bytes", "protocol", "when", "outcome", "reason", "notes"),
)
PAIRS_CSV = (
    *("first", "second", "ratio", "ratio_low", "ratio_high", "paper_ratio", "verdict", "blocks"),
    *("protocol", "when", "outcome"),
)

# What stands in place of speeds where a study measures latency.
LATENCY = {
    "paper_throughput": "paper_ms",
    "paper_images_per_s": "paper_ms",
    "images_per_s": "ms",
    "images_per_s_low": "ms_low",
    "images_per_s_high": "ms_high",
    "half_width": "ms_half_width",
}


def for_harness(layout: Layout, harness: str) -> Layout:
    """The layout for what a harness measures: milliseconds in place of images a second for latency."""
    return layout.instead(LATENCY) if harness == "latency" else layout


def csv_for_harness(names: Sequence[str], harness: str) -> tuple[str, ...]:
    """The columns of a file for what a harness measures."""
    return _instead(names, LATENCY) if harness == "latency" else tuple(names)
