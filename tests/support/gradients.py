"""Gradients that a fused backward is given and finds: drawn at random, and held against autograd of a reference."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.support.emsa_upsample import double, off, rms
from tests.support.poison import poisoned

Gradients = tuple[Tensor | None, ...]
FEW = 32  # entries of a gradient


def random_gradient(chosen: random.Random, result: Tensor, scale: float) -> Tensor:
    """The gradient of a result, laid out as what autograd hands on may be: with gaps, transposed, or expanded."""
    values = torch.Generator().manual_seed(chosen.randrange(2**31))
    grad = (torch.randn(result.shape, generator=values) * scale).to(result.dtype)
    layout = chosen.choice(("contiguous", "poisoned", "transposed", "expanded"))
    if layout == "poisoned":
        return poisoned(grad)
    if layout == "transposed":
        return grad.transpose(1, 2).contiguous().transpose(1, 2)
    return grad[..., :1].expand(grad.shape) if layout == "expanded" else grad


def autograd(
    run: Callable[..., Tensor], tensors: Sequence[Any], geometry: dict[str, Any], grad: Tensor
) -> Gradients:
    """Gradients of the tensors by autograd of `run`; None where there is no tensor."""
    live = [None if x is None else x.detach().clone().requires_grad_() for x in tensors]
    found = iter(torch.autograd.grad(run(*live, **geometry), [x for x in live if x is not None], grad))
    return tuple(None if x is None else next(found) for x in live)


def check(
    found: Gradients,
    run: Callable[..., Tensor],
    tensors: Sequence[Any],
    geometry: dict[str, Any],
    grad: Tensor,
) -> None:
    """Hold each gradient to twice the largest error of eager's in the same dtype, and to 1.25 times its RMS one.

    Both are errors against float64. Of few entries either is a matter of luck, and twice as much is allowed; an entry
    may always be off by a unit in the last place of the largest, where eager was lucky in its last rounding, or
    overflows. Of a batch without images gradients are zero.

    Args:
        run: the reference, of which autograd is eager.
    """
    assert [x if x is None else (x.shape, x.dtype) for x in found] == [
        x if x is None else (x.shape, x.dtype) for x in tensors
    ]
    if not grad.numel():  # autograd of the reference fails: PixelShuffle's gradient has another shape
        assert not any(x.any() for x in found if x is not None)
        return
    truth = autograd(run, double(tensors), geometry, grad.double())
    eager = autograd(run, tensors, geometry, grad)
    for place, (one, other, true) in enumerate(zip(found, eager, truth, strict=True)):
        if one is None or other is None or true is None:
            continue
        assert one.isfinite().all(), place
        largest = true.abs().max().item()
        small = 1e-5 * largest + 1e-7  # 2⁻²⁴ is the least of fp16
        last_place = torch.finfo(one.dtype).eps * largest
        if not other.isfinite().all():
            assert off(one, true) <= last_place + small, place
            continue
        # one key of 16 channels: an entry is rounded before patches are added up, and after, and eager was lucky in it
        luck = 2 if true.numel() < FEW else 1
        assert off(one, true) <= max(2 * luck * off(other, true), last_place) + small, place
        assert rms(one, true) <= 1.25 * luck * rms(other, true) + small, place
