"""The fused reduction inside windows as a PyTorch operator, `torch.ops.restv2.window_reduce`.

It has a fake implementation (torch.compile, meta tensors), a gradient (`op_backward.py`), and a FLOP formula. It runs
where `kernels.emsa_upsample.op` does, which is what its result is for, and so does its gradient.

# B batch, N tokens, S windows, M cells of a window, C channels
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.arguments import asked_once, autocast, check_offsets, check_shapes
from kernels.device import capability
from kernels.emsa_upsample import op as emsa_upsample
from kernels.window_reduce import cost, op_backward, tuning
from kernels.window_reduce.launch import Call, launch, made

# `Call` for the dispatcher, which takes no tuples.
SCHEMA = (
    "(Tensor x, Tensor weight, Tensor? bias, SymInt height, SymInt width, SymInt reduction, SymInt window) "
    "-> Tensor"
)


def window_reduce(
    x_BNC: Tensor, weight: Tensor, bias: Tensor | None, *, size: tuple[int, int], reduction: int, window: int
) -> Tensor:
    """`reference.window_reduce`, fused: (S, M, C) in the dtype of x. Arguments as there.

    The parameters may be of another dtype than x. Under autocast x is cast, as for a convolution.

    Raises:
        ValueError: shapes that do not fit each other.
        RuntimeError: the kernel cannot run on this device: `kernels.emsa_upsample.op.why_not` says why.
    """
    (x_BNC,) = autocast(x_BNC)
    return _op(*Call(x_BNC, weight, bias, *size, reduction, window))


# ---- the operator


@torch.library.custom_op("restv2::window_reduce", mutates_args=(), schema=SCHEMA)
def _op(*arguments: Any) -> Tensor:
    call = Call(*arguments)
    return launch(_chosen(call), call)


@asked_once
def _chosen(call: Call) -> tuning.Config:
    """The configuration that runs a call, which is checked."""
    _check(call)
    if refused := emsa_upsample.why_not(call.x.device, call.x.dtype):
        raise RuntimeError(refused)
    return tuning.choose(capability(call.x.device), call.x.shape[-1])


@_op.register_fake
def _(*arguments: Any) -> Tensor:
    return made(Call(*arguments))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    call = Call(*inputs)
    ctx.save_for_backward(*call[:3])
    ctx.geometry = {"size": call.size, "reduction": call.reduction, "window": call.window}


def _gradient(ctx: Any, grad_SMC: Tensor) -> tuple[Tensor | None, ...]:
    return *op_backward.gradients(grad_SMC, *ctx.saved_tensors, **ctx.geometry), None, None, None, None


_op.register_autograd(_gradient, setup_context=_save)


@register_flop_formula(torch.ops.restv2.window_reduce)
def _flops(*shapes: Any, **_: Any) -> int:
    """FLOPs of a call, 1 MAC = 2 FLOPs, nominal: taps on padding too."""
    call = Call(*shapes)
    batch, _, channels = call.x
    return 2 * cost.macs(batch, call.size, channels, call.reduction, call.window)


def _check(call: Call) -> None:
    """Refuse what the kernel does not take.

    Raises:
        ValueError: one line that says what does not fit.
    """
    batch, channels = call.x.shape[0], call.x.shape[-1]
    if call.window < 1:
        raise ValueError(f"a window has a side of 1 at least, not {call.window}")
    if call.reduction not in tuning.REDUCTIONS:
        known = ", ".join(map(str, tuning.REDUCTIONS))
        raise ValueError(f"a reduction of {call.reduction} is none of {known}")
    side = call.reduction + 1
    shapes = {
        "x": (batch, call.height * call.width, channels),
        "weight": (channels, 1, side, side),
        "bias": (channels,),
    }
    check_shapes(call, shapes, f"a {call.height}x{call.width} map and reduction {call.reduction}")
    check_offsets([call.x])
