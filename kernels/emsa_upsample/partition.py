"""Maps cut into windows and put together again, with copies: what the kernels do by index arithmetic.

# B batch, H W feature map, N = H·W tokens, P Q the sides once padded, C channels
# w side of a window, S = B·(P/w)·(Q/w) windows, those of an image row by row
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kernels.emsa_upsample.cost import ceil_div


def pad(x_BNC: Tensor, size: tuple[int, int], window: int) -> Tensor:
    """Tokens as a map padded to whole windows: (B, N, C) → (B, P, Q, C), a view where nothing has to be padded."""
    x_BHWC = x_BNC.unflatten(1, size)
    below, right = -size[0] % window, -size[1] % window
    return F.pad(x_BHWC, (0, 0, 0, right, 0, below)) if below or right else x_BHWC


def partition(x_BPQC: Tensor, window: int) -> Tensor:
    """A map cut into windows, row by row: (B, P, Q, C) → (S, w², C), a view where a map is one window wide."""
    by_window = x_BPQC.unflatten(2, (-1, window)).unflatten(1, (-1, window)).transpose(2, 3)
    return by_window.flatten(0, 2).flatten(1, 2)


def reverse(x_SMC: Tensor, size: tuple[int, int], window: int) -> Tensor:
    """Windows back in their places, padding cropped: (S, w², C) → (B, N, C)."""
    windows = ceil_div(size, window)
    by_window = x_SMC.unflatten(1, (window, window)).unflatten(0, (-1, *windows))
    x_BPQC = by_window.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x_BPQC[:, : size[0], : size[1]].flatten(1, 2)
