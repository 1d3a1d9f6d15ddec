"""Blocks and whole models of every ablation: in every form that runs them, compiled, and their gradients."""

import shutil
from dataclasses import replace

import pytest
import torch

from models.layers import PixelAttention
from models.pvt import PyramidVisionTransformer
from models.rest import STEMS, Block, ResTv1, ResTv2
from models.switches import PVT_OPTIONS, RESTV1_OPTIONS, assembled, refusal
from tests.support.ablations import (
    FEW,
    SHALLOW,
    SMALL,
    SMALL_PVT,
    SMALL_V1,
    VARIANTS,
    assert_compiles,
    gradcheck,
    randomised,
    relative,
    single,
    window_of,
    words,
)
from tests.support.sweeps import swept

WHOLE = [
    *(
        (ResTv2, replace(SMALL, depths=SHALLOW), options)
        for options in VARIANTS
        if options.get("branches") not in ("convnetv2", "convnetv3")
    ),
    *((ResTv1, replace(SMALL_V1, depths=SHALLOW), options) for options in single(RESTV1_OPTIONS)),
    *(
        (PyramidVisionTransformer, replace(SMALL_PVT, depths=SHALLOW), options)
        for options in single(PVT_OPTIONS)
    ),
]


def whole_words(part):
    if isinstance(part, dict):
        return words(part)
    return part.__name__ if isinstance(part, type) else ""


@pytest.mark.parametrize(
    ("kind", "small", "options"),
    swept(WHOLE, lambda value: value[2] in FEW),
    ids=whole_words,
)
def test_every_variant_in_every_form(kind, small, options):
    """sdpa, channels last and under autocast: eager's results, within its own error."""
    size = (40, 72)
    switches = assembled(small, options)
    eager = kind(small, switches, size=size).eval()
    image = torch.randn(2, 3, *size)
    last = torch.channels_last
    forms = {
        "channels last": (
            kind(small, switches, size=size).to(memory_format=last),
            image.to(memory_format=last),
        )
    }
    if switches.attends and not switches.mhim:
        forms["sdpa"] = (kind(small, switches, size=size, impl="sdpa"), image)
    else:
        assert "'sdpa'" in (refusal(small, "sdpa", options) or "")
    for model, _ in forms.values():
        model.eval().load_state_dict(eager.state_dict())
    with torch.inference_mode():
        outs = {name: model(given) for name, (model, given) in forms.items()}
        plain = eager(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = eager(image)
        truth = eager.double()(image.double())
    for name, out in outs.items():
        assert relative(out, truth) <= 2 * relative(plain, truth) + 1e-5, name
    assert half.dtype == torch.bfloat16
    # eight bits leave nothing of MHIM's map at initial weights: so bench checks it in fp32
    assert half.isfinite().all() if switches.mhim else relative(half, truth) < 0.1


@pytest.mark.parametrize("options", swept(VARIANTS, FEW.__contains__), ids=words)
@pytest.mark.parametrize(
    "backend",
    [
        "eager",  # the captured graph as it is
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.trials,
                pytest.mark.skipif(
                    not any(map(shutil.which, ("g++", "c++", "clang++"))),
                    reason="inductor needs a C++ compiler",
                ),
            ],
        ),
    ],
)
def test_every_variant_compiles(options, backend):
    switches = assembled(SMALL, options)
    block = Block(32, 2, 2, 4, switches=switches, size=(9, 7), window=window_of(switches)).eval()
    assert_compiles(block, backend, torch.randn(2, 9 * 7, 32), (9, 7))


@pytest.mark.parametrize(
    ("kind", "small", "options"),
    swept(
        [
            (ResTv2, replace(SMALL, depths=SHALLOW), {"pe": "ape"}),
            (ResTv2, replace(SMALL, depths=SHALLOW), {"style": "cwin"}),
            (ResTv1, replace(SMALL_V1, depths=SHALLOW), {"stem": "pool"}),
            (PyramidVisionTransformer, replace(SMALL_PVT, depths=SHALLOW), {"attention": "emsav2"}),
        ],
        lambda value: value[0] is ResTv1,
    ),
    ids=whole_words,
)
def test_whole_models_compile(kind, small, options):
    assert_compiles(
        kind(small, assembled(small, options), size=(40, 72)).eval(), "eager", torch.randn(1, 3, 40, 72)
    )


@pytest.mark.parametrize("options", swept(VARIANTS, FEW.__contains__), ids=words)
def test_gradients_of_every_variant(options):
    switches = assembled(SMALL, options)
    block = randomised(Block(4, 2, 2, 2, switches=switches, size=(5, 3), window=window_of(switches)))
    assert gradcheck(block, torch.randn(2, 15, 4, dtype=torch.float64), (5, 3))


@pytest.mark.parametrize("options", single(RESTV1_OPTIONS), ids=words)
def test_gradients_of_restv1s_blocks(options):
    block = randomised(Block(4, 2, 2, 2, switches=assembled(SMALL_V1, options)))
    assert gradcheck(block, torch.randn(2, 15, 4, dtype=torch.float64), (5, 3))


@pytest.mark.parametrize("stem", STEMS)
def test_gradients_of_restv1s_stems(stem):
    """A small image: a difference across the kink of a ReLU, or the edge of a maximum, is no gradient."""

    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = STEMS[stem](4, PixelAttention(4))

        def forward(self, image):
            return self.stem(image)[0]

    assert gradcheck(randomised(Tokens()), torch.randn(1, 3, 8, 12, dtype=torch.float64))
