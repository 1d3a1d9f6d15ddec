"""The fused backward in Triton's interpreter, against float64; `tests/support/interpreter.py` says how it is run."""

import math
import random
from dataclasses import replace

import pytest
import torch

from kernels.device import INTERPRETED
from kernels.emsa_upsample.backward_tuning import Attention
from kernels.emsa_upsample.tuning import REDUCTIONS
from kernels.mhim import backward, backward_tuning, reference
from tests.support.emsa_upsample import double, off
from tests.support.gradients import autograd, check, random_gradient
from tests.support.interpreter import of_this_share, round_to_bf16
from tests.support.mhim import call_of, problem, random_problem
from tests.support.poison import poisoned
from tests.support.sweeps import sweep, swept

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

round_to_bf16()
PROBLEMS = range(200)
HALVES = (torch.float16, torch.bfloat16)


def configs(head_dim, reduction, heads, keys):
    """All that may run on any GPU, and smaller tiles, so that a small problem has several of them."""
    offered = [
        config
        for capability in (80, 90, 100, 120)
        for config in backward_tuning.candidates(capability, head_dim, reduction, heads, keys)
    ]
    small = [
        replace(offered[0], attention=Attention(rows, 16, 4), scores=Attention(others, 16, 4))
        for rows, others in ((16, 32), (32, 16))
    ]
    return list(dict.fromkeys([*offered, *small]))


def random_call(seed):
    """A random problem in half precision, a gradient of its result, and a configuration."""
    tensors, geometry, _ = random_problem(seed)
    chosen = random.Random(seed)
    scale = chosen.choice((1e-3, 1.0, 1.0, 10.0))
    if tensors[5] is not None and tensors[2].numel() and tensors[2].float().std() < 0.01:
        scale = 1e-3  # LayerNorm makes the gradients of small values large, in fp16 infinite
    if tensors[0].dtype == torch.float32:  # which runs nowhere
        dtype = chosen.choice(HALVES)
        tensors = [None if x is None else x.to(dtype) for x in tensors]
    grad = random_gradient(chosen, tensors[0], scale)
    heads, reduction = geometry["heads"], geometry["reduction"]
    head_dim = tensors[0].shape[-1] // heads
    return tensors, geometry, grad, chosen.choice(configs(head_dim, reduction, heads, tensors[1].shape[1]))


@pytest.mark.parametrize("seed", of_this_share(PROBLEMS))
def test_within_eagers_own_error(seed, margins):
    """Nothing outside is written, for the margins keep their poison; nor read, for it would show in the result."""
    tensors, geometry, grad, config = random_call(seed)

    def find(tensors, grad):
        return backward.launch_backward(config, call_of(tensors, geometry), grad)

    found = check(find, reference.mhim, tensors, geometry, grad)
    assert margins or not tensors[0].numel()
    assert all(margin.isnan().all() for margin in margins)
    again = backward.launch_backward(config, call_of(tensors, geometry), grad)
    assert all(one is other or torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_the_problems_are_of_every_kind():
    drawn = [random_call(seed) for seed in PROBLEMS]
    assert {tensors[0].dtype for tensors, *_ in drawn} == {*HALVES}
    assert {geometry["reduction"] for _, geometry, *_ in drawn} == {*REDUCTIONS}
    assert {2, 4, 8, 16} == {geometry["heads"] for _, geometry, *_ in drawn}
    assert {tensors[5] is None for tensors, *_ in drawn} == {True, False}
    assert any(len(tensors[0]) == 0 for tensors, *_ in drawn)
    blocks = {-(-tensors[1].shape[1] // config.attention.block_k) for tensors, _, _, config in drawn}
    assert {1, 2} <= blocks


def example(scale=1.0, dtype=torch.float16):
    """A problem without the branch, a gradient of that scale, and a tile that has all keys."""
    torch.manual_seed(0)
    tensors, geometry = problem(3, (4, 6), branch=False, dtype=torch.float32)
    tensors = [None if x is None else x.to(dtype) for x in tensors]
    grad = (torch.randn(tensors[0].shape) * scale).to(dtype)
    tile = Attention(16, 16, 4)
    config = replace(backward_tuning.choose(90, 16, 2, 3, 6), attention=tile, scores=tile)
    return tensors, geometry, grad, config


def errors(tensors, geometry, grad, config):
    """The largest error of each gradient, as a share of the largest entry: the kernels', and eager's."""
    truth = autograd(reference.mhim, double(tensors), geometry, grad.double())
    of_kernels = backward.launch_backward(config, call_of(tensors, geometry), grad)
    eager = autograd(reference.mhim, tensors, geometry, grad)
    # not of the bias, which is zero
    return [
        [
            off(one, true) / true.abs().max().item()
            for one, true in zip(found[:4], truth[:4], strict=True)
            if true is not None
        ]
        for found in (of_kernels, eager)
    ]


@sweep
def test_in_half_precision_nothing_is_lost_of_an_almost_flat_map():
    """As in the forward: eager rounds P itself, which is as large as 1/M, and then subtracts."""
    tensors, geometry, grad, config = example()
    tensors[0] *= 0.01
    found, eager = errors(tensors, geometry, grad, config)
    assert max(found) < 3e-3
    assert max(eager) > 1e-2


@sweep
def test_the_formulas_are_right_to_the_last_bits_of_fp32():
    """Which the operator leaves to the reference, but rounds least."""
    found, _ = errors(*example(dtype=torch.float32))
    assert max(found) < 2e-6


@sweep
@pytest.mark.parametrize(("scale", "of_q", "of_k"), [(1e-6, 1 / 32, 32), (300.0, 0.05, 0.05)])
def test_maps_too_small_or_too_large_for_fp16_are_not_lost(scale, of_q, of_k):
    """Maps are scaled by the most that they can be: dq has room where they had none."""
    tensors, geometry, grad, config = example(scale)
    (of_queries, *_), _ = errors([tensors[0] * of_q, tensors[1] * of_k, *tensors[2:]], geometry, grad, config)
    assert of_queries < 3e-3


@pytest.mark.parametrize("value", swept([math.inf, math.nan], math.isinf))
def test_what_is_not_finite_is_seen(value):
    """A scaler of the loss looks for it."""
    tensors, geometry, grad, config = example()
    grad[0, 3, 5] = value
    found = backward.launch_backward(config, call_of(tensors, geometry), grad)
    for place in (0, 1, 2):
        one = found[place]
        assert one is not None
        assert not one.isfinite().all()


def test_a_gradient_of_zero_is_zero():
    tensors, geometry, grad, config = example(0.0)
    found = backward.launch_backward(config, call_of(tensors, geometry), grad)
    assert not any(one.any() for one in found if one is not None)


@pytest.mark.usefixtures("margins")  # it writes one key more, too
def test_the_test_sees_a_read_past_the_keys(monkeypatch):
    """The poison works: where a kernel is told of one key more, the gradients are poison."""
    tensors, geometry, grad, config = example()
    tensors[1], tensors[2] = poisoned(tensors[1]), poisoned(tensors[2])
    kernel = backward.backward_maps.mhim_maps

    class OneMore:
        def __getitem__(self, grid):
            return lambda *args, **kinds: kernel[grid](*args, **(kinds | {"M": kinds["M"] + 1}))

    monkeypatch.setattr(backward.backward_maps, "mhim_maps", OneMore())
    found = backward.launch_backward(config, call_of(tensors, geometry), grad)
    assert found[0] is not None
    assert found[0].isnan().any()
