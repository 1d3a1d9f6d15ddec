"""The cost of the op on paper: MACs and elements moved, nominal, in closed form; the size of its maps. No torch.

# B batch, H W feature map, N = H·W queries, M = ceil(H/r)·ceil(W/r) keys, C channels
"""

from __future__ import annotations

from math import prod


def ceil_div(size: tuple[int, int], by: int) -> tuple[int, int]:
    """Each side of a map divided by `by`, rounded up: the map that a padded convolution of stride `by` leaves.

    With `by` the reduction, it is the grid of the keys.
    """
    return -(-size[0] // by), -(-size[1] // by)


def macs(batch: int, size: tuple[int, int], channels: int, reduction: int) -> dict[str, int]:
    """MACs (1 MAC = 2 FLOPs) of `attend`, which is QKᵀ and PV without the softmax, and of `up`, the convolution.

    They are nominal: the convolution makes r² pixels of every cell, also those that are cropped.
    """
    queries, keys = prod(size), prod(ceil_div(size, reduction))
    return {
        "attend": 2 * batch * queries * keys * channels,
        "up": 9 * batch * keys * reduction**2 * channels,
    }


def least_traffic(size: tuple[int, int], channels: int, reduction: int) -> tuple[int, int]:
    """The fewest elements that any implementation moves: q, k, v and the output for each image; parameters, once."""
    queries, keys = prod(size), prod(ceil_div(size, reduction))
    parameters = channels * (10 * reduction**2 + 2)  # nine taps and a bias a filter; gamma and beta
    return channels * (2 * queries + 2 * keys), parameters
