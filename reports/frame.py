"""The machine-readable tables of a study: what the CSV files hold, and what a notebook starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pandas

from reports.detection import PARTS
from reports.lines import ANALYSIS, Line, study_lines
from reports.measured import Results
from reports.pairs import Pair, study_pairs
from reports.rows import when

# pandas' own types: a whole number stays whole where another is missing, and text is the same in pandas 2 and 3
WHOLE, REAL, TEXT = "Int64", "float64", "object"


def _part(name: str) -> Callable[[Line], Any]:
    """Seconds of that part of the model."""
    return lambda line: line.parts[name].value if name in line.parts else None


def _printed(metric: str) -> Callable[[Line], Any]:
    return lambda line: line.printed[metric].value if metric in line.printed else None


COLUMNS: dict[str, tuple[str, Callable[[Line], Any]]] = {
    "case": (TEXT, lambda line: line.timing.row["case"] if line.timing else str(line.case)),
    "title": (TEXT, lambda line: line.title),
    "source": (TEXT, lambda line: line.row.source if line.row else None),
    "family": (TEXT, lambda line: line.case.family),
    "height": (WHOLE, lambda line: None if line.case.mix else line.case.size[0]),
    "width": (WHOLE, lambda line: None if line.case.mix else line.case.size[1]),
    "mix": (TEXT, lambda line: str(line.case.mix) if line.case.mix else None),
    "parameters": (WHOLE, lambda line: line.parameters),
    "macs": (WHOLE, lambda line: line.macs()),
    "convention": (TEXT, lambda line: line.convention),
    "core_macs": (WHOLE, lambda line: line.macs(ANALYSIS)),
    "paper_macs": (WHOLE, lambda line: _whole(line, "macs")),
    "paper_parameters": (WHOLE, lambda line: _whole(line, "parameters")),
    "macs_verdict": (TEXT, lambda line: line.verdict("macs") or None),
    "parameters_verdict": (TEXT, lambda line: line.verdict("parameters") or None),
    "macs_remark": (TEXT, lambda line: line.remark("macs")),
    "parameters_remark": (TEXT, lambda line: line.remark("parameters")),
    "paper_top1": (REAL, _printed("top1")),
    "seconds": (REAL, lambda line: line.seconds and line.seconds.value),
    "images_per_s": (REAL, lambda line: line.images_per_s and line.images_per_s.value),
    "images_per_s_low": (REAL, lambda line: line.images_per_s and line.images_per_s.low),
    "images_per_s_high": (REAL, lambda line: line.images_per_s and line.images_per_s.high),
    "paper_images_per_s": (REAL, lambda line: line.printed_images_per_s),
    "times_here": (REAL, lambda line: line.times_here),
    "times_paper": (REAL, lambda line: line.times_printed),
    "times_inference": (REAL, lambda line: line.times_inference),
    "batch": (WHOLE, lambda line: line.batch),
    "dtype": (TEXT, lambda line: line.dtype),
    "impl": (TEXT, lambda line: line.case.impl),
    "share_of_peak": (REAL, lambda line: line.share_of_peak),
    **{f"{name}_s": (REAL, _part(name)) for name in PARTS},
    **{f"paper_{metric}": (REAL, _printed(metric)) for metric in ("ap_box", "ap_mask", "miou")},
    "peak_memory_bytes": (WHOLE, lambda line: line.peak_memory_bytes),
    "protocol": (TEXT, lambda line: line.timing and line.timing.protocol),
    "when": (TEXT, lambda line: line.timing and when(line.timing.row)),
    "outcome": (TEXT, lambda line: line.outcome),
    "reason": (TEXT, lambda line: line.reason),
    "notes": (TEXT, lambda line: _notes(line)),
}

PAIR_COLUMNS: dict[str, tuple[str, Callable[[Pair], Any]]] = {
    "first": (TEXT, lambda pair: str(pair.comparison.case if pair.comparison else pair.first.case)),
    "second": (TEXT, lambda pair: str(pair.comparison.other if pair.comparison else pair.second.case)),
    "ratio": (REAL, lambda pair: pair.here and pair.here.value),
    "ratio_low": (REAL, lambda pair: pair.here and pair.here.low),
    "ratio_high": (REAL, lambda pair: pair.here and pair.here.high),
    "paper_ratio": (REAL, lambda pair: pair.printed),
    "verdict": (TEXT, lambda pair: pair.verdict or None),
    "blocks": (WHOLE, lambda pair: pair.here and pair.here.n),
    "protocol": (TEXT, lambda pair: pair.comparison and pair.comparison.protocol),
    "when": (TEXT, lambda pair: pair.comparison and when(pair.comparison.row)),
    "outcome": (TEXT, lambda pair: pair.outcome),
}
Row = TypeVar("Row", Line, Pair)


def frame(results: Results, study: str) -> pandas.DataFrame:
    """One row a line of `study`, tried or not, with raw numbers: seconds, images/s, MACs, bytes, shares of 1.

    What is unknown is missing: NA in a column of whole numbers, NaN in one of real numbers, None in text.

    Raises:
        UsageError: no such study, or one that times nothing.
    """
    return _frame(study_lines(results, study), COLUMNS)


def pairs_frame(results: Results, study: str) -> pandas.DataFrame:
    """One row a comparison of `study`: how many times as long the first takes for an image as the second.

    Raises:
        UsageError: no such study, or one that times nothing.
    """
    return _frame(study_pairs(results, study), PAIR_COLUMNS)


def _frame(rows: Sequence[Row], columns: dict[str, tuple[str, Callable[[Row], Any]]]) -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            name: pandas.Series([value(row) for row in rows], dtype=dtype)
            for name, (dtype, value) in columns.items()
        }
    )


def _whole(line: Line, metric: str) -> int | None:
    return round(line.printed[metric].value) if metric in line.printed else None


def _notes(line: Line) -> str | None:
    return "; ".join(line.timing.notes) or None if line.timing and line.timing.ok else None
