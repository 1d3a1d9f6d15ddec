"""Bank conflicts in shared memory: the clocks that its 32 banks lose, from the addresses in PTX. Nothing has run.

A warp's access takes as many clocks, "wavefronts", as the busiest bank has words to give; without conflicts a bank has
one word for each 128 bytes. Addresses are worked out for every thread of a program. What is not known before a kernel
runs, sizes and places of tensors, is the same for all threads, so that any value does. No torch, no Triton.

# An access of 8 or 16 bytes a thread is one of half or a quarter of a warp at a time; ldmatrix and stmatrix move
# matrices of 8 rows of 16 bytes (https://docs.nvidia.com/cuda/parallel-thread-execution).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from kernels.sass import SECTION, WARP, Instruction, Listing, Named, Nest, Place, nests

BANKS, WORD = 32, 4  # of 4 bytes
Values = NDArray[np.int64]  # one a thread

_FILE = re.compile(r'\s*\.file\s+(\d+)\s+"([^"]+)"(?:\s+"([^"]+)")?')
_PLACE = re.compile(r"\s*\.loc\s+(\d+)\s+(\d+)\s")
_LABEL = re.compile(r"(\$\w+):")
_KERNEL = re.compile(r"\.visible \.entry (\w+)\(")
_STATEMENT = re.compile(r"\s*(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*([^;]*);")
_ACCESS = re.compile(r"(ld|st)\.(?:volatile\.)?shared(?:::cta)?(?:\.v(\d))?\.[bufs](\d+)")
_MATRICES = re.compile(r"(ld|st)matrix\..*\.x(\d)")
_ADDRESS = re.compile(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\d+)\s*)?\]")
_ENDS = {"bra": "BRA", "ret": "EXIT", "exit": "EXIT"}  # as `kernels.sass` names what ends a block


@dataclass(frozen=True)
class Waves:
    """The wavefronts of one warp, on average over a program's."""

    taken: float = 0.0
    least: float = 0.0  # without conflicts

    def __add__(self, other: Waves) -> Waves:
        return Waves(self.taken + other.taken, self.least + other.least)

    def __mul__(self, factor: float) -> Waves:
        return Waves(self.taken * factor, self.least * factor)

    @property
    def lost(self) -> float:
        """Those that are there because of conflicts."""
        return self.taken - self.least


def waves(ptx: str, named: Mapping[Place, Named], warps: int) -> dict[Nest, Waves]:
    """The wavefronts of a kernel's accesses to shared memory, by the loops that they stand in.

    Args:
        ptx: with the lines of the source.
        named: the loops of the source, as `kernels.sass.loops_in` has them.
        warps: of a program.

    Raises:
        ValueError: as `kernels.sass.count`.
    """
    program = Program(ptx, warps * WARP)
    found: dict[Nest, Waves] = {}
    for at, nest in nests(program.listing, named).items():
        if taken := program.waves(at):
            found[nest] = found.get(nest, Waves()) + taken
    return found


def run(counted: Mapping[Nest, Waves], trips: Mapping[str, float]) -> Waves:
    """The wavefronts of a warp where each loop goes round so often."""
    return sum((each * prod(trips[name] for name in nest) for nest, each in counted.items()), Waves())


