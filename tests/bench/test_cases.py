"""A case's text: what is taken, what is printed, and one clear line for everything else."""

import json
from dataclasses import asdict, replace
from itertools import product

import pytest

from bench import cases
from bench.cases import DTYPES, IMPLS, MAX_BATCH, MAX_SIDE, MODES, RULES, Case, Mix, format_size, parse
from bench.errors import UsageError
from models.switches import FUSED
from models.variants import MODELS

# Cases as they are written, and one text for each thing that can be left out.
PARSED = {
    "restv2_tiny": Case("restv2_tiny"),
    "restv2_tiny[mhim]@384:b64:fp16:eager": Case(
        "restv2_tiny", (("mhim", True),), (384, 384), 64, "fp16", "eager"
    ),
    "restv2_tiny@800x1344:b1": Case("restv2_tiny", size=(800, 1344), batch=1),
    "restv2_tiny[style=win]@800x1344:b1": Case("restv2_tiny", (("style", "win"),), size=(800, 1344), batch=1),
    "restv2_tiny:b8": Case("restv2_tiny", batch=8),
    "restv2_tiny:compile": Case("restv2_tiny", impl="compile"),
    "restv2_tiny:fused": Case("restv2_tiny", impl="fused"),
    "restv2_tiny@384:b2:fused+compile": Case("restv2_tiny", size=(384, 384), batch=2, impl="fused+compile"),
    "nets:Net:auto": Case("nets:Net", impl="auto"),
    "restv2_tiny[channels_last]": Case("restv2_tiny", (("channels_last", True),)),
    "restv2_tiny:infer:sdpa:fp16:b2": Case("restv2_tiny", batch=2, dtype="fp16", impl="sdpa"),  # in any order
    "swin_tiny@800x1344:b1": Case("swin_tiny", size=(800, 1344), batch=1),
    "timm:vit_small_patch16_224": Case("timm:vit_small_patch16_224"),
    "timm:vit_small_patch16_224:compile": Case("timm:vit_small_patch16_224", impl="compile"),
    "timm:vit_small_patch16_224.augreg_in1k@384:sdpa": Case(
        "timm:vit_small_patch16_224.augreg_in1k", size=(384, 384), impl="sdpa"
    ),
    "timm:vit_base_patch16_384": Case("timm:vit_base_patch16_384", size=(384, 384)),
    "timm:convnext_tiny.fb_in22k_ft_in1k": Case("timm:convnext_tiny.fb_in22k_ft_in1k"),
    "timm:convnext_tiny.fb_in22k_ft_in1k_384:b2": Case(
        "timm:convnext_tiny.fb_in22k_ft_in1k_384", size=(384, 384), batch=2
    ),
    "timm:vit_5b_patch16_sapiens2": Case("timm:vit_5b_patch16_sapiens2", size=(1024, 768)),
    "timm:vit_tiny_patch16_384[dynamic_img_size]@coco": Case(
        "timm:vit_tiny_patch16_384", (("dynamic_img_size", True),), (384, 384), mix=Mix("coco")
    ),
    "nets:Net[inputs=1x28x32+10]": Case("nets:Net", (("inputs", "1x28x32+10"),), size=(28, 32)),
    "nets:Net[inputs=10]": Case("nets:Net", (("inputs", "10"),)),
    "nets:Net[inputs=3x8x112x112]@64": Case("nets:Net", (("inputs", "3x8x112x112"),), size=(64, 64)),
    "my_package.nets:Net@224": Case("my_package.nets:Net"),
    "my_package.nets:Net": Case("my_package.nets:Net"),
    "restv2_tiny@224:b64:bf16:train": Case("restv2_tiny", batch=64, dtype="bf16", mode="train"),
    "timm:vit_small_patch16_224:train": Case("timm:vit_small_patch16_224", mode="train"),
    "restv2_tiny[autocast]:fp16:compile:train": Case(
        "restv2_tiny", (("autocast", True),), dtype="fp16", impl="compile", mode="train"
    ),
    "nets:Net:b4:bf16": Case("nets:Net", batch=4, dtype="bf16"),
    "  restv2_tiny@224x224 \n": Case("restv2_tiny"),
    "restv2_tiny[ mhim , channels_last ]": Case(
        "restv2_tiny", (("channels_last", True), ("mhim", True))
    ),  # printed in one order, however they were written
    "restv2_lite[weights=/data/a b:c@d=e.pth]": Case("restv2_lite", (("weights", "/data/a b:c@d=e.pth"),)),
}


