"""The calls of the operator that are compiled ahead of time: its launches by configuration, without torch or Triton.

# N = H·W queries, M keys, A heads, D head width, R reduction; a result is one query of one head
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

from kernels.emsa_upsample import cost, tuning
from kernels.emsa_upsample.tuning import Config
from kernels.gpus import GPUS, STACKS
from kernels.launches import Call, Constant, Kernel, Launch

BATCH = 64
PRECISIONS = ("fp16", "bf16", "fp32", "tf32")  # tf32: fp32 data, TF32 products
PACKAGE = "kernels.emsa_upsample"


@dataclass(frozen=True)
class Problem:
    """A feature map and its heads; of a stage of a model, where it is named."""

    head_dim: int
    reduction: int
    heads: int
    size: tuple[int, int]
    of: str = ""
    blocks: int = 0  # of the stage
    window: int | None = None  # side of the windows that the map is cut into

    @property
    def regions(self) -> int:
        """Windows of an image; 1 where there are none."""
        return cost.windows_of(self.size, self.window) if self.window else 1

    @property
    def region(self) -> tuple[int, int]:
        """Height and width of what attends to itself: the map, or a window."""
        return (self.window, self.window) if self.window else self.size

    @property
    def extents(self) -> list[tuple[int, int]]:
        """Height and width of what each region has of the map: its queries that are no padding."""
        rows, columns = (
            [min(self.window or side, side - at) for at in range(0, side, self.window or side)]
            for side in self.size
        )
        return list(product(rows, columns))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the keys of a region."""
        return cost.ceil_div(self.region, self.reduction)

    @property
    def channels(self) -> int:
        return self.heads * self.head_dim

    def __str__(self) -> str:
        windows = f" windows={self.regions}" if self.window else ""
        return f"D={self.head_dim} r={self.reduction} heads={self.heads} keys={prod(self.grid)}{windows}"


# name, head width, heads and blocks of the stages: as models/variants.py has them, which a test compares
MODELS = {
    "ResTv2-T": (96, (1, 2, 4, 8), (1, 2, 6, 2)),
    "ResTv2-L": (64, (2, 4, 8, 16), (2, 3, 16, 2)),
}
STRIDES, REDUCTIONS, WINDOWS = (4, 8, 16, 32), (8, 4, 2, 1), (64, 32, 16, 8)  # of stages 1 to 4
IMAGES = {"224": ((224, 224), 4), "384": ((384, 384), 1), "800x1344": ((800, 1344), 1)}  # with their stages


def of_models() -> Iterator[Problem]:
    """The problems of ResTv2-T and -L that have a bound: all stages at 224, the first of larger images."""
    for (model, (head_dim, heads, depths)), (name, (size, stages)) in product(MODELS.items(), IMAGES.items()):
        for stage in range(stages):
            yield Problem(
                *(head_dim, REDUCTIONS[stage], heads[stage], cost.ceil_div(size, STRIDES[stage])),
                f"{model}, stage {stage + 1} at {name}",
                depths[stage],
            )


def in_windows() -> Iterator[Problem]:
    """The problems of ResTv2-T and -L in the paper's windows: all stages of a detector's image."""
    size, _ = IMAGES["800x1344"]
    for model, (head_dim, heads, depths) in MODELS.items():
        for stage, window in enumerate(WINDOWS):
            yield Problem(
                *(head_dim, REDUCTIONS[stage], heads[stage], cost.ceil_div(size, STRIDES[stage])),
                f"{model} in windows, stage {stage + 1} at 800x1344",
                depths[stage],
                window,
            )


def others() -> Iterator[Problem]:
    """Further problems of the kernel: every head width, few keys and many.

    One head where the reduction is 8, else two, so that both LayerNorms are there. Head widths that no model has are
    taken with two reductions.
    """
    for head_dim, reduction, grid in product(
        sorted(tuning.HEAD_DIMS, reverse=True), tuning.REDUCTIONS, ((7, 7), (25, 42))
    ):
        if head_dim in tuning.MODELS_HEAD_DIMS or reduction in (8, 2):
            size = (grid[0] * reduction, grid[1] * reduction)
            yield Problem(head_dim, reduction, 1 if reduction == 8 else 2, size)


def calls(stack: str, quick: bool) -> Iterator[Call]:
    """Every call to compile for a stack. `quick`: what runs of the models in fp16, and one of each other dtype."""
    for capability, precision in product(STACKS[stack], PRECISIONS):
        wanted = tuning.EXPECTED[stack, capability, precision]
        if isinstance(wanted, tuning.Refused):
            continue
        if quick and precision == "fp16":
            problems = [*of_models(), *in_windows()]
        elif quick:
            problems = [next(of_models())]
        else:
            problems = [*of_models(), *in_windows(), *others()]
        for problem in problems:
            configs = tuning.candidates(
                dtype_of(precision),
                capability,
                problem.head_dim,
                problem.reduction,
                problem.heads,
                prod(problem.grid),
                windowed=problem.window is not None,
            )
            for config in configs[:1] if quick else configs:
                yield call(capability, precision, wanted, problem, config, is_default=config == configs[0])


def dtype_of(precision: str) -> str:
    """The dtype as `tuning` names it."""
    return "fp32" if precision == "tf32" else precision


