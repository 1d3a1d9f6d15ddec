"""The reference: its gradient's formulas against autograd, and how far each GELU is from the exact one."""

import pytest
import torch
import torch.nn.functional as F

from kernels.mlp import reference
from tests.support.mlp import problem


def test_the_gradients_formulas_are_autograds():
    torch.manual_seed(0)
    live = [tensor.requires_grad_() for tensor in problem((2, 3, 5), 6, 24)]
    out = reference.mlp(*live)
    upstream = torch.randn_like(out)
    truth = torch.autograd.grad(out, live, upstream)
    with torch.no_grad():
        found = reference.gradients(upstream, *live[:4])
    for one, other in zip(found, truth, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(reference.mlp, live)


@pytest.mark.parametrize(("gelu", "largest"), [("erf", 1e-14), ("exp", 2.52e-5), ("tanh", 2.52e-5)])
def test_how_far_a_gelu_is_from_the_exact_one(gelu, largest):
    x = torch.linspace(-50, 50, 1_000_001, dtype=torch.float64)
    error = (reference.GELUS[gelu](x) - F.gelu(x)).abs().max()
    assert error <= largest
    assert error > 0.99 * largest or gelu == "erf"  # the figure that is printed is this one


def test_without_its_third_coefficient_it_is_further_off():
    x = torch.linspace(-5, 5, 100_001, dtype=torch.float64)
    pytorchs = (F.gelu(x, approximate="tanh") - F.gelu(x)).abs().max()
    assert 4.7e-4 < pytorchs < 4.8e-4
