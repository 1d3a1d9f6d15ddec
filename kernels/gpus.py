"""The GPUs that kernels are compiled for, as data: what a multiprocessor holds, and does in a clock. No torch.

# SM: streaming multiprocessor; a warp is 32 threads; a capability is the compute capability × 10
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STACKS = {"cuda12": (70, 75), "cuda13": (80, 90, 100, 120)}  # capabilities that each is compiled for


@dataclass(frozen=True)
class Sm:
    """The warps, blocks and KB of shared memory that one SM holds.

    From the CUDA C++ Programming Guide, technical specifications per compute capability (13.0; sm_70 and sm_75 from
    12.4). All of them have 65536 registers, given out in eights a thread (256 a warp), to programs of 255 a thread at
    most.
    """

    warps: int
    blocks: int
    shared_kb: int


SMS = {
    70: Sm(64, 32, 96),
    75: Sm(32, 16, 64),
    80: Sm(64, 32, 164),
    86: Sm(48, 16, 100),
    89: Sm(48, 24, 100),
    90: Sm(64, 32, 228),
    100: Sm(64, 32, 228),
    120: Sm(48, 24, 100),
}


def reserved(capability: int) -> int:
    """Bytes of shared memory that the system takes beside every program: from sm_80 on 1 KB."""
    return 1024 if capability >= 80 else 0


def most_shared(capability: int) -> int:
    """Bytes of shared memory that one program may ask for: all that an SM has, but for the system's."""
    return SMS[capability].shared_kb * 1024 - reserved(capability)


def occupancy(capability: int, registers: int, num_warps: int, shared_bytes: int) -> float:
    """Resident warps over the most there can be, by registers a thread and shared memory a program."""
    sm = SMS[capability]
    warps_by_registers = 65536 // (256 * -(-registers // 8))
    # each of the four schedulers has its own quarter of the registers
    blocks = min(sm.blocks, sm.warps // num_warps, warps_by_registers // 4 * 4 // num_warps)
    if each := shared_bytes + reserved(capability):
        blocks = min(blocks, sm.shared_kb * 1024 // each)
    return blocks * num_warps / sm.warps


def shares(tiles: int, others: int, per_sm: int, sms: int) -> tuple[int, int]:
    """Tiles a program and programs that share them, so that with `others` beside each a GPU of so many SMs is full."""
    wanted = max(1, round(per_sm * sms / others))
    turns = -(-tiles // min(tiles, wanted))
    return turns, -(-tiles // turns)


@dataclass(frozen=True)
class Rates:
    """The most that one SM does in a clock.

    `lanes` are results a clock by `kernels.sass.pipe`, of one thread's instruction each, so that 32 are a warp's. Those
    of arithmetic are from the CUDA C++ Best Practices Guide 13.0, table "Throughput of Native Arithmetic Instructions"
    (sm_70 and sm_75: the same table of the CUDA C++ Programming Guide 12.4). What has several rates there has that of
    the fastest here, so that what follows is a bound: "alu" that of integer additions, "mufu" that of reciprocals,
    exponentials and conversions. "half2" and "fma2" are instructions of two results each. "lsu" are the load/store
    units, and `l1_bytes` go in a clock through L1 and shared memory, both by the whitepaper of each architecture.
    """

    lanes: Mapping[str, int]
    macs: Mapping[str, int]  # multiply-accumulates of the matrix units, by precision
    l1_bytes: int
    half2_in_fma: (
        bool  # half precision has no unit of its own: since GA10x, by Nsight Compute's list of pipelines
    )
    issued: int = 4  # instructions, one a scheduler

    @property
    def units(self) -> Mapping[str, tuple[str, ...]]:
        """The pipes that share a unit, by its name."""
        fma = tuple(pipe for pipe in ("fma", "fma2", "imad") if pipe in self.lanes)
        half2: dict[str, tuple[str, ...]] = {"fma": (*fma, "half2")}
        if not self.half2_in_fma:
            half2 = {"fma": fma, "half2": ("half2",)}
        return half2 | {"alu": ("alu", "minmax"), "mufu": ("mufu",), "lsu": ("lsu",)}


def _lanes(fma: int, half2: int, lsu: int = 32, minmax: int = 64, **more: int) -> dict[str, int]:
    """Lanes by pipe; what is not named is the same on all of them."""
    return {
        "fma": fma,
        "half2": half2,
        "imad": 64,
        "alu": 64,
        "minmax": minmax,
        "mufu": 16,
        "lsu": lsu,
    } | more


# Multiply-accumulates a clock: NVIDIA's whitepapers of V100, Turing, A100 and H100; for sm_100 what the datasheet's
# rate comes to at the clock below.
RATES = {
    70: Rates(_lanes(64, 64), {"fp16": 512}, 128, half2_in_fma=False),
    75: Rates(_lanes(64, 64, lsu=16), {"fp16": 512}, 64, half2_in_fma=False),
    80: Rates(_lanes(64, 128), {"fp16": 1024, "bf16": 1024, "tf32": 512}, 128, half2_in_fma=False),
    90: Rates(_lanes(128, 128), {"fp16": 2048, "bf16": 2048, "tf32": 1024}, 128, half2_in_fma=True),
    100: Rates(
        _lanes(128, 64, minmax=128, fma2=64),
        {"fp16": 4096, "bf16": 4096, "tf32": 2048},
        128,
        half2_in_fma=True,
    ),
}


@dataclass(frozen=True)
class Gpu:
    """A GPU for which bounds are given. `profile` is its table in bench/machine/gpus.toml, which a test compares.

    The clock is that at which the datasheet's matrix rate is reached: rate / (2 · SMs · MACs a clock). It is the boost
    clock that the whitepapers of V100 (1530), T4 (1590), A100 (1410) and H100 (1830 MHz) print.
    """

    name: str
    profile: str
    capability: int
    sms: int
    clock_ghz: float
    bandwidth_gb_s: float  # 1e9 bytes/s, as the datasheets named in gpus.toml print it

    @property
    def bytes_a_clock(self) -> float:
        """Bytes of DRAM in a clock, for one SM when all of them take their share."""
        return self.bandwidth_gb_s / self.clock_ghz / self.sms


GPUS = (
    Gpu("V100", "v100", 70, 80, 1.530, 900),
    Gpu("T4", "t4", 75, 40, 1.590, 320),
    Gpu("A100", "a100", 80, 108, 1.410, 2039),
    Gpu("H100", "h100", 90, 132, 1.830, 3350),
    Gpu("H200", "h200", 90, 132, 1.830, 4800),
    Gpu("B200", "b200", 100, 148, 1.856, 7700),
)
