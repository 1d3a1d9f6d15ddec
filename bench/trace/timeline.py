"""A trace as it was recorded: operators nested on their threads, and kernels with the operator that launched each.

A kernel's launch has its correlation id; the operator is the innermost that was open on the launching thread then.
Where the launch is not recorded, the flow that begins there, or the id of the operator that the kernel itself carries,
says the same. A trace without kernels is one of a CPU: the work is then the operators' own time.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.trace import file
from bench.trace.operators import Operator, Shape, class_of, is_backward, plain

KERNELS = ("kernel", "gpu_memcpy", "memcpy", "gpu_memset", "memset")
MODULE = "nn.Module: "  # begins the name of a module's span
LAUNCHES = ("runtime", "driver")  # end the categories of calls of CUDA, HIP and others
ANNOTATION = re.compile(r"ProfilerStep#|Optimizer\.|enumerate\(DataLoader\)")
STEP = re.compile(r"ProfilerStep#\d+")
GRAPH = re.compile(r"GraphLaunch", re.IGNORECASE)
Thread = tuple[str, str]

NO_LAUNCH = "their launch is not in the trace"
NO_OPERATOR = "launched outside of any operator"
GRAPHED = "launched by a CUDA graph, which keeps no operators"


@dataclass(slots=True, eq=False)
class Span:
    """A stretch of a CPU's thread: an operator, an annotation, a module, or the launch of a kernel. Times in µs."""

    kind: str  # operator | annotation | module | launch
    name: str
    start: float
    end: float
    thread: Thread
    id: int | None = None  # that of the operator, or the correlation of a launch
    sequence: int | None = None
    operator: Operator | None = None
    parent: Span | None = None
    own: float = 0.0  # its time less that of what ran inside it


@dataclass(slots=True, eq=False)
class Work:
    """Something that took time on the device, in µs: a kernel, a copy, a fill; on a CPU an operator's own time."""

    name: str
    start: float
    took: float
    device: str  # its number; "cpu" on a CPU
    lane: str  # the device apart from those of other processes in one file
    span: Span | None = None  # the innermost operator that it belongs to
    at: Span | None = None  # the launch, or the operator itself
    why: str | None = None  # it belongs to none


@dataclass
class Timeline:
    """A whole trace."""

    works: list[Work] = field(default_factory=list)
    threads: dict[Thread, list[Span]] = field(default_factory=dict)  # nested, in the order of their start
    devices: dict[str, str] = field(default_factory=dict)  # names of GPUs by their number
    is_cpu: bool = False
    dropped: int = 0  # events without a time, which cannot be used


def read(path: Path) -> Timeline:
    """The timeline of a trace file.

    Raises:
        UsageError: it cannot be read as a trace, or has neither kernels nor operators.
    """
    events = _Events()
    beside = file.read(path, events.take)
    timeline = events.timeline()
    properties = beside.get("deviceProperties")
    for device in properties if isinstance(properties, list) else []:
        if isinstance(device, dict) and isinstance(device.get("name"), str):
            timeline.devices[str(device.get("id"))] = device["name"]
    if (
        len(names := set(timeline.devices.values())) == 1
    ):  # ROCm numbers devices in one way here, in another there
        timeline.devices |= dict.fromkeys((work.device for work in timeline.works), *names)
    if not timeline.works:
        raise UsageError(f"{path} is no trace of torch.profiler: it has neither kernels nor operators")
    return timeline


