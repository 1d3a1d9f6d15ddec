"""The cost of the reduction inside windows on paper: nominal MACs, and those that no padding is given to. No torch."""

from __future__ import annotations

from math import prod

from kernels.emsa_upsample.cost import ceil_div, windows_of


def macs(batch: int, size: tuple[int, int], channels: int, reduction: int, window: int) -> int:
    """MACs (1 MAC = 2 FLOPs) of all cells of all windows, of taps on padding too: a convolution's of the windows."""
    cells = windows_of(size, window) * prod(ceil_div((window, window), reduction))
    return batch * cells * channels * (reduction + 1) ** 2


def least_traffic(size: tuple[int, int], channels: int, reduction: int, window: int) -> tuple[int, int]:
    """The fewest elements that any implementation moves: tokens and cells for each image; parameters, once."""
    cells = windows_of(size, window) * prod(ceil_div((window, window), reduction))
    return channels * (prod(size) + cells), channels * ((reduction + 1) ** 2 + 1)
