"""The operators that are counted: a handle each, the cost of one call in every way of counting. 1 MAC = 2 FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from kernels.emsa_upsample import cost

NO_ATTENTION = "-no-attention"  # ends the names of conventions that leave the products out


@dataclass(frozen=True)
class Count:
    """The cost of one call in the three ways of counting; the other conventions follow from them."""

    operator: str  # conv | linear | matmul | norm | activation | pool | upsample
    core: int = 0
    fvcore: int = 0
    paper: int = 0

    def under(self, convention: str) -> int:
        """The cost under a convention that counts by call."""
        if convention.endswith(NO_ATTENTION):
            return 0 if self.operator == "matmul" else self.under(convention.removesuffix(NO_ATTENTION))
        if convention == "core+norm":
            return self.fvcore if self.operator == "norm" else self.core
        return getattr(self, convention)


Arguments = dict[str, Any]
Handle = Callable[[Arguments, Tensor], Count]
# An operator of ours that is several of the others in one has several counts.
SeveralHandle = Callable[[Arguments, Tensor], list[Count]]


def _conv(call: Arguments, out: Tensor) -> Count:
    # each output element of a convolution, each input element of a transposed one, meets the filter once
    met = call["input"] if call.get("transposed") else out
    macs = met.numel() * prod(call["weight"].shape[1:])
    return Count("conv", macs, macs, macs + (out.numel() if call["bias"] is not None else 0))


def _linear(call: Arguments, out: Tensor) -> Count:
    macs = out.numel() * call["weight"].shape[1]
    return Count("linear", macs, macs, macs + (out.shape[-1] if call["bias"] is not None else 0))


def _product(inner: int, out: Tensor) -> Count:
    return Count("matmul", *[inner * out.numel()] * 3)


def _sdpa(call: Arguments, out: Tensor) -> Count:
    query, key, value = call["query"], call["key"], call["value"]
    macs = prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return Count("matmul", macs, macs, macs)


def _norm(plain: int, affine: int) -> Handle:
    """A handle for a norm: fvcore's cost per element without and with weight; the paper's is 1 and 2."""

    def handle(call: Arguments, out: Tensor) -> Count:
        has_weight, numel = call["weight"] is not None, call["input"].numel()
        return Count("norm", 0, numel * (affine if has_weight else plain), numel * (2 if has_weight else 1))

    return handle


def _relu(call: Arguments, out: Tensor) -> Count:
    return Count("activation", paper=out.numel())


def _pool(fvcore: bool) -> Handle:
    def handle(call: Arguments, out: Tensor) -> Count:
        numel = call["self"].numel()
        return Count("pool", 0, numel if fvcore else 0, numel)

    return handle


def _upsample(per_output: int) -> Handle:
    def handle(call: Arguments, out: Tensor) -> Count:
        return Count("upsample", 0, per_output * out.numel(), out.numel())

    return handle


HANDLES: dict[str, Handle] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _conv),
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm"), lambda call, out: _product(call["self"].shape[-1], out)),
    **dict.fromkeys(
        ("addmm", "baddbmm"), lambda call, out: _product(_first(call, "mat1", "batch1").shape[-1], out)
    ),
    "scaled_dot_product_attention": _sdpa,
    "batch_norm": _norm(1, 2),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm"), _norm(4, 5)),
    **dict.fromkeys(("relu", "relu_", "relu6", "leaky_relu", "elu", "prelu"), _relu),
    "adaptive_avg_pool2d": _pool(fvcore=True),
    **dict.fromkeys(
        ("adaptive_avg_pool1d", "max_pool2d", "avg_pool2d", "adaptive_max_pool2d"), _pool(fvcore=False)
    ),
    "upsample_nearest2d": _upsample(1),
    "upsample_bilinear2d": _upsample(4),
}


def _emsa_upsample(call: Arguments, out: Tensor) -> list[Count]:
    """The operators that our fused one stands for. Nominal: whatever the kernel recomputes or skips."""
    size, r = (call["height"], call["width"]), call["reduction"]
    macs = cost.macs(len(out), size, out.shape[-1], r)
    bias = call["v"].numel() * r**2 if call["up_bias"] is not None else 0
    return [
        Count("matmul", *[macs["attend"]] * 3),
        Count("conv", macs["up"], macs["up"], macs["up"] + bias),
        _norm(4, 5)({"weight": call["norm_weight"], "input": out}, out),  # of the branch, cropped to the map
    ]


SEVERAL: dict[str, SeveralHandle] = {"restv2::emsa_upsample": _emsa_upsample}

# Element-wise work, reductions and plain data movement: no convention counts them. An operator in neither table
# is reported as uncounted, so that nothing is skipped in silence.
_FREE = """
    _softmax _to_copy _unsafe_view abs add add_ alias arange bernoulli_ bitwise_not cat chunk clamp
    clamp_ clamp_min clone constant_pad_nd contiguous copy_ cos cumsum detach detach_ div div_ dropout empty
    empty_like eq erf exp expand feature_dropout fill_ flatten flip full full_like gather ge gelu getitem gt
    hardsigmoid hardswish hardswish_ hardtanh index lift_fresh linalg_vector_norm linspace log
    log_softmax lt masked_fill masked_fill_ max mean meshgrid min mish movedim mul mul_ narrow ne
    neg new_empty new_zeros norm normalize ones ones_like pad permute pixel_shuffle pixel_unshuffle
    pow reciprocal remainder repeat repeat_interleave reshape rms_norm roll rsqrt rsub select sigmoid sigmoid_
    silu silu_ sin slice softmax softplus split split_with_sizes sqrt squeeze stack std sub sub_ sum
    sym_size t tanh tile to topk transpose type_as unbind unflatten unfold unsqueeze var var_mean view
    view_as where zeros zeros_like
"""
FREE = frozenset(_FREE.split())


def _first(call: Arguments, *names: str) -> Tensor:
    return next(call[name] for name in names if name in call)
