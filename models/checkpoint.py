"""The authors' released weights, read without executing anything and fitted entry by entry."""

from __future__ import annotations

import pickle
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn


def load(model: nn.Module, path: str | Path) -> None:
    """Load the weights in `path` into `model`.

    A `.pth` holds a state dict, or one under the key `model` as the authors' files do; names may begin with
    `module.`. A `.safetensors` holds the state dict itself.

    Raises:
        ValueError: no such file, not a checkpoint, one that would execute code, or an entry that is missing, extra,
            or of another shape; the line names it. The model is then unchanged.
    """
    state = {name.removeprefix("module."): value for name, value in _read(Path(path)).items()}
    own = model.state_dict()
    faults = [f"missing {name}" for name in own if name not in state]
    faults += [f"extra {name}" for name in state if name not in own]
    faults += [
        f"{name} is {_shape(state[name])}, not {_shape(own[name])}"
        for name in own
        if name in state and state[name].shape != own[name].shape
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
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("model", state) if isinstance(state, dict) else state
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        # torch's own text is a page long, and tells how to execute the file all the same
        executes = "GLOBAL" in str(error) or "Unsupported" in str(error)
        why = "it would execute code" if executes else "it is corrupt"
        raise ValueError(f"{path} is not read: {why}") from None
    except Exception as error:  # what a foreign file does to the readers has no end
        raise ValueError(f"{path} is not a checkpoint, or a corrupt one ({type(error).__name__})") from None
    tensors = isinstance(state, dict) and state and all(isinstance(value, Tensor) for value in state.values())
    if not tensors:
        raise ValueError(f"{path} holds no state dict of tensors")
    return state


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
