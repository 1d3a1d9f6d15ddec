"""The forward kernel in Triton's interpreter: a share of the problems here, another in sweeps, all in trials."""

import pytest

from tests.support.sweeps import shared_out


@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", shared_out(12))
def test_in_tritons_interpreter(share, interpreted):
    interpreted("tests/kernels/emsa_upsample/interpreted_forward.py", share)
