"""The operator: how it is registered, what it does not take, and in Triton's interpreter what it does."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels.mlp import cost, op, reference
from tests.support.interpreter import run_interpreted
from tests.support.mlp import problem
from tests.support.sweeps import sweep


@sweep
@pytest.mark.timeout(900)
def test_in_tritons_interpreter():
    run_interpreted("tests/kernels/mlp/interpreted_op.py")


def test_its_schema_is_a_calls_fields():
    schema = torch.ops.restv2.mlp.default._schema
    assert [argument.name for argument in schema.arguments] == list(op.Call._fields)


@pytest.mark.parametrize("leading", [(2, 7, 7), (2, 49), (98,)])
def test_its_flops_are_the_references(leading):
    tensors = problem(leading, 64, 256, torch.float16, "meta")
    counted = []
    for run in (op.mlp, reference.mlp):
        with FlopCounterMode(display=False) as counter:
            assert run(*tensors).shape == (*leading, 64)
        counted.append(counter.get_total_flops())
    assert counted == [2 * cost.macs(98, 64, 256)] * 2


def wrong(**changes):
    call = op.Call(*problem((2, 5), dtype=torch.float16))
    return call._replace(**changes)


WRONG = {
    "w1 is (128, 32), not (128, 64) as for 64 channels and 128 hidden ones": wrong(
        w1=torch.zeros(128, 32, dtype=torch.float16)
    ),
    "b1 is (64,), not (128,) as for 64 channels and 128 hidden ones": wrong(
        b1=torch.zeros(64, dtype=torch.float16)
    ),
    "w2 is (128, 64), not (64, 128) as for 64 channels and 128 hidden ones": wrong(
        w2=torch.zeros(128, 64, dtype=torch.float16)
    ),
    "b2 is torch.float32, and x torch.float16: they must be of one dtype": wrong(b2=torch.zeros(64)),
}


@pytest.mark.parametrize("why", WRONG)
def test_what_does_not_fit_is_a_line(why):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are what is compared)
        op.mlp(*WRONG[why])
    assert str(caught.value) == why


def test_what_cannot_run_here_is_a_line():
    with pytest.raises(RuntimeError, match="needs an NVIDIA GPU, and does not run on a CPU"):
        op.mlp(*problem((2, 5), dtype=torch.float16))


@pytest.mark.parametrize(("capability", "runs"), [((9, 0), True), ((7, 5), False)])
def test_a_traced_model_is_told_the_same(capability, runs, monkeypatch):
    """torch.compile traces whoever asks, and takes the GPU's capability as it is."""
    torch.compiler.reset()
    monkeypatch.setattr(op, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    def asks(x):
        return x + 1 if op.why_not(torch.device("cuda", 0), torch.float16, 96, 384) is None else x - 1

    assert torch.compile(asks, backend="eager", fullgraph=True)(torch.zeros(1)) == (1 if runs else -1)
