"""Bytes and launches of a call, from its schema and its tensors: there is no table of operators, but of exceptions.

An operator is taken as the model calls it. It reads each tensor that it is given and writes each that it makes, once;
one that is given twice is read twice. What a cache saves, and what a kernel reads twice, is not in it, nor the copy
that a matrix product makes of an operand that is not contiguous, nor one that only a batch needs, for one image is
counted. What makes no tensor of its own, and
works on none in place, is a view: it moves nothing. All else is one launch, a softmax or a layer norm as much as an
addition, whatever kernels a device runs for it.

Classes are those of profiles (`bench/trace/operators.py`), so that a count can be laid beside a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.multiprocessing.reductions import StorageWeakRef

from bench.trace.operators import class_of, plain
from bench.traffic import Traffic


@dataclass
class Captured:
    """A graph that torch.compile captured, and how often the model ran it."""

    graph: fx.GraphModule
    given: list[Any]  # its inputs, on meta
    weights: set[int]  # the places among those of what does not depend on the image
    runs: int = 0


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# They make a tensor and leave in it whatever is there
ALLOCATES = _names(
    "empty empty_like empty_permuted empty_strided new_empty new_empty_strided resize resize_as set"
)
# Of their first argument, a table, they read the rows that are asked for
GATHERS = _names("index _unsafe_index index_select gather embedding take masked_select")
# In place they write what they are told, and read nothing of what was there
OVERWRITES = _names("copy fill zero normal uniform random bernoulli exponential geometric cauchy")
# In place they change as much of a tensor as there is to put into it
PUTS = _names(
    "index_put _index_put_impl _unsafe_index_put index_copy index_add index_reduce scatter scatter_add scatter_reduce "
    "put masked_scatter"
)


@cache
def class_of_call(operator: Any) -> str:
    """The class of an operator of `torch.ops`: "other" for one in no table that is not element by element."""
    name = operator._schema.name
    if name == "aten::scaled_dot_product_attention":  # in a profile it is around what does the work
        return "attention"
    if kind := class_of(name):
        return "copy" if kind == "view" else kind  # a view that had to be copied: a true one moves nothing
    if name.endswith("_copy"):
        return "copy"
    return "element-wise" if torch.Tag.pointwise in operator.tags else "other"


@cache
def is_always_view(operator: Any) -> bool:
    """Whether an operator gives a view of its input whatever that is; `reshape` and its like may have to copy."""
    is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(
        operator.name(), "CompositeImplicitAutograd"
    )
    return bool(operator.is_view) and not is_composite


class Images:
    """The tensors that depend on the image, told by their storage: a view of one is of the image with it."""

    def __init__(self) -> None:
        self._storages: set[Any] = set()

    def add(self, found: Iterable[Tensor]) -> None:
        """Take tensors in."""
        self._storages.update(map(storage_of, found))

    def __contains__(self, tensor: Tensor) -> bool:
        return storage_of(tensor) in self._storages


def storage_of(tensor: Tensor) -> Any:
    """The storage that all views of a tensor share. The reference keeps its address from being another's later."""
    return StorageWeakRef(tensor.untyped_storage()) if tensor.layout is torch.strided else tensor


def shares_memory(some: Any, others: Any) -> bool:
    """Whether any of these tensors is a view of one of those, or the same."""
    return not {storage_of(tensor) for tensor in tensors(some)}.isdisjoint(map(storage_of, tensors(others)))


def tensors(value: Any) -> list[Tensor]:
    """Every tensor of an argument or a result, those in lists too."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for each in value for tensor in tensors(each)] if isinstance(value, list | tuple) else []


def distinct(tensor: Tensor) -> int:
    """Elements of a tensor; one that stands at several places, because it is expanded or overlaps, counts once."""
    if tensor.layout is not torch.strided or 0 in tensor.shape:
        return tensor.numel()
    steps = [(size, step) for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step]
    return min(prod(size for size, _ in steps), 1 + sum((size - 1) * step for size, step in steps))


def moved(operator: Any, call: dict[str, Any], out: Any, images: Images) -> Traffic | None:
    """The traffic of a call; None for a view. What it makes of an image is taken into `images`.

    Args:
        call: its arguments by name.
        out: its result.
    """
    changes = {
        each.name for each in operator._schema.arguments if each.alias_info and each.alias_info.is_write
    }
    changed = [tensor for name in changes for tensor in tensors(call.get(name))]
    read = [tensor for name, value in call.items() if name not in changes for tensor in tensors(value)]
    had = {storage_of(tensor) for tensor in read + changed}
    made = [tensor for tensor in tensors(out) if storage_of(tensor) not in had]
    of_image = any(tensor in images for tensor in read + changed)
    if of_image:
        images.add(made + changed)
    name = plain(operator._schema.name)
    # a dropout that drops nothing is its own input as it runs, and a copy only as PyTorch takes it apart
    drops_nothing = name.endswith("dropout") and call.get("train") is False
    if name in ALLOCATES or drops_nothing or not made + changed:
        return None
    sums: dict[str, int] = defaultdict(int)

    def add(way: str, tensor: Tensor, elements: int, is_each: bool) -> None:
        if tensor.is_floating_point() or tensor.is_complex():
            sums[way if is_each else "once"] += elements * (2 if tensor.is_complex() else 1)
        else:
            sums["other_bytes" if is_each else "other_bytes_once"] += elements * tensor.element_size()

    rows = sum(map(distinct, made)) if name in GATHERS else None
    for place, tensor in enumerate(read):
        if rows is not None and place == 0:  # which rows, is each image's to say
            add("read", tensor, min(rows, distinct(tensor)), of_image)
        else:
            add("read", tensor, distinct(tensor), tensor in images)
    for tensor in made:
        add("written", tensor, distinct(tensor), of_image)
    most = max(map(distinct, read), default=0)
    for tensor in changed:
        elements = min(most, distinct(tensor)) if name in PUTS else distinct(tensor)
        add("written", tensor, elements, of_image)
        if name not in OVERWRITES:
            add("read", tensor, elements, of_image)
    return Traffic(launches=1, **sums)
