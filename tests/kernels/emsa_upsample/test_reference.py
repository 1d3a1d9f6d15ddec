"""The reference: against loops over equation 2, and its gradient's formulas against autograd."""

import pytest
import torch
from torch import nn

from kernels.emsa_upsample import cost, reference
from tests.support.emsa_upsample import problem


@pytest.mark.parametrize(("size", "reduction"), [((8, 8), 4), ((7, 10), 4), ((5, 3), 1), ((9, 17), 8)])
def test_reference_against_loops(size, reduction):
    """Equation 2, one query and one pixel at a time."""
    heads, width = 2, 3
    dim, grid = heads * width, cost.ceil_div(size, reduction)
    torch.manual_seed(1)
    q = torch.randn(2, size[0] * size[1], dim, dtype=torch.float64)
    k, v = torch.randn(2, 2, grid[0] * grid[1], dim, dtype=torch.float64)
    conv = nn.Conv2d(dim, dim * reduction**2, 3, padding=1, groups=dim).double()
    norm = nn.LayerNorm(dim, eps=1e-6).double()
    nn.init.normal_(norm.weight)
    out = reference.emsa_upsample(
        q, k, v, conv.weight, conv.bias, norm.weight, norm.bias, heads=heads, size=size, reduction=reduction
    )
    for image in range(2):
        padded = torch.zeros(dim, grid[0] + 2, grid[1] + 2, dtype=torch.float64)
        padded[:, 1:-1, 1:-1] = v[image].T.reshape(dim, *grid)
        for y in range(size[0]):
            for x in range(size[1]):
                query = q[image, y * size[1] + x]
                row = torch.empty(dim, dtype=torch.float64)
                for head in range(heads):
                    own = slice(head * width, (head + 1) * width)
                    weights = torch.softmax(k[image][:, own] @ query[own] / width**0.5, 0)
                    row[own] = weights @ v[image][:, own]
                phase = (y % reduction) * reduction + x % reduction
                taps = padded[:, y // reduction : y // reduction + 3, x // reduction : x // reduction + 3]
                channels = torch.arange(dim) * reduction**2 + phase
                up = (conv.weight[channels, 0] * taps).sum((1, 2)) + conv.bias[channels]
                up = (up - up.mean()) / (up.var(unbiased=False) + 1e-6).sqrt() * norm.weight + norm.bias
                assert (out[image, y * size[1] + x] - row - up).abs().max() < 1e-12


def test_reference_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        reference.emsa_upsample(
            *(torch.zeros(1, 4, 2),) * 3,
            torch.zeros(8, 1, 3, 3),
            None,
            torch.ones(2),
            torch.zeros(2),
            heads=1,
            size=(4, 4),
            reduction=4,
        )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("reduction", "size"), [(1, (3, 4)), (2, (5, 4)), (4, (6, 7)), (8, (8, 9))])
def test_the_gradients_formulas_are_autograds(reduction, size, bias):
    torch.manual_seed(0)
    tensors, geometry = problem(reduction, size, bias=bias)
    live = [tensor.requires_grad_() for tensor in tensors if tensor is not None]
    out = reference.emsa_upsample(*tensors, **geometry)
    upstream = torch.randn_like(out)
    truth = torch.autograd.grad(out, live, upstream)
    with torch.no_grad():
        found = reference.gradients(upstream, *tensors, **geometry)
    assert [grad is None for grad in found] == [tensor is None for tensor in tensors]
    for one, other in zip((grad for grad in found if grad is not None), truth, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)
