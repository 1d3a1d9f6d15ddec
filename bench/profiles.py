"""Profiles of cases as a reader has them: the visits of a row joined, each time with its interval. No torch."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import stats, visits
from bench.conventions import FLOPS_PER_MAC
from bench.describe import digits
from bench.errors import UsageError
from bench.record import Row
from bench.roofline import Peaks
from bench.stats import Estimate
from bench.trace import told
from bench.trace.iterations import KEPT, unpacked
from bench.trace.joined import PHASES
from bench.trace.tables import CACHED, Line

# Rates, over the same work: their mean over visits is that of the times
RATES = (
    *("tflops", "gb_per_s", "share_of_peak", "share_of_bandwidth", "share_of_attainable"),
    *("fastest_tflops", "fastest_share_of_peak"),
)
LEAST_TOLD = 0.001  # share of the time of a line that a terminal shows
KNOWN = 0.99  # a line's roof needs MACs and bytes of so much of its time
WHOLE = (
    *("steps", "scale", "perturbation", "busy_s", "idle_share", "outside_share", "calls", "launches", "macs"),
    *("known", "attributed", "unattributed", "unjoined"),
)


@dataclass(frozen=True)
class Part:
    """A line of a profile over all visits, with the intervals of its milliseconds and its share."""

    line: Line
    ms: Estimate
    share: Estimate

    def record(self) -> dict[str, Any]:
        """The part as a flat record."""
        return {
            **self.line.record(),
            "ms_low": self.ms.low,
            "ms_high": self.ms.high,
            "share_low": self.share.low,
            "share_high": self.share.high,
            "interval": told_interval(self.ms),
        }


def parts(row: Row, by: str = "operator", peaks: Peaks | None = None) -> list[Part]:
    """The lines of a row of harness `profile`, its visits joined or a single one: phase by phase, the longest first.

    A share is the mean over the visits, and milliseconds are that share of the whole, so that both add up.

    Args:
        by: operator | call | kernel | module.
        peaks: those of the machine, where the profile does not know them: on a CPU.
    """
    result = row["result"]
    of_visits = [
        [unpacked(record) for record in profile[by]]
        for profile in result.get("visits_lines") or [result["lines"]]
    ]
    sums = [sum(line.ms for line in lines if line.phase == "all") for lines in of_visits]
    named: dict[tuple[str, str], list[Line]] = {}
    for line in (line for lines in of_visits for line in lines):
        named.setdefault((line.phase, line.name), []).append(line)
    whole = statistics.geometric_mean(sums)
    joined = [
        _part(lines, whole, len(of_visits), visits.asked(row), peaks or Peaks()) for lines in named.values()
    ]
    return sorted(joined, key=lambda part: (("all", *PHASES).index(part.line.phase), -part.line.ms))


def _part(lines: Sequence[Line], whole: float, of_visits: int, asked: int, peaks: Peaks) -> Part:
    """The lines of one name as a part.

    Args:
        whole: milliseconds of all lines.
        of_visits: the number of visits that there are, with such a line or without.
    """
    share = sum(line.share for line in lines) / of_visits
    shares = _estimate([line.share for line in lines], share, asked)
    if asked == 1:  # all that there is: the profiled steps of one process
        ends = lines[0].ms_per_step_low, lines[0].ms_per_step_high
        ms = Estimate(lines[0].ms, *ends, 1, within_run=True)
        shares = replace(shares, why="one visit")
    else:
        ms = _estimate([line.ms for line in lines], share * whole, asked)
    lows, highs = (
        [getattr(line, f"ms_per_step_{end}") or line.ms for line in lines] for end in ("low", "high")
    )
    rates: dict[str, Any] = {name: _mean_rate([getattr(line, name) for line in lines]) for name in RATES}
    times: dict[str, Any] = {"ms": ms.value, "ms_per_step": ms.value, "share": share}
    line = replace(lines[0], **times, ms_per_step_low=min(lows), ms_per_step_high=max(highs), **rates)
    return Part(beside_peaks(line, peaks), ms, shares)


def _estimate(values: Sequence[float], value: float, asked: int) -> Estimate:
    """A value with the interval over the visits, which holds it."""
    if min(values) <= 0:
        return Estimate(value, None, None, len(values), why="it took no time")
    found = stats.over_visits([[each] for each in values], asked)
    if found.low is None or found.high is None:
        return Estimate(value, None, None, found.n, found.why)
    # written out, for a page makes one of each line; over visits an estimate has no other fields
    return Estimate(value, min(found.low, value), max(found.high, value), found.n)


def _mean_rate(rates: Sequence[float | None]) -> float | None:
    known = [rate for rate in rates if rate]
    return statistics.harmonic_mean(known) if known and len(known) == len(rates) else None


def beside_peaks(line: Line, peaks: Peaks) -> Line:
    """A line held against peaks that its profile did not know; as it is, where there are none for its dtype."""
    peak, memory = peaks.tflops.get(line.dtype or ""), peaks.bandwidth_gb_s
    found: dict[str, Any] = {}
    if peak and line.tflops:
        found["share_of_peak"] = line.tflops / peak
        found["fastest_share_of_peak"] = (line.fastest_tflops or line.tflops) / peak
    if memory and line.gb_per_s:
        found["share_of_bandwidth"] = line.gb_per_s / memory
    is_known = min(line.macs_known or 0.0, line.bytes_known or 0.0) >= KNOWN
    if memory and is_known and line.moved_bytes and (peak or not line.macs) and line.ms:
        arithmetic_s = FLOPS_PER_MAC * (line.macs or 0) / (peak * 1e12) if peak else 0.0
        found["ms_at_roof"] = 1e3 * max(arithmetic_s, line.moved_bytes / (memory * 1e9))
        found["share_of_attainable"] = found["ms_at_roof"] / line.ms
    return replace(line, remarks=(*line.remarks, *_beyond(found)), **found) if found else line


def _beyond(found: Mapping[str, Any]) -> Iterator[str]:
    """Explanations of a class that is beyond the peaks that were measured."""
    if (of_peak := found.get("share_of_peak", 0.0)) > 1:
        yield f"{100 * of_peak:.0f} % of the peak that was measured: the machine drifts, and one moment is not another"
    if (of_memory := found.get("share_of_bandwidth", 0.0)) > 1:
        yield f"{100 * of_memory:.0f} % of the memory's rate that was measured: {CACHED}"


def told_interval(estimate: Estimate) -> str:
    """The meaning of an interval's ends, or why there are none."""
    if estimate.low is None:
        return f"none: {estimate.why}" if estimate.why else "none"
    return "the spread of the profiled steps" if estimate.within_run else "95 % over visits"


