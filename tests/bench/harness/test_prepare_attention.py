"""The attention of one block as a case: whole, its copies alone, and its windows without them."""

import operator
from functools import partial
from math import prod

import pytest
import torch

import models
from bench.cases import AttentionPart, parse
from bench.conventions import BY_CALL
from bench.errors import UsageError, Wrong
from bench.harness import inputs, macs
from bench.harness.prepare import Spent, prepare
from bench.studies import STUDIES
from kernels.emsa_upsample import op, reference
from kernels.window_reduce import op as reduce_op
from kernels.window_reduce import reference as reduce_reference
from models import cost, windows
from models.attention import Attention
from models.switches import IMPLS
from models.variants import ATTENTIONS, MODELS, RESTV2, TABLE3, input_shapes
from tests.support.ablations import in_windows, randomised
from tests.support.sweeps import sweep, swept

CPU = torch.device("cpu")
PARTS = ("", ",style=win", ",part=copies,style=win", ",part=inside,style=win")
# smaller than a window, one of them, several, and padded on the right, below and on both sides
SIZES = ("64x96", "256", "512x768", "512x700", "500x512", "797x1333", "800x1344")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    torch.compiler.reset()


def built(text, **more):
    case = parse(text)
    return models.build(case.model, size=case.size, **{"impl": case.impl, **case.model_options, **more})


# ---- what it is


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize(
    "size", [(224, 224), *(pytest.param(size, marks=sweep) for size in [(800, 1344), (797, 1333)])]
)
def test_it_is_called_with_what_the_model_hands_to_the_first_block_of_each_stage(name, size):
    config = ATTENTIONS[name]
    whole = next(model for model, its in MODELS.items() if its == config.of)
    seen: dict[str, list[tuple[int, ...]]] = {"global": [], "win": []}
    with torch.device("meta"), torch.inference_mode():
        for style, shapes in seen.items():
            model = models.build(whole, style=style)
            for stage in range(1, 5):
                getattr(model, f"stage{stage}")[0].attn.q.register_forward_pre_hook(
                    lambda module, given, shapes=shapes: shapes.append(tuple(given[0].shape))
                )
            model(torch.empty(1, 3, *size))
    for stage, (of_map, of_windows) in enumerate(zip(*seen.values(), strict=True), start=1):
        for style in seen:
            assert config.inputs(size, stage=str(stage), style=style) == (of_map[1:],)
        assert config.inputs(size, stage=str(stage), style="win", part="copies") == (of_map[1:],)
        assert config.inputs(size, stage=str(stage), style="win", part="inside") == (of_windows,)


@pytest.mark.parametrize("size", swept(["64x96", "256x300", "512"], lambda size: size == "64x96"))
@pytest.mark.parametrize("stage", [1, 4])
def test_every_part_is_that_of_the_models_own_block(stage, size):
    """The model's attention takes the same weights; and a window at a time is what happens inside."""
    texts = [f"attention_tiny[stage={stage}{part}]@{size}:b2" for part in PARTS]
    over_map, in_turn, copies, inside = (built(text).double() for text in texts)
    weights = randomised(over_map).state_dict()
    for module in (in_turn, inside):
        module.load_state_dict(weights)
    ((x,),) = inputs.calls(parse(texts[0]), 2, CPU, dtype=torch.float64)
    it = ATTENTIONS["attention_tiny"].shape(parse(texts[0]).size, str(stage))
    block = getattr(models.build("restv2_tiny").double(), f"stage{stage}")[0]
    block.attn.load_state_dict(over_map.attn.state_dict())
    with torch.inference_mode():
        assert torch.equal(over_map(x), block.attn(x, it.map_size))
        expected = in_windows(block.attn, x, it.map_size, it.window)
        assert (in_turn(x) - expected).abs().max() < 1e-10 * expected.abs().max()
        assert torch.equal(copies(x), x)
        cut = windows.partition(windows.pad(x, it.map_size, it.window), it.window).unflatten(0, (2, -1))
        assert cut.shape[1:] == input_shapes("attention_tiny", parse(texts[3]).size, **_options(texts[3]))[0]
        assert inside(cut).shape == cut.shape
        back = windows.reverse(inside(cut).flatten(0, 1), it.map_size, it.window)
        assert torch.equal(back, in_turn(x))
    assert not list(copies.parameters())


def _options(text):
    return parse(text).model_options


