"""The gradients' kernels in Triton's interpreter: a share of the problems here, another in sweeps, all in trials."""

import pytest

from tests.support.sweeps import shared_out


@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", shared_out(13, first=6))
def test_in_tritons_interpreter(share, interpreted):
    interpreted("tests/kernels/window_reduce/interpreted_backward.py", share)
