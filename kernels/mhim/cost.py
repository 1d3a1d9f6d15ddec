"""The cost of MHIM on paper: MACs, nominal and executed, and elements moved, in closed form. No torch.

# B batch, N = H·W queries, M keys, A heads, C channels
"""

from __future__ import annotations

from math import prod

from kernels.emsa_upsample import cost
from kernels.emsa_upsample.cost import ceil_div


def macs(
    batch: int, size: tuple[int, int], channels: int, heads: int, reduction: int, *, has_branch: bool
) -> dict[str, int]:
    """MACs (1 MAC = 2 FLOPs) of `attend`, which is QKᵀ and PV; of `mix`, A² an entry of the maps; of `up`. Nominal."""
    found = cost.macs(batch, size, channels, reduction)
    entries = batch * prod(size) * prod(ceil_div(size, reduction))
    return {"attend": found["attend"], "mix": entries * heads**2, "up": found["up"] if has_branch else 0}


def executed_products(batch: int, size: tuple[int, int], channels: int, heads: int, reduction: int) -> int:
    """MACs of the products that the kernels make: for each head the scores of all, in each of two passes, and PV."""
    once = cost.macs(batch, size, channels, reduction)["attend"] // 2
    return 2 * heads * once + once


def executed_backward_products(
    batch: int, size: tuple[int, int], channels: int, heads: int, reduction: int, *, several: bool
) -> int:
    """MACs of the products that the backward's kernels make: for each head the scores of all, and dO vᵀ, in two passes;
    dv; the scores before the mixing, dq and dk.

    Args:
        several: keys are in several blocks, where the first pass makes the scores twice.
    """
    once = cost.macs(batch, size, channels, reduction)["attend"] // 2
    return ((3 if several else 2) * heads + 6) * once


def least_traffic(
    size: tuple[int, int], channels: int, heads: int, reduction: int, *, has_branch: bool
) -> tuple[int, int]:
    """The fewest elements that any implementation moves: q, k, v and the output for each image; parameters, once."""
    for_image, parameters = cost.least_traffic(size, channels, reduction)
    return for_image, heads**2 + (parameters if has_branch else 0)
