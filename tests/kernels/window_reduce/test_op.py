"""The operator: how it is registered, what it does not take, and in Triton's interpreter what it does."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels.window_reduce import calls, cost, op, reference, tuning
from tests.support.interpreter import run_interpreted
from tests.support.sweeps import sweep


@sweep
@pytest.mark.timeout(900)
def test_in_tritons_interpreter():
    run_interpreted("tests/kernels/window_reduce/interpreted_op.py")


def test_its_schema_is_a_calls_fields():
    schema = torch.ops.restv2.window_reduce.default._schema
    assert [argument.name for argument in schema.arguments] == list(op.Call._fields)


@pytest.mark.parametrize(("size", "reduction", "window"), [((5, 7), 2, 4), ((20, 33), 8, 16)])
def test_its_flops_are_the_references(size, reduction, window):
    shapes = [(2, size[0] * size[1], 16), (16, 1, reduction + 1, reduction + 1), (16,)]
    tensors = [torch.empty(shape, device="meta") for shape in shapes]
    geometry = {"size": size, "reduction": reduction, "window": window}
    counted, made = [], []
    for run in (op.window_reduce, reference.window_reduce):
        with FlopCounterMode(display=False) as counter:
            made.append(run(*tensors, **geometry).shape)
        counted.append(counter.get_total_flops())
    assert made[0] == made[1]
    assert counted == [2 * cost.macs(2, size, 16, reduction, window)] * 2


def test_the_cost_of_a_worked_example():
    """Stage 1 at 800×1344: 4×6 windows of 8×8 cells, 81 taps a cell."""
    assert cost.macs(1, (200, 336), 96, 8, 64) == 24 * 64 * 96 * 81
    assert cost.least_traffic((200, 336), 96, 8, 64) == (96 * (67_200 + 24 * 64), 96 * 82)


WRONG = {
    "a reduction of 1 is none of 2, 4, 8": ((2, 35, 16), (16, 1, 2, 2), (16,), 5, 7, 1, 4),
    "a window has a side of 1 at least, not 0": ((2, 35, 16), (16, 1, 3, 3), (16,), 5, 7, 2, 0),
    "x is (2, 35, 16), not (2, 30, 16) as for a 5x6 map and reduction 2": (
        *((2, 35, 16), (16, 1, 3, 3), (16,), 5, 6, 2, 4),
    ),
    "bias is (8,), not (16,) as for a 5x7 map and reduction 2": (
        (2, 35, 16),
        (16, 1, 3, 3),
        (8,),
        5,
        7,
        2,
        4,
    ),
}


@pytest.mark.parametrize("why", WRONG)
def test_what_does_not_fit_is_a_line(why):
    *shapes, height, width, reduction, window = WRONG[why]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are what is compared)
        op.window_reduce(*map(torch.zeros, shapes), size=(height, width), reduction=reduction, window=window)
    assert str(caught.value) == why


def test_what_cannot_run_here_is_a_line():
    with pytest.raises(RuntimeError, match="needs an NVIDIA GPU, and does not run on a CPU"):
        op.window_reduce(
            *map(torch.zeros, ((2, 35, 16), (16, 1, 3, 3), (16,))), size=(5, 7), reduction=2, window=4
        )


def test_what_is_compiled_ahead_of_time():
    """Three stages of two models reduce; 24 windows of 64 cells in tiles of 16, 96 channels in three blocks."""
    found = [call for call in calls.calls("cuda13", True) if call.capability == 90]
    todo = [call for call in found if call.operator == "window_reduce"]
    assert len(todo) == 6
    assert todo[0].results == calls.BATCH * 24 * 64
    assert todo[0].launches[0].programs == calls.BATCH * 24 * 4 * 3
    assert dict(todo[0].launches[0].trips) == {"window_reduce.i": 9}
    assert {tuning.choose(80, channels).channels for channels in (64, 128, 192)} == {64}
    gradients = [call for call in found if call.operator == "window_reduce_backward"]
    assert len(gradients) == 6
    tokens, filters = gradients[0].launches
    assert gradients[0].results == calls.BATCH * 200 * 336
    assert tokens.programs == calls.BATCH * 24 * 4 * 3  # tiles of 16 cells
    assert dict(tokens.trips) == {"window_reduce_tokens.i": 8}
    # 81 taps of three blocks of channels: four parts of 1536 windows fill 132 multiprocessors eight times
    assert filters.programs == 81 * 3 * 4
    assert dict(filters.trips) == {"window_reduce_filters.turn": 384}
