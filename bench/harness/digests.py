"""Digests of outputs: how a later visit, in a process of its own, knows that it computes what the first one did.

The first visit to a case is checked in full against a reference and leaves a few numbers of each image's output in its
row. A later one runs the same model with the same weights on the same images and must give those numbers: no time
without a pass, at the price of one iteration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

NUMBERS = 32  # of each image's output, evenly over all of it
Digest = dict[str, list[list[float]]]  # by what the output is: a row of numbers an image

_earlier: ContextVar[Sequence[Sequence[Digest]] | None] = ContextVar("earlier", default=None)


@contextmanager
def known(digests: Sequence[Sequence[Digest]] | None) -> Iterator[None]:
    """Holds the digests that an earlier visit left: for each case of the job, one a size of input."""
    token = _earlier.set(digests)
    try:
        yield
    finally:
        _earlier.reset(token)


def earlier(place: int) -> Sequence[Digest] | None:
    """The digests that an earlier visit left of the case in this place of the job; None where no visit did."""
    digests = _earlier.get()
    return digests[place] if digests and place < len(digests) else None


def sampled(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A few numbers of each row of each output (images, values), the first and the last among them."""
    chosen = {}
    for name, row in rows.items():
        places = torch.linspace(0, row.shape[1] - 1, min(NUMBERS, row.shape[1]), dtype=torch.float64)
        chosen[name] = row[:, places.round().long()]
    return chosen


def taken(rows: Mapping[str, Tensor], images: int) -> Digest:
    """The digest of the first `images` of outputs (images, values)."""
    return {name: row[:images].tolist() for name, row in sampled(rows).items()}


def tensors(digest: Digest) -> dict[str, Tensor]:
    """A digest's numbers as (images, numbers) in fp64."""
    return {name: torch.tensor(rows, dtype=torch.float64) for name, rows in digest.items()}
