"""Compile the fused kernels ahead of time, without a GPU, and check what came out; say what it can reach at most.

    python -m kernels.aot [--quick] [--accept] [--json FILE]

Every call that `OPERATORS` offer is compiled for every GPU of the running Triton's stack. A spill, more shared memory
than the GPU has, a read of a register that nothing wrote, a matrix instruction other than the expected one, and a
compiler that fails are failures, and so is a default configuration that got worse than kernels/bounds.csv has it; each
is named, and the exit status is 1; 0 where there is none, 2 for wrong usage. `--quick` takes a slice. `--accept` writes
kernels/bounds.csv anew. The rows go to results/ahead-of-time/STACK.json, or to FILE.

# instr: warp instructions for one result (a query of one head that is there), all launches of a call, loops by their
# trips, in SASS; conflicts: clocks that shared memory loses for one result; bound: clocks of one SM for one result, of
# whatever is busy longest. Nothing is timed.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernels import banks, bounds, sass
from kernels.gpus import GPUS, most_shared, occupancy
from kernels.launches import Call, Kernel, Launch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "ahead-of-time"
ACCEPTED = Path(__file__).with_name("bounds.csv")

OPERATORS = (  # modules with `calls(stack, quick)`
    "kernels.emsa_upsample.calls",
    "kernels.emsa_upsample.backward_calls",
    "kernels.mhim.calls",
    "kernels.mhim.backward_calls",
    "kernels.window_reduce.calls",
    "kernels.mlp.calls",
)

SLACK = 0.02  # by which instructions and clocks may be above what was accepted: a compiler's mood


@dataclass(frozen=True)
class Binary:
    """Resources and instructions of a compiled kernel."""

    registers: int  # a thread
    spilled_bytes: int  # a thread: stack and local memory
    shared_bytes: int  # a program
    counts: Mapping[sass.Nest, sass.Counts]
    undefined: tuple[str, ...] = ()  # reads of registers that nothing wrote
    waves: Mapping[sass.Nest, banks.Waves] = field(default_factory=dict)  # of shared memory

    @property
    def matrix(self) -> str:
        """The instruction that multiplies."""
        return sass.run(self.counts, dict.fromkeys({name for nest in self.counts for name in nest}, 1)).matrix


# ---- compiling


def build(kernel: Kernel) -> Binary:
    """Compile a kernel in this process, which the compiler may abort."""
    import triton  # here, so that parsing and arithmetic need no Triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from kernels import assembler

    module, _, function = kernel.function.partition(":")
    fn = getattr(importlib.import_module(module), function)
    names = list(fn.arg_names)
    constants = {name: value for name, value in kernel.constants if name in names}
    types = dict(kernel.types)
    signature = {name: types.get(name, "i32") for name in names if name not in constants}
    aligned = [name for name in names if name in kernel.aligned]
    options: dict[str, Any] = {"num_warps": kernel.num_warps, "num_stages": kernel.num_stages}
    if triton.__version__ < "3.2":  # by position
        from triton.compiler import AttrsDescriptor

        source = ASTSource(
            fn=fn,
            signature={names.index(name): type_ for name, type_ in signature.items()},
            constants={names.index(name): value for name, value in constants.items()},
            attrs=AttrsDescriptor(tuple(map(names.index, aligned)), ()),
        )
    else:
        source = ASTSource(
            fn=fn,
            signature={name: signature.get(name, "constexpr") for name in names},
            constexprs=constants,
            attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
        )
    if kernel.max_registers:
        options["maxnreg"] = kernel.max_registers
    with tempfile.TemporaryDirectory() as folder, assembler.newest():
        os.environ["TRITON_CACHE_DIR"] = folder  # an empty cache, so that it is compiled
        os.environ["TRITON_DISABLE_LINE_INFO"] = "0"  # loops are known by their lines
        compiled = triton.compile(source, target=GPUTarget("cuda", kernel.capability, 32), options=options)
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
        usage = _output(tools / "cuobjdump", "-res-usage", cubin)
        listing = _output(tools / "nvdisasm", "-c", "-g", cubin)
    registers, spilled, static_shared = resources(usage)
    named = sass.loops_in(listing)
    return Binary(
        *(registers, spilled, static_shared + compiled.metadata.shared),
        sass.count(listing, named),
        tuple(sass.undefined(listing)),
        banks.waves(compiled.asm["ptx"], named, kernel.num_warps),
    )


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def resources(usage: str) -> tuple[int, int, int]:
    """Registers, bytes in stack and local memory, static shared bytes, from `cuobjdump -res-usage`."""
    used = dict(re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage))
    missing = {"REG", "STACK", "SHARED", "LOCAL"} - used.keys()
    if missing:
        raise ValueError(f"cuobjdump says nothing of {', '.join(sorted(missing))}: {usage.strip()[:200]}")
    return int(used["REG"]), int(used["STACK"]) + int(used["LOCAL"]), int(used["SHARED"])


Binaries = dict[Kernel, Binary | str]  # or what went wrong


def run(todo: Iterable[Kernel], workers: int | None = None) -> Binaries:
    """The binary of each kernel, or what went wrong. A compiler that ends its process costs that kernel alone."""
    kernels = list(dict.fromkeys(todo))
    done: Binaries = {}
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        futures: dict[Future[Binary], Kernel] = {}
        with suppress(BrokenProcessPool):
            futures = {pool.submit(build, kernel): kernel for kernel in kernels}
        for future in as_completed(futures):
            try:
                done[futures[future]] = future.result()
            except BrokenProcessPool:
                pass
            except Exception as error:
                done[futures[future]] = _first_line(error)
    for (
        kernel
    ) in kernels:  # those that a crash took with it: each alone, so that it is seen whose crash it was
        if kernel not in done:
            with ProcessPoolExecutor(1) as pool:
                try:
                    done[kernel] = pool.submit(build, kernel).result()
                except BrokenProcessPool:
                    done[kernel] = "the compiler ended its process"
                except Exception as error:
                    done[kernel] = _first_line(error)
    return done


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


# ---- judging


def fault(kernel: Kernel, binary: Binary | str) -> str | None:
    """Fault of a binary, in a few words; None where there is none."""
    if isinstance(binary, str):
        return binary
    if binary.spilled_bytes > kernel.may_spill:
        return f"spills {binary.spilled_bytes} bytes"
    if binary.shared_bytes > (most := most_shared(kernel.capability)):
        return f"asks for {binary.shared_bytes} bytes of shared memory, and has {most} at most"
    if binary.undefined:
        return f"reads what nothing wrote: {'; '.join(binary.undefined)}"
    if kernel.multiplies and kernel.multiplies not in binary.matrix.split("+"):
        return f"multiplies by {binary.matrix}, not {kernel.multiplies}"
    return None


def counted(call: Call, launch: Launch, binary: Binary) -> sass.Counts:
    """Warp instructions of a launch for one result of its call.

    Raises:
        ValueError: the trips of a loop are not given.
    """
    warps = launch.kernel.num_warps * launch.programs
    return sass.run(binary.counts, dict(launch.trips)) * (warps / call.results)


def conflicts(call: Call, launch: Launch, binary: Binary) -> float:
    """Wavefronts of shared memory that a launch loses to bank conflicts, for one result of its call."""
    warps = launch.kernel.num_warps * launch.programs
    return banks.run(binary.waves, dict(launch.trips)).lost * warps / call.results


def rows(call: Call, binaries: Mapping[Kernel, Binary | str]) -> list[dict[str, Any]]:
    """A row of the table, and of the JSON file, for each launch of a call."""
    return [_row(call, launch, binaries[launch.kernel]) for launch in call.launches]


def _row(call: Call, launch: Launch, binary: Binary | str) -> dict[str, Any]:
    kernel = launch.kernel
    row = {
        **{"operator": call.operator, "kernel": kernel.name, "capability": call.capability},
        **{"precision": call.precision, "of": call.of, "shape": call.shape, "config": call.config},
        **{"default": call.is_default, "fault": fault(kernel, binary)},
    }
    if isinstance(binary, str):
        return row
    try:
        row["instructions"] = round(counted(call, launch, binary).issued, 1)
        row["conflicts"] = round(conflicts(call, launch, binary), 1)
    except ValueError as error:
        row["fault"] = row["fault"] or str(error)
    return row | {
        "registers": binary.registers,
        "spilled_bytes": binary.spilled_bytes,
        "shared_bytes": binary.shared_bytes,
        "occupancy": _occupancy(kernel, binary),
        "matrix": binary.matrix,
    }


def _occupancy(kernel: Kernel, binary: Binary) -> float:
    return round(occupancy(kernel.capability, binary.registers, kernel.num_warps, binary.shared_bytes), 3)


def bounded(call: Call, binaries: Mapping[Kernel, Binary | str]) -> list[dict[str, Any]]:
    """A row for each GPU that a call has a bound on: where it is what runs of a model, and has no fault."""
    if not (call.is_default and call.of) or any(row["fault"] for row in rows(call, binaries)):
        return []
    built = {launch: binaries[launch.kernel] for launch in call.launches}
    total, lost = sass.Counts({}), 0.0
    for launch, binary in built.items():
        assert isinstance(binary, Binary)
        total += counted(call, launch, binary)
        lost += conflicts(call, launch, binary)
    found = []
    for gpu in (gpu for gpu in GPUS if gpu.capability == call.capability):
        bound = bounds.bound(gpu, call, total, lost)
        binaries_there = [binary for binary in built.values() if isinstance(binary, Binary)]
        found.append(
            {
                **{"gpu": gpu.name, "operator": call.operator, "precision": call.precision, "of": call.of},
                "config": call.config,
                "registers": max(binary.registers for binary in binaries_there),
                "spilled_bytes": max(binary.spilled_bytes for binary in binaries_there),
                "occupancy": min(
                    _occupancy(launch.kernel, binary)
                    for launch, binary in built.items()
                    if isinstance(binary, Binary)
                ),
                "instructions": round(total.issued, 1),
                "pipe": bound.pipe,
                "clocks": round(bound.most, 1),
                "share_of_roof": round(bound.share_of_roof, 3),
                "us": round(1e6 * bounds.seconds(gpu, call, bound.most), 1),
                "times": call.times,
                "by_pipe": {pipe: round(times, 1) for pipe, times in sorted(total.by_pipe.items())},
                "by_unit": {unit: round(clocks, 1) for unit, clocks in bound.clocks.items()},
                "l1_bytes": round(total.l1_bytes),
                "conflicts": round(lost, 1),
                "dram_bytes": round(call.moved_bytes / call.results),
            }
        )
    return found


# ---- what was accepted


KEY = ("gpu", "operator", "precision", "of")
HELD = "fp16"  # whose bounds are accepted: other dtypes run the same designs, and their bounds are shown
COLUMNS_ACCEPTED = (
    *KEY,
    *("config", "registers", "spilled_bytes", "occupancy", "instructions", "pipe", "clocks", "share_of_roof"),
)


def key(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The key of a row: its values in the columns KEY, which tell its bound from others."""
    return tuple(str(row[column]) for column in KEY)


