"""The tables for people: computed from a study's lines, the paper's CSV and the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import stats
from bench.cases import Case, format_size
from bench.stats import Estimate
from reports import printed
from reports.lines import (
    TOO_WIDE,
    Line,
    moment,
    paper_key,
    percent,
    share,
    significant,
    study_lines,
    sweep_lines,
)
from reports.measured import Results, usual, when

DASH = "–"  # nothing to show, in every table
REFERENCE = "restv2_tiny@224"  # relative speeds are multiples of this case's


@dataclass(frozen=True)
class Cell:
    """What is shown, and what a column is sorted by: None sorts last."""

    text: str
    sort: float | str | None = None


@dataclass(frozen=True)
class Table:
    """A finished table, ready for any of the ways to show it."""

    name: str
    title: str
    caption: str
    headers: list[str]
    rows: list[list[Cell]]
    numeric: list[bool]  # per column: numbers stand right
    notes: list[str] = field(default_factory=list)

    def part(self, *headers: str) -> Table:
        """The same table with only these columns, without title, caption and notes."""
        at = [self.headers.index(header) for header in headers]
        rows = [[row[i] for i in at] for row in self.rows]
        return Table(self.name, "", "", list(headers), rows, [self.numeric[i] for i in at])


def _cell(value: float | None, text: Callable[[float], str]) -> Cell:
    return Cell(DASH) if value is None else Cell(text(value), value)


def _half_width(estimate: Estimate | None) -> Cell:
    return Cell(DASH) if estimate is None or estimate.low is None else _cell(estimate.half_width, percent)


# ---- Table 1

Column = tuple[bool, Callable[[Line], Cell]]  # whether it holds numbers, and what stands in it


def _columns(reference: Line | None) -> dict[str, Column]:
    """By header. `reference` is the line whose speed is 1.00."""
    base_paper = reference.printed["throughput"].value if reference and reference.printed else None
    base_here = reference.images_per_s.value if reference and reference.images_per_s else None

    def times(value: float | None, base: float | None) -> Cell:
        return Cell(DASH) if value is None or base is None else Cell(f"{value / base:.2f}", value / base)

    def paper(line: Line, metric: str) -> Cell:
        return (
            Cell(line.printed[metric].text, line.printed[metric].value)
            if metric in line.printed
            else Cell(DASH)
        )

    def speed_here(line: Line) -> Cell:
        if line.images_per_s is None:
            return Cell(line.outcome)
        return Cell(significant(line.images_per_s.value), line.images_per_s.value)

    def relative_paper(line: Line) -> Cell:
        return times(line.printed["throughput"].value if "throughput" in line.printed else None, base_paper)

    def relative_here(line: Line) -> Cell:
        return times(line.images_per_s.value if line.images_per_s else None, base_here)

    def achieved(line: Line) -> Cell:
        return _cell(line.macs_per_s.value / 1e9 if line.macs_per_s else None, significant)

    return {
        "Model": (False, lambda line: Cell(line.title, line.title)),
        "Size": (True, lambda line: _size(line.case)),
        "M params, paper": (True, lambda line: paper(line, "parameters")),
        "M params, counted": (True, lambda line: _cell(line.parameters, lambda n: f"{n / 1e6:.2f}")),
        "GMACs, paper": (True, lambda line: paper(line, "macs")),
        "GMACs, counted": (True, lambda line: _cell(line.macs(), lambda n: f"{n / 1e9:.2f}")),
        "counted as": (False, lambda line: Cell(line.convention, line.convention)),
        "verdict": (False, lambda line: Cell(line.verdict("macs") or DASH, line.verdict("macs") or None)),
        "images/s paper": (True, lambda line: paper(line, "throughput")),
        "images/s here": (True, speed_here),
        "± 95 %": (True, lambda line: _half_width(line.images_per_s)),
        "paper ×": (True, relative_paper),
        "here ×": (True, relative_here),
        "GMAC/s here": (True, achieved),
        "share of peak": (True, lambda line: _cell(line.share_of_peak, share)),
        "peak memory, MiB": (True, lambda line: _cell(line.peak_memory_bytes, lambda n: f"{n / 2**20:.0f}")),
        "batch": (True, lambda line: _cell(line.batch, lambda n: f"{n:.0f}")),
        "dtype": (False, lambda line: Cell(line.dtype or DASH, line.dtype)),
    }


def _size(case: Case) -> Cell:
    return Cell(format_size(case.size), case.size[0] * case.size[1])


# Two halves of Table 1 that each fit a terminal of 80 columns.
COUNTED = (
    *("Model", "Size", "M params, paper", "M params, counted"),
    *("GMACs, paper", "GMACs, counted", "counted as", "verdict"),
)
TIMED = (
    *("Model", "Size", "images/s paper", "images/s here", "± 95 %"),
    *("paper ×", "here ×", "share of peak", "batch", "dtype"),
)
SWEEP = ("Model", "Size", "batch", "dtype", "images/s here", "± 95 %", "GMAC/s here", "share of peak")


def _of_lines(shown: Sequence[Line], columns: dict[str, Column], **rest: Any) -> Table:
    return Table(
        headers=list(columns),
        rows=[[cell(line) for _, cell in columns.values()] for line in shown],
        numeric=[numeric for numeric, _ in columns.values()],
        **rest,
    )


def table1(results: Results) -> Table:
    """The paper's Table 1 beside what was counted and measured here."""
    all_lines = study_lines(results, "table1")
    reference = next((line for line in all_lines if paper_key(line.case) == REFERENCE), None)
    columns = _columns(reference)
    if not any(line.peak_memory_bytes for line in all_lines):
        del columns["peak memory, MiB"]
    return _of_lines(
        all_lines,
        columns,
        name="table1",
        title="Table 1, measured",
        caption=f"{caption(results, all_lines)} The paper's machine is a V100. "
        "× is speed as a multiple of ResTv2-T's at 224.",
        notes=[*line_notes(all_lines), *_not_covered(all_lines)],
    )