def named(config: Config) -> str:
    """A configuration in a word or two: design, queries, keys and warps; phases and channels at a time, programs."""
    tile = f"{config.design} {config.block_q}x{config.block_k}/{config.num_warps}w"
    if config.design in ("phase", "cell"):
        return tile
    walks = f" {config.programs}/SM" if config.design == "resident" else ""
    registers = f" {config.registers}regs" if config.registers else ""
    return f"{tile} P{config.phases} L{config.channels}{walks}{registers}"


def call(
    capability: int, precision: str, wanted: str, problem: Problem, config: Config, *, is_default: bool = True
) -> Call:
    """One call with a configuration, of a batch of `BATCH`.

    Args:
        wanted: the instruction that must multiply.
    """
    element = 4 if dtype_of(precision) == "fp32" else 2
    for_image, for_batch = cost.least_traffic(
        problem.size, problem.channels, problem.reduction, problem.window
    )
    least = element * (BATCH * for_image + for_batch)
    queries = BATCH * prod(problem.size)
    launches = _launches(capability, precision, wanted, problem, config)
    # LayerNorm's statistics, two fp32 for each query, are written by one kernel and read by another
    apart = any("statistics" in launch.kernel.name for launch in launches)
    return Call(
        operator="emsa_upsample",
        result="query and head",
        of=problem.of,
        shape=str(problem),
        config=named(config),
        is_default=is_default,
        capability=capability,
        precision=precision,
        results=queries * problem.heads,
        least_bytes=least,
        moved_bytes=least + (2 * 2 * 4 * queries if apart else 0),
        macs=2 * queries * prod(problem.grid) * problem.channels,
        times=problem.blocks,
        launches=launches,
    )


def _launches(
    capability: int, precision: str, wanted: str, problem: Problem, config: Config
) -> tuple[Launch, ...]:
    """The launches of `launch.py` for a problem."""
    keys, phases = prod(problem.grid), problem.reduction**2
    settings = tuning.kernels(config, problem.head_dim, problem.reduction, problem.heads, keys)
    tiles = _tiles(config, problem)
    pieces = 1 if problem.reduction == 2 else max(1, phases // config.phases)
    most = max(1, config.programs * SMS[capability] // pieces)
    parts, walked = tuning.walk(BATCH, tiles // pieces, most)
    walkers = min(most, BATCH * parts)
    programs = {
        "forward._emsa_statistics": BATCH * tiles,
        "forward._emsa_upsample": BATCH * tiles * problem.heads,
        "forward_resident.emsa_resident": pieces * walkers,
        "forward_heads.emsa_heads": BATCH * tiles,
        "forward_loop.emsa_loop": BATCH * tiles,
        "forward_long.emsa_long_statistics": BATCH * tiles,
        "forward_long.emsa_long": BATCH * tiles * problem.heads,
        "up_product.pack_filters": pieces * problem.channels // 16,
    }
    trips = {
        "_upsampled.i": 3,  # rows of taps
        "_emsa_statistics.head": problem.heads,
        "_emsa_upsample.block": -(-keys // config.block_k),
        "emsa_resident.unit": BATCH * parts / walkers,
        "emsa_resident.tile": walked,
        "emsa_loop.head": problem.heads,
        "emsa_long_statistics.head": problem.heads,
        "emsa_long._": (keys - 1) // config.block_k,
    }
    return tuple(
        Launch(
            Kernel(
                f"{PACKAGE}.{name.replace('.', ':')}",
                capability,
                _types(dtype_of(precision)),
                ALIGNED,
                tuple(
                    {
                        **(constants | CONSTANTS),
                        "WINDOWED": problem.window is not None,
                        "PRECISION": "tf32" if precision == "tf32" else "ieee",
                    }.items()
                ),
                constants["num_warps"],
                constants.get("num_stages", 2),
                "" if "statistics" in name or "pack" in name else wanted,
                may_spill=config.spills,
                max_registers=constants.get("maxnreg"),
            ),
            programs[name],
            tuple(trips.items()),
        )
        for name, constants in settings.items()
    )


def _tiles(config: Config, problem: Problem) -> int:
    """Tiles of an image, without those that are all padding, whose programs end at once."""
    if not problem.window:
        return tuning.tiles(config, problem.reduction, problem.grid)
    found, columns = 0, problem.grid[1]
    for extent in problem.extents:
        rows_there, columns_there = cost.ceil_div(extent, problem.reduction)
        cells = {"phase": problem.grid, "cell": (rows_there, columns_there)}
        found += tuning.tiles(config, problem.reduction, cells.get(config.design, (rows_there, columns)))
    return found


# Multiprocessors, as many as programs walk on; sm_120's are of an RTX 5090 (NVIDIA RTX Blackwell whitepaper, table 3).
SMS = {120: 170} | {gpu.capability: gpu.sms for gpu in GPUS}
CONSTANTS: dict[str, Constant] = {"HAS_BIAS": True, "UPCAST": False}  # every model has a bias
TENSORS = ("q", "k", "v", "taps", "pack", "up_weight", "up_bias", "norm_weight", "norm_bias", "out")
STRIDES_OF_TENSORS = ("q_b", "q_n", "k_b", "k_m", "v_b", "v_m")
ALIGNED = frozenset({*TENSORS, *STRIDES_OF_TENSORS, "statistics"})  # strides are multiples of 16 channels


def _types(dtype: str) -> tuple[tuple[str, str], ...]:
    """Types of parameters that are no i32."""
    pointers = dict.fromkeys(TENSORS, f"*{dtype}") | {"statistics": "*fp32"}
    return tuple((pointers | {"eps": "fp32", "scale": "fp32"}).items())
