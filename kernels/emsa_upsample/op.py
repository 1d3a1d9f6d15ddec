"""The fused EMSAv2 core as a PyTorch operator, `torch.ops.restv2.emsa_upsample`.

It has a fake implementation (torch.compile, meta tensors), a gradient (formulas of the reference, in ATen operators),
and a FLOP formula. Where the kernel cannot run, it is refused with the reason before anything is compiled.

# B batch, H W feature map, N = H·W queries, M = ceil(H/r)·ceil(W/r) keys, C = A·D channels
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.emsa_upsample import cost, forward, reference, tuning

DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2])
# Triton decides when it decorates the kernels, so that later changes of TRITON_INTERPRET mean nothing.
INTERPRETED = not isinstance(forward._emsa_upsample, triton.runtime.JITFunction)


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernel cannot run there, in one line; None where it can (and on meta, which runs nothing)."""
    if dtype not in DTYPES:
        return f"the fused kernel takes {', '.join(DTYPES.values())}, not {str(dtype).removeprefix('torch.')}"
    if device.type == "meta" or INTERPRETED:
        return None
    if device.type != "cuda" or torch.version.hip:
        what = "AMD GPUs" if device.type == "cuda" else f"a {device.type.upper()}"
        return f"the fused kernel needs an NVIDIA GPU, and does not run on {what}"
    major, minor = torch.cuda.get_device_capability(device)
    return tuning.refusal(TRITON, 10 * major + minor, DTYPES[dtype])


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
) -> Tensor:
    """`reference.emsa_upsample`, fused: (B, N, C) in the dtype of q. Arguments as there.

    q, k and v are of one dtype; parameters may be of another. fp32 products are IEEE's, or TF32 where
    `torch.set_float32_matmul_precision` allows it. Under autocast q, k and v are cast, as for a product.

    Raises:
        ValueError: shapes, dtypes, head width or reduction that do not fit each other or the kernel.
        RuntimeError: the kernel cannot run on this device: `why_not` says why.
    """
    kind = q_BNC.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        cast = torch.get_autocast_dtype(kind)
        q_BNC, k_BMC, v_BMC = q_BNC.to(cast), k_BMC.to(cast), v_BMC.to(cast)
    return _op(
        *(q_BNC, k_BMC, v_BMC, up_weight, up_bias, norm_weight, norm_bias),
        *(heads, size[0], size[1], reduction, eps),
    )


