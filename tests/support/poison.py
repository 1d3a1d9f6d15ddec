"""Tensors with poison around and between what counts, so that a read outside shows in the result."""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 1000  # elements of poison before and after each tensor
POISON = float("nan")


def poisoned(tensor: Tensor) -> Tensor:
    """The same values, in rows with poison between them and around."""
    wide = torch.full((2 * MARGIN + 2 * tensor.numel(),), POISON, dtype=tensor.dtype)
    inner = wide[MARGIN : MARGIN + 2 * tensor.numel()].view(*tensor.shape[:-1], 2 * tensor.shape[-1])
    inner[..., : tensor.shape[-1]] = tensor
    return inner[..., : tensor.shape[-1]]
