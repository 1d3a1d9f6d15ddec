"""Problems for the fused MHIM: tensors, geometry and a configuration, drawn at random."""

from __future__ import annotations

import random
from typing import Any

import torch

from kernels.emsa_upsample import cost
from kernels.emsa_upsample.tuning import REDUCTIONS, Config
from kernels.mhim import op, tuning
from tests.support.poison import poisoned

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CAPABILITIES = (70, 80, 90)
Problem = tuple[list[Any], dict[str, Any]]  # tensors, and None for what is not there; geometry


def problem(
    heads: int = 2,
    size: tuple[int, int] = (3, 5),
    reduction: int = 2,
    *,
    head_dim: int = 16,
    batch: int = 1,
    branch: bool = True,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Problem:
    """Tensors in the order of the operator's arguments, and the geometry."""
    channels, keys = heads * head_dim, torch.Size(cost.ceil_div(size, reduction)).numel()
    filters = channels * reduction**2
    shapes: list[tuple[int, ...]] = [(batch, size[0] * size[1], channels), *[(batch, keys, channels)] * 2]
    shapes += [(heads, heads, 1, 1), (heads,), (filters, 1, 3, 3), (filters,), (channels,), (channels,)]
    tensors: list[Any] = [torch.randn(shape, dtype=dtype, device=device) for shape in shapes]
    if not branch:
        tensors[5:] = [None] * 4
    return tensors, {"heads": heads, "size": size, "reduction": reduction}


def random_problem(seed: int) -> tuple[list[Any], dict[str, Any], Config]:
    """Tensors, geometry and a configuration; large ones seldom, for time's sake."""
    chosen = random.Random(seed)
    torch.manual_seed(seed)
    most = 48 if chosen.random() < 0.05 else 12
    batch = chosen.choice((0, 1, 1, 1, 1, 1, 1, 1, 2))
    while True:
        dtype, reduction = chosen.choice(DTYPES), chosen.choice(REDUCTIONS)
        heads, head_dim = chosen.choice((2, 2, 2, 4, 8, 16)), chosen.choice((16, 16, 32, 48, 64, 96))
        size = (chosen.randint(2, 4 + reduction), chosen.randint(2, 4 + reduction))
        grid, branch = cost.ceil_div(size, reduction), chosen.random() < 0.6
        config = chosen.choice(_configs(dtype, head_dim, reduction, heads, grid[0] * grid[1]))
        queries = size[0] * size[1]
        tiles = tuning.tiles(config, queries, reduction, grid, has_branch=branch)
        blocks = -(-grid[0] * grid[1] // config.block_k)
        if (tiles + queries // config.block_q + 1) * blocks * heads**2 * batch <= 4 * most:
            break
    tensors, geometry = problem(
        heads, size, reduction, head_dim=head_dim, batch=batch, branch=branch, dtype=torch.float32
    )
    q, k, v, mix, mix_bias, up_weight, up_bias, gamma, beta = tensors
    q = q * chosen.choice((0.01, 0.1, 1.0, 1.0, 30.0))  # a map that is almost flat, or in which one key wins
    v = v * chosen.choice((1e-3, 1.0, 1.0))
    tensors = [q, k, v, mix, mix_bias if chosen.random() < 0.7 else None, up_weight, up_bias, gamma, beta]
    if chosen.random() < 0.3:
        tensors[6] = None
    tensors = [None if x is None else x.to(dtype) for x in tensors]
    layout = chosen.choice(("plain", "poisoned", "transposed"))
    if layout == "poisoned":
        tensors[:3] = [poisoned(x) for x in tensors[:3]]
    elif layout == "transposed":
        tensors[:3] = [x.mT.contiguous().mT for x in tensors[:3]]
    return tensors, geometry, config


def _configs(dtype: torch.dtype, *shape: int) -> list[Config]:
    """All that may run on some GPUs, and smaller tiles, so that a small problem has several of them."""
    offered = [
        config
        for capability in CAPABILITIES
        for config in tuning.candidates(op.DTYPES[dtype], capability, *shape)
    ]
    return list(dict.fromkeys([*offered, Config(16, 16, 4), Config(32, 16, 4)]))


def call_of(tensors: list[Any], geometry: dict[str, Any]) -> op.Call:
    """The call that `op.mhim(*tensors, **geometry)` makes."""
    return op.Call._make(
        [*tensors, geometry["heads"], *geometry["size"], geometry["reduction"], geometry.get("eps", 1e-6)]
    )
