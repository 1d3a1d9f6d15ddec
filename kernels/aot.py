"""Compile the fused kernels ahead of time, without a GPU, and check what came out.

    python -m kernels.aot [--quick] [--json FILE]

Every configuration that `tuning.candidates` offers is compiled for every GPU of the running Triton's stack. A spill,
a matrix instruction other than the one `tuning.EXPECTED` states, and a compiler that fails are failures: each is
named, and the exit status is 1; 0 where there is none, 2 for wrong usage. `--quick` takes a slice of them. The rows go
to results/ahead-of-time/STACK.json, or to FILE.

# instructions: of one program, in SASS, padding left out; per query: warp instructions, so × warps ÷ queries a program
# A loop over the rows of taps counts three times. "static" marks a program with other loops besides, over blocks of
# keys or heads: what stands there is counted once, and is less than what runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from kernels.emsa_upsample import tuning
from kernels.emsa_upsample.tuning import Config

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "ahead-of-time"

STACKS = {"cuda12": (70, 75), "cuda13": (80, 90, 100, 120)}  # compute capabilities × 10
PRECISIONS = ("fp16", "bf16", "fp32", "tf32")  # tf32: fp32 data, TF32 products
KEYS = (49, 1050)  # at 224×224 and at 800×1344
ROWS_OF_TAPS = 3
TENSORS = (
    "q",
    "k",
    "v",
    "taps",
    "pack",
    "up_weight",
    "up_bias",
    "norm_weight",
    "norm_bias",
    "statistics",
    "out",
)
STRIDES = ("q_b", "q_n", "k_b", "k_m", "v_b", "v_m")


@dataclass(frozen=True)
class Sm:
    """Resources of one streaming multiprocessor.

    They are from the CUDA C++ Programming Guide, technical specifications per compute capability (13.0; sm_70 and
    sm_75 from 12.4). All of them have 65536 registers, given out in eights a thread (256 a warp), to programs of 255 a
    thread at most.
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


