"""The calls of the fused MHIM that are compiled ahead of time. No torch, no Triton.

# N = H·W queries, M keys, A heads, D head width; a result is one query of one head
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

from kernels.emsa_upsample.calls import ALIGNED, BATCH, PRECISIONS, Problem, dtype_of, of_models
from kernels.emsa_upsample.tuning import EXPECTED, Config, Refused
from kernels.gpus import STACKS
from kernels.launches import Call, Kernel, Launch
from kernels.mhim import cost, tuning

TENSORS = ("q", "k", "v", "mix", "taps", "up_bias", "norm_weight", "norm_bias", "out")
SINGLE = ("softmax", "squares", "rstd", "statistics")


def calls(stack: str, quick: bool) -> Iterator[Call]:
    """Every call to compile for a stack: the stages of the models with several heads. `quick`: in fp16, at 224."""
    for capability, precision in product(STACKS[stack], PRECISIONS[:1] if quick else PRECISIONS):
        wanted = EXPECTED[stack, capability, precision]
        if isinstance(wanted, Refused):
            continue
        for problem in of_models():
            if problem.heads == 1 or (quick and not problem.of.endswith("at 224")):
                continue
            shape = (problem.head_dim, problem.reduction, problem.heads, prod(problem.grid))
            config = tuning.choose(dtype_of(precision), capability, *shape)
            for has_branch in (True, False):  # ResTv2's, and ResTv1's
                yield call(capability, precision, wanted, problem, config, has_branch=has_branch)


def call(
    capability: int, precision: str, wanted: str, problem: Problem, config: Config, *, has_branch: bool = True
) -> Call:
    """One call with a configuration, of a batch of images.

    Args:
        wanted: the instruction that must multiply.
    """
    queries, keys, heads = prod(problem.size), prod(problem.grid), problem.heads
    shape = (problem.head_dim, problem.reduction, heads, keys)
    for_image, for_batch = cost.least_traffic(
        problem.size, problem.channels, heads, problem.reduction, has_branch=has_branch
    )
    dtype = dtype_of(precision)
    element = 4 if dtype == "fp32" else 2
    least = element * (BATCH * for_image + for_batch)
    tiles = tuning.tiles(config, queries, problem.reduction, problem.grid, has_branch=has_branch)
    programs = {
        "mhim_statistics": BATCH * heads * -(-queries // config.block_q),
        "_emsa_statistics": BATCH * tiles,
        "mhim": BATCH * heads * tiles,
    }
    blocks = -(-keys // config.block_k)
    trips = {
        **{"_mixed.other": heads, "mhim_statistics.block": blocks, "mhim.block": blocks},
        **{"_upsampled.i": 3, "_emsa_statistics.head": heads},
    }
    given = {
        **{"HAS_BIAS": True, "UPCAST": False, "WINDOWED": False},
        "PRECISION": "tf32" if precision == "tf32" else "ieee",
    }
    pointers = dict.fromkeys(TENSORS, f"*{dtype}") | dict.fromkeys(SINGLE, "*fp32")
    launches = []
    for name, constants in tuning.kernels(config, *shape, has_branch=has_branch).items():
        module, _, function = name.rpartition(".")
        kernel = Kernel(
            f"kernels.{module}:{function}",
            capability,
            tuple((pointers | {"eps": "fp32", "scale": "fp32"}).items()),
            ALIGNED | {*TENSORS, *SINGLE},
            tuple((constants | given).items()),
            constants["num_warps"],
            constants["num_stages"],
            "" if function == "_emsa_statistics" else wanted,
            may_spill=config.spills,
        )
        launches.append(Launch(kernel, programs[function], tuple(trips.items())))
    # each of the first two kernels reads q, or v, again; what they leave is written and read
    again = element * BATCH * queries * problem.channels + (16 * BATCH * queries if has_branch else 0)
    several = 16 * BATCH * queries * heads if blocks > 1 else 0
    return Call(
        operator="mhim" if has_branch else "mhim alone",
        result="query and head",
        of=problem.of,
        shape=str(problem),
        config=f"{config.design} {config.block_q}x{config.block_k}/{config.num_warps}w",
        is_default=True,
        capability=capability,
        precision=precision,
        results=BATCH * queries * heads,
        least_bytes=least,
        moved_bytes=least + again + several,
        macs=cost.executed_products(BATCH, problem.size, problem.channels, heads, problem.reduction),
        times=problem.blocks,
        launches=tuple(launches),
    )
