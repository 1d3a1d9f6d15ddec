"""A time split by the parts of a model: stamps between them while the samples are taken, and no further runs.

A stamp is a CUDA event, or a reading of the clock on a CPU. It waits for nothing, so the time of a part is that
between two stamps on the device itself: also what it spent waiting for the CPU, as where boxes are chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch
from torch import nn

Stamp = Any


class Split(AbstractContextManager["Split"]):
    """Stamps on entering the first of `model.SUBMODULES`, names of its modules in the order in which they run, and on
    leaving each; without any for a model that has none.

    `stamp` takes one, `seconds_between` needs two that are over; a test hands in its own.
    """

    def __init__(
        self,
        model: nn.Module | None,
        device: torch.device,
        stamp: Callable[[], Stamp] | None = None,
        seconds_between: Callable[[Stamp, Stamp], float] | None = None,
    ) -> None:
        self.names: tuple[str, ...] = getattr(model, "SUBMODULES", ())
        self._modules = [getattr(model, name) for name in self.names]
        on_gpu = device.type == "cuda"
        self._stamp = stamp or (_event if on_gpu else time.perf_counter)
        self._between = seconds_between or (_event_seconds if on_gpu else lambda first, then: then - first)
        self._stamps: list[Stamp] = []
        self._hooks: list[Any] = []
        self.samples_s: dict[str, list[float]] = {name: [] for name in self.names}

    def __enter__(self) -> Split:
        def take(*_: object) -> None:
            self._stamps.append(self._stamp())

        for module in self._modules[:1]:
            self._hooks.append(module.register_forward_pre_hook(take))
        for module in self._modules:
            self._hooks.append(module.register_forward_hook(take))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def sampled(self, kept: bool) -> None:
        """After a sample that is waited for: seconds of each part for one call of the model, or nothing of it."""
        runs = len(self.names) + 1
        calls = [self._stamps[start : start + runs] for start in range(0, len(self._stamps), runs)]
        self._stamps = []
        if not (kept and calls):
            return
        for part, name in enumerate(self.names):
            spent = [self._between(call[part], call[part + 1]) for call in calls]
            self.samples_s[name].append(sum(spent) / len(spent))


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _event_seconds(first: torch.cuda.Event, then: torch.cuda.Event) -> float:
    return first.elapsed_time(then) / 1e3
