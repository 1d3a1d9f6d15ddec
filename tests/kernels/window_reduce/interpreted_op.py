"""The operator in Triton's interpreter: its registration, gradient, autocast, and a model that calls it."""

import pytest
import torch

from kernels.device import INTERPRETED
from kernels.window_reduce import op, op_backward, reference
from models.windows import WindowAttention
from tests.support.emsa_upsample import off
from tests.support.interpreter import round_to_bf16

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"
round_to_bf16()


def small():
    torch.manual_seed(0)
    tensors = [torch.randn(shape).requires_grad_() for shape in ((2, 35, 16), (16, 1, 3, 3), (16,))]
    return tensors, {"size": (5, 7), "reduction": 2, "window": 4}


def test_opcheck():
    tensors, _ = small()
    torch.library.opcheck(torch.ops.restv2.window_reduce.default, (*tensors, 5, 7, 2, 4))


@pytest.mark.parametrize("bias", [True, False])
def test_opcheck_of_the_gradients(bias):
    x, weight, of_bias = (tensor.detach() for tensor in small()[0])
    arguments = (torch.randn(8, 4, 16), x, weight, of_bias if bias else None, 5, 7, 2, 4)
    torch.library.opcheck(torch.ops.restv2.window_reduce_backward.default, arguments)


def test_gradients_are_autograds():
    """In windows of 4×4, and by the operator for them."""
    tensors, geometry = small()
    upstream = torch.randn(8, 4, 16)
    found = torch.autograd.grad(op.window_reduce(*tensors, **geometry), tensors, upstream)
    assert all(map(torch.equal, found, op_backward.gradients(upstream, *tensors, **geometry)))
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    truth = torch.autograd.grad(reference.window_reduce(*exact, **geometry), exact, upstream.double())
    for one, right in zip(found, truth, strict=True):
        assert off(one, right) < 1e-5 * (1 + right.abs().max())


def test_autocast_casts_as_for_a_convolution():
    tensors, geometry = small()
    with torch.autocast("cpu", torch.bfloat16):
        assert op.window_reduce(*tensors, **geometry).dtype == torch.bfloat16


@pytest.mark.parametrize("stage", [3, 4])
def test_a_models_attention_in_windows(stage):
    """A map of 5×9 in windows of 4, with a reduction of 2 and with none."""
    reduction = {3: 2, 4: 1}[stage]
    eager, fused = (WindowAttention(32, 2, reduction, window=4, impl=impl) for impl in ("eager", "fused"))
    for parameter in eager.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    fused.load_state_dict(eager.state_dict())
    tokens = torch.randn(1, 45, 32)
    live = [tokens.clone().requires_grad_() for _ in range(2)]
    ours, theirs = (attn(x, (5, 9)) for attn, x in zip((fused, eager), live, strict=True))
    assert off(ours, theirs.double()) < 1e-4
    grads = [
        torch.autograd.grad(out.square().sum(), [x, *attn.parameters()])
        for out, x, attn in zip((ours, theirs), live, (fused, eager), strict=True)
    ]
    for one, other in zip(*grads, strict=True):
        assert off(one, other.double()) <= 1e-3 * (1 + other.abs().max())
