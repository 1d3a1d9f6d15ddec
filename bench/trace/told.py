"""What `python -m bench profile` says of a trace: lines for people, and a record a row for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.trace import tables, timeline
from bench.trace.joined import Joined, join
from bench.trace.tables import Line

LEGEND = (
    "MACs as `core` counts them, nominal: 1 MAC = 2 FLOPs. Bytes of the tensors that are read and written, each once. "
    "of roof: the time that peak and memory allow, as a share of the time taken."
)
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
    """What is true of the whole trace."""
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
        yield f"{'all phases' if phase == 'all' else phase}: {took / 1e3:,.2f} ms, {_percent(took / joined.took)}"
        yield from _table(by, of_phase)
    remarks = [(row.name, remark) for row in rows if row.phase == "all" for remark in row.remarks]
    if remarks:
        yield ""
    for name, remark in remarks:
        yield f"{_shortened(name)}: {remark}"
    lost = tables.unattributed(joined)
    for reason in lost:
        yield f"{_percent(reason['share'])} of the time belongs to no operator, {_reason(reason)}"
    for reason in tables.unjoined(joined):
        if reason["why"] not in {each["why"] for each in lost}:
            yield f"MACs unknown for {_percent(reason['share'])} of the time, {_reason(reason)}"
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
    parts = [f"{_percent(about['attributed'])} of the time belongs to an operator"]
    parts.append(f"MACs are known for {_percent(about['known'])}")
    if about["idle"] is not None:
        parts.append(f"no kernel ran in {_percent(about['idle'])} of {about['span_ms']:,.2f} ms")
    yield "; ".join(parts)
    peaks = joined.peaks
    rates = ", ".join(f"{name} {rate:g} TFLOP/s" for name, rate in peaks.tflops.items())
    memory = f", memory {peaks.bandwidth_gb_s:g} GB/s" if peaks.bandwidth_gb_s else ""
    yield f"peaks: {rates}{memory}" if rates or memory else f"peaks: {peaks.source}"


def _table(by: str, rows: Sequence[Line]) -> Iterator[str]:
    """The rows with a header, numbers to the right; a column that is empty throughout is left out."""
    columns = [[by, *(_shortened(row.name, by == "module") for row in rows)]]
    columns += [[header, *map(cell, rows)] for header, cell in COLUMNS.items()]
    shown = [cells for cells in columns if any(cells[1:])]
    widths = [max(map(len, cells)) for cells in shown]
    for first, *others in zip(*shown, strict=True):
        texts = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([f"  {first:{widths[0]}}", *texts]).rstrip()


def _reason(reason: Mapping[str, Any]) -> str:
    return f"{reason['why']}: {', '.join(map(_shortened, reason['names']))}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _shortened(name: str, keeps_end: bool = False) -> str:
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
    "share": lambda row: _percent(row.share),
    "ms a step": lambda row: "" if row.ms_per_step is None else f"{row.ms_per_step:,.2f}",
    "GMACs": lambda row: f"{row.macs / 1e9:,.1f}" if row.macs else "",
    "of MACs": lambda row: _percent(row.macs_share) if row.macs else "",
    "dtype": lambda row: row.dtype or "",
    "TFLOP/s": lambda row: _number(row.tflops),
    "GB/s": _sized(lambda row: _number(row.gb_per_s)),
    "FLOP/B": _sized(lambda row: _number(row.flop_per_byte) if row.macs else ""),
    "MFLOP/launch": lambda row: _number(row.flop_per_launch / 1e6) if row.flop_per_launch else "",
    "of roof": _sized(lambda row: _percent(row.share_of_attainable)),
}
