"""The gaps and their reasons: rows that failed, and what the studies that were run still lack."""

from __future__ import annotations

from dataclasses import dataclass

from reports.chapter import Chapter, Told, no_tables
from reports.columns import Column
from reports.tables import Table, made_of


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
        for line in before.shown:  # of a long study, or in a quick look, only what was asked for
            if line.timing is None and line.case in before.asked:
                reasons[str(line.case), before.study.harness] = "not measured yet"
        for pair in [] if before.chapter.is_long else before.pairs:
            if pair.comparison is None:
                reasons[f"{pair.first.case} / {pair.second.case}", "compare"] = "not measured yet"
    rows = [Gap(case, harness, why) for (case, harness), why in reasons.items()]
    return made_of(GAPS, rows, "missing", "Not measured")


CHAPTERS = (
    Chapter(
        heading="Not measured, and why",
        nav="Not measured",
        tables=no_tables,
        context=lambda told: {"not_measured": not_measured(told)},
        template="gaps.html",
        own_anchor="gaps",
    ),
)
