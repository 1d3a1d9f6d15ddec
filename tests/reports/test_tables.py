"""Tables in the terminal and as Markdown."""

import io
import re

import pytest
from rich.console import Console

from reports.columns import Cell
from reports.tables import Table, to_markdown, to_terminal
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import (
    cell,
    column,
    results_of,
    rows_where,
    run,
    table_of,
    tables_of,
)


def table1(results):
    return tables_of(results, "table1")[0]


@pytest.mark.parametrize("width", [80, 100])
def test_the_terminals_tables_fit_and_cut_nothing(cpu, width):
    out = io.StringIO()
    console = Console(file=out, width=width)
    table = table1(cpu)
    console.print(to_terminal(table))
    text = out.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for row in table.rows:
        for headers in table.narrow:
            shown = [row[table.headers.index(header)].text for header in headers]
            pattern = r"\s+".join(re.escape(cell) for cell in shown)
            assert re.search(rf"^{pattern}\s*$", text, re.MULTILINE), shown


def test_a_size_is_told_beside_a_name_and_not_beside_itself(cpu):
    table = table1(cpu)
    sizes = [table.size_of(row) for row in table.rows]
    assert sizes == column(table, "Size") and {"224", "384"} <= set(sizes)
    alone = table.only(["Size", "Model"])
    assert {alone.size_of(row) for row in alone.rows} == {""}


def test_a_terminal_of_80_columns_shows_what_is_there_and_what_is_not(partial):
    done = run(partial.folder.parents[1], "tables", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines[: lines.index(next(x for x in lines if x.startswith("Written")))])) <= 80
    table = table1(partial)
    assert {cell(table, i, "images/s here") for i in range(24)} > {"missing", "failed"}
    assert {*table.narrow[0], *table.narrow[1]} == {*table.headers} - {
        "GMAC/s here",
        "peak memory, MiB",
        "case",
    }
    for headers in table.narrow:
        for row in table.only(headers).rows:
            pattern = r"\s+".join(re.escape(each.text) for each in row)
            assert any(re.fullmatch(rf"{pattern}\s*", line) for line in lines), [each.text for each in row]
    headings = " ".join(lines).split()
    assert all(word in headings for headers in table.narrow for header in headers for word in header.split())
    assert "not counted yet" in done.stdout and "out of memory, even at batch 1" in done.stdout


def test_a_number_too_wide_for_the_terminal_is_not_cut(tmp_path):
    rows = synthetic.study_rows()
    noisy = rows_where(rows, "throughput", "swin_base@224")[0]
    noisy["protocol"] = {**noisy["protocol"], "name": "quick"}  # one visit, whose spread stands in the table
    noisy["result"]["samples_s"] = [0.0001, 0.0002, 0.001, 0.01, 10, 20, 30]
    results_of(tmp_path / "results", rows)
    done = run(tmp_path, "tables", COLUMNS="80")
    line = next(line for line in done.stdout.splitlines() if "5000 %" in line)
    assert line.split()[-3:] == ["2059", "%", "83.5"]


def test_brackets_and_markup_survive_the_terminal():
    case = Cell("restv2_tiny[mhim]@224 [bold]x[/bold]")
    out = io.StringIO()
    table = Table("t", "A [red]title", "", ["case [x]"], [[case]], [False], ["note [mhim]"])
    Console(file=out, width=80).print(to_terminal(table))
    assert all(part in out.getvalue() for part in (case.text, "A [red]title", "case [x]", "note [mhim]"))


def test_markdown_keeps_bars_and_tags_as_text():
    cells = [[Cell("a|b <script>"), Cell("1", 1.0)]]
    text = to_markdown(Table("t", "T", "", ["x", "y"], cells, [False, True]))
    assert "| a\\|b \\<script\\> | 1 |" in text
    assert "| --- | ---: |" in text


@pytest.mark.parametrize(
    "name",
    [
        "table2",
        "table6",
        "table7",
        "table7_pairs",
        *("table3", "table3_operators", "table3_parts", "table3_pairs"),
        *("table4", "table4_parts", "table5", "table5_parts"),
        "table8",
        "table9",
        "sweep",
        "kernels",
        "windows",
        "windows_work",
        "windows_attention",
    ],
)
def test_tables_fit_a_terminal_of_80_columns(everything, name):
    out = io.StringIO()
    table = table_of(everything, name)
    Console(file=out, width=80).print(to_terminal(table))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for headers in table.narrow or [table.headers]:
        for row in table.only(headers).rows:
            pattern = r"\s+".join(re.escape(cell.text) for cell in row)
            assert any(re.fullmatch(rf"{pattern}\s*", line) for line in lines), [cell.text for cell in row]
