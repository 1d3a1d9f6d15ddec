"""Fixtures that the tests of kernels share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch

from tests.support.interpreter import run_interpreted
from tests.support.poison import MARGIN, POISON


@pytest.fixture
def interpreted(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Runs a share of the tests of a file in Triton's interpreter, in sweeps and trials with those that are sweeps."""
    return partial(run_interpreted, sweeps=any(map(request.node.get_closest_marker, ("sweep", "trials"))))


@pytest.fixture
def ieee() -> Iterator[None]:
    """Products of fp32 without TF32, which a GPU may otherwise take for convolutions."""
    from bench.harness.prepare import precision  # imports much that tests without a GPU do not need

    with precision():
        yield


@pytest.fixture
def margins(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Every buffer that a launch allocates is poison, inside and around it; the list of what lies around."""
    around: list[torch.Tensor] = []

    def empty(shape, dtype, device):
        size = torch.Size(shape).numel()
        buffer = torch.full((2 * MARGIN + size,), POISON, dtype=dtype, device=device)
        around.extend((buffer[:MARGIN], buffer[MARGIN + size :]))
        return buffer[MARGIN : MARGIN + size].view(shape)

    monkeypatch.setattr(torch, "empty", empty)
    return around