@torch.library.custom_op("restv2::emsa_upsample", mutates_args=())
def _op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    up_weight: Tensor,
    up_bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    heads: int,
    height: int,
    width: int,
    reduction: int,
    eps: float,
) -> Tensor:
    _check(q, k, v, up_weight, up_bias, norm_weight, norm_bias, heads, height, width, reduction)
    if refused := why_not(q.device, q.dtype):
        raise RuntimeError(refused)
    capability = 90
    if q.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(q.device)
        capability = 10 * major + minor
    config = tuning.choose(DTYPES[q.dtype], capability, q.shape[-1] // heads, reduction, k.shape[1])
    return launch(
        config, q, k, v, up_weight, up_bias, norm_weight, norm_bias, heads, height, width, reduction, eps
    )


def launch(
    config: tuning.Config,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    up_weight: Tensor,
    up_bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    heads: int,
    height: int,
    width: int,
    reduction: int,
    eps: float,
) -> Tensor:
    """The kernel with `config`; nothing is checked."""
    batch, queries, channels = q.shape
    rows, columns = cost.ceil_div((height, width), reduction)
    out = torch.empty((batch, queries, channels), dtype=q.dtype, device=q.device)
    if out.numel() == 0:
        return out
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    phases, head_dim = reduction**2, channels // heads
    # under autocast the parameters may be wider than v: a convolution would cast them too
    taps = up_weight.reshape(channels, phases, 9).permute(1, 2, 0).to(v.dtype).contiguous()
    bias = None if up_bias is None else up_bias.reshape(channels, phases).t().contiguous()
    first, second = tuning.parts(head_dim)
    if config.per_cell:
        tiles = rows * columns * -(-phases // config.block_q)
    else:
        tiles = phases * -(-rows * columns // config.block_q)
    shared: dict[str, Any] = {
        "A": heads,
        "D": head_dim,
        "D0": first,
        "D1": second,
        "R": reduction,
        "HAS_BIAS": bias is not None,
        "BLOCK_Q": config.block_q,
        "PER_CELL": config.per_cell,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }
    geometry = (height, width, rows, columns, tiles, eps)
    # a pointer is wanted also where it is not read
    bias = taps if bias is None else bias
    statistics = out
    if heads > 1:
        statistics = torch.empty((batch, queries, 2), dtype=torch.float32, device=q.device)
        forward._emsa_statistics[(tiles * batch,)](
            v, taps, bias, statistics, v.stride(0), v.stride(1), *geometry, **shared
        )
    tf32 = q.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    forward._emsa_upsample[(tiles * heads * batch,)](
        *(q, k, v, taps, bias, norm_weight.contiguous(), norm_bias.contiguous(), statistics, out),
        *(stride for x in (q, k, v) for stride in x.stride()[:2]),
        *geometry,
        math.log2(math.e) * head_dim**-0.5,
        **shared,
        KEY_BLOCKS=-(-rows * columns // config.block_k),
        BLOCK_K=config.block_k,
        PRECISION="tf32" if tf32 else "ieee",
        UPCAST=INTERPRETED and q.dtype == torch.bfloat16,
    )
    return out


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    up_weight: Tensor,
    up_bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    heads: int,
    height: int,
    width: int,
    reduction: int,
) -> None:
    """Raises ValueError, one line, for what the kernel does not take."""
    channels = q.shape[-1]
    if reduction not in tuning.REDUCTIONS:
        raise ValueError(f"a reduction of {reduction} is none of {', '.join(map(str, tuning.REDUCTIONS))}")
    if heads < 1 or channels % heads or channels // heads not in tuning.HEAD_DIMS:
        raise ValueError(
            f"{channels} channels in {heads} heads: a head is a multiple of 16 wide, and at most 128"
        )
    rows, columns = cost.ceil_div((height, width), reduction)
    wanted = {
        "q": (q, (q.shape[0], height * width, channels)),
        "k": (k, (q.shape[0], rows * columns, channels)),
        "v": (v, (q.shape[0], rows * columns, channels)),
        "up_weight": (up_weight, (channels * reduction**2, 1, 3, 3)),
        "up_bias": (up_bias, (channels * reduction**2,)),
        "norm_weight": (norm_weight, (channels,)),
        "norm_bias": (norm_bias, (channels,)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}, not {shape} as for a {height}x{width} map and reduction {reduction}"
            )
        if tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device}, and q on {q.device}")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}, and must be of one dtype")
    if max(x.stride(1) * x.shape[1] for x in (q, k, v)) >= 2**31:
        raise ValueError("one image has more elements than the kernel's 32-bit offsets reach")


@_op.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    up_weight: Tensor,
    up_bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    heads: int,
    height: int,
    width: int,
    reduction: int,
    eps: float,
) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, heads, height, width, reduction, eps = inputs
    ctx.save_for_backward(*tensors)
    ctx.geometry = {"heads": heads, "size": (height, width), "reduction": reduction, "eps": eps}


def _gradient(ctx: Any, grad_BNC: Tensor) -> tuple[Tensor | None, ...]:
    grads = reference.gradients(grad_BNC, *ctx.saved_tensors, **ctx.geometry)
    return *grads, None, None, None, None, None


_op.register_autograd(_gradient, setup_context=_save)


@register_flop_formula(torch.ops.restv2.emsa_upsample)
def _flops(
    q: Any, k: Any, v: Any, up_weight: Any, up_bias: Any, norm_weight: Any, norm_bias: Any,
    heads: int, height: int, width: int, reduction: int, eps: float, *args: Any, **kwargs: Any,
) -> int:  # fmt: skip
    """Given shapes instead of tensors. 1 MAC = 2 FLOPs."""
    return 2 * sum(cost.macs(q[0], (height, width), q[2], reduction).values())
