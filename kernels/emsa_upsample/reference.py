"""EMSAv2 in plain PyTorch: the one reference. The models' eager path is these functions, not a second copy.

    out = softmax(q kᵀ / √d) v + LayerNorm(PixelShuffle(DWConv3x3(v)))

Equation 2 of the ResTv2 paper; the LayerNorm is in the authors' model though equation and figure 2 omit it.

# B batch, H W feature map, N = H·W queries, M = ceil(H/r)·ceil(W/r) keys, C = A·D channels
# A heads, D head width, r spatial reduction
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.emsa_upsample.cost import ceil_div
from kernels.emsa_upsample.partition import pad, partition, reverse


def split_heads(x_BNC: Tensor, heads: int) -> Tensor:
    """Tokens by head: (B, N, C) → (B, A, N, D), a view. Head `a` owns channels a·D to (a+1)·D."""
    return x_BNC.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x_BAND: Tensor) -> Tensor:
    """Heads side by side again: (B, A, N, D) → (B, N, C)."""
    return x_BAND.transpose(1, 2).flatten(2)


def scores(q_BNC: Tensor, k_BMC: Tensor, heads: int) -> Tensor:
    """Scores of each head before the softmax, q kᵀ / √d: (B, A, N, M)."""
    q_BAND, k_BAMD = split_heads(q_BNC, heads), split_heads(k_BMC, heads)
    # the scale goes on the smallest of the three: M·C products, not N·C or N·M·A
    return q_BAND @ (k_BAMD * k_BAMD.shape[-1] ** -0.5).transpose(-2, -1)


def attend(q_BNC: Tensor, k_BMC: Tensor, v_BMC: Tensor, heads: int) -> Tensor:
    """Left term of equation 2, softmax(q kᵀ / √d) v for each head: (B, N, C)."""
    map_BANM = scores(q_BNC, k_BMC, heads).softmax(-1)
    return merge_heads(map_BANM @ split_heads(v_BMC, heads))


def upsample(
    v_BMC: Tensor,
    up_weight: Tensor,
    up_bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    size: tuple[int, int],
    reduction: int,
    eps: float = 1e-6,
) -> Tensor:
    """Right term of equation 2, LayerNorm(PixelShuffle(DWConv3x3(v))): (B, N, C).

    Where r does not divide H or W the shuffled map is larger than the feature map; the rest is cropped.

    Args:
        v_BMC: values on the key grid.
        up_weight: (C·r², 1, 3, 3), r² filters a channel, channel-major as PixelShuffle wants them.
        up_bias: (C·r²,) or None.
        norm_weight, norm_bias: (C,).
        size: H, W of the feature map.
    """
    grid = ceil_div(size, reduction)
    v_BChw = v_BMC.unflatten(1, grid).permute(0, 3, 1, 2)  # known as channels last, for one image too
    up_BCHW = F.conv2d(v_BChw, up_weight, up_bias, padding=1, groups=v_BMC.shape[-1])
    up_BCHW = F.pixel_shuffle(up_BCHW, reduction)[..., : size[0], : size[1]]
    up_BNC = up_BCHW.flatten(2).transpose(1, 2)
    return F.layer_norm(up_BNC, norm_weight.shape, norm_weight, norm_bias, eps)


def emsa_upsample(
    q_BNC: Tensor,
    k_BMC: Tensor,
    v_BMC: Tensor,
    up_weight: Tensor,
    up_bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    heads: int,
    size: tuple[int, int],
    reduction: int,
    eps: float = 1e-6,
    window: int | None = None,
) -> Tensor:
    """Sum of both terms of equation 2: (B, N, C). Arguments are those of `attend` and `upsample`.

    Args:
        window: side of the windows that a map is cut into, each with keys and values as an image has them, so that
            k and v have one after the other: (S, ceil(w/r)², C), S = B·ceil(H/w)·ceil(W/w). None: the whole map.

    Raises:
        ValueError: the shapes do not fit `size` and `reduction`.
    """
    if window:
        others = (k_BMC, v_BMC, up_weight, up_bias, norm_weight, norm_bias)
        geometry = {"heads": heads, "size": (window, window), "reduction": reduction, "eps": eps}
        q_SMC = partition(pad(q_BNC, size, window), window)
        return reverse(emsa_upsample(q_SMC, *others, **geometry), size, window)  # type: ignore[arg-type]
    grid = ceil_div(size, reduction)
    if q_BNC.shape[1] != size[0] * size[1] or v_BMC.shape[1] != grid[0] * grid[1]:
        raise ValueError(
            f"{q_BNC.shape[1]} queries and {v_BMC.shape[1]} keys do not fit a map of {size} with reduction {reduction}"
        )
    up_BNC = upsample(v_BMC, up_weight, up_bias, norm_weight, norm_bias, size, reduction, eps)
    return torch.add(attend(q_BNC, k_BMC, v_BMC, heads), up_BNC)


def gradients(
    grad_BNC: Tensor,
    q_BNC: Tensor,
    k_BMC: Tensor,
    v_BMC: Tensor,
    up_weight: Tensor,
    up_bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    heads: int,
    size: tuple[int, int],
    reduction: int,
    eps: float = 1e-6,
    window: int | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of the seven tensors that `emsa_upsample` takes, from the gradient of its result.

    They are explicit formulas, because torch.compile traces an operator's gradient, where autograd cannot be called.
    Nothing of the forward is needed but its inputs.
    """
    if window:
        others = (k_BMC, v_BMC, up_weight, up_bias, norm_weight, norm_bias)
        geometry = {"heads": heads, "size": (window, window), "reduction": reduction, "eps": eps}
        grad_SMC, q_SMC = (partition(pad(x, size, window), window) for x in (grad_BNC, q_BNC))
        grad_q_SMC, *rest = gradients(grad_SMC, q_SMC, *others, **geometry)  # type: ignore[arg-type]
        assert grad_q_SMC is not None
        return reverse(grad_q_SMC, size, window), *rest
    # the left term
    scale = (q_BNC.shape[-1] // heads) ** -0.5
    q_BAND, k_BAMD, v_BAMD = (split_heads(x, heads) for x in (q_BNC, k_BMC, v_BMC))
    grad_BAND = split_heads(grad_BNC, heads)
    map_BANM = scores(q_BNC, k_BMC, heads).softmax(-1)
    grad_map_BANM = grad_BAND @ v_BAMD.transpose(-2, -1)
    grad_score_BANM = torch._softmax_backward_data(grad_map_BANM, map_BANM, -1, map_BANM.dtype) * scale
    grad_q_BNC = merge_heads(grad_score_BANM @ k_BAMD)
    grad_k_BMC = merge_heads(grad_score_BANM.transpose(-2, -1) @ q_BAND)
    grad_v_BMC = merge_heads(map_BANM.transpose(-2, -1) @ grad_BAND)

    grad_of_v_BMC, *of_parameters = upsample_gradients(
        grad_BNC, v_BMC, up_weight, up_bias, norm_weight, norm_bias, size, reduction, eps
    )
    assert grad_of_v_BMC is not None
    return grad_q_BNC, grad_k_BMC, grad_v_BMC + grad_of_v_BMC, *of_parameters


def upsample_gradients(
    grad_BNC: Tensor,
    v_BMC: Tensor,
    up_weight: Tensor,
    up_bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    size: tuple[int, int],
    reduction: int,
    eps: float = 1e-6,
) -> tuple[Tensor | None, ...]:
    """Gradients of the five tensors that `upsample` takes, from the gradient of its result."""
    wide = torch.promote_types(grad_BNC.dtype, torch.float32)  # LayerNorm's sums overflow in half precision
    grid, channels = ceil_div(size, reduction), v_BMC.shape[-1]
    v_BChw = v_BMC.unflatten(1, grid).permute(0, 3, 1, 2).to(wide)
    weight = up_weight.to(wide)
    up_BCHW = F.conv2d(
        v_BChw, weight, None if up_bias is None else up_bias.to(wide), padding=1, groups=channels
    )
    up_BCHW = F.pixel_shuffle(up_BCHW, reduction)[..., : size[0], : size[1]]
    up_BNC = up_BCHW.flatten(2).transpose(1, 2)
    gamma, beta = norm_weight.to(wide), norm_bias.to(wide)
    _, mean, rstd = torch.native_layer_norm(up_BNC, gamma.shape, gamma, beta, eps)
    grad_up_BNC, grad_gamma, grad_beta = torch.ops.aten.native_layer_norm_backward(
        grad_BNC.to(wide), up_BNC, gamma.shape, mean, rstd, gamma, beta, [True] * 3
    )
    grad_up_BCHW = grad_up_BNC.transpose(1, 2).unflatten(2, size)
    cropped = (0, grid[1] * reduction - size[1], 0, grid[0] * reduction - size[0])
    grad_up_BCHW = F.pixel_unshuffle(F.pad(grad_up_BCHW, cropped), reduction)
    grad_v_BChw, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        *(grad_up_BCHW, v_BChw, weight, None if up_bias is None else [len(up_bias)]),
        *([1, 1], [1, 1], [1, 1], False, [0, 0], channels, [True, True, up_bias is not None]),
    )
    return (
        grad_v_BChw.flatten(2).transpose(1, 2).to(v_BMC.dtype),
        grad_weight.to(up_weight.dtype),
        None if up_bias is None else grad_bias.to(up_bias.dtype),
        *(grad_gamma.to(norm_weight.dtype), grad_beta.to(norm_bias.dtype)),
    )
