"""The fused forward for one head and at most one block of keys: a program keeps 16 phases' filters and walks on.

A persistent program has one piece of the phases. Its filters stay in shared memory while it goes from image to image,
and in an image from tile to tile; keys and values stay for an image.

# the legend is up_product.py's
"""

# a kernel's tuples grow by addition: Triton knows no *
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment"
import triton.language as tl

from kernels import assembler
from kernels.emsa_upsample.up_product import (
    dot,
    halves,
    loaded,
    mean_and_rstd,
    moments,
    no_moments,
    normalised,
    pixels,
    sites,
    softmax,
    store,
    upsampled,
)


@assembler.jit(do_not_specialize=["H", "W", "h", "w", "units", "parts", "tiles", "walkers"])
def emsa_resident(
    q,  # (B, N, D), channels contiguous
    k,  # (B, M, D), channels contiguous
    v,  # (B, M, D), channels contiguous
    up_weight,  # (D·R², 1, 3, 3), contiguous
    up_bias,  # (D·R²,), contiguous; not read without HAS_BIAS
    norm_weight,  # (D,)
    norm_bias,  # (D,)
    out,  # (B, N, D), contiguous, written
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
    units,  # images × parts
    parts,  # of an image's tiles
    tiles,  # of a part
    walkers,  # programs for each piece of the phases
    eps,
    scale,  # log2(e) / √D: exp2 is what the hardware has
    D: tl.constexpr,
    L0: tl.constexpr,
    L1: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    P: tl.constexpr,
    N0: tl.constexpr,
    N1: tl.constexpr,
    WARPS: tl.constexpr,
    BLOCK_K: tl.constexpr,  # M at least
    HAS_BIAS: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Both terms of equation 2 for one piece of the phases, in every so many parts of images."""
    PIECES: tl.constexpr = R * R // P
    LS: tl.constexpr = 1 + (D - L0) // L1 if L1 > 0 else 1
    dtype: tl.constexpr = out.dtype.element_ty
    piece = tl.program_id(0) % PIECES
    taps = ()
    for i in tl.static_range(LS):
        taps = taps + (
            loaded(
                up_weight, up_bias, piece, i * L0, R, P, L1 if i else L0, N1 if i else N0, HAS_BIAS, dtype
            ),
        )
    key = tl.arange(0, BLOCK_K)
    is_key = key < h * w
    hidden = tl.where(is_key, 0.0, float("-inf"))
    unit = tl.program_id(0) // PIECES
    while unit < units:
        batch = (unit // parts).to(tl.int64)
        q_of = q + batch * q_b
        v_of = v + batch * v_b
        out_of = out + batch * H * W * D
        ks = ()
        vs = ()
        for i in tl.static_range(LS):
            channel = i * L0 + tl.arange(0, L1 if i else L0)
            k_at = k + batch * k_b + (key * k_m)[None, :] + channel[:, None]
            v_at = v_of + (key * v_m)[:, None] + channel[None, :]
            ks = ks + (tl.load(k_at, mask=is_key[None, :], other=0.0),)
            vs = vs + (tl.load(v_at, mask=is_key[:, None], other=0.0),)
        for tile in tl.range(0, tiles, num_stages=1):
            first = (unit % parts * tiles + tile) * S
            row, column = sites(first, w, R, S)
            y, x = pixels(first, piece, w, R, S, P)
            there = (y < H) & (x < W)
            query = y * W + x
            ups = ()
            total, squares = no_moments(S, P, WARPS)
            for i in tl.static_range(LS):
                up = upsampled(
                    v_of, taps[i], row, column, i * L0, v_m, h, w, R, S, P,
                    L1 if i else L0, N1 if i else N0, UPCAST,
                )  # fmt: skip
                total, squares = moments(total, squares, up, WARPS, N1 if i else N0)
                ups = ups + (halves(up, dtype, N1 if i else N0),)
            score = None
            for i in tl.static_range(LS):
                channel = i * L0 + tl.arange(0, L1 if i else L0)
                q_at = q_of + (query * q_n)[:, None] + channel[None, :]
                score = dot(tl.load(q_at, mask=there[:, None]), ks[i], UPCAST, score)
            share, inverse = softmax(score, hidden, scale, dtype)
            mean, rstd = mean_and_rstd(total, squares, eps, D)
            for i in tl.static_range(LS):
                normed = normalised(ups[i], mean, rstd, S, P, L1 if i else L0, N1 if i else N0)
                channel = i * L0 + tl.arange(0, L1 if i else L0)
                gamma = tl.load(norm_weight + channel).to(tl.float32)
                beta = tl.load(norm_bias + channel).to(tl.float32)
                attended = dot(share, vs[i], UPCAST)
                store(out_of, attended, inverse, normed, gamma, beta, query, there, channel, D)
        unit += walkers
