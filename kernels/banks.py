"""Bank conflicts in shared memory: the clocks that its 32 banks lose, from the addresses in PTX. Nothing has run.

A warp's access takes as many clocks, "wavefronts", as the busiest bank has words to give; without conflicts a bank has
one word for each 128 bytes. Addresses are worked out for every thread of a program. What is not known before a kernel
runs, sizes and places of tensors, is the same for all threads, so that any value does. An access whose address comes
from an instruction that is not known here is counted without conflicts, and as unknown. What asynchronous copies,
atomics and matrix products read and write by themselves is not counted. No torch, no Triton.

# An access of 8 or 16 bytes a thread is one of half or a quarter of a warp at a time; ldmatrix and stmatrix move
# matrices of 8 rows of 16 bytes (https://docs.nvidia.com/cuda/parallel-thread-execution).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import PurePosixPath
from typing import NamedTuple

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
_NUMBER = re.compile(r"-?\d+|0x[0-9a-fA-F]+")
_ENDS = {"bra": "BRA", "ret": "EXIT", "exit": "EXIT"}  # as `kernels.sass` names what ends a block


@dataclass(frozen=True)
class Waves:
    """The wavefronts of one warp, on average over a program's."""

    taken: float = 0.0
    least: float = 0.0  # without conflicts
    unknown: float = 0.0  # of `least`, those whose addresses are not known

    def __add__(self, other: Waves) -> Waves:
        return Waves(self.taken + other.taken, self.least + other.least, self.unknown + other.unknown)

    def __mul__(self, factor: float) -> Waves:
        return Waves(self.taken * factor, self.least * factor, self.unknown * factor)

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
    """The wavefronts of a warp where each loop goes round so often.

    Raises:
        ValueError: the trips of a loop are not given.
    """
    if unknown := {name for nest in counted for name in nest} - trips.keys():
        raise ValueError(f"the trips of {', '.join(sorted(unknown))} are not given")
    return sum((each * prod(trips[name] for name in nest) for nest, each in counted.items()), Waves())


class Program:
    """PTX, and what its registers hold in each thread."""

    def __init__(self, ptx: str, threads: int) -> None:
        self.listing = Listing()
        self._thread = np.arange(threads)
        self._writes: dict[str, list[tuple[str, list[str]]]] = {}
        self._negated: set[int] = set()  # instructions that run where their predicate is not
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
                if isnt:
                    self._negated.add(len(self.listing.instructions))
                self._read(predicate, name, operands, place)

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
            return Waves(turns, turns, turns)
        addresses = (found + int(place[2] or 0)).reshape(-1, WARP)
        runs = np.ones_like(addresses, bool)
        if row.asks and (condition := self._value(row.asks)) is not None:
            runs = (condition.reshape(-1, WARP) != 0) ^ (at in self._negated)
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
        if _NUMBER.fullmatch(operand):
            return np.full_like(self._thread, int(operand, 0))
        if operand == "%tid.x":
            return self._thread
        if operand.startswith("{"):  # halves of a register
            return None
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
        rule = _RULES.get(".".join([base, *types[:1]])) or _RULES.get(base)
        if rule is None or len(operands) != rule.operands or not types:
            return None
        values = [self._value(operand) for operand in operands]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        given = types[-1]  # of the operands; a product may be twice as wide, and a comparison is a predicate
        if base != "selp":
            known = [_as(value, given) for value in known]
        found = np.asarray(rule.of(*known), np.int64)
        if base == "setp":
            return found
        if base == "bfe" and given[0] == "s":  # a field has a sign of its own
            length = known[2]
            found = found - ((found >> (length - 1) & 1) << length)
        made = types[-2] if base == "cvt" else f"s{2 * int(given[1:])}" if "wide" in types else given
        return _as(found, made)


class _Rule(NamedTuple):
    """An instruction's number of operands, and its result of them."""

    operands: int
    of: Callable[..., object]


def _as(value: Values, type_: str) -> Values:
    """A value as a type of PTX has it: a predicate, or bits, with a sign or without."""
    if type_ == "pred":
        return (value != 0).astype(np.int64)
    bits = int(type_[1:]) if type_[1:].isdigit() else 64
    if bits >= 64:
        return value
    low = value & ((1 << bits) - 1)
    return low - ((low >> (bits - 1)) << bits) if type_[0] == "s" else low


_RULES = {
    "mov": _Rule(1, lambda a: a),
    "cvt": _Rule(1, lambda a: a),
    "cvta": _Rule(1, lambda a: a),
    "and": _Rule(2, np.bitwise_and),
    "or": _Rule(2, np.bitwise_or),
    "xor": _Rule(2, np.bitwise_xor),
    "not.pred": _Rule(1, lambda a: 1 - a),
    "not": _Rule(1, np.invert),
    "neg": _Rule(1, np.negative),
    "shl": _Rule(2, np.left_shift),
    "shr": _Rule(2, np.right_shift),
    "add": _Rule(2, np.add),
    "sub": _Rule(2, np.subtract),
    "mul.lo": _Rule(2, np.multiply),
    "mul.wide": _Rule(2, np.multiply),
    "mad.lo": _Rule(3, lambda a, b, c: a * b + c),
    "mad.wide": _Rule(3, lambda a, b, c: a * b + c),
    "bfe": _Rule(3, lambda a, start, length: (a >> start) & ((1 << length) - 1)),
    "bfi": _Rule(
        4,
        lambda a, b, start, length: b & ~(((1 << length) - 1) << start) | (a & ((1 << length) - 1)) << start,
    ),
    "selp": _Rule(3, lambda a, b, p: np.where(p != 0, a, b)),
    "setp.eq": _Rule(2, np.equal),
    "setp.ne": _Rule(2, np.not_equal),
    "setp.lt": _Rule(2, np.less),
    "setp.le": _Rule(2, np.less_equal),
    "setp.gt": _Rule(2, np.greater),
    "setp.ge": _Rule(2, np.greater_equal),
}


def _split(operands: str) -> list[str]:
    """Operands one by one; those in braces are one."""
    return [part.strip() for part in re.split(r",(?![^{]*\})", operands)]


def _wavefronts(addresses: Values, width: int) -> int:
    """The words of the busiest bank."""
    words = np.unique((addresses[:, None] // WORD + np.arange(max(1, width // WORD))[None, :]).ravel())
    return int(np.bincount(words % BANKS).max()) if len(words) else 0