@pytest.mark.parametrize(("text", "case"), PARSED.items())
def test_text_becomes_this_case(text, case):
    assert parse(text) == case


@pytest.mark.parametrize("case", PARSED.values(), ids=str)
def test_printed_case_parses_to_itself(case):
    assert parse(str(case)) == case
    assert str(parse(str(case))) == str(case)


def options_of(model: str) -> list[str]:
    own = []
    if model in MODELS and "mhim" in MODELS[model].options:
        own = [
            "mhim",
            "weights=w.pth",
            "mhim,weights=w.pth",
            "attention=msa",
            "pe=rpe,target=k,upsample=nearest",
        ]
    heads = ["head=upernet"] if model in MODELS else []
    return ["", *own, *heads, "channels_last", "autocast"]


CAN_BE_FUSED = {"", "weights=w.pth", "head=upernet", "channels_last", "autocast"}


def test_every_combination_of_parts_parses_and_prints_back():
    models = ["restv2_tiny", "swin_base", "regnety_4g", "timm:resnet50", "a.b:Net"]
    tried = 0
    for model, size, batch, dtype, impl, mode in product(
        models, ("", "@32", "@800x1344"), ("", "b1", "b256"), ("", *DTYPES), ("", *IMPLS), ("", *MODES)
    ):
        for options in options_of(model):
            no_attention = model in ("regnety_4g", "a.b:Net") and impl == "sdpa"
            no_emsav2 = impl in FUSED and (
                model != "restv2_tiny" or not CAN_BE_FUSED.issuperset(options.split(","))
            )
            if no_attention or no_emsav2 or (options == "autocast" and dtype in ("fp32", "fp64")):
                continue
            if ("mhim" in options and impl == "sdpa") or ("head" in options and mode == "train"):
                continue
            if mode == "train" and dtype == "fp16" and options != "autocast":
                continue
            fields = [part for part in (batch, dtype, impl, mode) if part]
            text = ":".join([f"{model}{f'[{options}]' if options else ''}{size}", *fields])
            case = parse(text)
            assert parse(str(case)) == case, text
            assert (case.batch, case.dtype) == (int(batch[1:]) if batch else None, dtype or None), text
            assert (case.impl, case.mode) == (impl or "eager", mode or "infer"), text
            tried += 1
    assert tried > 3000


@pytest.mark.parametrize("size", ["32", "33x32", f"{MAX_SIDE}", f"32x{MAX_SIDE}"])
def test_sizes_at_the_limits_are_taken(size):
    assert format_size(parse(f"restv2_tiny@{size}").size) == size


def test_a_users_model_may_take_one_pixel_and_the_largest_batch():
    case = parse(f"nets:Net@1:b{MAX_BATCH}")
    assert case.size == (1, 1)
    assert case.batch == MAX_BATCH


# --- Errors: one line that names the part, what is allowed there, and the nearest name -------------------

