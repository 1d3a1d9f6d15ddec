"""The calls of the reduction inside windows and of its gradients that are compiled ahead of time. No torch, no Triton.

# N tokens, C channels; a result is a cell, of all channels
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

from kernels.emsa_upsample.calls import BATCH, SMS, Problem, in_windows
from kernels.emsa_upsample.tuning import EXPECTED, Refused
from kernels.gpus import STACKS, shares
from kernels.launches import Call, Kernel, Launch
from kernels.window_reduce import cost, tuning
from kernels.window_reduce.tuning import Backward, Config

DTYPES = ("fp16", "bf16", "fp32")


def calls(stack: str, quick: bool) -> Iterator[Call]:
    """Every call to compile for a stack: the stages that reduce. `quick`: what runs of them in fp16."""
    for capability, dtype in product(STACKS[stack], DTYPES[:1] if quick else DTYPES):
        if isinstance(EXPECTED[stack, capability, dtype], Refused):
            continue
        for problem in in_windows():
            if problem.reduction not in tuning.REDUCTIONS:
                continue
            configs = tuning.candidates(capability, problem.channels)
            for config in configs[:1] if quick else configs:
                yield call(capability, dtype, problem, config, is_default=config == configs[0])
            tiles = tuning.backward_candidates(capability, problem.channels)
            for both in tiles[:1] if quick else tiles:
                yield backward_call(capability, dtype, problem, both, is_default=both == tiles[0])


def call(capability: int, dtype: str, problem: Problem, config: Config, *, is_default: bool = True) -> Call:
    """One call with a configuration, of a batch of images."""
    elements, parameters = _least(problem)
    least = SIZES[dtype] * (elements + parameters)
    programs = BATCH * problem.regions * _tiles(problem, config)
    return Call(
        operator="window_reduce",
        result="cell",
        of=problem.of,
        shape=_shape(problem),
        config=_named(config),
        is_default=is_default,
        capability=capability,
        precision=dtype,
        results=BATCH * problem.regions * prod(problem.grid),
        least_bytes=least,
        moved_bytes=least,
        macs=0,  # none on matrix units
        times=problem.blocks,
        launches=(
            Launch(
                _kernel("forward:window_reduce", capability, dtype, problem, config),
                *(programs, (("window_reduce.i", problem.reduction + 1),)),
            ),
        ),
    )


def backward_call(
    capability: int, dtype: str, problem: Problem, config: Backward, *, is_default: bool = True
) -> Call:
    """One call of the gradients with their tiles, of a batch of images; a result is a token, of all channels."""
    elements, parameters = _least(problem)
    units, cells, taps = BATCH * problem.regions, prod(problem.grid), (problem.reduction + 1) ** 2
    tokens = BATCH * prod(problem.size)
    least = SIZES[dtype] * (elements + problem.channels * tokens + 2 * parameters)
    of_windows = taps * _tiles(problem, config.filters)
    windows, parts = shares(units, of_windows, config.filters.per_sm, SMS[capability])
    sums = 4 * parts * -(-cells // config.filters.cells) * taps * problem.channels
    return Call(
        operator="window_reduce_backward",
        result="token",
        of=problem.of,
        shape=_shape(problem),
        config=f"{_named(config.tokens)}, {_named(config.filters)}",
        is_default=is_default,
        capability=capability,
        precision=dtype,
        results=tokens,
        least_bytes=least,
        # the gradient is read by both kernels
        moved_bytes=least + SIZES[dtype] * units * cells * problem.channels + 2 * sums,
        macs=0,
        times=problem.blocks,
        launches=(
            Launch(
                _kernel("backward:window_reduce_tokens", capability, dtype, problem, config.tokens),
                units * _tiles(problem, config.tokens),
                (("window_reduce_tokens.i", problem.reduction),),
            ),
            Launch(
                _kernel("backward:window_reduce_filters", capability, dtype, problem, config.filters),
                *(of_windows * parts, (("window_reduce_filters.turn", windows),)),
            ),
        ),
    )


def _least(problem: Problem) -> tuple[int, int]:
    """The fewest elements that a batch moves, forwards: of tokens and cells, and of parameters."""
    assert problem.window
    for_image, for_batch = cost.least_traffic(
        problem.size, problem.channels, problem.reduction, problem.window
    )
    return BATCH * for_image, for_batch


def _tiles(problem: Problem, config: Config) -> int:
    """Tiles of a window's cells and channels."""
    return -(-prod(problem.grid) // config.cells) * -(-problem.channels // config.channels)


def _kernel(function: str, capability: int, dtype: str, problem: Problem, config: Config) -> Kernel:
    constants = tuning.constants(config, problem.channels, problem.reduction)
    return Kernel(
        f"kernels.window_reduce.{function}",
        capability,
        tuple((dict.fromkeys(TENSORS, f"*{dtype}") | {"dtaps": "*fp32"}).items()),
        ALIGNED,
        tuple((constants | {"HAS_BIAS": True}).items()),
        config.num_warps,
        config.num_stages,
    )


def _shape(problem: Problem) -> str:
    return f"C={problem.channels} r={problem.reduction} windows={problem.regions}"


def _named(config: Config) -> str:
    return f"{config.cells}x{config.channels}/{config.num_warps}w"


SIZES = {"fp16": 2, "bf16": 2, "fp32": 4}  # bytes
TENSORS = ("x", "taps", "bias", "out", "grad", "dx")
ALIGNED = frozenset(
    {*TENSORS, "dtaps", "x_b", "x_n", "grad_s", "grad_m"}
)  # strides are multiples of 16 channels
