"""The check of a model's loss and gradients before a step of training is timed. No time without a pass."""

from __future__ import annotations

import contextlib
import math
import statistics
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases import Case
from bench.errors import Wrong
from bench.harness import training
from bench.harness.forms import form, implemented, in_same_form
from bench.harness.training import Gradients
from bench.harness.verify import EAGER_BOUND, in_single, mhim_factor, named_single, unsearched
from models.exact import QuickDoubles
from models.variants import OWN

# As verify.EAGER_BOUND, for the gradient of the parameter that is worst off, as `gradient_errors` measures it. On a
# CPU, of fp32, fp16 and bf16: ResTv2-T 2e-6, 2e-2, 0.12; with MHIM 1e-5, 8e-2, 0.26; Swin-T 2e-6, –, 0.21.
GRADIENT_BOUND = {"fp32": 1e-3, "fp16": 0.2, "bf16": 0.5, "fp64": 1e-8}


def gradient_errors(actual: Gradients, expected: Gradients) -> dict[str, float]:
    """The error of each parameter's gradient: ‖actual - expected‖ as a share of ‖expected‖.

    The share is of the median parameter's norm where that is larger, since a bias that a softmax cancels has no
    gradient but its rounding. One norm over all parameters would be blind: at the start nine tenths of ResTv2's is a
    single bias of the stem.
    """
    norms = {name: gradient.double().norm().item() for name, gradient in expected.by_name.items()}
    usual = max(statistics.median_low(norms.values()), 1e-30)  # beside zeros, any difference is too large
    return {
        name: (actual.by_name[name].double() - gradient.double()).norm().item() / max(norms[name], usual)
        for name, gradient in expected.by_name.items()
    }


def gradients_within(
    actual: Gradients, expected: Gradients, bound: float, loss_bound: float, against: str
) -> dict[str, Any]:
    """Compare two backward passes, and give what a row says of it: the largest of `gradient_errors`, and the loss's.

    Raises:
        Wrong: an error is above its bound, or a parameter has a gradient in one of them alone.
    """
    if lacking := sorted(expected.by_name.keys() ^ actual.by_name.keys()):
        who = "no gradient reaches" if lacking[0] in expected.by_name else "a gradient reaches"
        raise Wrong(f"{who} {lacking[0]}, unlike in {against}")
    loss_error = abs(actual.loss - expected.loss) / max(abs(expected.loss), 1e-30)
    if not loss_error <= loss_bound:
        raise Wrong(f"the loss differs from {against} by {loss_error:.2e}; {loss_bound:.2e} is allowed")
    errors = gradient_errors(actual, expected)
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
    if not errors[worst] <= bound:
        raise Wrong(
            f"the gradient of {worst} differs from {against} by {errors[worst]:.2e}; {bound:.2e} is allowed"
        )
    return {
        "against": against,
        "of": f"the gradient of {worst}",
        "error": errors[worst],
        "bound": bound,
        "loss_error": loss_error,
        "loss_bound": loss_bound,
    }


def check_gradients(
    case: Case,
    model: nn.Module,
    eager: nn.Module,
    few: Tensor,
    device: torch.device,
    cast: training.Cast,
    scaled: bool,
) -> tuple[dict[str, Any], frozenset[str]]:
    """Compare loss and gradients of a few images with the references that `check_outputs` takes.

    Gives also the parameters that no gradient reaches, in eager either.

    Raises:
        Wrong: they are further off than eager's own error explains, not finite, or there are none.
    """
    actual = training.gradients(model, few, cast, scaled=scaled)
    ours = case.model in OWN
    if not ours and case.impl == "eager":
        if not math.isfinite(actual.loss):
            raise Wrong(f"the loss is {actual.loss}")
        for name, gradient in actual.by_name.items():
            if not gradient.isfinite().all():
                raise Wrong(f"the gradient of {name} is not finite")
        return {"against": "finite loss and gradients"}, actual.missing
    if (single := in_single(case)) is not case:
        if not all(gradient.isfinite().all() for gradient in actual.by_name.values()):
            raise Wrong("a gradient is not finite")
        model_in_single = implemented(single, eager).to(device, **form(single)).train(model.training)
        images = few.to(**form(single))
        check, idle = check_gradients(
            single, model_in_single, eager, images, device, contextlib.nullcontext, scaled=False
        )
        return named_single(check, case.dtype), idle
    plain = actual
    if case.impl != "eager":
        plain = training.gradients(in_same_form(case, eager, device), few, cast, scaled=scaled)
    bound, loss_bound = (
        bounds[case.dtype or "fp32"] * mhim_factor(case) for bounds in (GRADIENT_BOUND, EAGER_BOUND)
    )
    if not ours:
        return gradients_within(actual, plain, bound, loss_bound, "its own eager"), plain.missing
    exact = eager.to(device, torch.float64)
    with unsearched():
        truth = training.gradients(exact, few.double(), QuickDoubles, scaled=False)
    against = "eager in fp64"
    by_eager = gradients_within(plain, truth, bound, loss_bound, against)
    if case.impl == "eager":
        return by_eager, truth.missing
    # the loss, a single number, may be right by chance in eager, and so its bound is that of the dtype
    return gradients_within(actual, truth, 2 * by_eager["error"] + 1e-5, loss_bound, against), truth.missing
