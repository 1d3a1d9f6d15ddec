"""The fused forward for many keys: large tiles, and an online softmax without masks but in its last block of keys.

A program has one head. The convolution comes after the attention. Where there are several heads, a first kernel leaves
LayerNorm's mean and 1/σ of each pixel.

# the legend is up_product.py's
"""

# a kernel's tuples grow by addition: Triton knows no *
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"
import triton
import triton.language as tl

from kernels import assembler
from kernels.emsa_upsample.up_product import (
    by_site,
    dot,
    halves,
    mean_and_rstd,
    moments,
    no_moments,
    normalised,
    one_by_query,
    pixels,
    sites,
    store,
    upsampled_by,
)


@assembler.jit(do_not_specialize=["H", "W", "h", "w", "tiles"])
def emsa_long_statistics(
    v,  # (B, M, C), channels contiguous
    pack,  # (R²/P, C, P, 16) filters, as `pack_filters` leaves them
    statistics,  # (B, N, 2) fp32, written: mean and 1/σ over all C channels of each upsampled pixel
    v_b,
    v_m,
    H,
    W,
    h,
    w,
    tiles,
    eps,
    A: tl.constexpr,
    D: tl.constexpr,
    L0: tl.constexpr,
    L1: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    P: tl.constexpr,
    N0: tl.constexpr,
    N1: tl.constexpr,
    WARPS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """LayerNorm's mean and 1/σ of the pixels of a tile."""
    LS: tl.constexpr = 1 + (D - L0) // L1 if L1 > 0 else 1
    PIECES: tl.constexpr = 1 if R == 2 else R * R // P
    tile = tl.program_id(0) % tiles
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    piece = tile % PIECES
    first = tile // PIECES * S
    v += batch * v_b
    row, column = sites(first, w, R, S)
    C: tl.constexpr = A * D
    total, squares = no_moments(S, P, WARPS)
    for head in range(A):
        for i in tl.static_range(LS):
            up = upsampled_by(
                pack, v, piece, row, column, head * D + i * L0, v_m, h, w, C,
                R, S, P, L1 if i else L0, N1 if i else N0, UPCAST,
            )  # fmt: skip
            total, squares = moments(total, squares, up, WARPS, N1 if i else N0)
    mean, rstd = mean_and_rstd(total, squares, eps, C)
    y, x = pixels(first, piece, w, R, S, P)
    at = statistics + 2 * (batch * H * W + y * W + x)
    there = (y < H) & (x < W)
    tl.store(at, one_by_query(mean, S, P), mask=there)
    tl.store(at + 1, one_by_query(rstd, S, P), mask=there)


@triton.jit
def _attend(
    qs,
    attended,
    largest,
    total,
    k,
    v,
    key,
    keys,
    k_m,
    v_m,
    scale,
    L0: tl.constexpr,
    L1: tl.constexpr,
    LS: tl.constexpr,
    MASKED: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A block of keys: the new sums, and the largest score, in units of the exponent, and sum of shares of each row."""
    is_key = key < keys
    score = None
    for i in tl.static_range(LS):
        channel = i * L0 + tl.arange(0, L1 if i else L0)
        k_at = k + (key * k_m)[None, :] + channel[:, None]
        k_part = tl.load(k_at, mask=is_key[None, :], other=0.0) if MASKED else tl.load(k_at)
        score = dot(qs[i], k_part, UPCAST, score)
    if MASKED:
        score = tl.where(is_key[None, :], score, float("-inf"))
    new_largest = tl.maximum(largest, tl.max(score, 1) * scale)
    share = tl.exp2(score * scale - new_largest[:, None])
    shrink = tl.exp2(largest - new_largest)
    total = total * shrink + tl.sum(share, 1)
    share = share.to(v.dtype.element_ty)
    # all of them before the first product: what defines a sum between products of a warpgroup makes each of them wait
    shrunk = ()
    for i in tl.static_range(LS):
        shrunk = shrunk + (attended[i] * shrink[:, None],)
    sums = ()
    for i in tl.static_range(LS):
        channel = i * L0 + tl.arange(0, L1 if i else L0)
        v_at = v + (key * v_m)[:, None] + channel[None, :]
        v_part = tl.load(v_at, mask=is_key[:, None], other=0.0) if MASKED else tl.load(v_at)
        sums = sums + (dot(share, v_part, UPCAST, shrunk[i]),)
    return sums, new_largest, total


@assembler.jit(do_not_specialize=["H", "W", "h", "w", "tiles", "whole"])
def emsa_long(
    q,  # (B, N, C), channels contiguous
    k,  # (B, M, C), channels contiguous
    v,  # (B, M, C), channels contiguous
    pack,  # (R²/P, C, P, 16) filters, as `pack_filters` leaves them
    norm_weight,  # (C,)
    norm_bias,  # (C,)
    statistics,  # (B, N, 2) fp32 from emsa_long_statistics; not read where A is 1
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
    whole,  # blocks of keys before the last, at least one
    eps,
    scale,  # log2(e) / √D: exp2 is what the hardware has
    A: tl.constexpr,
    D: tl.constexpr,
    L0: tl.constexpr,
    L1: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    P: tl.constexpr,
    N0: tl.constexpr,
    N1: tl.constexpr,
    WARPS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    LAST_K: tl.constexpr,  # room of the last block
    UPCAST: tl.constexpr,
):
    """Both terms of equation 2 for one tile of queries of one head."""
    C: tl.constexpr = A * D
    LS: tl.constexpr = 1 + (D - L0) // L1 if L1 > 0 else 1
    PIECES: tl.constexpr = 1 if R == 2 else R * R // P
    dtype: tl.constexpr = out.dtype.element_ty
    tile = tl.program_id(0) % tiles  # fastest, so that neighbours share keys, values and filters
    head = (tl.program_id(0) // tiles) % A
    batch = (tl.program_id(0) // (tiles * A)).to(tl.int64)
    piece = tile % PIECES
    first = tile // PIECES * S
    q += batch * q_b + head * D
    k += batch * k_b + head * D
    v += batch * v_b
    y, x = pixels(first, piece, w, R, S, P)
    there = (y < H) & (x < W)
    query = y * W + x

    qs = ()
    attended = ()
    for i in tl.static_range(LS):
        channel = i * L0 + tl.arange(0, L1 if i else L0)
        qs = qs + (tl.load(q + (query * q_n)[:, None] + channel[None, :], mask=there[:, None], other=0.0),)
        attended = attended + (tl.zeros((S * P, L1 if i else L0), tl.float32),)
    largest = tl.full((S * P,), float("-inf"), tl.float32)
    total = tl.zeros((S * P,), tl.float32)
    v_of = v + head * D
    keys = h * w
    # or sums that come either from a product or from zero, which makes products of a warpgroup wait for each other
    tl.assume(whole > 0)
    for _ in range(whole):
        attended, largest, total = _attend(
            qs, attended, largest, total, k, v_of, tl.arange(0, BLOCK_K), keys, k_m, v_m, scale,
            L0, L1, LS, False, UPCAST,
        )  # fmt: skip
        k += BLOCK_K * k_m
        v_of += BLOCK_K * v_m
    attended, largest, total = _attend(
        qs, attended, largest, total, k, v_of, tl.arange(0, LAST_K), keys - whole * BLOCK_K, k_m, v_m, scale,
        L0, L1, LS, True, UPCAST,
    )  # fmt: skip

    row, column = sites(first, w, R, S)
    ups = ()
    added, squares = no_moments(S, P, WARPS)
    for i in tl.static_range(LS):
        up = upsampled_by(
            pack, v, piece, row, column, head * D + i * L0, v_m, h, w, C,
            R, S, P, L1 if i else L0, N1 if i else N0, UPCAST,
        )  # fmt: skip
        if A == 1:
            added, squares = moments(added, squares, up, WARPS, N1 if i else N0)
        ups = ups + (halves(up, dtype, N1 if i else N0),)
    if A == 1:
        mean, rstd = mean_and_rstd(added, squares, eps, C)
    else:
        at = statistics + 2 * (batch * H * W + query)
        mean = by_site(tl.load(at, mask=there, other=0.0), S, P)
        rstd = by_site(tl.load(at + 1, mask=there, other=0.0), S, P)
    out += batch * H * W * C
    for i in tl.static_range(LS):
        channel = head * D + i * L0 + tl.arange(0, L1 if i else L0)
        normed = normalised(ups[i], mean, rstd, S, P, L1 if i else L0, N1 if i else N0)
        gamma = tl.load(norm_weight + channel).to(tl.float32)
        beta = tl.load(norm_bias + channel).to(tl.float32)
        store(out, attended[i], 1 / total, normed, gamma, beta, query, there, channel, C)
