"""The ablations as data: every combination of options runs or is refused, and every rule of refusal is needed."""

import re
from itertools import combinations as combinations_of

import pytest
import torch

import models
from models.rest import Block
from models.switches import HEADS, IMPLS, RESTV2_OPTIONS, RULES, Switches, assembled, check, refusal
from models.variants import MODELS, config_of
from tests.support.ablations import SMALL, SMALL_PVT, SMALL_V1, combinations, window_of
from tests.support.sweeps import sweep


@sweep
def test_every_combination_runs_or_says_why_not():
    """Heads are left out: they stand on a model whatever its switches are."""
    reasons: set[str] = set()
    kinds: dict[Switches, dict] = {}
    for options in combinations(
        {name: RESTV2_OPTIONS[name] for name in RESTV2_OPTIONS.keys() - HEADS.keys()}
    ):
        if why := refusal(SMALL, "eager", options):
            reasons.add(why)
        else:
            kinds.setdefault(assembled(SMALL, options), options)
    assert any("contradict each other" in reason for reason in reasons)
    assert len(kinds) > 100
    for switches, options in kinds.items():
        with torch.device("meta"), torch.inference_mode():
            block = Block(8, 2, 2, 1, switches=switches, size=(5, 9), window=window_of(switches))
            assert block(torch.empty(1, 45, 8), (5, 9)).shape == (1, 45, 8), options


def at_most_two(options):
    """Every choice of up to two values, of different options."""
    values = [
        (name, value)
        for name, option in options.items()
        for value in (option.values or (["0", "100"] if option.takes else [True]))
    ]
    yield {}
    for first, second in combinations_of(values, 2):
        yield dict([first])
        yield dict([first, second])


def test_every_rule_is_the_reason_for_something():
    """A rule that an earlier one always forestalls, or that nothing can break, would be dead."""
    one_of_a_kind = ("restv2_tiny", "restv2_large", "restv1_lite", "pvt_tiny", "focal_tiny", "attention_tiny")
    reasons = {
        why
        for name in (*one_of_a_kind, "core_tiny", "resnet50", "swin_tiny")
        for options in at_most_two(MODELS[name].options)
        for impl in IMPLS
        if (why := refusal(MODELS[name], impl, options))
    }
    reasons.add(str(refusal(config_of("nets:Net"), "eager", {"inputs": "1x"})))
    for _, why in RULES:
        words = ".*".join(map(re.escape, re.split(r"{[^}]*}", why)))
        assert any(re.fullmatch(words, reason) for reason in reasons), why


@pytest.mark.parametrize("name", [*MODELS, "timm:resnet18", "torch.nn:Identity"])
def test_check_raises_what_refusal_says(name):
    for impl in IMPLS:
        why = refusal(config_of(name), impl, {})
        if why is None:
            check(config_of(name), impl, {})
        else:
            with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
                check(config_of(name), impl, {})


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"attention": "emsa", "target": "k"}, "attention=emsa and target=k contradict each other"),
        ({"branches": "convnet", "attention": "emsa"}, "neither an attention nor an upsample branch"),
        ({"branches": "convnet", "mhim": True}, "MHIM works on the attention map, and a ConvNet has none"),
        ({"branches": "convnet", "target": "k"}, "no keys to upsample"),
        ({"branches": "convnet", "pe": "rpe"}, "RPE is added to the keys"),
        ({"target": "none", "upsample": "nearest"}, "nothing to upsample"),
        ({"branches": "convnet", "style": "win"}, "a ConvNet attends to nothing"),
        ({"pe": "rpe", "style": "hwin"}, "RPE is learnt for the keys of a whole map"),
        ({"style": "windows"}, "there is no 'windows'; there are global, win, cwin, hwin"),
        ({"attention": "emsav3"}, "there is no 'emsav3'; there are msa, sra, emsa, emsav2"),
        ({"stem": "pool"}, "ResTv2-T takes no option stem"),
    ],
)
def test_what_makes_no_sense_is_refused(options, why):
    with pytest.raises(ValueError, match=why):
        models.build("restv2_tiny", **options)


def test_the_deeper_convnets_are_of_resTv2_t():
    with pytest.raises(ValueError, match="has the paper's depths for ResTv2-T, not ResTv2-L"):
        models.build("restv2_large", branches="convnetv3")


@pytest.mark.parametrize("options", [{"branches": "convnet"}, {"mhim": True}])
def test_sdpa_says_why_it_cannot(options):
    with pytest.raises(ValueError, match="'sdpa'"):
        models.build("restv2_tiny", impl="sdpa", **options)


def test_mhim_cannot_run_without_the_attention_map():
    with pytest.raises(ValueError, match="MHIM works on the attention map"):
        models.build("restv2_lite", mhim=True, impl="sdpa")


def test_every_choice_has_a_default_that_changes_nothing():
    """A table of variants can then name its default row as it names the others."""
    for model in (SMALL, SMALL_V1, SMALL_PVT):
        for name, option in model.options.items():
            if option.values and name not in HEADS:
                same = [value for value in option.values if assembled(model, {name: value}) == model.switches]
                assert len(same) == 1, (model.title, name)
