"""The reduction's tiles as data."""

import pytest

from kernels.window_reduce import tuning
from tests.support import measured


@pytest.mark.parametrize(("problem", "times"), list(measured.times("window_reduce", "h200")), ids=str)
def test_what_runs_on_hopper_was_the_fastest_on_an_h200(problem, times):
    _, stage, _ = problem
    chosen = measured.named(tuning.choose(90, 96 << (stage - 1)))
    assert times[chosen] <= measured.AGAIN * min(times.values())


@pytest.mark.parametrize(
    ("problem", "times"), list(measured.times("window_reduce_backward", "h200")), ids=str
)
def test_what_runs_backward_on_hopper_was_the_fastest_on_an_h200(problem, times):
    """Within 4 %: one tile serves all channels of a width."""
    _, stage, _ = problem
    chosen = measured.named(tuning.choose_backward(90, 96 << (stage - 1)))
    assert times[chosen] <= 1.04 * min(times.values())
