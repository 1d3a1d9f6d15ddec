"""The join: each call of an operator with the time of its kernels, its MACs and bytes, phase, step and module."""

from __future__ import annotations

import bisect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from bench.conventions import FLOPS_PER_MAC
from bench.machine.gpus import profile_for
from bench.roofline import Peaks, peaks_of
from bench.trace import formulas
from bench.trace.operators import COUNTED, Operator, call_of, class_of, is_backward, plain
from bench.trace.timeline import MODULE, STEP, Span, Timeline, Work

PHASES = ("forward", "backward", "optimizer", "unknown")
_BACKWARD = re.compile(r"autograd::engine::evaluate_function|torch::autograd::|\w+Backward\d*$")
_TO_OR_FROM_HOST = re.compile(r"Memcpy (HtoD|DtoH)|CopyHostToDevice|CopyDeviceToHost", re.IGNORECASE)
_NUMBERED = re.compile(r"^(?:graph_\d+_)?(cpp_fused\w*?)(?:_\d+)?$")  # inductor's kernels of a CPU
_TF32 = re.compile(r"tf32|tensorop_s1688", re.IGNORECASE)

NO_SHAPES = "no input shapes were recorded"
NO_OUTPUT = "the size of the output is not recorded"
NO_TABLE = "operators that are in no table"
NO_TEMPLATE = "a compiler's matrix products, whose sizes are not recorded"
NO_FORMULA = "shapes that no formula reads"
NO_KERNELS = "regions of torch.compile, as far as their kernels are not recorded one by one"
OUTSIDE = "outside of operators"


@dataclass(eq=False)
class Call:
    """A call of an operator, with the work that it gave the device. Times in µs."""

    operator: Operator | None  # None: the work belongs to no operator
    kind: str
    works: list[Work]
    phase: str = "forward"
    module: str = ""
    step: str | None = None
    why: str | None = None  # it belongs to none

    @cached_property
    def took(self) -> float:
        """The sum of the times of its kernels."""
        return sum(work.took for work in self.works)

    @cached_property
    def macs(self) -> int | None:
        """MACs as `core` counts them; None where unknown."""
        if self.operator is None:
            is_known = self.kind == "outside" or (self.kind == "fused" and not self.is_template)
            return 0 if is_known else None
        if self.kind == "fused":
            return None if self.is_template else 0
        found = formulas.macs(self.operator, self.kind)
        if found is None and self.kind in COUNTED:  # what runs inside may say it
            parts = [formulas.macs(part, self.kind) for part in self.parts if class_of(part.name) in COUNTED]
            known = [part for part in parts if part is not None]
            return sum(known) if known and len(known) == len(parts) else None
        return found

    @cached_property
    def moved(self) -> int | None:
        """Bytes of the tensors that it reads and writes in the device's memory; None where unknown."""
        if self.operator is None or any(_TO_OR_FROM_HOST.match(work.name) for work in self.works):
            return None
        parts = [formulas.moved(part) for part in self.parts]
        if parts and None not in parts:
            return sum(part for part in parts if part is not None)
        return formulas.moved(self.operator)

    @cached_property
    def dtype(self) -> str | None:
        """The dtype of what did the work, which autocast may have changed on the way in, and TF32 in the kernel."""
        operators = [*self.parts, self.operator]
        name = next((name for each in operators if each and (name := formulas.dtype(each))), None)
        is_tf32 = name == "fp32" and any(_TF32.search(work.name) for work in self.works)
        return "tf32" if is_tf32 else name

    @cached_property
    def parts(self) -> list[Operator]:
        """The innermost operators that gave the work; on a CPU those around them have a time of their own, too."""
        found = [work.span.operator for work in self.works if work.span is not None]
        parts = list(dict.fromkeys(operator for operator in found if operator is not None))
        if self.works and self.works[0].device == "cpu":
            around = {outer for part in parts if part.parent for outer in part.parent.outwards()}
            return [part for part in parts if part not in around]
        return parts

    @property
    def is_template(self) -> bool:
        """Whether a compiler's kernel is of matrix products."""
        return any(work.name.startswith("triton_tem") for work in self.works)

    @property
    def unknown(self) -> str | None:
        """Why its MACs are unknown; None where they are known."""
        if self.macs is not None:
            return None
        if self.why is not None or self.operator is None:
            return self.why
        if self.kind == "other":
            return NO_TABLE
        if self.kind == "compiled":
            return NO_KERNELS
        if self.kind == "fused":
            return NO_TEMPLATE
        if not any(self.operator.shapes):
            return NO_SHAPES
        return NO_OUTPUT if self.kind == "conv" and formulas.output(self.operator) is None else NO_FORMULA

    @property
    def label(self) -> str:
        """The operator's name, a convolution's with the size of its filter, a fused kernel's by what it fuses."""
        if self.operator is None:
            return f"({self.why})"
        name = _NUMBERED.sub(r"\1", self.operator.name.removeprefix("aten::"))
        if self.kind != "conv" or len(self.operator.shapes) < 3:
            return name
        backward = is_backward(self.operator.name)
        weight = self.operator.shapes[2 if backward else 1]
        if "transpose" in name:  # whose weight has the input's channels first
            weight = (*weight[1::-1], *weight[2:])
        channels = self.operator.shapes[int(plain(name) == "convolution_backward")][1:2]
        sizes = "×".join(map(str, weight[2:]))
        grouped = " grouped" if channels and weight[1:2] != channels else ""
        return f"{name} {sizes}{grouped}" if sizes else name


