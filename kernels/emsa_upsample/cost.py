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


def windows_of(size: tuple[int, int], window: int) -> int:
    """Windows of a map that is padded to whole ones."""
    return prod(ceil_div(size, window))


def macs_of_padding(batch: int, size: tuple[int, int], channels: int, window: int | None) -> int:
    """MACs of the projections to and from the queries that are padding, which only who cuts and pads a map makes."""
    if not window:
        return 0
    padding = windows_of(size, window) * window**2 - prod(size)
    return 2 * batch * padding * channels**2


def nominal_macs(batch: int, size: tuple[int, int], channels: int, reduction: int, window: int | None) -> int:
    """All MACs of `macs`, in windows those of padding too, as of who cuts and pads a map, its projections included."""
    if not window:
        return sum(macs(batch, size, channels, reduction).values())
    inside = macs(batch * windows_of(size, window), (window, window), channels, reduction)
    return sum(inside.values()) + macs_of_padding(batch, size, channels, window)


def macs_without_padding(
    batch: int, size: tuple[int, int], channels: int, reduction: int, window: int
) -> dict[str, int]:
    """The `macs`, in windows, of the queries alone that are in the map: the least that a kernel executes."""
    pixels = batch * prod(size) * channels
    return {"attend": 2 * pixels * prod(ceil_div((window, window), reduction)), "up": 9 * pixels}


def least_traffic(
    size: tuple[int, int], channels: int, reduction: int, window: int | None = None
) -> tuple[int, int]:
    """The fewest elements that any implementation moves: q, k, v and the output for each image; parameters, once."""
    queries, keys = prod(size), prod(ceil_div(size, reduction))
    if window:
        keys = windows_of(size, window) * prod(ceil_div((window, window), reduction))
    parameters = channels * (10 * reduction**2 + 2)  # nine taps and a bias a filter; gamma and beta
    return channels * (2 * queries + 2 * keys), parameters
