"""The fused gradients of the reduction inside windows: of the tokens, and of the filters.

Nothing is padded, cut or put back: a tap outside of the map or of its window is no load. A program owns what it writes.

# H W feature map, C channels, R reduction, K = R + 1 the kernel's side, h w cells of a window, M = h·w
# tap (i, j) of cell (row, column) is at the window's pixel (row·R + i - R/2, column·R + j - R/2)
"""

# no `from __future__ import annotations`: Triton 3.1's interpreter then takes a constexpr for a tensor
import triton
import triton.language as tl

from kernels import assembler
from kernels.emsa_upsample.regions import region


@triton.jit
def _cells(grad, row, column, h, w, grad_m, channel, known):
    """The gradient of cells in fp32, zero where there is none: (CELLS, CHANNELS)."""
    is_cell = (row < h) & (column < w)
    at = grad + ((row * w + column) * grad_m)[:, None] + channel[None, :]
    return tl.load(at, mask=is_cell[:, None] & known[None, :], other=0.0).to(tl.float32)


@triton.jit
def _tap(taps, i, j, channel, known, C: tl.constexpr, K: tl.constexpr):
    """The filters' values at a tap in fp32: (1, CHANNELS)."""
    return tl.load(taps + (i * K + j) * C + channel, mask=known, other=0.0).to(tl.float32)[None, :]


@assembler.jit(do_not_specialize=["H", "W", "h", "w", "side", "tiles"])
def window_reduce_tokens(
    grad,  # (S, M, C), channels contiguous: windows of an image row by row
    taps,  # (K², C) weights, contiguous
    dx,  # (B, N, C), contiguous, written
    grad_s,
    grad_m,
    H,
    W,
    h,
    w,
    side,  # of the windows
    tiles,  # of a window's cells
    C: tl.constexpr,
    R: tl.constexpr,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The R×R pixels of each of CELLS cells of one window, CHANNELS channels at a time.

    Pixel (i, j) of a cell is at the cell's own tap (i + R/2, j + R/2), and, where there are such taps, at (i - R/2, ..)
    of the cell below, at (.., j - R/2) of the cell to the right, and at both of the one below that.
    """
    BLOCKS: tl.constexpr = (C + CHANNELS - 1) // CHANNELS
    K: tl.constexpr = R + 1
    HALF: tl.constexpr = R // 2
    block = tl.program_id(0) % BLOCKS
    tile = tl.program_id(0) // BLOCKS % tiles
    unit = tl.program_id(0) // (BLOCKS * tiles)
    image, top, left, bottom, right = region(unit, H, W, side, True)
    cell = tile * CELLS + tl.arange(0, CELLS)
    row, column = cell // w, cell % w
    if top + tile * CELLS // w * R >= bottom:
        return  # nothing but padding
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < C
    grad += unit.to(tl.int64) * grad_s
    dx += image.to(tl.int64) * H * W * C
    for i in range(R):
        # pixels above the middle of a cell are its own rows', those below are the next row's, the middle is both's
        below = (i + HALF - 1) // R  # 1 where i > HALF, else 0
        first = i + HALF - below * R
        g = _cells(grad, row + below, column, h, w, grad_m, channel, known)
        g_right = _cells(grad, row + below, column + 1, h, w, grad_m, channel, known)
        middle = known & (i == HALF)
        other = _cells(grad, row + 1, column, h, w, grad_m, channel, middle)
        other_right = _cells(grad, row + 1, column + 1, h, w, grad_m, channel, middle)
        y = top + row * R + i
        for j in tl.static_range(R):
            total = tl.zeros((CELLS, CHANNELS), tl.float32)
            if j <= HALF:
                total += g * _tap(taps, first, j + HALF, channel, known, C, K)
                total += other * _tap(taps, 0, j + HALF, channel, middle, C, K)
            if j >= HALF:
                total += g_right * _tap(taps, first, j - HALF, channel, known, C, K)
                total += other_right * _tap(taps, 0, j - HALF, channel, middle, C, K)
            x = left + column * R + j
            inside = (row < h) & (y < bottom) & (x < right)
            at = dx + ((y * W + x) * C)[:, None] + channel[None, :]
            tl.store(at, total.to(dx.dtype.element_ty), mask=inside[:, None] & known[None, :])


@assembler.jit(do_not_specialize=["H", "W", "h", "w", "side", "units", "tiles", "turns"])
def window_reduce_filters(
    grad,  # (S, M, C), channels contiguous: windows of an image row by row
    x,  # (B, N, C), channels contiguous
    dtaps,  # (parts, tiles, K², C) fp32, contiguous, written
    grad_s,
    grad_m,
    x_b,
    x_n,
    H,
    W,
    h,
    w,
    side,  # of the windows
    units,  # S
    tiles,  # of a window's cells
    turns,  # windows of a part
    C: tl.constexpr,
    R: tl.constexpr,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One tap of CHANNELS channels: the sum over some cells of all windows of a part."""
    BLOCKS: tl.constexpr = (C + CHANNELS - 1) // CHANNELS
    K: tl.constexpr = R + 1
    block = tl.program_id(0) % BLOCKS
    tap = tl.program_id(0) // BLOCKS % (K * K)
    share = tl.program_id(0) // (BLOCKS * K * K)  # a tile of the cells in a part of the windows
    tile, part = share % tiles, share // tiles
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < C
    cell = tile * CELLS + tl.arange(0, CELLS)
    is_cell = cell < h * w
    down, across = cell // w * R + tap // K - R // 2, cell % w * R + tap % K - R // 2
    is_cell = is_cell & (down >= 0) & (across >= 0)
    total = tl.zeros((CELLS, CHANNELS), tl.float32)
    for turn in range(turns):
        unit = part * turns + turn
        image, top, left, bottom, right = region(unit, H, W, side, True)
        inside = is_cell & (top + down < bottom) & (left + across < right) & (unit < units)
        mask = inside[:, None] & known[None, :]
        at = image.to(tl.int64) * x_b + (((top + down) * W + left + across) * x_n)[:, None] + channel[None, :]
        value = tl.load(x + at, mask=mask, other=0.0)
        at = unit.to(tl.int64) * grad_s + (cell * grad_m)[:, None] + channel[None, :]
        total += value.to(tl.float32) * tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(dtaps + (share * K * K + tap) * C + channel, tl.sum(total, 0), mask=known)
