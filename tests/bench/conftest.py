"""Fixtures of the tests of the command line."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.machine import devices, provenance
from bench.machine.devices import Listing
from tests.support.command_line import NO_DRIVER
from tests.support.runs import count_here

NETS = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
"""


@pytest.fixture
def this_process_stays_as_it_was() -> Iterator[None]:
    """The command line takes SIGTERM for itself."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def place(tmp_path, monkeypatch, this_process_stays_as_it_was) -> Path:
    """An empty folder as the current one, with a user's module in it, on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(provenance.ROOT))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(devices, "devices", lambda: Listing([], NO_DRIVER))
    (tmp_path / "nets.py").write_text(NETS)
    sys.modules.pop("nets", None)
    return tmp_path


@pytest.fixture
def counted_here(request, monkeypatch):
    """Counts are made in this process, as a worker would first import torch; not in tests marked `in_a_worker`."""
    if not request.node.get_closest_marker("in_a_worker"):
        count_here(monkeypatch)


class Malicious:
    """Touches a file when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.fixture
def checkpoints(place) -> dict[str, str]:
    """File by what is wrong with it."""
    import torch  # not above: half of the tests can do without

    (place / "corrupt.pth").write_bytes(b"PK\x03\x04 not a zip file")
    (place / "malicious.pth").write_bytes(pickle.dumps(Malicious()))
    torch.save({"model": {"weight": Malicious()}}, place / "malicious_zip.pth")
    torch.save({"model": {"fc.weight": torch.zeros(3)}}, place / "foreign.pth")
    return {
        "corrupt.pth": "corrupt",
        "malicious.pth": "would execute code",
        "malicious_zip.pth": "would execute code",
        "foreign.pth": "does not fit the model",
    }
