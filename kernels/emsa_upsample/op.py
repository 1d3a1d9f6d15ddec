"""The fused EMSAv2 core as a PyTorch operator, `torch.ops.restv2.emsa_upsample`.

It has a fake implementation (torch.compile, meta tensors), a gradient (formulas of the reference, in ATen operators),
and a FLOP formula. Where the kernel cannot run, it is refused with the reason before anything is compiled.

# B batch, H W feature map, N = H·W queries, M = ceil(H/r)·ceil(W/r) keys, C = A·D channels
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.emsa_upsample import cost, forward, reference, tuning

DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2])
# Triton decides when it decorates the kernels, so that later changes of TRITON_INTERPRET mean nothing.
INTERPRETED = not isinstance(forward._emsa_upsample, triton.runtime.JITFunction)


class Call(NamedTuple):
    """The arguments of one call, in the operator's order. A FLOP formula is given shapes in place of tensors."""

    q: Tensor  # (B, N, C)
    k: Tensor  # (B, M, C)
    v: Tensor  # (B, M, C)
    up_weight: Tensor  # (C·r², 1, 3, 3)
    up_bias: Tensor | None  # (C·r²,)
    norm_weight: Tensor  # (C,)
    norm_bias: Tensor  # (C,)
    heads: int
    height: int
    width: int
    reduction: int
    eps: float

    @property
    def size(self) -> tuple[int, int]:
        """H, W of the feature map."""
        return self.height, self.width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the keys."""
        return cost.ceil_div(self.size, self.reduction)

    @property
    def head_dim(self) -> int:
        return self.q.shape[-1] // self.heads


# `Call` for the dispatcher, which takes no tuples.
SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor up_weight, Tensor? up_bias, Tensor norm_weight, Tensor norm_bias, "
    "SymInt heads, SymInt height, SymInt width, SymInt reduction, float eps) -> Tensor"
)


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernel cannot run there, in one line; None where it can (and on meta, which runs nothing)."""
    if dtype not in DTYPES:
        return f"the fused kernel takes {', '.join(DTYPES.values())}, not {str(dtype).removeprefix('torch.')}"
    if device.type == "meta" or INTERPRETED:
        return None
    if device.type != "cuda" or torch.version.hip:
        where = "AMD GPUs" if device.type == "cuda" else f"a {device.type.upper()}"
        return f"the fused kernel needs an NVIDIA GPU, and does not run on {where}"
    return tuning.refusal(TRITON, _capability(device), DTYPES[dtype])


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
        dtype = torch.get_autocast_dtype(kind)
        q_BNC, k_BMC, v_BMC = q_BNC.to(dtype), k_BMC.to(dtype), v_BMC.to(dtype)
    parameters = (up_weight, up_bias, norm_weight, norm_bias)
    return _op(*Call(q_BNC, k_BMC, v_BMC, *parameters, heads, *size, reduction, eps))


# ---- the operator


@torch.library.custom_op("restv2::emsa_upsample", mutates_args=(), schema=SCHEMA)
def _op(*arguments: Any) -> Tensor:
    call = Call(*arguments)
    _check(call)
    q = call.q
    if refused := why_not(q.device, q.dtype):
        raise RuntimeError(refused)
    capability = _capability(q.device) if q.device.type == "cuda" else 90
    keys = call.k.shape[1]
    return launch(tuning.choose(DTYPES[q.dtype], capability, call.head_dim, call.reduction, keys), call)


@_op.register_fake
def _(*arguments: Any) -> Tensor:
    q = Call(*arguments).q
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    call = Call(*inputs)
    ctx.save_for_backward(*call[:7])
    ctx.geometry = {"heads": call.heads, "size": call.size, "reduction": call.reduction, "eps": call.eps}


def _gradient(ctx: Any, grad_BNC: Tensor) -> tuple[Tensor | None, ...]:
    gradients = reference.gradients(grad_BNC, *ctx.saved_tensors, **ctx.geometry)
    return *gradients, *[None] * (len(Call._fields) - len(gradients))  # what is no tensor has none


