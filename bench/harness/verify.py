"""The checks of a model's output and gradients before it is timed. No time without a pass."""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import models
from bench.cases import Case
from bench.errors import Wrong
from bench.harness import training
from bench.harness.training import Gradients
from models.switches import COMPILED, assembled
from models.variants import OWN

CHECKED_IMAGES = 2  # the first of a batch are held against a reference

# Error of eager against fp64 that its dtype explains, as a share of the largest logit. Generous: it is there to
# catch a wrong model, a NaN or a precision flag left on. ResTv2-T on a CPU: 4e-7, 7e-4 (fp16), 7e-3 (bf16).
EAGER_BOUND = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 8e-2, "fp64": 1e-10}

# The same for the gradient of the parameter that is worst off, as `gradient_errors` measures it. On a CPU, of fp32,
# fp16 and bf16: ResTv2-T 2e-6, 2e-2, 0.12; with MHIM 1e-5, 8e-2, 0.26; Swin-T 2e-6, –, 0.21.
GRADIENT_BOUND = {"fp32": 1e-3, "fp16": 0.2, "bf16": 0.5, "fp64": 1e-8}

# How much more of either MHIM is allowed. Its InstanceNorm divides by the spread of an attention map that is almost
# flat at initial weights, and multiplies the map's rounding by up to 300: ResTv1-Lite 2.2e-4 in fp32, on a CPU.
MHIM_FACTOR = 20
TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}
LOGIT = "the largest logit"  # the scale of a difference in output


def form(case: Case) -> dict[str, Any]:
    """The dtype and memory format that a case's weights and images are converted to."""
    return {
        "dtype": torch.float32 if case.has("autocast") else TORCH_DTYPES[case.dtype or "fp32"],
        "memory_format": torch.channels_last if case.has("channels_last") else torch.contiguous_format,
    }


def autocast(case: Case, device: torch.device) -> torch.autocast:
    """torch.autocast as a case asks for it; without effect for most cases."""
    return torch.autocast(device.type, TORCH_DTYPES[case.dtype or "fp32"], enabled=case.has("autocast"))


def implemented(case: Case, eager: nn.Module) -> nn.Module:
    """The case's implementation with the very weights of an eager model."""
    inner = COMPILED.get(case.impl, case.impl)
    if inner == "eager":
        model = copy.deepcopy(eager)
    else:
        options = {name: value for name, value in case.model_options.items() if name != "weights"}
        model = models.build(case.model, size=case.size, impl=inner, **options)
        model.load_state_dict(eager.state_dict())
    return models.compiled(model) if case.impl in COMPILED else model


def _in_form(case: Case, eager: nn.Module, device: torch.device) -> nn.Module:
    """A copy of an eager model in the form that the case would run it in."""
    return copy.deepcopy(eager).to(device, **form(case))


def _mhim_factor(case: Case) -> int:
    """Factor on the rounding bounds: MHIM_FACTOR where a case normalises its attention map, else 1."""
    config = OWN.get(case.model)
    return MHIM_FACTOR if config and assembled(config, case.model_options).mhim else 1


def _in_single(case: Case) -> Case:
    """The case whose numbers are checked in place of a case: fp32 for MHIM in half precision, else the case itself.

    At initial weights half precision leaves nothing of MHIM's logits to compare: ResTv1-Lite's are off by as much as
    they are large, from rounding alone. What is timed must still be finite and of the right shape.
    """
    if case.dtype not in ("fp16", "bf16") or _mhim_factor(case) == 1:
        return case
    options = tuple(option for option in case.options if option[0] != "autocast")
    return replace(case, dtype="fp32", options=options)


