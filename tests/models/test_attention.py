"""The attention of every ablation, against loops over the formulas; its gradients against finite differences."""

from dataclasses import replace
from functools import partial

import pytest
import torch

import models
from models.attention import Attention
from models.switches import EMSAV2, Switches, assembled
from models.windows import WindowAttention
from tests.support.ablations import SMALL, VARIANTS, by_loops, in_windows, randomised, window_of, words


@pytest.mark.parametrize(("size", "reduction"), [((5, 7), 2), ((4, 4), 4), ((3, 2), 1)])
@pytest.mark.parametrize("options", VARIANTS, ids=words)
def test_every_variant_against_loops(options, size, reduction):
    switches = assembled(SMALL, options)
    window = window_of(switches)
    kind, more = (Attention, {}) if window is None else (WindowAttention, {"window": window})
    attention = randomised(kind(6, 2, reduction, switches=switches, size=size, **more))
    x = torch.randn(2, size[0] * size[1], 6, dtype=torch.float64)
    with torch.inference_mode():
        if window is None:
            expected = by_loops(attention, x, size)
        else:
            expected = in_windows(partial(by_loops, attention), x, size, window)
        assert (attention(x, size) - expected).abs().max() < 1e-10


def test_tokens_beside_the_map_attend_and_are_not_upsampled():
    """PVT's class token: equation 2 for the others; for itself the attention alone."""
    attention = randomised(Attention(6, 2, 1, switches=Switches()))
    tokens = torch.randn(1, 7, 6, dtype=torch.float64)
    attended, up = attention.branches(tokens, (2, 3))
    assert up[:, 0].abs().max() == 0
    alone, up_of_map = attention.branches(tokens[:, 1:], (2, 3))
    assert (up[:, 1:] - up_of_map).abs().max() < 1e-12
    assert (attended[:, 1:] - alone).abs().max() > 1e-3  # the map's tokens do see it


def test_mhim_against_its_formula():
    """Norm(Softmax(Conv(Q Kᵀ / √d))) V, written out with einsum."""
    torch.manual_seed(2)
    attention = Attention(12, 3, 1, switches=replace(EMSAV2, mhim=True)).double()
    q, k, v = torch.randn(3, 2, 20, 12, dtype=torch.float64)
    got = attention._attend_mhim(q, k, v, 3)
    split = [each.reshape(2, 20, 3, 4) for each in (q, k, v)]
    scores = torch.einsum("bnhd,bmhd->bhnm", split[0], split[1]) / 2
    mix, bias = attention.transform_conv.weight[:, :, 0, 0], attention.transform_conv.bias
    mixed = torch.softmax(torch.einsum("oh,bhnm->bonm", mix, scores) + bias[:, None, None], -1)
    mean, var = mixed.mean((2, 3), keepdim=True), mixed.var((2, 3), keepdim=True, unbiased=False)
    expected = torch.einsum("bhnm,bmhd->bnhd", (mixed - mean) / (var + 1e-5).sqrt(), split[2]).reshape(
        2, 20, 12
    )
    assert (got - expected).abs().max() < 1e-12


def test_mhim_is_left_out_where_there_is_one_head():
    assert not hasattr(models.build("restv2_tiny", mhim=True).stage1[0].attn, "transform_conv")
    assert hasattr(models.build("restv2_tiny", mhim=True).stage2[0].attn, "transform_conv")
