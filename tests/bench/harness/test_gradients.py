"""Gradients are checked before a step is timed: no time without a pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import models
from bench import describe as words
from bench.errors import Wrong
from bench.harness import inputs, training
from bench.harness import prepare as preparing
from bench.harness.gradients import gradient_errors, gradients_within
from bench.harness.training import Gradients
from tests.support.sweeps import sweep
from tests.support.trained_nets import prepared, step_of

pytestmark = pytest.mark.usefixtures("nets")


def test_of_two_tensors_the_smaller_counts():
    """The mean of the two would hide the smaller behind the larger."""
    assert gradient_errors(gradients_of(a=100.0, b=2.0), gradients_of(a=100.0, b=1.0))["b"] == 1


def gradients_of(loss: float = 1.0, **values: float) -> Gradients:
    return Gradients(loss, {name: torch.tensor([value, 0.0]) for name, value in values.items()})


def test_an_error_is_a_share_of_the_tensors_norm_or_of_the_median_tensors():
    expected = gradients_of(large=100.0, usual=1.0, tiny=1e-9)
    found = gradients_of(large=101.0, usual=0.75, tiny=1e-9 + 1e-3)
    errors = gradient_errors(found, expected)
    assert errors == pytest.approx({"large": 0.01, "usual": 0.25, "tiny": 1e-3}, rel=1e-5)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (gradients_of(a=100.0, b=1.5, c=1.0), "the gradient of b differs from eager by 5.00e-01"),
        (gradients_of(a=100.0, b=math.nan, c=9.0), "the gradient of b differs from eager by nan"),
        (gradients_of(a=100.0, b=math.inf, c=9.0), "the gradient of b differs from eager by inf"),
        (gradients_of(a=100.0, b=1.0), "no gradient reaches c, unlike in eager"),
        (gradients_of(a=100.0, b=1.0, c=1.0, d=0.0), "a gradient reaches d, unlike in eager"),
        (gradients_of(1.1, a=100.0, b=1.0, c=1.0), "the loss differs from eager by 1.00e-01"),
        (gradients_of(math.nan, a=100.0, b=1.0, c=1.0), "the loss differs from eager by nan"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_gradient_is_named(found, said):
    expected = gradients_of(a=100.0, b=1.0, c=1.0)
    with pytest.raises(Wrong, match=said):
        gradients_within(found, expected, 0.1, 0.01, "eager")
    assert gradients_within(expected, expected, 0.1, 0.01, "eager")["error"] == 0


OURS = [
    "restv2_lite@32:b2:fp32:train",
    "restv2_lite[channels_last]@32:b2:fp32:sdpa:train",
    "restv2_lite@32:b2:bf16:train",
    "restv2_lite[autocast]@32:b2:bf16:train",
    "restv2_lite[autocast]@32:b1:fp16:train",
    "restv2_lite@32:b1:fp64:sdpa:train",
]


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("text", OURS)
def test_ours_are_within_eagers_own_error_of_fp64_in_every_precision(text):
    within_bounds(text)


@pytest.mark.parametrize(
    "text", [OURS[0], *(pytest.param(text, marks=pytest.mark.trials) for text in OURS[1:])]
)
def test_the_bounds_hold_for_a_model_of_full_width(text):
    within_bounds(text)


def within_bounds(text):
    it = prepared(text)
    assert it.check["against"] == "eager in fp64"
    assert "of the gradient of" in words.check(it.check)
    assert it.notes == []
    assert all(math.isfinite(step_of(it)().item()) for _ in range(2))
    assert it.finish() == [] or ":fp16:" in text  # whose gradients may overflow again


def compile_through(monkeypatch, backend: str) -> None:
    compiled = models.compiled
    monkeypatch.setattr(models, "compiled", lambda model: compiled(model, backend=backend))
    monkeypatch.setattr(preparing, "_compiler", lambda device: "c++")
    torch.compiler.reset()


@sweep
@pytest.mark.usefixtures("small_models")
def test_our_models_compile_into_a_single_graph_in_training_mode_too(monkeypatch):
    compile_through(monkeypatch, "eager")
    breaks = torch._dynamo.utils.counters["graph_break"]
    before = dict(breaks)  # those of tests that ran in this process before
    it = prepared("restv2_lite@32:b2:fp32:compile:train")
    assert it.check["against"] == "eager in fp64"
    assert step_of(it).model.training
    assert dict(breaks) == before


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("DoubledWhenCompiled", "the gradient of weight differs from its own eager by"),
        ("DetachedWhenCompiled", "no gradient reaches bias, unlike in its own eager"),
        ("Net", None),
    ],
)
def test_a_compiled_peer_is_held_against_its_own_eager(monkeypatch, model, said):
    compile_through(monkeypatch, "aot_eager")
    if said is None:
        assert prepared(f"trained_nets:{model}@8:b3:fp32:compile:train").check["against"] == "its own eager"
        return
    with pytest.raises(Wrong, match=said):
        prepared(f"trained_nets:{model}@8:b3:fp32:compile:train")


def test_a_wrong_gradient_of_a_right_output_is_not_timed(monkeypatch, nets):
    text = "restv2_lite@32:b3:fp32"  # which stands for it, because only ours is held against fp64
    monkeypatch.setattr(models, "build", lambda name, **_: nets.DoubledInFp32().eval())
    assert prepared(text).check["error"] < 1e-6  # inference knows nothing of it
    with pytest.raises(Wrong, match=r"the gradient of weight differs from eager in fp64 by 1\.00e\+00"):
        prepared(f"{text}:train")


WRONG = {
    "DetachedInTraining": "no gradient reaches bias in the first step",
    "NaNInTraining": "the loss of the first step is nan",
    "NaNGradient": "the gradient of bias is not finite",
    "NaNGradientInTraining": "is not finite after the first step",
    "Constant": "no gradient reaches any parameter",
    "Maps": r"the output is \(2, 3, 8, 8\) for 2 images, and training needs a row of logits for each",
    "Tuple": "the output is tuple for 2 images, and training needs",
    "OneLogit": r"the output is \(2, 1\) for 2 images",
}


@pytest.mark.parametrize(("model", "said"), WRONG.items())
def test_what_cannot_be_right_is_not_timed(model, said):
    with pytest.raises(Wrong, match=said):
        prepared(f"trained_nets:{model}@8:b3:fp32:train")


def test_gradients_that_overflow_at_any_scale_are_not_timed():
    with pytest.raises(Wrong, match="the first step is never taken"):
        prepared("trained_nets:OverflowsAlways[autocast]@8:b3:fp16:train")


def test_a_model_without_parameters_to_train_says_so():
    with pytest.raises(ValueError, match="no parameter to train"):
        prepared("trained_nets:Frozen@8:b3:fp32:train")


def test_parameters_that_nothing_uses_are_noted():
    it = prepared("trained_nets:Spare@8:b3:fp32:train")
    assert it.notes == ["no gradient reaches spare.0, spare.1, spare.2 and 1 more"]
    assert it.check == {"against": "finite loss and gradients"}


def test_a_parameter_that_stays_as_it_was_is_not_timed():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7))
    step = training.Step(model, torch.randn(2, 3, 2, 2), torch.enable_grad, scaled=False)
    step._optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(Wrong, match=r"1\.weight is the same after the first step"):
        step.first()


def test_the_first_step_changes_every_weight_that_its_dtype_lets_it():
    torch.manual_seed(inputs.SEED)
    before = {name: of.detach().clone() for name, of in models.build("restv2_lite").named_parameters()}
    after = dict(step_of(prepared("restv2_lite@32:b2:fp32:train")).model.named_parameters())
    assert before.keys() == after.keys()
    assert [name for name, of in after.items() if torch.equal(of, before[name]) and of.count_nonzero()] == []


def test_a_loss_that_becomes_infinite_later_is_a_failure_and_not_a_time():
    it = prepared("trained_nets:NaNLater@8:b3:fp32:train")
    for _ in range(2):
        it.run()
    assert it.finish() == []
    it.run()
    with pytest.raises(Wrong, match="the loss is nan after 4 steps"):
        it.finish()


def test_steps_without_adamw_are_noted():
    it = prepared("trained_nets:Overflows[autocast]@8:b3:fp16:train")
    for _ in range(4):
        it.run()
    assert it.finish() == ["2 of 5 steps, warm-up included, left AdamW out: their gradients overflowed"]


def test_fp16_is_tried_until_its_gradients_fit():
    it = prepared("trained_nets:Steep[autocast]@8:b3:fp16:train")
    step = step_of(it)
    assert step._before_first > 0  # steps that overflowed, as the check's own do: not to be noted
    assert step._scaler.get_scale() == 2.0 ** (16 - step._before_first)
    step()
    assert it.finish() == []
