"""The line of a study: one case with what the paper prints, what was counted and what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench import roofline, studies
from bench.cases import Case, format_size
from bench.stats import Estimate
from reports import printed
from reports.measured import Counts, Results, Timing, when
from reports.printed import Printed

ANALYSIS = "core"  # the convention of everything that is not a comparison with a printed number
TOO_WIDE = 0.1  # half-width of an interval, relative to its value
USUAL_SIZE = (224, 224)  # of an image, in pixels


@dataclass(frozen=True)
class Line:
    """One case of a study: what the paper prints, what was counted, what was measured."""

    case: Case
    results: Results
    printed: dict[str, Printed]
    counts: Counts | None
    timing: Timing | None

    @property
    def title(self) -> str:
        return self.case.title

    @property
    def name(self) -> str:
        """The title, with the size where it is not the usual one."""
        return self.title if self.is_usual_size else f"{self.title} at {format_size(self.case.size)}"

    @property
    def is_usual_size(self) -> bool:
        return self.case.size == USUAL_SIZE

    @property
    def outcome(self) -> str:
        """ok, failed, or missing: nobody has tried."""
        return str(self.timing.row["outcome"]) if self.timing else "missing"

    @property
    def reason(self) -> str | None:
        if self.timing is None:
            return "not measured yet"
        return None if self.timing.ok else str(self.timing.row.get("reason") or "no reason given")

    @property
    def dtype(self) -> str | None:
        return self.timing.case.dtype if self.timing else self.case.dtype

    @property
    def batch(self) -> int | None:
        """As it ran; as it was asked for where it did not run."""
        if self.timing is None:
            return self.case.batch
        return self.timing.batch if self.timing.ok else self.timing.case.batch

    @cached_property
    def images_per_s(self) -> Estimate | None:
        return self.timing.images_per_s if self.timing and self.timing.ok else None

    @property
    def counted(self) -> Counts | None:
        """The counts, if counting succeeded."""
        return self.counts if self.counts and self.counts.row["outcome"] == "ok" else None

    @property
    def convention(self) -> str:
        """The one that the paper's own number for this row follows."""
        return self.printed["macs"].convention if "macs" in self.printed else ANALYSIS

    def macs(self, convention: str | None = None) -> int | None:
        return self.counted.macs.get(convention or self.convention) if self.counted else None

    def verdict(self, metric: str) -> str:
        """MATCH or NO MATCH with the printed number, or empty where there is nothing to compare."""
        number, count = self.printed.get(metric), self.macs() if metric == "macs" else self.parameters
        if number is None or count is None:
            return ""
        return "MATCH" if number.matches(count) else "NO MATCH"

    @property
    def parameters(self) -> int | None:
        return self.counted.parameters if self.counted else None

    @property
    def macs_per_s(self) -> Estimate | None:
        """Achieved core MACs a second."""
        macs, speed = self.macs(ANALYSIS), self.images_per_s
        if macs is None or speed is None:
            return None
        return speed.map(lambda images_per_s: roofline.macs_per_s(macs, images_per_s))

    @property
    def too_uncertain(self) -> bool:
        """Whether its interval is so wide that nothing should be concluded from its speed."""
        speed = self.images_per_s
        return speed is not None and speed.low is not None and speed.half_width > TOO_WIDE

    @property
    def share_of_peak(self) -> float | None:
        macs, speed = self.macs(ANALYSIS), self.images_per_s
        if macs is None or speed is None:
            return None
        return self.results.peaks.share(macs, speed.value, self.dtype or "")

    @property
    def peak_memory_bytes(self) -> int | None:
        """The device's memory at its fullest; None where it was not read."""
        result = self.timing.row.get("result") if self.timing else None
        return result.get("peak_memory_bytes") if result else None

    @property
    def no_match_reason(self) -> str | None:
        """Why a printed MAC number is not reproduced, from what was counted in the other conventions."""
        if self.verdict("macs") != "NO MATCH" or not self.counted:
            return None
        number, all_macs = self.printed["macs"], self.counted.macs
        others = [name for name, macs in all_macs.items() if number.matches(macs)]
        if others:
            return f"{number.text} G is printed, which is `{'` and `'.join(others)}`, not `{self.convention}`"
        low, high = (f"{value / 1e9:.2f}" for value in (min(all_macs.values()), max(all_macs.values())))
        spread = f"{low} in every convention" if low == high else f"{low} to {high} over all conventions"
        return f"NO MATCH: {number.text} G is printed, counted {spread}"


def study_lines(results: Results, study_name: str) -> list[Line]:
    """A study's cases in its order, each with whatever is known of it."""
    study = studies.find(study_name)
    paper = printed.table(study_name) if (printed.PAPER / f"{study_name}.csv").exists() else {}
    return [
        Line(case, results, paper.get(text, {}), results.counted(case), results.timing(case, study))
        for text, case in (
            (paper_key(case), case) for case in study.parsed("cuda" if results.on_gpu else "cpu", False)
        )
    ]


def paper_key(case: Case) -> str:
    """How the paper's CSV names a case: it knows neither batch nor implementation."""
    return f"{case.model}@{format_size(case.size)}"


def sweep_lines(results: Results) -> list[Line]:
    """Those cases of the sweep that were tried; none if all there is was measured for another study."""
    tried = [line for line in study_lines(results, "sweep") if line.timing]
    return tried if any(line.timing.row.get("study") == "sweep" for line in tried if line.timing) else []


# ---- numbers as text


def significant(value: float) -> str:
    """About three digits: 1156, 83.4, 7.31."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def percent(value: float) -> str:
    """A relative half-width: two digits are plenty."""
    if value >= 0.0995:
        return f"{100 * value:.0f} %"
    return f"{100 * value:.1f} %" if value >= 0.001 else "<0.1 %"


def share(part: float) -> str:
    """Of a whole, in per cent."""
    return f"{100 * part:.0f} %" if part >= 0.0995 else f"{100 * part:.1f} %"


def rate(macs_per_s: float) -> str:
    """With the unit that keeps it short, for sentences."""
    value, unit = (macs_per_s / 1e12, "TMAC/s") if macs_per_s >= 1e12 else (macs_per_s / 1e9, "GMAC/s")
    return f"{significant(value)} {unit}"


def moment(row: dict[str, Any]) -> str:
    """When a row was measured, for people."""
    return when(row).replace("T", " ").replace("+00:00", " UTC")
