"""Counting what a model calls: each call that PyTorch dispatches, or each node of a captured graph, by its module.

`macs.py` beside this file says what is counted, and of which model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import models
from bench.conventions import BY_CALL, CONVENTIONS, NO_FORMULA
from bench.harness.moved import Captured, Images, class_of_call, is_always_view, moved, shares_memory, tensors
from bench.harness.operators import HANDLES, SEVERAL, Count, known_as
from bench.traffic import Traffic


@dataclass(eq=False)  # hashable by what it is
class Counts:
    """The parameters of a case, and the MACs, bytes and launches of one image."""

    parameters: int
    parameters_by_module: dict[str, int] = field(default_factory=dict)  # by the innermost; a shared one once
    calls: list[tuple[str, Count]] = field(default_factory=list)  # dotted module path, cost
    traffic: dict[tuple[str, str], Traffic] = field(default_factory=dict)  # by module, and class of operator
    traffic_of: str = "eager"  # whose: operators as the model calls them, or kernels as Inductor plans them
    graphs: list[Captured] = field(default_factory=list)  # for Inductor to plan
    uncounted: dict[str, int] = field(default_factory=dict)  # operators in no table, and how often
    closed_form: int | None = None  # the authors' own formula for the model, where their paper prints that
    cross_checks: list[dict[str, Any]] = field(default_factory=list)
    least_traffic: tuple[int, int] | None = (
        None  # elements that a core or an MLP moves for an image, once for a batch
    )
    notes: list[str] = field(default_factory=list)  # what a reader must know of how it was counted

    def macs(self, convention: str) -> int:
        """MACs of one image as the convention counts them.

        Raises:
            ValueError: the convention is a formula that the model has none of.
        """
        if not CONVENTIONS[convention].by_call:
            if self.closed_form is None:
                raise ValueError(NO_FORMULA.format(convention=convention))
            return self.closed_form
        return sum(count.under(convention) for _, count in self.calls)

    def by_operator(self, convention: str) -> dict[str, int]:
        """MACs of one image by kind of operator; none under a convention that is a formula."""
        return self._by(convention, lambda module, count: count.operator)

    def by_module(self, convention: str) -> dict[str, int]:
        """MACs of one image by the innermost module that made the call; "" is the model itself."""
        return self._by(convention, lambda module, count: module)

    def _by(self, convention: str, key: Callable[[str, Count], str]) -> dict[str, int]:
        sums: dict[str, int] = defaultdict(int)
        if not CONVENTIONS[convention].by_call:  # a formula says nothing of calls
            return sums
        for module, count in self.calls:
            sums[key(module, count)] += count.under(convention)
        return {name: macs for name, macs in sums.items() if macs}

    def traffic_by(self, place: int) -> dict[str, Traffic]:
        """Sums of what is moved and launched, by module (0) or by class of operator (1)."""
        sums: dict[str, Traffic] = {}
        for where, part in self.traffic.items():
            sums[where[place]] = sums.get(where[place], Traffic()).plus(part)
        return sums

    def as_dict(self) -> dict[str, Any]:
        """The `result` of a `macs` row."""
        conventions = {
            name: {"macs": self.macs(name), "by_operator": self.by_operator(name)} for name in BY_CALL
        }
        if self.closed_form is not None:
            conventions["closed-form"] = {"macs": self.closed_form, "by_operator": {}}
        return {
            "parameters": self.parameters,
            "conventions": conventions,
            "uncounted": self.uncounted,
            "traffic": self._traffic_as_dict() if self.traffic else None,
            "least_traffic": self.least_traffic,
            "cross_checks": self.cross_checks,
        }

    def _traffic_as_dict(self) -> dict[str, Any]:
        return {"of": self.traffic_of, "by_operator": as_dicts(self.traffic_by(1))}


def as_dicts(parts: dict[str, Traffic]) -> dict[str, dict[str, int]]:
    """Traffic by name, as a row has it."""
    return {name: part._asdict() for name, part in parts.items()}


@dataclass(frozen=True)
class _Cost:
    """The cost of one call, in MACs, bytes and FLOPs."""

    counts: list[Count]
    moved: Traffic | None = None
    uncounted: str | None = None  # its name, where it is in no table
    flops: int = 0  # by PyTorch's own counter


@dataclass(frozen=True)
class _Known:
    """A call that came before with tensors of the same form: its cost, and the form of what it made."""

    cost: _Cost
    is_listed: bool
    made: list[tuple[tuple[int, ...], tuple[int, ...], torch.dtype]]


class Seen:
    """Calls on meta tensors that were counted before, with their costs; models share it if nobody changes operators."""

    MOST = 20_000  # calls that are kept: of a mix of a thousand sizes each has its own

    def __init__(self) -> None:
        self.calls: dict[Any, _Known] = {}
        self.aliasing: set[Any] = set()  # operators that gave a view or themselves: each call is made

    def keep(self, key: Any, known: _Known) -> None:
        """Keep a call; where there are too many, it is the first of new ones."""
        if len(self.calls) >= self.MOST:
            self.calls.clear()
        self.calls[key] = known


class Counter(TorchDispatchMode):
    """Counts every call that PyTorch dispatches while it is entered, under the module named by `where`.

    On meta tensors a call that came before costs what it cost then, and makes a tensor of the same form: models are
    made of blocks that repeat, and most of the time of counting is PyTorch's, finding out shapes.

    Args:
        check: PyTorch's own counter beside this one, or none.
        seen: calls that counters with a `check` met before, and which this one is to keep its own with.
    """

    def __init__(self, counts: Counts, check: FlopCounter | None = None, seen: Seen | None = None) -> None:
        super().__init__()
        self.counts, self.check, self.where = counts, check, ""
        self.images = Images()
        self._seen = seen or Seen()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_always_view(func):  # which costs nothing, and is of the image where that is which it shows
            return func(*args, **kwargs)
        key = None if func in self._seen.aliasing else self._form((func, args, kwargs))
        if known := self._seen.calls.get(key) if key else None:
            self._add(func, known.cost)
            if self.check:
                self.check.total += known.cost.flops
            made = [
                torch.empty_strided(size, step, dtype=kind, device="meta") for size, step, kind in known.made
            ]
            if any(tensor in self.images for tensor in tensors([args, list(kwargs.values())])):
                self.images.add(made)
            return made if known.is_listed else made[0]
        failures = self.check.failures if self.check else 0
        cost, out = self._cost(func, args, kwargs)
        if cost is None:  # its parts were counted
            return out
        self._add(func, cost)
        # of a formula that failed, the next model is to hear too
        if key and not (self.check and self.check.failures > failures):
            self._remember(key, func, args, kwargs, cost, out)
        return out

    def _cost(self, func: Any, args: Any, kwargs: Any) -> tuple[_Cost | None, Any]:
        """Make a call: its cost, None where it was taken apart, and its result."""
        name, before = known_as(func), self.check.total if self.check else 0
        # A call is taken apart here, and not by PyTorch later, so that a mode below sees the parts (on torch 2.5
        # it would see none), and so do we where the whole is in no table: einsum is made of products.
        below = self.check or nullcontext()
        with self if name is None else below:
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            if name is None:
                return None, out
        else:
            with below:
                out = func(*args, **kwargs)
        names = [argument.name for argument in func._schema.arguments]
        call = dict.fromkeys(names) | dict(zip(names, args, strict=False)) | kwargs
        counts: list[Count] = []
        if name in SEVERAL:
            counts = SEVERAL[name](call, out)
        elif name in HANDLES:
            counts = [HANDLES[name](call, out)]
        part = moved(func, call, out, self.images)
        if part:
            part = part._replace(macs=sum(count.core for count in counts))
        uncounted = func._schema.name.removeprefix("aten::") if name is None else None
        return _Cost(counts, part, uncounted, self.check.total - before if self.check else 0), out

    def _add(self, func: Any, cost: _Cost) -> None:
        self.counts.calls += [(self.where, count) for count in cost.counts]
        if cost.moved:
            where = self.where, class_of_call(func)
            self.counts.traffic[where] = self.counts.traffic.get(where, Traffic()).plus(cost.moved)
        if cost.uncounted:
            self.counts.uncounted[cost.uncounted] = self.counts.uncounted.get(cost.uncounted, 0) + 1

    def _remember(self, key: Any, func: Any, args: Any, kwargs: Any, cost: _Cost, out: Any) -> None:
        """Keep what a call came to, unless it gave views or something else than new tensors."""
        made = list(out) if isinstance(out, list | tuple) else [out]
        plain = all(type(each) is Tensor and each.is_meta for each in made)
        if not plain or shares_memory(made, [args, list(kwargs.values())]):
            self._seen.aliasing.add(func)
            return
        forms = [(tuple(each.shape), each.stride(), each.dtype) for each in made]
        self._seen.keep(key, _Known(cost, isinstance(out, list | tuple), forms))

    def _form(self, value: Any) -> Any:
        """All that a call's cost and result depend on, to be looked up; None where it cannot be told so."""
        kind = type(value)
        if kind is Tensor or kind is nn.Parameter:
            if not value.is_meta or value.layout is not torch.strided or value.is_complex():
                return None
            return value.shape, value.stride(), value.dtype, value in self.images
        if kind in (tuple, list):
            parts = tuple(map(self._form, value))
            return None if None in parts else parts
        if kind is dict:
            return self._form([each for pair in sorted(value.items()) for each in pair])
        return None if isinstance(value, Tensor) else (kind, value)


