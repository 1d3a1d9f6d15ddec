"""The fused backward as a launch of its kernels: gradients of the seven tensors from q, k, v, the parameters and grad.

# B batch, N queries, M keys, C channels; S windows in all images, B where there are none
# patch, pixel, tap, and P, cells along a patch's side: as in backward_upsample.py
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import triton
from torch import Tensor

from kernels.arguments import readable, zeros
from kernels.device import current, loop_bound, multiprocessors, upcasts
from kernels.emsa_upsample import backward_attention, backward_upsample
from kernels.emsa_upsample.backward_tuning import PATCH_SIDE, Config, patch_grid, taps
from kernels.emsa_upsample.launch import Call
from kernels.emsa_upsample.tuning import powers_of_two
from kernels.gpus import shares


def launch_backward(config: Config, call: Call, grad_BNC: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of the seven tensors of a `Call`, in the dtypes of these. Nothing is checked."""
    q, k, v, grad = readable(call[:3], grad_BNC)
    if q.numel() == 0:
        return zeros(call[:7])
    with current(q):
        dq, dkv_SsMTC = _attention(config, call, q, k, v, grad)
        dseen, *of_parameters = of_branch(config, call, v, grad)
        return dq, *joined(dkv_SsMTC, dseen, k, call, **_windows(call)), *of_parameters


