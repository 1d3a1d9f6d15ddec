"""The fused MHIM: Norm(softmax(Mix(q kᵀ / √d))) v + LayerNorm(PixelShuffle(DWConv3x3(v))), and no map is written.

A softmax's shares sum to 1, so the mean of a head's map is 1/M: what is normalised is P - 1/M, in fp32, and rounded
when it has been. A first kernel leaves each tile's sum of (P - 1/M)², of which the norm's σ is made; the second
computes the same shares again and uses them. README.md beside this file has the maths.

# B batch, H W feature map, N = H·W queries, M keys, C = A·D channels
# A heads, D head width, R spatial reduction, h w key grid; a program has BLOCK_Q queries, of one head after the mixing
# D is taken in two parts, D0 + D1 (96 = 64 + 32): padding it to a power of two would spill.
"""

# no `from __future__ import annotations`: Triton 3.1's interpreter then takes a constexpr for a tensor
import triton
import triton.language as tl

from kernels import assembler
from kernels.emsa_upsample.forward import _dot, _tile, _upsampled


@triton.jit
def _mixed(
    q, k, mix, query, there, key, is_key, head, q_n, k_m,
    A: tl.constexpr, D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Scores of a block of keys, those of all heads mixed for one, in fp32: (BLOCK_Q, BLOCK_K)."""
    part0 = tl.arange(0, D0)
    mixed = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
    for other in range(A):
        q0 = tl.load(
            q + (query * q_n)[:, None] + (other * D + part0)[None, :], mask=there[:, None], other=0.0
        )
        k0 = tl.load(k + (key * k_m)[None, :] + (other * D + part0)[:, None], mask=is_key[None, :], other=0.0)
        score = _dot(q0, k0, tl.zeros((BLOCK_Q, BLOCK_K), tl.float32), PRECISION, UPCAST)
        if D1 > 0:
            part1 = D0 + tl.arange(0, D1)
            known1 = part1 < D
            q1_at = q + (query * q_n)[:, None] + (other * D + part1)[None, :]
            k1_at = k + (key * k_m)[None, :] + (other * D + part1)[:, None]
            q1 = tl.load(q1_at, mask=there[:, None] & known1[None, :], other=0.0)
            k1 = tl.load(k1_at, mask=is_key[None, :] & known1[:, None], other=0.0)
            score = _dot(q1, k1, score, PRECISION, UPCAST)
        mixed += score * tl.load(mix + head * A + other).to(tl.float32)
    return mixed


@triton.jit
def _shares_off(exponential, is_key, total, M):
    """P - 1/M of a block of keys, zero past the last, from exponentials and their sum."""
    # not e/Σ - 1/M: that is rounded once more, while it is large
    off = (exponential - (total / M)[:, None]) * (1 / total)[:, None]
    return tl.where(is_key[None, :], off, 0.0)


@assembler.jit(do_not_specialize=["N", "M", "tiles", "key_blocks"])
def mhim_statistics(
    q,  # (B, N, C), channels contiguous
    k,  # (B, M, C), channels contiguous
    mix,  # (A, A), contiguous
    softmax,  # (B, A, N, 2) fp32, written where SEVERAL: largest mixed score, and the sum of exponentials
    squares,  # (B, A, tiles) fp32, written: sum of (P - 1/M)²
    q_b,
    q_n,
    k_b,
    k_m,
    N,
    M,
    tiles,
    key_blocks,  # ceil(M / BLOCK_K)
    scale,  # log2(e) / √D: exp2 is what the hardware has
    A: tl.constexpr,
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    SEVERAL: tl.constexpr,  # whether M is more than BLOCK_K
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """The sum of squares of one tile of queries of one head; where there are several blocks of keys, in two passes."""
    tile = tl.program_id(0) % tiles
    head = (tl.program_id(0) // tiles) % A
    batch = (tl.program_id(0) // (tiles * A)).to(tl.int64)
    query = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    there = query < N
    q += batch * q_b
    k += batch * k_b
    if SEVERAL:
        largest = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_Q,), tl.float32)
        for block in range(key_blocks):
            key = block * BLOCK_K + tl.arange(0, BLOCK_K)
            is_key = key < M
            mixed = _mixed(
                q, k, mix, query, there, key, is_key, head, q_n, k_m, A, D, D0, D1, BLOCK_Q, BLOCK_K, PRECISION, UPCAST
            )  # fmt: skip
            mixed = tl.where(is_key[None, :], mixed, float("-inf"))
            new_largest = tl.maximum(largest, tl.max(mixed, 1))
            exponential = tl.exp2((mixed - new_largest[:, None]) * scale)
            total = total * tl.exp2((largest - new_largest) * scale) + tl.sum(exponential, 1)
            largest = new_largest
        at = softmax + 2 * ((batch * A + head) * N + query)
        tl.store(at, largest, mask=there)
        tl.store(at + 1, total, mask=there)
        sums = tl.zeros((BLOCK_Q,), tl.float32)
        for block in range(key_blocks):
            key = block * BLOCK_K + tl.arange(0, BLOCK_K)
            is_key = key < M
            mixed = _mixed(
                q, k, mix, query, there, key, is_key, head, q_n, k_m, A, D, D0, D1, BLOCK_Q, BLOCK_K, PRECISION, UPCAST
            )  # fmt: skip
            off = _shares_off(tl.exp2((mixed - largest[:, None]) * scale), is_key, total, M)
            sums += tl.sum(off * off, 1)
        whole = tl.sum(tl.where(there, sums, 0.0), 0)
    else:
        key = tl.arange(0, BLOCK_K)
        is_key = key < M
        mixed = _mixed(
            q, k, mix, query, there, key, is_key, head, q_n, k_m, A, D, D0, D1, BLOCK_Q, BLOCK_K, PRECISION, UPCAST
        )  # fmt: skip
        mixed = tl.where(is_key[None, :], mixed, float("-inf"))
        exponential = tl.exp2((mixed - tl.max(mixed, 1)[:, None]) * scale)
        off = _shares_off(exponential, is_key, tl.sum(exponential, 1), M)
        # all at once: of a sum of sums by row Triton 3.6 makes no layout on sm_100, and fails
        whole = tl.sum(tl.where(there[:, None], off * off, 0.0))
    tl.store(squares + (batch * A + head) * tiles + tile, whole)


@assembler.jit(do_not_specialize=["N", "M", "H", "W", "h", "w", "tiles", "key_blocks"])
def mhim(
    q,  # (B, N, C), channels contiguous
    k,  # (B, M, C), channels contiguous
    v,  # (B, M, C), channels contiguous
    mix,  # (A, A), contiguous
    softmax,  # (B, A, N, 2) fp32 from mhim_statistics; not read unless SEVERAL
    rstd,  # (B, A) fp32: 1/σ of the maps
    taps,  # (R², 9, C) convolution weights, contiguous; this and what follows is not read without HAS_BRANCH
    up_bias,  # (R², C), contiguous; not read without HAS_BIAS
    norm_weight,  # (C,)
    norm_bias,  # (C,)
    statistics,  # (B, N, 2) fp32 from _emsa_statistics
    out,  # (B, N, C), contiguous, written
    q_b,
    q_n,
    k_b,
    k_m,
    v_b,
    v_m,
    N,
    M,
    H,
    W,
    h,
    w,
    tiles,
    key_blocks,  # ceil(M / BLOCK_K)
    scale,  # log2(e) / √D
    A: tl.constexpr,
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    R: tl.constexpr,
    SEVERAL: tl.constexpr,
    HAS_BRANCH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PER_CELL: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Both terms for one tile of queries of one head; the second as `_emsa_upsample` has it."""
    C: tl.constexpr = A * D
    tile = tl.program_id(0) % tiles  # fastest, so that neighbours share keys, values and weights
    head = (tl.program_id(0) // tiles) % A
    batch = (tl.program_id(0) // (tiles * A)).to(tl.int64)
    if HAS_BRANCH:
        row, column, phase, query, there = _tile(tile, 0, 0, H, W, W, w, R, BLOCK_Q, PER_CELL)
    else:
        query = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
        there = query < N
    q += batch * q_b
    k += batch * k_b
    v += batch * v_b
    own_rstd = tl.load(rstd + batch * A + head)
    if SEVERAL:
        at = softmax + 2 * ((batch * A + head) * N + query)
        largest = tl.load(at, mask=there, other=0.0)
        total = tl.load(at + 1, mask=there, other=1.0)
    part0 = tl.arange(0, D0)
    attended0 = tl.zeros((BLOCK_Q, D0), tl.float32)
    if D1 > 0:
        part1 = D0 + tl.arange(0, D1)
        known1 = part1 < D
        attended1 = tl.zeros((BLOCK_Q, D1), tl.float32)
    for block in range(key_blocks if SEVERAL else 1):
        key = block * BLOCK_K + tl.arange(0, BLOCK_K)
        is_key = key < M
        mixed = _mixed(
            q, k, mix, query, there, key, is_key, head, q_n, k_m, A, D, D0, D1, BLOCK_Q, BLOCK_K, PRECISION, UPCAST
        )  # fmt: skip
        if not SEVERAL:
            mixed = tl.where(is_key[None, :], mixed, float("-inf"))
            largest = tl.max(mixed, 1)
        exponential = tl.exp2((mixed - largest[:, None]) * scale)
        if not SEVERAL:
            total = tl.sum(exponential, 1)
        off = _shares_off(exponential, is_key, total, M)
        normed = (off * own_rstd).to(
            v.dtype.element_ty
        )  # of a flat map, P - 1/M itself would be nothing in fp16
        v_at = v + (key * v_m)[:, None] + head * D
        v0 = tl.load(v_at + part0[None, :], mask=is_key[:, None], other=0.0)
        attended0 = _dot(normed, v0, attended0, PRECISION, UPCAST)
        if D1 > 0:
            v1 = tl.load(v_at + part1[None, :], mask=is_key[:, None] & known1[None, :], other=0.0)
            attended1 = _dot(normed, v1, attended1, PRECISION, UPCAST)

    if HAS_BRANCH:
        at = statistics + 2 * (batch * N + query)
        up_mean = tl.load(at, mask=there, other=0.0)
        up_rstd = tl.load(at + 1, mask=there, other=0.0)
        known0 = part0 < D
        up0 = _upsampled(
            v, taps, up_bias, row, column, phase, head * D + part0, known0, v_m, h, w, C,
            D0, False, HAS_BIAS, BLOCK_Q, PER_CELL,
        )  # fmt: skip
        attended0 += _normed(up0, up_mean, up_rstd, norm_weight, norm_bias, head * D + part0, known0)
        if D1 > 0:
            up1 = _upsampled(
                v, taps, up_bias, row, column, phase, head * D + part1, known1, v_m, h, w, C,
                D1, D0 + D1 > D, HAS_BIAS, BLOCK_Q, PER_CELL,
            )  # fmt: skip
            attended1 += _normed(up1, up_mean, up_rstd, norm_weight, norm_bias, head * D + part1, known1)
    out += batch * N * C + head * D
    out_at = out + (query * C)[:, None]
    tl.store(out_at + part0[None, :], attended0.to(out.dtype.element_ty), mask=there[:, None])
    if D1 > 0:
        tl.store(
            out_at + part1[None, :], attended1.to(out.dtype.element_ty), mask=there[:, None] & known1[None, :]
        )


@triton.jit
def _normed(up, mean, rstd, norm_weight, norm_bias, channel, known):
    """The branch after its LayerNorm: (BLOCK_Q, width)."""
    gamma = tl.load(norm_weight + channel, mask=known, other=0.0).to(tl.float32)
    beta = tl.load(norm_bias + channel, mask=known, other=0.0).to(tl.float32)
    return (up - mean[:, None]) * rstd[:, None] * gamma[None, :] + beta[None, :]
