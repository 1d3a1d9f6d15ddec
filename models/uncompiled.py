"""Importing timm and torchvision without torch.compile, whose import takes longer than theirs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

COMPILER, INSIDE = "torch._dynamo", "torch._dynamo.utils"


@contextmanager
def without_compiler() -> Iterator[None]:
    """Lets what is imported meanwhile take functions of torch.compile without importing it until they are called.

    torchvision takes a predicate that it needs in one rare case, and timm marks a class that the compiler is to leave
    alone. For whatever else is asked of the compiler it is imported.
    """
    if COMPILER in sys.modules:
        yield
        return
    sys.modules[COMPILER] = _StandIn(COMPILER, disable=_disable)
    sys.modules[INSIDE] = _StandIn(INSIDE, is_compile_supported=_is_compile_supported)
    try:
        yield
    finally:
        _remove_stand_ins()


class _StandIn(ModuleType):
    """A module that has a few functions, and imports the real one for all others."""

    def __init__(self, name: str, **functions: Callable[..., Any]) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python asks of any module
            raise AttributeError(name)
        return getattr(_imported(self.__name__), name)


def _imported(name: str) -> ModuleType:
    _remove_stand_ins()
    return importlib.import_module(name)


def _remove_stand_ins() -> None:
    for name in (COMPILER, INSIDE):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _disable(function: Callable[..., Any] | None = None, recursive: bool = True, **_: Any) -> Any:
    return torch._disable_dynamo(function, recursive)  # imports the compiler when the function is called


def _is_compile_supported(device_type: str) -> bool:
    return bool(_imported(INSIDE).is_compile_supported(device_type))
