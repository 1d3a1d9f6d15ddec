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
def small_lite(monkeypatch) -> None:
    """ResTv1-Lite and ResTv2-Lite are small in the test: a quarter of the channels, fewer blocks."""
    from tests.support.small_models import shrink_lite  # not above: most tests need no model

    shrink_lite(monkeypatch)


@pytest.fixture
def narrow_detector(monkeypatch) -> None:
    """Mask R-CNN has few channels in the test, and as many boxes as ever."""
    from tests.support import small_models

    small_models.narrow_detector(monkeypatch)
