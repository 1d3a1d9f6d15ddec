"""The up-convolution as a matrix product, and what else the designs that use it share: tiles, softmax, output.

A depthwise convolution from cells to phases is a small product for each channel, [sites × taps] · [taps × phases].
Sums are fp32, on matrix units: 0.75 instructions a query (of 96 channels) where multiplying and adding takes 13.5.

# site: what one window of v belongs to. It is a cell of the key grid, with 3×3 taps; where R is 2, two cells side by
#   side with 3×4 taps, because the four phases of one would fill half of an instruction
# S sites a tile, P phases of each: S·P queries, ordered by site. Where P < R², R²/P pieces make a site
# taps: 16, those of the window, then one for the bias, then zeros
# L channels at a time: a head is taken in one part of L0 channels and LS - 1 parts of L1 (96 = 64 + 32 = 32 + 32 + 32),
#   and a part in N products of every N-th channel

Both operands pass through shared memory in the order in which threads hold them, which follows the loads. Lanes read
the 32 bytes of taps of eight sites, or phases, at a time: without bank conflicts where these stand side by side, so
before the channels. Hence a thread has all taps of two sites, one from each half of the tile, of one channel of a
product, and filters are loaded phase by phase. `kernels.banks` counts the conflicts, README.md has what they cost.
"""

# a kernel's tuples grow by addition: Triton knows no *
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"
# no `from __future__ import annotations`: the interpreter looks at annotations themselves
import triton
import triton.language as tl

from kernels import assembler


@triton.jit
def dot(a, b, UPCAST: tl.constexpr, acc=None):
    """acc + a b in fp32."""
    if UPCAST:  # the interpreter's bf16 products are wrong
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc)


# ---- which queries


