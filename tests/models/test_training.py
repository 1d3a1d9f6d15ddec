"""Training with the kernels, in Triton's interpreter: minutes."""

import pytest

from tests.support.interpreter import run_interpreted


@pytest.mark.trials
def test_in_tritons_interpreter():
    run_interpreted("tests/models/interpreted_training.py")