class _Everywhere:
    """PyTorch's counter without its tracking of modules, which hooks gradients of whatever modules are called with."""

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class FlopCounter(FlopCounterMode):
    """PyTorch's own counter, which cannot fail a count, and goes on counting where it is entered again."""

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker = _Everywhere()
        self.total, self.failures, self.failed = 0, 0, ""

    def __exit__(self, *args: Any) -> Any:
        self.total += self.get_total_flops()
        return super().__exit__(*args)

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        try:
            return super()._count_flops(func_packet, out, args, kwargs)
        except Exception as error:  # a formula of its own that does not take these shapes
            self.failures, self.failed = self.failures + 1, f"{func_packet}: {type(error).__name__}"
            return out

    def compared(self, counts: Counts) -> list[dict[str, Any]]:
        """The check for a row; none where the counter failed, which is noted."""
        if self.failed:
            counts.notes.append(f"torch FlopCounterMode fails, and is no check: {self.failed}")
            return []
        return [compared_with("torch FlopCounterMode", self.total // 2, counts)]


@contextmanager
def module_names(model: nn.Module, counter: Counter) -> Iterator[None]:
    """Keeps the counter's `where` at the dotted path of the module that is running."""
    stack: list[str] = []

    def enter(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            stack.append(counter.where)
            counter.where = path

        return hook

    def leave(*_: Any) -> None:
        counter.where = stack.pop() if stack else ""

    hooks = []
    for path, module in model.named_modules():
        if isinstance(
            module, torch.jit.ScriptModule
        ):  # which takes no hooks: its calls count as its parent's
            continue
        hooks += [
            module.register_forward_pre_hook(enter(path)),
            module.register_forward_hook(
                leave, always_call=True
            ),  # also where somebody catches what it raises
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def compiled(model: nn.Module, counter: Counter) -> nn.Module:
    """The model through torch.compile, with a backend that counts each captured graph node by node."""

    held = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}

    def backend(graph: fx.GraphModule, given: list[Any]) -> Callable[..., Any]:
        weights = {place for place, each in enumerate(given) if id(each) in held}
        captured = Captured(graph, given, weights)
        counter.counts.graphs.append(captured)

        def run(*inputs: Any) -> Any:
            captured.runs += 1
            with counter:
                return NodeByNode(graph, counter).run(*inputs)

        return run

    torch._dynamo.reset()
    return models.compiled(model, backend=backend)


class NodeByNode(fx.Interpreter):
    """Runs a captured graph, telling the counter which module each node came from."""

    def __init__(self, graph: fx.GraphModule, counter: Counter) -> None:
        super().__init__(graph)
        self.counter = counter

    def run_node(self, n: fx.Node) -> Any:
        stack = n.meta.get("nn_module_stack")
        self.counter.where = _dotted(list(stack.values())[-1][0]) if stack else ""
        return super().run_node(n)


def _dotted(path: str) -> str:
    """A module's path as torch.compile writes it, `L['self'].stage1[0].attn`, made `stage1.0.attn`."""
    path = (
        path.removeprefix("L['self']").replace("['", ".").replace("']", "").replace("[", ".").replace("]", "")
    )
    return path.replace("._modules.", ".").removeprefix(".")


def compared_with(counter: str, macs: int, counts: Counts, convention: str = "core") -> dict[str, Any]:
    """The cross-check of a count by another counter, as a row has it."""
    return {"counter": counter, "compared_with": convention, "macs": macs, "ours": counts.macs(convention)}
