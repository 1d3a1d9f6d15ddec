"""Positional embeddings against their formulas, stochastic depth, and where the feed-forward is fused."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

import models
from kernels.mlp import op, reference, tuning
from models.layers import (
    MLP,
    AbsolutePosition,
    DropPath,
    PixelAttention,
    PositionalEncodingGenerator,
    drop_path_rates,
)
from models.rest import Block
from models.variants import RESTV2
from tests.support.ablations import randomised


def test_positional_embeddings_against_their_formulas():
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    pa, peg, ape = (
        randomised(module)
        for module in (PixelAttention(4), PositionalEncodingGenerator(4), AbsolutePosition(4, (5, 6)))
    )
    for module, conv in ((pa, pa.pa_conv), (peg, peg.conv)):
        padded = F.pad(x, (1, 1, 1, 1))
        taps = sum(
            conv.weight[:, 0, i, j, None, None] * padded[:, :, i : i + 5, j : j + 6]
            for i, j in product(range(3), repeat=2)
        )
        taps = taps + conv.bias[:, None, None]
        expected = x * torch.sigmoid(taps) if module is pa else x + taps
        assert (module(x) - expected).abs().max() < 1e-12
    assert torch.equal(ape(x), x + ape.theta)


def test_positions_learnt_for_one_size_refuse_another():
    image = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match="were made for a 8x8 map, and this one is 16x16"):
        models.build("restv2_lite", pe="ape", size=(32, 32))(image)
    with pytest.raises(ValueError, match="were made for 1 keys, and here are 4"):
        models.build("restv2_lite", pe="rpe", size=(32, 32))(image)
    with pytest.raises(ValueError, match="positions were made for 64 tokens, and this map has 256"):
        models.build("pvt_tiny", size=(32, 32))(image)


def test_drop_path_rates_rise_evenly_to_table_8s():
    assert drop_path_rates(0.1, (1, 2, 6, 2)) == [
        [0.0],
        pytest.approx([0.01, 0.02]),
        pytest.approx([0.03, 0.04, 0.05, 0.06, 0.07, 0.08]),
        pytest.approx([0.09, 0.1]),
    ]
    with torch.device("meta"):  # to draw initial values takes seconds
        rates = {
            name: models.build(name).stage4[-1].drop_path.rate for name in RESTV2 if name != "restv2_lite"
        }
    assert rates == {
        "restv2_tiny": pytest.approx(0.1),
        "restv2_small": pytest.approx(0.2),
        "restv2_base": pytest.approx(0.3),
        "restv2_large": pytest.approx(0.5),
    }


def test_drop_path_leaves_out_whole_images_and_keeps_the_mean():
    drop, ones = DropPath(0.25), torch.ones(40_000, 2, 3)
    assert drop.eval()(ones) is ones
    dropped = drop.train()(ones)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)  # seven standard errors


def test_dropped_branches_leave_the_tokens_as_they_were():
    block = Block(8, 2, 1, 2, drop_path=1 - 1e-9).train()
    tokens = torch.randn(3, 6, 8)
    assert torch.equal(block(tokens, (2, 3)), tokens)


# ---- the feed-forward, and its kernel


@pytest.fixture
def takes_mlp(monkeypatch):
    """The reference in place of the kernel, on a machine that runs it in half precision; the tokens it was given."""
    seen: list[torch.Size] = []

    def instead(x, *parameters):
        seen.append(x.shape)
        return reference.mlp(x, *parameters)

    def why_not(device, dtype, channels, hidden):
        return tuning.refusal((3, 6), 90, op.DTYPES[dtype], channels, hidden)

    monkeypatch.setattr(op, "mlp", instead)
    monkeypatch.setattr(op, "why_not", why_not)
    return seen


@pytest.mark.parametrize(
    ("channels", "dtype", "may_fuse", "fuses"),
    [
        (96, torch.bfloat16, True, True),
        (96, torch.bfloat16, False, False),
        (96, torch.float32, True, False),
        (384, torch.bfloat16, True, False),
    ],
)
def test_the_feed_forward_takes_its_kernel_where_that_runs(channels, dtype, may_fuse, fuses, takes_mlp):
    x = torch.randn(2, 3, channels).to(dtype)
    eager = MLP(channels, 4).to(dtype)
    fused = MLP(channels, 4, may_fuse=may_fuse).to(dtype)
    fused.load_state_dict(eager.state_dict())
    assert fused.kernel(x.device, dtype) == ("mlp" if fuses else None)
    assert torch.equal(fused(x), eager(x))
    assert takes_mlp == [x.shape] * fuses


def test_under_autocast_its_dtype_counts(takes_mlp):
    fused, x = MLP(64, 4, may_fuse=True), torch.randn(2, 3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        fused(x)
    fused(x)
    assert takes_mlp == [x.shape]


@pytest.mark.parametrize(
    ("name", "options", "dtype", "kernels"),
    [
        # of 96 and 192 channels: one block, and two
        ("restv2_tiny", {"impl": "fused"}, torch.float16, {"emsa_upsample": 11, "mlp": 3}),
        ("restv2_tiny", {"impl": "fused"}, torch.float32, {"emsa_upsample": 11}),
        ("restv2_tiny", {"impl": "sdpa"}, torch.float16, {}),
        ("mlp_large", {"impl": "fused", "stage": "2"}, torch.float16, {"mlp": 1}),
        ("core_tiny", {"impl": "fused"}, torch.float16, {"emsa_upsample": 1}),
        ("swin_tiny", {"impl": "auto"}, torch.float16, {}),
    ],
)
@pytest.mark.usefixtures("takes_mlp")
def test_the_kernels_that_a_model_runs(name, options, dtype, kernels):
    with torch.device("meta"):
        model = models.build(name, **options)
    assert models.kernels_in(model, torch.device("cuda"), dtype) == kernels
