"""The gradients' kernels in Triton's interpreter, against autograd of the padded reference in float64."""

import random

import pytest
import torch

from kernels.window_reduce import launch, reference, tuning
from kernels.window_reduce.tuning import Backward, Config
from tests.support.emsa_upsample import double, off, rms
from tests.support.interpreter import of_this_share, round_to_bf16
from tests.support.poison import poisoned
from tests.support.window_reduce import DTYPES, call_of, random_problem

assert launch.INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

round_to_bf16()
PROBLEMS = range(200)
NAMES = ("x", "weight", "bias")


def random_gradient(seed):
    """A random problem, a gradient of its result, and tiles, of which a small problem has several of the smallest."""
    tensors, geometry = random_problem(seed)
    chosen, values = random.Random(seed), torch.Generator().manual_seed(seed)
    made = launch.made(call_of(tensors, geometry))
    grad = (torch.randn(made.shape, generator=values) * chosen.choice((1e-3, 1.0, 1.0, 30.0))).to(made.dtype)
    layout = chosen.choice(("contiguous", "poisoned", "transposed", "expanded"))
    if layout == "poisoned":
        grad = poisoned(grad)
    elif layout == "transposed":
        grad = grad.transpose(1, 2).contiguous().transpose(1, 2)
    elif layout == "expanded":
        grad = grad[..., :1].expand(grad.shape)
    small = Backward(Config(2, 64, 4), Config(2, 64, 4, per_sm=chosen.choice((1, 50))))
    return tensors, geometry, grad, chosen.choice([*tuning.backward_candidates(grad.shape[-1]), small])


def autograd(tensors, geometry, grad):
    """Gradients of the reference by autograd; None where there is no tensor."""
    live = [None if x is None else x.detach().clone().requires_grad_() for x in tensors]
    out = reference.window_reduce(*live, **geometry)
    found = iter(torch.autograd.grad(out, [x for x in live if x is not None], grad))
    return [None if x is None else next(found) for x in live]


@pytest.mark.parametrize("seed", of_this_share(PROBLEMS))
def test_within_eagers_own_error(seed, margins):
    """Nothing outside is written, for the margins keep their poison; nor read, for it would show in the result."""
    tensors, geometry, grad, config = random_gradient(seed)
    margins.clear()
    found = launch.launch_backward(config, call_of(tensors, geometry), grad)
    truth = autograd(double(tensors), geometry, grad.double())
    eager = autograd(tensors, geometry, grad)
    for name, tensor, one, other, right in zip(NAMES, tensors, found, eager, truth, strict=True):
        assert (one is None) == (tensor is None), name
        if one is None:
            continue
        assert one.shape == tensor.shape, name
        assert one.dtype == tensor.dtype, name
        assert one.isfinite().all(), name
        small = 1e-5 * right.abs().max().item() + 1e-7 if right.numel() else 0.0
        assert off(one, right) <= 2 * off(other, right) + small, name
        assert rms(one, right) <= 1.25 * rms(other, right) + small, name
    assert margins or not grad.numel()
    assert all(margin.isnan().all() for margin in margins)
    again = launch.launch_backward(config, call_of(tensors, geometry), grad)
    assert all(one is other or torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_the_problems_are_of_every_kind():
    drawn = [random_gradient(seed) for seed in PROBLEMS]
    assert {tensors[0].dtype for tensors, *_ in drawn} == {*DTYPES}
    assert {geometry["reduction"] for _, geometry, *_ in drawn} == {*tuning.REDUCTIONS}
    assert any(len(tensors[0]) == 0 for tensors, *_ in drawn)
    assert any(tensors[2] is None for tensors, *_ in drawn)
    padded = [any(side % geometry["window"] for side in geometry["size"]) for _, geometry, *_ in drawn]
    assert {*padded} == {True, False}
    assert any(config.filters.cells < grad.shape[1] for _, _, grad, config in drawn)
