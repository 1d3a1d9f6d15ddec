"""The gradients of the reduction inside windows as a PyTorch operator, `torch.ops.restv2.window_reduce_backward`.

The forward operator's gradient calls it. It saves nothing: it is given what the forward was given.

# B batch, N tokens, S windows, M cells of a window, C channels
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.arguments import room_for_gradients, with_none, without_none
from kernels.device import capability
from kernels.window_reduce import cost, tuning
from kernels.window_reduce.launch import Call, launch_backward


def gradients(
    grad_SMC: Tensor, *tensors: Tensor | None, size: tuple[int, int], reduction: int, window: int
) -> tuple[Tensor | None, ...]:
    """Gradients of tokens, weight and bias from the gradient of the result, in the dtypes of these."""
    return with_none(_op(grad_SMC, *tensors, *size, reduction, window), tensors)


@torch.library.custom_op(
    "restv2::window_reduce_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor weight, Tensor? bias, SymInt height, SymInt width, SymInt reduction, "
    "SymInt window) -> (Tensor, Tensor, Tensor)",
)
def _op(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    call = Call(*arguments)
    config = tuning.choose_backward(capability(grad.device), call.x.shape[-1])
    return without_none(launch_backward(config, call, grad), grad)


@_op.register_fake
def _(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return room_for_gradients(Call(*arguments)[:3], grad)


@register_flop_formula(torch.ops.restv2.window_reduce_backward)
def _flops(_: Any, *shapes: Any, **__: Any) -> int:
    """FLOPs of a call, 1 MAC = 2 FLOPs, nominal: two products for each of the forward's."""
    call = Call(*shapes)
    batch, _, channels = call.x
    return 4 * cost.macs(batch, call.size, channels, call.reduction, call.window)
