"""What the op costs on paper: MACs and bytes, nominal, in closed form. No torch.

# B batch, H W feature map, N = H·W queries, M = ceil(H/r)·ceil(W/r) keys, C channels
"""

from __future__ import annotations


def _keys(size: tuple[int, int], reduction: int) -> int:
    return -(-size[0] // reduction) * -(-size[1] // reduction)


def macs(batch: int, size: tuple[int, int], channels: int, reduction: int) -> dict[str, int]:
    """Multiply-accumulates (1 MAC = 2 FLOPs) of `attend`, QKᵀ and PV, softmax left out, and `up`, the convolution.

    Nominal: the convolution makes r² pixels of every cell, also those that are cropped.
    """
    queries, keys = size[0] * size[1], _keys(size, reduction)
    return {
        "attend": 2 * batch * queries * keys * channels,
        "up": 9 * batch * keys * reduction**2 * channels,
    }


def least_traffic(size: tuple[int, int], channels: int, reduction: int) -> tuple[int, int]:
    """Elements that no implementation moves fewer of: q, k, v in and out for each image; the parameters, once."""
    queries, keys = size[0] * size[1], _keys(size, reduction)
    parameters = channels * (10 * reduction**2 + 2)  # nine taps and a bias a filter; gamma and beta
    return channels * (2 * queries + 2 * keys), parameters
