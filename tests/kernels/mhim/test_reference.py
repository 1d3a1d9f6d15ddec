"""The reference: against loops over equation 1, and its gradient's formulas against autograd."""

import pytest
import torch

from kernels.mhim import reference
from tests.support.mhim import problem


def test_against_loops():
    """Equation 1, one query at a time: mixed scores, their softmax, and the norm of a head's whole map."""
    torch.manual_seed(0)
    tensors, geometry = problem(heads=3, size=(4, 6), head_dim=4, branch=False)
    q, k, v, mix, bias = (x for x in tensors if x is not None)
    out = reference.mhim(*tensors, **geometry)
    for head in range(3):
        shares = torch.empty(24, 6, dtype=torch.float64)
        for query in range(24):
            scores = [k[0, :, 4 * a : 4 * a + 4] @ q[0, query, 4 * a : 4 * a + 4] / 2 for a in range(3)]
            mixed = bias[head] + sum(mix[head, a, 0, 0] * scores[a] for a in range(3))
            shares[query] = mixed.exp() / mixed.exp().sum()
        normed = (shares - shares.mean()) / (shares.var(unbiased=False) + 1e-5).sqrt()
        own = slice(4 * head, 4 * head + 4)
        assert (out[0, :, own] - normed @ v[0, :, own]).abs().max() < 1e-12


@pytest.mark.parametrize("branch", [True, False])
def test_the_gradients_formulas_are_autograds(branch):
    torch.manual_seed(0)
    tensors, geometry = problem(heads=2, size=(5, 7), head_dim=4, batch=2, branch=branch)
    live = [x.requires_grad_() for x in tensors if x is not None]
    out = reference.mhim(*live, **geometry)
    upstream = torch.randn_like(out)
    truth = torch.autograd.grad(out, live, upstream)
    with torch.no_grad():
        found = reference.gradients(upstream, *tensors, **geometry)
    there = [one for one in found if one is not None]
    assert len(there) == len(live)
    for one, right in zip(there, truth, strict=True):
        assert (one - right).abs().max() < 1e-11 * (1 + right.abs().max())


def test_the_mean_of_a_map_is_known():
    """Shares of a row sum to 1: what eager computes of the map is 1/M."""
    map_BANM = torch.randn(2, 3, 7, 5, dtype=torch.float64).softmax(-1)
    off = map_BANM - 1 / 5
    found = off * (off.square().mean((-2, -1), keepdim=True) + reference.NORM_EPS).rsqrt()
    assert (found - reference.instance_norm(map_BANM)).abs().max() < 1e-12
