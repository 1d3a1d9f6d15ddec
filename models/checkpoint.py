"""The authors' released weights, read without executing anything and fitted entry by entry."""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn


def load(model: nn.Module, path: str | Path) -> None:
    """Load the weights in `path` into `model`.

    A `.pth` holds a state dict, or one under a key of NESTED, as `model` in the authors' files; all names may begin
    with one of PREFIXES. A `.safetensors` holds the state dict itself.

    Raises:
        ValueError: no such file, not a checkpoint, one that would execute code, or an entry that is missing, extra,
            or of another shape; the line names it. The model is then unchanged.
    """
    state, own = _read(Path(path)), model.state_dict()
    faults = [f"missing {name}" for name in own if name not in state]
    faults += [f"extra {name}" for name in state if name not in own]
    faults += [
        f"{name} is {_shape(state[name])}, not {_shape(own[name])}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    faults += [
        f"{name} is of {state[name].dtype}, and the model's of {own[name].dtype}"
        for name in own
        if name in state and not _is_kept(state[name], own[name].dtype)
    ]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(f"{path} does not fit the model: {'; '.join(faults[:3])}{more}")
    model.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
    """
    try:
        if not path.is_file() and path.exists() and not path.is_dir():
            raise ValueError(f"cannot read {path}: it is no file, but a pipe or a device")
        with path.open("rb") as file:
            head = file.read(512)
        if strange := _told_by(head):
            raise ValueError(f"{path} is not a checkpoint: it is {strange}")
        if path.suffix == ".safetensors" or _is_safetensors(head):
            state = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals(HARMLESS):
                state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) or "ymlink" in str(error):
            raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
        raise ValueError(f"{path} is not a checkpoint, or a corrupt one ({type(error).__name__})") from None
    except pickle.UnpicklingError as error:
        # torch's own text is a page long, and tells how to execute the file all the same
        wants = re.search(r"GLOBAL ([\w.]+)", str(error))
        executes = wants or "Unsupported" in str(error)
        why = f"it would execute code{f', {wants[1]}' if wants else ''}" if executes else "it is corrupt"
        raise ValueError(f"{path} is not read: {why}") from None
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is not a checkpoint, or a corrupt one ({type(error).__name__})") from None
    except Exception as error:  # what a foreign file does to the readers has no end
        raise ValueError(f"{path} is not a checkpoint, or a corrupt one ({type(error).__name__})") from None
    inner = (
        next((state[key] for key in NESTED if _is_state(state.get(key))), state)
        if isinstance(state, dict)
        else 0
    )
    if not _is_state(inner):
        keys = (
            f"; its keys are {', '.join(map(str, list(state)[:5]))}"
            if isinstance(state, dict) and state
            else ""
        )
        raise ValueError(f"{path} holds no state dict of tensors{keys}")
    return _without_prefix(inner)


# Where training scripts put the weights; the average comes last, because a file that has both is evaluated with neither
NESTED = ("model", "state_dict", "model_state_dict", "net", "module", "model_ema", "state_dict_ema", "ema")
PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "encoder.")  # of what wraps a model
HARMLESS = [argparse.Namespace]  # holds a run's arguments, and does nothing


def _is_state(found: object) -> bool:
    return (
        isinstance(found, dict) and bool(found) and all(isinstance(value, Tensor) for value in found.values())
    )


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what wrappers put before all of them."""
    while prefix := next((each for each in PREFIXES if all(name.startswith(each) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _told_by(head: bytes) -> str | None:
    """The name of what is often found in a checkpoint's place, told by a file's head; None where it may be one."""
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, and the weights are not here: run `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    return None


def _is_safetensors(head: bytes) -> bool:
    """Whether a file is of that format, whatever it is called: eight bytes of length, then JSON."""
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**27


def _is_kept(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor is the same weights in a dtype: of one kind, and of whole numbers each the same."""
    kinds = [
        "complex" if each.is_complex else "floating" if each.is_floating_point else "whole"
        for each in (tensor.dtype, dtype)
    ]
    if kinds[0] != kinds[1]:
        return False
    return kinds[0] != "whole" or torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
