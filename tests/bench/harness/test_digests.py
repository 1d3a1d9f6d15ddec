"""Digests: a later visit that computes something else than the first is refused."""

import pytest
import torch

from bench.errors import Wrong
from bench.harness import digests

OUT = {"the largest logit": torch.linspace(-1, 1, 1000).reshape(4, 250)}


def test_the_same_output_passes():
    assert digests.compare(digests.take(OUT), digests.take(OUT), 1e-6) == 0


@pytest.mark.parametrize(
    "changed",
    [
        lambda out: torch.zeros_like(out),
        lambda out: out.flip(0),  # the right numbers for the wrong images
        lambda out: out + 1e-2,
        lambda out: out * float("nan"),
        lambda out: out[:, :10],
    ],
)
def test_another_output_is_refused(changed):
    now = digests.take({name: changed(out) for name, out in OUT.items()})
    with pytest.raises(Wrong, match="first visit"):
        digests.compare(now, digests.take(OUT), 1e-4)
