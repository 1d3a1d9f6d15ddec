"""Problems for the fused kernel: tensors, geometry and a configuration, and poison where nothing may be read."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kernels.emsa_upsample import cost, op, tuning
from tests.support.poison import poisoned

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CAPABILITIES = (70, 75, 80, 90, 100, 120)
Problem = tuple[list[Any], dict[str, Any]]  # tensors, and None for a bias that is not there; geometry


def configs(dtype, head_dim, reduction, heads, keys, windowed=False):
    """All that may run on any GPU, and smaller tiles, so that a small problem has several of them."""
    shape = (head_dim, reduction, heads, keys)
    offered = [
        config
        for capability in CAPABILITIES
        for config in tuning.candidates(op.DTYPES[dtype], capability, *shape, windowed=windowed)
    ]
    small = [tuning.Config(16, 16, 4)]
    if reduction >= 4:
        small += [tuning.Config(16, block_k, 4, design="cell") for block_k in (16, 64)]
    if reduction > 1 and dtype != torch.float32 and sum(tuning.powers_of_two(head_dim)) == head_dim:
        # one warp's tile is of more products, each of fewer channels
        small += [
            replace(config, num_warps=warps)
            for config in _products(reduction, heads, keys)
            for warps in (4, 1)
        ]
    if windowed:
        small = [config for config in small if config.design in tuning.DESIGNS_IN_WINDOWS]
    return list(dict.fromkeys([*offered, *small]))


def _products(reduction, heads, keys):
    """Small tiles of the designs that multiply the convolution."""
    if keys > 16:
        yield tuning.Config(32, 16, 4, design="long", phases=8)
        if reduction > 2:
            yield tuning.Config(64, 16, 4, design="long")
    else:
        for design in ("heads", "loop"):
            yield tuning.Config(32, 16, 4, design=design, phases=8)
            yield tuning.Config(32, 16, 4, design=design, phases=8, channels=16)
            if reduction > 2:
                yield tuning.Config(64, 16, 4, design=design)
        if reduction > 2 and heads == 1:
            yield tuning.Config(64, 16, 4, design="resident")


def programs(config, regions, heads, grid, reduction):
    """Number of tiles that the interpreter runs one after another."""
    return tuning.tiles(config, reduction, grid) * regions * (heads if heads == 1 else heads + 2)


def random_problem(seed, windowed=False):
    """Tensors, geometry and a configuration, drawn at random; large ones seldom, for time's sake.

    Args:
        windowed: the map is cut into windows, which it fills or does not, or is smaller than one.
    """
    chosen, values = random.Random(seed), torch.Generator().manual_seed(seed)
    most, rare = (6, 24) if windowed else (12, 64)
    most = rare if chosen.random() < 0.05 else most
    while True:
        dtype = chosen.choice(DTYPES)
        reduction = chosen.choice(tuning.REDUCTIONS)
        heads, head_dim = chosen.choice((1, 1, 1, 2)), chosen.choice((*tuning.HEAD_DIMS, 64, 96))
        height, width = chosen.randint(2, 8 + reduction), chosen.randint(2, 8 + reduction)
        batch = chosen.choice((0, 1, 1, 1, 1, 1, 2))
        # a window may end within a cell, or be smaller than one
        sides = (reduction // 2 + 1, 2 * reduction - 1, 2 * reduction, 4 * reduction)
        window = chosen.choice(sides) if windowed else None
        if windowed:  # what is empty always fits
            batch = 0 if seed % 20 == 7 else batch or 1
        rows, columns = cost.ceil_div((window, window) if window else (height, width), reduction)
        config = chosen.choice(configs(dtype, head_dim, reduction, heads, rows * columns, windowed))
        regions = batch * (cost.windows_of((height, width), window) if window else 1)
        if programs(config, regions, heads, (rows, columns), reduction) <= most:
            break
    channels = heads * head_dim

    def normal(*shape, scale=1.0):
        return (torch.randn(shape, generator=values) * scale).to(dtype)

    q = normal(
        batch, height * width, channels, scale=chosen.choice((0.1, 1.0, 1.0, 30.0))
    )  # 30: one key wins
    # as the models give them; 1e-4: products of fp16 lose their last bits
    k, v = normal(regions, rows * columns, 2 * channels, scale=chosen.choice((1e-4, 1.0, 1.0, 1.0))).chunk(
        2, -1
    )
    layout = chosen.choice(("chunk", "poisoned", "transposed"))
    if layout == "poisoned":
        q, k, v = map(poisoned, (q, k, v))
    elif layout == "transposed":
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    bias = normal(channels * reduction**2) + chosen.choice((0.0, 0.0, 30.0))  # 30: a mean far from zero
    parameters = [
        normal(channels * reduction**2, 1, 3, 3, scale=0.3),
        bias if chosen.random() < 0.7 else None,
        normal(channels),
        normal(channels),
    ]
    geometry = {"heads": heads, "size": (height, width), "reduction": reduction}
    if window:
        geometry["window"] = window
    return [q, k, v, *parameters], geometry, config


def double(tensors):
    return [None if tensor is None else tensor.double() for tensor in tensors]


def call_of(tensors: list[Tensor | None], geometry: dict[str, Any]) -> op.Call:
    """The call that `op.emsa_upsample(*tensors, **geometry)` makes."""
    numbers = (geometry["heads"], *geometry["size"], geometry["reduction"])
    return op.Call._make([*tensors, *numbers, 1e-6, geometry.get("window")])


def off(out, truth):
    """The largest error."""
    return (out.double() - truth).abs().max().item() if truth.numel() else 0.0


def rms(out, truth):
    """The root of the mean of squared errors."""
    return (out.double() - truth).square().mean().sqrt().item() if truth.numel() else 0.0


def problem(
    reduction: int,
    size: tuple[int, int],
    heads: int = 2,
    bias: bool = True,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Problem:
    """Two images with heads 16 wide: what fits the map, in the order of the operator's arguments."""
    channels, keys = 16 * heads, torch.Size(cost.ceil_div(size, reduction)).numel()
    shapes: list[tuple[int, ...]] = [
        *((2, size[0] * size[1], channels), (2, keys, channels), (2, keys, channels)),
        *((channels * reduction**2, 1, 3, 3), (channels * reduction**2,), (channels,), (channels,)),
    ]
    tensors: list[Any] = [torch.randn(shape, dtype=dtype, device=device) for shape in shapes]
    if not bias:
        tensors[4] = None
    return tensors, {"heads": heads, "size": size, "reduction": reduction}