def occupancy(capability: int, registers: int, num_warps: int, shared_bytes: int) -> float:
    """Resident warps over the most there can be, by registers a thread and shared memory a program.

    From sm_80 on, every program also takes 1 KB of shared memory for the system.
    """
    sm = SMS[capability]
    warps_by_registers = 65536 // (256 * -(-registers // 8))
    # each of the four schedulers has its own quarter of the registers
    blocks = min(sm.blocks, sm.warps // num_warps, warps_by_registers // 4 * 4 // num_warps)
    reserved = 1024 if capability >= 80 else 0
    if shared_bytes + reserved:
        blocks = min(blocks, sm.shared_kb * 1024 // (shared_bytes + reserved))
    return blocks * num_warps / sm.warps


@dataclass(frozen=True)
class Job:
    """One kernel to compile."""

    kernel: str  # module.function
    capability: int
    precision: str  # of PRECISIONS
    head_dim: int
    reduction: int
    heads: int
    key_blocks: int
    config: Config

    @property
    def queries(self) -> int:
        """Queries a program: a tile in one cell has no more than the cell has pixels."""
        most = self.reduction**2 if self.config.design == "cell" else self.config.block_q
        return min(self.config.block_q, most)

    @property
    def loops(self) -> bool:
        """Whether fewer instructions are listed than run, because of a loop over keys or heads."""
        return self.key_blocks > 1 or self.kernel == "forward._emsa_statistics" or "resident" in self.kernel

    def __str__(self) -> str:
        c = self.config
        return (
            f"{self.kernel} sm_{self.capability} {self.precision} D={self.head_dim} r={self.reduction} "
            f"heads={self.heads} key_blocks={self.key_blocks} {c.design} {c.block_q}x{c.block_k}/{c.num_warps}"
        )


@dataclass(frozen=True)
class Binary:
    """Resources and instructions of a compiled kernel."""

    registers: int  # a thread
    spilled_bytes: int  # a thread: stack and local memory
    shared_bytes: int  # a program
    instructions: int
    matrix: str  # the instruction that multiplies


def dtype_of(precision: str) -> str:
    """The dtype as `tuning` names it."""
    return "fp32" if precision == "tf32" else precision


# ---- what to compile


def jobs(triton: tuple[int, ...], capabilities: Iterable[int], quick: bool = False) -> dict[Job, None]:
    """All kernels to compile, each once, in order.

    Heads and reductions pair as in the models, one head where r is 8, so that both LayerNorms are there. Head widths
    that no model has are taken with two reductions. `quick` takes the widest head of a model, few keys, two
    reductions, and one dtype of each kind.
    """
    precisions = ("fp16", "fp32") if quick else PRECISIONS
    todo = []
    for capability, precision, head_dim, reduction, keys in product(
        capabilities,
        precisions,
        tuning.MODELS_HEAD_DIMS[:1] if quick else sorted(tuning.HEAD_DIMS, reverse=True),
        tuning.REDUCTIONS,
        KEYS[:1] if quick else KEYS,
    ):
        if reduction not in (8, 2) and (quick or head_dim not in tuning.MODELS_HEAD_DIMS):
            continue
        if isinstance(expected(triton, capability, precision), tuning.Refused):
            continue
        heads = 1 if reduction == 8 else 2
        for config in tuning.candidates(dtype_of(precision), capability, head_dim, reduction, heads, keys):
            where = (capability, precision, head_dim, reduction, heads)
            for kernel in tuning.kernels(config, head_dim, reduction, heads, keys):
                if kernel != "forward._emsa_statistics":
                    todo.append(Job(kernel, *where, -(-keys // config.block_k), config))
                elif precision != "tf32":  # no product in it
                    todo.append(Job(kernel, *where, 1, config))
    return dict.fromkeys(todo)


def expected(triton: tuple[int, ...], capability: int, precision: str) -> str | tuning.Refused:
    """`tuning.EXPECTED` for this Triton: the instruction, or why there is none."""
    stack = "cuda12" if triton < (3, 2) else "cuda13"
    return tuning.EXPECTED[stack, capability, precision]


# ---- compiling


def arguments(job: Job, names: list[str]) -> tuple[dict[str, str], dict[str, Any], set[str]]:
    """Signature of a kernel's `names`, constexprs, and the names that 16 divides, as `op.launch` specialises them.

    Pointers of torch are 16-byte aligned, and strides are multiples of the channels, so of 16.
    """
    element = dtype_of(job.precision)
    keys = job.key_blocks * job.config.block_k
    constants = tuning.kernels(job.config, job.head_dim, job.reduction, job.heads, keys)[job.kernel] | {
        "HAS_BIAS": True,
        "PRECISION": "tf32" if job.precision == "tf32" else "ieee",
        "UPCAST": False,
    }
    constants = {name: value for name, value in constants.items() if name in names}
    signature = {
        **dict.fromkeys(TENSORS, f"*{element}") | {"statistics": "*fp32"},
        **{"eps": "fp32", "scale": "fp32"},
    }
    signature = {name: signature.get(name, "i32") for name in names if name not in constants}
    return signature, constants, {*TENSORS, *STRIDES} & {*names}


def build(job: Job) -> Binary:
    """Compile a kernel in this process, which the compiler may abort."""
    import triton  # here, so that parsing and arithmetic need no Triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, _, function = job.kernel.partition(".")
    fn = getattr(import_module(f"kernels.emsa_upsample.{module}"), function)
    names = list(fn.arg_names)
    signature, constants, aligned = arguments(job, names)
    if triton.__version__ < "3.2":  # by position
        from triton.compiler import AttrsDescriptor

        source = ASTSource(
            fn=fn,
            signature={names.index(name): type_ for name, type_ in signature.items()},
            constants={names.index(name): value for name, value in constants.items()},
            attrs=AttrsDescriptor(tuple(sorted(names.index(name) for name in aligned)), ()),
        )
    else:
        signature |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(
            fn=fn,
            signature={name: signature[name] for name in names},
            constexprs=constants,
            attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
        )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder  # an empty cache, so that it is compiled
        target = GPUTarget("cuda", job.capability, 32)
        options = {"num_warps": job.config.num_warps, "num_stages": job.config.num_stages}
        compiled = triton.compile(source, target=target, options=options)
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
        usage = _output(tools / "cuobjdump", "-res-usage", cubin)
        sass = _output(tools / "nvdisasm", "-c", cubin)
    registers, spilled, static_shared = resources(usage)
    count, matrix = disassembly(sass, 1 if job.loops else ROWS_OF_TAPS)
    return Binary(registers, spilled, static_shared + compiled.metadata.shared, count, matrix)


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def resources(usage: str) -> tuple[int, int, int]:
    """Registers, bytes in stack and local memory, static shared bytes, from `cuobjdump -res-usage`."""
    used = dict(re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage))
    missing = {"REG", "STACK", "SHARED", "LOCAL"} - used.keys()
    if missing:
        raise ValueError(f"cuobjdump says nothing of {', '.join(sorted(missing))}: {usage.strip()[:200]}")
    return int(used["REG"]), int(used["STACK"]) + int(used["LOCAL"]), int(used["SHARED"])


def disassembly(sass: str, trips: int) -> tuple[int, str]:
    """Number of instructions and the one that multiplies, from `nvdisasm -c`; a loop counts `trips` times."""
    names: list[str] = []
    labels: dict[str, int] = {}
    back: list[int] = []  # lengths of what backward branches repeat
    for line in sass.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(names)
        if instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)", line):
            predicate, name, operands = instruction.groups()
            names.append(name)
            target = re.search(r"\.L_x_\d+", operands)
            # one without a condition is the way back from what was moved out of line, such as a wait
            if predicate and name.startswith("BRA") and target and target[0] in labels:
                back.append(len(names) - labels[target[0]])
    while names and names[-1] == "NOP":
        names.pop()
    if names and names[-1].startswith("BRA"):  # to itself
        names.pop()
    if not names:
        raise ValueError("nvdisasm lists no instruction")
    families = {family(name) for name in names} - {""}
    return len(names) + (trips - 1) * sum(back), "+".join(sorted(families)) or "FFMA"


def family(mnemonic: str) -> str:
    """The matrix instruction that a SASS mnemonic belongs to; "" where it is none.

    HMMA.16816.F32.BF16 → HMMA.16816, HMMA.1688.F32.TF32 → HMMA.1688.TF32, HGMMA.64x64x16.F32 → HGMMA.
    """
    match = re.match(r"(HMMA\.\d+|HGMMA|UTC\w*MMA)\b", mnemonic)
    if not match:
        return ""
    return match[1] + (".TF32" if ".TF32" in mnemonic else "")


def run(todo: list[Job], workers: int | None = None) -> dict[Job, Binary | str]:
    """The binary of each job, or what went wrong. A compiler that ends its process costs that job alone."""
    done: dict[Job, Binary | str] = {}
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        futures: dict[Future[Binary], Job] = {}
        with suppress(BrokenProcessPool):
            futures = {pool.submit(build, job): job for job in todo}
        for future in as_completed(futures):
            try:
                done[futures[future]] = future.result()
            except BrokenProcessPool:
                pass
            except Exception as error:
                done[futures[future]] = _first_line(error)
    for job in todo:  # those that a crash took with it: each alone, so that it is seen whose crash it was
        if job not in done:
            with ProcessPoolExecutor(1) as pool:
                try:
                    done[job] = pool.submit(build, job).result()
                except BrokenProcessPool:
                    done[job] = "the compiler ended its process"
                except Exception as error:
                    done[job] = _first_line(error)
    return {job: done[job] for job in todo}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


# ---- judging and showing


def fault(job: Job, binary: Binary | str, want: str) -> str | None:
    """Fault of a binary, in a few words; None where there is none. `want`: the instruction that must multiply."""
    if isinstance(binary, str):
        return binary
    if binary.spilled_bytes:
        return f"spills {binary.spilled_bytes} bytes"
    multiplies = job.kernel not in ("forward._emsa_statistics", "up_product.pack_filters")
    # the convolution of one may take another instruction than its large products
    if multiplies and want not in binary.matrix.split("+"):
        return f"multiplies by {binary.matrix}, not {want}"
    return None


def row(job: Job, binary: Binary | str, want: str) -> dict[str, Any]:
    """A row of the table and of the JSON file."""
    c = job.config
    head: dict[str, Any] = asdict(job) | {"fault": fault(job, binary, want)}
    head |= head.pop("config")
    if isinstance(binary, str):
        return head
    per_query = binary.instructions * c.num_warps / job.queries
    return head | asdict(binary) | {
        "instructions_per_query": round(per_query, 1),
        "static": job.loops,
        "occupancy": round(occupancy(job.capability, binary.registers, c.num_warps, binary.shared_bytes), 3),
    }  # fmt: skip


COLUMNS = {
    "kernel": "kernel",
    "capability": "sm",
    "precision": "type",
    "head_dim": "D",
    "reduction": "r",
    "heads": "A",
    "key_blocks": "keys",
    "tile": "tile",
    "registers": "regs",
    "spilled_bytes": "spill",
    "shared_bytes": "shared",
    "occupancy": "occup",
    "instructions": "instr",
    "instructions_per_query": "a query",
    "matrix": "multiplies",
    "fault": "",
}


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as aligned text. keys: blocks of keys; a query: warp instructions, static ones with a star."""

    def cells(line: dict[str, Any]) -> list[str]:
        shown = line | {
            "kernel": line["kernel"].partition(".")[2].removeprefix("_").removeprefix("emsa_"),
            "tile": f"{line['design']} {line['block_q']}x{line['block_k']}/{line['num_warps']}w",
            "fault": f"FAILS: {line['fault']}" if line["fault"] else "",
        }
        if "occupancy" in line:
            shown["occupancy"] = f"{line['occupancy']:.0%}"
            shown["instructions_per_query"] = (
                f"{line['instructions_per_query']:g}{'*' if line['static'] else ''}"
            )
        return [str(shown.get(name, "-")) for name in COLUMNS]

    lines = [list(COLUMNS.values()), *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in text)


def main(argv: list[str] | None = None) -> int:
    """The command `python -m kernels.aot`; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m kernels.aot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a slice")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the rows go")
    options = parser.parse_args(argv)
    import triton

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    stack = "cuda12" if version < (3, 2) else "cuda13"
    start = time.monotonic()
    todo = list(jobs(version, STACKS[stack], options.quick))
    print(f"Triton {triton.__version__} ({stack}): {len(todo)} kernels to compile", file=sys.stderr)
    rows = []
    for job, binary in run(todo).items():
        want = expected(version, job.capability, job.precision)
        assert isinstance(want, str)
        rows.append(row(job, binary, want))
    print(table(rows))
    for (where, capability, precision), want in tuning.EXPECTED.items():
        if where == stack and isinstance(want, tuning.Refused):
            print(f"sm_{capability} {precision} refused: {want.reason}")
    path = options.json or RESULTS / f"{stack}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"triton": triton.__version__, "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )
    failed = [line for line in rows if line["fault"]]
    for job, line in zip(todo, rows, strict=True):
        if line["fault"]:
            print(f"FAILED {job}: {line['fault']}", file=sys.stderr)
    seconds = time.monotonic() - start
    print(f"{len(rows) - len(failed)} of {len(rows)} pass, {seconds:.0f} s; rows in {path}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
