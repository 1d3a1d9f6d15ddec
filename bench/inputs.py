"""What goes into a model: seeded tensors, the same in every run."""

from __future__ import annotations

import torch
from torch import Tensor

SEED = 20220415


def images(batch: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """(batch, 3, H, W) in fp32, normal like normalised photographs. One image is repeated if the batch is large.

    Its first images do not depend on the batch, so a case halved by lack of memory sees the same ones.
    """
    generator = torch.Generator().manual_seed(SEED)
    distinct = torch.randn(min(batch, 8), 3, *size, generator=generator).to(device)
    return distinct.repeat(-(-batch // len(distinct)), 1, 1, 1)[:batch].contiguous()
