"""Photographs that nobody took."""

from __future__ import annotations

import torch
from PIL import Image


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth in one direction, noise in the other; `size` is height, width."""
    height, width = size
    noise = torch.randint(0, 256, (height, 1, 3), generator=torch.Generator().manual_seed(seed))
    ramp = torch.linspace(0, 1, width)[None, :, None]
    return Image.fromarray((noise * ramp).to(torch.uint8).numpy())
