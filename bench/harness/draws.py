"""Initial weights of new models: drawn quickly where the model runs, and not at all where nobody reads them.

PyTorch draws on one thread, most weights twice, and takes longer over a model than an iteration of it does.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

# What fills a weight with random numbers; constants stay, because a constructor may read them
RANDOM_INIT = [
    *("uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_"),
    *("kaiming_normal_", "orthogonal_", "sparse_"),
]
TIMMS = "_trunc_normal_"  # timm's own, which all of its others end in
POOL = 1_048_583  # random numbers: a prime of them, so that no two rows of a matrix get the same


@contextmanager
def quick(seed: int, *, of_timm: bool = False) -> Iterator[None]:
    """Fills new weights from a pool of random numbers, each where the last one ended, and from the start again.

    Every weight is spread as its model asks for, and is the same in every process. What a pool does not fit, such as
    another dtype, is drawn as ever.

    Args:
        of_timm: the weights are of a model of timm's, which has initial weights of its own: it is imported.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform, normal = torch.rand(POOL, generator=generator), torch.randn(POOL, generator=generator)
    draw_uniform, draw_normal, place = Tensor.uniform_, Tensor.normal_, 0
    furthest = normal.abs().max().item()

    def fill(tensor: Tensor, pool: Tensor, scale: float, shift: float) -> Tensor:
        nonlocal place
        rest = tensor.detach().view(-1)
        while len(rest):
            part = pool[place : place + len(rest)]
            torch.mul(part, scale, out=rest[: len(part)])
            rest, place = rest[len(part) :], (place + len(part)) % POOL
        return tensor.add_(shift) if shift else tensor

    def uniform_(tensor: Tensor, low: float = 0.0, to: float = 1.0, *, generator: object = None) -> Tensor:
        if generator is not None or not _fits(tensor):
            return draw_uniform(tensor, low, to, generator=generator)
        return fill(tensor, uniform, to - low, low)

    def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: object = None) -> Tensor:
        if generator is not None or not _fits(tensor):
            return draw_normal(tensor, mean, std, generator=generator)
        return fill(tensor, normal, std, mean)

    def unless_cut(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A truncated normal without the inverse of its distribution where no number of the pool is cut off."""

        def trunc_normal_(
            tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, **more: Any
        ) -> Tensor:
            if more or min(mean - a, b - mean) < furthest * std or not _fits(tensor):
                return draw(tensor, mean, std, a, b, **more)
            with torch.no_grad():
                return tensor.normal_(mean, std)

        return trunc_normal_

    with contextlib.ExitStack() as patches:
        for owner, name, instead in (
            (Tensor, "uniform_", uniform_),
            (Tensor, "normal_", normal_),
            *((owner, name, unless_cut(getattr(owner, name))) for owner, name in _truncated(of_timm)),
        ):
            patches.enter_context(patch.object(owner, name, instead))
        yield


def _truncated(of_timm: bool) -> list[tuple[Any, str]]:
    """Where the functions that draw truncated normals are."""
    if of_timm:
        importlib.import_module("models.peers")  # which imports timm as it is to be
    of_timms = sys.modules.get("timm.layers.weight_init")
    return [(nn.init, "trunc_normal_"), *([(of_timms, TIMMS)] if of_timms else [])]


def _fits(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous()


@contextmanager
def none() -> Iterator[None]:
    """Leaves new weights as they are allocated: for a count, and for a model that gets another's weights."""
    with contextlib.ExitStack() as patches:
        for name in RANDOM_INIT:
            patches.enter_context(patch.object(nn.init, name, _as_it_is))
        if of_timm := sys.modules.get("timm.layers.weight_init"):
            patches.enter_context(patch.object(of_timm, TIMMS, _as_it_is))
        for name in ("uniform_", "normal_"):
            patches.enter_context(patch.object(Tensor, name, _unless_meta(getattr(Tensor, name))))
        yield


def _as_it_is(tensor: Tensor, *_: object, **__: object) -> Tensor:
    return tensor


def _unless_meta(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda tensor, *given, **named: tensor if tensor.is_meta else draw(tensor, *given, **named)
