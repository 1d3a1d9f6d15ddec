"""The fused backward of the attention term: dq, dk and dv of softmax(q kᵀ / √d) v, from q, k, v and the gradient.

Triton only, so that any Triton can compile it without torch. README.md beside this file has the maths. A program owns
what it writes; sums over queries, for dk and dv, are one for each split of the queries.

# B batch, H W feature map, N = H·W queries, M keys, C = A·D channels, A heads, D head width (in two parts, D0 + D1)
# S regions, each with keys of its own: images, or the windows that they are cut into
# share: the softmax; dshare, dscore: the gradients of share and of the scores before the scale
"""

# no `from __future__ import annotations`: Triton 3.1's interpreter then takes a constexpr for a tensor
import triton
import triton.language as tl

from kernels import assembler
from kernels.emsa_upsample.regions import region


@triton.jit
def _dot(a, b, acc, UPCAST: tl.constexpr):
    """acc + a b, of matrices or of stacks of them."""
    if UPCAST:  # the interpreter's bf16 products are wrong
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc)


@triton.jit
def _rows(x, row, stride, there, part, D: tl.constexpr, PADDED: tl.constexpr):
    """Rows of x, and of them the channels `part`: zero where there is no such row or channel."""
    at = x + (row * stride)[:, None] + part[None, :]
    if PADDED:
        return tl.load(at, mask=there[:, None] & (part < D)[None, :], other=0.0)
    else:
        return tl.load(at, mask=there[:, None], other=0.0)


@triton.jit
def _store_rows(x, value, row, stride, there, part, D: tl.constexpr, PADDED: tl.constexpr):
    """Write rows of x, of them the channels `part`."""
    at = x + (row * stride)[:, None] + part[None, :]
    if PADDED:
        tl.store(at, value.to(x.dtype.element_ty), mask=there[:, None] & (part < D)[None, :])
    else:
        tl.store(at, value.to(x.dtype.element_ty), mask=there[:, None])


INTERPRETED = tl.constexpr(not isinstance(_dot, triton.runtime.JITFunction))


