"""The tile sizes of the reduction inside windows as data. No torch, no Triton. README.md has times on an H200."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

REDUCTIONS = (2, 4, 8)


@dataclass(frozen=True)
class Config:
    """A tile of cells and channels, and the warps and stages of the program that works on it."""

    cells: int
    channels: int
    num_warps: int
    num_stages: int = 1
    per_sm: int = (
        8  # programs that an SM is to have at least, where windows are dealt out: so many parts are made
    )


@dataclass(frozen=True)
class Backward:
    """Tiles of the gradients' kernels."""

    tokens: Config
    filters: Config


# The fastest on an H200, by channels: 800×1344, batch 8.
FASTEST_ON_HOPPER = {96: Config(16, 32, 4), 192: Config(8, 64, 4), 384: Config(32, 64, 4)}


def candidates(capability: int, channels: int) -> list[Config]:
    """Configurations for so many channels on sm_`capability`; the first is the one to run."""
    widest = _widest(channels)
    found = [Config(8, widest, 4), Config(16, widest, 4)]
    fastest = FASTEST_ON_HOPPER.get(channels) if capability == 90 else None
    return list(dict.fromkeys([fastest, *found])) if fastest else found


def choose(capability: int, channels: int) -> Config:
    """The configuration that runs."""
    return candidates(capability, channels)[0]


def backward_candidates(capability: int, channels: int) -> list[Backward]:
    """Configurations of the gradients for so many channels on sm_`capability`; the first is the one to run."""
    widest = _widest(channels)
    # with 16 cells of tokens, ptxas for sm_120 spills 8 bytes of bf16 where 64 channels are taken; with 32 that for
    # sm_80 spills 8 bytes of fp16 where 32 are
    # on an H200, 32 cells of filters took 102 and 81 µs where 64 took 123 and 95 and 64 channels are taken, though with
    # a sixth more instructions in all; where 32 channels are, 155 beside 141
    filters = 32 if capability == 90 and widest == 64 else 64
    first = Backward(Config(32 if widest == 64 else 16, widest, 4), Config(filters, widest, 4))
    return [
        first,
        replace(first, tokens=Config(8, widest, 4)),
        replace(first, filters=Config(96 - filters, widest, 4)),
    ]


def choose_backward(capability: int, channels: int) -> Backward:
    """The configuration of the gradients that runs."""
    return backward_candidates(capability, channels)[0]


def _widest(channels: int) -> int:
    """Channels of a tile: 96 = 3 · 32 leaves no lane without a channel."""
    return 64 if channels % 64 == 0 else 32


def constants(config: Config, channels: int, reduction: int) -> dict[str, Any]:
    """A kernel's constants and the compiler's options, beside HAS_BIAS."""
    return {
        **{"C": channels, "R": reduction, "CELLS": config.cells, "CHANNELS": config.channels},
        **{"num_warps": config.num_warps, "num_stages": config.num_stages},
    }
