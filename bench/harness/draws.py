"""Initial weights of new models: drawn quickly where the model runs, and not at all where nobody reads them.

PyTorch draws on one thread, most weights twice, and takes longer over a model than an iteration of it does.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

# What fills a weight with random numbers; constants stay, because a constructor may read them
RANDOM_INIT = [
    *("uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_"),
    *("kaiming_normal_", "orthogonal_", "sparse_"),
]
POOL = 1_048_583  # random numbers: a prime of them, so that no two rows of a matrix get the same


@contextmanager
def quick(seed: int) -> Iterator[None]:
    """Fills new weights from a pool of random numbers, each where the last one ended, and from the start again.

    Every weight is spread as its model asks for, and is the same in every process. What a pool does not fit, such as
    another dtype, is drawn as ever.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform, normal = torch.rand(POOL, generator=generator), torch.randn(POOL, generator=generator)
    draw_uniform, draw_normal, place = Tensor.uniform_, Tensor.normal_, 0

    def fill(tensor: Tensor, pool: Tensor, scale: float, shift: float) -> Tensor:
        nonlocal place
        rest = tensor.detach().view(-1)
        while len(rest):
            part = pool[place : place + len(rest)]
            rest[: len(part)] = part
            rest, place = rest[len(part) :], (place + len(part)) % POOL
        return tensor.mul_(scale).add_(shift)

    def uniform_(tensor: Tensor, low: float = 0.0, to: float = 1.0, *, generator: object = None) -> Tensor:
        if generator is not None or not _fits(tensor):
            return draw_uniform(tensor, low, to, generator=generator)
        return fill(tensor, uniform, to - low, low)

    def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: object = None) -> Tensor:
        if generator is not None or not _fits(tensor):
            return draw_normal(tensor, mean, std, generator=generator)
        return fill(tensor, normal, std, mean)

    with patch.object(Tensor, "uniform_", uniform_), patch.object(Tensor, "normal_", normal_):
        yield


def _fits(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous()


@contextmanager
def none() -> Iterator[None]:
    """Leaves new weights as they are allocated: for a count, and for a model that gets another's weights."""
    with contextlib.ExitStack() as patches:
        for name in RANDOM_INIT:
            patches.enter_context(patch.object(nn.init, name, _as_it_is))
        if of_timm := sys.modules.get("timm.layers.weight_init"):  # its own, which all of its others end in
            patches.enter_context(patch.object(of_timm, "_trunc_normal_", _as_it_is))
        for name in ("uniform_", "normal_"):
            patches.enter_context(patch.object(Tensor, name, _unless_meta(getattr(Tensor, name))))
        yield


def _as_it_is(tensor: Tensor, *_: object, **__: object) -> Tensor:
    return tensor


def _unless_meta(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda tensor, *given, **named: tensor if tensor.is_meta else draw(tensor, *given, **named)
