"""Bytes and launches of a model as a fusing compiler would leave them, by a rule; and bench/counted.csv, made with it.

What Inductor itself plans (`plan.py`) is exact and takes up to a minute a model; for the thousand models of a table
that somebody published there is this rule. Convolutions, linear layers, products and attention run in a library and
move what they move in eager. All other calls between the same two of those, and that pass tensors to each other, are
one kernel: it reads each tensor from outside once, and writes those that somebody outside, or nobody at all, reads.

    python -m bench.harness.fused benchmark-infer-….csv… > bench/counted.csv

counts every model and size of those files of timm's, and the cases of the paper's tables that have a printed speed.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cases import Case, parse
from bench.counted import Counted
from bench.errors import UsageError
from bench.harness import inputs
from bench.harness.counter import Counter, Counts
from bench.harness.macs import built, without_compiler
from bench.harness.moved import GATHERS, class_of_call, distinct, storage_of, tensors
from bench.studies import STUDIES
from bench.trace.operators import COUNTED, plain
from bench.traffic import Traffic, total

PAPERS = ("table1", "table7")  # the studies whose speeds are printed or committed
SINGLE = (
    "layer_norm",
    "native_layer_norm",
    "group_norm",
    "native_group_norm",
    "instance_norm",
)  # under autocast


@dataclass
class _Tensor:
    """A storage as the rule knows it: its elements, who made it, and who reads it."""

    elements: int = 0
    other_bytes: int = 0  # where it holds no floating point
    of_image: bool = False
    depth: int = 0  # library calls on the longest way to it
    maker: _Kernel | None = None
    readers: list[_Kernel] = field(default_factory=list)


@dataclass(eq=False)
class _Kernel:
    """One kernel: a call of a library, or calls that were fused; `whole` finds the one that it was fused into."""

    traffic: Traffic | None = None  # of a library's call, as it is in eager
    into: _Kernel | None = None
    reads: list[tuple[_Tensor, int]] = field(default_factory=list)  # with the elements read
    writes: list[_Tensor] = field(default_factory=list)

    @property
    def whole(self) -> _Kernel:
        """The kernel that this one is a part of, or itself."""
        return self.into.whole if self.into else self


class Fusing(Counter):
    """Counts as its parent does, and remembers which call read and wrote which tensor."""

    def __init__(self, counts: Counts) -> None:
        super().__init__(counts)
        self._moved: Traffic | None = None
        self._tensors: dict[Any, _Tensor] = {}
        self._kernels: list[_Kernel] = []
        self.norms = 0  # elements that layer and group norms make

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._moved = None
        out = super().__torch_dispatch__(func, types, args, kwargs)
        moved, self._moved = self._moved, None
        if moved:
            self._take(func, tensors([*args, *(kwargs or {}).values()]), tensors(out), moved)
        return out

    def _add(self, func: Any, cost: Any) -> None:
        super()._add(func, cost)
        self._moved = cost.moved

    def _known_as(self, tensor: Tensor) -> _Tensor:
        return self._tensors.setdefault(storage_of(tensor), _Tensor(of_image=tensor in self.images))

    def _take(self, func: Any, read: list[Tensor], made: list[Tensor], moved: Traffic) -> None:
        in_library = class_of_call(func) in COUNTED
        if plain(func._schema.name) in SINGLE:
            self.norms += sum(map(distinct, made))
        kernel = _Kernel(moved if in_library else None)
        self._kernels.append(kernel)
        rows = sum(map(distinct, made)) if plain(func._schema.name) in GATHERS else None
        depth = max((self._known_as(tensor).depth for tensor in read), default=0)
        for place, tensor in enumerate(read):
            known = self._known_as(tensor)
            elements = distinct(tensor) if rows is None or place else min(rows, distinct(tensor))
            if not tensor.is_floating_point():
                known.other_bytes, elements = elements * tensor.element_size(), 0
            kernel.whole.reads.append((known, elements))
            known.readers.append(kernel)
            maker = known.maker.whole if known.maker else None
            if not in_library and maker and maker.traffic is None and known.depth == depth:
                _fuse(maker, kernel.whole)
        for tensor in made:
            known = _Tensor(distinct(tensor), of_image=tensor in self.images, maker=kernel)
            if not tensor.is_floating_point():
                known.other_bytes, known.elements = known.elements * tensor.element_size(), 0
            known.depth = depth + in_library
            self._tensors[storage_of(tensor)] = known
            kernel.whole.writes.append(known)

    def traffic(self) -> Traffic:
        """Traffic of all kernels, for one image."""
        whole = Traffic()
        for kernel in self._kernels:
            if kernel.traffic:
                whole = whole.plus(kernel.traffic)
            elif kernel.into is None:
                whole = whole.plus(_of_fused(kernel))
        return whole


def _fuse(kernel: _Kernel, into: _Kernel) -> None:
    if kernel is not into:
        kernel.into = into
        into.reads = kernel.reads + into.reads
        into.writes = kernel.writes + into.writes


def _of_fused(kernel: _Kernel) -> Traffic:
    sums = {"launches": 1, "read": 0, "written": 0, "once": 0, "other_bytes": 0, "other_bytes_once": 0}
    outside: dict[int, tuple[_Tensor, int]] = {}
    for tensor, elements in kernel.reads:
        if tensor.maker is None or tensor.maker.whole is not kernel:
            most = max(elements, outside.get(id(tensor), (tensor, 0))[1])
            outside[id(tensor)] = tensor, most
    for tensor, elements in outside.values():
        sums["read" if tensor.of_image else "once"] += elements
        sums["other_bytes" if tensor.of_image else "other_bytes_once"] += tensor.other_bytes
    for tensor in kernel.writes:
        if not tensor.readers or any(reader.whole is not kernel for reader in tensor.readers):
            sums["written" if tensor.of_image else "once"] += tensor.elements
            sums["other_bytes" if tensor.of_image else "other_bytes_once"] += tensor.other_bytes
    return Traffic(**sums)


def count(case: Case) -> tuple[Counts, Fusing]:
    """Count a case in eager, one image on shapes alone, with what its kernels would move if they were fused.

    Raises:
        Exception: whatever a model raises that cannot be built or run on shapes.
    """
    model = built(case)
    given = [
        one[None].to("meta") if isinstance(one, Tensor) else torch.empty(1, *one, device="meta")
        for one in inputs.examples(case, case.size)
    ]
    counts = Counts(sum(parameter.numel() for parameter in model.parameters()))
    counter = Fusing(counts)
    counter.images.add(given)
    with torch.inference_mode(), torch.device("meta"), without_compiler(), counter:
        model(*given)
    return counts, counter


# ---- the table


def line_of(case: Case) -> Counted:
    """The line of counted.csv for a case."""
    counts, fusing = count(case)
    eager = total(counts.traffic.values())
    moved = [
        number
        for part in (eager, fusing.traffic())
        for number in (part.launches, part.read + part.written, part.once)
    ]
    conv = counts.by_operator("core").get("conv", 0)
    return Counted(case.paper_name, _family(case), counts.macs("core"), conv, fusing.norms, *moved)


def _family(case: Case) -> str:
    if case.family != "other":
        return case.family
    from timm.models import _registry

    name = case.model.removeprefix("timm:").split(".")[0]
    return str(_registry._model_to_module[name])


def cases_of(paths: Sequence[Path]) -> Iterator[Case]:
    """The cases that the table is to hold: those of timm's files, attention in one kernel, and the paper's."""
    asked = set()
    for path in paths:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                size = line.get("infer_img_size") or line.get("img_size") or ""
                asked.add((line["model"], int(float(size))))
    for name, size in sorted(asked):
        try:
            yield parse(f"timm:{name}@{size}:auto")
        except UsageError as error:
            print(f"{name}@{size}: {error}", file=sys.stderr)
    papers = (case for name in PAPERS for case in STUDIES[name].parsed("cpu", False))
    yield from dict.fromkeys(case.without_run for case in papers)


def main(paths: Sequence[Path]) -> None:
    """Write the table to standard output, and what cannot be counted to standard error."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(Counted._fields)
    for case in cases_of(paths):
        try:
            writer.writerow(line_of(case))
        except Exception as error:  # a model of timm's that this version does not build, or not at that size
            print(f"{case}: {type(error).__name__}: {error}"[:200], file=sys.stderr)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