def summary(row: Row) -> dict[str, Any]:
    """The figures of the profile as a whole, over its visits."""
    return {name: row["result"].get(name) for name in WHOLE}


@contextmanager
def kept(file: Path | None) -> Iterator[None]:
    """Has the worker keep the traces that it makes in a file, the last one in place of those before.

    Raises:
        UsageError: the file cannot be written.
    """
    if file is None:
        yield
        return
    try:
        file.touch()
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from None
    os.environ[KEPT] = str(file.resolve())
    try:
        yield
    finally:
        del os.environ[KEPT]


# ---- for people


def lines(row: Row, by: str, peaks: Peaks | None = None) -> Iterator[str]:
    """A profile in lines, behind the one that describes its row."""
    yield from _head(row)
    found = parts(row, by, peaks)
    for phase in dict.fromkeys(part.line.phase for part in found):
        of_phase = [part for part in found if part.line.phase == phase]
        took, share = (sum(getattr(part.line, name) for part in of_phase) for name in ("ms", "share"))
        yield ""
        yield f"{'all phases' if phase == 'all' else phase}: {digits(took)} ms, {told.percent(share)}"
        told_of = [part for part in of_phase if part.line.share >= LEAST_TOLD]
        names = [told.shortened(part.line.name, by == "module") for part in told_of]
        yield from told.table(by, names, told_of, COLUMNS)
        if left := [part.line.share for part in of_phase if part.line.share < LEAST_TOLD]:
            yield f"  and {len(left)} of less than {told.percent(LEAST_TOLD)} each, {told.percent(sum(left))} together"
    yield from told.remarks([part.line for part in found])
    yield from told.reasons(row["result"]["unattributed"], row["result"]["unjoined"])
    yield ""
    yield f"an iteration without the profiler; from to: {told_interval(found[0].ms)}"
    yield told.LEGEND


def _head(row: Row) -> Iterator[str]:
    result = row["result"]
    text = f"  {result['steps']} profiled steps a visit, each {result['perturbation']:.2f} times as long as without"
    if result["idle_share"] is None:
        yield f"{text}; {told.percent(result['outside_share'])} of the iteration lies outside of operators"
    else:
        yield f"{text}; {result['launches']:,} launches, no kernel ran in {told.percent(result['idle_share'])}"


def _ends(estimate: Estimate) -> str:
    known = estimate.low is not None and estimate.high is not None
    return f"{digits(estimate.low or 0.0)}–{digits(estimate.high or 0.0)}" if known else ""


def _columns() -> Iterator[tuple[str, Callable[[Part], str]]]:
    """The columns of a trace's profile, milliseconds with the ends of their interval."""
    for header, cell in told.COLUMNS.items():
        if header == "ms":
            yield header, lambda part: digits(part.line.ms)
            yield "from to", lambda part: _ends(part.ms)
        elif header != "ms a step":
            yield header, lambda part, cell=cell: cell(part.line)  # type: ignore[misc]


COLUMNS = dict(_columns())
