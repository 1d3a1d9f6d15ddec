"""Fixtures of the tests of what runs in the worker."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import models
from bench.machine import provenance
from tests.support import trained_nets


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """What runs here is small: two threads would only wait for each other where something else runs besides."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def lite() -> nn.Module:
    torch.manual_seed(0)
    return models.build("restv2_lite", size=(64, 64))


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> Iterator[Any]:
    """A user's module, importable here and, by the current folder, in a worker."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "trained_nets.py").write_text(trained_nets.SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(provenance.ROOT))
        yield importlib.import_module("trained_nets")
    sys.modules.pop("trained_nets")


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """A function that writes a user's module, by its name and source, to be imported in one test."""
    written = []

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        written.append(name)
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in written:
        sys.modules.pop(name, None)
