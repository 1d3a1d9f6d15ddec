"""The calls of the fused backward that are compiled ahead of time. No torch, no Triton.

Packing the filters before and adding up partial sums after are PyTorch's, and not counted.

# N = H·W queries, M keys, A heads, D head width, R reduction; a result is one query of one head
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from math import prod

from kernels.emsa_upsample import backward_tuning as tuning
from kernels.emsa_upsample.backward_tuning import PATCH_SIDE, Config
from kernels.emsa_upsample.calls import BATCH, SMS, Problem, in_windows, of_models
from kernels.emsa_upsample.tuning import EXPECTED, Refused, powers_of_two
from kernels.gpus import STACKS, shares
from kernels.launches import Call, Constant, Kernel, Launch

DTYPES = ("fp16", "bf16")
CELLS, CHANNELS = 16, 64  # of a program that joins dk and dv
HALF, FULL = 2, 4  # bytes


def calls(stack: str, quick: bool) -> Iterator[Call]:
    """Every call to compile for a stack: what runs of the models. `quick`: in fp16, and each once."""
    for capability, dtype in product(STACKS[stack], DTYPES[:1] if quick else DTYPES):
        wanted = EXPECTED[stack, capability, dtype]
        if capability < 80 or isinstance(wanted, Refused):
            continue
        for problem in (*of_models(), *in_windows()):
            where = (capability, problem.head_dim, problem.reduction, prod(problem.grid))
            configs = tuning.candidates(*where, windowed=problem.window is not None)
            for config in configs[:1] if quick else configs:
                yield call(capability, dtype, wanted, problem, config, is_default=config == configs[0])


def call(
    capability: int, dtype: str, wanted: str, problem: Problem, config: Config, *, is_default: bool = True
) -> Call:
    """One call with a configuration, of a batch of `BATCH`.

    Args:
        wanted: the instruction that multiplies in the attention term.
    """
    queries, channels, keys_of_one = BATCH * prod(problem.size), problem.channels, prod(problem.grid)
    keys = BATCH * problem.regions * keys_of_one
    parameters = channels * (10 * problem.reduction**2 + 2)
    # q, the gradient and dq; k, v, dk and dv; the parameters and theirs
    least = HALF * (channels * (3 * queries + 4 * keys) + 2 * parameters)
    launches, left = _launches(capability, dtype, wanted, problem, config)
    # the gradient is read by three kernels
    moved = least + HALF * 2 * channels * queries + 2 * left
    attention, upsample = config.attention, config.upsample
    return Call(
        operator="emsa_upsample_backward",
        result="query and head",
        of=problem.of,
        shape=str(problem),
        config=f"{attention.block_q}x{attention.block_k}/{attention.num_warps}w, "
        f"{upsample.channels}x{upsample.patches}x{upsample.pixels}/{upsample.num_warps}w",
        is_default=is_default,
        capability=capability,
        precision=dtype,
        results=queries * problem.heads,
        least_bytes=least,
        moved_bytes=moved,
        macs=4 * queries * keys_of_one * channels,
        times=problem.blocks,
        launches=launches,
    )


def _launches(
    capability: int, dtype: str, wanted: str, problem: Problem, config: Config
) -> tuple[tuple[Launch, ...], int]:
    """The launches of `backward.py` for a problem, and the bytes that its kernels leave for others to read."""
    queries, keys, channels = prod(problem.size), prod(problem.grid), problem.channels
    tile, units = config.attention, BATCH * problem.regions
    key_blocks = -(-keys // tile.block_k)
    tiles_of_units = [-(-prod(extent) // tile.block_q) for extent in problem.extents]
    tiles = max(tiles_of_units)
    others = units * problem.heads * key_blocks
    turns, splits = shares(tiles, others, tile.per_sm, SMS[capability])
    # in windows, a program's rounds end with its window
    rounds = sum(tiles_of_units) / (problem.regions * splits) if problem.window else turns
    first, second = powers_of_two(problem.head_dim)
    heads = {
        **{"A": problem.heads, "D": problem.head_dim, "D0": first, "D1": second},
        **{"BLOCK_Q": tile.block_q, "BLOCK_K": tile.block_k, "STAGES": tile.stages},
        **{"KEYS_FIT": key_blocks == 1, "WINDOWED": problem.window is not None},
    }
    kind = (capability, pointers(dtype), heads, tile.num_warps)
    launches = [
        launch(
            *("emsa_upsample.backward_attention:_attention", *kind),
            *(splits * problem.heads * key_blocks * units, wanted),
            turn=rounds,
        )
    ]
    if key_blocks > 1:
        programs = tiles * problem.heads * BATCH
        name = "emsa_upsample.backward_attention:_queries"
        launches.insert(0, launch(name, *kind, programs, wanted, block=key_blocks))
    of_branch, left, pieces = branch_launches(capability, dtype, problem, config)
    left += FULL * units * splits * keys * 2 * channels
    left += FULL * BATCH * problem.heads * queries * 2 if key_blocks > 1 else 0
    return (*launches, *of_branch, keys_launch(capability, dtype, problem, splits, pieces)), left


def launch(
    function: str,
    capability: int,
    types: Mapping[str, str],
    constants: Mapping[str, Constant],
    num_warps: int,
    programs: int,
    multiplies: str = "",
    **rounds: float,
) -> Launch:
    """A launch of a backward's kernel, "package.module:function", whose loops go round as often as said.

    Args:
        types: of its pointers.
    """
    kernel = Kernel(
        f"kernels.{function}",
        capability,
        tuple({**types, "eps": "fp32", "scale": "fp32"}.items()),
        frozenset({*types, *STRIDES}),
        tuple({**constants, "UPCAST": False}.items()),
        num_warps,
        3,  # Triton's default
        multiplies=multiplies,
    )
    return Launch(kernel, programs, tuple((f"{kernel.name}.{name}", often) for name, often in rounds.items()))


def branch_launches(
    capability: int, dtype: str, problem: Problem, config: Config
) -> tuple[list[Launch], int, int]:
    """The launches for the upsample term, the bytes that it leaves to be read, and its pieces of a patch."""
    channels, side = problem.channels, PATCH_SIDE[problem.reduction]
    patches = BATCH * prod(tuning.patch_grid(problem.size, problem.reduction, problem.window))
    pixels, taps = (side * problem.reduction) ** 2, tuning.taps(problem.reduction)
    statistics, upsample = config.statistics, config.upsample
    pieces, blocks = pixels // upsample.pixels, channels // upsample.channels
    tiles = -(-patches // upsample.patches)
    turns, parts = shares(tiles, pieces * blocks, upsample.per_sm, SMS[capability])

    def tiled(tile: tuning.Branch) -> dict[str, Constant]:
        return {
            **{"C": channels, "R": problem.reduction, "P": side, "TAPS": taps},
            **{"CHANNELS": tile.channels, "PATCHES": tile.patches, "PIXELS": tile.pixels},
            **{"GROUPS": tile.num_warps, "STAGES": tile.stages, "WINDOWED": problem.window is not None},
        }

    launches = [
        launch(
            *("emsa_upsample.backward_upsample:_statistics", capability, pointers(dtype)),
            *(tiled(statistics), statistics.num_warps),
            -(-patches // statistics.patches) * (pixels // statistics.pixels),
            block=channels // statistics.channels,
        ),
        launch(
            *("emsa_upsample.backward_upsample:_upsample", capability, pointers(dtype)),
            *(tiled(upsample), upsample.num_warps, parts * pieces * blocks),
            turn=turns,
        ),
    ]
    left = (
        FULL * (patches * pixels * 4 + parts * channels * pixels * taps)
        + HALF * pieces * patches * (side + 2) ** 2 * channels
    )
    return launches, left, pieces


def keys_launch(capability: int, dtype: str, problem: Problem, splits: int, pieces: int) -> Launch:
    """The launch that joins dk and dv, of the splits' sums and of the pieces that the upsample term left."""
    channels, side = problem.channels, PATCH_SIDE[problem.reduction]
    return launch(
        *("emsa_upsample.backward_upsample:_keys", capability, pointers(dtype)),
        {
            **{"C": channels, "P": side, "PIECES": pieces, "CHANNELS": CHANNELS, "CELLS": CELLS},
            "WINDOWED": problem.window is not None,
        },
        *(4, BATCH * problem.regions * -(-prod(problem.grid) // CELLS) * -(-channels // CHANNELS)),
        _=splits,
        neighbour=9,
        piece=pieces,
    )


TENSORS = ("q", "k", "v", "grad", "dq", "dk", "dv", "filters", "norm_weight", "dseen")
SUMS = ("softmax", "dkv", "statistics", "dfilters", "dnorm")
STRIDES = ("q_b", "q_n", "k_b", "k_m", "v_b", "v_m", "grad_b", "grad_n")  # multiples of 16 channels


def pointers(dtype: str, tensors: Iterable[str] = TENSORS, sums: Iterable[str] = SUMS) -> dict[str, str]:
    """Types of the pointers to tensors, and to sums in fp32."""
    return dict.fromkeys(tensors, f"*{dtype}") | dict.fromkeys(sums, "*fp32")
