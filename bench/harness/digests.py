"""Digests of outputs: how a later visit, in a process of its own, knows that it computes what the first one did.

The first visit to a case is checked in full against a reference and leaves a few numbers of each output in its row. A
later one runs the same model on the same images and compares those numbers: no time without a pass, at the price of
one iteration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from bench.errors import Wrong

NUMBERS = 64  # of each output, evenly over all of it
Digest = dict[str, list[float]]  # by what the output is

_earlier: ContextVar[Sequence[Sequence[Digest]] | None] = ContextVar("earlier", default=None)


@contextmanager
def known(digests: Sequence[Sequence[Digest]] | None) -> Iterator[None]:
    """Holds the digests that an earlier visit left: for each case of the job, one an input."""
    token = _earlier.set(digests)
    try:
        yield
    finally:
        _earlier.reset(token)


def earlier(place: int) -> Sequence[Digest] | None:
    """What an earlier visit left of the case in this place of the job; None where no visit did."""
    digests = _earlier.get()
    return digests[place] if digests and place < len(digests) else None


def take(outputs: Mapping[str, Tensor]) -> Digest:
    """A few numbers of each output, the first and the last among them, and the largest magnitude of all."""
    digest = {}
    for name, output in outputs.items():
        flat = output.detach().flatten()
        places = torch.linspace(0, len(flat) - 1, min(NUMBERS, len(flat)), dtype=torch.float64)
        chosen = flat[places.round().long().to(flat.device)].double()
        digest[name] = [*chosen.tolist(), flat.abs().max().item()]
    return digest


def compare(now: Digest, before: Digest, bound: float) -> float:
    """The largest difference, as a share of the largest magnitude.

    Raises:
        Wrong: it is beyond the bound, not a number, or the outputs are others.
    """
    if {name: len(numbers) for name, numbers in now.items()} != {
        name: len(numbers) for name, numbers in before.items()
    }:
        raise Wrong("the output has another shape than in the first visit")
    worst = 0.0
    for name, numbers in now.items():
        scale = max(abs(before[name][-1]), 1e-30)
        for one, other in zip(numbers, before[name], strict=True):
            error = abs(one - other) / scale
            if not error <= bound:
                raise Wrong(
                    f"the output differs from the first visit's by {error:.2e} of {name}; {bound:.2e} is allowed"
                )
            worst = max(worst, error)
    return worst
