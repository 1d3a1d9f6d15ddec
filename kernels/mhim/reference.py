"""Attention with the multi-head interaction module in plain PyTorch: the one reference, and the models' eager path.

    out = Norm(softmax(Mix(q kᵀ / √d))) v + LayerNorm(PixelShuffle(DWConv3x3(v)))

Equation 1 of the paper, with or without the upsample branch of equation 2. Mix is a 1×1 convolution across the heads,
Norm an InstanceNorm without affine over a head's map of N×M.

# B batch, H W feature map, N = H·W queries, M = ceil(H/r)·ceil(W/r) keys, C = A·D channels
# A heads, D head width, r spatial reduction
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.emsa_upsample import reference
from kernels.emsa_upsample.reference import merge_heads, split_heads

NORM_EPS = 1e-5  # InstanceNorm's own


def instance_norm(map_BANM: Tensor) -> Tensor:
    """`nn.InstanceNorm2d` without affine, which also takes a map of one element, as a 32×32 image has in stage 4."""
    return torch.instance_norm(
        map_BANM, None, None, None, None, True, 0.1, NORM_EPS, torch.backends.cudnn.enabled
    )


def attend(
    q_BNC: Tensor, k_BMC: Tensor, v_BMC: Tensor, heads: int, mix: Callable[[Tensor], Tensor]
) -> Tensor:
    """Attention with MHIM, equation 1: (B, N, C).

    Args:
        mix: the convolution across heads of the scores, (B, A, N, M) to the same.
    """
    map_BANM = mix(reference.scores(q_BNC, k_BMC, heads)).softmax(-1)
    return merge_heads(instance_norm(map_BANM) @ split_heads(v_BMC, heads))


def mhim(
    q_BNC: Tensor,
    k_BMC: Tensor,
    v_BMC: Tensor,
    mix_weight: Tensor,
    mix_bias: Tensor | None,
    up_weight: Tensor | None = None,
    up_bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    heads: int,
    size: tuple[int, int],
    reduction: int,
    eps: float = 1e-6,
) -> Tensor:
    """Attention with MHIM and, where there are filters for it, the upsample branch: (B, N, C).

    Args:
        mix_weight: (A, A, 1, 1); mix_bias: (A,) or None, which the softmax cancels.
        up_weight: None leaves the branch out; else it and the rest are those of `reference.upsample`.
    """
    out = attend(q_BNC, k_BMC, v_BMC, heads, lambda x: F.conv2d(x, mix_weight, mix_bias))
    if up_weight is None:
        return out
    assert norm_weight is not None
    assert norm_bias is not None
    return out + reference.upsample(v_BMC, up_weight, up_bias, norm_weight, norm_bias, size, reduction, eps)


def attend_gradients(
    grad_BNC: Tensor, q_BNC: Tensor, k_BMC: Tensor, v_BMC: Tensor, mix_weight: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the weight of the convolution, from the gradient of `attend`'s result; in fp32.

    That of the convolution's bias is zero: it adds the same to all that a softmax is of.
    """
    scale = (q_BNC.shape[-1] // heads) ** -0.5
    q, k, v, grad = (split_heads(x, heads) for x in (q_BNC, k_BMC, v_BMC, grad_BNC))
    score_BANM = q @ (k * scale).transpose(-2, -1)
    share_BANM = torch.einsum("oa,banm->bonm", mix_weight[:, :, 0, 0], score_BANM).softmax(-1)
    off_BANM = share_BANM - 1 / k.shape[2]  # what a row's shares sum to is known, and so is a map's mean
    rstd_BA11 = (off_BANM.square().mean((-2, -1), keepdim=True) + NORM_EPS).rsqrt()
    normed_BANM = off_BANM * rstd_BA11
    grad_v = normed_BANM.transpose(-2, -1) @ grad
    grad_normed = grad @ v.transpose(-2, -1)
    # its mean over the map is left out: to a row of shares it adds the same, which a softmax's gradient takes away
    grad_share = rstd_BA11 * (grad_normed - normed_BANM * (normed_BANM * grad_normed).mean((-2, -1), True))
    grad_mixed = torch._softmax_backward_data(grad_share, share_BANM, -1, share_BANM.dtype)
    grad_mix = torch.einsum("bonm,banm->oa", grad_mixed, score_BANM)[:, :, None, None]
    grad_score = torch.einsum("oa,bonm->banm", mix_weight[:, :, 0, 0], grad_mixed) * scale
    grad_q, grad_k = grad_score @ k, grad_score.transpose(-2, -1) @ q
    return merge_heads(grad_q), merge_heads(grad_k), merge_heads(grad_v), grad_mix


def gradients(
    grad_BNC: Tensor,
    q_BNC: Tensor,
    k_BMC: Tensor,
    v_BMC: Tensor,
    mix_weight: Tensor,
    mix_bias: Tensor | None,
    up_weight: Tensor | None,
    up_bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    *,
    heads: int,
    size: tuple[int, int],
    reduction: int,
    eps: float = 1e-6,
) -> tuple[Tensor | None, ...]:
    """Gradients of the nine tensors that `mhim` takes, from the gradient of its result, in ATen operators.

    They are computed in fp32 at least: half precision leaves nothing of a map that is almost flat.
    """
    wide = torch.promote_types(grad_BNC.dtype, torch.float32)
    grad, q, k, v, weight = (x.to(wide) for x in (grad_BNC, q_BNC, k_BMC, v_BMC, mix_weight))
    grad_q, grad_k, grad_v, grad_mix = attend_gradients(grad, q, k, v, weight, heads)
    of_branch: tuple[Tensor | None, ...] = (None,) * 4
    if up_weight is not None:
        assert norm_weight is not None
        assert norm_bias is not None
        grad_of_v, *of_branch = reference.upsample_gradients(  # type: ignore[assignment]
            grad, v, up_weight, up_bias, norm_weight, norm_bias, size, reduction, eps
        )
        grad_v = grad_v + grad_of_v
    return (
        *(grad_q.to(q_BNC.dtype), grad_k.to(k_BMC.dtype), grad_v.to(v_BMC.dtype)),
        grad_mix.to(mix_weight.dtype),
        None if mix_bias is None else torch.zeros_like(mix_bias),
        *of_branch,
    )
