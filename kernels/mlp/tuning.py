"""The kernel's tile sizes as data, and what is refused, each with its reason. No torch, no Triton.

The first that fits is what runs: on Hopper the one that was measured to be fastest (README.md); elsewhere, where
nothing was timed, by instructions a token, resident warps, and the weights, which every program reads from L2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kernels.emsa_upsample import tuning as emsa_upsample

CHANNELS = (64, 96, 128, 192, 256)
HIDDEN_MULTIPLE = 128  # of the largest block of hidden channels
DTYPES = ("fp16", "bf16")


@dataclass(frozen=True)
class Config:
    """A tile of tokens and hidden channels, the GELU between, and the warps and stages of the program."""

    block_t: int  # tokens a program
    block_h: int  # hidden channels at a time
    num_warps: int
    num_stages: int = 2
    gelu: str = "exp"  # a key of reference.GELUS
    registers: int | None = None  # at most, a thread: where one or two fewer let another program in


# Tiles by capability and channels, the best first: of 90 by its times on an H100, but for 64 channels, which were not
# timed. The weights are 16 C² bytes, read once a program: 128 or 256 tokens share them, where registers allow. 16 warps
# of 256 tokens are as many as two programs of 128, with half of that. The first of each spills nothing in either GELU
# that may run by default.
TILES: dict[int, dict[int, list[Config]]] = {
    80: {
        64: [Config(128, 64, 8), Config(64, 64, 4), Config(128, 32, 4)],
        96: [Config(64, 64, 4), Config(128, 64, 8), Config(64, 32, 4)],
        128: [Config(64, 64, 4), Config(128, 64, 8), Config(64, 32, 4)],
        192: [Config(128, 32, 8), Config(64, 32, 4)],
        256: [Config(64, 32, 4)],
    },
    90: {
        64: [
            Config(128, 64, 8),
            Config(256, 64, 16),
            Config(128, 128, 8),
            Config(64, 64, 4),
            Config(128, 64, 4),
        ],
        96: [
            Config(128, 64, 8, registers=128),
            Config(256, 64, 16),
            Config(128, 64, 8, 3),
            Config(128, 128, 8),
            Config(64, 64, 4),
            Config(128, 64, 4),
        ],
        128: [
            Config(128, 32, 8, registers=128),
            Config(128, 64, 8, 3),
            Config(128, 64, 8),
            Config(128, 128, 8),
            Config(64, 64, 4),
            Config(256, 64, 16),  # spills 24 bytes in "exp", none in "tanh"
        ],
        192: [Config(128, 64, 8, 3), Config(128, 64, 8), Config(64, 64, 4), Config(128, 32, 8, 3)],
        256: [Config(128, 64, 8), Config(128, 32, 8)],
    },
    100: {
        64: [Config(128, 64, 4), Config(128, 128, 8)],
        96: [Config(128, 64, 4), Config(128, 64, 8)],
        128: [Config(128, 64, 4), Config(128, 64, 8)],
        192: [Config(128, 64, 4), Config(128, 64, 8)],
        256: [Config(128, 64, 8)],
    },
    120: {
        64: [Config(128, 64, 8), Config(64, 64, 4)],
        96: [Config(64, 64, 4), Config(64, 32, 4)],
        128: [Config(128, 64, 8), Config(128, 32, 8)],
        192: [Config(64, 32, 4), Config(128, 32, 8)],
        256: [Config(64, 32, 4)],
    },
}
# tanh.approx may err as much as fp16 rounds, and could break the bound of 1.25 times eager's RMS; bf16 is far coarser
FASTEST_GELU = {"fp16": "exp", "bf16": "tanh"}


def candidates(dtype: str, capability: int, channels: int) -> list[Config]:
    """Configurations for a dtype ("fp16", "bf16") on sm_`capability`; the first is the one to run.

    Every tile with the dtype's own GELU, then the first tile with each of the others.
    """
    known = max(known for known in TILES if known <= capability)
    tiles, own = TILES[known][channels], FASTEST_GELU[dtype]
    others = [gelu for gelu in ("exp", "tanh", "erf") if gelu != own]
    return [
        *(replace(tile, gelu=own) for tile in tiles),
        *(replace(tiles[0], gelu=gelu) for gelu in others),
    ]


def choose(dtype: str, capability: int, channels: int) -> Config:
    """The configuration that runs."""
    return candidates(dtype, capability, channels)[0]


# ---- what is refused


def refusal(triton: tuple[int, ...], capability: int, dtype: str, channels: int, hidden: int) -> str | None:
    """Why the kernel is not to be compiled; None where it may."""
    return (
        unfit(dtype, channels, hidden)
        or (f"{TOO_OLD}, and this GPU has {capability / 10}" if capability < 80 else None)
        or emsa_upsample.refusal(triton, capability, dtype)
    )


TOO_OLD = "the fused MLP needs compute capability 8.0"


def unfit(dtype: str, channels: int, hidden: int) -> str | None:
    """Why no GPU runs a problem fused; None where some do."""
    if dtype not in DTYPES:
        # its products run on the ordinary units, and take longer than the hidden map takes to write and to read
        return f"the fused MLP takes fp16 and bf16, not {dtype}"
    if channels not in CHANNELS:
        # from 384 channels on, reading the weights for each tile takes longer than writing the hidden map
        return f"the fused MLP takes {', '.join(map(str, CHANNELS))} channels, not {channels}"
    if hidden < 1 or hidden % HIDDEN_MULTIPLE:
        return f"the fused MLP takes hidden channels in multiples of {HIDDEN_MULTIPLE}, not {hidden}"
    return None
