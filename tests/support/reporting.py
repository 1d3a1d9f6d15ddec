"""Reports asked for in tests: results from rows, and what the chapters make of them."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reports import __main__ as command
from reports import chapters, page
from reports.chapter import Told
from reports.figures import Plot
from reports.lines import Line, Pair
from reports.results import Results, load
from reports.tables import Table
from tests.support import synthetic_rows as synthetic

ROOT = Path(__file__).resolve().parents[2]
RowLike = dict[str, Any]


def results_of(root: Path, *rows: RowLike | Sequence[RowLike], **files: Sequence[RowLike]) -> Results:
    """Results read from a folder with `rows` in one file, and what is in `files` each under its name."""
    listed = [row for given in rows for row in ([given] if isinstance(given, dict) else given)]
    for name, content in {"run": listed, **files}.items():
        if content:
            synthetic.write(root, list(content), f"{name}.jsonl")
    return load(root)


def rows_where(rows: Sequence[RowLike], harness: str, start: str) -> list[RowLike]:
    """The rows of a harness whose case begins so."""
    return [row for row in rows if row["harness"] == harness and row["case"].startswith(start)]


def row_where(rows: Sequence[RowLike], harness: str, start: str) -> RowLike:
    """The first row of a harness whose case begins so."""
    return rows_where(rows, harness, start)[0]


# ---- chapters


def told_of(results: Results, study: str) -> Told:
    """The chapter of a study, whether it was run or not."""
    return Told(chapters.of_study(results, study), results)


def lines_of(results: Results, study: str) -> list[Line]:
    """Every line of a study."""
    return told_of(results, study).lines


def shown_of(results: Results, study: str) -> list[Line]:
    """The lines of a study that its tables show."""
    return told_of(results, study).shown


def pairs_of(results: Results, study: str) -> list[Pair]:
    """Every pair of a study."""
    return told_of(results, study).pairs


def tables_of(results: Results, study: str) -> list[Table]:
    """The tables of one study."""
    return told_of(results, study).tables


OF_THE_PAPER = ("sentences", "printed-speeds")  # chapters on what the paper says, whatever was run


def all_tables(results: Results) -> list[Table]:
    """The tables of all that was run."""
    told = [told for told in chapters.tell(results) if told.chapter.anchor not in OF_THE_PAPER]
    return [table for one in told for table in one.tables]


def table_of(results: Results, name: str) -> Table:
    """The table of that name."""
    return next(table for told in chapters.tell(results) for table in told.tables if table.name == name)


def plots_of(results: Results) -> list[Plot]:
    """Every figure."""
    return [plot for told in chapters.tell(results) for plot in told.plots]


def plot_of(results: Results, study: str, name: str) -> Plot | None:
    """The figure of a study's chapter whose function has that name."""
    told = told_of(results, study)
    (draw,) = [draw for draw in told.chapter.figures if draw.__name__ == name]
    return draw(told)


def page_of(results: Results, *, drawn: bool = True) -> str:
    """The page, with its figures or without."""
    told = chapters.tell(results)
    if not drawn:
        for chapter in told:
            chapter.plots = []
    return page.render(results, told)


def page_and_plots(results: Results) -> tuple[str, list[Plot]]:
    """The page, and the figures that were drawn for it."""
    told = chapters.tell(results)
    return page.render(results, told), [plot for chapter in told for plot in chapter.plots]


def cards_of(results: Results) -> list[page.Card]:
    """The numbers at the top of the page."""
    return page.cards(results, chapters.tell(results))


def context_of(results: Results, anchor: str) -> dict[str, Any]:
    """Everything that the section of the page with that anchor has besides its tables."""
    return next(told.context for told in chapters.tell(results) if told.chapter.anchor == anchor)


def by_hand(results: Results) -> list[list[str]]:
    """The cases, and the pairs of cases, that are shown as measured by hand."""
    records = [
        csv_of(results, name) for name in ("measured.csv", "compared.csv") if name in files_of(results)
    ]
    return [
        [record.get("case") or f"{record['first']} / {record['second']}" for record in found]
        for found in records
    ]


def not_measured(results: Results) -> Table:
    """The table of cases that were not measured."""
    table: Table = context_of(results, "gaps")["not_measured"]
    return table


def cross_checks(results: Results) -> Table:
    """Other counters beside ours."""
    table: Table = context_of(results, "counting")["cross_checks"]
    return table


# ---- words, cells and files


def word(line: Line, metric: str) -> str:
    """The verdict on a count as it is shown; empty where there is none."""
    verdict = line.verdict(metric)
    return verdict.word if verdict else ""


def remark(line: Line, metric: str) -> str | None:
    """The reason of the verdict on a count; None where there is none."""
    verdict = line.verdict(metric)
    return verdict.reason or None if verdict else None


def column(table: Table, header: str) -> list[str]:
    """The texts in a column."""
    return [row[table.headers.index(header)].text for row in table.rows]


def cell(table: Table, row: int, header: str) -> str:
    """The text of a cell."""
    return table.rows[row][table.headers.index(header)].text


def words_in(plot: Plot) -> list[str]:
    """Each text that is drawn."""
    texts = re.findall(r"<text.*?</text>", plot.svg, re.DOTALL)
    return [re.sub(r"<[^>]+>", "", text).strip() for text in texts]


def files_of(results: Results) -> dict[str, bytes]:
    """The Markdown and CSV files by name."""
    return command.table_files(chapters.tell(results), all_tables(results))


def csv_of(results: Results, name: str) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(files_of(results)[name].decode())))


def run(cwd: Path, *arguments: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m reports` in `cwd`, or `code` instead, in a process of its own."""
    start = ["-c", code] if code else ["-m", "reports", *arguments]
    return subprocess.run(
        [sys.executable, *start],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
