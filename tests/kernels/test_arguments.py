"""What our operators do with their arguments before a kernel sees them."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from kernels import arguments
from kernels.arguments import (
    asked_once,
    autocast,
    check_attended,
    check_shapes,
    laid_out,
    readable,
    room_for_gradients,
    with_none,
    without_none,
    zeros,
)


class Call(NamedTuple):
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    times: int


CALL = Call(torch.zeros(2, 6, 4), torch.zeros(4, 3), None, 7)
SHAPES = {"x": (2, 6, 4), "weight": (4, 3), "bias": (4,)}


def test_calls_that_differ_in_values_alone_are_answered_once(monkeypatch):
    asked = []

    @asked_once
    def answer(call):
        asked.append(call)
        if call.times < 0:
            raise ValueError("fewer than none")
        return len(asked)

    others = [
        CALL._replace(x=torch.zeros(2, 6, 5)),
        CALL._replace(x=torch.zeros(2, 4, 6).mT),
        CALL._replace(x=CALL.x.half()),
        CALL._replace(x=CALL.x.to("meta")),
        CALL._replace(bias=torch.zeros(4)),
        CALL._replace(times=8),
    ]
    assert [answer(call) for call in (CALL, CALL._replace(x=torch.ones(2, 6, 4)), *others, CALL)] == [
        *(1, 1),
        *range(2, 8),
        1,
    ]
    for _ in range(2):  # what raises is asked again
        with pytest.raises(ValueError, match="fewer than none"):
            answer(CALL._replace(times=-1))
    assert len(asked) == 9
    monkeypatch.setattr(arguments, "MOST_KEPT", 7)
    assert answer(CALL._replace(times=9)) == 10
    assert answer(CALL) == 11  # all were forgotten


def test_tensors_are_cast_in_a_region_of_autocast_alone():
    tensors = torch.ones(2), torch.ones(3, dtype=torch.float64)
    assert autocast(*tensors) == tensors
    with torch.autocast("cpu", torch.bfloat16):
        assert [tensor.dtype for tensor in autocast(*tensors)] == [torch.bfloat16] * 2
        shape_alone = torch.ones(2, device="meta")
        assert autocast(shape_alone) == (shape_alone,)


def test_what_fits_is_let_through_and_a_bias_may_be_missing():
    check_shapes(CALL, SHAPES, "this test")
    check_shapes(CALL._replace(bias=torch.zeros(4)), SHAPES, "this test")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"weight": torch.zeros(3, 4)}, r"weight is \(3, 4\), not \(4, 3\) as for this test"),
        ({"bias": torch.zeros(5)}, r"bias is \(5,\), not \(4,\)"),
        ({"weight": torch.zeros(4, 3, device="meta")}, "weight is on meta, and x on cpu"),
    ],
)
def test_what_does_not_fit_is_a_line(changed, said):
    with pytest.raises(ValueError, match=said):
        check_shapes(CALL._replace(**changed), SHAPES, "this test")


def test_what_is_attended_has_one_dtype_and_offsets_of_32_bits():
    x = torch.zeros(1, 6, 4)
    check_attended(x, x, x)
    with pytest.raises(ValueError, match="must be of one dtype"):
        check_attended(x, x.half(), x)
    large = torch.empty(1, 2**16, 2**15, device="meta")
    with pytest.raises(ValueError, match="more elements than"):
        check_attended(large, large, large)


def test_channels_and_parameters_are_laid_out_and_the_rest_is_as_it_was():
    turned = CALL._replace(x=torch.zeros(2, 4, 6).transpose(1, 2), weight=torch.zeros(3, 4).t())
    made = laid_out(turned, 1, 3)
    assert isinstance(made, Call)
    assert made.x.stride() == (24, 4, 1) and made.weight.is_contiguous()
    assert (made.bias, made.times) == (None, 7)
    rows_apart = CALL._replace(x=torch.zeros(2, 6, 8)[..., :4])
    assert laid_out(rows_apart, 1, 3).x is rows_apart.x  # a kernel takes any stride but of channels


def test_a_backward_reads_one_dtype_and_contiguous_channels():
    tokens, grad = torch.randn(2, 4, 6).half(), torch.randn(2, 6, 4).transpose(1, 2)
    same, found = readable([tokens], grad)
    assert same is tokens
    assert found.dtype == torch.float16
    assert found.stride(-1) == 1
    assert torch.equal(found, grad.half())


def test_zeros_are_of_each_tensors_shape_and_dtype():
    found = zeros([torch.ones(2, 3).half(), None])
    assert found[0] is not None
    assert (found[0].shape, found[0].dtype, found[1]) == ((2, 3), torch.float16, None)
    assert not found[0].any()


def test_an_operator_returns_a_tensor_for_each_gradient_and_its_caller_none_where_there_is_no_tensor():
    grad, tensors = torch.ones(3).half(), (torch.ones(2, 3).t(), None)
    found = without_none((torch.ones(3, 2), None), grad)
    room = room_for_gradients(tensors, grad)
    assert [x.shape for x in found] == [x.shape for x in room] == [(3, 2), (0,)]
    assert [x.dtype for x in found] == [x.dtype for x in room] == [torch.float32, torch.float16]
    assert room[0].is_contiguous()
    assert with_none(found, tensors) == (found[0], None)
