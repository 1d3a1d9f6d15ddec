"""The calls of the reduction inside windows that are compiled ahead of time. No torch, no Triton.

# N tokens, C channels; a result is a cell, of all channels
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

from kernels.emsa_upsample.calls import BATCH, Problem, in_windows
from kernels.emsa_upsample.tuning import EXPECTED, Refused
from kernels.gpus import STACKS
from kernels.launches import Call, Kernel, Launch
from kernels.window_reduce import cost, tuning
from kernels.window_reduce.tuning import Config

DTYPES = ("fp16", "bf16", "fp32")


def calls(stack: str, quick: bool) -> Iterator[Call]:
    """Every call to compile for a stack: the stages that reduce. `quick`: what runs of them in fp16."""
    for capability, dtype in product(STACKS[stack], DTYPES[:1] if quick else DTYPES):
        if isinstance(EXPECTED[stack, capability, dtype], Refused):
            continue
        for problem in in_windows():
            if problem.reduction not in tuning.REDUCTIONS:
                continue
            configs = tuning.candidates(problem.channels)
            for config in configs[:1] if quick else configs:
                yield call(capability, dtype, problem, config, is_default=config == configs[0])


def call(capability: int, dtype: str, problem: Problem, config: Config, *, is_default: bool = True) -> Call:
    """One call with a configuration, of a batch of images."""
    assert problem.window
    geometry = (problem.size, problem.channels, problem.reduction, problem.window)
    for_image, for_batch = cost.least_traffic(*geometry)
    least = (4 if dtype == "fp32" else 2) * (BATCH * for_image + for_batch)
    cells, channels = prod(problem.grid), problem.channels
    constants = tuning.constants(config, channels, problem.reduction)
    pointers = ("x", "taps", "bias", "out")
    kernel = Kernel(
        "kernels.window_reduce.forward:window_reduce",
        capability,
        tuple((name, f"*{dtype}") for name in pointers),
        frozenset({*pointers, "x_b", "x_n"}),
        tuple((constants | {"HAS_BIAS": True}).items()),
        config.num_warps,
        config.num_stages,
    )
    programs = BATCH * problem.regions * -(-cells // config.cells) * -(-channels // config.channels)
    return Call(
        operator="window_reduce",
        result="cell",
        of=problem.of,
        shape=f"C={channels} r={problem.reduction} windows={problem.regions}",
        config=f"{config.cells}x{config.channels}/{config.num_warps}w",
        is_default=is_default,
        capability=capability,
        precision=dtype,
        results=BATCH * problem.regions * cells,
        least_bytes=least,
        moved_bytes=least,
        macs=0,  # none on matrix units
        times=problem.blocks,
        launches=(Launch(kernel, programs, (("window_reduce.i", problem.reduction + 1),)),),
    )
