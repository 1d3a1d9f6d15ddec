"""The fused backward of MHIM: dq, dk, dv and the mixing's gradient, by way of one map a head in half precision.

Triton only, so that any Triton can compile it without torch. README.md beside this file has the maths. A program owns
what it writes; sums over queries, for dk, dv and the mixing, are one for each split of the queries.

# B batch, N queries, M keys, C = A·D channels, A heads, D head width (in two parts, D0 + D1)
# share: the softmax; off: share - 1/M; dnormed, dmixed, dscore: gradients of the normed map, of the mixed scores and of
# the scores before the mixing, the two last before the scale 1 / √D
"""

# no `from __future__ import annotations`: Triton 3.1's interpreter then takes a constexpr for a tensor
import triton
import triton.language as tl

from kernels import assembler
from kernels.emsa_upsample.backward_attention import _dot, _rows, _store_rows
from kernels.mhim.forward import _mixed, _shares_off


@triton.jit
def _own_tile(tiles, A: tl.constexpr):
    """Tile of queries, head and image of a program that has all keys."""
    tile = tl.program_id(0) % tiles
    head = (tl.program_id(0) // tiles) % A
    return tile, head, (tl.program_id(0) // (tiles * A)).to(tl.int64)


@triton.jit
def _own_split(splits, M, A: tl.constexpr, BLOCK_K: tl.constexpr, KEYS_FIT: tl.constexpr):
    """Split of the queries, head, image and block of keys of a program, and how many blocks there are."""
    split = tl.program_id(0) % splits
    head = tl.program_id(0) // splits % A
    rest = tl.program_id(0) // (splits * A)
    blocks = 1 if KEYS_FIT else tl.cdiv(M, BLOCK_K)
    return split, head, (rest // blocks).to(tl.int64), rest % blocks, blocks


@triton.jit
def _masked(
    q, k, mix, query, there, key, is_key, head, q_n, k_m,
    A: tl.constexpr, D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A block of mixed scores, -∞ past the last key."""
    mixed = _mixed(
        q, k, mix, query, there, key, is_key, head, q_n, k_m, A, D, D0, D1, BLOCK_Q, BLOCK_K, "ieee", UPCAST
    )  # fmt: skip
    return tl.where(is_key[None, :], mixed, float("-inf"))


@assembler.jit(do_not_specialize=["N", "M", "tiles", "key_blocks"])
def mhim_sums(
    q,  # (B, N, C), channels contiguous; so are k, v, grad
    k,  # (B, M, C)
    v,  # (B, M, C)
    mix,  # (A, A), contiguous
    grad,  # (B, N, C), gradient of the result
    rows,  # (B, A, N, 4) fp32, written unless KEYS_FIT: largest, Σ exponentials, Σ off · dnormed + mean dnormed, Σ off²
    sums,  # (B, A, tiles, 3) fp32, written: Σ off², Σ off · dnormed, the largest |dnormed|
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
    key_blocks,  # ceil(M / BLOCK_K)
    scale,  # log2(e) / √D: exp2 is what the hardware has
    A: tl.constexpr,
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    KEYS_FIT: tl.constexpr,  # M is at most BLOCK_K
    UPCAST: tl.constexpr,
):
    """Sums over one tile of queries that the gradient of the norm needs of a head's whole map."""
    tile, head, batch = _own_tile(tiles, A)
    query = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    there = query < N
    q += batch * q_b
    k += batch * k_b
    v += batch * v_b + head * D
    grad += batch * grad_b + head * D
    PADDED: tl.constexpr = D0 + D1 > D
    part0 = tl.arange(0, D0)
    part1 = D0 + tl.arange(0, D1 if D1 > 0 else 16)
    largest = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    if not KEYS_FIT:
        for block in range(key_blocks):
            key = block * BLOCK_K + tl.arange(0, BLOCK_K)
            is_key = key < M
            mixed = _masked(
                q, k, mix, query, there, key, is_key, head, q_n, k_m, A, D, D0, D1, BLOCK_Q, BLOCK_K, UPCAST
            )  # fmt: skip
            new_largest = tl.maximum(largest, tl.max(mixed, 1))
            exponential = tl.exp2((mixed - new_largest[:, None]) * scale)
            total = total * tl.exp2((largest - new_largest) * scale) + tl.sum(exponential, 1)
            largest = new_largest
    squares = tl.zeros((BLOCK_Q,), tl.float32)
    products = tl.zeros((BLOCK_Q,), tl.float32)
    mean = tl.zeros((BLOCK_Q,), tl.float32)
    most = tl.zeros((BLOCK_Q,), tl.float32)
    for block in range(key_blocks):  # also where it is one: without a loop, Triton 3.6 fails on sm_100
        key = block * BLOCK_K + tl.arange(0, BLOCK_K)
        is_key = key < M
        mixed = _masked(
            q, k, mix, query, there, key, is_key, head, q_n, k_m, A, D, D0, D1, BLOCK_Q, BLOCK_K, UPCAST
        )  # fmt: skip
        if KEYS_FIT:
            largest = tl.max(mixed, 1)
        exponential = tl.exp2((mixed - largest[:, None]) * scale)
        if KEYS_FIT:
            total = tl.sum(exponential, 1)
        off = _shares_off(exponential, is_key, total, M)
        grad0 = _rows(grad, query, grad_n, there, part0, D, False)
        v0 = _rows(v, key, v_m, is_key, part0, D, False)
        dnormed = _dot(grad0, v0.T, tl.zeros((BLOCK_Q, BLOCK_K), tl.float32), UPCAST)
        if D1 > 0:
            grad1 = _rows(grad, query, grad_n, there, part1, D, PADDED)
            v1 = _rows(v, key, v_m, is_key, part1, D, PADDED)
            dnormed = _dot(grad1, v1.T, dnormed, UPCAST)
        squares += tl.sum(off * off, 1)
        products += tl.sum(off * dnormed, 1)
        most = tl.maximum(most, tl.max(tl.abs(dnormed), 1))
        if not KEYS_FIT:
            mean += tl.sum(dnormed, 1)
    if not KEYS_FIT:
        at = rows + 4 * ((batch * A + head) * N + query)
        tl.store(at, largest, mask=there)
        tl.store(at + 1, total, mask=there)
        tl.store(at + 2, products + mean / M, mask=there)
        tl.store(at + 3, squares, mask=there)
    sums += 3 * ((batch * A + head) * tiles + tile)
    tl.store(sums, tl.sum(tl.where(there, squares, 0.0), 0))
    tl.store(sums + 1, tl.sum(products, 0))  # of a query that is not there, the gradient is zero
    tl.store(sums + 2, tl.max(most, 0))


@assembler.jit(do_not_specialize=["N", "M", "splits", "turns"])
def mhim_maps(
    q,  # (B, N, C), channels contiguous; so are k, v, grad
    k,  # (B, M, C)
    v,  # (B, M, C)
    mix,  # (A, A), contiguous
    grad,  # (B, N, C), gradient of the result
    rows,  # (B, A, N, 4) fp32 from mhim_sums; not read where KEYS_FIT
    norm,  # (B, A, 3) fp32: 1/σ; how far dnormed is pulled, a unit of off; what dmixed is multiplied by
    maps,  # (B, A, N, blocks · BLOCK_K), contiguous, written: dmixed, in fp16's range
    dkv,  # (B, splits, M, 2, C) fp32, contiguous, the second of 2 is written: sums over a split's queries
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
    scale,  # log2(e) / √D
    A: tl.constexpr,
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    KEYS_FIT: tl.constexpr,
    STAGES: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A block of keys of one head after the mixing, over a split of the queries: dmixed, and dv."""
    C: tl.constexpr = A * D
    split, head, batch, block, blocks = _own_split(splits, M, A, BLOCK_K, KEYS_FIT)
    key = block * BLOCK_K + tl.arange(0, BLOCK_K)
    is_key = key < M
    q += batch * q_b
    k += batch * k_b
    v += batch * v_b + head * D
    grad += batch * grad_b + head * D
    rows += (batch * A + head) * N * 4
    maps += (batch * A + head) * N * (blocks * BLOCK_K) + block * BLOCK_K
    norm += (batch * A + head) * 3
    rstd = tl.load(norm)
    pull = tl.load(norm + 1)
    unit = tl.load(norm + 2)
    PADDED: tl.constexpr = D0 + D1 > D
    part0 = tl.arange(0, D0)
    part1 = D0 + tl.arange(0, D1 if D1 > 0 else 16)
    v0 = _rows(v, key, v_m, is_key, part0, D, False)
    dv0 = tl.zeros((BLOCK_K, D0), tl.float32)
    if D1 > 0:
        v1 = _rows(v, key, v_m, is_key, part1, D, PADDED)
        dv1 = tl.zeros((BLOCK_K, D1), tl.float32)
    for turn in tl.range(0, turns, num_stages=STAGES):
        first = (split * turns + turn) * BLOCK_Q
        query = first + tl.arange(0, BLOCK_Q)
        there = query < N
        mixed = _masked(
            q, k, mix, query, there, key, is_key, head, q_n, k_m, A, D, D0, D1, BLOCK_Q, BLOCK_K, UPCAST
        )  # fmt: skip
        largest = tl.max(mixed, 1) if KEYS_FIT else tl.load(rows + 4 * query, mask=there, other=0.0)
        exponential = tl.exp2((mixed - largest[:, None]) * scale)
        grad0 = _rows(grad, query, grad_n, there, part0, D, False)
        dnormed = _dot(grad0, v0.T, tl.zeros((BLOCK_Q, BLOCK_K), tl.float32), UPCAST)
        if D1 > 0:
            grad1 = _rows(grad, query, grad_n, there, part1, D, PADDED)
            dnormed = _dot(grad1, v1.T, dnormed, UPCAST)
        total = tl.sum(exponential, 1) if KEYS_FIT else tl.load(rows + 4 * query + 1, mask=there, other=1.0)
        off = _shares_off(exponential, is_key, total, M)
        share = exponential * (1 / total)[:, None]
        dshare = dnormed - off * pull
        if KEYS_FIT:
            mean = tl.sum(share * dshare, 1)
        else:
            mean = tl.load(rows + 4 * query + 2, mask=there, other=0.0)
            mean -= tl.load(rows + 4 * query + 3, mask=there, other=0.0) * pull
        dmixed = (share * (dshare - mean[:, None]) * unit).to(maps.dtype.element_ty)
        # the map's rows are padded to whole blocks, of zeros, so that they are read in vectors
        own = maps + first.to(tl.int64) * (blocks * BLOCK_K)
        at = own + (tl.arange(0, BLOCK_Q) * (blocks * BLOCK_K))[:, None] + tl.arange(0, BLOCK_K)[None, :]
        tl.store(at, dmixed, mask=there[:, None])
        normed = (off * rstd).to(grad0.dtype).T
        dv0 = _dot(normed, grad0, dv0, UPCAST)
        if D1 > 0:
            dv1 = _dot(normed, grad1, dv1, UPCAST)
    dkv += (batch * splits + split) * M * (2 * C) + C + head * D
    _store_rows(dkv, dv0, key, 2 * C, is_key, part0, D, False)
    if D1 > 0:
        _store_rows(dkv, dv1, key, 2 * C, is_key, part1, D, PADDED)


@assembler.jit(do_not_specialize=["N", "M", "splits", "turns"])
def mhim_scores(
    q,  # (B, N, C), channels contiguous
    k,  # (B, M, C), channels contiguous
    maps,  # (B, A, N, blocks · BLOCK_K) from mhim_maps
    weights,  # (B, A, A) fp32: of each head's map, after the mixing, in the dscore of each before it
    units,  # (B, A) fp32: what dscore, in fp16's range, is to be multiplied by
    dq,  # (B, N, C), contiguous; written where KEYS_FIT
    dkv,  # (B, splits, M, 2, C) fp32, contiguous, the first of 2 is written: sums over a split's queries
    dmix,  # (B, splits, blocks, A, A) fp32, contiguous, written: Σ dmixed · score, by the score's head
    q_b,
    q_n,
    k_b,
    k_m,
    N,
    M,
    splits,
    turns,  # tiles of queries a split
    A: tl.constexpr,
    A2: tl.constexpr,  # A as a power of two
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    KEYS_FIT: tl.constexpr,
    STAGES: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A block of keys of one head before the mixing, over a split of the queries: dk and dmix; dq, where it has all."""
    C: tl.constexpr = A * D
    split, head, batch, block, blocks = _own_split(splits, M, A, BLOCK_K, KEYS_FIT)
    key = block * BLOCK_K + tl.arange(0, BLOCK_K)
    is_key = key < M
    q += batch * q_b + head * D
    k += batch * k_b + head * D
    dq += batch * N * C + head * D
    maps += batch * A * N * (blocks * BLOCK_K) + block * BLOCK_K
    weights += batch * (A * A) + head
    unit = tl.load(units + batch * A + head)
    PADDED: tl.constexpr = D0 + D1 > D
    part0 = tl.arange(0, D0)
    part1 = D0 + tl.arange(0, D1 if D1 > 0 else 16)
    k0 = _rows(k, key, k_m, is_key, part0, D, False)
    dk0 = tl.zeros((BLOCK_K, D0), tl.float32)
    if D1 > 0:
        k1 = _rows(k, key, k_m, is_key, part1, D, PADDED)
        dk1 = tl.zeros((BLOCK_K, D1), tl.float32)
    each = tl.arange(0, A2)
    of_mix = tl.zeros((BLOCK_Q, A2), tl.float32)
    for turn in tl.range(0, turns, num_stages=STAGES):
        first = (split * turns + turn) * BLOCK_Q
        query = first + tl.arange(0, BLOCK_Q)
        there = query < N
        q0 = _rows(q, query, q_n, there, part0, D, False)
        score = _dot(q0, k0.T, tl.zeros((BLOCK_Q, BLOCK_K), tl.float32), UPCAST)
        if D1 > 0:
            q1 = _rows(q, query, q_n, there, part1, D, PADDED)
            score = _dot(q1, k1.T, score, UPCAST)
        dscore = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
        for other in range(A):
            dmixed = _map(maps, other, first, there, N, blocks * BLOCK_K, BLOCK_Q, BLOCK_K)
            dscore += dmixed * tl.load(weights + other * A)
            of_mix += tl.where((each == other)[None, :], tl.sum(dmixed * score, 1)[:, None], 0.0)
        dscore = dscore.to(q0.dtype)
        if KEYS_FIT:
            dq0 = _dot(dscore, k0, tl.zeros((BLOCK_Q, D0), tl.float32), UPCAST)
            _store_rows(dq, dq0 * unit, query, C, there, part0, D, False)
            if D1 > 0:
                dq1 = _dot(dscore, k1, tl.zeros((BLOCK_Q, D1), tl.float32), UPCAST)
                _store_rows(dq, dq1 * unit, query, C, there, part1, D, PADDED)
        dscore = dscore.T
        dk0 = _dot(dscore, q0, dk0, UPCAST)
        if D1 > 0:
            dk1 = _dot(dscore, q1, dk1, UPCAST)
    dkv += (batch * splits + split) * M * (2 * C) + head * D
    _store_rows(dkv, dk0 * unit, key, 2 * C, is_key, part0, D, False)
    if D1 > 0:
        _store_rows(dkv, dk1 * unit, key, 2 * C, is_key, part1, D, PADDED)
    dmix += (((batch * splits + split) * blocks + block) * A + head) * A
    tl.store(dmix + each, tl.sum(of_mix, 0), mask=each < A)


@assembler.jit(do_not_specialize=["N", "M", "tiles", "key_blocks"])
def mhim_queries(
    k,  # (B, M, C), channels contiguous
    maps,  # (B, A, N, key_blocks · BLOCK_K) from mhim_maps
    weights,  # (B, A, A) fp32, as in mhim_scores; so is units
    units,  # (B, A) fp32
    dq,  # (B, N, C), contiguous, written
    k_b,
    k_m,
    N,
    M,
    tiles,
    key_blocks,
    A: tl.constexpr,
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """dq of a tile of queries of one head, where the keys are in several blocks."""
    C: tl.constexpr = A * D
    tile, head, batch = _own_tile(tiles, A)
    first = tile * BLOCK_Q
    query = first + tl.arange(0, BLOCK_Q)
    there = query < N
    k += batch * k_b + head * D
    maps += batch * A * N * (key_blocks * BLOCK_K)
    weights += batch * (A * A) + head
    unit = tl.load(units + batch * A + head)
    PADDED: tl.constexpr = D0 + D1 > D
    part0 = tl.arange(0, D0)
    part1 = D0 + tl.arange(0, D1 if D1 > 0 else 16)
    dq0 = tl.zeros((BLOCK_Q, D0), tl.float32)
    if D1 > 0:
        dq1 = tl.zeros((BLOCK_Q, D1), tl.float32)
    for block in tl.range(0, key_blocks, num_stages=STAGES):
        key = block * BLOCK_K + tl.arange(0, BLOCK_K)
        is_key = key < M
        dscore = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
        for other in range(A):
            dmixed = _map(
                maps + block * BLOCK_K, other, first, there, N, key_blocks * BLOCK_K, BLOCK_Q, BLOCK_K
            )
            dscore += dmixed * tl.load(weights + other * A)
        dscore = dscore.to(k.dtype.element_ty)
        dq0 = _dot(dscore, _rows(k, key, k_m, is_key, part0, D, False), dq0, UPCAST)
        if D1 > 0:
            dq1 = _dot(dscore, _rows(k, key, k_m, is_key, part1, D, PADDED), dq1, UPCAST)
    dq += batch * N * C + head * D
    _store_rows(dq, dq0 * unit, query, C, there, part0, D, False)
    if D1 > 0:
        _store_rows(dq, dq1 * unit, query, C, there, part1, D, PADDED)


@triton.jit
def _map(maps, head, first, there, N, width, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr):
    """A tile of the map of one head, from a query on: (BLOCK_Q, BLOCK_K) in fp32."""
    own = maps + (head * N + first).to(tl.int64) * width
    at = own + (tl.arange(0, BLOCK_Q) * width)[:, None] + tl.arange(0, BLOCK_K)[None, :]
    return tl.load(at, mask=there[:, None], other=0.0).to(tl.float32)
