"""The tile sizes of the fused MHIM as data, and what is refused. No torch, no Triton. README.md has an H200's times."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kernels.emsa_upsample import tuning
from kernels.emsa_upsample.tuning import Config, powers_of_two

MOST_HEADS = 16  # every model's; as many products are made for each head


def candidates(
    dtype: str, capability: int, head_dim: int, reduction: int, heads: int, keys: int
) -> list[Config]:
    """Configurations for a dtype ("fp32", "fp16", "bf16") on sm_`capability`; the first is the one to run.

    Those of the core whose convolution is on ordinary units, which run everywhere.
    """
    found = tuning.candidates(dtype, capability, head_dim, reduction, heads, keys, (3, 1))
    if dtype != "fp32" and capability >= 80 and head_dim in tuning.MODELS_HEAD_DIMS:
        # large tiles have no room beside the scores of a head and their sum; 96 channels and four pixels a cell least
        is_tight = capability not in (90, 100) and (head_dim, reduction) == (96, 2)
        rows, warps = (
            (32, 8) if is_tight else (64, 4)
        )  # where mma.sync multiplies, 64 rows spill 72 bytes then
        # ptxas for sm_120 spills 8 bytes of what is carried from block to block of keys, of heads of 64 with r 8
        spills = 8 if capability == 120 and (head_dim, reduction) == (64, 8) and keys > 64 else 0
        found = [
            replace(config, block_q=rows, block_k=64, num_warps=warps, spills=spills) for config in found
        ]
    elif dtype == "fp16" and (head_dim, reduction) == (64, 8):  # with 32 keys sm_70 spills 16 bytes
        found = [replace(config, block_k=64) for config in found]
    return list(dict.fromkeys(found))


def choose(dtype: str, capability: int, head_dim: int, reduction: int, heads: int, keys: int) -> Config:
    """The configuration that runs."""
    return candidates(dtype, capability, head_dim, reduction, heads, keys)[0]


def kernels(
    config: Config, head_dim: int, reduction: int, heads: int, keys: int, *, has_branch: bool
) -> dict[str, dict[str, Any]]:
    """The kernels that are launched, "module.function" in their order: constants and the compiler's options.

    Beside HAS_BIAS, PRECISION, UPCAST and WINDOWED, which no tile depends on.
    """
    first, second = powers_of_two(head_dim)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    tile = {"BLOCK_Q": config.block_q, "BLOCK_K": config.block_k, "SEVERAL": keys > config.block_k}
    shared = {"A": heads, "D": head_dim, "D0": first, "D1": second, **tile, **options}
    per_cell = {"R": reduction, "PER_CELL": config.design == "cell"}
    found = {"mhim.forward.mhim_statistics": shared}
    if has_branch:
        core = tuning.kernels(config, head_dim, reduction, heads, keys)
        found["emsa_upsample.forward._emsa_statistics"] = core["forward._emsa_statistics"]
    return found | {"mhim.forward.mhim": {**shared, **per_cell, "HAS_BRANCH": has_branch}}


def tiles(config: Config, queries: int, reduction: int, grid: tuple[int, int], *, has_branch: bool) -> int:
    """Tiles of an image in the second kernel; the first has its queries one after the other."""
    return tuning.tiles(config, reduction, grid) if has_branch else -(-queries // config.block_q)
