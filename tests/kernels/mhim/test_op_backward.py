"""The backward operator: where it runs, what it counts, and in Triton's interpreter what it does."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels.mhim import cost, op_backward
from kernels.mhim.launch import TENSORS, Call
from tests.support.interpreter import run_interpreted
from tests.support.mhim import problem
from tests.support.sweeps import sweep


@sweep
@pytest.mark.timeout(900)
def test_in_tritons_interpreter():
    run_interpreted("tests/kernels/mhim/interpreted_op_backward.py")


def test_its_schema_is_the_gradient_and_a_calls_fields():
    schema = torch.ops.restv2.mhim_backward.default._schema
    assert [argument.name for argument in schema.arguments] == ["grad", *Call._fields]
    forward = torch.ops.restv2.mhim.default._schema
    assert [argument.type for argument in schema.arguments[1:]] == [each.type for each in forward.arguments]
    assert len(schema.returns) == TENSORS


@pytest.mark.parametrize("branch", [True, False])
@pytest.mark.parametrize(("heads", "size", "reduction"), [(2, (6, 7), 4), (8, (3, 4), 1), (16, (5, 4), 2)])
def test_its_flops_and_shapes(heads, size, reduction, branch):
    """Each product, the mixing and the convolution have two gradients, each as large as what it is of."""
    tensors, geometry = problem(
        heads, size, reduction, branch=branch, dtype=torch.float16, device="meta", batch=2
    )
    with FlopCounterMode(display=False) as counter:
        found = op_backward.gradients(torch.empty_like(tensors[0]), *tensors, **geometry)
    assert [x if x is None else x.shape for x in found] == [x if x is None else x.shape for x in tensors]
    macs = cost.macs(2, size, 16 * heads, heads, reduction, has_branch=branch)
    assert counter.get_total_flops() == 2 * 2 * sum(macs.values())


@pytest.mark.parametrize(
    ("device", "dtype", "why"),
    [
        ("meta", torch.float16, None),
        ("meta", torch.bfloat16, None),
        ("meta", torch.float32, "takes half precision"),
        ("cpu", torch.float16, "needs an NVIDIA GPU"),
    ],
)
def test_where_it_runs(device, dtype, why):
    found = op_backward.why_not(torch.device(device), dtype)
    assert found is None if why is None else found and why in found
