"""The fused reduction inside windows: a strided depthwise convolution whose taps stay inside their window.

The map is neither padded nor cut: a tap outside of the map or of its window is no load.

# H W feature map, C channels, R reduction, K = R + 1 the kernel's side, h w cells of a window, M = h·w
"""

# no `from __future__ import annotations`: Triton 3.1's interpreter then takes a constexpr for a tensor
import triton.language as tl

from kernels import assembler
from kernels.emsa_upsample.regions import region


@assembler.jit(do_not_specialize=["H", "W", "h", "w", "side", "tiles"])
def window_reduce(
    x,  # (B, N, C), channels contiguous
    taps,  # (K², C) weights, contiguous
    bias,  # (C,); not read without HAS_BIAS
    out,  # (S, M, C), contiguous, written: windows of an image row by row
    x_b,
    x_n,
    H,
    W,
    h,
    w,
    side,  # of the windows
    tiles,  # of a window's cells
    C: tl.constexpr,
    R: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """CELLS cells of one window, CHANNELS channels at a time."""
    BLOCKS: tl.constexpr = (C + CHANNELS - 1) // CHANNELS
    K: tl.constexpr = R + 1
    block = tl.program_id(0) % BLOCKS
    tile = tl.program_id(0) // BLOCKS % tiles
    unit = tl.program_id(0) // (BLOCKS * tiles)
    image, top, left, bottom, right = region(unit, H, W, side, True)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < C
    cell = tile * CELLS + tl.arange(0, CELLS)
    y0 = top + cell // w * R - R // 2
    x0 = left + cell % w * R - R // 2
    x += image.to(tl.int64) * x_b
    total = tl.zeros((CELLS, CHANNELS), tl.float32)
    for i in range(K):
        y = y0 + i
        for j in tl.static_range(K):
            column = x0 + j
            inside = (y >= top) & (y < bottom) & (column >= left) & (column < right)
            at = x + ((y * W + column) * x_n)[:, None] + channel[None, :]
            value = tl.load(at, mask=inside[:, None] & known[None, :], other=0.0)
            weight = tl.load(taps + (i * K + j) * C + channel, mask=known, other=0.0)
            total += value.to(tl.float32) * weight.to(tl.float32)[None, :]
    if HAS_BIAS:
        total += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    out += (unit.to(tl.int64) * (h * w) * C) + (cell * C)[:, None] + channel[None, :]
    tl.store(out, total.to(out.dtype.element_ty), mask=(cell < h * w)[:, None] & known[None, :])
