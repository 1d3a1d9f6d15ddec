"""Fixtures of the tests of devices and of their state."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.machine import devices, state
from tests.support.nvml import Gpu, Nvml


@pytest.fixture
def nvml(monkeypatch) -> Callable[..., Nvml]:
    """Puts synthetic GPUs in the machine."""

    def install(*gpus: Gpu, names: dict[int, str] | None = None) -> Nvml:
        fake = Nvml(*gpus, names=names)
        for module in (devices, state):
            monkeypatch.setattr(module, "load_nvml", lambda: fake)
        return fake

    return install
