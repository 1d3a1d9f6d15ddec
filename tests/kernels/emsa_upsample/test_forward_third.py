"""The forward kernel in Triton's interpreter: a third of the problems, so that cores share them."""

import pytest

from tests.support.interpreter import run_interpreted


@pytest.mark.timeout(900)
def test_in_tritons_interpreter():
    run_interpreted("tests/kernels/emsa_upsample/interpreted_forward.py", 2, 3)
