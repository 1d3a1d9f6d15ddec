"""timm's models under the paper's names and their own: tags, sizes, attention."""

from __future__ import annotations

import pytest
import torch

import models
from bench.cases import parse
from bench.harness import macs
from tests.support.sweeps import swept

# One of each of timm's ways with sizes: none, img_size, windows, fixed grids; and of its ways with tags
FEW = """
convnext_atto.d2_in1k vit_tiny_patch16_384 vit_tiny_patch16_224.augreg_in21k mixer_s32_224
levit_128s deit_tiny_distilled_patch16_224 xcit_nano_12_p16_384 swinv2_cr_tiny_384 efficientnet_b3 resnet50.tv2_in1k
"""
MORE = """
beit_base_patch16_384 botnet26t_256 cait_xxs24_384 coat_tiny convit_tiny convmixer_768_32 crossvit_9_240 davit_tiny
deit3_small_patch16_384 densenet121 edgenext_small eva02_tiny_patch14_336 fastvit_t8 gcvit_xxtiny hgnet_tiny
rexnet_100 hiera_tiny_224 inception_v3 maxvit_nano_rw_256 mobilevit_xxs mvitv2_tiny nasnetalarge nest_tiny nextvit_small
nfnet_f0 pit_ti_224 poolformer_s12 pvt_v2_b0 regnety_002 resnest14d sequencer2d_s swin_s3_tiny_224
tnt_s_legacy_patch16_224 twins_svt_small visformer_tiny vit_base_patch16_clip_224.openai volo_d1_384
vit_small_patch14_dinov2.lvd142m convnext_base.clip_laiona_320 tf_efficientnet_b5.ns_jft_in1k
"""


def test_sdpa_of_a_peer_is_not_eager_and_agrees_with_it():
    torch.manual_seed(0)
    eager = models.build("swin_tiny", size=(64, 64))
    fused = models.build("swin_tiny", size=(64, 64), impl="sdpa")
    assert not eager.layers[0].blocks[0].attn.fused_attn
    assert fused.layers[0].blocks[0].attn.fused_attn
    fused.load_state_dict(eager.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(eager(image), fused(image), atol=1e-5)


def runs_as_written(name: str) -> None:
    """Of the size that it has of its own it is built and gives something for an image."""
    assert macs.count(parse(f"timm:{name}")).macs("core") > 0


@pytest.mark.parametrize(
    "name", swept(FEW.split(), lambda name: name.startswith(("convnext", "vit", "resnet")))
)
def test_a_model_of_timms_runs_as_everyone_writes_it(name):
    runs_as_written(name)


@pytest.mark.trials
@pytest.mark.parametrize("name", MORE.split())
def test_and_so_do_more(name):
    runs_as_written(name)


@pytest.mark.parametrize(
    ("name", "size"),
    [("vit_tiny_patch16_224", 384), ("swin_tiny_patch4_window7_224", 256), ("deit_tiny_patch16_224", 256)],
)
def test_a_size_is_asked_of_timm(name, size):
    """With as many tokens as the size has, where the plain model asserts that it is of 224."""
    model = models.build(f"timm:{name}", size=(size, size))
    assert model.patch_embed.img_size == (size, size)
    with torch.inference_mode():
        assert model(torch.randn(1, 3, size, size)).shape == (1, 1000)
    if hasattr(model, "pos_embed"):
        assert model.pos_embed.shape[1] == (size // 16) ** 2 + 1


def test_a_tag_is_of_the_architecture_that_it_was_trained_in():
    """ImageNet-22k has 21,841 classes."""
    assert models.build("timm:convnext_atto.d2_in1k").head.fc.out_features == 1000
    with torch.device("meta"):
        assert models.build("timm:convnext_tiny.fb_in22k").head.fc.out_features == 21841


def test_embeddings_fitted_to_the_image_take_a_mix(tmp_path):
    one = macs.count(parse("timm:vit_tiny_patch16_224[dynamic_img_size]@384"))
    assert one.macs("core") == macs.count(parse("timm:vit_tiny_patch16_224@384")).macs("core")
    assert one.parameters == macs.count(parse("timm:vit_tiny_patch16_224")).parameters
    assert macs.count(parse("timm:vit_tiny_patch16_224[dynamic_img_size]@coco2~1")).macs("core") > 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "timm:efficientformer_l1@288",
            "it is called with 3x288x288 an image; timm means it for 224: write @224",
        ),
        ("timm:crossvit_9_240@304", "timm means it for 240: write @240"),
        ("timm:vit_tiny_patch16_224@coco2~1", r"timm means it for 224; \[dynamic_img_size\] fits some"),
    ],
)
def test_a_size_that_a_model_does_not_take_is_one_line_with_the_one_that_it_takes(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        macs.count(parse(text))
    assert "\n" not in str(caught.value)