WRONG = {
    # a model
    "": ["not a case"],
    "@224": ["not a case", "'@224'"],
    "[mhim]": ["not a case"],
    "restv2_tyni": ["unknown model 'restv2_tyni'", "did you mean 'restv2_tiny'?"],
    "restv2_tyni:fp16": ["unknown model 'restv2_tyni'", "did you mean 'restv2_tiny'?"],
    "restv2_tyni:Net": ["unknown model 'restv2_tyni'", "did you mean 'restv2_tiny'?"],
    "zzz": ["unknown model 'zzz'", "there are: restv2_tiny", "swin_base", "module:Class", "timm:NAME"],
    "timm": ["unknown model 'timm'"],
    "timm:": ["empty part"],
    "timm:a\nb": ["unknown model"],
    "nets:not a class": ["unknown model 'nets:not a class'"],
    "nets:9Net": ["unknown model 'nets:9Net'"],
    # options
    "restv2_tiny[mihm]": ["unknown option 'mihm' of restv2_tiny", "did you mean 'mhim'?"],
    "swin_tiny[mhim]": ["unknown option 'mhim' of swin_tiny", "there are: head, detections, autocast"],
    "restv2_tiny[style=wim]": ["unknown value 'wim' of style", "did you mean 'win'?"],
    "restv2_tiny[style]": ["option 'style' is written style=global|win|cwin|hwin, not 'style'"],
    "restv2_tiny[pe=rpe,style=win]": ["RPE is learnt for the keys of a whole map"],
    "restv1_lite[style=win]": ["unknown option 'style' of restv1_lite"],
    "pvt_tiny[style=win]": ["unknown option 'style' of pvt_tiny"],
    "nets:Net[mhim]": ["unknown option 'mhim' of nets:Net"],
    "restv2_tiny[]": ["unknown option ''"],
    "restv2_tiny[mhim,]": ["unknown option ''"],
    "restv2_tiny[mhim=yes]": ["option 'mhim' is written mhim, not 'mhim=yes'"],
    "restv2_tiny[weights]": ["option 'weights' is written weights=FILE, not 'weights'"],
    "restv2_tiny[weights=]": ["option 'weights' is written weights=FILE, not 'weights='"],
    "restv2_tiny[mhim,mhim]": ["option 'mhim' stands twice"],
    "restv2_tiny[mhim": ["not a case"],
    "restv2_tiny[mhim]384": ["not a case"],
    "restv2_tiny:b64[mhim]": ["options and size stand right after the model: restv2_tiny[...]@..."],
    "restv2_tiny:b64@384": ["options and size stand right after the model"],
    # sizes
    "restv2_tiny@": ["size ''", "neither N nor HEIGHTxWIDTH"],
    "restv2_tiny@big": ["size 'big'"],
    "restv2_tiny@224x": ["size '224x'"],
    "restv2_tiny@224x224x3": ["size '224x224x3'"],
    "restv2_tiny@-32": ["size '-32'"],
    "restv2_tiny@31": ["size 31", "restv2_tiny takes 32 to 16384 pixels a side"],
    "restv2_tiny@224x31": ["size 224x31"],
    "restv2_tiny@16385": ["size 16385"],
    "nets:Net@0": ["size 0", "1 to 16384"],
    # batches
    "restv2_tiny:b0": ["batch 0", "not between 1 and 65536"],
    "restv2_tiny:b65537": ["batch 65537"],
    "restv2_tiny:b": ["unknown part 'b'"],
    "restv2_tiny:b-1": ["unknown part 'b-1'"],
    # the other parts
    "restv2_tiny:fp116": ["unknown part 'fp116'", "did you mean 'fp16'?"],
    "restv2_tiny:egaer": ["unknown part 'egaer'", "did you mean 'eager'?"],
    "restv2_tiny:trian": ["unknown part 'trian'", "did you mean 'train'?"],
    "restv2_tiny:qqqq": ["unknown part 'qqqq'", "there are: fp32"],
    "restv2_tiny:FP16": ["unknown part 'FP16'"],
    "restv2_tiny:fp16:fp32": ["two values for the dtype"],
    "restv2_tiny:b1:b2": ["two values for the batch"],
    "restv2_tiny:eager:sdpa": ["two values for the impl"],
    "restv2_tiny:fp16:fp16": ["two values for the dtype"],
    "restv2_tiny::fp16": ["empty part"],
    "restv2_tiny:fp16:": ["empty part"],
    "restv2_tiny@224:": ["empty part"],
    "restv2_tiny@224::fp16": ["empty part"],
    "nets:Net:Other": ["unknown part 'Other'"],
    # the whole
    "convnext_tiny:sdpa": ["ConvNeXt-T has no attention to run as 'sdpa'", "eager, compile"],
    "restv2_tiny[mhim]:sdpa": [
        "MHIM works on the attention map, which 'sdpa' never forms",
        "eager, compile or fused",
    ],
    "restv2_tiny[branches=convnet]:sdpa": ["a ConvNet has no attention"],
    "restv2_tiny[target]": ["option 'target' is written target=none|x|k|v, not 'target'"],
    "restv2_tiny[pe=appe]": ["unknown value 'appe' of pe", "did you mean 'ape'?"],
    "restv2_tiny[attention=emsa,target=k]": ["attention=emsa and target=k contradict each other"],
    "restv2_tiny[target=none,upsample=nearest]": ["there is nothing to upsample"],
    "restv2_lite[branches=convnetv2]": ["has the paper's depths for ResTv2-T, not ResTv2-Lite"],
    "restv1_lite:sdpa": ["MHIM works on the attention map"],
    "restv2_tiny:fuse": ["unknown part 'fuse'", "did you mean 'fused'?"],
    "restv2_tiny:fused:compile": ["two values for the impl"],
    "restv2_tiny[target=k]:fused": ["'fused' upsamples the values, as EMSAv2 does, and nothing else"],
    "restv1_lite[attention=msa]:fused": ["without an upsample branch there is no EMSAv2 to run as 'fused'"],
    "swin_tiny:fused": ["Swin-T has no EMSAv2 to run as 'fused'"],
    "timm:vit_small_patch16_224:fused": ["timm:vit_small_patch16_224 has no EMSAv2 to run as 'fused'"],
    "nets:Net[inputs=1x28y28]": ["inputs=1x28y28: it takes shapes of one image, as 1x28x28 or 3x224x224+10"],
    "nets:Net[inputs=0x28]": ["it takes shapes of one image"],
    "timm:resnet18[inputs=1x28x28]": ["unknown option 'inputs' of timm:resnet18"],
    "nets:Net:fused+compile": ["nets:Net has no EMSAv2 to run as 'fused+compile'"],
    "nets:Net:sdpa": ["nets:Net brings its own attention"],
    "restv2_tiny[autocast]:fp32": ["autocast is for fp16 and bf16, not fp32"],
    "restv2_tiny[autocast]:fp64": ["autocast is for fp16 and bf16, not fp64"],
    "restv2_tiny:fp16:train": ["write restv2_tiny[autocast]@224:fp16:eager:train, or bf16 instead"],
    "restv2_tiny[channels_last,mhim]@384:fp16:b2:compile:train": [
        "write restv2_tiny[autocast,channels_last,mhim]@384:b2:fp16:compile:train, or bf16"
    ],
    "restv2_tiny:train:infer": ["two values for the mode"],
    # text that nobody would type
    "restv2_tiny:b1\n:fp32": ["unknown part 'b1\\n'"],
    "restv2_tiny@224\n:b1": ["size '224\\n'"],
    "réstv2_tiny": ["unknown model"],
    "\u0440\u0435st\u200bv2:\U0001f4a5": ["unknown model"],
    "restv2_tiny:\x00": ["unknown part '\\x00'"],
    "restv2_tiny:b\u0663": ["unknown part"],  # a digit, but not one that an expression or a shell takes
    "restv2_tiny@\u0663\u0663\u0663": ["neither N nor HEIGHTxWIDTH"],
    "restv2_tiny:b" + "9" * 5000: ["batch 999"],  # more digits than int() takes
    "restv2_tiny@" + "9" * 5000: ["size 999"],
    "restv2_tiny:" * 5000: ["empty part"],
    "a" * 100_000: ["unknown model"],
    "[" * 10_000: ["not a case"],
}


