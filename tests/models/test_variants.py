"""Every named model is built and gives logits; a name or an option that cannot be built says why."""

import pytest
import torch

import models
from models.switches import COMPILED
from models.variants import ATTENTIONS, CORES, MLPS, MODELS, PVT, TIMM_SIZES, implementations, own_size
from tests.support import timm_sizes
from tests.support.sweeps import swept

NAMES = sorted({*models.names()} - {*CORES, *MLPS, *ATTENTIONS})


# The larger of a family differ in numbers alone, and tests/bench/harness/test_macs.py runs those of the paper's tables.
LARGER = ("_small", "_base", "_large", "_8g", "_16g")


@pytest.mark.parametrize(
    "name",
    [
        *swept([name for name in NAMES if not name.endswith(LARGER)], lambda name: name.endswith("_lite")),
        *(pytest.param(name, marks=pytest.mark.trials) for name in NAMES if name.endswith(LARGER)),
    ],
)
def test_every_named_model_gives_logits(name):
    with torch.device("meta"), torch.inference_mode():
        for impl in set(implementations(MODELS[name])) - {*COMPILED}:
            assert models.build(name, impl=impl)(torch.empty(2, 3, 224, 224)).shape == (2, 1000)


@pytest.mark.parametrize(
    "name",
    swept(
        [name for name in models.names() if name.endswith(("_base", "16g")) or name in PVT],
        lambda name: name == "swin_base",
    ),
)
def test_every_peer_takes_384_too(name):
    with torch.device("meta"), torch.inference_mode():
        assert models.build(name, size=(384, 384))(torch.empty(1, 3, 384, 384)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("restv3_tiny", {}, "no model 'restv3_tiny'"),
        ("timm:resnet5", {}, "timm has no model 'resnet5'"),
        ("timm:resnet18", {"impl": "sdpa"}, "has no attention"),
        ("timm:resnet18.nonesuch", {}, "no 'nonesuch' of resnet18; its tags are .*a1_in1k"),
        ("timm:resnet5.a1_in1k", {}, "timm has no model 'resnet5.a1_in1k'"),
        ("timm:resnet18", {"dynamic_img_size": True}, "takes no dynamic_img_size"),
        (
            "timm:nest_tiny",
            {"size": (20, 20)},
            "not build nest_tiny for 20x20 pixels, but for 224x224: Assert",
        ),
        ("nowhere.at:All", {}, "cannot make nowhere.at:All: ModuleNotFoundError"),
        ("json:JSONDecoder", {}, "gives JSONDecoder, not a torch.nn.Module"),
        ("torch.nn:Linear", {}, "cannot make torch.nn:Linear: TypeError"),
        ("swin_tiny", {"mhim": True}, "takes no option mhim"),
    ],
)
def test_what_cannot_be_built_says_why(name, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        models.build(name, **options)
    assert "\n" not in str(caught.value)


def test_the_sizes_of_timms_models_are_what_timm_says_today():
    assert TIMM_SIZES.read_text(encoding="utf-8") == timm_sizes.text()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("timm:resnet18", (224, 224)),
        ("timm:vit_base_patch16_384", (384, 384)),
        ("timm:convnext_tiny.fb_in22k_ft_in1k_384", (384, 384)),
        ("timm:convnext_tiny.no_such_tag", (224, 224)),
        ("timm:vit_base_patch16_384.no_such_tag", (384, 384)),
        ("timm:vit_5b_patch16_sapiens2", (1024, 768)),
        ("nets:Net", (224, 224)),
        ("swin_base", (224, 224)),
    ],
)
def test_a_model_has_the_size_that_it_is_meant_for(name, size):
    assert own_size(name) == size
