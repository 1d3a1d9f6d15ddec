"""The fused forward: softmax(q kᵀ / √d) v + LayerNorm(PixelShuffle(DWConv3x3(v))), one pass over q and out.

Triton only, so that any Triton can compile it without torch. README.md beside this file has the maths.

# B batch, H W feature map, N = H·W queries, M = h·w keys, C = A·D channels
# A heads, D head width, R spatial reduction, h w key grid: ceil(H/R), ceil(W/R)
# N and M are of a region: a map, or one of the windows that it is cut into, whose keys are an image of their own
# cell: a position of the key grid; phase: one of its R² pixels; tap: one of the nine of the convolution
# A program works on BLOCK_Q queries of one head. Their tile is, as PER_CELL says, phases of one cell (one v a tap for
# the whole tile, many weights) or one phase of many cells (one weight a tap, many v).
# D is taken in two parts, D0 + D1 (96 = 64 + 32): padding it to a power of two would spill.
"""

# ruff: noqa: SIM102, SIM108 (a branch on a constexpr is decided when the kernel is compiled, and says so)
# no `from __future__ import annotations`: Triton 3.1's interpreter then takes a constexpr for a tensor
import triton
import triton.language as tl

from kernels import assembler
from kernels.emsa_upsample.regions import region

# Triton 3.1, whose GPUs have no warpgroups, has no `assume`, and looks every name up that a kernel mentions.
if hasattr(tl, "assume"):

    @triton.jit
    def _assume(condition):
        """Have the compiler take it for granted."""
        tl.assume(condition)  # by this name alone the interpreter knows it

else:

    @triton.jit
    def _assume(condition):
        """Nothing."""


