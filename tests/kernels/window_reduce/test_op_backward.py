"""The operator of the gradients: how it is registered, what it counts and makes. `interpreted_op.py` runs it."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels.emsa_upsample.cost import windows_of
from kernels.window_reduce import cost, op_backward
from kernels.window_reduce.launch import Call


def test_its_schema_is_the_gradient_and_a_calls_fields():
    schema = torch.ops.restv2.window_reduce_backward.default._schema
    assert [argument.name for argument in schema.arguments] == ["grad", *Call._fields]
    assert len(schema.returns) == 3


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("size", "reduction", "window"), [((5, 7), 2, 4), ((20, 33), 8, 16)])
def test_its_flops_and_shapes(size, reduction, window, bias):
    """Tokens and weight: each gradient takes as much as the convolution."""
    shapes = [(2, size[0] * size[1], 16), (16, 1, reduction + 1, reduction + 1), (16,)]
    tensors = [torch.empty(shape, device="meta") for shape in shapes]
    if not bias:
        tensors[2] = None
    grad = torch.empty(2 * windows_of(size, window), (window // reduction) ** 2, 16, device="meta")
    with FlopCounterMode(display=False) as counter:
        found = op_backward.gradients(grad, *tensors, size=size, reduction=reduction, window=window)
    assert [x if x is None else x.shape for x in found] == [x if x is None else x.shape for x in tensors]
    assert counter.get_total_flops() == 2 * 2 * cost.macs(2, size, 16, reduction, window)
