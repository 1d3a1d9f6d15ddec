"""The kernel's tile sizes as data, and what is refused, each with its reason. No torch, no Triton.

`make kernels` compiles every entry for every GPU that it is for, and fails where one spills more than it may or where
a matrix instruction is lost. The first that fits is what runs: on Hopper the one that was measured to be fastest;
elsewhere, where nothing was timed, the one of fewest instructions per query.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

HEAD_DIMS = tuple(range(16, 129, 16))
MODELS_HEAD_DIMS = (96, 64)  # of ResTv2-T, S and B; of L and Lite
REDUCTIONS = (1, 2, 4, 8)
MOST_KEYS_OF_A_WINDOW = 64  # one block; the models have no other
DESIGNS_IN_WINDOWS = ("cell", "phase", "heads", "loop")


@dataclass(frozen=True)
class Config:
    """A design, its tile of queries and keys, and the warps and stages of the program that works on it.

    Designs: "phase" and "cell" are forward.py, whose tile is one phase of many cells, or phases of one cell (R² of them
    at least); the others are forward_NAME.py, whose tile is `phases` of each of block_q / phases sites.
    """

    block_q: int  # queries a tile
    block_k: int  # keys at a time
    num_warps: int
    num_stages: int = 2
    design: str = "phase"
    phases: int = 16
    channels: int = 64  # of a head, at a time, at most
    programs: int = 1  # of "resident", on each multiprocessor
    spills: int = 0  # bytes a thread, at most
    registers: int | None = None  # that a thread may take; default: as many as there are


def powers_of_two(head_dim: int) -> tuple[int, int]:
    """Head width as two powers of two, 96 → 64, 32; 64 → 64, 0; 112 → 64, 64. `tl.dot` needs 16 at least."""
    first = 1 << (head_dim.bit_length() - 1)
    rest = head_dim - first
    return first, (1 << (rest - 1).bit_length()) if rest else 0


@cache
def kernels(
    config: Config, head_dim: int, reduction: int, heads: int, keys: int
) -> dict[str, dict[str, Any]]:
    """The kernels that a design launches, "module.function" in their order: constants and the compiler's options.

    Beside HAS_BIAS, and PRECISION and UPCAST in what multiplies matrices, which no tile depends on.
    """
    first, second = powers_of_two(head_dim)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    if config.registers:
        options["maxnreg"] = config.registers
    if config.design in ("phase", "cell"):
        tile = {"BLOCK_Q": config.block_q, "PER_CELL": config.design == "cell"}
        shared = {"A": heads, "D": head_dim, "D0": first, "D1": second, "R": reduction, **tile, **options}
        main = shared | {"SEVERAL": keys > config.block_k, "BLOCK_K": config.block_k}
        statistics = {"forward._emsa_statistics": shared} if heads > 1 else {}
        return statistics | {"forward._emsa_upsample": main}

    main = _product(config, head_dim, reduction) | options | {"BLOCK_K": config.block_k}
    if config.design == "resident":
        return {"forward_resident.emsa_resident": main}
    found: dict[str, dict[str, Any]] = {
        "up_product.pack_filters": {"PAIRED": reduction == 2, "P": config.phases, "L": 16, "num_warps": 4}
    }
    if config.design == "long" and heads > 1:
        # 8 warps, or windows loaded a head ahead, spill 8 bytes
        statistics = _product(replace(config, num_warps=4), head_dim, reduction)
        found["forward_long.emsa_long_statistics"] = statistics | {
            "A": heads,
            "num_warps": 4,
            "num_stages": 1,
        }
    if config.design == "long":
        main["LAST_K"] = last_keys(config, keys)
    return found | {f"forward_{config.design}.emsa_{config.design}": {"A": heads, **main}}


def _product(config: Config, head_dim: int, reduction: int) -> dict[str, Any]:
    """The constants of a convolution that is a product: `up_product.py` says what they are."""
    first, second = parts(head_dim, config.channels)
    sites = config.block_q // config.phases

    def products(channels: int) -> int:
        """Products of a part: one for each channel of a thread, which has two sites of it, and 4 at most."""
        return max(1, min(4, sites // 2 * channels // (32 * config.num_warps)))

    return {
        **{"D": head_dim, "L0": first, "L1": second, "R": reduction, "S": sites, "P": config.phases},
        **{"N0": products(first), "N1": products(second), "WARPS": config.num_warps},
    }


def last_keys(config: Config, keys: int) -> int:
    """Room of the last block of keys in "long": two sizes, or a kernel would be compiled for each of many images."""
    rest = keys - (keys - 1) // config.block_k * config.block_k
    return 32 if rest <= 32 else config.block_k


def tiles(config: Config, reduction: int, grid: tuple[int, int]) -> int:
    """Tiles of an image whose keys are rows and columns of `grid`: of queries, all heads."""
    rows, columns = grid
    cells, phases = rows * columns, reduction**2
    if config.design == "cell":
        return cells * -(-phases // config.block_q)
    if config.design == "phase":
        return phases * -(-cells // config.block_q)
    if reduction == 2:  # a site is two cells
        cells, phases = rows * -(-columns // 2), config.phases
    return phases // config.phases * -(-cells // (config.block_q // config.phases))


def walk(images: int, tiles: int, walkers: int) -> tuple[int, int]:
    """Parts that an image's tiles are cut in, and tiles of one, so that the busiest of the walkers has least to do.

    A part is counted as half a tile more than it has, for the keys and values that it starts with (an estimate).
    """

    def busiest(parts: int) -> float:
        return -(-images * parts // walkers) * (-(-tiles // parts) + 0.5)

    each = -(-tiles // min(range(1, tiles + 1), key=busiest))
    return -(-tiles // each), each


def parts(head_dim: int, most: int) -> tuple[int, int]:
    """Widths of a head's first part and of every other, powers of two, the second 0 where there is one part.

    96 → 64, 32 or, of 32 at most, 32, 32. 112 cannot be taken so.
    """
    first, second = powers_of_two(head_dim)
    if first > most:
        first = second = min(most, head_dim & -head_dim)
    return first, second


# The fastest of all that are below, and of their variants in warps, rows, phases and programs, on an H200, by head
# width, reduction and heads: fp16, 224×224, batch 256. README.md has the times. Four warps won throughout, where
# eight take fewer instructions: two programs an SM hide more than they cost.
FASTEST_ON_HOPPER = {
    (96, 8, 1): Config(128, 64, 4, design="resident", programs=2, spills=184),
    (96, 4, 2): Config(128, 64, 4, design="heads", channels=32, spills=664),
    (96, 2, 4): Config(64, 64, 4, design="heads", phases=8, spills=1064),
    (64, 8, 2): Config(128, 64, 4, design="heads", spills=272),
    (64, 4, 4): Config(64, 64, 4, design="heads", phases=8, spills=216),
    (64, 2, 8): Config(64, 64, 4, design="loop", phases=8, spills=72),
}
# Where it is another in windows: 800×1344, batch 8, on an H200, before operands were laid out without bank conflicts.
FASTEST_IN_WINDOWS = {
    (96, 4, 2): Config(64, 64, 4, design="heads", phases=8, spills=64),
    (96, 2, 4): Config(64, 64, 4),
    (96, 1, 8): Config(64, 64, 8),
    # not timed in windows; its statistics spill in bf16
    (64, 8, 2): Config(64, 64, 4, design="cell", spills=24),
}
# The same of more than 64 keys, by the most keys that it was timed with, or is taken for: 384×384 at batch 64, 800×1344
# at batch 8. Nobody timed a reduction of 2, where a site is two cells and phases are 8.
FASTEST_OF_MANY_KEYS = {
    256: Config(128, 64, 4, design="long", spills=304),
    None: Config(128, 64, 8, design="long", registers=128, spills=120),
}
OF_MANY_KEYS_IN_PAIRS = Config(128, 64, 4, design="long", phases=8, spills=376)


# Bytes that a thread of "loop" and "long" may spill where nothing was timed. To lay operands out without bank conflicts
# takes registers. On Hopper, tiles that spill more than this were the fastest.
MOST_SPILLS = 128


def candidates(
    dtype: str,
    capability: int,
    head_dim: int,
    reduction: int,
    heads: int,
    keys: int,
    triton: tuple[int, ...] = (3, 6),
    *,
    windowed: bool = False,
) -> list[Config]:
    """Configurations for a dtype ("fp32", "fp16", "bf16") on sm_`capability`; the first is the one to run.

    After what was measured, those whose convolution is on matrix units: they take fewer instructions a query. In
    windows a tile of "phase" comes last of these, which has pixels of the whole window, and so never only padding.
    """
    # Triton 3.1 has no tuples in kernels
    products = dtype != "fp32" and capability >= 80 and head_dim in MODELS_HEAD_DIMS and triton >= (3, 3)
    fastest = _fastest(head_dim, reduction, heads, keys, windowed) if products and capability == 90 else None
    others = [
        *(_products(capability, head_dim, reduction, heads, keys) if products else []),
        *_vector(dtype, FAMILY.get(capability, capability), head_dim, reduction, keys),
    ]
    if windowed:
        others = [config for config in others if config.design in DESIGNS_IN_WINDOWS]
        others.sort(key=lambda config: config.design == "phase")
    if fastest:  # which may spill where the same tile by its counts may not
        others = [fastest, *(each for each in others if replace(each, spills=fastest.spills) != fastest)]
    return list(dict.fromkeys(others))


def _fastest(head_dim: int, reduction: int, heads: int, keys: int, windowed: bool) -> Config | None:
    """The configuration that was fastest on an H200; None where none was timed.

    In windows, what was not timed there is as it is without.
    """
    which = (head_dim, reduction, heads)
    if windowed:
        found = FASTEST_IN_WINDOWS.get(which) or FASTEST_ON_HOPPER.get(which)
        return found if found and found.design in DESIGNS_IN_WINDOWS else None
    if keys > 64:
        if reduction < 4:
            return OF_MANY_KEYS_IN_PAIRS if reduction == 2 else None
        return next(found for most, found in FASTEST_OF_MANY_KEYS.items() if most is None or keys <= most)
    return FASTEST_ON_HOPPER.get(which)


def _products(capability: int, head_dim: int, reduction: int, heads: int, keys: int) -> list[Config]:
    """Configurations in half precision whose convolution is a product.

    `channels` is 32 where 64 + 32 would spill: on all but sm_90, and there in "loop".
    """
    if reduction == 1:  # a site would be 2×2 pixels, with 16 taps and no room for the bias: untried
        return []
    wide = head_dim == 96
    phases = 8 if reduction == 2 else 16
    spills = 0 if capability == 90 else MOST_SPILLS
    if keys > 64:
        # sm_100 holds its sums in memory of their own, for 4 warps; elsewhere 128 keys spill but on sm_90
        block_k = 128 if capability == 90 and keys > 128 else 64
        # but where a window has twelve taps and 96 channels: 4 warps spill 56 bytes there
        warps = 4 if capability == 100 and not (wide and reduction == 2) else 8
        config = Config(128, block_k, warps, design="long", phases=8, spills=spills)
        return [config, replace(config, block_k=64)] if block_k == 128 else [config]
    found = []
    if (reduction, heads) == (8, 1) and wide and FAMILY.get(capability) == 80:
        # sm_86 and sm_89 spill 16 bytes of resident filters
        found.append(Config(128, 64, 8, design="heads", channels=32))
    elif (reduction, heads) == (8, 1):
        # 32 + 32 + 32 spill 8 bytes on sm_80
        found.append(Config(128, 64, 8, design="resident", channels=32 if wide and capability == 100 else 64))
    if reduction in (4, 8) and heads == 2:
        # with 32 channels at a time a program takes 184 registers in place of 254 (D 96, sm_90)
        found += [Config(128, 64, 8, design="heads", channels=32 if wide and capability != 90 else 64)]
        if wide and capability == 90:
            found += [
                Config(128, 64, 8, design="heads", channels=32),
                Config(128, 64, 8, design="heads", phases=8),
            ]
    if heads > 1 and not (capability == 90 and wide and reduction == 2):  # where it spills 32 bytes
        channels = 32 if wide else 64
        found.append(Config(128, 64, 8, design="loop", phases=phases, channels=channels, spills=spills))
    if (
        not wide and reduction == 8 and FAMILY.get(capability, capability) != 80
    ):  # two programs an SM; there it spills
        small = Config(64, 64, 4, design="heads" if heads == 2 else "resident", phases=8, programs=2)
        found += [small] if heads <= 2 else []
    return found


def _vector(dtype: str, capability: int, head_dim: int, reduction: int, keys: int) -> list[Config]:
    """Configurations of forward.py, which runs everywhere.

    The exceptions are where the compiler, to fit one program more, would rather spill a few bytes.
    """
    if dtype == "fp32":  # larger tiles spill: fp32 products keep their operands in registers
        spilt = capability == 120 or (capability, head_dim) in ((75, 64), (100, 80))
        return [Config(16, 16, 8 if spilt else 4)]
    if head_dim not in MODELS_HEAD_DIMS:
        return [_of_other_width(capability, head_dim)]
    if capability < 80:
        return [Config(64 if (head_dim, reduction) == (96, 1) else 32, 32, 8)]
    # what an online softmax carries along spills beside 64 keys; on sm_120 in fp16, beside 32
    block_k = 64 if keys <= 64 or (capability, dtype) == (120, "fp16") else 32
    phases = Config(64, block_k, 4)
    if capability == 90 and keys > 128:  # 550 instructions a query in place of 792, at 1050 keys, D 96, r 1
        return [Config(128, 128, 8), phases]
    # 64 phases fill a tile with one cell: 148 instructions a query where the other design has 168 (sm_90, fp16, D 96)
    return [Config(64, block_k, 4, design="cell"), phases] if reduction == 8 else [phases]


def _of_other_width(capability: int, head_dim: int) -> Config:
    """Configuration for half precision in heads that no model here has: it spills nowhere, and is not tuned further."""
    if capability < 80:
        return Config(16, 16, 8)
    if capability not in (90, 100):
        return Config(32, 32, 8)
    # fewer than 64 rows do not reach the products of a warpgroup, and 128 channels of sm_100 want twice as many
    rows = 128 if (capability, head_dim) == (100, 128) else 64
    return Config(rows, 32, 4 if (capability, head_dim) == (90, 48) else 8)


def choose(*call: Any, windowed: bool = False) -> Config:
    """The configuration that runs: arguments as for `candidates`."""
    return candidates(*call, windowed=windowed)[0]


# ---- which instruction multiplies, or why nothing does: by Triton's version, compute capability and dtype

BF16 = "bf16 needs compute capability 8.0"
TF32 = "TF32 needs compute capability 8.0"
LOST = "Triton 3.2 and later do not reach the tensor cores of this GPU in fp16: use the cuda12 stack"
TOO_OLD = "the fused kernel needs compute capability 7.0"
TOO_NEW = "Triton 3.1 does not know this GPU: use the cuda13 stack"
UNKNOWN = "the fused kernel was compiled for no GPU of compute capability"

# GPUs that run the code of another: the same instructions, from the same compiler, with room for the tiles that are
# offered. Not 10.3 and 11.0, whose tensor memory is as in 10.0, but which Triton 3.6 compiles wrongly or not at all;
# not 8.7, which nobody has looked at.
FAMILY = {86: 80, 89: 80, 121: 120}


def refusal(triton: tuple[int, ...], capability: int, dtype: str) -> str | None:
    """Why the kernel is not to be compiled; None where it may. Some refusals prevent an abort of the process."""
    if capability < 70:
        return f"{TOO_OLD}, and this GPU has {capability / 10}"
    if dtype == "bf16" and capability < 80:
        return f"{BF16}, and this GPU has {capability / 10}"
    if dtype == "fp16" and capability < 80 and triton >= (3, 2):
        return LOST
    if capability >= 100 and triton < (3, 3):
        return TOO_NEW
    if FAMILY.get(capability, capability) not in {known for _, known, _ in EXPECTED}:
        return f"{UNKNOWN} {capability / 10}"
    return None


@dataclass(frozen=True)
class Refused:
    """The reason why nothing is compiled, in place of an instruction."""

    reason: str


# The instruction that each must multiply by; `make kernels` compares. IEEE fp32 never uses matrix units. Triton 3.1
# has Volta's and Turing's; from Triton 3.2 on, fp16 there ends the process or falls back to FMA (3.6), so it is
# refused. sm_120 has neither wgmma (HGMMA) nor tcgen05 (UTCHMMA): its warps multiply as on sm_80.
EXPECTED: dict[tuple[str, int, str], str | Refused] = {
    ("cuda12", 70, "fp16"): "HMMA.884",
    ("cuda12", 70, "bf16"): Refused(BF16),
    ("cuda12", 70, "fp32"): "FFMA",
    ("cuda12", 70, "tf32"): Refused(TF32),
    ("cuda12", 75, "fp16"): "HMMA.1688",
    ("cuda12", 75, "bf16"): Refused(BF16),
    ("cuda12", 75, "fp32"): "FFMA",
    ("cuda12", 75, "tf32"): Refused(TF32),
    ("cuda13", 80, "fp16"): "HMMA.16816",
    ("cuda13", 80, "bf16"): "HMMA.16816",
    ("cuda13", 80, "fp32"): "FFMA",
    ("cuda13", 80, "tf32"): "HMMA.1688.TF32",
    ("cuda13", 90, "fp16"): "HGMMA",
    ("cuda13", 90, "bf16"): "HGMMA",
    ("cuda13", 90, "fp32"): "FFMA",
    ("cuda13", 90, "tf32"): "HMMA.1688.TF32",
    ("cuda13", 100, "fp16"): "UTCHMMA",
    ("cuda13", 100, "bf16"): "UTCHMMA",
    ("cuda13", 100, "fp32"): "FFMA",
    ("cuda13", 100, "tf32"): "HMMA.1688.TF32",
    ("cuda13", 120, "fp16"): "HMMA.16816",
    ("cuda13", 120, "bf16"): "HMMA.16816",
    ("cuda13", 120, "fp32"): "FFMA",
    ("cuda13", 120, "tf32"): "HMMA.1688.TF32",
}