@assembler.jit(do_not_specialize=["N", "M", "splits", "turns", "H", "W", "side"])
def _attention(
    q,  # (B, N, C), channels contiguous; so are k, v, grad
    k,  # (S, M, C)
    v,  # (S, M, C)
    grad,  # (B, N, C), gradient of the result
    softmax,  # (B, A, N, 2) fp32 from _queries; not read where KEYS_FIT
    dq,  # (B, N, C), contiguous; written where KEYS_FIT
    dkv,  # (S, splits, M, 2, C) fp32, contiguous, written: sums over a split's queries
    q_b,
    q_n,
    k_b,
    k_m,
    v_b,
    v_m,
    grad_b,
    grad_n,
    N,
    M,
    splits,
    turns,  # tiles of queries a split
    H,
    W,
    side,  # of the windows
    scale,  # 1 / √D
    A: tl.constexpr,
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    WINDOWED: tl.constexpr,  # and so KEYS_FIT
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    KEYS_FIT: tl.constexpr,  # M is at most BLOCK_K
    STAGES: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A block of keys of one head, over a split of the queries: their dk and dv; and dq, where it has all keys."""
    LOG2E: tl.constexpr = 1.4426950408889634
    C: tl.constexpr = A * D
    split = tl.program_id(0) % splits
    rest = tl.program_id(0) // splits
    head = rest % A
    rest = rest // A
    if KEYS_FIT:
        unit = rest
        key = tl.arange(0, BLOCK_K)
    else:
        blocks = tl.cdiv(M, BLOCK_K)
        unit = rest // blocks
        key = (rest % blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
    image, top, left, bottom, right = region(unit, H, W, side, WINDOWED)
    unit, image = unit.to(tl.int64), image.to(tl.int64)
    corner = top * W + left
    q += image * q_b + corner * q_n + head * D
    k += unit * k_b + head * D
    v += unit * v_b + head * D
    grad += image * grad_b + corner * grad_n + head * D
    dq += (image * N + corner) * C + head * D
    softmax += (image * A + head) * N * 2
    first = split * turns * BLOCK_Q
    queries, across = N, W  # of the region
    if WINDOWED:
        across = right - left
        queries = (bottom - top) * across
        if not INTERPRETED:  # whose loops take no tensor; there rounds go on, past all queries
            turns = tl.minimum(turns, tl.cdiv(queries, BLOCK_Q) - split * turns)
    PADDED: tl.constexpr = D0 + D1 > D
    part0 = tl.arange(0, D0)
    part1 = D0 + tl.arange(0, D1 if D1 > 0 else 16)
    is_key = key < M
    k0 = _rows(k, key, k_m, is_key, part0, D, False)
    v0 = _rows(v, key, v_m, is_key, part0, D, False)
    dk0 = tl.zeros((BLOCK_K, D0), tl.float32)
    dv0 = tl.zeros((BLOCK_K, D0), tl.float32)
    if D1 > 0:
        k1 = _rows(k, key, k_m, is_key, part1, D, PADDED)
        v1 = _rows(v, key, v_m, is_key, part1, D, PADDED)
        dk1 = tl.zeros((BLOCK_K, D1), tl.float32)
        dv1 = tl.zeros((BLOCK_K, D1), tl.float32)
    hidden = tl.where(is_key, 0.0, float("-inf"))
    for turn in tl.range(0, turns, num_stages=STAGES):
        query = first + turn * BLOCK_Q + tl.arange(0, BLOCK_Q)
        there = query < queries
        if WINDOWED:
            query += query // across * (W - across)
        q0 = _rows(q, query, q_n, there, part0, D, False)
        grad0 = _rows(grad, query, grad_n, there, part0, D, False)
        score = _dot(q0, k0.T, tl.zeros((BLOCK_Q, BLOCK_K), tl.float32), UPCAST)
        dshare = _dot(grad0, v0.T, tl.zeros((BLOCK_Q, BLOCK_K), tl.float32), UPCAST)
        if D1 > 0:
            q1 = _rows(q, query, q_n, there, part1, D, PADDED)
            grad1 = _rows(grad, query, grad_n, there, part1, D, PADDED)
            score = _dot(q1, k1.T, score, UPCAST)
            dshare = _dot(grad1, v1.T, dshare, UPCAST)
        score = score * (scale * LOG2E) + hidden[None, :]
        if KEYS_FIT:
            share = tl.exp2(score - tl.max(score, 1)[:, None])
            share = share * (1 / tl.sum(share, 1))[:, None]
            mean = tl.sum(share * dshare, 1)
        else:
            level = tl.load(softmax + 2 * query, mask=there, other=0.0)
            mean = tl.load(softmax + 2 * query + 1, mask=there, other=0.0)
            share = tl.exp2(score - level[:, None])
        # the scale is left to the sums: it would cost fp16 three bits of the small
        dscore = (share * (dshare - mean[:, None])).to(q0.dtype)
        share = share.to(q0.dtype).T
        if KEYS_FIT:
            dq0 = _dot(dscore, k0, tl.zeros((BLOCK_Q, D0), tl.float32), UPCAST)
            _store_rows(dq, dq0 * scale, query, C, there, part0, D, False)
            if D1 > 0:
                dq1 = _dot(dscore, k1, tl.zeros((BLOCK_Q, D1), tl.float32), UPCAST)
                _store_rows(dq, dq1 * scale, query, C, there, part1, D, PADDED)
        dscore = dscore.T
        dv0 = _dot(share, grad0, dv0, UPCAST)
        dk0 = _dot(dscore, q0, dk0, UPCAST)
        if D1 > 0:
            dv1 = _dot(share, grad1, dv1, UPCAST)
            dk1 = _dot(dscore, q1, dk1, UPCAST)
    dkv += (unit * splits + split) * M * (2 * C) + head * D
    _store_rows(dkv, dk0 * scale, key, 2 * C, is_key, part0, D, False)
    _store_rows(dkv + C, dv0, key, 2 * C, is_key, part0, D, False)
    if D1 > 0:
        _store_rows(dkv, dk1 * scale, key, 2 * C, is_key, part1, D, PADDED)
        _store_rows(dkv + C, dv1, key, 2 * C, is_key, part1, D, PADDED)


@assembler.jit(do_not_specialize=["N", "M", "tiles", "key_blocks"])
def _queries(
    q,  # (B, N, C), channels contiguous; so are k, v, grad
    k,  # (B, M, C)
    v,  # (B, M, C)
    grad,  # (B, N, C), gradient of the result
    softmax,  # (B, A, N, 2) fp32, contiguous, written: log2 Σ exp2 of the scores, and Σ share · dshare
    dq,  # (B, N, C), contiguous, written
    q_b,
    q_n,
    k_b,
    k_m,
    v_b,
    v_m,
    grad_b,
    grad_n,
    N,
    M,
    tiles,
    key_blocks,
    scale,  # 1 / √D
    A: tl.constexpr,
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """dq of a tile of queries of one head, where the keys are in several blocks: twice over all keys."""
    LOG2E: tl.constexpr = 1.4426950408889634
    C: tl.constexpr = A * D
    tile = tl.program_id(0) % tiles
    head = (tl.program_id(0) // tiles) % A
    batch = (tl.program_id(0) // (tiles * A)).to(tl.int64)
    q += batch * q_b + head * D
    k += batch * k_b + head * D
    v += batch * v_b + head * D
    grad += batch * grad_b + head * D
    PADDED: tl.constexpr = D0 + D1 > D
    part0 = tl.arange(0, D0)
    part1 = D0 + tl.arange(0, D1 if D1 > 0 else 16)
    query = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    there = query < N
    q0 = _rows(q, query, q_n, there, part0, D, False)
    grad0 = _rows(grad, query, grad_n, there, part0, D, False)
    dq0 = tl.zeros((BLOCK_Q, D0), tl.float32)
    if D1 > 0:
        q1 = _rows(q, query, q_n, there, part1, D, PADDED)
        grad1 = _rows(grad, query, grad_n, there, part1, D, PADDED)
        dq1 = tl.zeros((BLOCK_Q, D1), tl.float32)
    largest = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    mean = tl.zeros((BLOCK_Q,), tl.float32)
    for block in tl.range(0, key_blocks, num_stages=STAGES):
        key = block * BLOCK_K + tl.arange(0, BLOCK_K)
        is_key = key < M
        k0 = _rows(k, key, k_m, is_key, part0, D, False)
        v0 = _rows(v, key, v_m, is_key, part0, D, False)
        score = _dot(q0, k0.T, tl.zeros((BLOCK_Q, BLOCK_K), tl.float32), UPCAST)
        dshare = _dot(grad0, v0.T, tl.zeros((BLOCK_Q, BLOCK_K), tl.float32), UPCAST)
        if D1 > 0:
            score = _dot(q1, _rows(k, key, k_m, is_key, part1, D, PADDED).T, score, UPCAST)
            dshare = _dot(grad1, _rows(v, key, v_m, is_key, part1, D, PADDED).T, dshare, UPCAST)
        score = tl.where(is_key[None, :], score * (scale * LOG2E), float("-inf"))
        new_largest = tl.maximum(largest, tl.max(score, 1))
        share = tl.exp2(score - new_largest[:, None])
        shrunk = tl.exp2(largest - new_largest)
        total = total * shrunk + tl.sum(share, 1)
        mean = mean * shrunk + tl.sum(share * dshare, 1)
        largest = new_largest
    level = largest + tl.log2(total)
    mean = mean / total
    for block in tl.range(0, key_blocks, num_stages=STAGES):
        key = block * BLOCK_K + tl.arange(0, BLOCK_K)
        is_key = key < M
        k0 = _rows(k, key, k_m, is_key, part0, D, False)
        v0 = _rows(v, key, v_m, is_key, part0, D, False)
        score = _dot(q0, k0.T, tl.zeros((BLOCK_Q, BLOCK_K), tl.float32), UPCAST)
        dshare = _dot(grad0, v0.T, tl.zeros((BLOCK_Q, BLOCK_K), tl.float32), UPCAST)
        if D1 > 0:
            k1 = _rows(k, key, k_m, is_key, part1, D, PADDED)
            score = _dot(q1, k1.T, score, UPCAST)
            dshare = _dot(grad1, _rows(v, key, v_m, is_key, part1, D, PADDED).T, dshare, UPCAST)
        share = tl.exp2(score * (scale * LOG2E) - level[:, None])
        dscore = (share * (dshare - mean[:, None])).to(q0.dtype)  # a key that is not there is zero
        dq0 = _dot(dscore, k0, dq0, UPCAST)
        if D1 > 0:
            dq1 = _dot(dscore, k1, dq1, UPCAST)
    dq += batch * N * C + head * D
    _store_rows(dq, dq0 * scale, query, C, there, part0, D, False)
    if D1 > 0:
        _store_rows(dq, dq1 * scale, query, C, there, part1, D, PADDED)
    softmax += (batch * A + head) * N * 2
    tl.store(softmax + 2 * query, level, mask=there)
    tl.store(softmax + 2 * query + 1, mean, mask=there)