@pytest.mark.parametrize(("text", "expected"), WRONG.items(), ids=lambda value: ascii(value)[:40])
def test_a_wrong_text_is_one_line_that_says_what_is_wrong(text, expected):
    with pytest.raises(UsageError) as caught:
        parse(text)
    message = str(caught.value)
    assert [part for part in expected if part not in message] == []
    assert message.isprintable()  # one line, and nothing a terminal would act on


def test_a_wrong_part_is_reported_with_the_whole_text_it_stood_in():
    for text in (
        "restv2_tiny@224:b0",
        "restv2_tyni@224",
        "restv2_tiny[x]@224",
        "restv2_tiny@1",
        "swin_tiny:qqqq",
    ):
        with pytest.raises(UsageError) as caught:
            parse(text)
        assert repr(text) in str(caught.value)


# --- What a case is used for -----------------------------------------------------------------------------


def test_resolve_fills_in_only_what_is_open():
    assert str(parse("restv2_tiny").resolve(64, "fp16")) == "restv2_tiny@224:b64:fp16:eager"
    assert str(parse("restv2_tiny@384:b2:fp32:sdpa").resolve(64, "fp16")) == "restv2_tiny@384:b2:fp32:sdpa"
    assert str(parse("nets:Net").resolve(1, "fp32")) == "nets:Net@224:b1:fp32:eager"


