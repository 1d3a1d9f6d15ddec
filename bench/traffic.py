"""The reads, writes and launches of operators: the sums of a row, and what follows for a batch and a dtype. No torch.

A row's elements are of floating point, so that their bytes follow from the dtype; whole numbers and booleans keep
theirs. What depends on the image is moved for each image of a batch; weights, and what is computed of them alone, once
a call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import add
from typing import Any, NamedTuple

from bench.conventions import FLOPS_PER_MAC

BYTES_OF = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2}  # an element, by dtype


class Traffic(NamedTuple):
    """The traffic of calls for one image: elements of floating point, bytes of all others; and the launches of them."""

    launches: int = 0
    read: int = 0  # elements of what depends on the image
    written: int = 0
    once: int = 0  # elements read and written of weights, and of what is computed of them alone
    other_bytes: int = 0  # of whole numbers and booleans, for an image
    other_bytes_once: int = 0
    macs: int = 0  # as `core` counts those of the same calls

    def plus(self, other: Traffic) -> Traffic:
        """The sum of both."""
        return Traffic(*map(add, self, other))

    def times(self, share: float) -> Traffic:
        """A multiple or a part, in whole elements, bytes and launches."""
        return Traffic(*(round(share * part) for part in self))

    def bytes_each(self, dtype: str) -> int:
        """Bytes that are moved for each image of a batch."""
        return (self.read + self.written) * BYTES_OF[dtype] + self.other_bytes

    def bytes_once(self, dtype: str) -> int:
        """Bytes that are moved once a call, however many images it is for."""
        return self.once * BYTES_OF[dtype] + self.other_bytes_once

    def bytes(self, dtype: str, batch: int) -> int:
        """Bytes of one call with a batch."""
        return batch * self.bytes_each(dtype) + self.bytes_once(dtype)

    def flop_per_byte(self, dtype: str, batch: int) -> float | None:
        """FLOP of the convention `core` for each byte; None where nothing is moved."""
        moved = self.bytes(dtype, batch)
        return FLOPS_PER_MAC * batch * self.macs / moved if moved else None


def total(parts: Iterable[Traffic]) -> Traffic:
    """The sum of several."""
    return Traffic(*map(sum, zip(*parts, strict=True)))


def of_row(counted: Mapping[str, Any] | None, by: str = "operator") -> dict[str, Traffic]:
    """The parts in `traffic` of a `macs` row's result; none for a row that was counted without."""
    return {name: Traffic(**part) for name, part in counted[f"by_{by}"].items()} if counted else {}
