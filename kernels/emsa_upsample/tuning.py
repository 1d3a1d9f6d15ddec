"""The kernel's tile sizes as data, and what is refused, each with its reason. No torch, no Triton.

`make kernels` compiles every entry for every GPU that it is for, and fails where one spills or where a matrix
instruction is lost. The first that fits is what runs; no time was measured on a GPU yet, so the order is by
instructions per query and occupancy.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD_DIMS = tuple(range(16, 129, 16))
MODELS_HEAD_DIMS = (96, 64)  # of ResTv2-T, S and B; of L and Lite
REDUCTIONS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Config:
    """A tile of queries and keys, and the warps and stages of the program that works on it."""

    block_q: int  # queries a program
    block_k: int  # keys at a time
    num_warps: int
    num_stages: int = 2
    per_cell: bool = False  # a tile is phases of one cell (R² of them at least), else one phase of many cells


def powers_of_two(head_dim: int) -> tuple[int, int]:
    """Head width as two powers of two, 96 → 64, 32; 64 → 64, 0; 112 → 64, 64. `tl.dot` needs 16 at least."""
    first = 1 << (head_dim.bit_length() - 1)
    rest = head_dim - first
    return first, (1 << (rest - 1).bit_length()) if rest else 0


def candidates(dtype: str, capability: int, head_dim: int, reduction: int, keys: int) -> list[Config]:
    """Configurations for a dtype ("fp32", "fp16", "bf16") on sm_`capability`; the first is the one to run.

    The exceptions are where the compiler, to fit one program more, would rather spill a few bytes.
    """
    if dtype == "fp32":  # larger tiles spill: fp32 products keep their operands in registers
        spilt = capability == 120 or (capability, head_dim) in ((75, 64), (100, 80))
        return [Config(16, 16, 8 if spilt else 4)]
    if head_dim not in MODELS_HEAD_DIMS:
        return [_of_other_width(capability, head_dim)]
    if capability < 80:
        return [Config(64 if (capability, head_dim, reduction) == (75, 96, 1) else 32, 32, 8)]
    # what an online softmax carries along spills beside 64 keys; on sm_120 in fp16, beside 32
    block_k = 64 if keys <= 64 or (capability, dtype) == (120, "fp16") else 32
    phases = Config(64, block_k, 4)
    # 64 phases fill a tile with one cell: 148 instructions a query where the other design has 168 (sm_90, fp16, D 96)
    return [Config(64, block_k, 4, per_cell=True), phases] if reduction == 8 else [phases]


def _of_other_width(capability: int, head_dim: int) -> Config:
    """Configuration for half precision in heads that no model here has: it spills nowhere, and is not tuned further."""
    if capability < 80:
        return Config(16, 16, 8)
    if capability not in (90, 100):
        return Config(32, 32, 8)
    # fewer than 64 rows do not reach the products of a warpgroup, and 128 channels of sm_100 want twice as many
    rows = 128 if (capability, head_dim) == (100, 128) else 64
    return Config(rows, 32, 4 if (capability, head_dim) == (90, 48) else 8)


def choose(dtype: str, capability: int, head_dim: int, reduction: int, keys: int) -> Config:
    """The configuration that runs."""
    return candidates(dtype, capability, head_dim, reduction, keys)[0]


# ---- which instruction multiplies, or why nothing does: by Triton's version, compute capability and dtype

BF16 = "bf16 needs compute capability 8.0"
TF32 = "TF32 needs compute capability 8.0"
LOST = "Triton 3.2 and later do not reach the tensor cores of this GPU in fp16: use the cuda12 stack"
TOO_OLD = "the fused kernel needs compute capability 7.0"
TOO_NEW = "Triton 3.1 does not know this GPU: use the cuda13 stack"


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
