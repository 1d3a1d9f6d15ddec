"""The tile sizes of the fused backward of MHIM as data. No torch, no Triton. Nothing was timed.

It runs where the core's does: `kernels.emsa_upsample.backward_tuning.refusal` says why not.
"""

from __future__ import annotations

from dataclasses import replace

from kernels.emsa_upsample import backward_tuning as of_core
from kernels.emsa_upsample.backward_tuning import Attention, Config


def candidates(capability: int, head_dim: int, reduction: int, heads: int, keys: int) -> list[Config]:
    """Configurations in half precision on sm_`capability`, the one to run first; of the branch, what the core runs."""
    core = of_core.choose(capability, head_dim, reduction, heads, keys)
    return [replace(core, attention=tile) for tile in _attention(capability, head_dim)]


def _attention(capability: int, head_dim: int) -> list[Attention]:
    return [Attention(64, 64, 4)]


def choose(capability: int, head_dim: int, reduction: int, heads: int, keys: int) -> Config:
    """The configuration that runs."""
    return candidates(capability, head_dim, reduction, heads, keys)[0]