def test_the_windows_without_copies_are_a_view_of_what_they_are_given():
    inside = built("attention_tiny[part=inside,stage=4,style=win]@512")
    seen = []
    inside.attn.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    x = torch.randn(2, 4, 64, 768)
    with torch.inference_mode():
        inside(x)
    assert seen[0].shape == (8, 64, 768)
    assert seen[0].untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_the_kernel_is_given_the_map_with_or_without_windows_or_the_windows(monkeypatch):
    seen = []

    def instead(*tensors, **geometry):
        seen.append((len(tensors[0]), geometry["size"], geometry.get("window")))
        return reference.emsa_upsample(*tensors, **geometry)

    monkeypatch.setattr(op, "emsa_upsample", instead)
    monkeypatch.setattr(reduce_op, "window_reduce", reduce_reference.window_reduce)
    for part in ("", ",style=win", ",part=inside,style=win"):
        case = parse(f"attention_tiny[stage=3{part}]@256x300:b2:fused")
        (given,) = inputs.calls(case, 2, CPU)
        with torch.inference_mode():
            built(str(case))(*given)
    assert seen == [(2, (16, 19), None), (2, (16, 19), 16), (4, (16, 16), None)]


# ---- what it costs


def count(text):
    found = macs.count(parse(text))
    assert found.uncounted == {}
    return found


@pytest.mark.parametrize(
    ("impl", "stage"),
    [
        pytest.param(
            *(impl, stage),
            # which differ from the last in numbers alone, and each capture of a graph takes a while
            marks=[]
            if impl == "eager" or (stage == "4" and "compile" not in impl)
            else [pytest.mark.trials if "compile" in impl and stage != "4" else sweep],
        )
        for impl in ("eager", "sdpa", "fused", "compile", "fused+compile", "auto")
        for stage in "1234"
    ],
)
def test_every_implementation_counts_as_the_closed_form_of_windows(impl, stage):
    """The count by operator is fvcore's, whether or not there is something to pad; copies multiply nothing."""
    config = ATTENTIONS["attention_tiny"]
    for size in SIZES[:3] if "compile" in impl else SIZES:
        it = config.shape(parse(f"attention_tiny@{size}").size, stage)
        whole, cut = {it.map_size: 1}, cost.padded_windows(it.map_size, it.window)
        for part, of in ((PARTS[0], whole), (PARTS[1], cut), (PARTS[3], cut)):
            found = count(f"attention_tiny[stage={stage}{part}]@{size}:{impl}")
            closed = cost.attention_macs(of, it.dim, it.reduction)
            assert found.by_operator("fvcore") == closed
            assert found.macs("core") == sum(closed[name] for name in cost.CORE)
            if (
                "fused" not in impl
            ):  # PyTorch's counter knows no operator of ours, and before 2.6 no SDPA's parts
                agrees = operator.le if torch.__version__ < "2.6" else operator.eq
                assert agrees(found.cross_checks[0]["macs"], found.macs("core"))
    if impl in ("eager", "compile"):
        found = count(f"attention_tiny[stage={stage}{PARTS[2]}]@{SIZES[-1]}:{impl}")
        assert found.parameters == 0
        assert {found.macs(convention) for convention in BY_CALL} == {0}


@pytest.mark.parametrize("size", ["800x1344", "768x1280", "64x96"])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_case_is_what_a_block_is_said_to_execute(name, size):
    config, shape = ATTENTIONS[name], parse(f"{name}@{size}").size
    for style, part in (("global", "all"), ("win", "all"), ("win", "inside")):
        for work in cost.stage_work(config.of, shape, style):
            text = f"{name}[part={part},stage={work.stage},style={style}]@{size}"
            assert count(text).macs("core") == work.executed_macs
            (given,) = input_shapes(name, shape, **_options(text))
            assert given[-1] == work.channels
            assert prod(given[:-1]) == (work.executed_queries if part == "inside" else work.useful_queries)


@pytest.mark.parametrize("part", [PARTS[0], PARTS[1], PARTS[3]])
def test_fvcore_counts_the_same(part):
    case = parse(f"attention_tiny[stage=3{part}]@256x300")
    check = macs.fvcore_check(case, macs.count(case))
    assert check["macs"] == check["ours"] > 0


# ---- how it is timed


def take(text):
    return prepare(parse(text), 1, CPU, lambda phase: None, Spent())


