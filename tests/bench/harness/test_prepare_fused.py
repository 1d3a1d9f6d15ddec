"""The fused kernel as an implementation of the models: who takes it, who refuses it and in which words, what it counts.

What the kernel computes is tests of its own; here it runs on meta tensors, or through the reference in its place.
"""

import itertools

import pytest
import torch

import models
from bench.cases import parse
from bench.conventions import BY_CALL
from bench.harness import counter, macs
from bench.harness import prepare as preparing
from kernels.emsa_upsample import op, reference
from models.switches import COMPILED, FUSED, Request, Switches, reason
from models.variants import ATTENTIONS, CORES, MLPS, MODELS, RESTV1, RESTV2, runs
from tests.support.modules import whole_attentions, whole_mlps
from tests.support.sweeps import swept

CPU = torch.device("cpu")
NO_CPU = "the fused kernel needs an NVIDIA GPU, and does not run on a CPU"


@pytest.fixture(autouse=True)
def _not_interpreted(monkeypatch):
    """Triton compiles, and so refuses a CPU, whatever the environment says."""
    torch.manual_seed(0)
    torch.compiler.reset()
    monkeypatch.setattr(op, "INTERPRETED", False)


@pytest.fixture
def calls(monkeypatch):
    """The reference in place of the operator, on a machine that is said to run it; how often it was called."""
    seen = []

    def instead(*args, **kwargs):
        seen.append(kwargs["size"])
        return reference.emsa_upsample(*args, **kwargs)

    monkeypatch.setattr(op, "emsa_upsample", instead)
    monkeypatch.setattr(op, "why_not", lambda device, dtype: None)
    return seen


# ---- who takes it, and who says why not

NO_BRANCH = "without an upsample branch there is no EMSAv2 to run as {!r}"
MHIM = "MHIM in windows has no kernel to run as {!r}: run it as eager or compile"
WAY = "{!r} upsamples by a convolution and pixel_shuffle, as EMSAv2 does, and in no other way"
VALUES = "{!r} upsamples the values, as EMSAv2 does, and nothing else"
REFUSED = [
    *[("restv2_tiny", {"attention": kind}, NO_BRANCH) for kind in ("msa", "sra", "emsa")],
    ("restv2_tiny", {"branches": "emsa"}, NO_BRANCH),
    ("restv2_tiny", {"target": "none"}, NO_BRANCH),
    ("restv2_tiny", {"branches": "convnet"}, "a ConvNet has no attention to run as {!r}"),
    ("restv2_tiny", {"branches": "convnetv3"}, "a ConvNet has no attention to run as {!r}"),
    ("restv2_tiny", {"target": "k"}, VALUES),
    ("restv2_tiny", {"target": "x"}, VALUES),
    ("restv2_tiny", {"upsample": "nearest"}, WAY),
    ("restv2_tiny", {"upsample": "bilinear"}, WAY),
    ("restv2_tiny", {"mhim": True, "style": "win"}, MHIM),
    ("restv2_tiny", {"mhim": True, "target": "k"}, VALUES),
    ("restv1_lite", {"attention": "msa"}, NO_BRANCH),
    ("pvt_tiny", {}, NO_BRANCH),
    ("pvt_tiny", {"attention": "msa"}, NO_BRANCH),
    ("pvt_tiny", {"attention": "emsav2"}, "without a depthwise reduction it is not EMSAv2, which {!r} runs"),
    ("focal_tiny", {}, "Focal-T has no EMSAv2 to run as {!r}"),
    ("swin_tiny", {}, "Swin-T has no EMSAv2 to run as {!r}"),
    ("convnext_tiny", {}, "ConvNeXt-T has no EMSAv2 to run as {!r}"),
    ("timm:resnet18", {}, "timm:resnet18 has no EMSAv2 to run as {!r}"),
    ("torch.nn:Identity", {}, "torch.nn:Identity has no EMSAv2 to run as {!r}"),
]


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize(("name", "options", "why"), REFUSED)
def test_who_refuses_it_says_why(name, options, why, impl):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are what is compared)
        models.build(name, impl=impl, **options)
    assert str(caught.value) == why.format(impl)


def test_of_the_named_models_both_families_take_it():
    for impl in FUSED:
        assert {name for name, config in MODELS.items() if runs(config, impl)} == {
            *RESTV1,
            *RESTV2,
            *CORES,
            *MLPS,
            *ATTENTIONS,
        }
    assert all(runs(config, "auto") for config in MODELS.values())
    assert all(runs(RESTV2["restv2_tiny"], "fused", pe=pe) for pe in ("none", "ape", "rpe", "peg", "pa"))


