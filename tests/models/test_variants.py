"""Every named model is built and gives logits; a name or an option that cannot be built says why."""

import pytest
import torch

import models
from models.switches import COMPILED
from models.variants import ATTENTIONS, CORES, MODELS, PVT, implementations


@pytest.mark.parametrize("name", sorted({*models.names()} - {*CORES, *ATTENTIONS}))
def test_every_named_model_gives_logits(name):
    with torch.device("meta"), torch.inference_mode():
        for impl in set(implementations(MODELS[name])) - {*COMPILED}:
            assert models.build(name, impl=impl)(torch.empty(2, 3, 224, 224)).shape == (2, 1000)


@pytest.mark.parametrize(
    "name", [name for name in models.names() if name.endswith(("_base", "16g")) or name in PVT]
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
