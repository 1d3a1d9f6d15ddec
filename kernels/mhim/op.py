"""The fused MHIM as a PyTorch operator, `torch.ops.restv2.mhim`: attention, with or without the upsample branch.

It has a fake implementation (torch.compile, meta tensors), a gradient (formulas of the reference, in ATen operators),
and a FLOP formula. It runs where `kernels.emsa_upsample.op` does, and is refused with the same reasons.

# B batch, H W feature map, N = H·W queries, M = ceil(H/r)·ceil(W/r) keys, C = A·D channels
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.arguments import autocast, check_attended, check_shapes, laid_out
from kernels.device import DTYPES, capability, current, is_interpreted
from kernels.emsa_upsample import forward as core
from kernels.emsa_upsample import launch as of_core
from kernels.emsa_upsample import op as emsa_upsample
from kernels.emsa_upsample.cost import ceil_div
from kernels.emsa_upsample.tuning import HEAD_DIMS, REDUCTIONS, Config
from kernels.mhim import cost, forward, reference, tuning

INTERPRETED = is_interpreted(forward.mhim)


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


TENSORS = 9  # the first of a call's arguments

# `Call` for the dispatcher, which takes no tuples.
SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor mix_weight, Tensor? mix_bias, Tensor? up_weight, Tensor? up_bias, "
    "Tensor? norm_weight, Tensor? norm_bias, SymInt heads, SymInt height, SymInt width, SymInt reduction, float eps) "
    "-> Tensor"
)


def mhim(
    q_BNC: Tensor,
    k_BMC: Tensor,
    v_BMC: Tensor,
    mix_weight: Tensor,
    mix_bias: Tensor | None,
    up_weight: Tensor | None = None,
    up_bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    heads: int,
    size: tuple[int, int],
    reduction: int,
    eps: float = 1e-6,
) -> Tensor:
    """`reference.mhim`, fused: (B, N, C) in the dtype of q. Arguments as there.

    q, k and v are of one dtype; parameters may be of another. Under autocast q, k and v are cast, as for a product.

    Raises:
        ValueError: shapes, dtypes, heads or reduction that do not fit each other or the kernel.
        RuntimeError: the kernel cannot run on this device: `kernels.emsa_upsample.op.why_not` says why.
    """
    q_BNC, k_BMC, v_BMC = autocast(q_BNC, k_BMC, v_BMC)
    parameters = (mix_weight, mix_bias, up_weight, up_bias, norm_weight, norm_bias)
    return _op(*Call(q_BNC, k_BMC, v_BMC, *parameters, heads, *size, reduction, eps))


# ---- the operator


@torch.library.custom_op("restv2::mhim", mutates_args=(), schema=SCHEMA)
def _op(*arguments: Any) -> Tensor:
    call = Call(*arguments)
    _check(call)
    q = call.q
    if refused := emsa_upsample.why_not(q.device, q.dtype):
        raise RuntimeError(refused)
    shape = (call.head_dim, call.reduction, call.heads, call.keys)
    return launch(tuning.choose(DTYPES[q.dtype], capability(q.device), *shape), call)


@_op.register_fake
def _(*arguments: Any) -> Tensor:
    q = Call(*arguments).q
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    call = Call(*inputs)
    ctx.save_for_backward(*call[:TENSORS])
    ctx.geometry = {"heads": call.heads, "size": call.size, "reduction": call.reduction, "eps": call.eps}


def _gradient(ctx: Any, grad_BNC: Tensor) -> tuple[Tensor | None, ...]:
    gradients = reference.gradients(grad_BNC, *ctx.saved_tensors, **ctx.geometry)
    return *gradients, *[None] * (len(Call._fields) - TENSORS)  # what is no tensor has none


_op.register_autograd(_gradient, setup_context=_save)


@register_flop_formula(torch.ops.restv2.mhim)
def _flops(*shapes: Any, **_: Any) -> int:
    """FLOPs of a call, 1 MAC = 2 FLOPs, nominal: whatever the kernel computes again."""
    call = Call(*shapes)
    batch, _, channels = call.q
    has_branch = call.up_weight is not None
    return 2 * sum(
        cost.macs(batch, call.size, channels, call.heads, call.reduction, has_branch=has_branch).values()
    )


# ---- running the kernels


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
    has_branch = call.up_weight is not None
    shape = (call.head_dim, call.reduction, heads, keys)
    compiled = tuning.kernels(config, *shape, has_branch=has_branch)
    options = {"PRECISION": of_core.precision(q), "UPCAST": INTERPRETED and q.dtype == torch.bfloat16}
    scale = math.log2(math.e) * call.head_dim**-0.5
    blocks = of_core.turns(-(-keys // config.block_k))
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

    tiles = tuning.tiles(config, queries, call.reduction, call.grid, has_branch=has_branch)
    taps, bias, gamma, beta, statistics = q, q, q, q, q  # a pointer is wanted also where it is not read
    if call.up_weight is not None:
        assert call.norm_weight is not None
        assert call.norm_bias is not None
        gamma, beta, statistics = call.norm_weight, call.norm_bias, single(batch, queries, 2)
        branch = (call.up_weight, call.up_bias, gamma, beta)
        of_branch = of_core.Call(q, k, v, *branch, heads, *call.size, call.reduction, call.eps)
        taps, bias = of_core.taps(of_branch)
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


def _check(call: Call) -> None:
    """Refuse what the kernel does not take.

    Raises:
        ValueError: one line that says what does not fit.
    """
    batch, channels = call.q.shape[0], call.q.shape[-1]
    heads, reduction = call.heads, call.reduction
    if reduction not in REDUCTIONS:
        raise ValueError(f"a reduction of {reduction} is none of {', '.join(map(str, REDUCTIONS))}")
    if not 2 <= heads <= tuning.MOST_HEADS:
        raise ValueError(f"MHIM mixes 2 to {tuning.MOST_HEADS} heads, not {heads}")
    if channels % heads or call.head_dim not in HEAD_DIMS:
        raise ValueError(
            f"{channels} channels in {heads} heads: a head is a multiple of 16 wide, and at most 128"
        )
    if len({x is None for x in (call.up_weight, call.norm_weight, call.norm_bias)}) > 1:
        raise ValueError(
            "the upsample branch has filters, and a LayerNorm's weight and bias, or none of them"
        )
    keys = (batch, call.keys, channels)
    shapes = {
        **{"q": (batch, call.height * call.width, channels), "k": keys, "v": keys},
        **{"mix_weight": (heads, heads, 1, 1), "mix_bias": (heads,)},
        **{"up_weight": (channels * reduction**2, 1, 3, 3), "up_bias": (channels * reduction**2,)},
        **{"norm_weight": (channels,), "norm_bias": (channels,)},
    }
    check_shapes(call, shapes, f"a {call.height}x{call.width} map and reduction {reduction}")
    check_attended(*call[:3])
