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
FEW, ENOUGH = 32, 1000  # entries of a gradient; of 16, the ratio of two RMS errors is off by 25 % by chance
DRAWS = 60
NOTHING, SMALLEST = (
    1e-5,
    1e-7,
)  # a share of the largest entry, and an error, that are none: 2⁻²⁴ is the least of fp16


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
    find: Callable[[Sequence[Any], Tensor], Gradients],
    run: Callable[..., Tensor],
    tensors: Sequence[Any],
    geometry: dict[str, Any],
    grad: Tensor,
) -> Gradients:
    """Hold each gradient to twice the largest error of eager's in the same dtype, and to 1.25 times its RMS one.

    Both are errors against float64. Of less than `FEW` entries either is a matter of luck, and twice as much is
    allowed; but where the RMS needs that, the problem is drawn again with other values until there are `ENOUGH`,
    and 1.25 holds for the RMS of all. An entry may always be off by a unit in the last place of the largest, where
    eager was lucky in its last rounding, or overflows. Of a batch without images gradients are zero.

    Args:
        find: finds the gradients of tensors by that of the result.
        run: the reference, of which autograd is eager.

    Returns:
        What was found.
    """
    found = find(tensors, grad)
    assert [x if x is None else (x.shape, x.dtype) for x in found] == [
        x if x is None else (x.shape, x.dtype) for x in tensors
    ]
    if not grad.numel():  # autograd of the reference fails: PixelShuffle's gradient has another shape
        assert not any(x.any() for x in found if x is not None)
        return found
    missed = []
    for place, (one, other, true) in enumerate(_beside(found, run, tensors, geometry, grad)):
        if one is None or other is None or true is None:
            continue
        assert one.isfinite().all(), place
        largest = true.abs().max().item()
        small = _small(true)
        last_place = torch.finfo(one.dtype).eps * largest
        if not other.isfinite().all():
            assert off(one, true) <= last_place + small, place
            continue
        # one key of 16 channels: an entry is rounded before patches are added up, and after, and eager was lucky in it
        luck = 2 if true.numel() < FEW else 1
        assert off(one, true) <= max(2 * luck * off(other, true), last_place) + small, place
        assert rms(one, true) <= 1.25 * luck * rms(other, true) + small, place
        if rms(one, true) > 1.25 * rms(other, true) + small:
            missed.append(place)
    if missed:
        _check_more(missed, find, run, tensors, geometry, grad)
    return found


def _check_more(
    missed: Sequence[int],
    find: Callable[[Sequence[Any], Tensor], Gradients],
    run: Callable[..., Tensor],
    tensors: Sequence[Any],
    geometry: dict[str, Any],
    grad: Tensor,
) -> None:
    """Hold gradients of few entries to the bound by the RMS error of `ENOUGH`, or of `DRAWS` problems.

    They are the problem itself and others like it, in which errors count as shares of the largest entry.
    """
    values = torch.Generator().manual_seed(0)
    errors: dict[int, list[tuple[Tensor, Tensor]]] = {place: [] for place in missed}
    wanted = max(-(-ENOUGH // tensors[place].numel()) for place in missed)
    for draw in range(min(wanted, DRAWS)):
        drawn = [x if draw == 0 or x is None else _other_values(x, values) for x in (*tensors, grad)]
        beside = _beside(find(drawn[:-1], drawn[-1]), run, drawn[:-1], geometry, drawn[-1])
        for place in missed:
            one, other, true = beside[place]
            if one is not None and other is not None and true is not None and other.isfinite().all():
                largest = true.abs().max() + SMALLEST
                errors[place].append(((one.double() - true) / largest, (other.double() - true) / largest))
    for place, of_draws in errors.items():
        ours, eagers = (torch.stack(each).square().mean().sqrt() for each in zip(*of_draws, strict=True))
        assert ours <= 1.25 * eagers + NOTHING, place


def _other_values(x: Tensor, values: torch.Generator) -> Tensor:
    """The tensor times factors of 1/2 to 2: one for a token's channels, or else one for an entry.

    They are of either sign, but for biases and norms, which may be far from 0 and alike.
    """
    shape = (*x.shape[:-1], 1) if x.dim() == 3 else x.shape
    factor = torch.exp2(2 * torch.rand(shape, generator=values) - 1)
    if x.dim() > 1:
        factor *= torch.randint(2, shape, generator=values) * 2 - 1
    return (x * factor.to(x.device)).to(x.dtype)


def _beside(
    found: Gradients,
    run: Callable[..., Tensor],
    tensors: Sequence[Any],
    geometry: dict[str, Any],
    grad: Tensor,
) -> list[tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """Each gradient that was found, eager's, and that in float64."""
    eager = autograd(run, tensors, geometry, grad)
    truth = autograd(run, double(tensors), geometry, grad.double())
    return list(zip(found, eager, truth, strict=True))


def _small(true: Tensor) -> float:
    """An error that is none."""
    return NOTHING * true.abs().max().item() + SMALLEST
