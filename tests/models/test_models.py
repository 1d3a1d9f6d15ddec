"""The models: equal to the authors' where there is something to compare with, and to themselves elsewhere."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

import models
from bench.regression.transcription import ResTv2Tiny
from kernels.emsa_upsample import reference
from models.attention import Attention
from models.config import (
    ATTENTIONS,
    COMPILED,
    CORES,
    EMSAV2,
    FUSED,
    MODELS,
    PVT,
    RESTV1,
    RESTV2,
    implementations,
)
from models.rest import Block
from tests.support import official

GOLDEN = official.logits()


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.manual_seed(0)
    torch.compiler.reset()


def relative(out, truth):
    """The largest difference as a share of the largest true value."""
    return ((out.double() - truth).abs().max() / truth.abs().max()).item()


@pytest.mark.parametrize(
    ("record", "impl"),
    [
        (record, impl)
        for record in GOLDEN
        for impl in implementations(MODELS[record["model"]])
        if impl not in (*COMPILED, *FUSED)  # the kernel takes no fp64
    ],
    ids=lambda part: part if isinstance(part, str) else f"{part['model']}-{part['height']}x{part['width']}",
)
def test_golden_logits(record, impl):
    model = models.build(record["model"], impl=impl).double()
    model.load_state_dict(official.formula_state(record["model"]))
    with torch.inference_mode():
        out = model(official.formula_image(record["height"], record["width"]))[0]
    expected = torch.tensor(record["logits_first_8"], dtype=torch.float64)
    assert (out[:8] - expected).abs().max() < 1e-9
    assert abs(out.square().sum().item() - record["logits_sum_of_squares"]) < 1e-9
    assert out.argmax().item() == record["argmax"]


def test_there_are_golden_logits():
    assert {(r["model"], r["height"], r["width"]) for r in GOLDEN} == {
        ("restv2_tiny", 224, 224),
        ("restv2_tiny", 64, 96),
        ("restv2_tiny", 800, 1344),
        ("restv2_large", 224, 224),
        ("restv1_lite", 224, 224),
        ("restv1_lite", 96, 64),
    }


@pytest.mark.parametrize("name", sorted(set(RESTV2) & set(official.entries())))
def test_state_dict_has_the_authors_keys_and_shapes_in_their_order(name):
    with torch.device("meta"):
        state = models.build(name).state_dict()
    assert [(key, tuple(value.shape)) for key, value in state.items()] == list(
        official.entries()[name].items()
    )


@pytest.mark.parametrize("name", sorted(set(RESTV1) & set(official.entries())))
def test_state_dict_of_restv1_has_the_authors_keys_and_shapes(name):
    with torch.device("meta"):
        state = models.build(name).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == official.entries()[name]


@pytest.mark.parametrize(
    ("size", "options"),
    [
        *((size, {}) for size in [(32, 32), (33, 47), (224, 224), (255, 255), (797, 1333)]),
        *((size, {"mhim": True}) for size in [(32, 32), (255, 255)]),
    ],
)
def test_any_size_runs_the_same_in_every_implementation(size, options):
    """The compiled one through its captured graph; what inductor makes of that is the next test's."""
    eager = models.build("restv2_lite", **options)
    image = torch.randn(1, 3, *size)
    variants = {"compile": models.compiled(eager, backend="eager")}
    if not options:
        variants["sdpa"] = models.build("restv2_lite", impl="sdpa")
        variants["sdpa"].load_state_dict(eager.state_dict())
    with torch.inference_mode():
        outs = {name: model(image) for name, model in variants.items()}
        plain = eager(image)
        truth = eager.double()(image.double())
    assert plain.shape == (1, 1000)
    for out in outs.values():
        assert relative(out, truth) <= 2 * relative(plain, truth) + 1e-5


@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="inductor needs a C++ compiler"
)
def test_inductor_gives_what_eager_gives():
    """One block on an odd map: a whole model takes a minute to compile, and is among the trials."""
    block = Block(32, 2, 2, 4, parts=replace(EMSAV2, mhim=True)).eval()
    tokens = torch.randn(2, 9 * 7, 32)
    with torch.inference_mode():
        out = torch.compile(block, dynamic=False, fullgraph=True)(tokens, (9, 7))
        plain = block(tokens, (9, 7))
        truth = block.double()(tokens.double(), (9, 7))
    assert relative(out, truth) <= 2 * relative(plain, truth) + 1e-5


