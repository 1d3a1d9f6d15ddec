"""The kernel in Triton's interpreter, against the padded reference in float64."""

import random

import pytest

from kernels.device import INTERPRETED
from kernels.window_reduce import launch, reference, tuning
from tests.support.emsa_upsample import double, off, rms
from tests.support.interpreter import of_this_share, round_to_bf16
from tests.support.window_reduce import call_of, random_problem

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

round_to_bf16()
PROBLEMS = range(100)


@pytest.mark.parametrize("seed", of_this_share(PROBLEMS))
def test_within_eagers_own_error(seed, margins):
    tensors, geometry = random_problem(seed)
    config = random.Random(seed).choice(tuning.candidates(90, tensors[0].shape[-1]))
    truth = reference.window_reduce(*double(tensors), **geometry)
    eager = reference.window_reduce(*tensors, **geometry)
    out = launch.launch(config, call_of(tensors, geometry))
    assert out.shape == truth.shape
    assert out.dtype == tensors[0].dtype
    assert out.isfinite().all()
    assert off(out, truth) <= 2 * off(eager, truth) + 1e-5
    assert rms(out, truth) <= 1.25 * rms(eager, truth) + 1e-6
    assert all(margin.isnan().all() for margin in margins)