def test_resolved_text_parses_to_the_resolved_case():
    for text in PARSED:
        resolved = parse(text).resolve(3, "bf16")
        assert parse(str(resolved)) == resolved


def test_cases_are_keys_and_survive_json():
    cases = [parse(text) for text in PARSED]
    assert len({*cases}) == len({str(case) for case in cases})
    for case in cases:
        assert json.loads(json.dumps(asdict(case)))["model"] == case.model
        assert json.loads(json.dumps(str(case))) == str(case)


def test_the_models_options_are_those_that_build_takes():
    case = parse("restv2_lite[autocast,channels_last,mhim,weights=w.pth]:fp16")
    assert case.model_options == {"mhim": True, "weights": "w.pth"}
    assert case.has("autocast")
    assert not parse("restv2_lite").has("autocast")


def test_titles_are_the_papers():
    assert parse("restv2_tiny[mhim]").title == "ResTv2-T [mhim]"
    assert parse("restv2_tiny[weights=w.pth]").title == "ResTv2-T [weights=w.pth]"
    assert parse("nets:Net").title == "nets:Net"
    assert (parse("swin_base").family, parse("timm:resnet50").family) == ("Swin", "other")


# --- what cannot be run -----------------------------------------------------------------------------------

# A case that breaks each rule and no earlier one, in the rules' order.
BREAKS = {
    "run": (
        *("nets:Net:sdpa", "swin_tiny[autocast]:fp64", "restv2_tiny[sdpa=flash]"),
        *("restv2_tiny[graph]:train", "restv2_tiny[graph]@coco", "restv2_tiny@coco:train", "swin_tiny@coco"),
        *("nets:Net[inputs=1x28x28]@coco", "core_tiny@coco"),
        *(
            "restv2_tiny[head=upernet]:train",
            "restv2_tiny[graph,head=mask_rcnn]",
            "restv2_tiny[head=mask_rcnn]@32",
        ),
        *("core_tiny:train", "core_tiny[channels_last]", "restv2_tiny:fp16:train"),
    ),
    "time": ("restv2_tiny[images=x]",),
    "profile": ("core_tiny[cold]",),
    "trace": ("restv2_tiny@coco", "restv2_tiny[head=mask_rcnn]"),
    "compare": ("restv2_tiny[cold]",),
    "analyse": (
        *(
            "restv2_tiny@coco",
            "restv2_tiny:train",
            "restv2_tiny:compile",
            "core_tiny",
            "restv2_tiny[head=upernet]",
        ),
    ),
}


def unchecked(text: str, monkeypatch: pytest.MonkeyPatch) -> Case:
    with monkeypatch.context() as patch:
        patch.setattr(cases, "check", lambda case, purpose, text: None)
        return parse(text)


