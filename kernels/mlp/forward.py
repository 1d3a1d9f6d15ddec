"""The fused feed-forward: fc2(GELU(fc1(x))), one pass over x and out. The hidden map is never written.

Triton only, so that any Triton can compile it without torch. README.md beside this file has the maths.

# T tokens, C channels, H hidden channels (4C in the models)
# A program works on BLOCK_T tokens, and takes BLOCK_H hidden channels at a time: u = x W1ᵀ, then out += GELU(u) W2ᵀ.
# C is taken in two parts, C0 + C1 (96 = 64 + 32): padding it to a power of two would multiply by zeros.
"""

# no `from __future__ import annotations`: Triton 3.1's interpreter then takes a constexpr for a tensor
import triton
import triton.language as tl

from kernels import assembler


@triton.jit
def _gelu(u, bias, GELU: tl.constexpr, APPROXIMATE: tl.constexpr):
    """GELU of u + bias, in fp32. `reference.GELUS` has the formulas.

    Args:
        APPROXIMATE: take the hardware's instructions, which the interpreter does not have.
    """
    if GELU == "exp":  # x (1 + tanh z) / 2 = x / (1 + exp(-2z))
        x = u + bias.to(tl.float32)[None, :]
        # past its summit at x² = 52 the polynomial would turn back: it is held there
        square = tl.minimum(x * x, 52.0)
        power = x * (((0.000351516 * square - 0.0370056) * square - 0.797508) * 2.885390081777927)
        if APPROXIMATE:  # three instructions; of a division that is exact to the last bit there are ten
            share = tl.inline_asm_elementwise(
                "{ ex2.approx.ftz.f32 $0, $1; add.f32 $0, $0, 0f3F800000; rcp.approx.ftz.f32 $0, $0; }",
                "=f,f", [power], dtype=tl.float32, is_pure=True, pack=1,
            )  # fmt: skip
        else:
            share = 1 / (1 + tl.exp2(power))
        return x * share
    # all in x / 2, which takes a multiplication less: x / 2 is one FMA, and x / 2 + x / 2 · tanh z another
    half = 0.5 * u + (0.5 * bias).to(tl.float32)[None, :]
    if GELU == "tanh":
        square = tl.minimum(half * half, 13.0)
        z = half * ((-0.011248512 * square + 0.2960448) * square + 1.595016)
        if APPROXIMATE:
            tanh = tl.inline_asm_elementwise(
                "tanh.approx.f32 $0, $1;", "=f,f", [z], dtype=tl.float32, is_pure=True, pack=1
            )
        else:
            tanh = 1 - 2 / (1 + tl.exp2(z * 2.885390081777927))
        return half * tanh + half
    return half * tl.erf(half * 1.4142135623730951) + half


@triton.jit
def _dot(a, b, acc, UPCAST: tl.constexpr):
    """acc + a b."""
    if UPCAST:  # the interpreter's bf16 products are wrong
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc)


@triton.jit
def _rounded(x, like, UPCAST: tl.constexpr):
    """fp32 in the dtype of a pointer's elements, to the nearest."""
    if UPCAST:  # the interpreter cuts off: what it cuts off here is zeros
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    return x.to(like.dtype.element_ty)


@assembler.jit(do_not_specialize=["tokens"])
def _mlp(
    x,  # (T, C), channels contiguous
    w1,  # (H, C), contiguous
    b1,  # (H,), contiguous
    w2,  # (C, H), contiguous
    b2,  # (C,), contiguous
    out,  # (T, C), contiguous, written
    x_t,  # elements from a token to the next
    tokens,
    C: tl.constexpr,
    C0: tl.constexpr,
    C1: tl.constexpr,
    H: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    GELU: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """All three layers for one tile of tokens."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_T
    row = tl.arange(0, BLOCK_T)
    there = (row < tokens - first)[:, None]
    x += first * x_t
    out += first * C
    part0 = tl.arange(0, C0)
    # rows past the last token may hold anything, and are not stored
    x0 = tl.load(x + (row * x_t)[:, None] + part0[None, :], mask=there)
    out0 = tl.zeros((BLOCK_T, C0), tl.float32)
    if C1 > 0:
        part1 = C0 + tl.arange(0, C1)
        x1 = tl.load(x + (row * x_t)[:, None] + part1[None, :], mask=there)
        out1 = tl.zeros((BLOCK_T, C1), tl.float32)
    for block in range(H // BLOCK_H):
        hidden = block * BLOCK_H + tl.arange(0, BLOCK_H)
        u = tl.zeros((BLOCK_T, BLOCK_H), tl.float32)
        u = _dot(x0, tl.load(w1 + (hidden * C)[None, :] + part0[:, None]), u, UPCAST)
        if C1 > 0:
            u = _dot(x1, tl.load(w1 + (hidden * C)[None, :] + part1[:, None]), u, UPCAST)
        bias = tl.load(b1 + hidden)
        if UPCAST:
            bias = bias.to(tl.float32)
        g = _rounded(_gelu(u, bias, GELU, APPROXIMATE), w2, UPCAST)
        out0 = _dot(g, tl.load(w2 + (part0 * H)[None, :] + hidden[:, None]), out0, UPCAST)
        if C1 > 0:
            out1 = _dot(g, tl.load(w2 + (part1 * H)[None, :] + hidden[:, None]), out1, UPCAST)
    out0 += tl.load(b2 + part0).to(tl.float32)[None, :]
    tl.store(out + (row * C)[:, None] + part0[None, :], _rounded(out0, out, UPCAST), mask=there)
    if C1 > 0:
        out1 += tl.load(b2 + part1).to(tl.float32)[None, :]
        tl.store(out + (row * C)[:, None] + part1[None, :], _rounded(out1, out, UPCAST), mask=there)