@dataclass
class Joined:
    """All calls of a trace, and what the device that ran them can do."""

    calls: list[Call]
    steps: list[str] = field(default_factory=list)
    device: str = ""
    peaks: Peaks = field(default_factory=Peaks)
    is_cpu: bool = False
    span: float = 0.0  # µs from the first kernel's start to the last one's end, added up over the devices
    busy: float = 0.0  # µs of it in which a kernel ran
    dropped: int = 0

    @cached_property
    def took(self) -> float:
        """The time of all calls."""
        return sum(call.took for call in self.calls)

    @cached_property
    def macs(self) -> int:
        """The MACs of all calls, as far as they are known."""
        return sum(call.macs or 0 for call in self.calls)


def join(timeline: Timeline) -> Joined:
    """The calls of a timeline."""
    steps, forwards = _steps(timeline), _forwards(timeline)
    calls: dict[object, Call] = {}
    for work in timeline.works:
        call = _call(work, forwards, timeline.is_cpu)
        # each work that belongs to no operator is a call of its own
        key = work if call.operator is None else (id(call.operator), call.kind)
        if key in calls:
            calls[key].works.append(work)
        else:
            call.step = _step(work, steps)
            calls[key] = call
    names = {timeline.devices.get(work.device, "") for work in timeline.works}
    device = "CPU" if timeline.is_cpu else names.pop() if len(names) == 1 else ""
    span, busy = (0.0, 0.0) if timeline.is_cpu else busy_of(timeline.works)
    return Joined(
        list(calls.values()),
        [name for _, _, name in steps_of(timeline)],
        device,
        Peaks(source="unknown for a CPU by a trace") if timeline.is_cpu else peaks_by_name(device),
        timeline.is_cpu,
        span,
        busy,
        timeline.dropped,
    )


def peaks_by_name(device: str) -> Peaks:
    """The peaks of a GPU by the name that a trace gives it."""
    if not device:
        return Peaks(source="unknown: the trace names no GPU, or several")
    profile = profile_for(device)
    return peaks_of({"kind": "cuda", "profile": profile and profile.name}, None)


def flops(calls: Iterable[Call]) -> int:
    """FLOPs of calls, of those whose MACs are known."""
    return sum(FLOPS_PER_MAC * (call.macs or 0) for call in calls)


