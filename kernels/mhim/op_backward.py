"""The fused backward of MHIM as a PyTorch operator, `torch.ops.restv2.mhim_backward`.

The forward operator's gradient calls it where it runs, which is where the core's backward does. It saves nothing: it is
given what the forward was given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.device import capability
from kernels.emsa_upsample.op_backward import why_not as why_not  # MHIM's runs where the core's does
from kernels.mhim import backward_tuning, cost
from kernels.mhim.backward import launch_backward
from kernels.mhim.launch import TENSORS, Call


def gradients(
    grad_BNC: Tensor,
    q_BNC: Tensor,
    k_BMC: Tensor,
    v_BMC: Tensor,
    mix_weight: Tensor,
    mix_bias: Tensor | None,
    up_weight: Tensor | None,
    up_bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    *,
    heads: int,
    size: tuple[int, int],
    reduction: int,
    eps: float = 1e-6,
) -> tuple[Tensor | None, ...]:
    """`reference.gradients`, fused: the gradients of nine tensors, in the dtypes of these."""
    tensors = (q_BNC, k_BMC, v_BMC, mix_weight, mix_bias, up_weight, up_bias, norm_weight, norm_bias)
    found = _op(grad_BNC, *tensors, heads, *size, reduction, eps)
    return tuple(None if tensor is None else one for tensor, one in zip(tensors, found, strict=True))


@torch.library.custom_op(
    "restv2::mhim_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor mix_weight, Tensor? mix_bias, Tensor? up_weight, "
    "Tensor? up_bias, Tensor? norm_weight, Tensor? norm_bias, SymInt heads, SymInt height, SymInt width, "
    "SymInt reduction, float eps) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _op(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    call = Call(*arguments)
    shape = (call.head_dim, call.reduction, call.heads, call.keys)
    found = launch_backward(backward_tuning.choose(capability(grad.device), *shape), call, grad)
    return tuple(grad.new_empty(0) if one is None else one for one in found)  # an operator returns no None


@_op.register_fake
def _(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(
        grad.new_empty(0) if x is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for x in Call(*arguments)[:TENSORS]
    )


@register_flop_formula(torch.ops.restv2.mhim_backward)
def _flops(_: Any, *shapes: Any, **__: Any) -> int:
    """FLOPs of a call, 1 MAC = 2 FLOPs, nominal: two products for each of the forward's, nothing computed again."""
    call = Call(*shapes)
    batch, _, channels = call.q
    macs = cost.macs(batch, call.size, channels, call.heads, call.reduction, has_branch=call.has_branch)
    return 4 * sum(macs.values())
