"""The output of `python -m bench profile` on a trace: lines for people, and a record a row for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import UsageError
from bench.trace import tables, timeline
from bench.trace.joined import Joined, join
from bench.trace.tables import Line

LEGEND = (
    "MACs as `core` counts them, nominal: 1 MAC = 2 FLOPs. Bytes of the tensors that are read and written, each once. "
    "of roof: the time that peak and memory allow, as a share of the time taken."
)
Row = TypeVar("Row")
WIDEST = 48  # characters of a name in the terminal; kernels have hundreds


def read(path: Path) -> Joined:
    """The joined calls of a trace file.

    Raises:
        UsageError: it cannot be read as a trace, or nothing in it took any time.
    """
    joined = join(timeline.read(path))
    if not joined.took > 0:
        raise UsageError(f"{path}: nothing in the trace took any time")
    return joined


def document(joined: Joined, by: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The records of a profile, a row each, and what is true of the whole."""
    records = [line.record() for line in tables.lines(joined, by)]
    return records, summary(joined)


def summary(joined: Joined) -> dict[str, Any]:
    """The figures of the whole trace, by name."""
    line = tables.total(joined)
    return {
        "device": joined.device or None,
        "is_cpu": joined.is_cpu,
        "peak_tflops": dict(joined.peaks.tflops),
        "peak_gb_per_s": joined.peaks.bandwidth_gb_s,
        "peak_source": joined.peaks.source,
        "steps": len(joined.steps),
        "ms": line.ms,
        "ms_per_step": line.ms_per_step,
        "ms_per_step_low": line.ms_per_step_low,
        "ms_per_step_high": line.ms_per_step_high,
        "calls": line.calls,
        "launches": line.launches,
        "macs": line.macs,
        "attributed": 1 - sum(call.took for call in joined.calls if call.operator is None) / joined.took,
        "known": tables.coverage(joined),
        "span_ms": None if joined.is_cpu else joined.span / 1e3,
        "idle": idle(joined),
        "unattributed": tables.unattributed(joined),
        "unjoined": tables.unjoined(joined),
        "events_without_time": joined.dropped,
    }


def idle(joined: Joined) -> float | None:
    """The share of the span in which no kernel ran."""
    return 1 - joined.busy / joined.span if joined.span > 0 else None


def lines(joined: Joined, by: str) -> Iterator[str]:
    """A profile for people."""
    yield from _head(joined)
    rows = tables.lines(joined, by)
    for phase in dict.fromkeys(row.phase for row in rows):
        of_phase = [row for row in rows if row.phase == phase]
        took = (
            joined.took if phase == "all" else sum(call.took for call in joined.calls if call.phase == phase)
        )
        yield ""
        yield f"{'all phases' if phase == 'all' else phase}: {took / 1e3:,.2f} ms, {percent(took / joined.took)}"
        names = [shortened(row.name, by == "module") for row in of_phase]
        yield from table(by, names, of_phase, COLUMNS)
    yield from remarks(rows)
    yield from reasons(tables.unattributed(joined), tables.unjoined(joined))
    yield ""
    yield LEGEND
    if joined.dropped:
        yield f"{joined.dropped:,} events without a time are left out"


def _head(joined: Joined) -> Iterator[str]:
    about = summary(joined)
    what = "operators' own time" if joined.is_cpu else f"{about['launches']:,} kernels"
    text = (
        f"{joined.device or 'GPUs of several kinds, or of none that the trace names'}: {about['ms']:,.2f} ms"
    )
    text += f", {what} of {about['calls']:,} calls"
    if about["ms_per_step"] is not None:
        low, high = about["ms_per_step_low"], about["ms_per_step_high"]
        text += (
            f"; {about['ms_per_step']:,.2f} ms a step ({low:,.2f} to {high:,.2f} in {about['steps']} steps)"
        )
    yield text
    parts = [f"{percent(about['attributed'])} of the time belongs to an operator"]
    parts.append(f"MACs are known for {percent(about['known'])}")
    if about["idle"] is not None:
        parts.append(f"no kernel ran in {percent(about['idle'])} of {about['span_ms']:,.2f} ms")
    yield "; ".join(parts)
    peaks = joined.peaks
    rates = ", ".join(f"{name} {rate:g} TFLOP/s" for name, rate in peaks.tflops.items())
    memory = f", memory {peaks.bandwidth_gb_s:g} GB/s" if peaks.bandwidth_gb_s else ""
    yield f"peaks: {rates}{memory}" if rates or memory else f"peaks: {peaks.source}"


