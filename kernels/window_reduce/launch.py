"""Running the kernels: a call and tiles to the reduction inside windows, or to its gradients. Nothing is checked here.

# B batch, N tokens, S windows in all images, M cells of a window, C channels, K side of the convolution's kernel
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from kernels.arguments import laid_out, readable, zeros
from kernels.device import current, loop_bound, multiprocessors
from kernels.emsa_upsample.cost import ceil_div, windows_of
from kernels.gpus import shares
from kernels.window_reduce import backward, forward, tuning


class Call(NamedTuple):
    """The arguments of one call, in the operator's order. A FLOP formula is given shapes in place of tensors."""

    x: Tensor  # (B, N, C)
    weight: Tensor  # (C, 1, r+1, r+1)
    bias: Tensor | None  # (C,)
    height: int
    width: int
    reduction: int
    window: int

    @property
    def size(self) -> tuple[int, int]:
        """H, W of the feature map."""
        return self.height, self.width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the cells of a window."""
        return ceil_div((self.window, self.window), self.reduction)

    @property
    def geometry(self) -> tuple[int, ...]:
        """H, W, rows and columns of a window's cells, and its side, as the kernels take them."""
        return *self.size, *self.grid, self.window


def made(call: Call) -> Tensor:
    """Room for the result: (S, M, C)."""
    batch, _, channels = call.x.shape
    shape = (batch * windows_of(call.size, call.window), math.prod(call.grid), channels)
    return torch.empty(shape, dtype=call.x.dtype, device=call.x.device)


def launch(config: tuning.Config, call: Call) -> Tensor:
    """The reduced tokens: (S, M, C)."""
    out = made(call)
    if out.numel() == 0:
        return out
    x, _, bias = laid_out(call, 1, 3)[:3]
    taps, tiles = _taps(call), triton.cdiv(math.prod(call.grid), config.cells)
    with current(x):
        forward.window_reduce[(triton.cdiv(x.shape[-1], config.channels) * tiles * len(out),)](
            *(x, taps, taps if bias is None else bias, out),  # a pointer is wanted also where it is not read
            *(x.stride(0), x.stride(1), *call.geometry, tiles),
            **tuning.constants(config, x.shape[-1], call.reduction),
            HAS_BIAS=bias is not None,
        )
    return out


def launch_backward(config: tuning.Backward, call: Call, grad_SMC: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of tokens, weight and bias, in the dtypes of these."""
    _, weight, bias = call[:3]
    x, grad = readable(call[:1], grad_SMC)
    if x.numel() == 0:
        return zeros(call[:3])
    channels, cells, side = x.shape[-1], math.prod(call.grid), call.reduction + 1
    with current(x):
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        tile = config.tokens
        tiles = triton.cdiv(cells, tile.cells)
        backward.window_reduce_tokens[(triton.cdiv(channels, tile.channels) * tiles * len(grad),)](
            *(grad, _taps(call), dx, grad.stride(0), grad.stride(1), *call.geometry, tiles),
            **tuning.constants(tile, channels, call.reduction),
        )
        tile = config.filters
        tiles = triton.cdiv(cells, tile.cells)
        others = triton.cdiv(channels, tile.channels) * side**2 * tiles
        windows, parts = shares(len(grad), others, tile.per_sm, multiprocessors(x.device))
        dtaps = torch.empty((parts, tiles, side**2, channels), dtype=torch.float32, device=x.device)
        backward.window_reduce_filters[(others * parts,)](
            *(grad, x, dtaps, grad.stride(0), grad.stride(1), x.stride(0), x.stride(1), *call.geometry),
            *(len(grad), tiles, loop_bound(windows)),
            **tuning.constants(tile, channels, call.reduction),
        )
    return (
        dx,
        dtaps.sum((0, 1)).t().reshape(weight.shape).to(weight.dtype),
        None if bias is None else grad.sum((0, 1), dtype=torch.float32).to(bias.dtype),
    )


def _taps(call: Call) -> Tensor:
    """The weights as the kernels want them, (K², C), in the tokens' dtype: under autocast a convolution casts them."""
    return call.weight.flatten(1).t().to(call.x.dtype).contiguous()
