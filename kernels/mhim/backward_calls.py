"""The calls of the fused backward of MHIM that are compiled ahead of time. No torch, no Triton.

What the core's backward shares is the core's; sums of partial sums are PyTorch's, and not counted.

# N = H·W queries, M keys, A heads, D head width, R reduction; a result is one query of one head
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

from kernels.emsa_upsample.backward_calls import (
    DTYPES,
    FULL,
    HALF,
    branch_launches,
    keys_launch,
    launch,
    shares,
)
from kernels.emsa_upsample.backward_tuning import Config
from kernels.emsa_upsample.calls import BATCH, Problem, of_models
from kernels.emsa_upsample.tuning import EXPECTED, Refused, powers_of_two
from kernels.gpus import STACKS
from kernels.launches import Call, Constant, Launch
from kernels.mhim import backward_tuning as tuning
from kernels.mhim import cost


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
    tile = config.attention
    return Call(
        operator="mhim_backward" if has_branch else "mhim_backward alone",
        result="query and head",
        of=problem.of,
        shape=str(problem),
        config=f"{tile.block_q}x{tile.block_k}/{tile.num_warps}w",
        is_default=is_default,
        capability=capability,
        precision=dtype,
        results=queries * problem.heads,
        least_bytes=least,
        moved_bytes=least + again + 2 * left,
        macs=cost.executed_backward_products(
            *(BATCH, problem.size, channels, problem.heads, problem.reduction),
            several=prod(problem.grid) > tile.block_k,
        ),
        times=problem.blocks,
        launches=(*launches, keys_launch(capability, dtype, problem, splits, pieces)),
    )


def _launches(
    capability: int, dtype: str, wanted: str, problem: Problem, config: Config
) -> tuple[list[Launch], int, int]:
    """What is launched for attention, the bytes that it leaves to be read, and the splits of its queries."""
    queries, keys, heads, tile = prod(problem.size), prod(problem.grid), problem.heads, config.attention
    tiles, blocks = -(-queries // tile.block_q), -(-keys // tile.block_k)
    turns, splits = shares(tiles, BATCH * heads * blocks, tile.per_sm, capability)
    first, second = powers_of_two(problem.head_dim)
    constants: dict[str, Constant] = {
        **{"A": heads, "A2": 1 << (heads - 1).bit_length(), "D": problem.head_dim, "D0": first, "D1": second},
        **{"BLOCK_Q": tile.block_q, "BLOCK_K": tile.block_k, "STAGES": tile.stages, "KEYS_FIT": blocks == 1},
    }

    def of(name: str, programs: int, **rounds: float) -> Launch:
        found = launch(
            f"mhim.backward_maps:{name}",
            capability,
            dtype,
            constants,
            tile.num_warps,
            programs,
            wanted,
            **rounds,
        )
        return Launch(found.kernel, programs, (*found.trips, ("_mixed.other", heads)))

    launches = [
        of("mhim_sums", tiles * heads * BATCH, block=blocks),
        of("mhim_maps", splits * heads * blocks * BATCH, turn=turns),
        of("mhim_scores", splits * heads * blocks * BATCH, turn=turns, other=heads),
    ]
    left = (
        HALF * BATCH * heads * queries * blocks * tile.block_k
        + FULL * BATCH * splits * keys * 2 * problem.channels
    )
    if blocks > 1:
        launches.append(of("mhim_queries", tiles * heads * BATCH, block=blocks, other=heads))
        left += FULL * BATCH * heads * queries * 4 + HALF * BATCH * heads * queries * blocks * tile.block_k
    return launches, left, splits
