"""The fused backward of MHIM as a launch of its kernels: gradients of the nine tensors from these and grad.

# B batch, N queries, M keys, C = A·D channels, A heads
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from kernels.arguments import readable, zeros
from kernels.device import current, loop_bound, multiprocessors, upcasts
from kernels.emsa_upsample import backward as core
from kernels.emsa_upsample.backward_tuning import Attention
from kernels.emsa_upsample.tuning import powers_of_two
from kernels.gpus import shares
from kernels.mhim import backward_maps, reference
from kernels.mhim.backward_tuning import Config
from kernels.mhim.launch import TENSORS, Call

LARGEST = 2.0**14  # of what a kernel leaves in fp16, which holds four times as much
LEAST = 1e-30  # of what is divided by, where a gradient is zero


def launch_backward(config: Config, call: Call, grad_BNC: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of the nine tensors of a `Call`, in the dtypes of these. Nothing is checked."""
    q, k, v, grad = readable(call[:3], grad_BNC)
    if q.numel() == 0:
        return zeros(call[:TENSORS])
    with current(q):
        dq, dkv_BsMTC, dmix_AA = _attention(config, call, q, k, v, grad)
        dseen: Tensor | None = None
        of_branch: Sequence[Tensor | None] = (None,) * 4
        if call.has_branch:
            dseen, *of_branch = core.of_branch(config, call.of_core(), v, grad)
        return (
            *(dq, *core.joined(dkv_BsMTC, dseen, k, call)),
            dmix_AA.view(call.mix_weight.shape).to(call.mix_weight.dtype),
            None if call.mix_bias is None else torch.zeros_like(call.mix_bias),  # the softmax cancels it
            *of_branch,
        )


def _attention(
    config: Config, call: Call, q: Tensor, k: Tensor, v: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """dq (B, N, C), sums for dk and dv (B, splits, M, 2, C), and dmix (A, A)."""
    (batch, queries, channels), heads, keys = q.shape, call.heads, call.keys
    mix, root, after, before = (
        call.mix_weight.contiguous(),
        call.head_dim**-0.5,
        config.attention,
        config.scores,
    )
    tiles, blocks = triton.cdiv(queries, after.block_q), triton.cdiv(keys, after.block_k)
    turns, splits = shares(tiles, batch * heads * blocks, after.per_sm, multiprocessors(q.device))
    first, second = powers_of_two(call.head_dim)

    def tiled(tile: Attention) -> dict[str, Any]:
        return {
            **{"N": queries, "M": keys, "A": heads, "D": call.head_dim, "D0": first, "D1": second},
            **{"BLOCK_Q": tile.block_q, "BLOCK_K": tile.block_k, "num_warps": tile.num_warps},
            "UPCAST": upcasts(q),
        }

    def single(*sizes: int) -> Tensor:
        return torch.empty(sizes, dtype=torch.float32, device=q.device)

    of_q, of_k = {"q_b": q.stride(0), "q_n": q.stride(1)}, {"k_b": k.stride(0), "k_m": k.stride(1)}
    shared = {
        **{**tiled(after), **of_q, **of_k, "v_b": v.stride(0), "v_m": v.stride(1)},
        **{"grad_b": grad.stride(0), "grad_n": grad.stride(1)},
        **{"KEYS_FIT": blocks == 1, "scale": math.log2(math.e) * root},
    }
    sums_BAt3 = single(batch, heads, tiles, 3)
    rows = (
        single(batch, heads, queries, 4) if blocks > 1 else sums_BAt3
    )  # a pointer is wanted also where unread
    backward_maps.mhim_sums[(tiles * heads * batch,)](
        *(q, k, v, mix, grad, rows, sums_BAt3), **shared, tiles=tiles, key_blocks=loop_bound(blocks)
    )
    norm_BA3, weights_BAA, most_mixed_BA, most_BA = _of_maps(
        sums_BAt3, mix.view(heads, heads), queries * keys
    )
    maps = torch.empty((batch, heads, queries, blocks * after.block_k), dtype=q.dtype, device=q.device)
    dkv = single(batch, splits, keys, 2, channels)
    programs = splits * heads * blocks * batch
    backward_maps.mhim_maps[(programs,)](
        *(q, k, v, mix, grad, rows, norm_BA3, maps, dkv),
        **{**shared, "splits": splits, "turns": loop_bound(turns), "STAGES": after.stages},
    )

    units_BA = most_BA * (root / LARGEST)
    dq = torch.empty((batch, queries, channels), dtype=q.dtype, device=q.device)
    dmix = single(batch, splits, blocks, heads, heads)
    tiles = triton.cdiv(queries, before.block_q)
    backward_maps.mhim_scores[(programs,)](
        *(q, k, maps, weights_BAA, units_BA, dq, dkv, dmix),
        **{**tiled(before), **of_q, **of_k, "A2": triton.next_power_of_2(heads), "KEYS_FIT": blocks == 1},
        **{"splits": splits, "turns": loop_bound(triton.cdiv(tiles, splits)), "STAGES": before.stages},
    )
    if blocks > 1:
        backward_maps.mhim_queries[(tiles * heads * batch,)](
            *(k, maps, weights_BAA, units_BA, dq),
            **{
                **tiled(before),
                **of_k,
                "tiles": tiles,
                "key_blocks": loop_bound(blocks),
                "STAGES": before.stages,
            },
        )
    # by the head before the mixing, then the one after it, and to be the other way about
    dmix_AA = (dmix.sum((1, 2)).mT * (most_mixed_BA * (root / LARGEST))[..., None]).sum(0)
    return dq, dkv, dmix_AA


def _of_maps(sums_BAt3: Tensor, mix_AA: Tensor, entries: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numbers of whole maps for the kernels: how to norm, and how to keep gradients of any size in fp16's range.

    Args:
        sums_BAt3: of tiles: Σ off², Σ off · dnormed, the largest |dnormed|.
        mix_AA: by head after the mixing, then before it.
        entries: of a map.

    Returns:
        norm: (B, A, 3), 1/σ; how far dnormed is pulled, a unit of off; what dmixed is multiplied by.
        weights: (B, A, A), of the map of each head after the mixing in the dscore of each before it, whose sum is 1.
        most_mixed: (B, A), which no |dmixed| exceeds, and is `LARGEST` where a kernel leaves it.
        most: (B, A), the same of dscore.
    """
    squares_BA, products_BA = (sums_BAt3[..., :2].sum(2) / entries).unbind(-1)
    rstd_BA = (squares_BA + reference.NORM_EPS).rsqrt()
    pull_BA = rstd_BA.square() * products_BA
    # dmixed = share · 1/σ · (dnormed - pull · off, less its mean), and neither share nor |off| is more than 1
    most_mixed_BA = (2 * rstd_BA * (sums_BAt3[..., 2].amax(2) + pull_BA.abs())).clamp_min(LEAST)
    weights_BAA = mix_AA.float() * most_mixed_BA[..., None]
    most_BA = weights_BAA.abs().sum(1).clamp_min(LEAST)
    norm_BA3 = torch.stack((rstd_BA, pull_BA, rstd_BA * (LARGEST / most_mixed_BA)), -1)
    return norm_BA3, weights_BAA / most_BA[:, None], most_mixed_BA, most_BA
