"""The gradients' kernels in Triton's interpreter, against autograd of the padded reference in float64."""

import random

import pytest
import torch

from kernels.device import INTERPRETED
from kernels.window_reduce import launch, reference, tuning
from kernels.window_reduce.tuning import Backward, Config
from tests.support.gradients import check, random_gradient
from tests.support.interpreter import of_this_share, round_to_bf16
from tests.support.window_reduce import DTYPES, call_of, random_problem

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

round_to_bf16()
PROBLEMS = range(200)


def random_call(seed):
    """A random problem, a gradient of its result, and tiles, of which a small problem has several of the smallest."""
    tensors, geometry = random_problem(seed)
    chosen = random.Random(seed)
    scale = chosen.choice((1e-3, 1.0, 1.0, 30.0))
    grad = random_gradient(chosen, launch.made(call_of(tensors, geometry)), scale)
    small = Backward(Config(2, 64, 4), Config(2, 64, 4, per_sm=chosen.choice((1, 50))))
    offered = tuning.backward_candidates(chosen.choice((80, 90)), grad.shape[-1])
    return tensors, geometry, grad, chosen.choice([*offered, small])


@pytest.mark.parametrize("seed", of_this_share(PROBLEMS))
def test_within_eagers_own_error(seed, margins):
    """Nothing outside is written, for the margins keep their poison; nor read, for it would show in the result."""
    tensors, geometry, grad, config = random_call(seed)
    margins.clear()

    def find(tensors, grad):
        return launch.launch_backward(config, call_of(tensors, geometry), grad)

    found = check(find, reference.window_reduce, tensors, geometry, grad)
    assert margins or not grad.numel()
    assert all(margin.isnan().all() for margin in margins)
    again = launch.launch_backward(config, call_of(tensors, geometry), grad)
    assert all(one is other or torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_the_problems_are_of_every_kind():
    drawn = [random_call(seed) for seed in PROBLEMS]
    assert {tensors[0].dtype for tensors, *_ in drawn} == {*DTYPES}
    assert {geometry["reduction"] for _, geometry, *_ in drawn} == {*tuning.REDUCTIONS}
    assert any(len(tensors[0]) == 0 for tensors, *_ in drawn)
    assert any(tensors[2] is None for tensors, *_ in drawn)
    padded = [any(side % geometry["window"] for side in geometry["size"]) for _, geometry, *_ in drawn]
    assert {*padded} == {True, False}
    cut = [geometry["window"] % geometry["reduction"] > 0 for _, geometry, *_ in drawn]
    assert {*cut} == {True, False}
    assert any(config.filters.cells < grad.shape[1] for _, _, grad, config in drawn)
