"""The operator: how it is registered, what it does not take, and in Triton's interpreter what it does."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels.mhim import cost, op, reference
from tests.support.interpreter import run_interpreted
from tests.support.mhim import problem
from tests.support.sweeps import sweep


@sweep
@pytest.mark.timeout(900)
def test_in_tritons_interpreter():
    run_interpreted("tests/kernels/mhim/interpreted_op.py")


def test_its_schema_is_a_calls_fields():
    schema = torch.ops.restv2.mhim.default._schema
    assert [argument.name for argument in schema.arguments] == list(op.Call._fields)


@pytest.mark.parametrize("branch", [True, False])
@pytest.mark.parametrize(("heads", "size", "reduction"), [(2, (6, 7), 4), (8, (3, 4), 1), (16, (5, 4), 2)])
def test_its_flops_are_the_references(heads, size, reduction, branch):
    tensors, geometry = problem(
        heads, size, reduction, branch=branch, dtype=torch.float32, device="meta", batch=2
    )
    counted = []
    for run in (op.mhim, reference.mhim):
        with FlopCounterMode(display=False) as counter:
            assert run(*tensors, **geometry).shape == tensors[0].shape
        counted.append(counter.get_total_flops())
    macs = cost.macs(2, size, 16 * heads, heads, reduction, has_branch=branch)
    assert counted == [2 * sum(macs.values())] * 2


def wrong(**changes):
    tensors, geometry = problem(dtype=torch.float32)
    for name, value in changes.items():
        if name in geometry:
            geometry[name] = value
        else:
            tensors[int(name[1:])] = value
    return tensors, geometry


WRONG = {
    "a reduction of 3 is none of 1, 2, 4, 8": wrong(reduction=3),
    "MHIM mixes 2 to 16 heads, not 1": wrong(heads=1),
    "MHIM mixes 2 to 16 heads, not 32": wrong(heads=32),
    "32 channels in 4 heads: a head is a multiple of 16 wide, and at most 128": wrong(heads=4),
    "k is (1, 5, 32), not (1, 6, 32) as for a 3x5 map and reduction 2": wrong(t1=torch.zeros(1, 5, 32)),
    "mix_weight is (2, 2), not (2, 2, 1, 1) as for a 3x5 map and reduction 2": wrong(t3=torch.zeros(2, 2)),
    "the upsample branch has filters, and a LayerNorm's weight and bias, or none of them": wrong(t7=None),
    "q, k and v are torch.float16, torch.float32 and torch.float32, and must be of one dtype": wrong(
        t0=torch.zeros(1, 15, 32, dtype=torch.float16)
    ),
}


@pytest.mark.parametrize("why", WRONG)
def test_what_it_does_not_take_is_a_line(why):
    tensors, geometry = WRONG[why]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are what is compared)
        op.mhim(*tensors, **geometry)
    assert str(caught.value) == why


def test_what_cannot_run_here_is_a_line():
    tensors, geometry = problem(dtype=torch.float32)
    with pytest.raises(RuntimeError, match="needs an NVIDIA GPU, and does not run on a CPU"):
        op.mhim(*tensors, **geometry)
