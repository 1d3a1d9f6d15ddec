"""The cases and pairs that were measured by hand, with `measure` and `compare`: all that no study asked for, whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.study import Study, always
from reports import columns
from reports.chapter import Chapter, Told, caption, line_notes, pair_notes, setting
from reports.columns import COLUMNS, DASH, HALF_WIDTH, NUMBER, PAIR_COLUMNS, TEXT, Column, Form
from reports.lines import Line, Pair
from reports.measurements import Comparison, Measured, Timing
from reports.rows import moment, when
from reports.tables import Table, made_of

NAME = "measured"
COMMANDS = Study(NAME, "What was measured by hand?", always())  # which every line has to have one of


@dataclass(frozen=True)
class Case:
    """A case that was measured by hand: its throughput, its latency, or both."""

    line: Line  # of the throughput, else of the latency
    throughput: Timing | None
    latency: Timing | None


def cases(told: Told) -> list[Case]:
    """The newest throughput and latency of each case that no study asked for, and that no table of one shows."""
    shown = {id(line.timing.row) for before in told.before for line in before.shown if line.timing}
    newest: dict[str, dict[Any, Timing]] = {
        harness: {row.case: row for row in told.results.timings[harness] if _is_by_hand(row, shown)}
        for harness in ("throughput", "latency")
    }
    throughputs, latencies = newest["throughput"], newest["latency"]
    return [
        Case(
            _line(told, throughputs.get(case) or latencies[case]), throughputs.get(case), latencies.get(case)
        )
        for case in {**throughputs, **latencies}
    ]


def pairs(told: Told) -> list[Pair]:
    """The newest comparison of each two cases that no study asked for, and that no table of one shows."""
    shown = {id(pair.comparison.row) for before in told.before for pair in before.pairs if pair.comparison}
    newest = {row.cases: row for row in told.results.comparisons if _is_by_hand(row, shown)}
    return [_pair(told, row) for row in newest.values()]


def _is_by_hand(row: Measured, shown: set[int]) -> bool:
    return row.ok and not row.row.get("study") and id(row.row) not in shown


def _line(told: Told, timing: Timing) -> Line:
    return Line(timing.case, COMMANDS, told.results, None, told.results.counted(timing.case), timing)


def _pair(told: Told, comparison: Comparison) -> Pair:
    counted = told.results.counted
    first, second = (
        Line(case, COMMANDS, told.results, None, counted(case), None) for case in comparison.cases
    )
    return Pair(first, second, comparison)


# ---- tables

WHEN: Form = Form(lambda row: moment(row) or DASH, TEXT, is_number=False, raw=when, sort=when)


def _of_line(name: str, header: str = "") -> Column[Case]:
    """A quantity of a line, of which a case has one."""
    column = COLUMNS[name]
    absent = column.absent
    return Column(
        name,
        header or column.header,
        lambda case: column.value(case.line),
        column.form,
        (lambda case: absent(case.line)) if absent else None,
    )


def _speed(name: str, header: str) -> Column[Case]:
    """A quantity of the throughput alone."""
    value = COLUMNS[name].value
    return Column(
        name, header, lambda case: value(case.line) if case.throughput else None, COLUMNS[name].form
    )


def _ms(case: Case) -> float | None:
    return 1e3 * case.latency.estimate.value if case.latency else None


def _ms_half_width(case: Case) -> float | None:
    known = case.latency and case.latency.estimate.low is not None
    return case.latency.estimate.half_width if case.latency and known else None


MODEL, SIZE = _of_line("model"), _of_line("size")
SPEED: tuple[Column[Case], ...] = (
    _speed("images_per_s", "images/s"),
    _speed("half_width", "± 95 %"),
    Column("latency_ms", "latency, ms", _ms, NUMBER),
    Column("latency_half_width", "± 95 % of it", _ms_half_width, HALF_WIDTH),
)
COUNTED = (_of_line("parameters", "M parameters"), _of_line("core_macs", "GMACs"))
RATE = (_speed("gmacs_per_s", "GMAC/s"), _speed("share_of_peak", "share of peak"))
BESIDES = (
    *(_of_line(name) for name in ("device_share", "peak_memory_bytes", "millijoules_per_image")),
    *(_of_line(name) for name in ("batch", "dtype", "impl", "protocol")),
)
WHEN_MEASURED: Column[Case] = Column("when", "when", lambda case: (case.throughput or case.latency).row, WHEN)  # type: ignore[union-attr]  # one is there
CASE = _of_line("case")
TABLE = (MODEL, SIZE, *SPEED, *COUNTED, *RATE, *BESIDES, WHEN_MEASURED, CASE)
CSV = (CASE, *TABLE[:-1])
OF_PAIR = (
    "first_name",
    "second_name",
    "ratio",
    "interval",
    "verdict",
    "blocks",
    "batch",
    "dtype",
    "protocol",
)


def tables(told: Told) -> list[Table]:
    """The table of the cases and that of the pairs, as far as there are any."""
    made = []
    if found := cases(told):
        of_them = [case.line for case in found]
        table = made_of(
            TABLE,
            found,
            NAME,
            "Measured",
            caption(of_them),
            notes=line_notes(of_them),
            setting=setting(told.results, of_them),
            narrow=[[MODEL, SIZE, *COUNTED, *BESIDES], [MODEL, SIZE, *SPEED, *RATE]],
        )
        made.append(table.without(table.empty()))
    if compared := pairs(told):
        shown = [PAIR_COLUMNS[name] for name in OF_PAIR]
        made.append(
            made_of(
                shown,
                compared,
                "compared",
                "Compared, in turns",
                "How many times as long the first takes for an image as the second, measured in turns (A B B A or "
                "B A A B, by a coin). The same: the whole interval is within 1 % of 1.",
                notes=pair_notes(compared),
                narrow=[[*shown[:2], *shown[5:]], shown[:5]],
            )
        )
    return made


def files(told: Told) -> dict[str, str]:
    """The same as CSV files."""
    found, compared = cases(told), pairs(told)
    made = {"measured.csv": columns.to_csv(CSV, found)} if found else {}
    if compared:
        made["compared.csv"] = columns.to_csv([PAIR_COLUMNS[name] for name in columns.PAIRS_CSV], compared)
    return made


CHAPTERS = (
    Chapter(
        heading="What you measured",
        nav="Measured",
        text="Cases and pairs that were measured one at a time, by `measure` and `compare`.",
        tables=tables,
        files=files,
        own_anchor="by-hand",
    ),
)
