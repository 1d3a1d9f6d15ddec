"""The operator in Triton's interpreter: its registration, gradient, autocast, and a model that calls it."""

import pytest
import torch

from kernels.device import INTERPRETED
from kernels.mhim import op, reference
from models.attention import Attention
from models.switches import EMSAV1, EMSAV2
from tests.support.emsa_upsample import double, off
from tests.support.interpreter import round_to_bf16
from tests.support.mhim import call_of, problem

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"
round_to_bf16()


def small(**kind):
    torch.manual_seed(0)
    return problem(**{"dtype": torch.float32, **kind})


@pytest.mark.parametrize("branch", [True, False])
def test_opcheck(branch):
    tensors, geometry = small(branch=branch)
    tensors = [x if x is None else x.requires_grad_() for x in tensors]
    torch.library.opcheck(torch.ops.restv2.mhim.default, call_of(tensors, geometry))


@pytest.mark.parametrize("branch", [True, False])
def test_gradients_are_autograds(branch):
    tensors, geometry = small(branch=branch)
    live = [x.requires_grad_() for x in tensors if x is not None]
    upstream = torch.randn(1, 15, 32)
    found = torch.autograd.grad(op.mhim(*live, **geometry), live, upstream)
    exact = [x.detach().double().requires_grad_() for x in live]
    truth = torch.autograd.grad(reference.mhim(*exact, **geometry), exact, upstream.double())
    for one, right in zip(found, truth, strict=True):
        assert off(one, right) < 1e-3 * (1 + right.abs().max())


def test_torch_compile_takes_it_in_one_graph_with_its_backward():
    torch.compiler.reset()
    tensors, geometry = small()
    tensors = [x.requires_grad_() for x in tensors]

    def twice(*tensors):
        return 2 * op.mhim(*tensors, **geometry)

    found = torch.compile(twice, fullgraph=True, backend="aot_eager")(*tensors)
    assert torch.equal(found, twice(*tensors))
    one, other = (torch.autograd.grad(out.sum(), tensors) for out in (found, twice(*tensors)))
    assert all(map(torch.allclose, one, other))


def test_autocast_casts_as_for_a_product():
    tensors, geometry = small()
    with torch.autocast("cpu", torch.bfloat16):
        out = op.mhim(*tensors, **geometry)
        eager = reference.mhim(*tensors, **geometry)
    assert out.dtype == torch.bfloat16
    truth = reference.mhim(*double(tensors), **geometry)
    assert off(out, truth) <= 2 * off(eager, truth) + 1e-5


@pytest.mark.parametrize("switches", [EMSAV1, EMSAV2], ids=["ResTv1", "ResTv2"])
def test_a_models_attention(switches):
    from dataclasses import replace

    switches = replace(switches, mhim=True)
    eager, fused = (Attention(32, 2, 2, switches=switches, impl=impl) for impl in ("eager", "fused"))
    fused.load_state_dict(eager.state_dict())
    tokens = torch.randn(1, 5 * 3, 32)  # cropped in both directions
    with torch.inference_mode():
        assert off(fused(tokens, (5, 3)), eager(tokens, (5, 3)).double()) < 1e-4
    assert fused.kernel(torch.device("cpu"), torch.float32) == "mhim"
