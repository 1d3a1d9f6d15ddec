"""Problems for the fused feed-forward: tensors and a configuration, and poison where nothing may be read."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from kernels.mlp import op, tuning
from tests.support.poison import poisoned

DTYPES = (torch.float16, torch.bfloat16)
CAPABILITIES = (80, 86, 89, 90, 100, 120)
MOST = 16_000_000  # MACs of a layer that the interpreter does in a second or two


def configs(dtype: torch.dtype, channels: int) -> list[tuning.Config]:
    """All that may run on any GPU, and a smaller tile, so that a small problem has several of them."""
    offered = [
        config
        for capability in CAPABILITIES
        for config in tuning.candidates(op.DTYPES[dtype], capability, channels)
    ]
    return list(dict.fromkeys([*offered, tuning.Config(16, 32, 4), tuning.Config(16, 32, 4, gelu="erf")]))


def problem(
    leading: tuple[int, ...],
    channels: int = 64,
    hidden: int = 128,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> list[Tensor]:
    """Tokens and parameters of the size that a network has, in the order of the operator's arguments."""
    shapes = [(*leading, channels), (hidden, channels), (hidden,), (channels, hidden), (channels,)]
    scales = (1.0, channels**-0.5, 1.0, hidden**-0.5, 1.0)
    return [
        (torch.randn(shape, device=device) * scale).to(dtype)
        for shape, scale in zip(shapes, scales, strict=True)
    ]


def random_problem(seed: int) -> tuple[list[Tensor], tuning.Config]:
    """Tensors and a configuration, drawn at random; wide ones have few tokens, for time's sake."""
    chosen = random.Random(seed)
    torch.manual_seed(seed)
    while True:
        dtype, channels = chosen.choice(DTYPES), chosen.choice(tuning.CHANNELS)
        hidden = chosen.choice((128, 384, 4 * channels))
        batch, tokens = chosen.choice((0, 1, 1, 1, 2, 3)), chosen.choice((1, 2, 31, 64, 65, 129, 200))
        config = chosen.choice(configs(dtype, channels))
        programs = -(-batch * tokens // config.block_t)
        if programs * config.block_t * channels * hidden <= MOST:
            break
    x, *parameters = problem((batch, tokens), channels, hidden, dtype)
    x = x * chosen.choice((0.1, 1.0, 1.0, 3.0, 30.0))
    layout = chosen.choice(("plain", "poisoned", "transposed"))
    if layout == "poisoned":
        x, *parameters = map(poisoned, (x, *parameters))
    elif layout == "transposed":
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
        parameters = [tensor.mT.contiguous().mT if tensor.ndim == 2 else tensor for tensor in parameters]
    return [x, *parameters], config


def double(tensors: list[Tensor]) -> list[Tensor]:
    """The same values in float64."""
    return [tensor.double() for tensor in tensors]


def errors(out: Tensor, truth: Tensor) -> tuple[float, float]:
    """Largest error and root of the mean squared error; zeros where there is nothing."""
    if not truth.numel():
        return 0.0, 0.0
    off = out.double() - truth
    return off.abs().max().item(), off.square().mean().sqrt().item()