@triton.jit
def _tile(
    tile, top, left, bottom, right, W, w, R: tl.constexpr, BLOCK_Q: tl.constexpr, PER_CELL: tl.constexpr
):
    """Cell row and column, phase, query and whether there is one, for each row of a tile: scalars or (BLOCK_Q,)."""
    rows = tl.arange(0, BLOCK_Q)
    if PER_CELL:
        pieces: tl.constexpr = R * R // BLOCK_Q
        cell = tile // pieces
        phase = (tile % pieces) * BLOCK_Q + rows
    else:
        cell = (tile // (R * R)) * BLOCK_Q + rows
        phase = tile % (R * R)
    row, column = cell // w, cell % w
    y, x = top + row * R + phase // R, left + column * R + phase % R
    # a cell's last pixels may be cropped; past the last cell is below the map
    there = (y < bottom) & (x < right)
    return row, column, phase, y * W + x, there


@triton.jit
def _upsampled(
    v,
    taps,
    up_bias,
    row,
    column,
    phase,
    channel,
    known,
    v_m,
    h,
    w,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    PER_CELL: tl.constexpr,
):
    """The convolution at the pixels of a tile, in fp32: (BLOCK_Q, WIDTH), zero where a channel is not `known`."""
    if PER_CELL:
        filters = (phase * 9 * C)[:, None] + channel[None, :]
    else:
        filters = (phase * 9 * C + channel)[None, :]
    up = tl.zeros((BLOCK_Q, WIDTH), tl.float32)
    for i in range(3):  # unrolled, all nine loads would wait in registers, and spill
        # fp16 multiplies and adds a row of taps two channels at a time; the rows are joined in fp32
        three = tl.zeros((BLOCK_Q, WIDTH), tl.float16 if v.dtype.element_ty == tl.float16 else tl.float32)
        for j in tl.static_range(3):
            v_row, v_column = row + i - 1, column + j - 1
            inside = (v_row >= 0) & (v_row < h) & (v_column >= 0) & (v_column < w)
            at = (v_row * w + v_column) * v_m
            if PER_CELL:
                if PADDED:
                    value = tl.load(v + at + channel, mask=inside & known, other=0.0)[None, :]
                else:
                    value = tl.load(v + at + channel, mask=inside, other=0.0)[None, :]
            else:
                if PADDED:
                    inside = inside[:, None] & known[None, :]
                else:
                    inside = inside[:, None]
                value = tl.load(v + at[:, None] + channel[None, :], mask=inside, other=0.0)
            if PADDED:
                weight = tl.load(taps + filters + (i * 3 + j) * C, mask=known[None, :], other=0.0)
            else:
                weight = tl.load(taps + filters + (i * 3 + j) * C)
            three += value.to(three.dtype) * weight.to(three.dtype)
        up += three.to(tl.float32)
    if HAS_BIAS:
        if PER_CELL:
            filters = (phase * C)[:, None] + channel[None, :]
        else:
            filters = (phase * C + channel)[None, :]
        if PADDED:
            up += tl.load(up_bias + filters, mask=known[None, :], other=0.0).to(tl.float32)
        else:
            up += tl.load(up_bias + filters).to(tl.float32)
    return up


@triton.jit
def _moments(up0, up1, known1, D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr):
    """Mean of each row over its D channels, and sum of squared deviations from it."""
    total = tl.sum(up0, 1)
    if D1 > 0:
        total += tl.sum(up1, 1)
    mean = total / D
    off = up0 - mean[:, None]
    squares = tl.sum(off * off, 1)
    if D1 > 0:
        off = up1 - mean[:, None]
        if D0 + D1 > D:
            off = tl.where(known1[None, :], off, 0.0)
        squares += tl.sum(off * off, 1)
    return mean, squares


@triton.jit
def _dot(a, b, acc, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """acc + a b."""
    if UPCAST:  # the interpreter's bf16 products are wrong
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@assembler.jit(do_not_specialize=["H", "W", "h", "w", "tiles", "side"])
def _emsa_statistics(
    v,  # (B, M, C)
    taps,  # (R², 9, C) convolution weights, contiguous
    up_bias,  # (R², C), contiguous; not read without HAS_BIAS
    statistics,  # (B, N, 2) fp32, written: mean and 1/σ over all C channels of each upsampled pixel
    v_b,
    v_m,
    H,
    W,
    h,
    w,
    tiles,
    side,  # of the windows
    eps,
    A: tl.constexpr,
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    R: tl.constexpr,
    WINDOWED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    PER_CELL: tl.constexpr,
):
    """LayerNorm's mean and 1/σ of each pixel, where its channels are in several heads, and so in several programs."""
    unit = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    image, top, left, bottom, right = region(unit, H, W, side, WINDOWED)
    row, column, phase, query, there = _tile(tile, top, left, bottom, right, W, w, R, BLOCK_Q, PER_CELL)
    if WINDOWED and PER_CELL:
        if (top + row * R >= bottom) | (left + column * R >= right):
            return
    v += unit.to(tl.int64) * v_b
    part0 = tl.arange(0, D0)
    known0 = part0 < D
    mean = tl.zeros((BLOCK_Q,), tl.float32)
    squares = tl.zeros((BLOCK_Q,), tl.float32)
    for head in range(A):
        up0 = _upsampled(
            v, taps, up_bias, row, column, phase, head * D + part0, known0, v_m, h, w, A * D,
            D0, False, HAS_BIAS, BLOCK_Q, PER_CELL,
        )  # fmt: skip
        if D1 > 0:
            part1 = D0 + tl.arange(0, D1)
            known1 = part1 < D
            up1 = _upsampled(
                v, taps, up_bias, row, column, phase, head * D + part1, known1, v_m, h, w, A * D,
                D1, D0 + D1 > D, HAS_BIAS, BLOCK_Q, PER_CELL,
            )  # fmt: skip
        else:
            up1, known1 = up0, known0
        head_mean, head_squares = _moments(up0, up1, known1, D, D0, D1)
        # Chan, Golub and LeVeque: joined without the cancellation of E[u²] - E[u]²
        apart = head_mean - mean
        mean += apart / (head + 1)
        squares += head_squares + apart * apart * (D * head / (head + 1))
    rstd = tl.rsqrt(squares / (A * D) + eps)
    at = statistics + 2 * (image.to(tl.int64) * H * W + query)
    tl.store(at, mean, mask=there)
    tl.store(at + 1, rstd, mask=there)


@assembler.jit(do_not_specialize=["H", "W", "h", "w", "tiles", "side", "key_blocks"])
def _emsa_upsample(
    q,  # (B, N, C), channels contiguous
    k,  # (B, M, C), channels contiguous
    v,  # (B, M, C), channels contiguous
    taps,  # (R², 9, C) convolution weights, contiguous
    up_bias,  # (R², C), contiguous; not read without HAS_BIAS
    norm_weight,  # (C,)
    norm_bias,  # (C,)
    statistics,  # (B, N, 2) fp32 from _emsa_statistics; not read where A is 1
    out,  # (B, N, C), contiguous, written
    q_b,
    q_n,
    k_b,
    k_m,
    v_b,
    v_m,
    H,
    W,
    h,
    w,
    tiles,
    side,  # of the windows
    key_blocks,  # ceil(M / BLOCK_K)
    eps,
    scale,  # log2(e) / √D: exp2 is what the hardware has
    A: tl.constexpr,
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    R: tl.constexpr,
    WINDOWED: tl.constexpr,
    SEVERAL: tl.constexpr,  # whether M is more than BLOCK_K
    HAS_BIAS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PER_CELL: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Both terms of equation 2 for one tile of queries of one head."""
    tile = tl.program_id(0) % tiles  # fastest, so that neighbours share keys, values and weights
    head = (tl.program_id(0) // tiles) % A
    unit = tl.program_id(0) // (tiles * A)
    M = h * w
    C: tl.constexpr = A * D
    image, top, left, bottom, right = region(unit, H, W, side, WINDOWED)
    row, column, phase, query, there = _tile(tile, top, left, bottom, right, W, w, R, BLOCK_Q, PER_CELL)
    if WINDOWED and PER_CELL:
        if (top + row * R >= bottom) | (left + column * R >= right):
            return
    image, unit = image.to(tl.int64), unit.to(tl.int64)
    q += image * q_b + head * D
    k += unit * k_b + head * D
    v += unit * v_b

    # rows of q past the map and columns of k past the last key may hold anything: the first are not stored, the second
    # are masked in the scores; the rest that is not there is zero
    part0 = tl.arange(0, D0)
    known0 = part0 < D
    q0 = tl.load(q + (query * q_n)[:, None] + part0[None, :], mask=there[:, None])
    attended0 = tl.zeros((BLOCK_Q, D0), tl.float32)
    if D1 > 0:
        part1 = D0 + tl.arange(0, D1)
        known1 = part1 < D
        q1_at = q + (query * q_n)[:, None] + part1[None, :]
        if D0 + D1 > D:
            q1 = tl.load(q1_at, mask=there[:, None] & known1[None, :], other=0.0)
        else:
            q1 = tl.load(q1_at, mask=there[:, None])
        attended1 = tl.zeros((BLOCK_Q, D1), tl.float32)
    largest = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)

    if SEVERAL:
        # or the sums come either from a product or from zero, and products of a warpgroup wait for each other
        _assume(key_blocks > 1)
    for block in range(key_blocks if SEVERAL else 1):
        key = block * BLOCK_K + tl.arange(0, BLOCK_K)
        is_key = key < M
        k0 = tl.load(k + (key * k_m)[None, :] + part0[:, None], mask=is_key[None, :])
        score = _dot(q0, k0, tl.zeros((BLOCK_Q, BLOCK_K), tl.float32), PRECISION, UPCAST)
        if D1 > 0:
            k1_at = k + (key * k_m)[None, :] + part1[:, None]
            if D0 + D1 > D:
                k1 = tl.load(k1_at, mask=is_key[None, :] & known1[:, None], other=0.0)
            else:
                k1 = tl.load(k1_at, mask=is_key[None, :])
            score = _dot(q1, k1, score, PRECISION, UPCAST)
        score = tl.where(is_key[None, :], score, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(score, 1))
        share = tl.exp2(score * scale - (new_largest * scale)[:, None])
        if SEVERAL:
            shrink = tl.exp2((largest - new_largest) * scale)
            total *= shrink
            attended0 *= shrink[:, None]
            if D1 > 0:
                attended1 *= shrink[:, None]
        largest = new_largest
        total += tl.sum(share, 1)
        share_v = share.to(v.dtype.element_ty)
        v_at = v + (key * v_m)[:, None] + head * D
        v0 = tl.load(v_at + part0[None, :], mask=is_key[:, None], other=0.0)
        attended0 = _dot(share_v, v0, attended0, PRECISION, UPCAST)
        if D1 > 0:
            if D0 + D1 > D:
                v1 = tl.load(v_at + part1[None, :], mask=is_key[:, None] & known1[None, :], other=0.0)
            else:
                v1 = tl.load(v_at + part1[None, :], mask=is_key[:, None], other=0.0)
            attended1 = _dot(share_v, v1, attended1, PRECISION, UPCAST)

    up0 = _upsampled(
        v, taps, up_bias, row, column, phase, head * D + part0, known0, v_m, h, w, C,
        D0, False, HAS_BIAS, BLOCK_Q, PER_CELL,
    )  # fmt: skip
    if D1 > 0:
        up1 = _upsampled(
            v, taps, up_bias, row, column, phase, head * D + part1, known1, v_m, h, w, C,
            D1, D0 + D1 > D, HAS_BIAS, BLOCK_Q, PER_CELL,
        )  # fmt: skip
    else:
        up1, known1 = up0, known0
    if A == 1:
        mean, squares = _moments(up0, up1, known1, D, D0, D1)
        rstd = tl.rsqrt(squares / D + eps)
    else:
        at = statistics + 2 * (image * H * W + query)
        mean = tl.load(at, mask=there, other=0.0)
        rstd = tl.load(at + 1, mask=there, other=0.0)

    out += image * H * W * C + head * D
    _store(
        out, attended0, total, up0, mean, rstd, norm_weight, norm_bias, query, there, head * D + part0,
        part0, known0, C, False,
    )  # fmt: skip
    if D1 > 0:
        _store(
            out, attended1, total, up1, mean, rstd, norm_weight, norm_bias, query, there, head * D + part1,
            part1, known1, C, D0 + D1 > D,
        )  # fmt: skip


@triton.jit
def _store(
    out,
    attended,
    total,
    up,
    mean,
    rstd,
    norm_weight,
    norm_bias,
    query,
    there,
    channel,
    part,
    known,
    C: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Normalise both sums, add them, and write them where there is a query and a channel."""
    gamma = tl.load(norm_weight + channel, mask=known, other=0.0).to(tl.float32)
    beta = tl.load(norm_bias + channel, mask=known, other=0.0).to(tl.float32)
    normed = (up - mean[:, None]) * rstd[:, None] * gamma[None, :] + beta[None, :]
    result = attended * (1 / total)[:, None] + normed
    stored = there[:, None]
    if PADDED:
        stored = stored & known[None, :]
    tl.store(out + (query * C)[:, None] + part[None, :], result.to(out.dtype.element_ty), mask=stored)
