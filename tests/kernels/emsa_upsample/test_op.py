"""The operator: how it is registered, what it does not take, and in Triton's interpreter what it does."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels.emsa_upsample import cost, op, reference
from tests.support.emsa_upsample import problem
from tests.support.interpreter import run_interpreted
from tests.support.sweeps import sweep


@sweep
@pytest.mark.timeout(900)
def test_in_tritons_interpreter():
    run_interpreted("tests/kernels/emsa_upsample/interpreted_op.py")


def test_its_schema_is_a_calls_fields():
    schema = torch.ops.restv2.emsa_upsample.default._schema
    assert [argument.name for argument in schema.arguments] == list(op.Call._fields)
    optional = [argument.name for argument in schema.arguments if argument.type.kind() == "OptionalType"]
    assert optional == ["up_bias", "window"]


@pytest.mark.parametrize(("reduction", "size"), [(1, (3, 4)), (2, (5, 4)), (4, (6, 7)), (8, (16, 24))])
def test_its_flops_are_the_references(reduction, size):
    tensors, geometry = problem(reduction, size, dtype=torch.float32, device="meta")
    counted = []
    for run in (op.emsa_upsample, reference.emsa_upsample):
        with FlopCounterMode(display=False) as counter:
            assert run(*tensors, **geometry).shape == tensors[0].shape
        counted.append(counter.get_total_flops())
    macs = cost.macs(2, size, 32, reduction)
    assert counted == [2 * (macs["attend"] + macs["up"])] * 2


def wrong(**changes):
    tensors, geometry = problem(2, (3, 5), dtype=torch.float32)
    for name, value in changes.items():
        if name in geometry:
            geometry[name] = value
        else:
            tensors[int(name[1:])] = value
    return tensors, geometry


WRONG = {
    "a reduction of 3 is none of 1, 2, 4, 8": wrong(reduction=3),
    "32 channels in 4 heads: a head is a multiple of 16 wide, and at most 128": wrong(heads=4),
    "k is (2, 5, 32), not (2, 6, 32) as for a 3x5 map and reduction 2": wrong(t1=torch.zeros(2, 5, 32)),
    "q is (2, 15, 32), not (2, 20, 32) as for a 4x5 map and reduction 2": wrong(size=(4, 5)),
    "up_weight is (1,), not (128, 1, 3, 3) as for a 3x5 map and reduction 2": wrong(t3=torch.zeros(1)),
    "q, k and v are torch.float16, torch.float32 and torch.float32, and must be of one dtype": wrong(
        t0=torch.zeros(2, 15, 32, dtype=torch.float16)
    ),
}


@pytest.mark.parametrize("why", WRONG)
def test_what_it_does_not_take_is_a_line(why):
    tensors, geometry = WRONG[why]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are what is compared)
        op.emsa_upsample(*tensors, **geometry)
    assert str(caught.value) == why


def test_a_dtype_that_it_does_not_take():
    tensors, geometry = problem(2, (3, 5), dtype=torch.float64)
    with pytest.raises(RuntimeError, match="takes fp32, fp16, bf16, not float64"):
        op.emsa_upsample(*tensors, **geometry)
