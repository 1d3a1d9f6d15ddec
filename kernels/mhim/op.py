"""The fused MHIM as a PyTorch operator, `torch.ops.restv2.mhim`: attention, with or without the upsample branch.

It has a fake implementation (torch.compile, meta tensors), a gradient (the fused backward where that runs, else the
reference's formulas in ATen operators), and a FLOP formula. It runs where `kernels.emsa_upsample.op` does, and is
refused with the same reasons.

# B batch, H W feature map, N = H·W queries, M = ceil(H/r)·ceil(W/r) keys, C = A·D channels
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.arguments import asked_once, autocast, check_attended, check_shapes
from kernels.device import DTYPES, capability
from kernels.emsa_upsample import op as emsa_upsample
from kernels.emsa_upsample.tuning import HEAD_DIMS, REDUCTIONS, Config
from kernels.mhim import cost, op_backward, reference, tuning
from kernels.mhim.launch import TENSORS, Call, launch

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
    return launch(_chosen(call), call)


@asked_once
def _chosen(call: Call) -> Config:
    """The configuration that runs a call, which is checked."""
    _check(call)
    q = call.q
    if refused := emsa_upsample.why_not(q.device, q.dtype):
        raise RuntimeError(refused)
    shape = (call.head_dim, call.reduction, call.heads, call.keys)
    return tuning.choose(DTYPES[q.dtype], capability(q.device), *shape)


@_op.register_fake
def _(*arguments: Any) -> Tensor:
    q = Call(*arguments).q
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    call = Call(*inputs)
    ctx.save_for_backward(*call[:TENSORS])
    ctx.geometry = {"heads": call.heads, "size": call.size, "reduction": call.reduction, "eps": call.eps}


def _gradient(ctx: Any, grad_BNC: Tensor) -> tuple[Tensor | None, ...]:
    fused = op_backward.why_not(grad_BNC.device, grad_BNC.dtype) is None
    run = op_backward.gradients if fused else reference.gradients
    gradients = run(grad_BNC, *ctx.saved_tensors, **ctx.geometry)
    return *gradients, *[None] * (len(Call._fields) - TENSORS)  # what is no tensor has none


_op.register_autograd(_gradient, setup_context=_save)


@register_flop_formula(torch.ops.restv2.mhim)
def _flops(*shapes: Any, **_: Any) -> int:
    """FLOPs of a call, 1 MAC = 2 FLOPs, nominal: whatever the kernel computes again."""
    call = Call(*shapes)
    batch, _, channels = call.q
    macs = cost.macs(batch, call.size, channels, call.heads, call.reduction, has_branch=call.has_branch)
    return 2 * sum(macs.values())


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
