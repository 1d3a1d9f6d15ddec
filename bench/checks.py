"""What a model's output and its gradients must be before it is timed. No time without a pass."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from torch import Tensor

CHECKED_IMAGES = 2  # of the batch, against a reference

# Error of eager against fp64 that its dtype explains, as a share of the largest logit. Generous: it is there to
# catch a wrong model, a NaN or a precision flag left on. ResTv2-T on a CPU: 4e-7, 7e-4 (fp16), 7e-3 (bf16).
EAGER_BOUND = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 8e-2, "fp64": 1e-10}

# The same for the gradient of the parameter that is worst off, as `gradient_errors` measures it. On a CPU, of fp32,
# fp16 and bf16: ResTv2-T 2e-6, 2e-2, 0.12; with MHIM 1e-5, 8e-2, 0.26; Swin-T 2e-6, –, 0.21.
GRADIENT_BOUND = {"fp32": 1e-3, "fp16": 0.2, "bf16": 0.5, "fp64": 1e-8}


# How much more of either MHIM is allowed. Its InstanceNorm divides by the spread of an attention map that is almost
# flat at initial weights, and multiplies the map's rounding by up to 300: ResTv1-Lite 2.2e-4 in fp32, on a CPU.
MHIM_FACTOR = 20


class Wrong(Exception):
    """The output is not what it must be: no time without a pass."""


def within(
    out: Tensor, expected: Tensor, bound: float, against: str, of: str = "the largest logit"
) -> dict[str, Any]:
    """The largest difference as a share of the largest expected value, `of`, which `bound` must not be below."""
    if out.shape != expected.shape:
        raise Wrong(f"the output is {tuple(out.shape)}, not {tuple(expected.shape)} as {against}")
    scale = max(expected.abs().max().item(), 1e-30)  # beside zeros, any difference is too large
    error = (out.double() - expected.double()).abs().max().item() / scale
    if not error <= bound:
        raise Wrong(f"the output differs from {against} by {error:.2e} of {of}; {bound:.2e} is allowed")
    return {"against": against, "of": of, "error": error, "bound": bound}


@dataclass(frozen=True)
class Gradients:
    """What one backward pass gave."""

    loss: float
    by_name: dict[str, Tensor]  # of the parameters that got one
    missing: frozenset[str] = frozenset()  # parameters that want one and got none


def gradient_errors(found: Gradients, expected: Gradients) -> dict[str, float]:
    """Of each parameter, ‖found - expected‖ as a share of ‖expected‖, or of the median parameter's if that is more.

    One norm over all of them would be blind: at the start nine tenths of ResTv2's is a single bias of the stem. And
    a bias that a softmax cancels has no gradient but its rounding, hence the median.
    """
    norms = {name: gradient.double().norm().item() for name, gradient in expected.by_name.items()}
    usual = max(statistics.median_low(norms.values()), 1e-30)  # beside zeros, any difference is too large
    return {
        name: (found.by_name[name].double() - gradient.double()).norm().item() / max(norms[name], usual)
        for name, gradient in expected.by_name.items()
    }


def gradients_within(
    found: Gradients, expected: Gradients, bound: float, loss_bound: float, against: str
) -> dict[str, Any]:
    """The largest of `gradient_errors`, which `bound` must not be below; nor `loss_bound` the loss's relative error.

    Raises:
        Wrong: one of the two is too large, or a parameter has a gradient in one of them alone.
    """
    if lacking := sorted(expected.by_name.keys() ^ found.by_name.keys()):
        who = "no gradient reaches" if lacking[0] in expected.by_name else "a gradient reaches"
        raise Wrong(f"{who} {lacking[0]}, unlike in {against}")
    loss_error = abs(found.loss - expected.loss) / max(abs(expected.loss), 1e-30)
    if not loss_error <= loss_bound:
        raise Wrong(f"the loss differs from {against} by {loss_error:.2e}; {loss_bound:.2e} is allowed")
    errors = gradient_errors(found, expected)
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