@triton.jit
def sites(first, w, R: tl.constexpr, S: tl.constexpr):
    """Row and column of the (first) cell of S sites from `first` on: (S / 2, 2), the second half beside the first."""
    site = first + tl.arange(0, S // 2)[:, None] + tl.arange(0, 2)[None, :] * (S // 2)
    if R == 2:
        across = (w + 1) // 2
        return site // across, site % across * 2
    else:
        return site // w, site % w


@triton.jit
def first_row(first, w, R: tl.constexpr):
    """Row of the cell that a tile begins with: a scalar."""
    if R == 2:
        return first // ((w + 1) // 2)
    else:
        return first // w


@triton.jit
def pixels(first, piece, w, R: tl.constexpr, S: tl.constexpr, P: tl.constexpr):
    """y and x of the queries in their region: P phases, those of `piece`, of each of S sites: (S·P,)."""
    rows = tl.arange(0, S * P)
    site = first + rows // P
    if R == 2:  # phase: which of the two cells, then y, x in it
        across = (w + 1) // 2
        phase = rows % P
        return site // across * 2 + phase // 2 % 2, site % across * 4 + phase // 4 * 2 + phase % 2
    else:
        phase = piece * P + rows % P
        return site // w * R + phase // R, site % w * R + phase % R


# ---- the convolution


@triton.jit
def spread(first, L: tl.constexpr, N: tl.constexpr):
    """Every N-th of L channels from `first` on: (L / N,).

    Where N is 1, one from each half in turn: neighbours would be loaded together, and stand before the sites.
    """
    group = tl.arange(0, L // N)
    if N == 1:
        return first + group % 2 * (L // 2) + group // 2
    else:
        return first + group * N


@triton.jit
def _tap(v, row, column, channel, v_m, h, w, N: tl.constexpr):
    """v at one place of each window, zero outside of the grid: (S / 2, L / N, 2) for each of N channels in a row."""
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
    at = v + ((row * w + column) * v_m)[:, None, :, None] + channel[None, :, None, :]
    found = tl.load(at, mask=inside[:, None, :, None], other=0.0)
    S: tl.constexpr = 2 * found.shape[0]
    L: tl.constexpr = N * found.shape[1]
    if N == 1:
        return (tl.reshape(found, (S // 2, L, 2)),)
    elif N == 2:
        return tl.split(found)
    else:
        even, odd = tl.split(tl.reshape(found, (S // 2, L // 4, 2, 2, 2)))
        v0, v2 = tl.split(even)
        v1, v3 = tl.split(odd)
        return v0, v1, v2, v3


@triton.jit
def windows(
    v, row, column, first, v_m, h, w, R: tl.constexpr, S: tl.constexpr, L: tl.constexpr, N: tl.constexpr
):
    """The values that the taps of each site see in L channels: N of (L / N, S, 16), whose channels are `spread`'s."""
    channel = spread(first, L, N)[:, None] + tl.arange(0, N)[None, :]
    zero = tl.zeros((S // 2, L // N, 2), v.dtype.element_ty)
    # the interpreter fills nothing with bf16
    one = tl.full((S // 2, L // N, 2), 1.0, tl.float32).to(v.dtype.element_ty)
    a0 = _tap(v, row - 1, column - 1, channel, v_m, h, w, N)
    a1 = _tap(v, row - 1, column, channel, v_m, h, w, N)
    a2 = _tap(v, row - 1, column + 1, channel, v_m, h, w, N)
    b0 = _tap(v, row, column - 1, channel, v_m, h, w, N)
    b1 = _tap(v, row, column, channel, v_m, h, w, N)
    b2 = _tap(v, row, column + 1, channel, v_m, h, w, N)
    c0 = _tap(v, row + 1, column - 1, channel, v_m, h, w, N)
    c1 = _tap(v, row + 1, column, channel, v_m, h, w, N)
    c2 = _tap(v, row + 1, column + 1, channel, v_m, h, w, N)
    found = ()
    if R == 2:
        a3 = _tap(v, row - 1, column + 2, channel, v_m, h, w, N)
        b3 = _tap(v, row, column + 2, channel, v_m, h, w, N)
        c3 = _tap(v, row + 1, column + 2, channel, v_m, h, w, N)
        for i in tl.static_range(N):
            taps = joined(
                a0[i], a1[i], a2[i], a3[i], b0[i], b1[i], b2[i], b3[i], c0[i], c1[i], c2[i], c3[i], one, zero
            )
            found = found + (by_channel(taps, S, L // N),)
    else:
        for i in tl.static_range(N):
            taps = joined(
                a0[i], a1[i], a2[i], b0[i], b1[i], b2[i], c0[i], c1[i], c2[i], one, zero, zero, zero, zero
            )
            found = found + (by_channel(taps, S, L // N),)
    return found


@triton.jit
def by_channel(taps, S: tl.constexpr, L: tl.constexpr):
    """Windows by channel, from the taps that `joined` made of (S / 2, L, 2): (L, S, 16)."""
    return tl.reshape(tl.permute(tl.reshape(taps, (S // 2, L, 2, 16)), (1, 2, 0, 3)), (L, S, 16))


@triton.jit
def joined(t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12, zero):
    """16 taps in four dimensions of 2: tap 2 i + j is at [..., i // 4, i // 2 % 2, i % 2, j].

    Neighbours, joined last, share a register.
    """
    even = _joined8(t0, t2, t4, t6, t8, t10, t12, zero)
    odd = _joined8(t1, t3, t5, t7, t9, t11, zero, zero)
    return tl.join(even, odd)


@triton.jit
def _joined8(t0, t1, t2, t3, t4, t5, t6, t7):
    """Eight tensors in three dimensions of 2: 4 i + 2 j + k is at [..., i, j, k]."""
    even = tl.join(tl.join(t0, t4), tl.join(t2, t6))
    return tl.join(even, tl.join(tl.join(t1, t5), tl.join(t3, t7)))


@triton.jit
def filters(weight, bias, channel, piece, R, PAIRED: tl.constexpr, P: tl.constexpr, HAS_BIAS: tl.constexpr):
    """The taps' weights as `windows` orders them, from the parameters as they are: (L, P, 16).

    weight: (C·R², 1, 3, 3), bias: (C·R²,), contiguous. PAIRED: R is 2.
    """
    phase, tap = tl.arange(0, P), tl.arange(0, 16)
    if PAIRED:
        moved = tap[None, :] % 4 - (phase // 4)[:, None]  # the second cell's columns are one further
        known = (tap[None, :] < 12) & (moved >= 0) & (moved < 3)
        at = tap[None, :] // 4 * 3 + moved
        phase %= 4
        is_bias = tap == 12
    else:
        phase += piece * P
        known, at, is_bias = tap[None, :] < 9, tap[None, :], tap == 9
    row = channel[None, :] * (R * R) + phase[:, None]
    if PAIRED:
        at, known = at[:, None, :], known[:, None, :]
    else:
        at, known = at[None, :, :], known[None, :, :]
    found = tl.load(weight + (row * 9)[:, :, None] + at, mask=known, other=0.0)
    if HAS_BIAS:
        one = tl.load(bias + row)
        found = tl.where(is_bias[None, None, :], one[:, :, None], found)
    return tl.permute(found, (1, 0, 2))


@assembler.jit(do_not_specialize=["C", "R"])
def pack_filters(
    up_weight,  # (C·R², 1, 3, 3), contiguous
    up_bias,  # (C·R²,), contiguous; not read without HAS_BIAS
    pack,  # (R²/P, C, P, 16), written
    C,
    R,
    PAIRED: tl.constexpr,
    P: tl.constexpr,
    L: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """The filters of L channels in the order and the dtype of the product, for the designs that load them often."""
    blocks = C // L
    piece = tl.program_id(0) // blocks
    channel = tl.program_id(0) % blocks * L + tl.arange(0, L)
    found = filters(up_weight, up_bias, channel, piece, R, PAIRED, P, HAS_BIAS)
    at = ((piece * C + channel) * (P * 16))[:, None, None] + tl.arange(0, P)[None, :, None] * 16
    tl.store(pack + at + tl.arange(0, 16)[None, None, :], found.to(pack.dtype.element_ty))


@triton.jit
def packed(pack, piece, first, C: tl.constexpr, P: tl.constexpr, L: tl.constexpr, N: tl.constexpr):
    """`filters` of L channels from `first` on, as `pack_filters` left them: N of (L / N, P, 16)."""
    found = ()
    for i in tl.static_range(N):
        channel = spread(first + i, L, N)
        at = tl.arange(0, P)[:, None, None] * 16 + ((piece * C + channel) * (P * 16))[None, :, None]
        found = found + (tl.permute(tl.load(pack + at + tl.arange(0, 16)[None, None, :]), (1, 0, 2)),)
    return found


@triton.jit
def loaded(
    weight, bias, piece, first, R: tl.constexpr, P: tl.constexpr, L: tl.constexpr, N: tl.constexpr,
    HAS_BIAS: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """`filters` of L channels from `first` on, from the parameters: N of (L / N, P, 16)."""
    found = ()
    for i in tl.static_range(N):
        channel = spread(first + i, L, N)
        found = found + (filters(weight, bias, channel, piece, R, R == 2, P, HAS_BIAS).to(dtype),)
    return found


@triton.jit
def convolved(window, weights, P: tl.constexpr, UPCAST: tl.constexpr):
    """The convolution of a tile in fp32: (L, P, S) with the phases as rows where P fills those of an instruction,
    else (L, S, P)."""
    if P >= 16:
        return dot(weights, tl.permute(window, (0, 2, 1)), UPCAST)
    else:
        return dot(window, tl.permute(weights, (0, 2, 1)), UPCAST)


@triton.jit
def upsampled(
    v, taps, row, column, first, v_m, h, w,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, L: tl.constexpr, N: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """The convolution of a tile in L channels from `first` on: what `convolved` gives, N times, of `spread`'s channels.

    taps: N of (L / N, P, 16).
    """
    found = ()
    seen = windows(v, row, column, first, v_m, h, w, R, S, L, N)
    for i in tl.static_range(N):
        found = found + (convolved(seen[i], taps[i], P, UPCAST),)
    return found


@triton.jit
def upsampled_by(
    pack, v, piece, row, column, first, v_m, h, w, C: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, P: tl.constexpr, L: tl.constexpr, N: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """`upsampled`, by filters that `pack_filters` left."""
    taps = packed(pack, piece, first, C, P, L, N)
    return upsampled(v, taps, row, column, first, v_m, h, w, R, S, P, L, N, UPCAST)


@triton.jit
def by_query(ups, S: tl.constexpr, P: tl.constexpr, L: tl.constexpr, N: tl.constexpr):
    """N results of `convolved`, whose channels are `spread`'s, in order and a row a query: (S·P, L)."""
    A: tl.constexpr = P if P >= 16 else S
    B: tl.constexpr = S if P >= 16 else P
    if N == 1:
        up = tl.permute(tl.reshape(ups[0], (L // 2, 2, A, B)), (2, 3, 1, 0))
    elif N == 2:
        up = tl.permute(tl.join(ups[0], ups[1]), (1, 2, 0, 3))
    else:
        four = tl.join(tl.join(ups[0], ups[2]), tl.join(ups[1], ups[3]))
        up = tl.permute(tl.reshape(four, (L // 4, A, B, 4)), (1, 2, 0, 3))
    if P >= 16:
        up = tl.permute(up, (1, 0, 2, 3))
    return tl.reshape(up, (S * P, L))


@triton.jit
def normalised(ups, mean, rstd, S: tl.constexpr, P: tl.constexpr, L: tl.constexpr, N: tl.constexpr):
    """LayerNorm of N results of `convolved`, without its weights, a row a query: (S·P, L).

    In fp16 whatever they were in: nothing is larger than √C, and in bf16 this would be a rounding that eager has not.
    """
    found = ()
    for i in tl.static_range(N):
        off = ups[i].to(tl.float32) - mean[None, :, :]
        found = found + ((off * rstd[None, :, :]).to(tl.float16),)
    return by_query(found, S, P, L, N)


@triton.jit
def one_by_query(value, S: tl.constexpr, P: tl.constexpr):
    """One value a query, such as a mean, in the order of the queries: (S·P,)."""
    if P >= 16:
        value = tl.permute(value, (1, 0))
    return tl.reshape(value, (S * P,))


@triton.jit
def by_site(value, S: tl.constexpr, P: tl.constexpr):
    """The way back: one value a query, (S·P,), in the order of `convolved`: (P, S) or (S, P)."""
    value = tl.reshape(value, (S, P))
    if P >= 16:
        value = tl.permute(value, (1, 0))
    return value


@triton.jit
def no_moments(S: tl.constexpr, P: tl.constexpr, WARPS: tl.constexpr):
    """Zeros for `moments` to add to, twice."""
    zeros = tl.zeros((WARPS, P, S) if P >= 16 else (WARPS, S, P), tl.float32)
    return zeros, zeros


@triton.jit
def moments(total, squares, ups, WARPS: tl.constexpr, N: tl.constexpr):
    """Sums over channels, and of squares, with N results of `convolved` besides: (WARPS, P, S) or (WARPS, S, P).

    A warp has every WARPS-th channel of a product, so that nothing is moved between warps before `mean_and_rstd`.
    """
    for i in tl.static_range(N):
        split = _by_warp(ups[i], WARPS)
        total += tl.sum(split, 0)
        squares += tl.sum(split * split, 0)
    return total, squares


@triton.jit
def _by_warp(up, WARPS: tl.constexpr):
    """The channels of each warp: (L / WARPS, WARPS, …)."""
    return tl.reshape(up, (up.shape[0] // WARPS, WARPS, up.shape[1], up.shape[2]))


@triton.jit
def halves(ups, dtype: tl.constexpr, N: tl.constexpr):
    """N results of `convolved` in half precision, in which they take less room while they wait."""
    found = ()
    for i in tl.static_range(N):
        found = found + (ups[i].to(dtype),)
    return found


@triton.jit
def mean_and_rstd(total, squares, eps, C: tl.constexpr):
    """LayerNorm's mean and 1/σ of C channels by `moments`: (P, S) or (S, P)."""
    mean = tl.sum(total, 0) / C
    return mean, tl.rsqrt(tl.maximum(tl.sum(squares, 0) / C - mean * mean, 0.0) + eps)


# ---- the rest


@triton.jit
def softmax(score, hidden, scale, dtype: tl.constexpr):
    """exp(scores - largest) in `dtype`, and 1 / their sum. One block has all keys; `hidden`: -inf past them, else 0."""
    score = score * scale + hidden[None, :]
    share = tl.exp2(score - tl.max(score, 1)[:, None])
    return share.to(dtype), 1 / tl.sum(share, 1)


@triton.jit
def shares_of_head(
    q, k, query, there, key, is_key, hidden, q_n, k_m, scale, first,
    L0: tl.constexpr, L1: tl.constexpr, LS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """`softmax` of one head's scores, whose channels begin at `first`: (S·P, keys), and (S·P,)."""
    score = None
    for i in tl.static_range(LS):
        channel = first + i * L0 + tl.arange(0, L1 if i else L0)
        q_part = tl.load(q + (query * q_n)[:, None] + channel[None, :], mask=there[:, None])
        k_part = tl.load(k + (key * k_m)[None, :] + channel[:, None], mask=is_key[None, :], other=0.0)
        score = dot(q_part, k_part, UPCAST, score)
    return softmax(score, hidden, scale, q.dtype.element_ty)


@triton.jit
def store(out, attended, inverse, normed, gamma, beta, query, there, channel, C: tl.constexpr):
    """Both terms of equation 2, added and written where there is a query."""
    result = attended * inverse[:, None] + (normed.to(tl.float32) * gamma[None, :] + beta[None, :])
    tl.store(
        out + (query * C)[:, None] + channel[None, :], result.to(out.dtype.element_ty), mask=there[:, None]
    )
