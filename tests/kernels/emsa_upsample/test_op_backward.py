"""The backward operator: where it runs, what it counts, and in Triton's interpreter what it does."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels.emsa_upsample import cost, op, op_backward
from kernels.emsa_upsample.launch import Call
from tests.support.emsa_upsample import problem
from tests.support.interpreter import run_interpreted
from tests.support.sweeps import sweep


@sweep
@pytest.mark.timeout(900)
def test_in_tritons_interpreter():
    run_interpreted("tests/kernels/emsa_upsample/interpreted_op_backward.py")


def test_its_schema_is_the_gradient_and_a_calls_fields():
    schema = torch.ops.restv2.emsa_upsample_backward.default._schema
    assert [argument.name for argument in schema.arguments] == ["grad", *Call._fields]
    optional = [argument.name for argument in schema.arguments if argument.type.kind() == "OptionalType"]
    assert optional == ["up_bias", "window"]
    assert len(schema.returns) == 7


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("reduction", "size"), [(1, (3, 4)), (2, (5, 4)), (4, (6, 7)), (8, (16, 24))])
def test_its_flops_and_shapes(reduction, size, bias):
    """Each product and the convolution have two gradients, and each of these is as large as what it is of."""
    tensors, geometry = problem(reduction, size, bias=bias, dtype=torch.float16, device="meta")
    with FlopCounterMode(display=False) as counter:
        found = op_backward.gradients(torch.empty_like(tensors[0]), *tensors, **geometry)
    assert [x if x is None else x.shape for x in found] == [x if x is None else x.shape for x in tensors]
    macs = cost.macs(2, size, 32, reduction)
    assert counter.get_total_flops() == 2 * 2 * (macs["attend"] + macs["up"])


def test_its_flops_in_windows_are_two_for_each_of_the_forwards():
    tensors, geometry = problem(2, (5, 7), dtype=torch.float16, device="meta")
    keys = torch.empty(2 * 4, 4, 32, dtype=torch.float16, device="meta")
    tensors[1:3] = [keys, keys]
    geometry["window"] = 4
    counted = []
    for run in (
        lambda: op.emsa_upsample(*tensors, **geometry),
        lambda: op_backward.gradients(torch.empty_like(tensors[0]), *tensors, **geometry),
    ):
        with FlopCounterMode(display=False) as counter:
            run()
        counted.append(counter.get_total_flops())
    assert counted[1] == 2 * counted[0] > 0


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
