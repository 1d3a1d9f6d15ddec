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
