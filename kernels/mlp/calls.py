"""The calls of the fused feed-forward that are compiled ahead of time. No torch, no Triton.

# T tokens, C channels, H = 4C hidden channels; a result is a token
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

from kernels.emsa_upsample.calls import BATCH, of_models
from kernels.emsa_upsample.tuning import EXPECTED, Refused, powers_of_two
from kernels.gpus import STACKS
from kernels.launches import Call, Constant, Kernel, Launch
from kernels.mlp import cost, tuning
from kernels.mlp.tuning import Config

MLP_RATIO = 4  # of every model


def calls(stack: str, quick: bool) -> Iterator[Call]:
    """Every call to compile for a stack: stages at 224 that the kernel takes. `quick`: what runs of them in fp16."""
    for capability, dtype in product(STACKS[stack], tuning.DTYPES[:1] if quick else tuning.DTYPES):
        wanted = EXPECTED[stack, capability, dtype]
        if capability < 80 or isinstance(wanted, Refused):
            continue
        for problem in of_models():
            if problem.channels not in tuning.CHANNELS or not problem.of.endswith("at 224"):
                continue
            configs = tuning.candidates(dtype, capability, problem.channels)
            for config in configs[:1] if quick else configs:
                yield call(
                    *(capability, dtype, wanted, problem.channels, prod(problem.size), config),
                    of=problem.of,
                    is_default=config == configs[0],
                    times=problem.blocks,
                )


def call(
    capability: int,
    dtype: str,
    wanted: str,
    channels: int,
    tokens: int,
    config: Config,
    *,
    of: str = "",
    is_default: bool = True,
    times: int = 0,
) -> Call:
    """One call with a configuration, of a batch of images with so many tokens each.

    Args:
        wanted: the instruction that must multiply.
    """
    hidden = MLP_RATIO * channels
    for_tokens, for_batch = cost.least_traffic(BATCH * tokens, channels, hidden)
    first, second = powers_of_two(channels)
    constants: dict[str, Constant] = {
        **{"C": channels, "C0": first, "C1": second, "H": hidden},
        **{"BLOCK_T": config.block_t, "BLOCK_H": config.block_h, "GELU": config.gelu},
        **{"APPROXIMATE": True, "UPCAST": False},
    }
    pointers = ("x", "w1", "b1", "w2", "b2", "out")
    kernel = Kernel(
        "kernels.mlp.forward:_mlp",
        capability,
        tuple((name, f"*{dtype}") for name in pointers),
        frozenset({*pointers, "x_t"}),
        tuple(constants.items()),
        config.num_warps,
        config.num_stages,
        multiplies=wanted,
        max_registers=config.registers,
    )
    blocks = hidden // config.block_h
    launch = Launch(kernel, -(-BATCH * tokens // config.block_t), (("_mlp.block", blocks),))
    return Call(
        operator="mlp",
        result="token",
        of=of,
        shape=f"C={channels}",
        config=f"{config.gelu} {config.block_t}x{config.block_h}/{config.num_warps}w",
        is_default=is_default,
        capability=capability,
        precision=dtype,
        results=BATCH * tokens,
        least_bytes=2 * (for_tokens + for_batch),
        moved_bytes=2 * (for_tokens + for_batch),
        macs=cost.macs(BATCH * tokens, channels, hidden),
        times=times,
        launches=(launch,),
    )
