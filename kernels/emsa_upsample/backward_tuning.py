"""The tile sizes of the fused backward as data, and where it does not run. No torch, no Triton.

On Hopper the first of the candidates was the fastest on an H200, of up to 64 keys and with a reduction of 8 or 4
(README.md). Elsewhere it is the least by its instructions, or by the clocks of shared memory, of those that spill
nowhere: no time was measured there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kernels.emsa_upsample.tuning import FAMILY

# Reduction: cells along a patch's side, so that a patch has 16 pixels at least.
PATCH_SIDE = {8: 1, 4: 1, 2: 2, 1: 4}


@dataclass(frozen=True)
class Attention:
    """A tile of queries and keys, and the warps and stages of the program that works on it."""

    block_q: int
    block_k: int  # all keys, where these are at most as many
    num_warps: int
    stages: int = 1
    per_sm: int = 2  # programs that an SM is to have at least: so many splits are made


@dataclass(frozen=True)
class Branch:
    """A tile of patches, pixels of each, and channels; and the warps and stages of the program that works on it."""

    channels: int
    patches: int
    pixels: int
    num_warps: int
    stages: int = 1
    per_sm: int = 2


@dataclass(frozen=True)
class Config:
    """Tiles of the backward's kernels."""

    attention: Attention
    statistics: Branch
    upsample: Branch


def taps(reduction: int) -> int:
    """Taps of a patch's pixels with the bias, as a power of two."""
    return 1 << ((PATCH_SIDE[reduction] + 2) ** 2).bit_length()


def patch_grid(size: tuple[int, int], reduction: int, window: int | None) -> tuple[int, int]:
    """Rows and columns of a map's patches: of each window those that have a pixel of the map."""
    edge = PATCH_SIDE[reduction] * reduction

    def along(length: int) -> int:
        side = window or length
        before = (length - 1) // side  # windows before the last one, which may be cut off
        return before * -(-side // edge) + -(-(length - before * side) // edge)

    return along(size[0]), along(size[1])


def refusal(triton: tuple[int, ...], capability: int, dtype: str) -> str | None:
    """Why the fused backward is not to run; None where it may."""
    if dtype not in ("fp16", "bf16"):
        return "the fused backward takes half precision: products of fp32 keep their operands in registers, and spill"
    if capability < 80 or triton < (3, 3):
        return "the fused backward needs compute capability 8.0 and the cuda13 stack"
    return None


def candidates(
    capability: int, head_dim: int, reduction: int, keys: int, *, windowed: bool = False
) -> list[Config]:
    """Configurations in half precision on sm_`capability`: the one to run, then those that change one kernel of it."""
    capability = FAMILY.get(capability, capability)
    is_narrow = windowed and capability >= 120  # ptxas for sm_120 spills there what is clean without windows
    attention = _attention(capability, head_dim, reduction, keys, is_narrow)
    # with a reduction of 1, 16 channels in 4 warps spill: a thread has 64 taps of two patches
    statistics = [Branch(8 if reduction == 1 else 16, 16, 16, 4)]
    upsample = _upsample(capability, reduction, keys, windowed)
    first = Config(attention[0], statistics[0], upsample[0])
    return [
        first,
        *(replace(first, attention=tile) for tile in attention[1:]),
        *(replace(first, statistics=tile) for tile in statistics[1:]),
        *(replace(first, upsample=tile) for tile in upsample[1:]),
    ]


def _attention(capability: int, head_dim: int, reduction: int, keys: int, is_narrow: bool) -> list[Attention]:
    """Tiles of the attention term, warp instructions a query on sm_90, 49 keys: 37 (D 64), 54 (D 96)."""
    if capability not in (90, 100):  # mma.sync keeps both operands in registers
        if keys > 64:  # with blocks of 64 all that was tried spills 8 bytes at the least
            wide = Attention(32, 16, 8, per_sm=1) if capability >= 120 else Attention(16, 32, 4)
            return [Attention(64, 32, 4) if head_dim <= 64 else wide]
        if head_dim <= 64:
            return [Attention(64, 64, 4), Attention(32, 64, 4)]
        return [Attention(16 if is_narrow else 32, 64, 8, per_sm=1)]
    if capability == 100:  # a second stage fails in Triton 3.6.0's pipeliner, 128 queries spill 24 bytes
        return [Attention(64, 64, 4)]
    wide, narrow = Attention(128, 64, 8, per_sm=1), Attention(64, 64, 8, per_sm=1)
    if head_dim <= 64:
        return [Attention(64, 64, 4), Attention(64, 64, 4, stages=2), wide]
    # 96 channels in 64 rows and 4 warps spill 136 bytes
    deeper = replace(wide, stages=2)
    if keys * reduction**2 <= 64:
        return [narrow, wide, deeper]
    # two stages were the fastest of heads of 96, in windows and without, of few keys and of many; heads of 128 spill 32
    # bytes
    return [deeper, wide, narrow] if head_dim == 96 else [wide, deeper, narrow]


def _upsample(capability: int, reduction: int, keys: int, windowed: bool) -> list[Branch]:
    """Tiles of the upsample term: all sums for the filters of a tile stay in registers."""
    if reduction == 1:
        tile = Branch(8, 16, 16, 8 if capability == 80 else 4, per_sm=1)  # 4 warps spill 8 to 24 bytes there
        return [tile, replace(tile, stages=2)]
    half = Branch(16, 16, 16, 4)
    if reduction == 2:  # 16 channels in 4 warps spill 16 bytes; of 8 channels an SM has three programs
        return [replace(half, channels=8), replace(half, num_warps=8)]
    halves = [half, replace(half, stages=2)]
    if reduction == 4:
        return halves
    wide = Branch(16, 16, 32, 8, per_sm=1)
    # in windows of heads of 64, ptxas for sm_80 spills 24 bytes of a second stage
    deeper = [] if windowed and capability == 80 else [replace(wide, stages=2)]
    # on an H200, of few keys and without windows half took 246 and 289 µs where wide took 256 and 305; not in windows,
    # before their operands were laid out anew, nor of many keys
    if capability == 90 and keys <= 64 and not windowed:
        return [*halves, wide, *deeper]
    return [wide, *deeper, *halves]


def choose(capability: int, head_dim: int, reduction: int, keys: int, *, windowed: bool = False) -> Config:
    """The configuration that runs."""
    return candidates(capability, head_dim, reduction, keys, windowed=windowed)[0]
