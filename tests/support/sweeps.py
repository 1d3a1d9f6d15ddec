"""Sweeps: checks over more cases, or longer, than `make test` has time for. `make sweeps` runs them; so does CI."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

sweep = pytest.mark.sweep


def swept(values: Iterable[Any], is_for_test: Callable[[Any], bool]) -> list[Any]:
    """The values of a parametrised test, those that are not for `make test` marked as a sweep.

    Args:
        values: each a tuple where the test has several parameters.
        is_for_test: says of a value whether `make test` takes it; one at the least.
    """
    chosen = [(value, is_for_test(value)) for value in values]
    assert any(here for _, here in chosen), "make test is to check one of them"
    return [
        value if here else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=sweep)
        for value, here in chosen
    ]


def shared_out(shares: int, first: int = 0) -> list[Any]:
    """Shares of a test too long for CI, each as number/shares: a 16th of one in `make test`, a quarter in sweeps.

    Trials take them all.

    Args:
        first: the share of `make test`, where others' problems take an interpreter less time; sweeps take the next.
    """
    trials = [pytest.param(f"{share}/{shares}", marks=pytest.mark.trials) for share in range(shares)]
    return [f"{first}/{16 * shares}", pytest.param(f"{first + 1}/{4 * shares}", marks=sweep), *trials]
