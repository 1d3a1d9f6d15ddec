"""The fused backward in Triton's interpreter, against float64; `tests/support/interpreter.py` says how it is run."""

import random

import pytest
import torch

from kernels.device import INTERPRETED
from kernels.emsa_upsample import backward, backward_tuning, cost, reference, tuning
from kernels.emsa_upsample.backward_tuning import Attention, Branch, Config
from tests.support.emsa_upsample import call_of, problem, random_problem
from tests.support.gradients import check, random_gradient
from tests.support.interpreter import of_this_share, round_to_bf16
from tests.support.poison import poisoned

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

round_to_bf16()
PROBLEMS = range(200)
HALVES = (torch.float16, torch.bfloat16)


def configs(head_dim, reduction, keys, windowed=False):
    """All that may run on any GPU, and smaller tiles, so that a small problem has several of them.

    Args:
        windowed: all keys of a window are in one block.
    """
    offered = [
        config
        for capability in (80, 90, 100, 120)
        for config in backward_tuning.candidates(capability, head_dim, reduction, keys, windowed=windowed)
    ]
    pixels = (backward_tuning.PATCH_SIDE[reduction] * reduction) ** 2
    small = Config(
        Attention(16, 64 if windowed else 16, 4),
        Branch(16, 16, 16, 2),
        Branch(8, 16, min(pixels, 32), 2, per_sm=3),
    )
    return list(dict.fromkeys([*offered, small]))


def random_call(seed, windowed=False):
    """A random problem in half precision, a gradient of its result, and a configuration."""
    tensors, geometry, _ = random_problem(seed, windowed)
    chosen = random.Random(seed)
    dtype = chosen.choice(HALVES)
    tensors = [None if x is None else x.to(dtype) for x in tensors]
    scale = chosen.choice((1e-3, 1.0, 1.0, 30.0))
    if chosen.random() < 0.2:
        tensors[1:3] = [x * 1e-3 for x in tensors[1:3]]
    if tensors[2].numel() and tensors[2].float().std() < 0.01:
        scale = 1e-3  # LayerNorm makes the gradients of small values large, in fp16 infinite
    grad = random_gradient(chosen, tensors[0], scale)
    head_dim = tensors[0].shape[-1] // geometry["heads"]
    offered = configs(head_dim, geometry["reduction"], tensors[1].shape[1], windowed)
    return tensors, geometry, grad, chosen.choice(offered)


def checked(tensors, geometry, grad, config):
    """The gradients, which are right."""

    def find(tensors, grad):
        return backward.launch_backward(config, call_of(tensors, geometry), grad)

    return check(find, reference.emsa_upsample, tensors, geometry, grad)


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("seed", of_this_share(PROBLEMS))
def test_within_eagers_own_error(seed, windowed, margins):
    """Nothing outside is written, for the margins keep their poison; nor read, for it would show in the result.

    In windows a padded query is outside, and eager pads and cuts.
    """
    tensors, geometry, grad, config = random_call(seed, windowed)
    found = checked(tensors, geometry, grad, config)
    assert margins or not tensors[0].numel()
    assert all(margin.isnan().all() for margin in margins)
    again = backward.launch_backward(config, call_of(tensors, geometry), grad)
    assert all(one is other or torch.equal(one, other) for one, other in zip(found, again, strict=True))


CASES = [
    (heads, head_dim, reduction)
    for heads in (1, 2, 4, 8)
    for head_dim in tuning.MODELS_HEAD_DIMS
    for reduction in tuning.REDUCTIONS
]


@pytest.mark.parametrize("index", of_this_share(range(len(CASES))))
def test_heads_of_every_number_and_width(index):
    """Cropped maps of two images, by what runs on an H100."""
    heads, head_dim, reduction = CASES[index]
    torch.manual_seed(index)
    size, channels, dtype = (reduction + 2, 2 * reduction + 1), heads * head_dim, HALVES[index % 2]
    keys = 2 * 3 if reduction > 2 else -(-size[0] // reduction) * -(-size[1] // reduction)
    q, grad = torch.randn(2, 2, size[0] * size[1], channels).to(dtype)
    k, v = torch.randn(2, keys, 2 * channels).to(dtype).chunk(2, -1)
    parameters = [
        torch.randn(channels * reduction**2, 1, 3, 3) * 0.3,
        *(torch.randn(n) for n in (channels * reduction**2, channels, channels)),
    ]
    tensors = [q, k, v, *(parameter.to(dtype) for parameter in parameters)]
    geometry = {"heads": heads, "size": size, "reduction": reduction}
    checked(tensors, geometry, grad, backward_tuning.choose(90, head_dim, reduction, keys))


@pytest.mark.parametrize("windowed", [False, True])
def test_the_problems_are_of_every_kind(windowed):
    drawn = [random_call(seed, windowed) for seed in PROBLEMS]
    assert {tensors[0].dtype for tensors, *_ in drawn} == {*HALVES}
    assert {geometry["reduction"] for _, geometry, *_ in drawn} == {*tuning.REDUCTIONS}
    assert {tensors[0].shape[-1] // geometry["heads"] for tensors, geometry, *_ in drawn} == {
        *tuning.HEAD_DIMS
    }
    assert any(len(tensors[0]) == 0 for tensors, *_ in drawn)
    assert any(tensors[4] is None for tensors, *_ in drawn)
    blocks = {-(-tensors[1].shape[1] // config.attention.block_k) for tensors, _, _, config in drawn}
    assert 1 in blocks
    if not windowed:
        assert max(blocks) > 2
        return
    assert blocks == {1}
    windows = {cost.windows_of(geometry["size"], geometry["window"]) for _, geometry, *_ in drawn}
    assert {1, 2, 4} <= windows
    padded = [any(side % geometry["window"] for side in geometry["size"]) for _, geometry, *_ in drawn]
    assert {*padded} == {True, False}
    cut = [geometry["window"] % geometry["reduction"] > 0 for _, geometry, *_ in drawn]
    assert {*cut} == {True, False}


@pytest.mark.usefixtures("margins")  # it writes one key more, too
def test_the_test_sees_a_read_past_the_keys(monkeypatch):
    """The poison works: where the kernel is told of one key more, the gradients are poison."""
    tensors, geometry = problem(2, (3, 5), dtype=torch.float16)
    tensors[1], tensors[2] = poisoned(tensors[1]), poisoned(tensors[2])
    config = backward_tuning.choose(90, 16, 2, 6)
    attention = backward.backward_attention._attention

    class OneMore:
        def __getitem__(self, grid):
            return lambda *args, **kinds: attention[grid](*args, **(kinds | {"M": kinds["M"] + 1}))

    monkeypatch.setattr(backward.backward_attention, "_attention", OneMore())
    found = backward.launch_backward(config, call_of(tensors, geometry), torch.randn(2, 15, 32).half())
    assert found[0] is not None
    assert found[0].isnan().any()
