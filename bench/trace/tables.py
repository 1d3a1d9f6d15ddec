"""The rows of a profile: time, MACs, bytes and rates of calls, added up by operator, call, kernel or module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from bench.conventions import FLOPS_PER_MAC
from bench.roofline import Peaks
from bench.trace.joined import PHASES, Call, Joined, flops

NAMES: dict[str, Callable[[Call], str]] = {
    "operator": lambda call: (
        call.kind if call.operator is not None or call.kind in ("fused", "outside") else "(no operator)"
    ),
    "call": lambda call: call.label,
    "kernel": lambda call: call.works[0].name,
    "module": lambda call: call.module or "(outside of modules)",
}

# What lets a call do more than its MACs at the peak, by a word in the names of its kernels.
FASTER = {
    "winograd": "Winograd multiplies less than the MACs that are counted",
    "fft": "products after a Fourier transform are fewer than the MACs that are counted",
}
UNEXPLAINED = "the kernels' names do not say why; for fp32 it may be TF32"
CACHED = "tensors stay in a cache between operators, or are not touched as a whole"


@dataclass(frozen=True)
class Line:
    """A row of a profile. Shares are of all time in the trace, rates over the calls for which they are known."""

    phase: str
    name: str
    calls: int
    launches: int | None
    ms: float
    share: float
    ms_per_step: float | None
    ms_per_step_low: float | None
    ms_per_step_high: float | None
    macs: int | None
    macs_share: float | None
    moved_bytes: int | None
    macs_known: float | None
    bytes_known: float | None
    dtype: str | None
    tflops: float | None
    gb_per_s: float | None
    flop_per_byte: float | None
    flop_per_launch: float | None
    share_of_peak: float | None
    share_of_bandwidth: float | None
    share_of_attainable: float | None
    ms_at_roof: float | None
    fastest_tflops: float | None
    fastest_share_of_peak: float | None
    remarks: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """The row as a flat record."""
        return {**asdict(self), "remarks": list(self.remarks)}


FIELDS = tuple(field.name for field in fields(Line))


def lines(joined: Joined, by: str = "operator") -> list[Line]:
    """A row for each name, the longest first; of all phases, and where there are several of each of them too."""
    calls = joined.calls
    if by == "kernel":  # a kernel has a time; MACs are the whole call's
        calls = [
            Call(None, call.kind, [work], call.phase, call.module, call.step)
            for call in calls
            for work in call.works
        ]
    phases = [phase for phase in PHASES if any(call.phase == phase for call in calls)]
    made = []
    for phase in ["all", *phases] if len(phases) > 1 else ["all"]:
        groups: dict[str, list[Call]] = defaultdict(list)
        for call in calls:
            if phase in ("all", call.phase):
                groups[NAMES[by](call)].append(call)
        rows = [_line(phase, name, group, joined, by != "kernel") for name, group in groups.items()]
        made += sorted(rows, key=lambda line: -line.ms)
    return made


def total(joined: Joined) -> Line:
    """All calls as one row."""
    return _line("all", "total", joined.calls, joined, True)


def coverage(joined: Joined) -> float:
    """The share of time in calls whose MACs are known."""
    return _share(sum(call.took for call in joined.calls if call.macs is not None), joined.took) or 0.0


def unjoined(joined: Joined) -> list[dict[str, Any]]:
    """Why MACs are unknown, each reason with its share of time and the names of what takes the most of it."""
    return _reasons(joined, lambda call: call.unknown)


def unattributed(joined: Joined) -> list[dict[str, Any]]:
    """Why kernels belong to no operator, each reason with its share of time and the names of the longest."""
    return _reasons(joined, lambda call: call.why)


def _reasons(joined: Joined, why_of: Callable[[Call], str | None]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for call in joined.calls:
        if why := why_of(call):
            found[why][call.label if call.operator is not None else call.works[0].name] += call.took
    return [
        {
            "why": why,
            "share": _share(sum(names.values()), joined.took) or 0.0,
            "names": sorted(names, key=lambda name: -names[name])[:5],
        }
        for why, names in sorted(found.items(), key=lambda item: -sum(item[1].values()))
    ]


def _line(phase: str, name: str, calls: Sequence[Call], joined: Joined, is_joined: bool) -> Line:
    peaks, us = joined.peaks, _took(calls)
    counted = [call for call in calls if is_joined and call.macs is not None]
    sized = [call for call in calls if is_joined and call.moved is not None]
    both = [call for call in counted if call.moved is not None]
    products = [call for call in counted if call.macs and call.took]
    fastest = max(products, key=_rate, default=None)
    macs = sum(call.macs or 0 for call in counted) if counted else None
    moved = sum(call.moved or 0 for call in sized) if sized else None
    moved_by_both = sum(call.moved or 0 for call in both)
    launches = None if joined.is_cpu else sum(len(call.works) for call in calls)
    steps = [_took(call for call in calls if call.step == step) / 1e3 for step in joined.steps]
    roof_s = _roof_s(both, moved_by_both, peaks)
    of_memory = _share(_memory_s(moved, peaks), _took(sized) / 1e6)
    return Line(
        phase=phase,
        name=name,
        calls=len(calls),
        launches=launches,
        ms=us / 1e3,
        share=_share(us, joined.took) or 0.0,
        ms_per_step=sum(steps) / len(steps) if steps else None,
        ms_per_step_low=min(steps, default=None),
        ms_per_step_high=max(steps, default=None),
        macs=macs,
        macs_share=_share(macs, joined.macs),
        macs_known=_share(_took(counted), us) if is_joined else None,
        moved_bytes=moved,
        bytes_known=_share(_took(sized), us) if is_joined else None,
        dtype="+".join(sorted({call.dtype for call in products if call.dtype})) or None,
        tflops=_per(flops(products), _took(products) / 1e6, 1e12) if products else None,
        gb_per_s=_per(moved, _took(sized) / 1e6, 1e9),
        flop_per_byte=_per(flops(both), moved_by_both),
        flop_per_launch=_per(flops(counted), sum(len(call.works) for call in counted)) if launches else None,
        share_of_peak=_share(_peak_s(products, peaks), _took(products) / 1e6) if products else None,
        share_of_bandwidth=of_memory,
        share_of_attainable=_share(roof_s, _took(both) / 1e6),
        ms_at_roof=None if roof_s is None else 1e3 * roof_s,
        fastest_tflops=None if fastest is None else _rate(fastest) / 1e12,
        fastest_share_of_peak=None if fastest is None else _of_peak(fastest, peaks),
        remarks=tuple(_remarks(products, of_memory, peaks)),
    )


def _took(calls: Iterable[Call]) -> float:
    return sum(call.took for call in calls)


def _rate(call: Call) -> float:
    """FLOP/s of a call."""
    return FLOPS_PER_MAC * (call.macs or 0) / (call.took / 1e6)


def _peak_s(calls: Iterable[Call], peaks: Peaks) -> float | None:
    """Seconds that the products would take at the peaks of their dtypes; None where one is unknown."""
    seconds = 0.0
    for call in calls:
        if call.macs:
            peak = peaks.tflops.get(call.dtype or "")
            if not peak:
                return None
            seconds += FLOPS_PER_MAC * call.macs / (peak * 1e12)
    return seconds


def _memory_s(moved: int | None, peaks: Peaks) -> float | None:
    """Seconds that the memory takes for so many bytes."""
    return None if moved is None or not peaks.bandwidth_gb_s else moved / (peaks.bandwidth_gb_s * 1e9)


def _roof_s(calls: Sequence[Call], moved: int, peaks: Peaks) -> float | None:
    """Seconds that calls would take at their roof: arithmetic or memory, the longer."""
    arithmetic, memory = _peak_s(calls, peaks), _memory_s(moved, peaks)
    return None if not calls or arithmetic is None or memory is None else max(arithmetic, memory)


def _of_peak(call: Call, peaks: Peaks) -> float | None:
    """The share of its dtype's peak at which a call runs."""
    return _share(_peak_s([call], peaks), call.took / 1e6)


