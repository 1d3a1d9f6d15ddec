"""Quick draws of initial weights: spread as asked, the same in every process, no row twice; and none at all."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

import models
from bench.harness import draws

N = 400_000


def drawn(fill, *shape: int, seed: int = 0) -> torch.Tensor:
    with draws.quick(seed):
        return fill(torch.empty(*shape or (N,)))


@pytest.mark.parametrize(
    ("fill", "mean", "std", "least", "most"),
    [
        (lambda t: t.uniform_(-1, 3), 1, 4 / math.sqrt(12), -1, 3),
        (lambda t: nn.init.uniform_(t, 0, 2), 1, 2 / math.sqrt(12), 0, 2),
        (lambda t: t.normal_(5, 0.5), 5, 0.5, -math.inf, math.inf),
        (lambda t: t.normal_(std=2), 0, 2, -math.inf, math.inf),
        # within two deviations a normal number's own is 0.8796 of them
        (lambda t: nn.init.trunc_normal_(t, std=0.02, a=-0.04, b=0.04), 0, 0.02 * 0.8796, -0.04, 0.04),
        # and a hundred of them away nothing is cut off, as the models have it
        (lambda t: nn.init.trunc_normal_(t, mean=0.5, std=0.02, a=-2, b=2), 0.5, 0.02, 0.3, 0.7),
        (lambda t: nn.init.kaiming_normal_(t.view(-1, 100)).view(-1), 0, math.sqrt(2 / 100), -9, 9),
    ],
)
def test_weights_are_spread_as_asked(fill, mean, std, least, most):
    weights = drawn(fill)
    assert weights.mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(N))
    assert weights.std().item() == pytest.approx(std, rel=0.01)
    assert least <= weights.min() and weights.max() <= most
    assert weights.unique().numel() > 0.8 * N


def test_the_same_seed_gives_the_same_weights_and_another_others():
    first, again, other = (drawn(lambda t: t.normal_(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_matrix_larger_than_the_pool_has_no_row_twice_and_the_next_tensor_goes_on():
    with draws.quick(0):
        large, small = torch.empty(2100, 1024).uniform_(), torch.empty(1024).uniform_()
    assert large.numel() > 2 * draws.POOL
    assert large.unique(dim=0).shape == large.shape
    assert not (large == small).all(1).any()
    start = large.numel() % draws.POOL
    assert torch.equal(small, large.view(-1)[start : start + 1024])


def test_what_a_pool_does_not_fit_is_drawn_as_ever():
    generator = torch.Generator()
    for fill, tensor in (
        (lambda t: t.uniform_(generator=generator.manual_seed(3)), torch.empty(99)),
        (lambda t: t.normal_(), torch.empty(99, dtype=torch.float64)),
        (lambda t: nn.init.trunc_normal_(t), torch.empty(99, dtype=torch.float64)),
        (lambda t: nn.init.trunc_normal_(t, generator=generator.manual_seed(3)), torch.empty(99)),
        (lambda t: t.uniform_(to=5.0), torch.empty(9, 11).T),
    ):
        torch.manual_seed(3)
        expected = fill(tensor.clone()).clone()
        torch.manual_seed(3)
        with draws.quick(0):
            assert torch.equal(fill(tensor.clone()), expected)


def test_outside_torch_and_timm_draw_as_ever():
    weight_init = importlib.import_module("timm.layers.weight_init")

    def are() -> list[object]:
        return [
            *(torch.Tensor.uniform_, torch.Tensor.normal_, nn.init.trunc_normal_),
            *(weight_init._trunc_normal_, weight_init.trunc_normal_),
        ]

    before = are()
    with draws.quick(0, of_timm=True):
        assert [now is then for now, then in zip(are(), before, strict=True)] == [False] * 4 + [True]
    assert before == are()
    with pytest.raises(KeyError), draws.quick(0), draws.none():
        raise KeyError
    assert before == are()


@pytest.mark.parametrize("name", ["swin_tiny", "timm:vit_tiny_patch16_224"])
def test_the_first_of_timms_models_in_a_process_has_the_weights_that_it_has_later(name):
    program = """
import sys, torch, models
from bench.cases import parse
from bench.harness import draws
case = parse(sys.argv[1])
for _ in range(2):
    with draws.quick(0, of_timm=case.is_timms):
        model = models.build(case.model, size=case.size)
    print(sum(weight.double().sum().item() * place for place, weight in enumerate(model.parameters())))
"""
    done = subprocess.run([sys.executable, "-c", program, name], capture_output=True, text=True, check=True)
    first, later = done.stdout.splitlines()
    assert first == later and math.isfinite(float(first))


@pytest.mark.parametrize("name", ["restv2_tiny", "regnety_4g"])
def test_none_draws_nothing_of_a_model_on_meta_tensors_and_keeps_constants(name, monkeypatch):
    with draws.none(), torch.device("meta"):
        monkeypatch.setattr(torch, "empty_like", None)  # what each draw of a meta tensor would make
        models.build(name)
    with draws.none():
        norm, linear = nn.LayerNorm(4), nn.Linear(4, 4, bias=False)
    assert torch.equal(norm.weight, torch.ones(4))
    with draws.none():
        assert torch.equal(nn.init.normal_(linear.weight.detach().zero_()), torch.zeros(4, 4))
        assert torch.zeros(100).normal_().any()  # somebody's own draw, of a tensor with data, is made
