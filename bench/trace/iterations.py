"""Profiled iterations of a case, read from their trace, in the time that an iteration takes without the profiler.

What the profiler adds lies between operators and kernels, more than in them. On a CPU the times of operators are taken
as they are, and what is left of the unprofiled iteration lies outside of them; where together they take longer than
that, they are multiplied so that they take as long. Where the profiled iteration was the shorter one, for the machine
drifts, all of it is multiplied. On a GPU the times of kernels are taken as they are, and the rest of the unprofiled
iteration is idle.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.trace import joined as joins
from bench.trace import tables, timeline
from bench.trace.joined import OUTSIDE, Call, Joined
from bench.trace.operators import BY
from bench.trace.tables import Line
from bench.trace.timeline import Span, Timeline, Work

KEPT = "BENCH_KEEP_TRACE"  # the variable that names the file in which a worker keeps the trace of a case
MOST_MODULES = 80  # rows by module; names are cut, all of them as deep, where there are more
DIGITS = 6
# Of a whole trace; divided by its iterations in a row's line
SUMS = ("calls", "launches", "macs", "moved_bytes", "ms_at_roof")
ENDS = ("ms_per_step_low", "ms_per_step_high")


def read(path: Path, unprofiled_s: float, per_step: int = 1) -> dict[str, Any]:
    """The part of a row's result that a trace tells, of one iteration: `bench/harness/profile.py` has the fields.

    Args:
        unprofiled_s: seconds of an iteration without the profiler.
        per_step: iterations in one of the profiler's steps.

    Raises:
        UsageError: nothing in the trace took any time in a step.
    """
    found = timeline.read(path)
    steps = joins.steps_of(found)
    iterations = per_step * len(steps)
    joined = joins.join(found)
    joined.calls = [call for call in joined.calls if call.step is not None]
    gaps: list[Call] = []
    scale = 1.0
    if joined.is_cpu and joined.calls:
        gaps, lasted = list(outside(found)), iterations * unprofiled_s * 1e6
        inside, around = _works(joined.calls), _works(gaps)
        scale = (
            lasted / (inside + around) if lasted > inside + around else min(1.0, lasted / (inside or lasted))
        )
        _multiply(joined.calls, scale)
        _multiply(gaps, max(0.0, lasted - scale * inside) / (around or 1.0))
    joined.calls += [gap for gap in gaps if _works([gap])]
    if not joined.took > 0:
        raise UsageError(f"{path}: nothing took any time in a step of the profiler")
    busy_s = None
    if not joined.is_cpu:  # of the steps: a trace has a call before them too
        works = (work for call in joined.calls for work in call.works)
        busy_s = joins.busy_of(works)[1] / 1e6 / iterations
    whole = per_iteration(tables.total(joined), len(steps), per_step)
    told = {
        "steps": len(steps),
        "scale": scale,
        "busy_s": busy_s,
        "idle_share": None if busy_s is None else max(0.0, 1 - busy_s / unprofiled_s),
        "outside_share": sum(gap.took for gap in gaps) / joined.took if joined.is_cpu else None,
        "calls": whole.calls,
        "launches": whole.launches,
        "macs": whole.macs,
        "known": tables.coverage(joined),
        "attributed": 1 - sum(call.took for call in joined.calls if call.operator is None) / joined.took,
        "unattributed": tables.unattributed(joined),
        "unjoined": tables.unjoined(joined),
    }
    cut_modules(joined)
    lines = {
        by: [packed(per_iteration(line, len(steps), per_step)) for line in tables.lines(joined, by)]
        for by in BY
    }
    return {**told, "lines": lines}


def _works(calls: list[Call]) -> float:
    """Microseconds of calls whose times may still change: a call keeps its own once it was asked for it."""
    return sum(work.took for call in calls for work in call.works)


def _multiply(calls: list[Call], by: float) -> None:
    for call in calls:
        for work in call.works:
            work.took *= by


def outside(found: Timeline) -> Iterator[Call]:
    """The time in the steps of a CPU's trace in which no operator ran, by phase and module of the operator after it."""
    for start, end, step in joins.steps_of(found):
        gaps: dict[tuple[str, str], list[Work]] = defaultdict(list)
        place, reached = ("forward", ""), start
        for span in _outermost(found, start, end):
            outer = list(joins.outwards(span))
            place = joins.phase_of(outer), joins.modules_of(outer)
            if span.start > reached:
                gaps[place].append(Work(OUTSIDE, reached, span.start - reached, "cpu", "cpu", why=OUTSIDE))
            reached = max(reached, span.end)
        if end > reached:
            gaps[place[0], ""].append(Work(OUTSIDE, reached, end - reached, "cpu", "cpu", why=OUTSIDE))
        for (phase, module), works in gaps.items():
            yield Call(None, "outside", works, phase, module, step, OUTSIDE)


def _outermost(found: Timeline, start: float, end: float) -> list[Span]:
    """The operators of a step that run inside no other, in the order of time."""
    spans = [
        span
        for of_thread in found.threads.values()
        for span in of_thread
        if span.kind == "operator"
        and start <= span.start <= end
        and not any(outer.kind == "operator" for outer in joins.outwards(span.parent))
    ]
    return sorted(spans, key=lambda span: span.start)


def cut_modules(joined: Joined) -> None:
    """Cut the names of modules to as many parts as leave MOST_MODULES of them: `stages.0.1` for all that is in it."""
    names = [call.module.split(".") for call in joined.calls]
    depth = max(map(len, names))
    while depth > 1 and len({tuple(name[:depth]) for name in names}) > MOST_MODULES:
        depth -= 1
    for call, name in zip(joined.calls, names, strict=True):
        call.module = ".".join(name[:depth])


def per_iteration(line: Line, steps: int, per_step: int) -> Line:
    """A line of so many steps as that of one iteration: sums divided, milliseconds those of one."""
    iterations = steps * per_step
    sums = {name: _divided(value, iterations) for name in SUMS if (value := getattr(line, name)) is not None}
    ends = {name: value / per_step for name in ENDS if (value := getattr(line, name)) is not None}
    ms = line.ms / iterations
    return replace(line, ms=ms, ms_per_step=ms, **sums, **ends)


def _divided(value: Any, by: int) -> Any:
    """A count stays a whole number: steps do the same, and one call that happens in one of them alone is lost."""
    return round(value / by) if isinstance(value, int) else value / by


def packed(line: Line) -> dict[str, Any]:
    """A line as a row keeps it: what is unknown is left out, and numbers have six digits."""
    return {name: _rounded(value) for name, value in line.record().items() if value not in (None, [])}


def unpacked(record: Mapping[str, Any]) -> Line:
    """A line as it was packed."""
    known: dict[str, Any] = {name: record.get(name) for name in tables.FIELDS}
    return Line(**{**known, "remarks": tuple(record.get("remarks") or ())})


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