def accepted(path: Path = ACCEPTED) -> dict[tuple[str, ...], dict[str, str]]:
    """The accepted bounds by their key; none where there is no file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {key(row): row for row in csv.DictReader(file)}


def worse(row: Mapping[str, Any], before: Mapping[str, str] | None) -> str | None:
    """The first way in which a bound is worse than what was accepted, in a few words; None where it is not."""
    if before is None:
        return "is not in bounds.csv: --accept writes it"
    for column, unit in (("instructions", "instructions"), ("clocks", "clocks")):
        if row[column] > float(before[column]) * (1 + SLACK):
            return f"takes {row[column]:g} {unit}, and {before[column]} were accepted"
    if row["occupancy"] < float(before["occupancy"]):
        return f"has an occupancy of {row['occupancy']:g}, and {before['occupancy']} was accepted"
    return None


def accept(found: Iterable[Mapping[str, Any]], everything: bool, path: Path = ACCEPTED) -> None:
    """Write what was found into the accepted bounds.

    Args:
        everything: nothing was left out, so that what is accepted of these GPUs and was not found, is no more.
    """
    new = {key(row): row for row in found}
    gpus = {row["gpu"] for row in new.values()}
    before = {which: row for which, row in accepted(path).items() if not (everything and row["gpu"] in gpus)}
    order = [gpu.name for gpu in GPUS]
    lines = sorted((before | new).values(), key=lambda row: (order.index(row["gpu"]), *key(row)[1:]))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS_ACCEPTED, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


# ---- showing


COLUMNS = {
    "kernel": "kernel",
    "capability": "sm",
    "precision": "type",
    "shape": "shape",
    "config": "tile",
    "registers": "regs",
    "spilled_bytes": "spill",
    "shared_bytes": "shared",
    "occupancy": "occup",
    "instructions": "instr",
    "conflicts": "conflicts",
    "matrix": "multiplies",
    "fault": "",
}
BOUNDS = {
    "gpu": "GPU",
    "precision": "type",
    "of": "of",
    "config": "tile",
    "registers": "regs",
    "spilled_bytes": "spill",
    "occupancy": "occup",
    "instructions": "instr",
    **{pipe: pipe for pipe in ("tensor", "fma", "half2", "alu", "mufu", "lsu")},
    "l1_bytes": "L1 B",
    "conflicts": "conflicts",
    "dram_bytes": "DRAM B",
    "pipe": "binds",
    "clocks": "clocks",
    "share_of_roof": "of the roof",
    "us": "µs",
    "fault": "",
}


def table(lines: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows as aligned text, a column each of `columns`."""
    shown = [list(columns.values())]
    for line in lines:
        texts = dict(line) | dict(line.get("by_pipe", {}))
        for column in ("occupancy", "share_of_roof"):
            if column in line:
                texts[column] = f"{line[column]:.0%}"
        texts["fault"] = f"FAILS: {line['fault']}" if line.get("fault") else ""
        shown.append([str(texts.get(name, "-")) for name in columns])
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    text = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in shown)
    return "\n".join(line.rstrip() for line in text)