def caption(results: Results, shown: Sequence[Line]) -> str:
    """The machine, the protocol and the conventions, in one paragraph."""
    protocol = usual([line.timing.protocol for line in shown if line.timing])
    peaks = results.peaks
    dtypes = dict.fromkeys(line.dtype for line in shown if line.dtype in peaks.tflops)
    peak = ", ".join(f"{significant(peaks.tflops[dtype])} TFLOP/s {dtype}" for dtype in dtypes if dtype)
    sentences = [
        f"Measured on {results.machine}",
        f"Protocol {protocol}" if protocol else "",
        f"Peak {peak} ({peaks.source})" if peak else f"Peak {peaks.source}",
        "1 MAC = 2 FLOP; GMAC/s and share of peak count core MACs",
    ]
    return " ".join(f"{sentence}." for sentence in sentences if sentence)


def line_notes(shown: Sequence[Line]) -> list[str]:
    """What a reader must know about single rows; rows with the same note share it."""
    protocol = usual([line.timing.protocol for line in shown if line.timing])
    whose: dict[str, list[str]] = {}
    for line in shown:
        for note in _notes(line, protocol):
            whose.setdefault(note, []).append(line.name)
    everyone = len(shown)
    return [
        f"{'all' if len(names) == everyone > 1 else ', '.join(names)}: {note}"
        for note, names in whose.items()
    ]


def _notes(line: Line, protocol: str | None) -> Iterable[str]:
    if line.timing is None:
        yield "not measured yet"
    else:
        if line.timing.protocol != protocol:
            yield f"measured under protocol {line.timing.protocol}, not {protocol}"
        yield from line.timing.notes
    if line.too_uncertain:
        yield f"an interval wider than ± {100 * TOO_WIDE:.0f} %: nothing is concluded from it"
    if (line.share_of_peak or 0) > 1:
        yield "above the peak, which is therefore too low"
    if line.counts is None:
        yield "not counted yet"
    elif line.counted is None:
        yield f"counting failed: {line.counts.row.get('reason') or 'no reason given'}"
    if line.no_match_reason:
        yield line.no_match_reason
    if line.verdict("parameters") == "NO MATCH":
        yield f"NO MATCH: {line.printed['parameters'].text} M parameters are printed"


def _not_covered(shown: Sequence[Line]) -> list[str]:
    """Rows of the paper's table that no model here stands for."""
    covered = {paper_key(line.case) for line in shown}
    left = [text for text in printed.table("table1") if text not in covered]
    if not left:
        return []
    return [f"In the paper's table, with no model here yet: {', '.join(left)}"]


