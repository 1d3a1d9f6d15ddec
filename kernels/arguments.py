"""The treatment of our operators' arguments before a kernel sees them: cast, check, lay out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
MOST_KEPT = 10_000  # answers; beyond it all are forgotten, so that ever new sizes do not fill the memory


def asked_once(answer: Callable[[Any], T]) -> Callable[[Any], T]:
    """Ask once for calls that differ in nothing but their tensors' values, and keep what came of it: a decorator.

    What is checked, chosen and counted for each call anew takes a CPU longer than a small kernel takes a GPU. What
    raises is not kept, nor is None.
    """
    kept: dict[Any, T] = {}

    @wraps(answer)
    def ask(call: Any) -> T:
        key = tuple((x.shape, x.stride(), x.dtype, x.device) if isinstance(x, Tensor) else x for x in call)
        if (known := kept.get(key)) is not None:
            return known
        if len(kept) >= MOST_KEPT:
            kept.clear()
        return kept.setdefault(key, answer(call))

    return ask


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast tensors to the dtype of an autocast region, as for a product; outside of one they stay as they are."""
    kind = tensors[0].device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)


def check_shapes(call: Any, shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Refuse tensors of a call that have another shape than they must, or are not where the first one is.

    Args:
        shapes: by argument; one that is None has none.
        what: they fit, to stand behind "as for".

    Raises:
        ValueError: one line that says what does not fit.
    """
    for name, shape in shapes.items():
        tensor = getattr(call, name)
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, not {shape} as for {what}")
        if tensor.device != call[0].device:
            raise ValueError(f"{name} is on {tensor.device}, and {call._fields[0]} on {call[0].device}")


def check_offsets(maps: Sequence[Tensor]) -> None:
    """Refuse (B, N, C) tensors of which an image has more elements than a kernel counts.

    Raises:
        ValueError: one has.
    """
    if max(x.stride(1) * x.shape[1] for x in maps) >= 2**31:
        raise ValueError("one image has more elements than the kernel's 32-bit offsets reach")


def check_attended(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse queries, keys and values of several dtypes, or too large.

    Raises:
        ValueError: one line that says what does not fit.
    """
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}, and must be of one dtype")
    check_offsets((q, k, v))


def laid_out(call: Any, maps: int, tensors: int) -> Any:
    """A call whose maps have contiguous channels, and whose parameters are contiguous: as a rule they are.

    Args:
        maps: number of the first arguments, which are (B, N, C).
        tensors: number of those, and of the parameters behind them.
    """
    first = map(_rows, call[:maps])
    parameters = [None if x is None else x.contiguous() for x in call[maps:tensors]]
    return call._make([*first, *parameters, *call[tensors:]])


def readable(maps: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """Maps, and the gradient of a result, as a backward's kernels read them: of one dtype, with contiguous channels."""
    *maps, grad = map(_rows, (*maps, grad.to(maps[0].dtype)))
    if grad.stride(1) * grad.shape[1] >= 2**31:
        grad = grad.contiguous()
    return *maps, grad


def _rows(x: Tensor) -> Tensor:
    """A (B, N, C) tensor with contiguous channels."""
    return x if x.stride(-1) == 1 else x.contiguous()


def zeros(tensors: Iterable[Tensor | None]) -> tuple[Tensor | None, ...]:
    """The gradients of a batch without images; None where there is no tensor."""
    return tuple(None if x is None else x.new_zeros(x.shape) for x in tensors)


def without_none(gradients: Iterable[Tensor | None], grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients as an operator returns them, which returns no None: nothing, in the dtype of `grad`, for each."""
    return tuple(grad.new_empty(0) if one is None else one for one in gradients)


def with_none(found: Iterable[Tensor], tensors: Iterable[Tensor | None]) -> tuple[Tensor | None, ...]:
    """The gradients that an operator found, None where there is no tensor."""
    return tuple(None if x is None else one for x, one in zip(tensors, found, strict=True))


def room_for_gradients(tensors: Iterable[Tensor | None], grad: Tensor) -> tuple[Tensor, ...]:
    """The gradients that an operator is to return, without values: contiguous, as kernels write them."""
    made = (None if x is None else torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in tensors)
    return without_none(made, grad)
