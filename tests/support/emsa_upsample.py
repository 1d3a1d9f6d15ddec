"""Problems for the fused kernel: tensors, geometry and a configuration, and poison where nothing may be read."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from kernels.emsa_upsample import cost, op, tuning

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CAPABILITIES = (70, 75, 80, 90, 100, 120)
MARGIN = 1000  # elements of poison before and after each tensor
POISON = float("nan")
Problem = tuple[list[Any], dict[str, Any]]  # tensors, and None for a bias that is not there; geometry


def poisoned(tensor):
    """The same values, in rows with poison between them and around, so that what is read outside is seen."""
    wide = torch.full((2 * MARGIN + 2 * tensor.numel(),), POISON, dtype=tensor.dtype)
    inner = wide[MARGIN : MARGIN + 2 * tensor.numel()].view(*tensor.shape[:-1], 2 * tensor.shape[-1])
    inner[..., : tensor.shape[-1]] = tensor
    return inner[..., : tensor.shape[-1]]


def configs(dtype, head_dim, reduction):
    """All that may run on any GPU, and smaller tiles, so that a small problem has several of them."""
    offered = [
        config
        for capability in CAPABILITIES
        for keys in (1, 1000)
        for config in tuning.candidates(op.DTYPES[dtype], capability, head_dim, reduction, keys)
    ]
    small = [tuning.Config(16, 16, 4)]
    if reduction >= 4:
        small += [tuning.Config(16, 16, 4, per_cell=True), tuning.Config(16, 64, 4, per_cell=True)]
    return list(dict.fromkeys([*offered, *small]))


def programs(config, batch, heads, size, reduction):
    """Number of programs that the interpreter runs one after another."""
    cells, phases = torch.Size(cost.ceil_div(size, reduction)).numel(), reduction**2
    tiles = cells * phases // config.block_q if config.per_cell else phases * -(-cells // config.block_q)
    return tiles * batch * (heads if heads == 1 else heads + 2)


def random_problem(seed):
    """Tensors, geometry and a configuration, drawn at random; large ones seldom, for time's sake."""
    chosen, values = random.Random(seed), torch.Generator().manual_seed(seed)
    most = 64 if chosen.random() < 0.05 else 12
    while True:
        dtype = chosen.choice(DTYPES)
        reduction = chosen.choice(tuning.REDUCTIONS)
        heads, head_dim = chosen.choice((1, 1, 1, 2)), chosen.choice((*tuning.HEAD_DIMS, 64, 96))
        height, width = chosen.randint(2, 8 + reduction), chosen.randint(2, 8 + reduction)
        batch = chosen.choice((0, 1, 1, 1, 1, 1, 2))
        config = chosen.choice(configs(dtype, head_dim, reduction))
        if programs(config, batch, heads, (height, width), reduction) <= most:
            break
    channels = heads * head_dim
    rows, columns = cost.ceil_div((height, width), reduction)

    def normal(*shape, scale=1.0):
        return (torch.randn(shape, generator=values) * scale).to(dtype)

    q = normal(
        batch, height * width, channels, scale=chosen.choice((0.1, 1.0, 1.0, 30.0))
    )  # 30: one key wins
    k, v = normal(batch, rows * columns, 2 * channels).chunk(2, -1)  # as the models give them
    layout = chosen.choice(("chunk", "poisoned", "transposed"))
    if layout == "poisoned":
        q, k, v = map(poisoned, (q, k, v))
    elif layout == "transposed":
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    parameters = [
        normal(channels * reduction**2, 1, 3, 3, scale=0.3),
        normal(channels * reduction**2) if chosen.random() < 0.7 else None,
        normal(channels),
        normal(channels),
    ]
    geometry = {"heads": heads, "size": (height, width), "reduction": reduction}
    return [q, k, v, *parameters], geometry, config


def double(tensors):
    return [None if tensor is None else tensor.double() for tensor in tensors]


def call_of(tensors: list[Tensor | None], geometry: dict[str, Any]) -> op.Call:
    """The call that `op.emsa_upsample(*tensors, **geometry)` makes."""
    return op.Call._make([*tensors, geometry["heads"], *geometry["size"], geometry["reduction"], 1e-6])


def off(out, truth):
    return (out.double() - truth).abs().max().item() if truth.numel() else 0.0


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
