"""The reduction of keys and values inside windows in plain PyTorch: what the kernel is compared with.

    x′ = DWConv_{(r+1)×(r+1), stride r, padding r/2}(x),    inside each window as if that were an image

# B batch, H W feature map, N = H·W tokens, C channels, r reduction, K = r + 1 the kernel's side
# w side of a window, S = B·ceil(H/w)·ceil(W/w) windows, M = ceil(w/r)² cells of one
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kernels.emsa_upsample.partition import pad, partition


def window_reduce(
    x_BNC: Tensor, weight: Tensor, bias: Tensor | None, *, size: tuple[int, int], reduction: int, window: int
) -> Tensor:
    """Tokens reduced inside windows: (B, N, C) → (S, M, C), the map padded with zeros to whole windows.

    Args:
        weight: (C, 1, r+1, r+1).
        bias: (C,) or None.
    """
    x_SMC = partition(pad(x_BNC, size, window), window)
    x_SCww = x_SMC.unflatten(1, (window, window)).permute(0, 3, 1, 2)
    y_SChw = F.conv2d(x_SCww, weight, bias, reduction, reduction // 2, groups=x_BNC.shape[-1])
    return y_SChw.flatten(2).transpose(1, 2)