def _named_single(check: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    return {**check, "against": f"{check['against']}, run in fp32; finite in {dtype}"}


def within(
    out: Tensor, expected: Tensor, bound: float, against: str, scale_name: str = "the largest logit"
) -> dict[str, Any]:
    """Compare an output with the expected one, and give what a row says of it.

    Args:
        bound: allowed difference, as a share of the largest expected value.
        against: what the expected output is, in words.
        of: what the largest expected value is, in words.

    Raises:
        Wrong: the difference is larger, or the shapes differ.
    """
    if out.shape != expected.shape:
        raise Wrong(f"the output is {tuple(out.shape)}, not {tuple(expected.shape)} as {against}")
    scale = max(expected.abs().max().item(), 1e-30)  # beside zeros, any difference is too large
    error = (out.double() - expected.double()).abs().max().item() / scale
    if not error <= bound:
        raise Wrong(
            f"the output differs from {against} by {error:.2e} of {scale_name}; {bound:.2e} is allowed"
        )
    return {"against": against, "of": scale_name, "error": error, "bound": bound}


def check_outputs(
    case: Case, model: nn.Module, eager: nn.Module, given: tuple[Tensor, ...], device: torch.device
) -> dict[str, Any]:
    """Run the case and compare its first images: ours with eager in fp64, a compiled peer with its own eager.

    Raises:
        Wrong: the output is further off than eager's own error explains, not finite, or of the wrong shape.
    """
    few, detects = tuple(tensor[:CHECKED_IMAGES] for tensor in given), case.head == "mask_rcnn"
    with torch.inference_mode():
        with autocast(case, device):
            whole = model(*given)  # all of them: another batch may be another graph, another algorithm
            _check_whole(case, whole, len(given[0]))
            outs = _compared(case, model, few) if detects else {LOGIT: whole[:CHECKED_IMAGES]}
        del whole
        if (single := _in_single(case)) is not case:
            in_single = implemented(single, eager).to(device, **form(single))
            alike = tuple(tensor.to(**form(single)) for tensor in few)
            return _named_single(check_outputs(single, in_single, eager, alike, device), case.dtype)
        ours = case.model in OWN
        if not ours and case.impl == "eager":
            return {"against": "finite and of the right shape"}
        plains = outs
        if case.impl != "eager":
            with autocast(case, device):
                plains = _compared(case, _in_form(case, eager, device), few)
        truths = None
        if ours:
            exact = eager.to(device, torch.float64)
            truths = _compared(case, exact, tuple(tensor.double() for tensor in few))
    bound = EAGER_BOUND[case.dtype or "fp32"] * _mhim_factor(case)
    checks = []
    for scale_name, out in outs.items():
        if truths is None:
            checks.append(within(out, plains[scale_name], bound, "its own eager", scale_name))
            continue
        check = within(plains[scale_name], truths[scale_name], bound, "eager in fp64", scale_name)
        if case.impl != "eager":
            # twice what eager itself is off by, and a little for a dtype in which eager happens to be exact
            check = within(out, truths[scale_name], 2 * check["error"] + 1e-5, "eager in fp64", scale_name)
        checks.append(check)
    return max(checks, key=lambda check: check["error"] / check["bound"])


def is_compared(case: Case) -> bool:
    """Whether the case's own outputs mean something beside a reference, and not only those of its fp32."""
    return _in_single(case) is case


def bound_of(case: Case) -> float:
    """The allowed difference between two outputs of the case, as a share of the largest."""
    return EAGER_BOUND[case.dtype or "fp32"] * _mhim_factor(case)


@torch.inference_mode()
def computed(
    case: Case, model: nn.Module, given: tuple[Tensor, ...], device: torch.device
) -> dict[str, Tensor]:
    """What the case computes of the whole batch, by what it is, once its shape and finiteness are checked.

    Raises:
        Wrong: it is not finite, or of the wrong shape.
    """
    with autocast(case, device):
        if case.head == "mask_rcnn":  # which boxes win can turn on the last bit
            few = tuple(tensor[:CHECKED_IMAGES] for tensor in given)
            _check_whole(case, model(*given), len(given[0]))
            return _compared(case, model, few)
        whole = model(*given)
    _check_whole(case, whole, len(given[0]))
    return {LOGIT: whole}


def _check_whole(case: Case, whole: object, batch: int) -> None:
    """Look at the whole output: a tensor of `batch` images, or for a detector a tensor of each thing.

    Raises:
        Wrong: it is something else, or not finite.
    """
    tensors: dict[str, Any] = vars(whole) if case.head == "mask_rcnn" else {"": whole}
    if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise Wrong(f"the output is {type(whole).__name__} for {batch} images")
    for name, tensor in tensors.items():
        what = f"the output {name}".strip()
        if tensor.shape[:1] != (batch,):
            raise Wrong(f"{what} is {tuple(tensor.shape)} for {batch} images")
        if not tensor.isfinite().all():
            raise Wrong(f"{what} is not finite")


def _compared(case: Case, model: nn.Module, given: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Outputs to compare, keyed by the scale that their error is relative to.

    A classifier gives its logits. A detector gives everything before box selection, because which boxes win can turn
    on the last bit.
    """
    if case.head != "mask_rcnn":
        return {LOGIT: model(*given)}
    dense: Any = model.dense
    return {f"the largest of {name}": each for name, each in dense(*given).items()}


def gradient_errors(actual: Gradients, expected: Gradients) -> dict[str, float]:
    """The error of each parameter's gradient: ‖found - expected‖ as a share of ‖expected‖.

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
    if (single := _in_single(case)) is not case:
        if not all(gradient.isfinite().all() for gradient in actual.by_name.values()):
            raise Wrong("a gradient is not finite")
        in_single = implemented(single, eager).to(device, **form(single)).train(model.training)
        images = few.to(**form(single))
        check, idle = check_gradients(
            single, in_single, eager, images, device, contextlib.nullcontext, scaled=False
        )
        return _named_single(check, case.dtype), idle
    plain = actual
    if case.impl != "eager":
        plain = training.gradients(_in_form(case, eager, device), few, cast, scaled=scaled)
    bound, loss_bound = (
        bounds[case.dtype or "fp32"] * _mhim_factor(case) for bounds in (GRADIENT_BOUND, EAGER_BOUND)
    )
    if not ours:
        return gradients_within(actual, plain, bound, loss_bound, "its own eager"), plain.missing
    exact = eager.to(device, torch.float64)
    truth = training.gradients(exact, few.double(), contextlib.nullcontext, scaled=False)
    against = "eager in fp64"
    by_eager = gradients_within(plain, truth, bound, loss_bound, against)
    if case.impl == "eager":
        return by_eager, truth.missing
    # the loss, a single number, may be right by chance in eager, and so its bound is that of the dtype
    return gradients_within(actual, truth, 2 * by_eager["error"] + 1e-5, loss_bound, against), truth.missing