# ---- the other tables


def sweep(results: Results) -> Table | None:
    """Speed over batch and over resolution; None while nothing of it was measured."""
    shown = sweep_lines(results)
    if not shown:
        return None
    columns = _columns(None)
    left = len(study_lines(results, "sweep")) - len(shown)
    return _of_lines(
        shown,
        {header: columns[header] for header in SWEEP},
        name="sweep",
        title="Batch and resolution",
        caption=caption(results, shown),
        notes=line_notes(shown) + ([f"{left} more cases of the sweep are not measured yet"] if left else []),
    )


def cross_checks(results: Results) -> Table:
    """Our counts beside those of other counters, with the difference and its reason."""
    newest = {str(counts.case): counts for counts in results.counts if counts.row["outcome"] == "ok"}
    rows = []
    for counts in newest.values():
        for check in counts.cross_checks:
            difference = "0" if check.macs == check.ours else f"{100 * check.difference:+.2f} %"
            rows.append(
                [
                    Cell(counts.case.title, counts.case.title),
                    _size(counts.case),
                    Cell(check.counter, check.counter),
                    Cell(f"{check.macs / 1e9:.3f}", check.macs),
                    Cell(check.compared_with, check.compared_with),
                    Cell(f"{check.ours / 1e9:.3f}", check.ours),
                    Cell(difference, abs(check.difference)),
                    Cell(check.why or DASH, check.why or None),
                ]
            )
    headers = ["Model", "Size", "counter", "its GMACs", "our convention", "our GMACs", "difference", "why"]
    return Table(
        "counters",
        "Other counters",
        f"{sum(row[6].text == '0' for row in rows)} of {len(rows)} counts agree to the last MAC.",
        headers,
        rows,
        [False, True, False, True, False, True, True, False],
    )


def elsewhere(results: Results) -> Table:
    """Timings and comparisons that no study asked for, unless a table above shows them already."""
    above = [*study_lines(results, "table1"), *sweep_lines(results)]
    shown = {id(line.timing.row) for line in above if line.timing}
    rows = []
    for timing in [each for kind in results.timings.values() for each in kind]:
        if timing.ok and not timing.row.get("study") and id(timing.row) not in shown:
            latency = timing.row["harness"] == "latency"
            estimate = timing.seconds if latency else timing.images_per_s
            text = (
                f"{significant(1e3 * estimate.value)} ms"
                if latency
                else f"{significant(estimate.value)} images/s"
            )
            rows.append(_elsewhere_row(timing.row, timing.row["case"], text, estimate))
    for row in results.others:
        if row["harness"] == "compare" and row["outcome"] == "ok":
            ratio = stats.ratio(row["result"]["blocks"], row["result"]["batch"])
            what = f"{row['result']['a']} against {row['result']['b']}"
            rows.append(_elsewhere_row(row, what, f"{ratio.value:.3f} × the time an image", ratio))
    headers = ["case", "harness", "value", "± 95 %", "protocol", "when"]
    return Table("elsewhere", "Measured by hand", "", headers, rows, [False, False, True, True, False, False])


def _elsewhere_row(row: dict[str, Any], what: str, value: str, estimate: Estimate) -> list[Cell]:
    protocol = str((row.get("protocol") or {}).get("name", DASH))
    return [
        Cell(what, what),
        Cell(row["harness"], row["harness"]),
        Cell(value, estimate.value),
        _half_width(estimate),
        Cell(protocol, protocol),
        Cell(moment(row), when(row)),
    ]


def not_measured(results: Results) -> Table:
    """What has no number, and why: failed rows, and cases of Table 1 that nobody has run."""
    rows = []
    failed = [row for row in results.rows if row["outcome"] != "ok"]
    for row in failed:
        reason = str(row.get("reason") or "no reason given")
        rows.append([Cell(text, text) for text in (str(row["case"]), row["harness"], reason)])
    for line in study_lines(results, "table1"):
        if line.timing is None:
            rows.append([Cell(text, text) for text in (str(line.case), "throughput", "not measured yet")])
    return Table("missing", "Not measured", "", ["case", "harness", "why"], rows, [False] * 3)
