"""A finished table, ready for any of the ways to show it, and its cells."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from bench.cases import Case
from bench.stats import Estimate
from reports.text import percent

DASH = "–"  # nothing to show, in every table


@dataclass(frozen=True)
class Cell:
    """What is shown, and what a column is sorted by: None sorts last."""

    text: str
    sort: float | str | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells under headers, with what is to be read above and below them."""

    name: str
    title: str
    caption: str
    headers: list[str]
    rows: list[list[Cell]]
    numeric: list[bool]  # per column: numbers stand right
    notes: list[str] = field(default_factory=list)
    setting: str = ""  # the part of the caption that most tables of a run share: machine, protocol, peak
    narrow: list[list[str]] = field(default_factory=list)  # by headers, the tables it is where room is scarce

    def part(self, headers: Sequence[str]) -> Table:
        """The same table with only these columns, without title, caption and notes."""
        at = [self.headers.index(header) for header in headers]
        rows = [[row[i] for i in at] for row in self.rows]
        return Table(self.name, "", "", list(headers), rows, [self.numeric[i] for i in at])

    def without(self, headers: Collection[str]) -> Table:
        """The same table without these columns."""
        kept = self.part([header for header in self.headers if header not in headers])
        narrow = [[header for header in each if header not in headers] for each in self.narrow]
        return replace(self, headers=kept.headers, rows=kept.rows, numeric=kept.numeric, narrow=narrow)

    def empty(self) -> set[str]:
        """Headers of the columns in which nothing stands."""
        return {
            header for i, header in enumerate(self.headers) if all(row[i].text == DASH for row in self.rows)
        }


def without_repeats(tables: Sequence[Table]) -> list[Table]:
    """The same, for tables that are read one after another: a setting is told where it changes."""
    last, shown = "", []
    for table in tables:
        shown.append(replace(table, setting="") if table.setting == last else table)
        last = table.setting or last
    return shown


def text(value: str | None) -> Cell:
    return Cell(value or DASH, value or None)


def number(value: float | None, form: Callable[[float], str]) -> Cell:
    return Cell(DASH) if value is None else Cell(form(value), value)


def half_width(estimate: Estimate | None) -> Cell:
    return Cell(DASH) if estimate is None or estimate.low is None else number(estimate.half_width, percent)


def size(case: Case) -> Cell:
    return Cell(case.shape, None if case.mix else case.size[0] * case.size[1])


def ratio(estimate: Estimate) -> Cell:
    """How many times as long, with its interval."""
    ends = "" if estimate.low is None else f" ({estimate.low:.3f} to {estimate.high:.3f})"
    return Cell(f"{estimate.value:.3f}{ends}", estimate.value)
