"""Invented profiles: lines with shares that can be worked out by hand, and rows and traces of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from bench.roofline import Peaks
from bench.trace.tables import Line
from reports.profiles import Profile
from tests.support.synthetic_rows import profiled, row, timing_result

# 100 TFLOP/s and 1,000 GB/s: 100 FLOPs a byte are both at once.
PEAKS = Peaks({"fp16": 100.0}, 1000.0, "invented")
Times = Mapping[str, float]


def line(name: str, ms: float, whole_ms: float, **more: Any) -> Line:
    """A line of all phases, of which everything is known but what `more` says otherwise."""
    known = dict.fromkeys(field.name for field in fields(Line))
    usual = {"phase": "all", "name": name, "calls": 1, "ms": ms, "share": ms / whole_ms, "remarks": ()}
    return Line(
        **{**known, **usual, "macs": 0, "macs_share": 0.0, "macs_known": 1.0, "bytes_known": 1.0, **more}
    )


def lines(times: Times, macs: Mapping[str, int], **more: Mapping[str, Any]) -> list[Line]:
    """A line for each time, with the MACs of its name; `more` has further fields by name."""
    whole, work = sum(times.values()), sum(macs.values()) or 1
    return [
        line(
            name,
            ms,
            whole,
            **{"macs": macs.get(name, 0), "macs_share": macs.get(name, 0) / work, **more.get(name, {})},
        )
        for name, ms in sorted(times.items(), key=lambda item: -item[1])
    ]


def rated(tflops: float, flop_per_byte: float, of_roof: float, **more: Any) -> dict[str, Any]:
    """The fields of a line of products at such a rate, and share of its roof."""
    return {
        **{"dtype": "fp16", "tflops": tflops, "flop_per_byte": flop_per_byte},
        **{"share_of_attainable": of_roof, **more},
    }


def moving(gb_per_s: float, **more: Any) -> dict[str, Any]:
    """The fields of a line without MACs that moves so much."""
    return {"gb_per_s": gb_per_s, "share_of_attainable": gb_per_s / 1000, "flop_per_byte": 0.0, **more}


def profile(
    times: Times, macs: Mapping[str, int], title: str = "Net", modules: list[Line] | None = None, **more: Any
) -> Profile:
    """A profile of such lines."""
    return Profile(title, lines(times, macs, **more), modules or [], peaks=PEAKS)


def profile_row(
    case: str,
    times: Times,
    macs: Mapping[str, int],
    modules: list[Line] | None = None,
    phases: Mapping[str, list[Line]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A row of harness `profile`, whose iteration takes as long as its operators together."""
    result = {
        **timing_result(1e-3 * sum(times.values()), spread=0.0),
        **profiled(dict(times), dict(macs), [_packed(each) for each in modules or []]),
        **more.pop("result", {}),
    }
    of_phases = [_packed(each) for of_one in (phases or {}).values() for each in of_one]
    result["lines"]["operator"] = [*result["lines"]["operator"], *of_phases]
    return row("profile", case, result, study=None, **more)


def _packed(each: Line) -> dict[str, Any]:
    """A line as rows have it: without what is unknown."""
    return {name: value for name, value in each.record().items() if value not in (None, [])}
