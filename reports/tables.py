"""A finished table, and how it is written as Markdown and in the terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from reports.columns import DASH, Cell, Column, Row

SIZE = "Size"  # the header of the column that tells two rows of one model apart
USUAL_WIDTH = 80  # columns of a terminal
STYLES = {"bad": "bold red", "open": "yellow", "empty": "dim"}  # rich's, by the tone of a cell


@dataclass(frozen=True)
class Table:
    """Rows of cells under headers, with what is to be read above and below them."""

    name: str
    title: str
    caption: str
    headers: list[str]
    rows: list[list[Cell]] = field(repr=False)
    numeric: list[bool] = field(repr=False)  # per column: numbers stand right
    notes: list[str] = field(default_factory=list, repr=False)
    setting: str = ""  # the part of the caption that most tables of a run share: machine, protocol, peak
    narrow: list[list[str]] = field(
        default_factory=list, repr=False
    )  # by headers, the tables it is where room is scarce

    def _repr_markdown_(self) -> str:
        """The table in a notebook."""
        return to_markdown(self)

    @property
    def aside(self) -> set[str]:
        """Headers of the columns that a phone shows when asked: not the name, nor the last narrow part."""
        if len(self.narrow) < 2:
            return set()
        return {*self.headers[1:]} - {header for header in self.narrow[-1] if header != SIZE}

    @property
    def folding(self) -> set[str]:
        """Headers of the columns of long names, which may be broken."""
        return {"case", "counted as", "Time from", "how"}

    def size_of(self, row: list[Cell]) -> str:
        """The text of a row's size, to stand beside its name; empty where the table has none, or begins with it."""
        return row[self.headers.index(SIZE)].text if SIZE in self.headers[1:] else ""

    def only(self, headers: Sequence[str]) -> Table:
        """The same table with only these columns, without title, caption and notes."""
        places = [self.headers.index(header) for header in headers]
        rows = [[row[place] for place in places] for row in self.rows]
        return Table(self.name, "", "", list(headers), rows, [self.numeric[place] for place in places])

    def without(self, headers: Collection[str]) -> Table:
        """The same table without these columns."""
        kept = self.only([header for header in self.headers if header not in headers])
        narrow = [[header for header in names if header not in headers] for names in self.narrow]
        return replace(self, headers=kept.headers, rows=kept.rows, numeric=kept.numeric, narrow=narrow)

    def empty(self) -> set[str]:
        """Headers of the columns in which nothing stands."""
        return {
            header
            for place, header in enumerate(self.headers)
            if all(row[place].text == DASH for row in self.rows)
        }


def made_of(
    columns: Sequence[Column[Row]],
    rows: Sequence[Row],
    name: str,
    title: str,
    caption: str = "",
    *,
    notes: Sequence[str] = (),
    setting: str = "",
    narrow: Sequence[Sequence[Column[Row]]] = (),
) -> Table:
    """The table of `rows` in these columns, with their headers, forms and alignment."""
    return Table(
        name,
        title,
        caption,
        [column.header for column in columns],
        [[column.cell(row) for column in columns] for row in rows],
        [column.form.is_number for column in columns],
        list(notes),
        setting,
        [[column.header for column in part] for part in narrow],
    )


def without_repeats(tables: Sequence[Table]) -> list[Table]:
    """The same tables to be read one after another: a setting is told where it changes."""
    last, shown = "", []
    for table in tables:
        shown.append(replace(table, setting="") if table.setting == last else table)
        last = table.setting or last
    return shown


# ---- Markdown


def to_markdown(table: Table) -> str:
    """The table in GitHub's dialect; a bar or an angle bracket in a cell stays text."""

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = row(["---:" if numeric else "---" for numeric in table.numeric])
    body = [row([_escaped(cell.text) for cell in cells]) for cells in table.rows]
    notes = [f"- {_escaped(note)}" for note in table.notes]
    parts = [
        [f"# {table.title}"],
        [_escaped(text)] if (text := _paragraph(table)) else [],
        [row([_escaped(header) for header in table.headers]), rule, *body],
        notes,
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _paragraph(table: Table) -> str:
    return " ".join(filter(None, (table.setting, table.caption)))


def _escaped(text: str) -> str:
    return re.sub(r"([|<>*\\\[\]])", r"\\\1", text).replace("\n", " ")


# ---- the terminal


def to_terminal(table: Table) -> RenderableType:
    """The table for rich: one, or where it says so, narrower ones below each other.

    Text objects throughout, because markup would swallow the brackets of a case like `restv2_tiny[mhim]`;
    long cells fold, because a cut one would lie.
    """
    shown = [table.only(headers) for headers in table.narrow] or [table]
    notes = [Padding(Text(f"- {note}"), (0, 0, 0, 1)) for note in table.notes]
    return Group(Text(table.title, style="bold"), Text(_paragraph(table)), *map(_rich, shown), *notes)


def _rich(table: Table) -> RichTable:
    # a header folds to the width of what stands under it: the table takes no more room than it needs
    widths = [
        max(map(len, [*header.split(), *(row[place].text for row in table.rows)]))
        for place, header in enumerate(table.headers)
    ]
    # between columns two spaces, or one where two would take more than a terminal usually has
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= USUAL_WIDTH else 1
    rich_table = RichTable(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, show_edge=False)
    for place, (header, numeric) in enumerate(zip(table.headers, table.numeric, strict=True)):
        heading = Text("\n".join(textwrap.wrap(header, widths[place])))
        longest = max((len(row[place].text) for row in table.rows), default=0)
        rich_table.add_column(
            heading,
            justify="right" if numeric else "left",
            overflow="fold",
            vertical="bottom",
            min_width=min(longest, 24),  # a number must never fold; a sentence may
        )
    for cells in table.rows:
        rich_table.add_row(*[Text(cell.text, style=STYLES.get(cell.tone, "")) for cell in cells])
    return rich_table
