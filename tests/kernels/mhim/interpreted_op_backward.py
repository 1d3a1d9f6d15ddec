"""The backward operator in Triton's interpreter: its registration, torch.compile, and the forward's gradient."""

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from kernels.device import INTERPRETED
from kernels.mhim import op, op_backward, reference
from tests.support.emsa_upsample import double, off
from tests.support.mhim import call_of, problem

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

HALVES = (torch.float16, torch.bfloat16)


def small(**kind):
    """A map of 3×5 that the reduction does not divide, in fp16 if nothing else is said."""
    torch.manual_seed(0)
    return problem(**{"dtype": torch.float16, **kind})


@pytest.mark.parametrize("branch", [True, False])
@pytest.mark.parametrize("dtype", HALVES)
def test_opcheck(dtype, branch):
    """Schema, fake tensors, and that no result is part of another or of an argument."""
    tensors, geometry = small(dtype=dtype, branch=branch)
    arguments = (torch.randn_like(tensors[0]), *call_of(tensors, geometry))
    torch.library.opcheck(torch.ops.restv2.mhim_backward.default, arguments)


@pytest.mark.parametrize("branch", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_forwards_gradient_is_the_operators(bias, branch):
    tensors, geometry = small(branch=branch)
    if not bias:
        tensors[4] = tensors[6] = None
    live = [tensor.requires_grad_() for tensor in tensors if tensor is not None]
    upstream = torch.randn(1, 15, 32).half()
    found = torch.autograd.grad(op.mhim(*tensors, **geometry), live, upstream)
    own = [one for one in op_backward.gradients(upstream, *tensors, **geometry) if one is not None]
    assert all(map(torch.equal, found, own))
    truth = reference.gradients(upstream.double(), *double(tensors), **geometry)
    for one, other in zip(found, (x for x in truth if x is not None), strict=True):
        assert off(one, other) < 4e-3 * (1 + other.abs().max())


def test_fp32_is_left_to_the_reference():
    tensors, geometry = small(dtype=torch.float32)
    live = [tensor.requires_grad_() for tensor in tensors]
    upstream = torch.randn(1, 15, 32)
    found = torch.autograd.grad(op.mhim(*tensors, **geometry), live, upstream)
    with torch.no_grad():
        own = reference.gradients(upstream, *tensors, **geometry)
    assert all(map(torch.equal, found, own))


def test_nothing_is_saved_but_the_inputs():
    """Neither the result nor a map, of which autograd saves several of the reference."""
    tensors, geometry = small()
    live = [tensor.requires_grad_() for tensor in tensors]
    saved = []

    def keep(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        op.mhim(*live, **geometry)
    assert {x.untyped_storage().data_ptr() for x in saved} == {x.untyped_storage().data_ptr() for x in live}
    assert len(saved) == len(live)


def test_a_step_compiles_to_one_graph():
    """Forward and backward, without a break; the backward's graph has the operator in it."""
    torch.compiler.reset()
    tensors, geometry = small()
    tensors = [tensor.requires_grad_() for tensor in tensors]
    graphs = []

    def keep(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return make_boxed_func(graph.forward)

    def core(*tensors):
        return op.mhim(*tensors, **geometry)

    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    upstream = torch.randn(1, 15, 32).half()
    out = torch.compile(core, fullgraph=True, backend=backend)(*tensors)
    found = torch.autograd.grad(out, tensors, upstream)
    truth = torch.autograd.grad(core(*tensors), tensors, upstream)
    assert all(map(torch.equal, found, truth))
    assert len(graphs) == 2
    assert "restv2.mhim_backward.default" in graphs[1]


def test_under_autocast_parameters_have_gradients_in_their_own_dtype():
    tensors, geometry = small(dtype=torch.float32)
    live = [tensor.requires_grad_() for tensor in tensors]
    with torch.autocast("cpu", torch.bfloat16):
        out = op.mhim(*live, **geometry)
    upstream = torch.randn(out.shape).to(out.dtype)
    found = torch.autograd.grad(out, live, upstream)
    assert {one.dtype for one in found} == {torch.float32}
    truth = reference.gradients(upstream.double(), *double(tensors), **geometry)
    for one, other in zip(found, truth, strict=True):
        assert other is not None
        assert off(one, other) < 0.05 * (1 + other.abs().max())