@pytest.mark.parametrize("impl", ["eager", "sdpa", "compile", "auto"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("size", swept(["64x96", "256x512"], lambda size: size == "64x96"))
def test_every_part_is_checked_in_every_implementation(monkeypatch, impl, part, size):
    """The graph that torch.compile captures is run as it is; what inductor makes of it is tested with models."""
    monkeypatch.setattr(models, "compiled", partial(models.compiled, backend="eager"))
    text = f"attention_tiny[stage=4{part}]@{size}:b2:fp32:{impl}"
    if "copies" in part and impl in ("sdpa", "auto"):
        with pytest.raises(UsageError, match=f"copies have no attention to run as '{impl}'"):
            parse(text)
        return
    it = take(text)
    assert it.check["against"] == "eager in fp64" and it.check["error"] <= it.check["bound"]
    ((given,),) = inputs.calls(parse(text), 2, CPU)
    assert it.run().shape == given.shape


def test_a_wrong_part_is_not_timed(monkeypatch):
    monkeypatch.setattr(
        "models.attention.ATTEND", {"eager": reference.attend, "sdpa": lambda q, k, v, heads: q}
    )
    for part in ("", ",style=win", ",part=inside,style=win"):
        with pytest.raises(Wrong, match="differs from eager in fp64"):
            take(f"attention_tiny[stage=4{part}]@64:b2:fp32:sdpa")


# ---- what can be asked for


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "attention_tiny[part=copies]",
            "part=copies is a part of style=win: a whole map is not cut into windows",
        ),
        ("attention_tiny[part=inside,style=global]", "part=inside is a part of style=win"),
        ("attention_tiny[style=cwin]", "unknown value 'cwin' of style"),
        ("attention_tiny[part=half,style=win]", "unknown value 'half' of part"),
        ("attention_tiny[stage=5]", "unknown value '5' of stage"),
        ("attention_tiny[mhim]", "unknown option 'mhim' of attention_tiny"),
        ("attention_tiny:train", "a part of a model is not trained alone"),
        ("attention_tiny@coco", "a part of a model is made for one size, and takes no mix"),
        ("attention_tiny[channels_last]", "a part of a model takes tokens"),
        ("attention_tiny@16", "attention_tiny takes 32 to"),
        *(
            (
                f"attention_tiny[part=copies,style=win]:{impl}",
                f"copies have no attention to run as {impl!r}; they run as eager and compile",
            )
            for impl in IMPLS
            if impl not in ("eager", "compile")
        ),
    ],
)
def test_what_makes_no_sense_is_one_line(text, why):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_a_case_says_what_part_it_is():
    config = RESTV2["restv2_large"]
    case = parse("attention_large[part=inside,stage=3,style=win]")
    assert case.attention == AttentionPart(config, 3, "win", "inside")
    assert parse("attention_large").attention == AttentionPart(config, 1, "global", "all")
    assert case.takes_tokens and parse("core_tiny").takes_tokens and not parse("restv2_tiny").takes_tokens
    assert case.core is parse("core_tiny").attention is parse("restv2_tiny[style=win]").attention is None
    assert isinstance(built("attention_large").attn, Attention)


# ---- the study


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_study_has_every_stage_with_and_without_padding(kind, quick):
    study = STUDIES["windows"]
    listed = [case for case in study.parsed(kind, quick) if case.attention]
    assert len({*listed}) == len(listed)
    found: dict[tuple[str, str], set[tuple[int, bool]]] = {}
    for case in listed:
        assert case.attention
        of, stage, style, part = case.attention
        assert (case.batch, case.impl, of) == (1, "eager", TABLE3)
        found.setdefault((style, part), set()).add((stage, cost.needs_padding(case.size)))
    padded, unpadded = ({(stage, pads) for stage in range(1, 5)} for pads in (True, False))
    assert found == {
        ("global", "all"): padded | unpadded,
        ("win", "all"): padded | unpadded,
        ("win", "inside"): padded | unpadded,
        ("win", "copies"): padded,
    }
    pairs = [(parse(first), parse(second)) for first, second in study.pairs(kind, quick)]
    pairs = [pair for pair in pairs if pair[0].attention]
    assert len({*pairs}) == len(pairs) == 8
    for first, second in pairs:
        assert {first, second} <= {*listed}
        assert first.size == second.size
        assert first.attention and first.attention[2:] == ("win", "all")
        assert second.attention == first.attention._replace(style="global")
