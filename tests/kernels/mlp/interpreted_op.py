"""The operator in Triton's interpreter: its registration, gradient, autocast, and a model that calls it."""

import pytest
import torch

from kernels.device import INTERPRETED
from kernels.mlp import op, reference
from tests.support.mlp import DTYPES, double, errors, problem

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"


@pytest.fixture
def live():
    """Two images of five tokens in fp16, of which gradients are asked for."""
    torch.manual_seed(0)
    return [tensor.requires_grad_() for tensor in problem((2, 5), dtype=torch.float16)]


def test_gradients_are_within_eagers_own_error(live):
    upstream = torch.randn(2, 5, 64, dtype=torch.float16)
    exact = [tensor.detach().double().requires_grad_() for tensor in live]
    truth = torch.autograd.grad(reference.mlp(*exact), exact, upstream.double())
    found, eager = (torch.autograd.grad(run(*live), live, upstream) for run in (op.mlp, reference.mlp))
    for one, other, right in zip(found, eager, truth, strict=True):
        assert errors(one, right)[0] <= 2 * errors(other, right)[0] + 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    """Schema, fake tensors, autograd's registration and torch.compile's tracing, forward and backward."""
    tensors = [tensor.requires_grad_() for tensor in problem((2, 5), dtype=dtype)]
    torch.library.opcheck(torch.ops.restv2.mlp.default, tuple(tensors))


def test_torch_compile_takes_it_in_one_graph_with_its_backward(live):
    torch.compiler.reset()

    def twice(*tensors):
        return 2 * op.mlp(*tensors)

    found = torch.compile(twice, fullgraph=True, backend="aot_eager")(*live)
    assert torch.equal(found, twice(*live))
    one, other = (torch.autograd.grad(out.sum(), live) for out in (found, twice(*live)))
    assert all(map(torch.allclose, one, other))


def test_autocast_casts_as_for_a_product():
    torch.manual_seed(0)
    tensors = problem((2, 5), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out, eager = op.mlp(*tensors), reference.mlp(*tensors)
    assert out.dtype == torch.bfloat16
    truth = reference.mlp(*double(tensors))
    assert errors(out, truth)[0] <= 2 * errors(eager, truth)[0] + 1e-5
    with pytest.raises(RuntimeError, match="takes fp16 and bf16, not fp32"):
        op.mlp(*tensors)


def test_no_tokens_at_all():
    tensors = [tensor.requires_grad_() for tensor in problem((0, 5), dtype=torch.float16)]
    out = op.mlp(*tensors)
    assert out.shape == (0, 5, 64)
    assert all(not grad.any() for grad in torch.autograd.grad(out.sum(), tensors))