def sums(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """The bounds of all calls of a forward pass together, by GPU, model and image: a line each."""
    total: dict[tuple[str, ...], float] = {}
    stages: dict[tuple[str, ...], int] = {}
    for row in found:
        model, _, image = row["of"].partition(",")
        which = (row["gpu"], row["operator"], row["precision"], model, image.partition(" at ")[2])
        total[which] = total.get(which, 0.0) + row["us"] * row["times"]
        stages[which] = stages.get(which, 0) + 1
    return [
        f"{gpu} {precision}: all {operator} of {model} at {image}: {us:.0f} µs at the least"
        for which, us in total.items()
        if stages[which] == 4
        for gpu, operator, precision, model, image in [which]
    ]


def main(argv: list[str] | None = None) -> int:
    """The command `python -m kernels.aot`; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m kernels.aot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a slice")
    parser.add_argument("--accept", action="store_true", help="write kernels/bounds.csv anew")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the rows go")
    options = parser.parse_args(argv)
    import triton

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    stack = "cuda12" if version < (3, 2) else "cuda13"
    start = time.monotonic()
    calls = [
        call for module in OPERATORS for call in importlib.import_module(module).calls(stack, options.quick)
    ]
    kernels = dict.fromkeys(launch.kernel for call in calls for launch in call.launches)
    print(f"Triton {triton.__version__} ({stack}): {len(kernels)} kernels to compile", file=sys.stderr)
    binaries = run(kernels)
    launched = [row for call in calls for row in rows(call, binaries)]
    found = [row for call in calls for row in bounded(call, binaries)]
    held = [row for row in found if row["precision"] == HELD]
    for row in found:
        row["fault"] = None
    if options.accept:
        accept(held, everything=not options.quick)
    before = accepted()
    for row in held:
        row["fault"] = worse(row, before.get(key(row)))
    print(table(launched, COLUMNS))
    print(
        "\nBounds: clocks of one SM for one result, and µs for a batch; of no more than the roof. Nothing is timed."
    )
    print(table(found, BOUNDS))
    print("\n".join(sums(found)))
    path = options.json or RESULTS / f"{stack}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"triton": triton.__version__, "rows": launched, "bounds": found}
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    failed = [row for row in [*launched, *found] if row.get("fault")]
    for row in failed:
        what = row["kernel"] if "kernel" in row else f"{row['gpu']} {row['operator']}"
        where = f"sm_{row['capability']} {row['shape']}" if "kernel" in row else row["of"]
        print(f"FAILED {what} {where} {row['precision']} {row['config']}: {row['fault']}", file=sys.stderr)
    seconds = time.monotonic() - start
    total = len(launched) + len(held)
    print(f"{total - len(failed)} of {total} pass, {seconds:.0f} s; rows in {path}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
