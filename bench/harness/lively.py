"""Lively weights: a model's own, changed so that every one of them shows in the output; and the way back.

Initial weights hide most of a network. ConvNeXt scales each of its branches by 1e-6 and RegNetY by 0, so that whatever
the branches compute, the output is right. A check is made on lively weights, a time is taken on the model's own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SEED = 15
TABLE_STD = 0.25  # least spread of a table or token that is added to what has a spread of about 1


@dataclass(frozen=True)
class Change:
    """A tensor's two states: a power of two between them, which half precision too undoes exactly, or both."""

    factor: float = 1.0
    own: Tensor | None = None
    lively: Tensor | None = None

    def apply(self, tensor: Tensor, *, wake: bool) -> None:
        """Put a tensor from its own values into lively ones, or back."""
        if self.own is not None and self.lively is not None:
            tensor.copy_(self.lively if wake else self.own)
        else:
            tensor.mul_(self.factor if wake else 1 / self.factor)


class Lively:
    """The changes that make a model lively, for it and for every copy of it, in any implementation and dtype."""

    def __init__(self, model: nn.Module, given: tuple[Tensor, ...]) -> None:
        """Make `model` lively.

        Args:
            given: what it is called with, in the model's dtype and on its device: its batch norms are set to the
                statistics of this, as training does. Without that the signal doubles with every block.
        """
        self._changes: dict[str, Change] = {}
        generator = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                change = _change(name, parameter, generator)
                if change:
                    self._changes[name] = change
                    change.apply(parameter, wake=True)
        self._calibrate(model, given, generator)

    def wake(self, model: nn.Module) -> None:
        """Put a copy that has the model's own weights into the lively ones."""
        self._apply(model, wake=True)

    def rest(self, model: nn.Module) -> None:
        """Put a lively copy back into the model's own weights."""
        self._apply(model, wake=False)

    @torch.no_grad()
    def _apply(self, model: nn.Module, *, wake: bool) -> None:
        for name, tensor in _tensors(model):
            if name in self._changes:
                self._changes[name].apply(tensor, wake=wake)

    def _calibrate(self, model: nn.Module, given: tuple[Tensor, ...], generator: torch.Generator) -> None:
        norms = {
            name: module
            for name, module in model.named_modules()
            if all(isinstance(getattr(module, of, None), Tensor) for of in ("running_mean", "running_var"))
        }
        if not norms:
            return
        own = {
            f"{name}.{of}".removeprefix("."): getattr(norms[name], of).detach().to("cpu", copy=True)
            for name in norms
            for of in ("running_mean", "running_var")
        }
        hooks = [norm.register_forward_pre_hook(_set_statistics(generator)) for norm in norms.values()]
        waiting = set(norms.values())

        def stop_after_the_last(norm: nn.Module, *_: object) -> None:
            waiting.discard(norm)
            if not waiting:
                raise _AllSet

        hooks += [norm.register_forward_hook(stop_after_the_last) for norm in norms.values()]
        try:
            with torch.no_grad(), contextlib.suppress(_AllSet):
                model(*given)
        finally:
            for hook in hooks:
                hook.remove()
        tensors = dict(_tensors(model))
        for name, before in own.items():
            self._changes[name] = Change(own=before, lively=tensors[name].detach().to("cpu", copy=True))


class _AllSet(BaseException):
    """The last batch norm has its statistics: what comes behind it need not run. No model catches it."""


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by their names in the model itself, without what torch.compile puts before them."""
    for named in (model.named_parameters(), model.named_buffers()):
        for name, tensor in named:
            yield name.removeprefix("_orig_mod."), tensor


def _change(name: str, parameter: Tensor, generator: torch.Generator) -> Change | None:
    """The change that makes a parameter count; None where it counts already, or cannot."""
    if not parameter.is_floating_point() or not parameter.numel() or parameter.is_meta:
        return None
    spread, largest = _spread(parameter)
    leaf = name.rpartition(".")[2]
    is_matrix, is_bias = parameter.ndim >= 2 and "weight" in leaf, "bias" in leaf and parameter.ndim < 2
    wanted = (parameter[0].numel() ** -0.5 if is_matrix else TABLE_STD) if parameter.ndim >= 2 else 0.1
    if not math.isfinite(largest):
        return None
    if spread <= 1e-3 * largest or largest < 1e-3:
        own = parameter.detach().to("cpu", copy=True)
        return Change(own=own, lively=_instead(own, largest, wanted, is_bias, generator).to(own.dtype))
    if parameter.ndim >= 2 and spread < wanted / 2:
        return Change(factor=2.0 ** round(math.log2(wanted / spread)))
    return None


def _spread(parameter: Tensor) -> tuple[float, float]:
    """Standard deviation and largest magnitude."""
    values = parameter.detach().float()
    least, most = values.aminmax()
    return values.std(correction=0).item(), max(-least.item(), most.item())


def _instead(own: Tensor, largest: float, wanted: float, is_bias: bool, generator: torch.Generator) -> Tensor:
    """Values in place of a tensor whose own are all alike, or all but zero."""
    if own.ndim >= 2 and largest < 1e-3:
        return wanted * torch.randn(own.shape, generator=generator)
    around_1 = 0.5 + torch.rand(own.shape, generator=generator)
    if is_bias and largest < 1e-3:
        return around_1 - 1
    return around_1 * (own.float() if largest >= 1e-3 else 1)  # a gain, of a layer or of a branch


def _set_statistics(generator: torch.Generator) -> Any:
    """A hook that sets a batch norm's running statistics to those of what it is given, each a little off."""

    def hook(norm: Any, given: tuple[Tensor, ...]) -> None:
        x = given[0].detach().float()
        if x.ndim < 2:
            return
        others = [i for i in range(x.ndim) if i != 1]
        mean, variance = x.mean(others), x.var(others, correction=0)
        whole = x.var(correction=0)  # a map of one pixel leaves a channel none of its own
        variance = (variance + whole) / 2 if whole > 1e-12 else torch.ones_like(variance)
        off = torch.rand(2, len(mean), generator=generator).to(x.device)
        with contextlib.suppress(
            RuntimeError
        ):  # what is given is not what the norm is for: its own error says so
            norm.running_mean.copy_(mean + (off[0] - 0.5) * variance.sqrt())
            norm.running_var.copy_(variance * (0.5 + off[1]))

    return hook