_op.register_autograd(_gradient, setup_context=_save)


@register_flop_formula(torch.ops.restv2.emsa_upsample)
def _flops(*shapes: Any, **_: Any) -> int:
    """FLOPs of a call, 1 MAC = 2 FLOPs."""
    call = Call(*shapes)
    batch, _, channels = call.q
    return 2 * sum(cost.macs(batch, call.size, channels, call.reduction).values())


# ---- running the kernel


def launch(config: tuning.Config, call: Call) -> Tensor:
    """The kernel with `config`: (B, N, C). Nothing is checked."""
    batch, queries, channels = call.q.shape
    (rows, columns), phases = call.grid, call.reduction**2
    out = torch.empty((batch, queries, channels), dtype=call.q.dtype, device=call.q.device)
    if out.numel() == 0:
        return out
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (call.q, call.k, call.v))
    # under autocast the parameters may be wider than v: a convolution would cast them too
    taps = call.up_weight.reshape(channels, phases, 9).permute(1, 2, 0).to(v.dtype).contiguous()
    bias = None if call.up_bias is None else call.up_bias.reshape(channels, phases).t().contiguous()
    first, second = tuning.powers_of_two(call.head_dim)
    if config.per_cell:
        tiles = rows * columns * -(-phases // config.block_q)
    else:
        tiles = phases * -(-rows * columns // config.block_q)
    shared: dict[str, Any] = {
        "A": call.heads,
        "D": call.head_dim,
        "D0": first,
        "D1": second,
        "R": call.reduction,
        "HAS_BIAS": bias is not None,
        "BLOCK_Q": config.block_q,
        "PER_CELL": config.per_cell,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }
    geometry = (*call.size, rows, columns, tiles, call.eps)
    # a pointer is wanted also where it is not read
    bias = taps if bias is None else bias
    statistics = out
    if call.heads > 1:
        statistics = torch.empty((batch, queries, 2), dtype=torch.float32, device=q.device)
        forward._emsa_statistics[(tiles * batch,)](
            v, taps, bias, statistics, v.stride(0), v.stride(1), *geometry, **shared
        )
    tf32 = q.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    forward._emsa_upsample[(tiles * call.heads * batch,)](
        *(q, k, v, taps, bias, call.norm_weight.contiguous(), call.norm_bias.contiguous(), statistics, out),
        *(stride for x in (q, k, v) for stride in x.stride()[:2]),
        *geometry,
        math.log2(math.e) * call.head_dim**-0.5,
        **shared,
        KEY_BLOCKS=-(-rows * columns // config.block_k),
        BLOCK_K=config.block_k,
        PRECISION="tf32" if tf32 else "ieee",
        UPCAST=INTERPRETED and q.dtype == torch.bfloat16,
    )
    return out


def _capability(device: torch.device) -> int:
    """Compute capability of a GPU × 10."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


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
    keys = math.prod(call.grid)
    shapes = {
        "q": (batch, height * width, channels),
        "k": (batch, keys, channels),
        "v": (batch, keys, channels),
        "up_weight": (channels * reduction**2, 1, 3, 3),
        "up_bias": (channels * reduction**2,),
        "norm_weight": (channels,),
        "norm_bias": (channels,),
    }
    for name, shape in shapes.items():
        tensor = getattr(call, name)
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}, not {shape} as for a {height}x{width} map and reduction {reduction}"
            )
        if tensor.device != call.q.device:
            raise ValueError(f"{name} is on {tensor.device}, and q on {call.q.device}")
    q, k, v = call[:3]
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}, and must be of one dtype")
    if max(x.stride(1) * x.shape[1] for x in (q, k, v)) >= 2**31:
        raise ValueError("one image has more elements than the kernel's 32-bit offsets reach")