def test_parts_that_are_nobodys_options():
    assert reason(Request("fused", Switches())) is None
    assert (
        reason(Request("fused", Switches(reduction=None)))
        == "without a depthwise reduction it is not EMSAv2, which 'fused' runs"
    )
    assert reason(Request("auto", Switches(mhim=True))) is None


# ---- on a machine that cannot run it


@pytest.mark.parametrize("impl", FUSED)
def test_on_a_cpu_a_case_fails_with_the_reason_before_it_is_built(impl, monkeypatch):
    monkeypatch.setattr(preparing, "_compiler", lambda device: None)  # which is not what is in the way
    phases: list[str] = []
    with pytest.raises(ValueError, match=f"^{NO_CPU}$"):
        preparing.prepare(parse(f"restv2_lite@32:b1:fp32:{impl}"), 1, CPU, phases.append, preparing.Spent())
    assert phases == []


def test_a_dtype_that_it_does_not_take_is_the_reason():
    case = parse("restv2_lite@32:b1:fp64:fused")
    with pytest.raises(ValueError, match="takes fp32, fp16, bf16, not float64"):
        preparing.prepare(case, 1, torch.device("cuda"), lambda phase: None, preparing.Spent())


def test_the_model_itself_says_why_and_takes_nothing_else_instead():
    model = models.build("restv2_lite", impl="fused")
    with pytest.raises(RuntimeError, match=NO_CPU), torch.inference_mode():
        model(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("impl", ["fused", "fused+compile", "auto"])
def test_on_a_gpu_tritons_launcher_needs_a_compiler(impl, monkeypatch):
    monkeypatch.setattr(preparing, "_compiler", lambda device: None)
    monkeypatch.setattr(op, "why_not", lambda device, dtype: None)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        preparing.prepare(
            parse(f"restv2_lite@32:b1:fp32:{impl}"),
            1,
            torch.device("cuda"),
            lambda phase: None,
            preparing.Spent(),
        )
    assert str(caught.value).startswith(f"{impl} needs a C compiler for Triton's launcher")


def test_auto_needs_a_compiler_only_where_it_takes_the_kernel():
    assert preparing._takes_kernel(parse("restv2_lite:auto"))
    assert not any(
        preparing._takes_kernel(parse(text))
        for text in ("pvt_tiny:auto", "swin_tiny:auto", "timm:resnet18:auto", "restv2_lite:sdpa")
    )


# ---- auto


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize(
    ("name", "options", "same_as"),
    [
        ("restv2_lite", {}, "sdpa"),
        ("restv2_lite", {"target": "k"}, "sdpa"),
        ("restv2_lite", {"mhim": True}, "eager"),
        ("restv2_lite", {"branches": "convnet"}, "eager"),
        ("pvt_tiny", {"attention": "emsav2"}, "sdpa"),
        ("focal_tiny", {}, "sdpa"),
        ("swin_tiny", {}, "sdpa"),
        ("timm:resnet18", {}, "eager"),
    ],
)
def test_auto_on_a_cpu_is_the_next_best(name, options, same_as):
    image = torch.randn(1, 3, 64, 64)
    auto, other = (models.build(name, size=(64, 64), impl=impl, **options) for impl in ("auto", same_as))
    auto.load_state_dict(other.state_dict())
    with torch.inference_mode():
        assert torch.equal(auto(image), other(image))


@pytest.mark.usefixtures("small_models")
def test_auto_decides_when_it_runs(calls, monkeypatch):
    model, image = models.build("restv2_lite", impl="auto"), torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        taken = model(image)
        assert len(calls) == sum(RESTV2["restv2_lite"].depths)
        monkeypatch.setattr(op, "why_not", lambda device, dtype: "not today")
        apart = model(image)
    assert len(calls) == sum(RESTV2["restv2_lite"].depths)
    assert torch.allclose(taken, apart, atol=1e-5)


@pytest.mark.usefixtures("small_models")
def test_auto_asks_for_the_dtype_that_autocast_will_cast_to(calls, monkeypatch):
    asked = []

    def why_not(device, dtype):
        asked.append(dtype)
        return "not today"

    monkeypatch.setattr(op, "why_not", why_not)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        models.build("restv2_lite", impl="auto")(torch.randn(1, 3, 32, 32))
    assert set(asked) == {torch.bfloat16}
    assert not calls


def test_auto_leaves_heads_alone_that_the_kernel_does_not_take(calls):
    from models.attention import Attention

    attention = Attention(6, 2, 2, impl="auto")
    assert attention(torch.zeros(1, 6, 6), (2, 3)).shape == (1, 6, 6)
    assert not calls


# ---- what the model gives it, and what it counts


@pytest.mark.parametrize("options", [{}, {"pe": "rpe"}])
def test_the_kernel_is_given_what_the_reference_is(calls, options):
    """Both branches in one call, a block; `branches` still has each for itself."""
    size, image = (40, 72), torch.randn(2, 3, 40, 72)
    eager, fused = (
        models.build("restv2_lite", size=size, impl=impl, **options) for impl in ("eager", "fused")
    )
    for parameter in eager.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    fused.load_state_dict(eager.state_dict())
    with torch.inference_mode():
        assert torch.allclose(fused.double()(image.double()), eager.double()(image.double()), atol=1e-9)
    assert calls == [(10, 18)] * 2 + [(5, 9)] * 2 + [(3, 5)] * 2 + [(2, 3)] * 2
    tokens = torch.randn(1, 180, 64, dtype=torch.float64)
    with torch.inference_mode():
        theirs, its = (model.stage1[0].attn.branches(tokens, (10, 18)) for model in (eager, fused))
    assert all(map(torch.equal, theirs, its))
    assert len(calls) == 8


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize(
    ("size", "impl"),
    swept(
        itertools.product(("224", "100x60"), ("fused", "fused+compile", "auto")),
        lambda each: each != ("224", "fused+compile"),
    ),
)  # the second size is cropped in three stages
def test_nominal_macs_are_eagers(size, impl):
    eager, fused = (macs.count(parse(f"restv2_lite@{size}:{each}")) for each in ("eager", impl))
    assert fused.parameters == eager.parameters
    assert not fused.uncounted
    for convention in BY_CALL:
        assert fused.by_operator(convention) == eager.by_operator(convention)
        # of 64 and 128 channels in a small model; the others have fewer, which the kernel does not take
        assert fused.by_module(convention) == whole_mlps(eager.by_module(convention), "stage3", "stage4")
    (check,) = fused.cross_checks
    assert check["macs"] == check["ours"]


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("text", ["restv1_lite@64x96", "restv2_lite[mhim]@64x96"])
def test_nominal_macs_of_mhim_are_eagers(text):
    """In stages 2 to 4; the first has one head, and so no MHIM, which ResTv1 runs as eager has it."""
    eager, fused = (macs.count(parse(f"{text}:{impl}")) for impl in ("eager", "fused"))
    assert not fused.uncounted
    for convention in BY_CALL:
        assert fused.by_operator(convention) == eager.by_operator(convention)
        theirs, its = (whole_attentions(whole_mlps(x.by_module(convention))) for x in (eager, fused))
        assert its == theirs
    (check,) = fused.cross_checks
    assert check["macs"] == check["ours"]


@pytest.mark.parametrize(
    ("name", "options", "first"),
    [("restv1_lite", {}, None), ("restv2_lite", {"mhim": True}, "emsa_upsample")],
)
def test_the_kernel_of_mhim_is_for_several_heads(name, options, first, monkeypatch):
    monkeypatch.setattr(op, "why_not", lambda device, dtype: None)
    for impl in ("fused", "auto"):
        model = models.build(name, impl=impl, **options)
        ran = [getattr(model, f"stage{stage}")[0].attn.kernel(CPU, torch.float32) for stage in (1, 2, 3, 4)]
        assert ran == [first, "mhim", "mhim", "mhim"]


@pytest.mark.usefixtures("small_models")
def test_the_count_is_of_the_operator_and_not_of_eager_again(monkeypatch):
    monkeypatch.setitem(counter.SEVERAL, "restv2::emsa_upsample", lambda call, out: [])
    monkeypatch.setattr(macs, "_seen", counter.Seen())  # what was counted before has the operator's own costs
    for impl in FUSED:
        assert "matmul" not in macs.count(parse(f"restv2_lite@64:{impl}")).by_operator("core")


def test_fvcore_traces_eager_in_its_place():
    case = parse("restv2_lite@64x96:fused")
    assert macs.fvcore_check(case, counts := macs.count(case))["macs"] == counts.macs("fvcore")


@pytest.mark.usefixtures("small_models")
def test_fused_compile_is_fused_in_a_single_graph():
    """Captured with meta weights, as nothing else runs here."""
    targets: list[str] = []

    def backend(graph, inputs):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    with torch.device("meta"):
        model = models.build("restv2_lite", impl=COMPILED["fused+compile"])
    with torch.inference_mode():
        logits = models.compiled(model, backend=backend)(torch.empty(1, 3, 64, 64, device="meta"))
    assert logits.shape == (1, 1000)
    assert sum("emsa_upsample" in target for target in targets) == sum(RESTV2["restv2_lite"].depths)
