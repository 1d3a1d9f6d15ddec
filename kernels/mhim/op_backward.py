"""The fused backward of MHIM as a PyTorch operator, `torch.ops.restv2.mhim_backward`.

The forward operator's gradient calls it where it runs, which is where the core's backward does. It saves nothing: it is
given what the forward was given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.arguments import room_for_gradients, with_none, without_none
from kernels.device import capability
from kernels.emsa_upsample.op_backward import why_not as why_not  # MHIM's runs where the core's does
from kernels.mhim import backward_tuning, cost
from kernels.mhim.backward import launch_backward
from kernels.mhim.launch import TENSORS, Call


def gradients(
    grad_BNC: Tensor,
    *tensors: Tensor | None,
    heads: int,
    size: tuple[int, int],
    reduction: int,
    eps: float = 1e-6,
) -> tuple[Tensor | None, ...]:
    """`reference.gradients`, fused: the gradients of nine tensors, in the dtypes of these. Arguments as there."""
    return with_none(_op(grad_BNC, *tensors, heads, *size, reduction, eps), tensors)


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
    config = backward_tuning.choose(capability(grad.device), *shape)
    return without_none(launch_backward(config, call, grad), grad)


@_op.register_fake
def _(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return room_for_gradients(Call(*arguments)[:TENSORS], grad)


@register_flop_formula(torch.ops.restv2.mhim_backward)
def _flops(_: Any, *shapes: Any, **__: Any) -> int:
    """FLOPs of a call, 1 MAC = 2 FLOPs, nominal: two products for each of the forward's, nothing computed again."""
    call = Call(*shapes)
    batch, _, channels = call.q
    macs = cost.macs(batch, call.size, channels, call.heads, call.reduction, has_branch=call.has_branch)
    return 4 * sum(macs.values())