def of_branch(
    config: Config, call: Call, v: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    """The upsample term's part of dv, (pieces, patches, taps, C), and the gradients of its four parameters."""
    images, _, channels = grad.shape
    side, (rows, columns) = PATCH_SIDE[call.reduction], call.grid
    windows = _windows(call)
    patches = images * windows["down"] * windows["across"]
    filters = pack(call.up_weight.contiguous(), call.up_bias, call.reduction, v.dtype)
    gamma = call.norm_weight.contiguous()
    pixels = (side * call.reduction) ** 2
    statistics = torch.empty((patches, pixels, 4), dtype=torch.float32, device=v.device)
    shared: dict[str, Any] = {
        **{"v_b": v.stride(0), "v_m": v.stride(1), "grad_b": grad.stride(0), "grad_n": grad.stride(1)},
        **{"H": call.height, "W": call.width, "h": rows, "w": columns, "count": patches},
        **{"side": call.window or 0, **windows},
        **{"C": channels, "R": call.reduction, "P": side, "TAPS": taps(call.reduction)},
        "UPCAST": upcasts(v),
    }
    tile = config.statistics
    backward_upsample._statistics[(triton.cdiv(patches, tile.patches) * (pixels // tile.pixels),)](
        *(v, filters, gamma, grad, statistics),
        **shared,
        **{"eps": call.eps, "CHANNELS": tile.channels, "PATCHES": tile.patches, "PIXELS": tile.pixels},
        GROUPS=tile.num_warps,
        num_warps=tile.num_warps,
    )

    tile = config.upsample
    pieces, blocks = pixels // tile.pixels, channels // tile.channels
    tiles = triton.cdiv(patches, tile.patches)
    turns, parts = shares(tiles, pieces * blocks, tile.per_sm, multiprocessors(v.device))
    dseen = torch.empty((pieces, patches, (side + 2) ** 2, channels), dtype=v.dtype, device=v.device)
    dfilters = torch.empty((parts, *filters.shape), dtype=torch.float32, device=v.device)
    dnorm = torch.empty((parts * pieces, 2, channels), dtype=torch.float32, device=v.device)
    backward_upsample._upsample[(parts * pieces * blocks,)](
        *(v, filters, gamma, grad, statistics, dseen, dfilters, dnorm),
        **shared,
        turns=loop_bound(turns),
        **{"CHANNELS": tile.channels, "PATCHES": tile.patches, "PIXELS": tile.pixels, "STAGES": tile.stages},
        GROUPS=tile.num_warps,
        num_warps=tile.num_warps,
    )
    dweight, dbias = unpack(dfilters.sum(0), call.reduction)
    dgamma, dbeta = dnorm[:, 0].sum(0), dnorm[:, 1].sum(0)
    return (
        *(dseen, dweight.to(call.up_weight.dtype)),
        None if call.up_bias is None else dbias.to(call.up_bias.dtype),
        *(dgamma.to(call.norm_weight.dtype), dbeta.to(call.norm_bias.dtype)),
    )


def joined(
    dkv_SsMTC: Tensor, dseen: Tensor | None, k: Tensor, call: Any, **windows: Any
) -> tuple[Tensor, Tensor]:
    """dk and dv of the splits' sums, and of what the branch adds to dv, where there is one: both (S, M, C).

    Args:
        windows: as `_windows` has them; none where an image is one region.
    """
    dk, dv = (torch.empty(k.shape, dtype=k.dtype, device=k.device) for _ in range(2))
    (units, keys, channels), side, cells = k.shape, PATCH_SIDE[call.reduction], 16
    pieces, patches = (0, 0) if dseen is None else dseen.shape[:2]
    backward_upsample._keys[(units * triton.cdiv(keys, cells) * triton.cdiv(channels, 64),)](
        *(
            dkv_SsMTC,
            dk if dseen is None else dseen,
            dk,
            dv,
            *call.grid,
            patches,
            loop_bound(dkv_SsMTC.shape[1]),
        ),
        **{"C": channels, "P": side, "PIECES": pieces, "CHANNELS": 64, "CELLS": cells},
        **windows,
    )
    return dk, dv


def _windows(call: Call) -> dict[str, Any]:
    """How the patches of a map lie, and whether it is in windows, for the branch's kernels."""
    down, across = patch_grid(call.size, call.reduction, call.window)
    return {"down": down, "across": across, "WINDOWED": call.window is not None}


def _attention(
    config: Config, call: Call, q: Tensor, k: Tensor, v: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """dq (B, N, C), and sums for dk and dv (S, splits, M, 2, C)."""
    (batch, queries, channels), (units, keys, _), tile = q.shape, k.shape, config.attention
    first, second = powers_of_two(call.head_dim)
    shared: dict[str, Any] = {
        **{"q_b": q.stride(0), "q_n": q.stride(1), "k_b": k.stride(0), "k_m": k.stride(1)},
        **{"v_b": v.stride(0), "v_m": v.stride(1), "grad_b": grad.stride(0), "grad_n": grad.stride(1)},
        **{"N": queries, "M": keys, "scale": call.head_dim**-0.5},
        **{"A": call.heads, "D": call.head_dim, "D0": first, "D1": second},
        **{"BLOCK_Q": tile.block_q, "BLOCK_K": tile.block_k, "STAGES": tile.stages},
        "UPCAST": upcasts(q),
        "num_warps": tile.num_warps,
    }
    dq = torch.empty((batch, queries, channels), dtype=q.dtype, device=q.device)
    largest = prod(min(side, call.window or side) for side in call.size)  # of the regions
    key_blocks, tiles = triton.cdiv(keys, tile.block_k), triton.cdiv(largest, tile.block_q)
    softmax = dq  # a pointer is wanted also where it is not read
    if key_blocks > 1:
        softmax = torch.empty((batch, call.heads, queries, 2), dtype=torch.float32, device=q.device)
        backward_attention._queries[(tiles * call.heads * batch,)](
            *(q, k, v, grad, softmax, dq), tiles=tiles, key_blocks=loop_bound(key_blocks), **shared
        )
    turns, splits = shares(tiles, units * call.heads * key_blocks, tile.per_sm, multiprocessors(q.device))
    dkv = torch.empty((units, splits, keys, 2, channels), dtype=torch.float32, device=q.device)
    backward_attention._attention[(splits * call.heads * key_blocks * units,)](
        *(q, k, v, grad, softmax, dq, dkv),
        **{"splits": splits, "turns": loop_bound(turns), "KEYS_FIT": key_blocks == 1},
        **{"H": call.height, "W": call.width, "side": call.window or 0, "WINDOWED": call.window is not None},
        **shared,
    )
    return dq, dkv


def pack(up_weight: Tensor, up_bias: Tensor | None, reduction: int, dtype: torch.dtype) -> Tensor:
    """The convolution's filters for patches: (C, pixels, taps), a cell's filters once for each cell of the patch."""
    side, channels = PATCH_SIDE[reduction], len(up_weight) // reduction**2
    packed = up_weight.new_zeros((channels, (side * reduction) ** 2, taps(reduction)), dtype=dtype)
    weight, bias = _cells(packed, reduction)
    weight.copy_(up_weight.view(channels, 1, reduction, 1, reduction, 3, 3))
    if up_bias is not None:
        bias.copy_(up_bias.view(channels, 1, reduction, 1, reduction))
    return packed


def unpack(packed: Tensor, reduction: int) -> tuple[Tensor, Tensor]:
    """Transpose of `pack`: each filter and bias summed over the cells of the patch: (C·r², 1, 3, 3) and (C·r²,)."""
    weight, bias = (part.sum((1, 3)) for part in _cells(packed, reduction))
    return weight.view(-1, 1, 3, 3), bias.view(-1)


def _cells(packed: Tensor, reduction: int) -> tuple[Tensor, Tensor]:
    """Views of packed filters by the cells of a patch: (C, side, r, side, r, 3, 3), and of biases, without the 3×3."""
    side, (channels, pixels, width) = PATCH_SIDE[reduction], packed.shape
    row = side * reduction * width  # from a row of pixels to the next
    shape = (channels, side, reduction, side, reduction)
    # a cell further, and the window that its pixels see is a tap further
    weight = packed.as_strided(
        (*shape, 3, 3),
        (pixels * width, reduction * row + side + 2, row, reduction * width + 1, width, side + 2, 1),
    )
    return weight, packed[..., (side + 2) ** 2].view(shape)
