"""The gradients of the reduction inside windows as a PyTorch operator, `torch.ops.restv2.window_reduce_backward`.

The forward operator's gradient calls it. It saves nothing: it is given what the forward was given.

# B batch, N tokens, S windows, M cells of a window, C channels
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.window_reduce import cost, tuning
from kernels.window_reduce.launch import Call, launch_backward


def gradients(
    grad_SMC: Tensor,
    x_BNC: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    size: tuple[int, int],
    reduction: int,
    window: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of tokens, weight and bias from the gradient of the result, in the dtypes of these."""
    dx, dweight, dbias = _op(grad_SMC, *Call(x_BNC, weight, bias, *size, reduction, window))
    return dx, dweight, None if bias is None else dbias


@torch.library.custom_op(
    "restv2::window_reduce_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor weight, Tensor? bias, SymInt height, SymInt width, SymInt reduction, "
    "SymInt window) -> (Tensor, Tensor, Tensor)",
)
def _op(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    call = Call(*arguments)
    found = launch_backward(tuning.choose_backward(call.x.shape[-1]), call, grad)
    return tuple(grad.new_empty(0) if one is None else one for one in found)  # an operator returns no None


@_op.register_fake
def _(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return tuple(
        grad.new_empty(0) if x is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for x in Call(*arguments)[:3]
    )


@register_flop_formula(torch.ops.restv2.window_reduce_backward)
def _flops(_: Any, *shapes: Any, **__: Any) -> int:
    """FLOPs of a call, 1 MAC = 2 FLOPs, nominal: two products for each of the forward's."""
    call = Call(*shapes)
    batch, _, channels = call.x
    return 4 * cost.macs(batch, call.size, channels, call.reduction, call.window)
