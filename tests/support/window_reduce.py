"""Problems for the reduction inside windows: tensors and geometry, and poison where nothing may be read."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from kernels.window_reduce import tuning
from kernels.window_reduce.launch import Call
from tests.support.poison import poisoned

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def random_problem(seed: int) -> tuple[list[Any], dict[str, Any]]:
    """Tensors, None for a bias that is not there, and geometry, drawn at random."""
    chosen = random.Random(seed)
    torch.manual_seed(seed)
    dtype, reduction = chosen.choice(DTYPES), chosen.choice(tuning.REDUCTIONS)
    # a window may end within a cell, or be smaller than one
    window = chosen.choice((reduction, 2 * reduction, chosen.randint(1, 2 * reduction + 1)))
    size = (chosen.randint(1, 2 * window), chosen.randint(1, 2 * window))
    channels, batch = chosen.choice((16, 48, 64, 96)), chosen.choice((0, 1, 1, 2))
    x = (torch.randn(batch, size[0] * size[1], channels) * chosen.choice((1e-4, 1.0, 1.0, 30.0))).to(dtype)
    layout = chosen.choice(("plain", "poisoned", "transposed"))
    if layout == "poisoned":
        x = poisoned(x)
    elif layout == "transposed":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    weight = torch.randn(channels, 1, reduction + 1, reduction + 1).to(dtype)
    bias = torch.randn(channels).to(dtype) if chosen.random() < 0.7 else None
    geometry = {"size": size, "reduction": reduction, "window": window}
    return [x, weight, bias], geometry


def call_of(tensors: list[Tensor | None], geometry: dict[str, Any]) -> Call:
    """The call that `op.window_reduce(*tensors, **geometry)` makes."""
    return Call._make([*tensors, *geometry["size"], geometry["reduction"], geometry["window"]])
