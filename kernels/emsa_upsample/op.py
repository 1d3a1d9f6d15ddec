"""The fused EMSAv2 core as a PyTorch operator, `torch.ops.restv2.emsa_upsample`.

It has a fake implementation (torch.compile, meta tensors), a gradient (the fused backward where that runs, else the
reference's formulas in ATen operators), and a FLOP formula. Where the kernel cannot run, it is refused with the reason
before anything is compiled.

# B batch, H W feature map, N = H·W queries, M = ceil(H/r)·ceil(W/r) keys, C = A·D channels
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.arguments import asked_once, autocast, check_attended, check_shapes
from kernels.device import DTYPES, INTERPRETED, TRITON, capability, not_nvidia
from kernels.emsa_upsample import cost, op_backward, reference, tuning
from kernels.emsa_upsample.launch import Call, launch

# `Call` for the dispatcher, which takes no tuples.
SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor up_weight, Tensor? up_bias, Tensor norm_weight, Tensor norm_bias, "
    "SymInt heads, SymInt height, SymInt width, SymInt reduction, float eps, SymInt? window) -> Tensor"
)


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernel cannot run there, in one line; None where it can (and on meta, which runs nothing)."""
    if dtype not in DTYPES:
        return f"the fused kernel takes {', '.join(DTYPES.values())}, not {str(dtype).removeprefix('torch.')}"
    if device.type == "meta" or INTERPRETED:
        return None
    if where := not_nvidia(device):
        return f"the fused kernel needs an NVIDIA GPU, and does not run on {where}"
    return tuning.refusal(TRITON, capability(device), DTYPES[dtype])


def emsa_upsample(
    q_BNC: Tensor,
    k_BMC: Tensor,
    v_BMC: Tensor,
    up_weight: Tensor,
    up_bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    heads: int,
    size: tuple[int, int],
    reduction: int,
    eps: float = 1e-6,
    window: int | None = None,
) -> Tensor:
    """`reference.emsa_upsample`, fused: (B, N, C) in the dtype of q. Arguments as there.

    q, k and v are of one dtype; parameters may be of another. fp32 products are IEEE's, or TF32 where PyTorch's
    settings allow it and the GPU has it. Under autocast q, k and v are cast, as for a product.

    Raises:
        ValueError: shapes, dtypes, head width or reduction that do not fit each other or the kernel.
        RuntimeError: the kernel cannot run on this device: `why_not` says why.
    """
    q_BNC, k_BMC, v_BMC = autocast(q_BNC, k_BMC, v_BMC)
    parameters = (up_weight, up_bias, norm_weight, norm_bias)
    return _op(*Call(q_BNC, k_BMC, v_BMC, *parameters, heads, *size, reduction, eps, window))


# ---- the operator


@torch.library.custom_op("restv2::emsa_upsample", mutates_args=(), schema=SCHEMA)
def _op(*arguments: Any) -> Tensor:
    call = Call(*arguments)
    return launch(_chosen(call), call)


@asked_once
def _chosen(call: Call) -> tuning.Config:
    """The configuration that runs a call, which is checked."""
    _check(call)
    q = call.q
    if refused := why_not(q.device, q.dtype):
        raise RuntimeError(refused)
    shape = (call.head_dim, call.reduction, call.heads, call.keys)
    name, windowed = DTYPES[q.dtype], call.window is not None
    return tuning.choose(name, capability(q.device), *shape, TRITON, windowed=windowed)


@_op.register_fake
def _(*arguments: Any) -> Tensor:
    q = Call(*arguments).q
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    call = Call(*inputs)
    ctx.save_for_backward(*call[:7])
    ctx.geometry = {
        **{"heads": call.heads, "size": call.size, "reduction": call.reduction},
        **{"eps": call.eps, "window": call.window},
    }


def _gradient(ctx: Any, grad_BNC: Tensor) -> tuple[Tensor | None, ...]:
    fused = op_backward.why_not(grad_BNC.device, grad_BNC.dtype) is None
    run = op_backward.gradients if fused else reference.gradients
    gradients = run(grad_BNC, *ctx.saved_tensors, **ctx.geometry)
    return *gradients, *[None] * (len(Call._fields) - len(gradients))  # what is no tensor has none


_op.register_autograd(_gradient, setup_context=_save)


@register_flop_formula(torch.ops.restv2.emsa_upsample)
def _flops(*shapes: Any, **_: Any) -> int:
    """FLOPs of a call, 1 MAC = 2 FLOPs. Nominal: in windows those of padding too, its projections included."""
    call = Call(*shapes)
    batch, _, channels = call.q
    return 2 * cost.nominal_macs(batch, call.size, channels, call.reduction, call.window)


def _check(call: Call) -> None:
    """Refuse what the kernel does not take.

    Raises:
        ValueError: one line that says what does not fit.
    """
    batch, channels = call.q.shape[0], call.q.shape[-1]
    heads, (height, width), reduction = call.heads, call.size, call.reduction
    if reduction not in tuning.REDUCTIONS:
        raise ValueError(f"a reduction of {reduction} is none of {', '.join(map(str, tuning.REDUCTIONS))}")
    if heads < 1 or channels % heads or call.head_dim not in tuning.HEAD_DIMS:
        raise ValueError(
            f"{channels} channels in {heads} heads: a head is a multiple of 16 wide, and at most 128"
        )
    if call.window is not None and call.window < 1:
        raise ValueError(f"a window has a side of 1 at least, not {call.window}")
    if call.window and call.keys > tuning.MOST_KEYS_OF_A_WINDOW:
        raise ValueError(
            f"a window of {call.window}x{call.window} has {call.keys} keys, and the kernel takes "
            f"{tuning.MOST_KEYS_OF_A_WINDOW} at most"
        )
    keys = (batch * call.regions, call.keys, channels)
    shapes = {
        "q": (batch, height * width, channels),
        "k": keys,
        "v": keys,
        "up_weight": (channels * reduction**2, 1, 3, 3),
        "up_bias": (channels * reduction**2,),
        "norm_weight": (channels,),
        "norm_bias": (channels,),
    }
    what = f"a {height}x{width} map and reduction {reduction}"
    if call.window:
        what += f" in windows of {call.window}x{call.window}"
    check_shapes(call, shapes, what)
    check_attended(*call[:3])
