"""The fused backward of the upsample term, LayerNorm(PixelShuffle(DWConv3x3(v))), and the joining of dk and dv.

Triton only, so that any Triton can compile it without torch. README.md beside this file has the maths. A program owns
what it writes; sums over pixels, for the parameters, are one for each part of the patches.

# B batch, H W feature map, N = H·W queries, h w key grid: ceil(H/R), ceil(W/R), M = h·w cells of it, C channels
# unit: number of an image or, where maps are cut into windows, of a window. Each has keys of its own, as if it were an
# image: B of v, dk and dv is then the number of windows, h w the grid of one, and patches begin at its corner
# patch: P×P cells, and so E×E pixels, E = P·R, of which one at least is in the map; tap: one of the (P + 2)² cells that
# its pixels see, or, the last one, 1 for the bias. For each channel the convolution is a product, and so are its
# gradients:
#     u[patch, pixel] = Σ_tap seen[patch, tap] filters[tap, pixel]
# with a cell's filters laid out for each cell of the patch, so that there are 16 pixels as matrix units want.
"""

# a kernel's tuples grow by addition: Triton knows no *
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"
# no `from __future__ import annotations`: Triton 3.1's interpreter then takes a constexpr for a tensor
import triton
import triton.language as tl

from kernels import assembler
from kernels.emsa_upsample.backward_attention import _dot
from kernels.emsa_upsample.regions import region


@triton.jit
def _patches(
    first, count, h, w, down, across, P: tl.constexpr, PATCHES: tl.constexpr, WINDOWED: tl.constexpr
):
    """Unit, first row and first column of cells, and whether there is one, of patches counted through all images."""
    patch = first + tl.arange(0, PATCHES)
    rows, columns = tl.cdiv(h, P), tl.cdiv(w, P)
    if WINDOWED:
        row, column = patch % (down * across) // across, patch % across
        above = patch // (down * across) * tl.cdiv(down, rows) + row // rows  # rows of windows
        unit = above * tl.cdiv(across, columns) + column // columns
        return unit, row % rows * P, column % columns * P, patch < count
    else:
        each = rows * columns
        return patch // each, (patch % each) // columns * P, patch % columns * P, patch < count