@pytest.mark.trials
@pytest.mark.parametrize("name", ["restv2_tiny", "restv2_large"])
@pytest.mark.parametrize("size", [(255, 255), (797, 1333)])
def test_inductor_at_odd_sizes(name, size):
    eager = models.build(name)
    image = torch.randn(1, 3, *size)
    with torch.inference_mode():
        out, plain = models.compiled(eager)(image), eager(image)
        truth = eager.double()(image.double())
    assert relative(out, truth) <= 2 * relative(plain, truth) + 1e-5


def test_feature_maps_are_a_4th_to_a_32nd_of_the_image_rounded_up():
    with torch.device("meta"):
        maps = models.build("restv2_tiny").features(torch.empty(2, 3, 797, 1333))
    assert [tuple(each.shape) for each in maps] == [
        (2, 96, 200, 334),
        (2, 192, 100, 167),
        (2, 384, 50, 84),
        (2, 768, 25, 42),
    ]


@pytest.mark.parametrize("size", [(31, 224), (224, 31)])
def test_too_small_an_image_is_refused(size):
    with pytest.raises(ValueError, match="smaller than 32x32"):
        models.build("restv2_lite")(torch.zeros(1, 3, *size))


def test_the_transcription_of_the_paper_agrees():
    """Two hands wrote these; a batch shows that neither mixes images."""
    ours, plain = models.build("restv2_tiny").double(), ResTv2Tiny().eval().double()
    plain.load_state_dict(ours.state_dict())
    images = torch.randn(3, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        assert (ours(images) - plain(images)).abs().max() < 1e-12


@pytest.mark.parametrize(("size", "reduction"), [((8, 8), 4), ((7, 10), 4), ((5, 3), 1), ((9, 17), 8)])
def test_reference_against_loops(size, reduction):
    """Equation 2, one query and one pixel at a time."""
    heads, width = 2, 3
    dim, grid = heads * width, reference.reduced(size, reduction)
    torch.manual_seed(1)
    q = torch.randn(2, size[0] * size[1], dim, dtype=torch.float64)
    k, v = torch.randn(2, 2, grid[0] * grid[1], dim, dtype=torch.float64)
    conv = nn.Conv2d(dim, dim * reduction**2, 3, padding=1, groups=dim).double()
    norm = nn.LayerNorm(dim, eps=1e-6).double()
    nn.init.normal_(norm.weight)
    out = reference.emsa_upsample(
        q, k, v, conv.weight, conv.bias, norm.weight, norm.bias, heads=heads, size=size, reduction=reduction
    )
    for image in range(2):
        padded = torch.zeros(dim, grid[0] + 2, grid[1] + 2, dtype=torch.float64)
        padded[:, 1:-1, 1:-1] = v[image].T.reshape(dim, *grid)
        for y in range(size[0]):
            for x in range(size[1]):
                query = q[image, y * size[1] + x]
                row = torch.empty(dim, dtype=torch.float64)
                for head in range(heads):
                    own = slice(head * width, (head + 1) * width)
                    weights = torch.softmax(k[image][:, own] @ query[own] / width**0.5, 0)
                    row[own] = weights @ v[image][:, own]
                phase = (y % reduction) * reduction + x % reduction
                taps = padded[:, y // reduction : y // reduction + 3, x // reduction : x // reduction + 3]
                channels = torch.arange(dim) * reduction**2 + phase
                up = (conv.weight[channels, 0] * taps).sum((1, 2)) + conv.bias[channels]
                up = (up - up.mean()) / (up.var(unbiased=False) + 1e-6).sqrt() * norm.weight + norm.bias
                assert (out[image, y * size[1] + x] - row - up).abs().max() < 1e-12


def test_mhim_against_its_formula():
    """Norm(Softmax(Conv(Q Kᵀ / √d))) V, written out with einsum."""
    torch.manual_seed(2)
    attention = Attention(12, 3, 1, parts=replace(EMSAV2, mhim=True)).double()
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


def test_mhim_cannot_run_without_the_attention_map():
    with pytest.raises(ValueError, match="MHIM works on the attention map"):
        models.build("restv2_lite", mhim=True, impl="sdpa")


def test_reference_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        reference.emsa_upsample(
            *(torch.zeros(1, 4, 2),) * 3,
            torch.zeros(8, 1, 3, 3),
            None,
            torch.ones(2),
            torch.zeros(2),
            heads=1,
            size=(4, 4),
            reduction=4,
        )


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
