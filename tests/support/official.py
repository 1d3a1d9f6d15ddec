"""Known results of the authors' implementation: state-dict entries, and logits for formula-made weights."""

import csv
import json
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import Tensor

DATA = Path(__file__).with_name("data")


@cache
def entries() -> dict[str, dict[str, tuple[int, ...]]]:
    """Model → key → shape, in the order of the authors' state dicts."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    with (DATA / "official_checkpoint_keys.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            shape = () if row["shape"] == "scalar" else tuple(map(int, row["shape"].split("x")))
            found.setdefault(row["model"], {})[row["key"]] = shape
    return found


def logits() -> list[dict]:
    """One record a model and size; see `formula_state` and `formula_image` for what went in."""
    return json.loads((DATA / "official_logits.json").read_text())


@lru_cache(maxsize=1)  # a large one takes seconds, and 700 MB
def formula_state(model: str) -> dict[str, Tensor]:
    """The float64 weights that the golden logits were made with: entry j is 0.05·sin((i+1)·(0.1+j)).

    They are the same tensors at every call: not to be changed.
    """
    state = {}
    for j, (key, shape) in enumerate(entries()[model].items()):
        count = torch.Size(shape).numel()
        values = 0.05 * torch.sin((torch.arange(count, dtype=torch.float64) + 1) * (0.1 + j))
        if key.endswith("num_batches_tracked"):
            values = torch.zeros((), dtype=torch.long)
        elif key.endswith("running_var"):
            values = 1 + values.abs()
        elif key.endswith("weight") and len(shape) == 1:
            values = 1 + values
        state[key] = values.reshape(shape)
    return state


def formula_image(height: int, width: int) -> Tensor:
    """(1, 3, H, W): cos(0.01·i)."""
    return torch.cos(0.01 * torch.arange(3 * height * width, dtype=torch.float64)).reshape(
        1, 3, height, width
    )
