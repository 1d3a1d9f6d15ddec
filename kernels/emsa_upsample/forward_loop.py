"""The fused forward for at most one block of keys and any number of heads: a program goes twice over those of a tile.

First for LayerNorm's mean and σ, then for the rest: the convolution is made twice, and no head waits in registers.

# the legend is up_product.py's
"""

# ruff: noqa: SIM102 (a branch on a constexpr is decided when the kernel is compiled)

import triton.language as tl

from kernels import assembler
from kernels.emsa_upsample.regions import region
from kernels.emsa_upsample.up_product import (
    dot,
    first_row,
    mean_and_rstd,
    moments,
    no_moments,
    normalised,
    pixels,
    shares_of_head,
    sites,
    store,
    upsampled_by,
)


@assembler.jit(do_not_specialize=["H", "W", "h", "w", "tiles", "side"])
def emsa_loop(
    q,  # (B, N, C), channels contiguous
    k,  # (B, M, C), channels contiguous
    v,  # (B, M, C), channels contiguous
    pack,  # (R²/P, C, P, 16) filters, as `pack_filters` leaves them
    norm_weight,  # (C,)
    norm_bias,  # (C,)
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
    eps,
    scale,  # log2(e) / √D: exp2 is what the hardware has
    A: tl.constexpr,
    D: tl.constexpr,
    L0: tl.constexpr,
    L1: tl.constexpr,
    R: tl.constexpr,
    WINDOWED: tl.constexpr,
    S: tl.constexpr,
    P: tl.constexpr,
    N0: tl.constexpr,
    N1: tl.constexpr,
    WARPS: tl.constexpr,
    BLOCK_K: tl.constexpr,  # M at least
    UPCAST: tl.constexpr,
):
    """Both terms of equation 2 for one tile of queries, all heads."""
    C: tl.constexpr = A * D
    LS: tl.constexpr = 1 + (D - L0) // L1 if L1 > 0 else 1
    PIECES: tl.constexpr = 1 if R == 2 else R * R // P
    tile = tl.program_id(0) % tiles
    unit = tl.program_id(0) // tiles
    piece = tile % PIECES
    first = tile // PIECES * S
    image, top, left, bottom, right = region(unit, H, W, side, WINDOWED)
    if WINDOWED:
        if top + first_row(first, w, R) * R >= bottom:  # the tile is padding
            return
    image, unit = image.to(tl.int64), unit.to(tl.int64)
    q += image * q_b
    k += unit * k_b
    v += unit * v_b
    out += image * H * W * C
    row, column = sites(first, w, R, S)

    total, squares = no_moments(S, P, WARPS)
    for head in tl.range(0, A, num_stages=1):
        for i in tl.static_range(LS):
            up = upsampled_by(
                pack, v, piece, row, column, head * D + i * L0, v_m, h, w, C,
                R, S, P, L1 if i else L0, N1 if i else N0, UPCAST,
            )  # fmt: skip
            total, squares = moments(total, squares, up, WARPS, N1 if i else N0)
    mean, rstd = mean_and_rstd(total, squares, eps, C)

    y, x = pixels(first, piece, w, R, S, P)
    y, x = top + y, left + x
    there = (y < bottom) & (x < right)
    query = y * W + x
    key = tl.arange(0, BLOCK_K)
    is_key = key < h * w
    hidden = tl.where(is_key, 0.0, float("-inf"))
    for head in tl.range(0, A, num_stages=1):
        share, inverse = shares_of_head(
            q, k, query, there, key, is_key, hidden, q_n, k_m, scale, head * D, L0, L1, LS, UPCAST
        )
        for i in tl.static_range(LS):
            channel = head * D + i * L0 + tl.arange(0, L1 if i else L0)
            again = upsampled_by(
                pack, v, piece, row, column, head * D + i * L0, v_m, h, w, C,
                R, S, P, L1 if i else L0, N1 if i else N0, UPCAST,
            )  # fmt: skip
            normed = normalised(again, mean, rstd, S, P, L1 if i else L0, N1 if i else N0)
            v_part = tl.load(v + (key * v_m)[:, None] + channel[None, :], mask=is_key[:, None], other=0.0)
            attended = dot(share, v_part, UPCAST)
            gamma = tl.load(norm_weight + channel).to(tl.float32)
            beta = tl.load(norm_bias + channel).to(tl.float32)
            store(out, attended, inverse, normed, gamma, beta, query, there, channel, C)