def _remarks(products: Sequence[Call], of_memory: float | None, peaks: Peaks) -> Iterable[str]:
    """Explanations of calls that are beyond a peak."""
    beyond: dict[str, list[Call]] = defaultdict(list)
    for call in products:
        if (_of_peak(call, peaks) or 0) > 1:
            names = " ".join(work.name.lower() for work in call.works)
            beyond[next((why for word, why in FASTER.items() if word in names), UNEXPLAINED)].append(call)
    for why, calls in beyond.items():
        most = max(calls, key=lambda call: _of_peak(call, peaks) or 0)
        yield (
            f"{len(calls)} of {len(products)} calls beyond {most.dtype}'s {peaks.tflops[most.dtype or '']:g} TFLOP/s, "
            f"at most {_rate(most) / 1e12:.1f} ({100 * (_of_peak(most, peaks) or 0):.0f} %): {why}"
        )
    if of_memory is not None and of_memory > 1:
        yield f"{100 * of_memory:.0f} % of the memory's {peaks.bandwidth_gb_s:g} GB/s: {CACHED}"


def _share(part: float | None, whole: float) -> float | None:
    return None if part is None or not whole > 0 else part / whole


def _per(amount: float | None, unit: float, scale: float = 1) -> float | None:
    return None if amount is None or not unit > 0 else amount / unit / scale
