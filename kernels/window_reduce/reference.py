"""The reduction of keys and values inside windows in plain PyTorch: what the kernel is compared with.

    x′ = DWConv_{(r+1)×(r+1), stride r, padding r/2}(x),    inside each window as if that were an image

# B batch, H W feature map, N = H·W tokens, C channels, r reduction, K = r + 1 the kernel's side
# w side of a window, S = B·ceil(H/w)·ceil(W/w) windows, M = ceil(w/r)² cells of one
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.emsa_upsample.cost import ceil_div
from kernels.emsa_upsample.partition import pad, partition, reverse


def window_reduce(
    x_BNC: Tensor, weight: Tensor, bias: Tensor | None, *, size: tuple[int, int], reduction: int, window: int
) -> Tensor:
    """Tokens reduced inside windows: (B, N, C) → (S, M, C), the map padded with zeros to whole windows.

    Args:
        weight: (C, 1, r+1, r+1).
        bias: (C,) or None.
    """
    x_SCww = _windows(x_BNC, size, window)
    y_SChw = F.conv2d(x_SCww, weight, bias, reduction, reduction // 2, groups=x_BNC.shape[-1])
    return y_SChw.flatten(2).transpose(1, 2)


def gradients(
    grad_SMC: Tensor,
    x_BNC: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    size: tuple[int, int],
    reduction: int,
    window: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of tokens, weight and bias from the gradient of the result; in ATen operators, with padded copies."""
    wide = torch.promote_types(
        grad_SMC.dtype, torch.float32
    )  # what is summed over all windows overflows in fp16
    channels, step, before = x_BNC.shape[-1], reduction, reduction // 2
    grid = ceil_div((window, window), reduction)
    grad_SChw = grad_SMC.unflatten(1, grid).permute(0, 3, 1, 2)
    grad_x_SCww, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        *(grad_SChw.to(wide), _windows(x_BNC, size, window).to(wide), weight.to(wide), [channels]),
        *([step, step], [before, before], [1, 1], False, [0, 0], channels, [True, True, bias is not None]),
    )
    grad_x_BNC = reverse(grad_x_SCww.flatten(2).transpose(1, 2), size, window)
    return (
        grad_x_BNC.to(x_BNC.dtype),
        grad_weight.to(weight.dtype),
        None if bias is None else grad_bias.to(bias.dtype),
    )


def _windows(x_BNC: Tensor, size: tuple[int, int], window: int) -> Tensor:
    """The windows of a map as images: (S, C, w, w)."""
    return partition(pad(x_BNC, size, window), window).unflatten(1, (window, window)).permute(0, 3, 1, 2)