@triton.jit
def _channels(block, CHANNELS: tl.constexpr, GROUPS: tl.constexpr):
    """Channels of a block, one of each group in turn.

    Warps share a stack of products in turn. So a warp has neighbours, which move between layouts together.
    """
    index = tl.arange(0, CHANNELS)
    return block * CHANNELS + index % GROUPS * (CHANNELS // GROUPS) + index // GROUPS


@triton.jit
def _channels_first(x, GROUPS: tl.constexpr):
    """(I, J, channels in memory's order) → (channels in that of `_channels`, I, J)."""
    shape: tl.constexpr = x.shape
    x = tl.reshape(x, (shape[0], shape[1], GROUPS, shape[2] // GROUPS))
    return tl.reshape(tl.permute(x, (3, 2, 0, 1)), (shape[2], shape[0], shape[1]))


@triton.jit
def _channels_last(x, GROUPS: tl.constexpr):
    """(channels in the order of `_channels`, I, J) → (I, J, channels in memory's order)."""
    shape: tl.constexpr = x.shape
    x = tl.reshape(x, (shape[0] // GROUPS, GROUPS, shape[1], shape[2]))
    return tl.reshape(tl.permute(x, (2, 3, 1, 0)), (shape[1], shape[2], shape[0]))


@triton.jit
def _seen(
    v,
    v_b,
    v_m,
    unit,
    row,
    column,
    there,
    block,
    h,
    w,
    P: tl.constexpr,
    TAPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """The cells that a patch's pixels see, then a one, then zeros: (channels, PATCHES, TAPS)."""
    PATCHES: tl.constexpr = row.shape[0]
    if CHANNELS * PATCHES < 32 * GROUPS:  # threads would load the same taps
        return _at_once(
            v, v_b, v_m, unit, row, column, there, block, h, w,
            P, TAPS, CHANNELS, GROUPS,
        )  # fmt: skip
    else:
        return _by_tap(
            v, v_b, v_m, unit, row, column, there, block, h, w,
            P, TAPS, PATCHES, CHANNELS, GROUPS,
        )  # fmt: skip


@triton.jit
def _at_once(
    v, v_b, v_m, unit, row, column, there, block, h, w,
    P: tl.constexpr, TAPS: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """`_seen` by one load, whose channels stand together. On their way to the product, taps meet in few banks."""
    tap = tl.arange(0, TAPS)
    y = row[:, None] + (tap // (P + 2))[None, :] - 1
    x = column[:, None] + (tap % (P + 2))[None, :] - 1
    is_cell = (y >= 0) & (y < h) & (x >= 0) & (x < w) & (tap < (P + 2) * (P + 2))[None, :] & there[:, None]
    at = v + (unit.to(tl.int64)[:, None] * v_b + (y * w + x) * v_m + block * CHANNELS)
    seen = tl.load(
        at[:, :, None] + tl.arange(0, CHANNELS)[None, None, :], mask=is_cell[:, :, None], other=0.0
    )
    one = (tap == (P + 2) * (P + 2))[None, :, None]
    seen = tl.where(one, tl.full(seen.shape, 1.0, tl.float32).to(seen.dtype), seen)
    return _channels_first(seen, GROUPS)


@triton.jit
def _by_tap(
    v, v_b, v_m, unit, row, column, there, block, h, w,
    P: tl.constexpr, TAPS: tl.constexpr, PATCHES: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """`_seen` put together tap by tap, so that it reaches the product without bank conflicts.

    A thread has all taps of one patch or more, of which one half stands beside the other: (PATCHES / 2, 2).
    """
    SIDE: tl.constexpr = P + 2
    channel = _channels(block, CHANNELS, GROUPS)[None, :, None]
    at = v + unit.to(tl.int64) * v_b
    at, there = _two_of(at, PATCHES), _two_of(there, PATCHES)
    row, column = _two_of(row, PATCHES), _two_of(column, PATCHES)
    zero = tl.zeros((PATCHES // 2, CHANNELS, 2), v.dtype.element_ty)
    # the interpreter fills nothing with bf16
    one = tl.full((PATCHES // 2, CHANNELS, 2), 1.0, tl.float32).to(v.dtype.element_ty)
    taps = ()
    for tap in tl.static_range(SIDE * SIDE):
        cell = _cell(at, row + tap // SIDE - 1, column + tap % SIDE - 1, there, channel, v_m, h, w)
        taps = taps + (cell,)
    taps = taps + (one,)
    for _ in tl.static_range(SIDE * SIDE + 1, TAPS):
        taps = taps + (zero,)
    all_taps = tl.reshape(_joined(taps, TAPS), (PATCHES // 2, CHANNELS, 2, TAPS))
    return tl.reshape(tl.permute(all_taps, (1, 2, 0, 3)), (CHANNELS, PATCHES, TAPS))


@triton.jit
def _joined(tensors, COUNT: tl.constexpr):
    """A tensor of 2ⁿ tensors, with n more dimensions of 2: the bits of a tensor's number, the highest first.

    Neighbours, joined last, share a register.
    """
    if COUNT == 1:
        return tensors[0]
    else:
        HALF: tl.constexpr = COUNT // 2
        pairs = ()
        for i in tl.static_range(HALF):
            pairs = pairs + (tl.join(tensors[i], tensors[i + HALF]),)
        return _joined(pairs, HALF)


@triton.jit
def _two_of(x, PATCHES: tl.constexpr):
    """(PATCHES,) → (PATCHES / 2, 2): the second half beside the first."""
    return tl.permute(tl.reshape(x, (2, PATCHES // 2)), (1, 0))


@triton.jit
def _cell(at, row, column, there, channel, v_m, h, w):
    """v at one cell of each patch, zero outside of the grid: (PATCHES / 2, channels, 2)."""
    is_cell = there & (row >= 0) & (row < h) & (column >= 0) & (column < w)
    at = at + (row * w + column) * v_m
    return tl.load(at[:, None, :] + channel, mask=is_cell[:, None, :], other=0.0)


@triton.jit
def _grad(
    grad,
    grad_b,
    grad_n,
    unit,
    row,
    column,
    there,
    first,
    block,
    H,
    W,
    side,
    P: tl.constexpr,
    R: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUPS: tl.constexpr,
    WINDOWED: tl.constexpr,
):
    """The gradient at the pixels of patches, from `first` on, zero where there is none: (channels, PATCHES, PIXELS)."""
    E: tl.constexpr = P * R
    pixel = first + tl.arange(0, PIXELS)
    y = row[:, None] * R + (pixel // E)[None, :]
    x = column[:, None] * R + (pixel % E)[None, :]
    image, top, left, bottom, right = region(unit[:, None], H, W, side, WINDOWED)
    y, x = top + y, left + x
    is_pixel = (y < bottom) & (x < right) & there[:, None]
    at = grad + (image.to(tl.int64) * grad_b + (y * W + x) * grad_n + block * CHANNELS)
    g = tl.load(at[:, :, None] + tl.arange(0, CHANNELS)[None, None, :], mask=is_pixel[:, :, None], other=0.0)
    return _channels_first(g, GROUPS).to(tl.float32)


@triton.jit
def _filters(filters, channel, first, EE: tl.constexpr, PIXELS: tl.constexpr, TAPS: tl.constexpr):
    """Filters of some pixels of a patch: (channels, TAPS, PIXELS)."""
    pixel = first + tl.arange(0, PIXELS)
    at = (
        (channel * (EE * TAPS))[:, None, None]
        + tl.arange(0, TAPS)[None, :, None]
        + (pixel * TAPS)[None, None, :]
    )
    return tl.load(filters + at)


@triton.jit
def _group_sums(x, GROUPS: tl.constexpr):
    """Sums over the channels of each group: (channels, I, J) → (GROUPS, I, J). No thread asks another."""
    shape: tl.constexpr = x.shape
    return tl.sum(tl.reshape(x, (shape[0] // GROUPS, GROUPS, shape[1], shape[2])), 0)


@triton.jit
def _thread_sums(x, y):
    """Sums over the rows and columns that a thread has of a product's tile: (channels, I, J) → (channels, 8, 4, 2).

    Of two tensors at once, so that both are summed in the layout of the one that is made of a product.
    """
    shape: tl.constexpr = x.shape
    both = tl.reshape(tl.join(x, y), (shape[0], shape[1] // 8, 8, shape[2] // 8, 4, 2, 2))
    return tl.sum(tl.sum(tl.sum(both, 5), 3), 1)


@assembler.jit(do_not_specialize=["H", "W", "h", "w", "count", "side", "down", "across"])
def _statistics(
    v,  # (B, M, C), channels contiguous
    filters,  # (C, E², TAPS), contiguous
    norm_weight,  # (C,)
    grad,  # (B, N, C), channels contiguous
    statistics,  # (patches, E², 4) fp32, contiguous, written
    v_b,
    v_m,
    grad_b,
    grad_n,
    H,
    W,
    h,
    w,
    count,  # patches of all images
    eps,
    C: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
    TAPS: tl.constexpr,
    CHANNELS: tl.constexpr,  # at a time
    PATCHES: tl.constexpr,
    PIXELS: tl.constexpr,
    GROUPS: tl.constexpr,
    UPCAST: tl.constexpr,
    side=0,  # of the windows, where there are any
    down=0,  # patches of a map in windows
    across=0,
    WINDOWED: tl.constexpr = False,
):
    """The statistics over all channels that the gradient of LayerNorm needs, for each pixel of a tile.

    With g = γ · grad and x = (u − mean u) / σ it is du = (g − mean g − x · mean(g x)) / σ. Written are mean u, 1/σ,
    mean g / σ, and mean(g x) / σ².
    """
    EE: tl.constexpr = P * R * P * R
    PIECES: tl.constexpr = EE // PIXELS
    EACH: tl.constexpr = C // GROUPS  # channels of a group
    first = tl.program_id(0) % PIECES * PIXELS
    start = tl.program_id(0) // PIECES * PATCHES
    unit, row, column, is_patch = _patches(start, count, h, w, down, across, P, PATCHES, WINDOWED)
    sum_u = tl.zeros((GROUPS, PATCHES, PIXELS), tl.float32)
    sum_g = tl.zeros((GROUPS, PATCHES, PIXELS), tl.float32)
    squares = tl.zeros((GROUPS, PATCHES, PIXELS), tl.float32)
    products = tl.zeros((GROUPS, PATCHES, PIXELS), tl.float32)
    near = tl.zeros((GROUPS, PATCHES, PIXELS), tl.float32)
    for block in range(C // CHANNELS):
        channel = _channels(block, CHANNELS, GROUPS)
        seen = _seen(
            v, v_b, v_m, unit, row, column, is_patch, block, h, w, P, TAPS, CHANNELS, GROUPS
        )  # fmt: skip
        u = _dot(
            seen,
            _filters(filters, channel, first, EE, PIXELS, TAPS),
            tl.zeros((CHANNELS, PATCHES, PIXELS), tl.float32),
            UPCAST,
        )
        g = _grad(
            grad, grad_b, grad_n, unit, row, column, is_patch, first, block, H, W, side, P, R, PIXELS, CHANNELS, GROUPS,
            WINDOWED,
        )  # fmt: skip
        g = g * tl.load(norm_weight + channel).to(tl.float32)[:, None, None]
        if block == 0:  # sums are of what is off a value near the mean: nothing cancels
            near = _group_sums(u, GROUPS) * (GROUPS / CHANNELS)
        shape: tl.constexpr = (CHANNELS // GROUPS, GROUPS, PATCHES, PIXELS)
        off = tl.reshape(tl.reshape(u, shape) - near[None, :, :, :], (CHANNELS, PATCHES, PIXELS))
        sum_u += _group_sums(off, GROUPS)
        sum_g += _group_sums(g, GROUPS)
        squares += _group_sums(off * off, GROUPS)
        products += _group_sums(off * g, GROUPS)
    # groups are joined as Chan, Golub and LeVeque do
    group_u = near + sum_u / EACH
    mean_u = tl.sum(group_u, 0) / GROUPS
    mean_g = tl.sum(sum_g, 0) / C
    squares -= sum_u * sum_u / EACH
    products -= sum_u * sum_g / EACH
    apart = group_u - mean_u[None, :, :]
    variance = tl.sum(squares + apart * apart * EACH, 0) / C
    covariance = tl.sum(products + apart * sum_g, 0) / C
    rstd = tl.rsqrt(variance + eps)
    patch = (start + tl.arange(0, PATCHES)).to(tl.int64)
    pixel = first + tl.arange(0, PIXELS)
    of_u, of_g = tl.join(mean_u, rstd), tl.join(mean_g * rstd, covariance * rstd * rstd * rstd)
    four = tl.reshape(tl.permute(tl.join(of_u, of_g), (0, 1, 3, 2)), (PATCHES, PIXELS, 4))
    at = (
        statistics + ((patch * EE)[:, None] + pixel[None, :])[:, :, None] * 4 + tl.arange(0, 4)[None, None, :]
    )
    tl.store(at, four, mask=is_patch[:, None, None])


@assembler.jit(do_not_specialize=["H", "W", "h", "w", "count", "turns", "side", "down", "across"])
def _upsample(
    v,  # (B, M, C), channels contiguous
    filters,  # (C, E², TAPS), contiguous
    norm_weight,  # (C,)
    grad,  # (B, N, C), channels contiguous
    statistics,  # (patches, E², 4) fp32 from _statistics
    dseen,  # (PIECES, patches, (P + 2)², C), contiguous, written
    dfilters,  # (parts, C, E², TAPS) fp32, contiguous, written
    dnorm,  # (parts, PIECES, 2, C) fp32, contiguous, written: gradients of gamma and beta
    v_b,
    v_m,
    grad_b,
    grad_n,
    H,
    W,
    h,
    w,
    count,  # patches of all images
    turns,  # tiles of patches a program
    C: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
    TAPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PATCHES: tl.constexpr,
    PIXELS: tl.constexpr,
    GROUPS: tl.constexpr,
    STAGES: tl.constexpr,
    UPCAST: tl.constexpr,
    side=0,  # of the windows, where there are any
    down=0,  # patches of a map in windows
    across=0,
    WINDOWED: tl.constexpr = False,
):
    """Some channels and some pixels of every patch in a part of the patches: their filters stay, the patches pass."""
    EE: tl.constexpr = P * R * P * R
    PIECES: tl.constexpr = EE // PIXELS
    BLOCKS: tl.constexpr = C // CHANNELS
    WINDOW: tl.constexpr = (P + 2) * (P + 2)
    # a part's blocks of channels are neighbours: they read the same sectors of grad
    block = tl.program_id(0) % BLOCKS
    piece = tl.program_id(0) // BLOCKS % PIECES
    part = tl.program_id(0) // (BLOCKS * PIECES)
    channel = _channels(block, CHANNELS, GROUPS)
    first = piece * PIXELS
    filter = _filters(filters, channel, first, EE, PIXELS, TAPS)
    gamma = tl.load(norm_weight + channel).to(tl.float32)
    dfilter = tl.zeros((CHANNELS, TAPS, PIXELS), tl.float32)
    both = tl.zeros((CHANNELS, 8, 4, 2), tl.float32)  # of gamma's gradient and of beta's
    tap = tl.arange(0, TAPS)
    pixel = first + tl.arange(0, PIXELS)
    for turn in tl.range(0, turns, num_stages=STAGES):
        start = (part * turns + turn) * PATCHES
        patch = (start + tl.arange(0, PATCHES)).to(tl.int64)
        unit, row, column, is_patch = _patches(start, count, h, w, down, across, P, PATCHES, WINDOWED)
        g = _grad(
            grad, grad_b, grad_n, unit, row, column, is_patch, first, block, H, W, side, P, R, PIXELS, CHANNELS, GROUPS,
            WINDOWED,
        )  # fmt: skip
        at = (
            statistics
            + ((patch * EE)[:, None] + pixel[None, :])[:, :, None] * 4
            + tl.arange(0, 4)[None, None, :]
        )
        four = tl.reshape(tl.load(at, mask=is_patch[:, None, None], other=0.0), (PATCHES, PIXELS, 2, 2))
        of_u, of_g = tl.split(tl.permute(four, (0, 1, 3, 2)))
        mean_u, rstd = tl.split(of_u)
        mean_g, slope = tl.split(of_g)
        seen = _seen(
            v, v_b, v_m, unit, row, column, is_patch, block, h, w, P, TAPS, CHANNELS, GROUPS
        )  # fmt: skip
        u = _dot(seen, filter, tl.zeros((CHANNELS, PATCHES, PIXELS), tl.float32), UPCAST)
        off = u - mean_u[None, :, :]
        scaled = g * rstd[None, :, :]
        both += _thread_sums(scaled * off, g)
        du = scaled * gamma[:, None, None] - mean_g[None, :, :] - off * slope[None, :, :]
        du = du.to(v.dtype.element_ty)
        dfilter = _dot(tl.permute(seen, (0, 2, 1)), du, dfilter, UPCAST)
        taps = _dot(
            du, tl.permute(filter, (0, 2, 1)), tl.zeros((CHANNELS, PATCHES, TAPS), tl.float32), UPCAST
        )
        taps = _channels_last(taps.to(dseen.dtype.element_ty), GROUPS)
        at = dseen + (((patch + piece * count) * WINDOW)[:, None] + tap[None, :]) * C + block * CHANNELS
        tl.store(
            at[:, :, None] + tl.arange(0, CHANNELS)[None, None, :],
            taps,
            mask=(is_patch[:, None] & (tap < WINDOW)[None, :])[:, :, None],
        )
    at = (
        ((part * C + channel) * (EE * TAPS))[:, None, None]
        + tap[None, :, None]
        + (pixel * TAPS)[None, None, :]
    )
    tl.store(dfilters + at, dfilter)
    at = dnorm + (part * PIECES + piece) * (2 * C) + channel
    dgamma, dbeta = tl.split(tl.sum(tl.sum(both, 2), 1))
    tl.store(at, dgamma)
    tl.store(at + C, dbeta)


@assembler.jit(do_not_specialize=["h", "w", "count", "splits", "down", "across"])
def _keys(
    dkv,  # (B, splits, M, 2, C) fp32 from _attention
    dseen,  # (PIECES, patches, (P + 2)², C) from _upsample
    dk,  # (B, M, C), contiguous, written
    dv,  # (B, M, C), contiguous, written
    h,
    w,
    count,  # patches of all images
    splits,
    C: tl.constexpr,
    P: tl.constexpr,
    PIECES: tl.constexpr,
    CHANNELS: tl.constexpr,
    CELLS: tl.constexpr,
    down=0,  # patches of a map in windows
    across=0,
    WINDOWED: tl.constexpr = False,
):
    """dk and dv of some cells and channels: a cell is seen by the patches around it, from each by another tap."""
    WINDOW: tl.constexpr = (P + 2) * (P + 2)
    M = h * w
    blocks = tl.cdiv(C, CHANNELS)
    tiles = tl.cdiv(M, CELLS)
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    cell = tl.program_id(0) // blocks % tiles * CELLS + tl.arange(0, CELLS)
    unit = tl.program_id(0) // (blocks * tiles)
    rows, columns = tl.cdiv(h, P), tl.cdiv(w, P)  # of patches of a unit
    if not WINDOWED:
        down, across = rows, columns
    image, top, left, bottom, right = region(unit, down, across, rows, WINDOWED)
    unit, image = unit.to(tl.int64), image.to(tl.int64)
    is_cell = cell < M
    known = is_cell[:, None] & (channel < C)[None, :]
    sum_k = tl.zeros((CELLS, CHANNELS), tl.float32)
    sum_v = tl.zeros((CELLS, CHANNELS), tl.float32)
    at = dkv + unit * splits * M * (2 * C) + (cell * (2 * C))[:, None] + channel[None, :]
    for _ in tl.range(0, splits):
        sum_k += tl.load(at, mask=known, other=0.0)
        sum_v += tl.load(at + C, mask=known, other=0.0)
        at += M * (2 * C)
    y, x = cell // w, cell % w
    for neighbour in range(9):
        row, column = y // P + neighbour // 3 - 1, x // P + neighbour % 3 - 1
        i, j = y - row * P + 1, x - column * P + 1  # of the tap
        row, column = top + row, left + column
        sees = (row >= top) & (row < bottom) & (column >= left) & (column < right)
        sees = sees & (i >= 0) & (i < P + 2) & (j >= 0) & (j < P + 2)
        for piece in range(PIECES):
            patch = image * (down * across) + row * across + column + piece * count
            seen = dseen + ((patch * WINDOW + i * (P + 2) + j) * C)[:, None] + channel[None, :]
            sum_v += tl.load(seen, mask=known & sees[:, None], other=0.0).to(tl.float32)
    at = unit * M * C + (cell * C)[:, None] + channel[None, :]
    tl.store(dk + at, sum_k.to(dk.dtype.element_ty), mask=known)
    tl.store(dv + at, sum_v.to(dv.dtype.element_ty), mask=known)