def remarks(rows: Sequence[Line]) -> Iterator[str]:
    """The explanations of rows beyond a peak, as lines."""
    found = [(row.name, remark) for row in rows if row.phase == "all" for remark in row.remarks]
    if found:
        yield ""
    for name, remark in found:
        yield f"{shortened(name)}: {remark}"


def reasons(
    unattributed: Sequence[Mapping[str, Any]], unjoined: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Why time belongs to no operator, and why MACs are unknown, as lines."""
    for reason in unattributed:
        yield f"{percent(reason['share'])} of the time belongs to no operator, {_reason(reason)}"
    for reason in unjoined:
        if reason["why"] not in {each["why"] for each in unattributed}:
            yield f"MACs unknown for {percent(reason['share'])} of the time, {_reason(reason)}"


def table(
    by: str, names: Sequence[str], rows: Sequence[Row], columns: Mapping[str, Callable[[Row], str]]
) -> Iterator[str]:
    """Rows under a header, numbers to the right; a column that is empty throughout is left out."""
    cells = [[by, *names], *([header, *map(cell, rows)] for header, cell in columns.items())]
    shown = [column for column in cells if any(column[1:])]
    widths = [max(map(len, column)) for column in shown]
    for first, *others in zip(*shown, strict=True):
        texts = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([f"  {first:{widths[0]}}", *texts]).rstrip()


def _reason(reason: Mapping[str, Any]) -> str:
    names = [shortened(name) for name in reason["names"] if name != reason["why"]]
    return ": ".join([reason["why"], ", ".join(names)] if names else [reason["why"]])


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(share: float | None) -> str:
    """A share for people; nothing for one that is unknown."""
    return "" if share is None else f"{100 * share:.1f} %"


def shortened(name: str, keeps_end: bool = False) -> str:
    """A name as wide as a terminal has room for."""
    if len(name) <= WIDEST:
        return name
    return f"…{name[1 - WIDEST :]}" if keeps_end else f"{name[: WIDEST - 1]}…"


def _sized(cell: Callable[[Line], str]) -> Callable[[Line], str]:
    """A cell that needs bytes; empty where they are known for less than half of the row's time."""
    return lambda row: cell(row) if (row.bytes_known or 0) >= 0.5 else ""


COLUMNS: dict[str, Callable[[Line], str]] = {
    "calls": lambda row: f"{row.calls:,}",
    "launches": lambda row: "" if row.launches is None else f"{row.launches:,}",
    "ms": lambda row: f"{row.ms:,.2f}",
    "share": lambda row: percent(row.share),
    "ms a step": lambda row: "" if row.ms_per_step is None else f"{row.ms_per_step:,.2f}",
    "GMACs": lambda row: f"{row.macs / 1e9:,.1f}" if row.macs else "",
    "of MACs": lambda row: percent(row.macs_share) if row.macs else "",
    "dtype": lambda row: row.dtype or "",
    "TFLOP/s": lambda row: _number(row.tflops),
    "GB/s": _sized(lambda row: _number(row.gb_per_s)),
    "FLOP/B": _sized(lambda row: _number(row.flop_per_byte) if row.macs else ""),
    "MFLOP/launch": lambda row: _number(row.flop_per_launch / 1e6) if row.flop_per_launch else "",
    "of roof": _sized(lambda row: percent(row.share_of_attainable)),
}