class Program:
    """PTX, and what its registers hold in each thread."""

    def __init__(self, ptx: str, threads: int) -> None:
        self.listing = Listing()
        self._thread = np.arange(threads)
        self._writes: dict[str, list[tuple[str, list[str]]]] = {}
        self._known: dict[str, Values | None] = {}
        files: dict[str, str] = {}
        place = ("", 0)
        for line in ptx.splitlines():  # a file is named where all code has ended
            if file := _FILE.match(line):
                files[file[1]] = str(PurePosixPath(*filter(None, file.groups()[1:])))
        for line in ptx.splitlines():
            if where := _PLACE.match(line):
                place = (files.get(where[1], where[1]), int(where[2]))
            elif label := _LABEL.match(line):
                self.listing.labels[label[1]] = len(self.listing.instructions)
            elif kernel := _KERNEL.match(line):
                self.listing.labels[f"{SECTION}{kernel[1]}"] = len(self.listing.instructions)
            elif statement := _STATEMENT.match(line):
                isnt, predicate, name, operands = statement.groups()
                self._read(f"{isnt}{predicate}" if predicate else None, name, operands, place)

    def _read(self, asks: str | None, name: str, operands: str, place: Place) -> None:
        base = name.partition(".")[0]
        if base in _ENDS:
            operands = f"`({operands.strip()})"
        elif base not in ("st", "red", "bar", "stmatrix"):
            first, *rest = _split(operands)
            for register in re.findall(r"%\w+", first):
                self._writes.setdefault(register, []).append((name, rest))
        self.listing.instructions.append(Instruction(_ENDS.get(base, name), operands, asks, place))

    def waves(self, at: int) -> Waves | None:
        """The wavefronts of an instruction; None where it is no access to shared memory."""
        row = self.listing.instructions[at]
        access, matrices = _ACCESS.match(row.name), _MATRICES.match(row.name)
        if not access and not matrices:
            return None
        place = _ADDRESS.search(row.operands)
        found = self._value(place[1]) if place else None
        width = 16 if matrices or not access else int(access[2] or 1) * int(access[3]) // 8
        turns = int(matrices[2]) if matrices else -(-width * WARP // (BANKS * WORD))
        if found is None or place is None:  # by an instruction that is not known here
            return Waves(turns, turns)
        addresses = (found + int(place[2] or 0)).reshape(-1, WARP)
        runs = np.ones_like(addresses, bool)
        if row.asks and (condition := self._value(row.asks.lstrip("!"))) is not None:
            runs = (condition.reshape(-1, WARP) != 0) ^ row.asks.startswith("!")
        together = 8 if matrices else WARP // turns
        counted = [
            _wavefronts(lanes[which], width)
            for warp, active in zip(addresses, runs, strict=True)
            for start in range(0, turns * together, together)
            for lanes, which in [(warp[start : start + together], active[start : start + together])]
        ]
        least = sum(count > 0 for count in counted)
        return Waves(sum(counted) / len(addresses), least / len(addresses))

    def _value(self, operand: str) -> Values | None:
        """The value of an operand in each thread; None where an instruction made it that is not known here."""
        operand = operand.strip()
        if re.fullmatch(r"-?\d+", operand):
            return np.full_like(self._thread, int(operand))
        if operand == "%tid.x":
            return self._thread
        if operand not in self._writes:  # the place of shared memory, the number of the program, a parameter
            return np.zeros_like(self._thread)
        if operand not in self._known:
            self._known[operand] = None  # in a loop, until what it begins with is known
            for name, operands in self._writes[operand]:
                if (found := self._result(name, operands)) is not None:
                    self._known[operand] = found
                    break
        return self._known[operand]

    def _result(self, name: str, operands: Sequence[str]) -> Values | None:
        base, *types = name.split(".")
        if base == "ld":  # of a parameter; or of a tensor, which no address of shared memory comes from
            return np.zeros_like(self._thread)
        rule = _RULES.get(base) or _RULES.get(".".join([base, *types[:1]]))
        values = [self._value(operand) for operand in operands]
        if rule is None or any(value is None for value in values):
            return None
        found = np.asarray(rule(*values), np.int64)
        return found if "64" in types[-1] or base == "setp" else found & 0xFFFFFFFF


_RULES: dict[str, Callable[..., object]] = {
    "mov": lambda a: a,
    "cvt": lambda a: a,
    "cvta": lambda a: a,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "mad": lambda a, b, c: a * b + c,
    "bfe": lambda a, start, length: (a >> start) & ((1 << length) - 1),
    "selp": lambda a, b, p: np.where(p != 0, a, b),
    "setp.eq": np.equal,
    "setp.ne": np.not_equal,
    "setp.lt": np.less,
    "setp.le": np.less_equal,
    "setp.gt": np.greater,
    "setp.ge": np.greater_equal,
}


def _split(operands: str) -> list[str]:
    """Operands one by one; those in braces are one."""
    return [part.strip() for part in re.split(r",(?![^{]*\})", operands)]


def _wavefronts(addresses: Values, width: int) -> int:
    """The words of the busiest bank."""
    words = np.unique((addresses[:, None] // WORD + np.arange(max(1, width // WORD))[None, :]).ravel())
    return int(np.bincount(words % BANKS).max()) if len(words) else 0
