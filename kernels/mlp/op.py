"""The fused feed-forward as a PyTorch operator, `torch.ops.restv2.mlp`.

It has a fake implementation (torch.compile, meta tensors), a gradient (formulas of the reference, in ATen operators),
and a FLOP formula. Where the kernel cannot run, it is refused with the reason before anything is compiled.

# ... any leading dimensions, T tokens in all, C channels, H hidden channels
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.arguments import asked_once, autocast, check_shapes
from kernels.device import DTYPES, INTERPRETED, TRITON, capability, current, not_nvidia, upcasts
from kernels.emsa_upsample.tuning import powers_of_two
from kernels.mlp import cost, forward, reference, tuning

MOST_STRIDE = 2**31 // 256  # elements from a token to the next, for 32-bit offsets in the largest tile


class Call(NamedTuple):
    """The arguments of one call, in the operator's order. A FLOP formula is given shapes in place of tensors."""

    x: Tensor  # (..., C)
    w1: Tensor  # (H, C)
    b1: Tensor  # (H,)
    w2: Tensor  # (C, H)
    b2: Tensor  # (C,)


# `Call` for the dispatcher, which takes no tuples.
SCHEMA = "(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2) -> Tensor"


def why_not(device: torch.device, dtype: torch.dtype, channels: int, hidden: int) -> str | None:
    """Why the kernel cannot run there, in one line; None where it can.

    Meta runs nothing, and takes any dtype: a count of shapes is for half precision too.
    """
    name = DTYPES.get(dtype, str(dtype).removeprefix("torch."))
    if device.type == "meta" or INTERPRETED:
        return tuning.unfit("fp16" if device.type == "meta" else name, channels, hidden)
    if where := not_nvidia(device):
        return f"the fused MLP needs an NVIDIA GPU, and does not run on {where}"
    return tuning.refusal(TRITON, capability(device), name, channels, hidden)


def mlp(x_C: Tensor, w1_HC: Tensor, b1_H: Tensor, w2_CH: Tensor, b2_C: Tensor) -> Tensor:
    """`reference.mlp`, fused: (..., C) in the dtype of x. Arguments as there.

    All are of one dtype, fp16 or bf16. Under autocast they are cast, as for a product. The GELU is the configuration's:
    exact, or one that is at most 2.52e-5 from it, `reference.GELUS`; the gradient is the exact one's.

    Raises:
        ValueError: shapes or dtypes that do not fit each other.
        RuntimeError: the kernel cannot run on this device, or not these channels or this dtype: `why_not` says why.
    """
    call = Call(x_C, w1_HC, b1_H, w2_CH, b2_C)
    return _op(*autocast(*call))


# ---- the operator


@torch.library.custom_op("restv2::mlp", mutates_args=(), schema=SCHEMA)
def _op(*arguments: Any) -> Tensor:
    call = Call(*arguments)
    return launch(_chosen(call), call)


@asked_once
def _chosen(call: Call) -> tuning.Config:
    """The configuration that runs a call, which is checked."""
    _check(call)
    x, channels = call.x, call.x.shape[-1]
    if refused := why_not(x.device, x.dtype, channels, len(call.w1)):
        raise RuntimeError(refused)
    return tuning.choose(DTYPES[x.dtype], capability(x.device), channels)


@_op.register_fake
def _(*arguments: Any) -> Tensor:
    x = Call(*arguments).x
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    call = Call(*inputs)
    ctx.save_for_backward(call.x, call.w1, call.b1, call.w2)


def _gradient(ctx: Any, grad_C: Tensor) -> tuple[Tensor, ...]:
    return reference.gradients(grad_C, *ctx.saved_tensors)


_op.register_autograd(_gradient, setup_context=_save)


@register_flop_formula(torch.ops.restv2.mlp)
def _flops(*shapes: Any, **_: Any) -> int:
    """FLOPs of a call, 1 MAC = 2 FLOPs."""
    call = Call(*shapes)
    *leading, channels = call.x
    return 2 * cost.macs(math.prod(leading), channels, call.w1[0])


# ---- running the kernel


def launch(config: tuning.Config, call: Call) -> Tensor:
    """The kernel with `config`: (..., C). Nothing is checked."""
    channels = call.x.shape[-1]
    out = torch.empty(call.x.shape, dtype=call.x.dtype, device=call.x.device)
    if out.numel() == 0:
        return out
    x_TC = call.x.reshape(-1, channels)
    if x_TC.stride(1) != 1 or x_TC.stride(0) >= MOST_STRIDE:
        x_TC = x_TC.contiguous()
    tokens = x_TC.shape[0]
    first, second = powers_of_two(channels)
    options: dict[str, Any] = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    if config.registers:
        options["maxnreg"] = config.registers
    with current(x_TC):
        forward._mlp[(triton.cdiv(tokens, config.block_t),)](
            x_TC,
            *(tensor.contiguous() for tensor in call[1:]),
            out,
            x_TC.stride(0),
            tokens,
            C=channels,
            C0=first,
            C1=second,
            H=call.w1.shape[0],
            BLOCK_T=config.block_t,
            BLOCK_H=config.block_h,
            GELU=config.gelu,
            APPROXIMATE=not INTERPRETED,
            UPCAST=upcasts(call.x),
            **options,
        )
    return out


def _check(call: Call) -> None:
    """Refuse what the kernel does not take.

    Raises:
        ValueError: one line that says what does not fit.
    """
    channels, hidden = call.x.shape[-1], len(call.w1)
    shapes = {"w1": (hidden, channels), "b1": (hidden,), "w2": (channels, hidden), "b2": (channels,)}
    check_shapes(call, shapes, f"{channels} channels and {hidden} hidden ones")
    for name, tensor in call._asdict().items():
        if tensor.dtype != call.x.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, and x {call.x.dtype}: they must be of one dtype")