class _Events:
    """The parts of the events that are kept while they are read."""

    def __init__(self) -> None:
        self.spans: dict[Thread, list[Span]] = defaultdict(list)
        self.kernels: list[tuple[Work, int | None, int | None]] = []  # with correlation and operator's id
        self.flows: dict[int, Span] = {}
        self.names: dict[str, str] = {}  # one text for each name, one tuple for each shape
        self.shapes: dict[Any, Any] = {}
        self.dropped = 0

    def take(self, event: file.Event) -> None:
        """Keep what is needed of an event."""
        phase, name, category = event.get("ph"), event.get("name"), event.get("cat")
        if phase not in ("X", "s") or not isinstance(name, str) or not isinstance(category, str):
            return
        category = category.lower()
        start, took = _number(event.get("ts")), _number(event.get("dur", 0))
        thread = (str(event.get("pid")), str(event.get("tid")))
        if phase == "s":
            if (
                category != "ac2g" and name != "launch"
            ):  # other arrows have the same numbers: from forward to backward
                return
            number = _whole(event.get("id"))
            if number is not None and start is not None:
                self.flows[number] = Span("launch", name, start, start, thread, number)
            return
        kind = _kind(category, name)
        if kind is None:
            return
        if start is None or took is None or took < 0:
            self.dropped += 1
            return
        arguments = event.get("args")
        arguments = arguments if isinstance(arguments, dict) else {}
        name = self.names.setdefault(name, name)
        correlation = _whole(arguments.get("correlation"))
        external = _whole(arguments.get("External id", arguments.get("external id")))
        if kind == "work":
            device = str(arguments.get("device", thread[0]))
            self.kernels.append(
                (Work(name, start, took, device, f"{thread[0]}/{device}"), correlation, external)
            )
            return
        span = Span(kind, name, start, start + took, thread, correlation if kind == "launch" else external)
        span.own = took
        if kind == "operator":
            span.sequence = _whole(arguments.get("Sequence number"))
            span.operator = Operator(
                name,
                self._shape(arguments.get("Input Dims")),
                self._texts(arguments.get("Input type")),
                self._texts(arguments.get("Concrete Inputs")),
                self._shape(arguments.get("Input Strides")),
            )
        self.spans[thread].append(span)

    def _shape(self, value: Any) -> Shape:
        shape = _frozen(value) if isinstance(value, list) else ()
        return self.shapes.setdefault(shape, shape)

    def _texts(self, value: Any) -> tuple[str, ...]:
        texts = tuple(map(str, value)) if isinstance(value, list) else ()
        return self.shapes.setdefault(texts, texts)

    def timeline(self) -> Timeline:
        """Everything that was kept, each kernel with its operator."""
        launched = {span.id for spans in self.spans.values() for span in spans if span.kind == "launch"}
        for number, span in self.flows.items():
            if number not in launched:
                self.spans[span.thread].append(span)
        found = Timeline(threads=dict(self.spans), dropped=self.dropped)
        launches: dict[int, list[Span]] = defaultdict(list)
        operators: dict[int, Span] = {}
        for spans in found.threads.values():
            _nest(spans)
            for span in spans:
                if span.kind == "launch" and span.id is not None:
                    launches[span.id].append(span)
                elif span.kind == "operator" and span.id is not None:
                    operators[span.id] = span
        candidates = [launches.get(correlation or -1, []) for _, correlation, _ in self.kernels]
        owners = _owners([work for work, _, _ in self.kernels], candidates)
        for (work, _, external), of_id in zip(self.kernels, candidates, strict=True):
            _attribute(work, of_id, operators.get(external or -1), owners.get(work.lane))
            found.works.append(work)
        if not found.works:
            found.is_cpu = True
            for spans in found.threads.values():
                works = [span for span in spans if span.kind == "operator" and span.own > 0]
                found.works += [
                    Work(span.name, span.start, span.own, "cpu", "cpu", span, span) for span in works
                ]
        _tell_outputs(found.threads.values())
        return found


def _kind(category: str, name: str) -> str | None:
    """The kind of an event: work, launch, operator and so on; None for one that is not needed."""
    if category in KERNELS:
        return "work"
    if category.endswith(LAUNCHES):
        return "launch"
    if name.startswith(MODULE):  # by the profiler's tracer of Python, or annotated by `profile CASE`
        return "module" if category in ("python_function", "user_annotation") else None
    if category == "user_annotation" or (category in ("cpu_op", "operator") and ANNOTATION.match(name)):
        return "annotation"
    return "operator" if category in ("cpu_op", "operator") else None


def _nest(spans: list[Span]) -> None:
    """Sort the spans of a thread by their start, find what each is inside of, and take its time from that."""
    spans.sort(key=lambda span: (span.start, -span.end, span.kind == "launch", span.id or 0))
    open_spans: list[Span] = []
    for span in spans:
        while open_spans and not _holds(open_spans[-1], span):
            open_spans.pop()
        if open_spans:
            span.parent = open_spans[-1]
        if span.kind == "launch":
            continue  # nothing runs inside
        open_spans.append(span)
        outer = next(_operators(span.parent), None)
        if span.kind == "operator" and outer is not None and outer.operator and span.operator:
            outer.own -= min(span.end, outer.end) - span.start
            span.operator.parent = outer.operator
            if class_of(span.name) == "conv":  # all that formulas ask what ran inside of
                outer.operator.inside |= {plain(span.name)}


