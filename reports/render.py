"""A table as Markdown or in the terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from reports.table import DASH, Table

USUAL_WIDTH = 80  # columns of a terminal


def to_markdown(table: Table) -> str:
    """GitHub's dialect; a bar or an angle bracket in a cell stays text."""

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


def to_terminal(table: Table) -> RenderableType:
    """For rich, as one table or, where it says so, as narrower ones below each other.

    Text objects throughout, because markup would swallow the brackets of a case like `restv2_tiny[mhim]`;
    long cells fold, because a cut one would lie.
    """
    shown = [table.part(headers) for headers in table.narrow] or [table]
    notes = [Padding(Text(f"- {note}"), (0, 0, 0, 1)) for note in table.notes]
    return Group(Text(table.title, style="bold"), Text(_paragraph(table)), *map(_rich, shown), *notes)


def _rich(table: Table) -> RichTable:
    # a header folds to the width of what stands under it: the table takes no more room than it needs
    widths = [
        max(map(len, [*header.split(), *(row[i].text for row in table.rows)]))
        for i, header in enumerate(table.headers)
    ]
    # between columns two spaces, or one where two would take more than a terminal usually has
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= USUAL_WIDTH else 1
    rich_table = RichTable(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, show_edge=False)
    for i, (header, numeric) in enumerate(zip(table.headers, table.numeric, strict=True)):
        heading = Text("\n".join(textwrap.wrap(header, widths[i])))
        longest = max((len(row[i].text) for row in table.rows), default=0)
        rich_table.add_column(
            heading,
            justify="right" if numeric else "left",
            overflow="fold",
            vertical="bottom",
            min_width=min(longest, 24),  # a number must never fold; a sentence may
        )
    for cells in table.rows:
        rich_table.add_row(*[Text(cell.text, style=_style(cell.text)) for cell in cells])
    return rich_table


def _style(text: str) -> str:
    return {"NO MATCH": "bold red", "failed": "bold red", "missing": "yellow", DASH: "dim"}.get(text, "")
