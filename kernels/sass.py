"""The instructions that a warp runs, counted in what nvdisasm lists: loops by their trips, by pipe, in bytes and MACs.

A loop is a natural one: a branch goes back to what every way to it passes. It is the `for` or `while` on whose line its
test stands, as nvdisasm prints it, so that a loop which the compiler unrolled whole is counted as what it became. Both
sides of a branch count, and so does what a predicate switches off; where the pipeliner took the last round out of a
loop, as on sm_100, that one counts twice. No torch, no Triton: text in, numbers out.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import NamedTuple

WARP = 32  # threads
Place = tuple[str, int]  # a file of source, and a line of it
Nest = tuple[str, ...]  # the loops that something stands in, by name

_LINE = re.compile(r'//## File "([^"]+)", line (\d+)')
SECTION = ".text."
_LABEL = re.compile(r"([.$]?[\w.$]+):\s*$")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)([^;]*)")
_TARGET = re.compile(r"`\(([^)]+)\)")
_PREDICATE = re.compile(r"\bU?P\d")
_SHAPE = re.compile(r"(\d+)x(\d+)x(\d+)")

# The ends of the names of LDSM and STSM that take several 8×8 matrices, each of 4 bytes a thread.
_MATRICES = ("4", "2")


@dataclass(frozen=True)
class Instruction:
    """A line of SASS: its name with all modifiers, its operands, and the line of the source it stands for."""

    name: str
    operands: str
    asks: str | None  # the predicate on which it is run, or branches; "" where the condition is another
    place: Place

    @property
    def base(self) -> str:
        """The name without modifiers."""
        return self.name.partition(".")[0]

    @property
    def target(self) -> str | None:
        """The label in its operands."""
        label = _TARGET.search(self.operands)
        return label[1] if label else None

    def sets(self, predicate: str) -> bool:
        """Whether it writes a predicate, which it names first, or after a register."""
        return predicate in [operand.strip() for operand in self.operands.split(",")[:2]]


@dataclass
class Listing:
    """The instructions of a kernel, and the labels before them by name."""

    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    @property
    def kernel(self) -> str:
        """The name of the kernel: of the first section of code."""
        return next((label.removeprefix(SECTION) for label in self.labels if label.startswith(SECTION)), "")


@dataclass(frozen=True)
class Block:
    """Instructions `first` to `last` without a branch in between, and the blocks that may follow."""

    first: int
    last: int
    following: tuple[int, ...]


@dataclass(frozen=True)
class Loop:
    """A natural loop: its instructions, and the lines of the source that its branches and their tests stand for."""

    body: frozenset[int]
    places: frozenset[Place]


@dataclass(frozen=True)
class Counts:
    """The number of times that a warp runs each instruction, by name with all modifiers."""

    times: Mapping[str, float]

    def __add__(self, other: Counts) -> Counts:
        names = self.times.keys() | other.times.keys()
        return Counts({name: self.times.get(name, 0.0) + other.times.get(name, 0.0) for name in names})

    def __mul__(self, factor: float) -> Counts:
        return Counts({name: times * factor for name, times in self.times.items()})

    @cached_property
    def issued(self) -> float:
        """All instructions."""
        return sum(self.times.values())

    @cached_property
    def by_pipe(self) -> Mapping[str, float]:
        """Instructions by `pipe`."""
        pipes: Counter[str] = Counter()
        for name, times in self.times.items():
            pipes[pipe(name)] += times  # type: ignore[assignment]  # typeshed: a Counter holds int
        return pipes

    @cached_property
    def l1_bytes(self) -> float:
        """Bytes that loads and stores of global and shared memory move through L1, which is also shared memory.

        What wgmma and tcgen05 read of shared memory by themselves is not in any instruction's name, so not here.
        """
        return sum(times * WARP * bytes_a_thread(name) for name, times in self.times.items())

    @cached_property
    def macs(self) -> float | None:
        """Multiply-accumulates of the matrix instructions, padding included; None where a name does not tell."""
        each = {name: macs_a_warp(name) for name in self.times if family(name)}
        known = [self.times[name] * macs for name, macs in each.items() if macs is not None]
        return sum(known) if len(known) == len(each) else None

    @cached_property
    def matrix(self) -> str:
        """The instruction that multiplies: its `family`, several joined by "+"; "FFMA" where none is there."""
        return "+".join(sorted({family(name) for name in self.times} - {""})) or "FFMA"


class Named(NamedTuple):
    """The name of a loop of the source, and the last line of its body."""

    name: str
    last: int


def count(text: str, named: Mapping[Place, Named]) -> dict[Nest, Counts]:
    """The instructions of a kernel by the loops that they stand in.

    Args:
        text: of `nvdisasm -c -g`.
        named: the loops of the source, as `loops_in` has them.

    Raises:
        ValueError: nothing is listed, a branch goes where nobody can say, or a loop is none that has a name. One
            that waits for a barrier is run through once. Where ptxas unrolled one in part, so that several stand for
            it, only the shortest counts, which makes a round at a time. (A function that is called twice has its loops
            twice, but the kernel itself is not called.)
    """
    listing = read(text)
    if not listing.instructions:
        raise ValueError("nvdisasm lists no instruction")
    counted: dict[Nest, dict[str, float]] = {}
    for at, nest in nests(listing, named).items():
        times = counted.setdefault(nest, {})
        name = listing.instructions[at].name
        times[name] = times.get(name, 0.0) + 1
    return {nest: Counts(times) for nest, times in counted.items()}


def nests(listing: Listing, named: Mapping[Place, Named]) -> dict[int, Nest]:
    """The loops that each instruction stands in that can be reached and that counts, by its number.

    Raises:
        ValueError: as `count`.
    """
    blocks = blocks_of(listing)
    found: dict[int, list[Place]] = {
        at: [] for block in blocks.values() for at in range(block.first, block.last + 1)
    }
    met: set[Place] = set()
    for loop in loops(listing, blocks):  # the shortest first
        inside = {place for at in loop.body if at in found for place in found[at]}
        if place := _place(loop, listing, named, inside, met):
            again = place in met and named[place].name.startswith(f"{listing.kernel}.")
            met.add(place)
            for at in loop.body & found.keys():
                if again:
                    del found[at]
                else:
                    found[at].append(place)
    return {at: tuple(sorted(named[place].name for place in nest)) for at, nest in found.items()}


def run(counted: Mapping[Nest, Counts], trips: Mapping[str, float]) -> Counts:
    """The instructions that a warp runs where each loop goes round so often.

    Raises:
        ValueError: the trips of a loop are not given.
    """
    total = Counts({})
    for nest, counts in counted.items():
        if unknown := [name for name in nest if name not in trips]:
            raise ValueError(f"the trips of {', '.join(unknown)} are not given")
        total += counts * prod(trips[name] for name in nest)
    return total


def loops_in(text: str) -> dict[Place, Named]:
    """The loops in all files that a listing mentions, named "function.variable", by place.

    A `while` has what its test compares first. Those over a `static_range` are none: Triton unrolls them.
    """
    named = {}
    for file in sorted({path for path, _ in _LINE.findall(text)}):
        for function in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for loop in ast.walk(function):
                if isinstance(loop, ast.For) and "static_range" not in ast.unparse(loop.iter):
                    what = loop.target
                elif isinstance(loop, ast.While) and isinstance(loop.test, ast.Compare):
                    what = loop.test.left
                else:
                    continue
                last = loop.end_lineno or loop.lineno
                named[file, loop.lineno] = Named(f"{function.name}.{ast.unparse(what)}", last)
    return named


def _place(
    loop: Loop, listing: Listing, named: Mapping[Place, Named], inside: set[Place], met: set[Place]
) -> Place | None:
    """The place of a loop in which others stand; None where it waits.

    Where its test has been moved beside something else, what counts its rounds still has its line; where nothing has,
    as in a loop of two rounds, its branch or its body stands in that of one loop of the source alone. Where it may be
    one of several of one name, or has no line but those of functions that it calls, it is one of them that was not met.
    """
    rows = [listing.instructions[at] for at in loop.body]
    body = {row.place for row in rows}
    for places in (loop.places, body):
        known = {place for place in places if place in named} - inside
        if len(known) == 1:
            return known.pop()
    if not known and {row.base for row in rows} & {"SYNCS", "NANOSLEEP"}:
        return None
    branches = _around(loop.places, named) - inside
    around = branches if len(branches) == 1 else _around(body, named) - inside
    if len(around) == 1 and (around == branches or not known):
        return around.pop()
    own = {place for place, source in named.items() if source.name.startswith(f"{listing.kernel}.")}
    elsewhere = not {file for file, _ in own} & {place[0] for place in body}
    for alike in (known, around, own if elsewhere else set()):
        if len({named[place].name for place in alike}) == 1 and alike - inside - met:
            return min(alike - inside - met)
    where = ", ".join(f"{Path(file).name}:{line}" for file, line in sorted(loop.places))
    raise ValueError(f"a loop of {len(loop.body)} instructions is none that is known: {where}")


def _around(places: Iterable[Place], named: Mapping[Place, Named]) -> set[Place]:
    """The loops of the source in which some of these lines stand."""
    return {
        (file, first)
        for (file, first), source in named.items()
        if any(place and place[0] == file and first <= place[1] <= source.last for place in places)
    }


def read(text: str) -> Listing:
    """The listing of `nvdisasm -c -g`."""
    listing, place = Listing(), ("", 0)
    for line in text.splitlines():
        if source := _LINE.search(line):
            place = (source[1], int(source[2]))
        elif label := _LABEL.match(line):
            listing.labels[label[1]] = len(listing.instructions)
        elif instruction := _INSTRUCTION.search(line):
            predicate, name, operands = instruction.groups()
            if name.startswith("BRA") and not predicate:
                # `BRA.U UP0, …` has its condition among its operands
                among = _PREDICATE.search(operands.partition("`")[0])
                predicate = among[0] if among else "" if name in ("BRA.DIV", "BRA.CONV") else None
            asks = predicate.lstrip("!") if predicate is not None else None
            listing.instructions.append(Instruction(name, operands, asks, place))
    return listing


# ---- loops


def blocks_of(listing: Listing) -> dict[int, Block]:
    """The blocks that can be reached, by the number of their first instruction.

    Raises:
        ValueError: a branch goes to what a register holds.
    """
    rows, labels = listing.instructions, listing.labels
    starts = {at for at in labels.values() if at < len(rows)} | {0}
    starts |= {at + 1 for at, row in enumerate(rows) if row.base in _ENDS and at + 1 < len(rows)}
    ends = dict(zip(sorted(starts), [*sorted(starts)[1:], len(rows)], strict=True))
    blocks: dict[int, Block] = {}
    todo = [0] if rows else []
    while todo:
        if (first := todo.pop()) in blocks:
            continue
        last = ends[first] - 1
        following = tuple(at for at in _following(listing, last) if at < len(rows))
        blocks[first] = Block(first, last, following)
        todo += following
    return blocks


# After one of these, another block begins. A call counts as one: ptxas leaves loops by a call that never returns.
_ENDS = ("BRA", "JMP", "CALL", "EXIT", "RET", "BRX", "JMX", "KILL")


def _following(listing: Listing, last: int) -> list[int]:
    """The instructions that may run after that one."""
    row = listing.instructions[last]
    target = [listing.labels[row.target]] if row.target in listing.labels else []
    following = [last + 1]
    match row.base:
        case "BRX" | "JMX":
            raise ValueError(f"{row.name} goes to what a register holds")
        case "BRA" | "JMP":
            return target + (following if row.asks is not None else [])
        case "CALL":
            return target + following
        case "EXIT" | "RET" | "KILL":
            return following if row.asks is not None else []
    return following


def loops(listing: Listing, blocks: Mapping[int, Block]) -> list[Loop]:
    """The natural loops, those of one header as one, and inner ones before what they stand in."""
    before: dict[int, list[int]] = {first: [] for first in blocks}
    for first, block in blocks.items():
        for then in block.following:
            before[then].append(first)
    dominators = _dominators(blocks, before)
    bodies: dict[int, set[int]] = {}
    for first, block in blocks.items():
        for header in set(block.following) & dominators[first]:
            body = bodies.setdefault(header, {header})
            todo = [first]
            while todo:
                if (at := todo.pop()) not in body:
                    body.add(at)
                    todo += before[at]
    found = [_loop(listing, blocks, header, body) for header, body in sorted(bodies.items())]
    return sorted(found, key=lambda loop: len(loop.body))


def _loop(listing: Listing, blocks: Mapping[int, Block], header: int, body: set[int]) -> Loop:
    """The loop of some blocks. Where it may end or begin anew, a branch or the test before it has its line."""
    rows = listing.instructions
    inside = [at for first in sorted(body) for at in range(blocks[first].first, blocks[first].last + 1)]
    places = set()
    for first in body:
        block = blocks[first]
        if header in block.following or not body.issuperset(block.following):
            branch = rows[block.last]
            tests = [at for at in inside if at < block.last and branch.asks and rows[at].sets(branch.asks)]
            places |= {branch.place, *(rows[at].place for at in tests[-1:])}
    return Loop(frozenset(inside), frozenset(places))


def _dominators(blocks: Mapping[int, Block], before: Mapping[int, Iterable[int]]) -> dict[int, set[int]]:
    """The blocks that every way from the first to a block passes, itself included, by block."""
    everything = set(blocks)
    dominators = {first: {0} if first == 0 else everything for first in blocks}
    changed = True
    while changed:
        changed = False
        for first in sorted(everything - {0}):
            passed = set.intersection(*(dominators[at] for at in before[first])) | {first}
            if passed != dominators[first]:
                dominators[first], changed = passed, True
    return dominators


# ---- registers that nothing wrote


_UNIFORM = re.compile(r"(?<![\w.])UR(\d+)")
_BARE = re.compile(r"[-~|]*UR(\d+)\b")
_DESCRIPTOR = re.compile(r"(?<!\w)(g?desc)\[UR(\d+)\]")
_LEADING = re.compile(r"^\s*(?:!?U?P\d+\s*,\s*|U?PT\s*,\s*)*")
# Their first operand is read though it stands where others have what they write.
_WRITES_NONE = ("BRA", "JMP", "BAR", "WARPSYNC", "NANOSLEEP", "DEPBAR")


def undefined(text: str) -> list[str]:
    """The reads of a uniform register that no instruction before them writes, on whichever way: each in words.

    Some ptxas make such code (`kernels/assembler.py`). A write under a predicate counts as one.

    Args:
        text: of `nvdisasm -c -g`.
    """
    listing = read(text)
    blocks = blocks_of(listing)
    uses = {at: uniform(row) for at, row in enumerate(listing.instructions)}
    wrote: dict[int, set[int]] = {first: set() for first in blocks}  # before a block
    todo = list(blocks)
    while todo:
        block = blocks[first := todo.pop()]
        after = wrote[first].union(*(uses[at][1] for at in range(block.first, block.last + 1)))
        for then in block.following:
            if not after <= wrote[then]:
                wrote[then] |= after
                todo.append(then)
    found = []
    for first, block in sorted(blocks.items()):
        known = set(wrote[first])
        for at in range(block.first, block.last + 1):
            reads, writes = uses[at]
            row = listing.instructions[at]
            found += [
                f"{row.name}{row.operands.rstrip()} reads UR{register}" for register in sorted(reads - known)
            ]
            known |= writes
    return found


# a selector of bytes, and the second register; sm_120's listings have a hint for the scheduler after it
_PUT = re.compile(r",\s*0x([0-9a-f]{1,4})\s*,\s*UR(\d+)\s*(?:\?\w+\s*)?$")


def uniform(row: Instruction) -> tuple[set[int], set[int]]:
    """The uniform registers that an instruction reads, and those that it writes."""
    wide = 2 if {"64", "WIDE"} & {*row.name.split(".")} else 4 if ".128" in row.name else 1
    operands = row.operands[_LEADING.match(row.operands).end() :]  # type: ignore[union-attr]  # it matches ""
    first, _, rest = operands.partition(",")
    writes: set[int] = set()
    target = _BARE.fullmatch(first.strip())
    if target and row.base not in _WRITES_NONE:
        writes = {*range(int(target[1]), int(target[1]) + wide)}
        operands = rest
    # what puts bytes of another register into this one leaves the rest in their places, whatever they are
    if row.base == "UPRMT" and target and (put := _PUT.search(operands)) and put[2] == target[1]:
        taken = enumerate(int(digit, 16) for digit in reversed(put[1].zfill(4)))
        if all(byte < 4 or byte == place + 4 for place, byte in taken):
            operands = operands[: put.start()]
    reads = {int(number) for number in _UNIFORM.findall(operands)}
    for kind, number in _DESCRIPTOR.findall(operands):
        pair = {int(number), int(number) + 1}
        if (
            kind == "gdesc" and row.base == "HGMMA"
        ):  # names two in a row; the first is not read if it is in registers
            second = {register + 2 for register in pair}
            in_registers = re.match(r"\s*R\d+\s*,\s*R\d+", operands)
            reads = reads - pair | second if in_registers else reads | pair | second
        else:
            reads |= pair
    return reads, writes


# ---- what an instruction is


_PIPES = {
    "fma": "FFMA FMUL FADD",
    "fma2": "FFMA2 FMUL2 FADD2",
    "imad": "IMAD IMUL IDP",
    "half2": "HFMA2 HADD2 HMUL2 HMNMX2 HSETP2 HSET2",
    "mufu": "MUFU F2F I2F F2I FRND I2I POPC FLO",
    "lsu": "LDG LD LDGSTS STG ST RED ATOM ATOMG LDS LDSM STS STSM ATOMS LDL STL SHFL",
    "minmax": "FMNMX FMNMX3",
    "alu": "IADD3 IADD LOP3 LOP SHF SHL SHR ISETP SEL PRMT FSETP FSET FSEL IMNMX VIMNMX VIMNMX3 MNMX MOV "
    "LEA F2FP I2FP F2IP SGXT BMSK P2R R2P IABS VABSDIFF VIADD VIADDMNMX IADD64 BREV PLOP3",
}
_PIPE = {name: pipe for pipe, names in _PIPES.items() for name in names.split()}


def pipe(name: str) -> str:
    """The pipe of an instruction: "tensor", one of `kernels.gpus.Rates.lanes`, or "other".

    The others only take their turn at being issued: branches, barriers, constants, uniform registers, tensor memory.
    """
    return "tensor" if family(name) else _PIPE.get(name.partition(".")[0], "other")


def family(name: str) -> str:
    """The matrix instruction that a name belongs to; "" where it is none.

    HMMA.16816.F32.BF16 → HMMA.16816, HMMA.1688.F32.TF32 → HMMA.1688.TF32, HGMMA.64x64x16.F32 → HGMMA.
    """
    match = re.match(r"(HMMA\.\d+|HGMMA|UTC\w*MMA)\b", name)
    if not match:
        return ""
    return match[1] + (".TF32" if ".TF32" in name else "")


def macs_a_warp(name: str) -> int | None:
    """Multiply-accumulates that a matrix instruction makes for one warp; None where its name does not tell.

    Four warps share one of wgmma. The shape of tcgen05's is in a register.
    """
    if shape := _SHAPE.search(name):
        m, n, k = map(int, shape.groups())
        return m * n * k // 4
    if name.startswith("HMMA.884"):  # four quarters of a warp, 8×8×4 each, in four steps where sums are fp32
        return 8 * 8 * 4 * 4 // (4 if ".F32.F32" in name else 2)
    return {"HMMA.16816": 16 * 8 * 16, "HMMA.1688": 16 * 8 * 8, "HMMA.1684": 16 * 8 * 4}.get(
        ".".join(name.split(".")[:2])
    )


def bytes_a_thread(name: str) -> int:
    """Bytes that each thread loads or stores through L1; 0 for what does neither, and for a shuffle."""
    base, *modifiers = name.split(".")
    if _PIPE.get(base) != "lsu" or base == "SHFL":
        return 0
    if base in ("LDSM", "STSM"):
        return 4 * next((int(matrices) for matrices in _MATRICES if matrices in modifiers), 1)
    for bits in (256, 128, 64):
        if str(bits) in modifiers:
            return bits // 8
    if {"U16", "S16"} & {*modifiers}:
        return 2
    return 1 if {"U8", "S8"} & {*modifiers} else 4
