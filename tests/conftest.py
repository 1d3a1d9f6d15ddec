"""Fixtures that tests of several floors share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def locks_of_its_own(tmp_path_factory) -> Iterator[None]:
    """Runs of tests that run side by side do not wait for each other, nor for a run of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_LOCKS", str(tmp_path_factory.mktemp("locks")))
        yield


@pytest.fixture
def small_models(monkeypatch) -> None:
    """ResTv1-Lite, ResTv2-Lite, PVT and Focal-T are small in the test: fewer channels and blocks."""
    from tests.support import small_models  # not above: half of the tests can do without torch

    small_models.shrink(monkeypatch)


@pytest.fixture
def narrow_heads(monkeypatch) -> None:
    """Mask R-CNN and UperNet have few channels in the test."""
    from tests.support import small_models

    small_models.narrow_heads(monkeypatch)