def _call(work: Work, forwards: dict[tuple[str, int], Span], is_cpu: bool) -> Call:
    """The call that a work belongs to, with this work alone."""
    outer = list(outwards(work.span or work.at))
    phase = phase_of(outer) if outer else "unknown"
    if work.span is None or work.span.operator is None:
        kind = "fused" if work.name.startswith("triton_") else "other"
        return Call(None, kind, [work], phase, modules_of(outer), why=work.why)
    operator, kind = call_of(work.span.operator)
    forward = None
    if phase == "backward":
        process = work.span.thread[0]
        sequences = (each.sequence for each in outer if each.sequence is not None)
        forward = next((forwards[process, n] for n in sequences if (process, n) in forwards), None)
    if kind == "matmul" and phase == "backward" and _of_a_linear(outer, forward):
        kind = "linear"
    if kind == "other" and work.name.startswith("triton_"):
        kind = "fused"
    if kind == "other" and is_cpu and _BACKWARD.match(work.name):  # autograd's own time around an operator
        kind = "view"
    modules = modules_of(outer) or modules_of(list(outwards(forward)))
    return Call(operator, kind, [work], phase, modules)


def _of_a_linear(outer: Sequence[Span], forward: Span | None) -> bool:
    """Whether a product in a backward is that of a linear layer's gradient."""
    if forward is not None and forward.operator is not None:
        return call_of(forward.operator)[1] == "linear"
    return any(re.search(r"(Addmm|Linear)Backward\d*$", span.name) for span in outer)


def outwards(span: Span | None) -> Iterator[Span]:
    """A span, the one that it ran in, and so on."""
    while span is not None:
        yield span
        span = span.parent


def phase_of(outer: Sequence[Span]) -> str:
    """The phase of a training step that spans inside each other belong to."""
    if any(span.kind == "annotation" and span.name.startswith("Optimizer.") for span in outer):
        return "optimizer"
    is_gradient = any(
        span.kind == "operator" and (_BACKWARD.match(span.name) or is_backward(span.name)) for span in outer
    )
    return "backward" if is_gradient else "forward"


def modules_of(outer: Sequence[Span]) -> str:
    """The names of the modules around a span, from the outermost on."""
    return ".".join(span.name.removeprefix(MODULE) for span in reversed(outer) if span.kind == "module")


def _forwards(timeline: Timeline) -> dict[tuple[str, int], Span]:
    """The last operator of each forward, by process and sequence number: its backward carries the same number."""
    found: dict[tuple[str, int], Span] = {}
    for spans in timeline.threads.values():
        for span in spans:
            has_number = span.sequence is not None and span.sequence >= 0
            if has_number and not _BACKWARD.match(span.name) and phase_of(list(outwards(span))) == "forward":
                found[span.thread[0], span.sequence or 0] = span
    return found


# ---- steps


def steps_of(timeline: Timeline) -> list[tuple[float, float, str]]:
    """The steps of all processes in the order of time: start, end and name."""
    return sorted(step for steps in _steps(timeline).values() for step in steps)


def _steps(timeline: Timeline) -> dict[str, list[tuple[float, float, str]]]:
    """The steps of each process, in the order of time: start, end and a name that no other step has."""
    found: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for (process, _), spans in timeline.threads.items():
        for span in spans:
            if span.kind == "annotation" and STEP.fullmatch(span.name):
                found[process].append((span.start, span.end, span.name))
    taken: set[str] = set()
    for process, steps in found.items():
        steps.sort()
        for place, (start, end, name) in enumerate(steps):
            name = f"{name} of {process}" if len(found) > 1 else name
            steps[place] = (start, end, f"{name} at {start:.0f}" if name in taken else name)
            taken.add(steps[place][2])
    return found


def _step(work: Work, steps: dict[str, list[tuple[float, float, str]]]) -> str | None:
    """The step in which a work was launched."""
    if not steps:
        return None
    processes = [work.at.thread[0]] if work.at is not None and work.at.thread[0] in steps else list(steps)
    moment = work.at.start if work.at is not None else work.start
    for process in processes:
        place = bisect.bisect_right(steps[process], moment, key=lambda step: step[0]) - 1
        if place >= 0 and moment <= steps[process][place][1]:
            return steps[process][place][2]
    return None


# ---- idle


def busy_of(works: Iterable[Work]) -> tuple[float, float]:
    """The time from first kernel to last, summed over devices, and the part of it in which any kernel ran."""
    by_lane: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for work in works:
        by_lane[work.lane].append((work.start, work.start + work.took))
    whole = busy = 0.0
    for stretches in by_lane.values():
        stretches.sort()
        reached = stretches[0][0]
        for start, end in stretches:
            busy += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        whole += reached - stretches[0][0]
    return whole, busy
