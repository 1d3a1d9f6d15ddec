"""Measurements beside the studies: those made by hand, and those that are missing, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.stats import Estimate
from reports.chapter import Chapter, Told, no_tables
from reports.columns import DASH, HALF_WIDTH, TEXT, Column, Form
from reports.measurements import Comparison, Measured, Timing, moment, when
from reports.tables import Table, made_of
from reports.text import significant

# ---- measured by hand


@dataclass(frozen=True)
class ByHand:
    """Something measured that no study asked for: what it was, and its value in words."""

    measured: Measured
    what: str
    text: str
    estimate: Estimate


def _value(row: ByHand) -> float:
    return row.estimate.value


def _when(row: ByHand) -> str:
    return when(row.measured.row)


BY_HAND: tuple[Column[ByHand], ...] = (
    Column("case", "case", lambda row: row.what),
    Column("harness", "harness", lambda row: row.measured.row["harness"]),
    Column("value", "value", lambda row: row, Form(lambda row: row.text, raw=_value, sort=_value)),
    Column(
        "half_width",
        "± 95 %",
        lambda row: None if row.estimate.low is None else row.estimate.half_width,
        HALF_WIDTH,
    ),
    Column("protocol", "protocol", lambda row: row.measured.protocol),
    Column(
        "when",
        "when",
        lambda row: row,
        Form(lambda row: moment(row.measured.row) or DASH, TEXT, is_number=False, raw=_when, sort=_when),
    ),
)


def elsewhere(told: Told) -> Table:
    """Timings and comparisons that no study asked for, unless a table above shows them already."""
    shown = {id(line.timing.row) for before in told.before for line in before.shown if line.timing}
    shown |= {id(pair.comparison.row) for before in told.before for pair in before.pairs if pair.comparison}
    rows = [
        row
        for row in _ok_rows(told)
        if not row.measured.row.get("study") and id(row.measured.row) not in shown
    ]
    return made_of(BY_HAND, rows, "elsewhere", "Measured by hand")


def _ok_rows(told: Told) -> Iterator[ByHand]:
    """Everything that was measured, in images/s, milliseconds and ratios."""
    for timing in told.results.timings["throughput"]:
        if timing.ok:
            speed = timing.images_per_s
            yield _timed(timing, f"{significant(speed.value)} images/s", speed)
    for timing in told.results.timings["latency"]:
        if timing.ok:
            yield _timed(timing, f"{significant(1e3 * timing.estimate.value)} ms", timing.estimate)
    for comparison in told.results.comparisons:
        if comparison.ok:
            yield _compared(comparison)


def _timed(timing: Timing, text: str, estimate: Estimate) -> ByHand:
    return ByHand(timing, timing.row["case"], text, estimate)


def _compared(comparison: Comparison) -> ByHand:
    estimate = comparison.estimate
    what = f"{comparison.case} against {comparison.other}"
    return ByHand(comparison, what, f"{estimate.value:.3f} × the time an image", estimate)


# ---- not measured


@dataclass(frozen=True)
class Gap:
    """A case that has no number, by which harness, and why."""

    case: str
    harness: str
    why: str


GAPS: tuple[Column[Gap], ...] = (
    Column("case", "case", lambda gap: gap.case),
    Column("harness", "harness", lambda gap: gap.harness),
    Column("why", "why", lambda gap: gap.why),
)


def not_measured(told: Told) -> Table:
    """The cases without a number, and why: failed rows, and what the studies that were run still lack."""
    reasons: dict[tuple[str, str], str] = {}
    for row in told.results.rows:  # oldest first, so that a success takes back an earlier failure
        key = str(row["case"]), row["harness"]
        reasons.pop(key, None)
        if row["outcome"] != "ok":
            reasons[key] = str(row.get("reason") or "no reason given")
    for before in told.before:
        if before.chapter.is_long:  # a quick run leaves most of it out, and its table says how much is left
            continue
        for line in before.lines:
            if line.timing is None:
                reasons[str(line.case), before.study.harness] = "not measured yet"
        for pair in before.pairs:
            if pair.comparison is None:
                reasons[f"{pair.first.case} / {pair.second.case}", "compare"] = "not measured yet"
    rows = [Gap(case, harness, why) for (case, harness), why in reasons.items()]
    return made_of(GAPS, rows, "missing", "Not measured")


CHAPTERS = (
    Chapter(
        heading="Not measured, and why",
        nav="Not measured",
        tables=no_tables,
        context=lambda told: {"elsewhere": elsewhere(told), "not_measured": not_measured(told)},
        template="gaps.html",
        own_anchor="gaps",
    ),
)
