"""ResTv1 and ResTv2: equal to the authors' where there is something to compare with, and to themselves elsewhere."""

import shutil
from dataclasses import replace

import pytest
import torch

import models
from bench.regression.transcription import ResTv2Tiny
from models.rest import Block
from models.switches import COMPILED, EMSAV2, FUSED
from models.variants import MODELS, RESTV1, RESTV2, implementations
from tests.support import official
from tests.support.ablations import relative
from tests.support.sweeps import sweep, swept

GOLDEN = official.logits()


def golden_cases():
    """Each record in each implementation; the largest image, and the widest model, in sweeps and in one of them alone.

    At 800×1344 that is SDPA, the cheapest: nothing but time and memory tells its code from that of a smaller image.
    """
    for record in GOLDEN:
        for impl in implementations(MODELS[record["model"]]):
            if impl in (*COMPILED, *FUSED):  # the kernel takes no fp64
                continue
            others = (record["height"] == 800 and impl != "sdpa") or (
                record["model"] == "restv2_large" and impl != "eager"
            )
            largest = record["height"] == 800 or record["model"] == "restv2_large"
            marks = [pytest.mark.trials] if others else [sweep] if largest else []
            name = f"{record['model']}-{record['height']}x{record['width']}-{impl}"
            yield pytest.param(record, impl, id=name, marks=marks)


@pytest.mark.parametrize(("record", "impl"), list(golden_cases()))
def test_golden_logits(record, impl):
    with torch.device("meta"):
        model = models.build(record["model"], impl=impl)
    model.load_state_dict(official.formula_state(record["model"]), assign=True)
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


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize(
    ("size", "options"),
    swept(
        [
            *((size, {}) for size in [(32, 32), (33, 47), (224, 224), (255, 255), (397, 667)]),
            *((size, {"mhim": True}) for size in [(32, 32), (255, 255)]),
        ],
        lambda value: value == ((33, 47), {}),
    ),
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


@sweep
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="inductor needs a C++ compiler"
)
def test_inductor_gives_what_eager_gives():
    """One block on an odd map: a whole model takes a minute to compile, and is among the trials."""
    block = Block(32, 2, 2, 4, switches=replace(EMSAV2, mhim=True)).eval()
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