@pytest.mark.parametrize("purpose", RULES)
def test_every_rule_is_broken_by_a_case_that_breaks_no_earlier_one(purpose, monkeypatch):
    assert BREAKS.keys() == RULES.keys()
    for text, rule in zip(BREAKS[purpose], RULES[purpose], strict=True):
        case = unchecked(text, monkeypatch)
        assert next(other for other in RULES[purpose] if other.breaks(case)) is rule, text
        with pytest.raises(UsageError) as caught:
            cases.check(case, purpose, text)
        line = str(caught.value)
        assert "{" not in line and "\n" not in line
        if purpose != "compare":
            assert text in line or str(case) in line


def test_a_case_that_keeps_the_rules_passes():
    for purpose in RULES:
        cases.check(parse("restv2_tiny@64:b2"), purpose)


# --- views ------------------------------------------------------------------------------------------------


def test_an_option_is_text_and_empty_where_it_is_not_there():
    case = parse("restv2_tiny[mhim,style=win,images=folder]")
    assert (case.option("style"), case.option("images"), case.option("mhim")) == ("win", "folder", "True")
    assert (case.option("pe"), case.option("head", "classifier")) == ("", "classifier")


def test_the_papers_name_of_a_case_has_its_model_its_options_and_its_size():
    texts = {
        "restv2_tiny": "restv2_tiny@224",
        "restv2_tiny@384:b64:fp16:sdpa": "restv2_tiny@384",
        "restv2_lite[mhim,attention=emsa]": "restv2_lite[attention=emsa,mhim]@224",
        "restv2_tiny[channels_last,target=k]:compile": "restv2_tiny[target=k]@224",
        "restv2_tiny[autocast]:fp16:train": "restv2_tiny@224",
    }
    assert {text: parse(text).paper_name for text in texts} == texts


def test_how_a_case_is_run_changes_neither_its_mathematics_nor_its_name_in_the_paper():
    plain = parse("restv2_tiny[mhim]@384")
    assert plain.paper_name == "restv2_tiny[mhim]@384"
    for text in (
        *("restv2_tiny[mhim,cold]@384:b4:fp16", "restv2_tiny[channels_last,mhim]@384:compile"),
        *("restv2_tiny[mhim]@384:fp32:train", "restv2_tiny[images=x,mhim]@384:b1"),
    ):
        case = parse(text)
        assert case.mathematics == plain.mathematics
        assert case.paper_name == plain.paper_name
        assert case.without_run == plain
    for text in (
        "restv2_tiny@384",
        "restv2_tiny[mhim]@224",
        "restv2_small[mhim]@384",
        "restv2_tiny[mhim]@coco",
    ):
        assert parse(text).mathematics != plain.mathematics
        assert parse(text).paper_name != plain.paper_name


def test_a_mix_goes_by_its_images_and_not_by_the_shapes_that_stand_for_them():
    many, few = parse("restv2_tiny@coco500~16:b1"), parse("restv2_tiny@coco500~1")
    assert many.mathematics == few.mathematics
    assert many.paper_name == few.paper_name == "restv2_tiny@coco500~8"
    assert many.without_run != few.without_run


def test_a_case_left_open_again_is_the_case_before_it_was_resolved():
    case = parse("restv2_tiny:sdpa:train")
    assert case.resolve(8, "bf16").left_open == case


def test_views_are_made_once_and_belong_to_neither_equality_nor_hash():
    case, other = parse("restv2_tiny[mhim]"), parse("restv2_tiny[mhim]")
    assert case.paper_name is case.paper_name and str(case) is str(case)
    assert case == other and hash(case) == hash(other)
    assert replace(case, size=(32, 32)).paper_name == "restv2_tiny[mhim]@32"


@pytest.mark.parametrize("module", ["resnet", "swin", "core"])
def test_a_users_module_that_is_there_is_no_misspelt_model(tmp_path, monkeypatch, module):
    with pytest.raises(UsageError, match="unknown model"):
        parse(f"{module}:Net")
    (tmp_path / f"{module}.py").write_text("raise RuntimeError('it is looked for, and not imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert parse(f"{module}:Net").is_users
