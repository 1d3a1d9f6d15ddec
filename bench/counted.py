"""Counts of published models, from counted.csv: MACs, bytes and launches of timm's thousand and the paper's. No torch.

So that a table of speeds can be fitted in seconds. `python -m bench.harness.fused` writes the file; its columns:

    case      as the paper's CSV files write it: model, options and size
    family    of the model: ours, or the module of timm's that defines it
    macs      of one image, as `core` counts them
    conv_macs those of convolutions
    norms     elements that layer and group norms make, which autocast computes in fp32
    launches  of one call in eager, attention in one kernel where the model lets PyTorch choose
    each      elements of floating point that one image moves
    once      elements that are moved once a call, whatever its batch: weights
    fused_…   the same as a fusing compiler leaves them, by the rule of `bench/harness/fused.py`

Whole numbers and booleans are left out: they are at most a hundredth of any model's bytes.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench.costmodel import Work
from bench.traffic import BYTES_OF

# For each element of a norm that autocast computes in fp32 instead of fp16: the norm reads and writes 4 bytes more, a
# copy in fp16 for the next layer moves 6, and the sum that the norm reads from moves 4 more
CAST_BYTES = 14
FILE = Path(__file__).with_name("counted.csv")


class Counted(NamedTuple):
    """A line of the file."""

    case: str
    family: str
    macs: int
    conv_macs: int
    norms: int
    launches: int
    each: int
    once: int
    fused_launches: int
    fused_each: int
    fused_once: int

    def work(self, dtype: str, batch: int, *, is_compiled: bool = False, is_autocast: bool = False) -> Work:
        """The work of an image, in eager or compiled."""
        launches, each, once = self[8:] if is_compiled else self[5:8]
        moved = BYTES_OF[dtype] * (each + once / batch)
        casts = CAST_BYTES * self.norms if is_autocast and not is_compiled else 0
        return Work(self.macs, moved, launches / batch, self.conv_macs, casts, 1 / batch)


@cache
def counted(path: Path = FILE) -> dict[str, Counted]:
    """Every line by its case."""
    with path.open(newline="", encoding="utf-8") as file:
        return {
            line["case"]: Counted(
                line["case"], line["family"], *(int(line[name]) for name in Counted._fields[2:])
            )
            for line in csv.DictReader(file)
        }
