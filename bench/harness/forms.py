"""Models in the form that a case asks for: dtype, memory format, device, autocast, implementation."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import models
from bench.cases import Case
from bench.errors import Refused
from bench.harness import draws
from models.switches import COMPILED

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}


def form(case: Case) -> dict[str, Any]:
    """The dtype and memory format that a case's weights and images are converted to."""
    return {
        "dtype": torch.float32 if case.has("autocast") else TORCH_DTYPES[case.dtype or "fp32"],
        "memory_format": torch.channels_last if case.has("channels_last") else torch.contiguous_format,
    }


def in_form(case: Case, model: nn.Module, device: torch.device) -> nn.Module:
    """Convert a model to the form that the case runs it in, on a device: floating-point weights, and no others.

    Raises:
        Refused: it has complex weights, of which half precision has none, and whose imaginary parts would be lost.
    """
    wanted = form(case)
    if wanted["dtype"] in (torch.float16, torch.bfloat16):
        for name, tensor in weights_of(model):
            if tensor.is_complex():
                raise Refused(
                    f"{name} is complex, and {case.dtype} has no complex numbers: run it in fp32, or under autocast"
                )
    double = wanted["dtype"] == torch.float64
    own = {
        name: tensor.to(torch.complex128 if double else torch.complex64)
        for name, tensor in weights_of(model)
        if tensor.is_complex()
    }
    model = model.to(device, **{**wanted, "dtype": None if own else wanted["dtype"]})
    if own:  # `Module.to` makes real numbers of complex ones, with a warning for all that it says
        for name, tensor in weights_of(model):
            if name in own:
                tensor.data = own[name].to(device)
            elif tensor.is_floating_point():
                tensor.data = tensor.data.to(wanted["dtype"])
    return model


def notes_on_weights(case: Case, model: nn.Module) -> list[str]:
    """A line on weights that are not floating-point, and stay as they are in every dtype; counters have none."""
    saved = model.state_dict().keys()
    found: dict[str, list[str]] = {}
    for name, tensor in weights_of(model):
        if name in saved and tensor.ndim and not tensor.is_floating_point():
            found.setdefault(str(tensor.dtype).removeprefix("torch."), []).append(name)
    return [
        f"{len(names)} of its weights {'are' if len(names) > 1 else 'is'} {dtype} and stay so, as {names[0]}"
        for dtype, names in found.items()
    ]


def weights_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def autocast(case: Case, device: torch.device) -> torch.autocast:
    """torch.autocast as a case asks for it; without effect for most cases."""
    return torch.autocast(device.type, TORCH_DTYPES[case.dtype or "fp32"], enabled=case.has("autocast"))


def implemented(case: Case, eager: nn.Module, *, keep: bool = True) -> nn.Module:
    """The case's implementation with the very weights of an eager model.

    Args:
        keep: leave the eager model as it is; else it may become the implementation itself.
    """
    inner = COMPILED.get(case.impl, case.impl)
    if inner == "eager":
        model = copy.deepcopy(eager) if keep else eager
    else:
        options = {name: value for name, value in case.model_options.items() if name != "weights"}
        with draws.none():
            model = models.build(case.model, size=case.size, impl=inner, **options)
        model.load_state_dict(eager.state_dict())
    return models.compiled(model) if case.impl in COMPILED else model


def in_same_form(case: Case, eager: nn.Module, device: torch.device) -> nn.Module:
    """An eager model in the form that the case would run it in: the model itself where it has that, else a copy."""
    wanted = form(case)
    has_form = wanted["memory_format"] == torch.contiguous_format and all(
        tensor.device == device
        and (tensor.dtype == wanted["dtype"] or not (tensor.is_floating_point() or tensor.is_complex()))
        for _, tensor in weights_of(eager)
    )
    return eager if has_form else in_form(case, copy.deepcopy(eager), device)
