"""The up-convolution as a matrix product, and what else the designs that use it share: tiles, softmax, output.

A depthwise convolution from cells to phases is a small product for each channel, [sites × taps] · [taps × phases].
Sums are fp32, on matrix units: 0.75 instructions a query (of 96 channels) where multiplying and adding takes 13.5.

# site: what one window of v belongs to. It is a cell of the key grid, with 3×3 taps; where R is 2, two cells side by
#   side with 3×4 taps, because the four phases of one would fill half of an instruction
# S sites a tile, P phases of each: S·P queries, ordered by site. Where P < R², R²/P pieces make a site
# taps: 16, those of the window, then one for the bias, then zeros
# L channels at a time: a head is taken in one part of L0 channels and LS - 1 parts of L1 (96 = 64 + 32 = 32 + 32 + 32)
"""

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
    """Row and column of the (first) cell of S sites from `first` on: (S,)."""
    site = first + tl.arange(0, S)
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
def _tap(v, row, column, channel, v_m, h, w):
    """v at one place of each window, zero outside of the grid: (S, L)."""
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
    return tl.load(
        v + ((row * w + column) * v_m)[:, None] + channel[None, :], mask=inside[:, None], other=0.0
    )


@triton.jit
def windows(v, row, column, channel, v_m, h, w, R: tl.constexpr, S: tl.constexpr, L: tl.constexpr):
    """The values that the taps of each site see: (L, S, 16)."""
    zero = tl.zeros((S, L), v.dtype.element_ty)
    one = tl.full((S, L), 1.0, tl.float32).to(v.dtype.element_ty)  # the interpreter fills nothing with bf16
    a0 = _tap(v, row - 1, column - 1, channel, v_m, h, w)
    a1 = _tap(v, row - 1, column, channel, v_m, h, w)
    a2 = _tap(v, row - 1, column + 1, channel, v_m, h, w)
    b0 = _tap(v, row, column - 1, channel, v_m, h, w)
    b1 = _tap(v, row, column, channel, v_m, h, w)
    b2 = _tap(v, row, column + 1, channel, v_m, h, w)
    c0 = _tap(v, row + 1, column - 1, channel, v_m, h, w)
    c1 = _tap(v, row + 1, column, channel, v_m, h, w)
    c2 = _tap(v, row + 1, column + 1, channel, v_m, h, w)
    if R == 2:
        a3 = _tap(v, row - 1, column + 2, channel, v_m, h, w)
        b3 = _tap(v, row, column + 2, channel, v_m, h, w)
        c3 = _tap(v, row + 1, column + 2, channel, v_m, h, w)
        joined = _joined(a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, one, zero)
    else:
        joined = _joined(a0, a1, a2, b0, b1, b2, c0, c1, c2, one, zero, zero, zero, zero)
    return tl.permute(tl.reshape(joined, (S, L, 16)), (1, 0, 2))


@triton.jit
def _joined(t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12, zero):
    """Tap 2 i + j is at [..., i // 4, i // 2 % 2, i % 2, j]: neighbours, joined last, share a register."""
    even = _joined8(t0, t2, t4, t6, t8, t10, t12, zero)
    odd = _joined8(t1, t3, t5, t7, t9, t11, zero, zero)
    return tl.join(even, odd)


@triton.jit
def _joined8(t0, t1, t2, t3, t4, t5, t6, t7):
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
    row = channel[:, None] * (R * R) + phase[None, :]
    found = tl.load(weight + (row * 9)[:, :, None] + at[None, :, :], mask=known[None, :, :], other=0.0)
    if HAS_BIAS:
        one = tl.load(bias + row)
        found = tl.where(is_bias[None, None, :], one[:, :, None], found)
    return found


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
def packed(pack, channel, piece, C: tl.constexpr, P: tl.constexpr):
    """`filters` as `pack_filters` left them: (L, P, 16)."""
    at = ((piece * C + channel) * (P * 16))[:, None, None] + tl.arange(0, P)[None, :, None] * 16
    return tl.load(pack + at + tl.arange(0, 16)[None, None, :])


@triton.jit
def convolved(window, weights, P: tl.constexpr, UPCAST: tl.constexpr):
    """The convolution of a tile in fp32: (L, P, S) with the phases as rows where P fills those of an instruction,
    else (L, S, P)."""
    if P >= 16:
        return dot(weights, tl.permute(window, (0, 2, 1)), UPCAST)
    else:
        return dot(window, tl.permute(weights, (0, 2, 1)), UPCAST)


@triton.jit
def by_query(up, S: tl.constexpr, P: tl.constexpr, L: tl.constexpr):
    """The result of `convolved`, a row a query: (S·P, L)."""
    if P >= 16:
        return tl.reshape(tl.permute(up, (2, 1, 0)), (S * P, L))
    else:
        return tl.reshape(tl.permute(up, (1, 2, 0)), (S * P, L))


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
def join_moments(mean, squares, up, before, L: tl.constexpr):
    """Mean and sum of squared deviations of `before` channels, and those of `up` besides.

    Chan, Golub and LeVeque: without the cancellation of E[u²] - E[u]².
    """
    own_mean = tl.sum(up, 0) / L
    off = up - own_mean[None, :, :]
    apart = own_mean - mean
    share = L / (before + L)
    return mean + apart * share, squares + tl.sum(off * off, 0) + apart * apart * (before * share)


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
