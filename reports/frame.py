"""The machine-readable tables of a study as pandas frames: what its CSV files hold, and what a notebook starts from."""

from __future__ import annotations

from collections.abc import Sequence

import pandas

from reports import chapters
from reports.chapter import Told, pairs_csv_columns
from reports.columns import Column, Row
from reports.results import Results


def frame(results: Results, study: str) -> pandas.DataFrame:
    """One row a line of `study`, tried or not, with raw numbers: seconds, images/s, MACs, bytes, shares of 1.

    What is unknown is missing: NA in a column of whole numbers, NaN in one of real numbers, None in text.

    Raises:
        UsageError: no such study, or one that times nothing.
    """
    told = _told(results, study)
    return _frame(told.csv_columns, told.lines)


def pairs_frame(results: Results, study: str) -> pandas.DataFrame:
    """One row a comparison of `study`: how many times as long the first takes for an image as the second.

    Raises:
        UsageError: no such study, or one that times nothing.
    """
    return _frame(pairs_csv_columns(), _told(results, study).pairs)


def _told(results: Results, study: str) -> Told:
    """The study's chapter, whether it was run or not."""
    return Told(chapters.of_study(results, study), results)


def _frame(columns: Sequence[Column[Row]], rows: Sequence[Row]) -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            column.name: pandas.Series([column.raw(row) for row in rows], dtype=column.form.dtype)
            for column in columns
        }
    )