def _holds(outer: Span, inner: Span) -> bool:
    return inner.start < outer.end or (inner.start == outer.end and inner.end == inner.start)


def _operators(span: Span | None) -> Iterator[Span]:
    """The operators that are open at a span, from the innermost on."""
    while span is not None:
        if span.kind == "operator":
            yield span
        span = span.parent


def _owners(works: list[Work], candidates: list[list[Span]]) -> dict[str, str]:
    """The process that launches the kernels of each lane, where the processes of a file use the same ids.

    It is the one whose launches come before the kernels the most often, and of several such the one that is nearest.
    """
    delays: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for work, launches in zip(works, candidates, strict=True):
        if len(launches) > 1:
            for span in launches:
                delays[work.lane][span.thread[0]].append(work.start - span.start)

    def fitness(of_process: list[float]) -> tuple[int, float]:
        return sum(delay >= 0 for delay in of_process), -sum(of_process)

    return {lane: max(found, key=lambda process: fitness(found[process])) for lane, found in delays.items()}


def _attribute(work: Work, launches: list[Span], carried: Span | None, owner: str | None) -> None:
    """Find the operator of a kernel.

    Args:
        carried: the operator whose id the kernel carries.
        owner: the process that launches on this device, where several use the same ids.
    """
    if len(launches) > 1:
        launches = [span for span in launches if span.thread[0] == owner] or launches
        launches = [span for span in launches if span.start <= work.start] or launches
    work.at = max(launches, key=lambda span: span.start, default=None)
    work.span = next(iter(_operators(work.at and work.at.parent)), None)
    if work.span is None and carried is not None:
        work.span, work.at = carried, work.at or carried
    if work.span is None:
        is_graph = work.at is not None and GRAPH.search(work.at.name)
        work.why = GRAPHED if is_graph else NO_OPERATOR if work.at else NO_LAUNCH


def _tell_outputs(threads: Iterable[list[Span]]) -> None:
    """Give each convolution the shape of its output where another operator shows it.

    Its backward does, where all of the same input and weight have one; else the next operator that takes a tensor,
    if that one takes one of such images and channels.
    """
    outputs: dict[tuple[Shape, Shape], set[Shape]] = defaultdict(set)
    forwards: list[tuple[list[Span], int, Operator]] = []
    for spans in threads:
        for place, span in enumerate(spans):
            operator = span.operator
            if operator is None or class_of(span.name) != "conv":
                continue
            shapes, name = operator.shapes, plain(operator.name)
            if not is_backward(operator.name):
                if len(shapes) > 1 and len(shapes[0]) == len(shapes[1]) >= 3:
                    forwards.append((spans, place, operator))
            elif name.endswith("convolution_backward") and len(shapes) > 2 and all(shapes[:3]):
                grad, data = (0, 1) if name == "convolution_backward" else (1, 0)
                outputs[shapes[data], shapes[2]].add(shapes[grad])
    for spans, place, operator in forwards:
        given, weight = operator.shapes[:2]
        known = outputs.get((given, weight), set())
        operator.output = next(iter(known)) if len(known) == 1 else _consumed(spans, place, given, weight)


def _consumed(spans: list[Span], place: int, given: Shape, weight: Shape) -> Shape | None:
    """The tensor that the next operator after a convolution takes, if it can be the convolution's output."""
    after = spans[place].end
    for span in spans[place + 1 : place + 40]:
        if span.start < after or span.operator is None or class_of(span.name) in (None, "view"):
            continue
        tensors = [shape for shape in span.operator.shapes if shape]
        if not tensors:
            continue
        fitting = [
            shape for shape in tensors if len(shape) == len(given) and shape[:2] == (given[0], weight[0])
        ]
        return fitting[0] if fitting else None
    return None


# ---- values of an event, whatever they are


def _number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return float(value)


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _frozen(value: Any, depth: int = 3) -> Any:
    """Sizes, lists of sizes and lists of those as tuples; 0 for what is no size."""
    if isinstance(value, list):
        return tuple(_frozen(inner, depth - 1) for inner in value) if depth else 0
    return value if type(value) is int and 0 <= value < 1 << 48 else 0
