"""Toy kernels that are compiled ahead of time in tests: their loops and instructions are known."""

import triton
import triton.language as tl


@triton.jit
def nested(x, out, rows, columns):
    """For each row, a store of 64×64, and for each of its columns a product of two 64×64 and as many exponentials."""
    lane = tl.arange(0, 64)[:, None] * 64 + tl.arange(0, 64)[None, :]
    for row in range(rows):
        total = tl.zeros((64, 64), tl.float32)
        for column in range(columns):
            tile = tl.load(x + (row * columns + column) * 4096 + lane)
            total = tl.exp2(tl.dot(tile, tile, total))
        tl.store(out + row * 4096 + lane, total)


@triton.jit
def short(x, out, count):
    """A loop so short that ptxas makes several of it."""
    lane = tl.arange(0, 32)
    total = tl.zeros((32,), tl.float32)
    for number in range(count):
        total += tl.load(x + number * 32 + lane)
    tl.store(out + lane, total)


@triton.jit
def split_heads(q, k, v, out):
    """Attention of 64 rows, 64 keys and 96 channels, as 64 + 32: operands that are swizzled in two ways."""
    row = tl.arange(0, 64)
    part0, part1 = tl.arange(0, 64), 64 + tl.arange(0, 32)
    score = tl.dot(
        tl.load(q + row[:, None] * 96 + part0[None, :]), tl.load(k + row[None, :] * 96 + part0[:, None])
    )
    score = tl.dot(
        tl.load(q + row[:, None] * 96 + part1[None, :]),
        tl.load(k + row[None, :] * 96 + part1[:, None]),
        score,
    )
    share = tl.exp2(score - tl.max(score, 1)[:, None]).to(tl.float16)
    tl.store(
        out + row[:, None] * 96 + part0[None, :],
        tl.dot(share, tl.load(v + row[:, None] * 96 + part0[None, :])),
    )
    tl.store(
        out + row[:, None] * 96 + part1[None, :],
        tl.dot(share, tl.load(v + row[:, None] * 96 + part1[None, :])),
    )
