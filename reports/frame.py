"""The machine-readable table of a study: what the CSV files hold, and what a notebook starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas

from reports.lines import ANALYSIS, Line, study_lines
from reports.measured import Results, when

# pandas' own types: a whole number stays whole where another is missing, and text is the same in pandas 2 and 3
WHOLE, REAL, TEXT = "Int64", "float64", "object"

COLUMNS: dict[str, tuple[str, Callable[[Line], Any]]] = {
    "case": (TEXT, lambda line: line.timing.row["case"] if line.timing else str(line.case)),
    "title": (TEXT, lambda line: line.title),
    "family": (TEXT, lambda line: line.case.family),
    "height": (WHOLE, lambda line: line.case.size[0]),
    "width": (WHOLE, lambda line: line.case.size[1]),
    "parameters": (WHOLE, lambda line: line.parameters),
    "macs": (WHOLE, lambda line: line.macs()),
    "convention": (TEXT, lambda line: line.convention),
    "core_macs": (WHOLE, lambda line: line.macs(ANALYSIS)),
    "paper_macs": (WHOLE, lambda line: _whole(line, "macs")),
    "paper_parameters": (WHOLE, lambda line: _whole(line, "parameters")),
    "macs_verdict": (TEXT, lambda line: line.verdict("macs") or None),
    "parameters_verdict": (TEXT, lambda line: line.verdict("parameters") or None),
    "images_per_s": (REAL, lambda line: line.images_per_s and line.images_per_s.value),
    "images_per_s_low": (REAL, lambda line: line.images_per_s and line.images_per_s.low),
    "images_per_s_high": (REAL, lambda line: line.images_per_s and line.images_per_s.high),
    "paper_images_per_s": (WHOLE, lambda line: _whole(line, "throughput")),
    "batch": (WHOLE, lambda line: line.batch),
    "dtype": (TEXT, lambda line: line.dtype),
    "impl": (TEXT, lambda line: line.case.impl),
    "share_of_peak": (REAL, lambda line: line.share_of_peak),
    "peak_memory_bytes": (WHOLE, lambda line: line.peak_memory_bytes),
    "protocol": (TEXT, lambda line: line.timing and line.timing.protocol),
    "when": (TEXT, lambda line: line.timing and when(line.timing.row)),
    "outcome": (TEXT, lambda line: line.outcome),
    "reason": (TEXT, lambda line: line.reason),
    "notes": (TEXT, lambda line: _notes(line)),
}


def frame(results: Results, study: str) -> pandas.DataFrame:
    """One row a case of `study`, tried or not, with raw numbers: images/s, MACs, bytes, shares of 1.

    What is unknown is missing: NA in a column of whole numbers, NaN in one of real numbers, None in text.

    Raises:
        UsageError: no such study.
    """
    lines = study_lines(results, study)
    return pandas.DataFrame(
        {
            name: pandas.Series([value(line) for line in lines], dtype=dtype)
            for name, (dtype, value) in COLUMNS.items()
        }
    )


def _whole(line: Line, metric: str) -> int | None:
    return round(line.printed[metric].value) if metric in line.printed else None


def _notes(line: Line) -> str | None:
    return "; ".join(line.timing.notes) or None if line.timing and line.timing.ok else None
