"""The check of gradients itself: what is worse than eager by luck passes, and what is worse always does not."""

import pytest
import torch

from tests.support.gradients import DRAWS, ENOUGH, FEW, autograd, check


def run(x, scale):
    """A product that is rounded to bf16 where it is not in float64."""
    return (x if x.dtype == torch.float64 else x.bfloat16().float()) * scale


def finder(*worse):
    """A function that finds gradients, that of the scale off by so many times eager's error: a number a call."""
    calls: list[float] = []

    def find(tensors, grad):
        calls.append(worse[min(len(calls), len(worse) - 1)])
        eager = autograd(run, tensors, {}, grad)
        truth = autograd(run, [x.double() for x in tensors], {}, grad.double())
        found = []
        for times, one, true in zip((1.0, calls[-1]), eager, truth, strict=True):
            assert one is not None
            assert true is not None
            found.append((true + times * (one - true)).float())
        return tuple(found)

    return find, calls


def problem(channels):
    torch.manual_seed(0)
    return [torch.randn(2, 9, channels), torch.randn(channels)], torch.randn(2, 9, channels)


def test_an_error_as_eagers_needs_no_other_draw():
    find, calls = finder(1.2)
    tensors, grad = problem(16)
    found = check(find, run, tensors, {}, grad)
    assert [None if x is None else x.shape for x in found] == [x.shape for x in tensors]
    assert len(calls) == 1


def test_few_entries_may_be_worse_by_luck():
    find, calls = finder(1.5, 1.5, 1.0)  # the same problem twice, then others
    tensors, grad = problem(16)
    check(find, run, tensors, {}, grad)
    assert len(calls) == 1 + min(DRAWS, -(-ENOUGH // 16))


def test_few_entries_that_are_always_worse_are_found():
    find, calls = finder(1.3)
    tensors, grad = problem(16)
    with pytest.raises(AssertionError):
        check(find, run, tensors, {}, grad)
    assert len(calls) == 1 + min(DRAWS, -(-ENOUGH // 16))


def test_many_entries_are_never_worse_by_luck():
    find, calls = finder(1.3, 1.0)
    tensors, grad = problem(FEW)
    with pytest.raises(AssertionError):
        check(find, run, tensors, {}, grad)
    assert len(calls) == 1


def test_a_single_large_error_is_no_luck():
    def find(tensors, grad):
        of_x, of_scale = finder(1.0)[0](tensors, grad)
        of_scale[7] += 1.0
        return of_x, of_scale

    tensors, grad = problem(16)
    with pytest.raises(AssertionError):
        check(find, run, tensors, {}, grad)
