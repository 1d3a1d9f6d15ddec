"""The tile sizes of the reduction inside windows as data. No torch, no Triton. Nothing was timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

REDUCTIONS = (2, 4, 8)


@dataclass(frozen=True)
class Config:
    """A tile of cells and channels, and the warps and stages of the program that works on it."""

    cells: int
    channels: int
    num_warps: int
    num_stages: int = 1


def candidates(channels: int) -> list[Config]:
    """Configurations for so many channels; the first is the one to run."""
    # 96 = 3 · 32 leaves no lane without a channel
    widest = 64 if channels % 64 == 0 else 32
    return [Config(8, widest, 4), Config(16, widest, 4)]


def choose(channels: int) -> Config:
    """The configuration that runs."""
    return candidates(channels)[0]


def constants(config: Config, channels: int, reduction: int) -> dict[str, Any]:
    """The kernel's constants and the compiler's options, beside HAS_BIAS."""
    return {
        **{"C": channels, "R": reduction, "CELLS": config.cells, "CHANNELS": config.channels},
        **{"num_warps": config.num_warps, "num_stages": config.num_stages},
    }
