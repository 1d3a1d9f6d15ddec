"""A user's own model, `module:Class`. Apart from the peers, because timm takes two seconds to import."""

from __future__ import annotations

import importlib

from torch import nn


def build_class(path: str) -> nn.Module:
    """A user's `module:Class`, called without arguments.

    Raises:
        ValueError: it cannot be imported, or is no nn.Module that can be made without arguments.
    """
    module, name = path.split(":")
    try:
        model = getattr(importlib.import_module(module), name)()
    except Exception as error:  # a user's module may fail in any way; which one is the message
        raise ValueError(f"cannot make {path}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{path} gives {type(model).__name__}, not a torch.nn.Module")
    return model
