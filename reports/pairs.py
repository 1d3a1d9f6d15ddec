"""The comparisons of a study: two lines measured in turns, with what the paper's speeds come to."""

from __future__ import annotations

from dataclasses import dataclass

from bench import studies
from bench.cases import parse
from bench.stats import Estimate
from reports.lines import Line, study_lines
from reports.measured import Results
from reports.rows import Comparison


@dataclass(frozen=True)
class Pair:
    """How many times as long `first` takes for an image as `second`."""

    first: Line
    second: Line
    comparison: Comparison | None

    @property
    def name(self) -> str:
        return f"{self.first.name} beside {self.second.name}"

    @property
    def outcome(self) -> str:
        """ok, failed, or missing: nobody has tried."""
        return str(self.comparison.row["outcome"]) if self.comparison else "missing"

    @property
    def batch(self) -> int | None:
        """Of the first, which is that of the second: as it ran, as it was asked for where it did not run."""
        if self.comparison is None:
            return None
        return (
            int(self.comparison.row["result"]["batch"][0])
            if self.comparison.ok
            else self.comparison.case.batch
        )

    @property
    def dtype(self) -> str | None:
        return self.comparison.case.dtype if self.comparison else None

    @property
    def printed(self) -> float | None:
        """From the printed speeds."""
        first, second = self.first.printed_images_per_s, self.second.printed_images_per_s
        return second / first if first and second else None

    @property
    def here(self) -> Estimate | None:
        return self.comparison.estimate if self.comparison and self.comparison.ok else None

    @property
    def verdict(self) -> str:
        """In words, from the interval alone; empty where there is no ratio."""
        if self.here is None:
            return ""
        if self.here.low is None or self.here.high is None:
            return "too few blocks to say"
        if self.here.low > 1:
            return "slower"
        return "faster" if self.here.high < 1 else "no difference seen"


def study_pairs(results: Results, study_name: str) -> list[Pair]:
    """In the study's order."""
    study = studies.find(study_name)
    lines = {line.case: line for line in study_lines(results, study_name)}
    found = []
    for texts in study.pairs(results.kind, False):
        first, second = map(parse, texts)
        comparison = results.comparison(first, second, study)
        found.append(Pair(lines[first], lines[second], comparison))
    return found
