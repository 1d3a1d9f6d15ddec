"""The calls of the fused backward of MHIM that are compiled ahead of time. No torch, no Triton.

What the core's backward shares is the core's; sums of partial sums are PyTorch's, and not counted.

# N = H·W queries, M keys, A heads, D head width, R reduction; a result is one query of one head
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import prod

from kernels.emsa_upsample.backward_calls import (
    DTYPES,
    FULL,
    HALF,
    branch_launches,
    keys_launch,
    launch,
    pointers,
)
from kernels.emsa_upsample.backward_tuning import Attention
from kernels.emsa_upsample.calls import BATCH, SMS, Problem, of_models
from kernels.emsa_upsample.tuning import EXPECTED, Refused, powers_of_two
from kernels.gpus import STACKS, shares
from kernels.launches import Call, Constant, Launch
from kernels.mhim import backward_tuning as tuning
from kernels.mhim import cost
from kernels.mhim.backward_tuning import Config


def calls(stack: str, quick: bool) -> Iterator[Call]:
    """Every call to compile for a stack: the stages of the models with several heads. `quick`: in fp16, at 224."""
    for capability, dtype in product(STACKS[stack], DTYPES[:1] if quick else DTYPES):
        wanted = EXPECTED[stack, capability, dtype]
        if capability < 80 or isinstance(wanted, Refused):
            continue
        for problem in of_models():
            if problem.heads == 1 or (quick and not problem.of.endswith("at 224")):
                continue
            where = (capability, problem.head_dim, problem.reduction, problem.heads, prod(problem.grid))
            configs = tuning.candidates(*where)
            for config in configs[:1] if quick else configs:
                for has_branch in (True, False):  # ResTv2's, and ResTv1's
                    is_default = config == configs[0]
                    yield call(
                        *(capability, dtype, wanted, problem, config),
                        has_branch=has_branch,
                        is_default=is_default,
                    )


def call(
    capability: int,
    dtype: str,
    wanted: str,
    problem: Problem,
    config: Config,
    *,
    has_branch: bool = True,
    is_default: bool = True,
) -> Call:
    """One call with a configuration, of a batch of `BATCH`.

    Args:
        wanted: the instruction that must multiply.
    """
    queries, keys, channels = BATCH * prod(problem.size), BATCH * prod(problem.grid), problem.channels
    parameters = problem.heads**2 + (channels * (10 * problem.reduction**2 + 2) if has_branch else 0)
    # q, the gradient and dq; k, v, dk and dv; the parameters and theirs
    least = HALF * (channels * (3 * queries + 4 * keys) + 2 * parameters)
    launches, left, splits = _launches(capability, dtype, wanted, problem, config)
    pieces = 0
    if has_branch:
        of_branch, more, pieces = branch_launches(capability, dtype, problem, config)
        launches, left = launches + of_branch, left + more
    # q is read by three kernels, the gradient by two, and by two of the branch
    again = HALF * channels * queries * (5 if has_branch else 3)
    return Call(
        operator="mhim_backward" if has_branch else "mhim_backward alone",
        result="query and head",
        of=problem.of,
        shape=str(problem),
        config=", ".join(
            f"{tile.block_q}x{tile.block_k}/{tile.num_warps}w" for tile in (config.attention, config.scores)
        ),
        is_default=is_default,
        capability=capability,
        precision=dtype,
        results=queries * problem.heads,
        least_bytes=least,
        moved_bytes=least + again + 2 * left,
        macs=cost.executed_backward_products(
            *(BATCH, problem.size, channels, problem.heads, problem.reduction),
            several=prod(problem.grid) > config.attention.block_k,
        ),
        times=problem.blocks,
        launches=(*launches, keys_launch(capability, dtype, problem, splits, pieces)),
    )


def _launches(
    capability: int, dtype: str, wanted: str, problem: Problem, config: Config
) -> tuple[list[Launch], int, int]:
    """The launches for attention, the bytes that it leaves to be read, and the splits of its queries."""
    queries, keys, heads = prod(problem.size), prod(problem.grid), problem.heads
    after, before = config.attention, config.scores
    tiles, blocks = -(-queries // after.block_q), -(-keys // after.block_k)
    turns, splits = shares(tiles, BATCH * heads * blocks, after.per_sm, SMS[capability])
    first, second = powers_of_two(problem.head_dim)

    def of(name: str, tile: Attention, programs: int, **rounds: float) -> Launch:
        constants: dict[str, Constant] = {
            **{"A": heads, "A2": 1 << (heads - 1).bit_length()},
            **{"D": problem.head_dim, "D0": first, "D1": second, "STAGES": tile.stages},
            **{"BLOCK_Q": tile.block_q, "BLOCK_K": tile.block_k, "KEYS_FIT": blocks == 1},
        }
        name = f"mhim.backward_maps:{name}"
        types = pointers(dtype, TENSORS, SUMS)
        found = launch(name, capability, types, constants, tile.num_warps, programs, wanted, **rounds)
        return replace(found, trips=(*found.trips, ("_mixed.other", heads)))

    programs = splits * heads * blocks * BATCH
    launches = [
        of("mhim_sums", after, tiles * heads * BATCH, block=blocks),
        of("mhim_maps", after, programs, turn=turns),
    ]
    tiles = -(-queries // before.block_q)
    launches.append(of("mhim_scores", before, programs, turn=-(-tiles // splits), other=heads))
    a_map = HALF * BATCH * heads * queries * blocks * after.block_k
    left = a_map + FULL * BATCH * splits * keys * 2 * problem.channels
    if blocks > 1:
        launches.append(of("mhim_queries", before, tiles * heads * BATCH, block=blocks, other=heads))
        left += a_map // 2 + FULL * BATCH * heads * queries * 4  # the map is read once more
    return launches, left, splits


TENSORS = ("q", "k", "v", "mix", "grad", "maps", "dq")
SUMS = ("rows", "sums", "norm", "weights", "units", "dkv", "dmix")
