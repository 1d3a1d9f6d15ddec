"""The tile sizes of the fused backward of MHIM as data. No torch, no Triton. README.md has times on an H200.

It runs where the core's does: `kernels.emsa_upsample.backward_tuning.refusal` says why not.
"""

from __future__ import annotations

from dataclasses import dataclass

from kernels.emsa_upsample import backward_tuning as of_core
from kernels.emsa_upsample.backward_tuning import Attention


@dataclass(frozen=True)
class Config(of_core.Config):
    """Tiles of the backward's kernels; `attention` is that of heads after the mixing, in mhim_sums and mhim_maps."""

    scores: Attention  # that of heads before the mixing, of as many keys: mhim_scores and mhim_queries


def candidates(capability: int, head_dim: int, reduction: int, heads: int, keys: int) -> list[Config]:
    """Configurations in half precision on sm_`capability`: the one to run; of the branch, what the core runs."""
    core = of_core.choose(capability, head_dim, reduction, keys)
    after, before = _tiles(capability, head_dim, heads, keys)
    return [Config(after, core.statistics, core.upsample, before)]


def _tiles(capability: int, head_dim: int, heads: int, keys: int) -> tuple[Attention, Attention]:
    """Tiles after the mixing and before it: 64×64 and 4 warps take the fewest instructions, where they do not spill."""
    wide, square, calm = head_dim > 64, Attention(64, 64, 4), Attention(64, 64, 8)
    if capability == 90:
        return square, square
    if capability == 100:
        # with 4 warps, 4 heads of 96 channels spill 8 bytes after the mixing, 16 before it; with 8 warps and 64 rows,
        # two heads of 64 channels spill 16 before it, in bf16
        rows = 128 if not wide and heads == 2 and keys <= square.block_k else 64
        return calm if wide else square, Attention(rows, 64, 8)
    # mma.sync keeps both operands in registers: 4 warps spill 40 bytes, of 8 heads of 96 in 32 rows still 8
    if keys > square.block_k:
        return calm, square
    return Attention(32, 64, 8 if wide and heads >= 8 else 4), square


def choose(capability: int, head_dim: int, reduction: int, heads: int, keys: int) -> Config:
    """The configuration that runs."""
    return candidates(capability, head_dim, reduction, heads, keys)[0]
