"""The fused backward of the core as a PyTorch operator, `torch.ops.restv2.emsa_upsample_backward`.

The forward operator's gradient calls it where it runs. It saves nothing: it is given what the forward was given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.arguments import room_for_gradients, with_none, without_none
from kernels.device import DTYPES, INTERPRETED, TRITON, capability, not_nvidia
from kernels.emsa_upsample import backward_tuning, cost
from kernels.emsa_upsample.backward import launch_backward
from kernels.emsa_upsample.launch import Call


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the fused backward does not run there, in one line; None where it does (and on meta, which runs nothing)."""
    if not INTERPRETED and device.type != "meta" and (where := not_nvidia(device)):
        return f"the fused backward needs an NVIDIA GPU, and does not run on {where}"
    return backward_tuning.refusal(TRITON, capability(device), DTYPES.get(dtype, ""))


def gradients(
    grad_BNC: Tensor,
    *tensors: Tensor | None,
    heads: int,
    size: tuple[int, int],
    reduction: int,
    eps: float = 1e-6,
    window: int | None = None,
) -> tuple[Tensor | None, ...]:
    """`reference.gradients`, fused: the gradients of seven tensors, in the dtypes of these. Arguments as there."""
    return with_none(_op(grad_BNC, *tensors, heads, *size, reduction, eps, window), tensors)


@torch.library.custom_op(
    "restv2::emsa_upsample_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor up_weight, Tensor? up_bias, Tensor norm_weight, "
    "Tensor norm_bias, SymInt heads, SymInt height, SymInt width, SymInt reduction, float eps, SymInt? window) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _op(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    call = Call(*arguments)
    shape = (call.head_dim, call.reduction, call.keys)
    config = backward_tuning.choose(capability(grad.device), *shape, windowed=call.window is not None)
    return without_none(launch_backward(config, call, grad), grad)


@_op.register_fake
def _(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return room_for_gradients(Call(*arguments)[:7], grad)


@register_flop_formula(torch.ops.restv2.emsa_upsample_backward)
def _flops(_: Any, *shapes: Any, **__: Any) -> int:
    """FLOPs of a call, 1 MAC = 2 FLOPs, nominal: two products for each of the forward's, nothing computed again."""
    call = Call(*shapes)
    batch, _, channels = call.q
    return 4 * cost.nominal_macs(batch, call.size, channels, call.reduction, call.window)
