"""Fixtures that tests of several floors share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

# The slowest files, of `make test` or of `make sweeps`: they are started first, so that none is left to run alone at
# the end.
SLOWEST = (
    *(
        "test_op.py",
        "test_op_backward.py",
        "test_backward.py",
        "test_page.py",
        "test_macs.py",
        "test_main.py",
        "test_detection.py",
        "test_runner.py",
    ),
    *(
        "test_main_measuring.py",
        "test_prepare_attention.py",
        "test_main_macs.py",
        "test_windows.py",
        "test_forward.py",
    ),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the slowest files first."""
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection() -> None:
    """Looks for no garbage while everything is imported."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Tells Python that what is there now stays: looking for garbage among it takes a twentieth of the tests' time."""
    gc.freeze()
    gc.enable()


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
