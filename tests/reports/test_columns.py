"""Columns: one name each, every layout made of them, and one value for people, files and frames."""

import pandas
import pytest

from bench.stats import Estimate
from reports import columns
from reports.chapters import CHAPTERS
from reports.columns import (
    COLUMNS,
    COUNT,
    NUMBER,
    PAIR_COLUMNS,
    RATIO_WITH_INTERVAL,
    WORDS,
    Cell,
    Column,
    to_csv,
)
from tests.support.reporting import lines_of


def test_layouts_and_files_are_made_of_columns_that_are_there():
    for names in (columns.PAPER.names, columns.CSV, *columns.PAPER.narrow, columns.LATENCY.values()):
        assert set(names) <= set(COLUMNS)
    for names in (columns.PAIRS.names, columns.PAIRS_CSV, *columns.PAIRS.narrow):
        assert set(names) <= set(PAIR_COLUMNS)
    for chapter in CHAPTERS:
        own = columns.named(chapter.columns)
        assert not set(own) & set(COLUMNS)
        assert {*chapter.layout.names, *chapter.csv} <= {*COLUMNS, *own}
        for names in chapter.layout.narrow:
            assert set(names) <= set(chapter.layout.names)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.anchor)
def test_no_table_has_a_header_twice(chapter):
    """Tables are taken apart by header."""
    known = {**COLUMNS, **columns.named(chapter.columns)}
    for layout in (chapter.layout, columns.for_harness(chapter.layout, "latency")):
        headers = [known[name].header for name in layout.names]
        assert len(set(headers)) == len(headers)


def test_no_file_has_a_column_twice():
    for harness in ("throughput", "latency"):
        names = columns.csv_for_harness(columns.CSV, harness)
        assert len(set(names)) == len(names)
    assert len(set(columns.PAIRS_CSV)) == len(columns.PAIRS_CSV)


def test_what_people_see_and_what_a_file_holds_is_the_same_value(cpu):
    line = lines_of(cpu, "table1")[5]
    speed = COLUMNS["images_per_s"]
    assert line.images_per_s
    assert speed.raw(line) == speed.cell(line).sort == line.images_per_s.value
    printed = COLUMNS["paper_macs"]
    assert (printed.cell(line).text, printed.raw(line)) == ("4.1", 4_100_000_000)


def test_where_there_is_no_value_a_row_may_have_a_word_for_it():
    column: Column[dict] = Column("x", "X", lambda row: row.get("x"), NUMBER, lambda row: row.get("outcome"))
    assert column.cell({"x": 0.5}) == Cell("0.50", 0.5)
    assert column.cell({"outcome": "failed"}) == Cell("failed")
    assert column.cell({}) == Cell("–")
    assert column.raw({"outcome": "failed"}) is None
    empty: Column[dict] = Column("x", "X", lambda row: "")
    assert empty.cell({}) == Cell("–")


def test_a_csv_file_is_what_pandas_writes():
    """Quotes, commas and lines in text, whole numbers beside gaps, reals with all their digits."""
    rows = [
        {
            "text": 'a "quoted", b',
            "whole": 150_000_000_000,
            "real": 1 / 3,
            "ratio": Estimate(2.0, None, None, 3),
        },
        {"text": "two\nlines", "whole": None, "real": 1e-07, "ratio": None},
        {"text": None, "whole": 0, "real": 4, "ratio": Estimate(0.1, 0.09, 0.11, 9)},
        {"text": "×", "whole": 7, "real": 1e22, "ratio": None},
    ]
    forms = {"text": WORDS, "whole": COUNT, "real": NUMBER, "ratio": RATIO_WITH_INTERVAL}

    def column_of(name: str) -> Column:
        return Column(name, name, lambda row: row[name], forms[name])

    made = [column_of(name) for name in forms]
    frame = pandas.DataFrame(
        {
            column.name: pandas.Series([column.raw(row) for row in rows], dtype=column.form.dtype)
            for column in made
        }
    )
    assert to_csv(made, rows) == frame.to_csv(index=False)
