"""The kernel in Triton's interpreter: a share of the problems here, the others as sweeps."""

import pytest

from tests.support.interpreter import run_interpreted
from tests.support.sweeps import swept

SHARES = 8


@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", swept(range(SHARES), lambda share: share == 0))
def test_in_tritons_interpreter(share):
    run_interpreted("tests/kernels/mlp/interpreted_forward.py", share, SHARES)
