"""The cost of the op on paper: MACs and elements moved, in closed form. No torch.

# T tokens, C channels, H hidden channels (4C in the models)
"""

from __future__ import annotations


def macs(tokens: int, channels: int, hidden: int) -> int:
    """MACs (1 MAC = 2 FLOPs) of both layers, without biases and GELU."""
    return 2 * tokens * channels * hidden


def least_traffic(tokens: int, channels: int, hidden: int) -> tuple[int, int]:
    """The fewest elements that any implementation moves: tokens in and out for each image; parameters, once."""
    return 2 * tokens * channels, 2 * channels * hidden + hidden + channels
