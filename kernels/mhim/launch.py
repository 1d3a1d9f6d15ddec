"""Running the kernels: a call and a configuration to a result. Nothing is checked here; `op.py` does that.

# B batch, H W feature map, N = H·W queries, M = ceil(H/r)·ceil(W/r) keys, C = A·D channels
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from kernels.arguments import laid_out
from kernels.device import current, loop_bound, upcasts
from kernels.emsa_upsample import forward as core
from kernels.emsa_upsample import launch as of_core
from kernels.emsa_upsample.cost import ceil_div
from kernels.emsa_upsample.tuning import Config
from kernels.mhim import forward, reference, tuning


class Call(NamedTuple):
    """The arguments of one call, in the operator's order. A FLOP formula is given shapes in place of tensors."""

    q: Tensor  # (B, N, C)
    k: Tensor  # (B, M, C)
    v: Tensor  # (B, M, C)
    mix_weight: Tensor  # (A, A, 1, 1)
    mix_bias: Tensor | None  # (A,), which the softmax cancels
    up_weight: Tensor | None  # (C·r², 1, 3, 3); None: no branch
    up_bias: Tensor | None  # (C·r²,)
    norm_weight: Tensor | None  # (C,)
    norm_bias: Tensor | None  # (C,)
    heads: int
    height: int
    width: int
    reduction: int
    eps: float

    @property
    def size(self) -> tuple[int, int]:
        """H, W of the feature map."""
        return self.height, self.width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the keys."""
        return ceil_div(self.size, self.reduction)

    @property
    def keys(self) -> int:
        """Number of those."""
        return math.prod(self.grid)

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.q.shape[-1] // self.heads

    @property
    def has_branch(self) -> bool:
        """Whether there is an upsample branch."""
        return self.up_weight is not None

    def of_core(self) -> of_core.Call:
        """The call of the core whose branch is this one's."""
        assert self.up_weight is not None
        assert self.norm_weight is not None
        assert self.norm_bias is not None
        branch = (self.up_weight, self.up_bias, self.norm_weight, self.norm_bias)
        return of_core.Call(
            *(self.q, self.k, self.v, *branch, self.heads, *self.size, self.reduction, self.eps)
        )


TENSORS: Final = 9  # the first of a call's arguments


def launch(config: Config, call: Call) -> Tensor:
    """The kernels with `config`: (B, N, C). Nothing is checked."""
    out = torch.empty(call.q.shape, dtype=call.q.dtype, device=call.q.device)
    if out.numel():
        with current(out):
            _launch(config, laid_out(call, 3, TENSORS), out)
    return out


def _launch(config: Config, call: Call, out: Tensor) -> None:
    (batch, queries, _), heads, keys = out.shape, call.heads, call.keys
    q, k, v, mix = call[:4]
    shape = (call.head_dim, call.reduction, heads, keys)
    compiled = tuning.kernels(config, *shape, has_branch=call.has_branch)
    options = {"PRECISION": of_core.precision(q), "UPCAST": upcasts(q)}
    scale = math.log2(math.e) * call.head_dim**-0.5
    blocks = loop_bound(-(-keys // config.block_k))
    tiles = -(-queries // config.block_q)

    def single(*sizes: int) -> Tensor:
        return torch.empty(sizes, dtype=torch.float32, device=out.device)

    squares = single(batch, heads, tiles)
    softmax = single(batch, heads, queries, 2) if keys > config.block_k else squares
    forward.mhim_statistics[(tiles * heads * batch,)](
        *(q, k, mix, softmax, squares, *q.stride()[:2], *k.stride()[:2], queries, keys, tiles, blocks, scale),
        **compiled["mhim.forward.mhim_statistics"],
        **options,
    )
    rstd = (squares.sum(-1) / (queries * keys) + reference.NORM_EPS).rsqrt()

    tiles = tuning.tiles(config, queries, call.reduction, call.grid, has_branch=call.has_branch)
    taps, bias, gamma, beta, statistics = q, q, q, q, q  # a pointer is wanted also where it is not read
    if call.has_branch:
        branch = call.of_core()
        gamma, beta, statistics = branch.norm_weight, branch.norm_bias, single(batch, queries, 2)
        taps, bias = of_core.taps(branch)
        core._emsa_statistics[(tiles * batch,)](
            *(
                v,
                taps,
                bias,
                statistics,
                v.stride(0),
                v.stride(1),
                *call.size,
                *call.grid,
                tiles,
                0,
                call.eps,
            ),
            **compiled["emsa_upsample.forward._emsa_statistics"],
            HAS_BIAS=call.up_bias is not None,
            WINDOWED=False,
        )
    strides = (stride for x in (q, k, v) for stride in x.stride()[:2])
    forward.mhim[(tiles * heads * batch,)](
        *(q, k, v, mix, softmax, rstd, taps, bias, gamma, beta, statistics, out),
        *(*strides, queries, keys, *call.size, *call.grid, tiles, blocks, scale),
        **compiled["mhim.forward.mhim"],
        **options,
        HAS_BIAS=call.up_bias is not None,
    )
