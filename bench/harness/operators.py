"""The operators that are counted: a handle each, the cost of one call in every way of counting. 1 MAC = 2 FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from kernels.emsa_upsample import cost as emsa_upsample
from kernels.mhim import cost as mhim
from kernels.mlp import cost as mlp

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
    real = _real(macs, out)
    return Count("conv", real, macs, real + (out.numel() if call["bias"] is not None else 0))


def _linear(call: Arguments, out: Tensor) -> Count:
    macs = out.numel() * call["weight"].shape[-1]
    real, bias = _real(macs, out), call["bias"]
    return Count("linear", real, macs, real + (0 if bias is None else bias.numel()))


def _product(inner: int, out: Tensor) -> Count:
    macs = inner * out.numel()
    return Count("matmul", _real(macs, out), macs, _real(macs, out))


def _real(macs: int, out: Tensor) -> int:
    """Real MACs: a complex one is four of them. fvcore takes both for one."""
    return 4 * macs if out.is_complex() else macs


def _sdpa(call: Arguments, out: Tensor) -> Count:
    query, key, value = call["query"], call["key"], call["value"]
    # the output's queries, because the query's own may be broadcast over the heads or images of key and value
    macs = prod(out.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return Count("matmul", macs, macs, macs)


def _norm(plain: int, affine: int) -> Handle:
    """A handle for a norm: fvcore's cost per element without and with weight; the paper's is 1 and 2."""

    def handle(call: Arguments, out: Tensor) -> Count:
        has_weight, numel = call["weight"] is not None, call["input"].numel()
        return Count("norm", 0, numel * (affine if has_weight else plain), numel * (2 if has_weight else 1))

    return handle


def _batch_norm(call: Arguments, out: Tensor) -> Count:
    """The cost of a BatchNorm. With batch statistics, as in weight standardisation, fvcore counts a layer norm's."""
    return (
        _norm(4, 5)(call, out)
        if call.get("training") or call.get("use_input_stats")
        else _norm(1, 2)(call, out)
    )


def _relu(call: Arguments, out: Tensor) -> Count:
    return Count("activation", paper=out.numel())


def _hardtanh(call: Arguments, out: Tensor) -> Count:
    """ReLU6 where it is that, which is what PyTorch makes of one that works in place; else free."""
    return Count("activation", paper=out.numel() if (call["min_val"], call["max_val"]) == (0, 6) else 0)


def _sample(call: Arguments, out: Tensor) -> Count:
    return Count("upsample", fvcore=4 * out.numel())


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
    **dict.fromkeys(
        ("mv", "dot", "vdot", "_int_mm"), lambda call, out: _product(call["self"].shape[-1], out)
    ),
    "addmv": lambda call, out: _product(call["mat"].shape[-1], out),
    # all of its products are added up
    "addbmm": lambda call, out: _product(call["batch1"].shape[0] * call["batch1"].shape[-1], out),
    "scaled_dot_product_attention": _sdpa,
    "batch_norm": _batch_norm,
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm"), _norm(4, 5)),
    **dict.fromkeys(("relu", "relu6", "leaky_relu", "elu", "prelu"), _relu),
    "hardtanh": _hardtanh,
    "adaptive_avg_pool2d": _pool(fvcore=True),
    **dict.fromkeys(
        ("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"), _pool(False)
    ),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool3d"), _pool(False)),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), _pool(False)),
    "upsample_nearest2d": _upsample(1),
    "upsample_bilinear2d": _upsample(4),
    **dict.fromkeys(
        (
            *("upsample_nearest1d", "upsample_nearest3d", "upsample_linear1d", "upsample_trilinear3d"),
            *("upsample_bicubic2d", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa"),
            *("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d"),
        ),
        _upsample(0),
    ),
    "grid_sampler": _sample,
}


def _emsa_upsample(call: Arguments, out: Tensor) -> list[Count]:
    """The operators that our fused one stands for. Nominal: whatever the kernel recomputes or skips."""
    size, r, window = (call["height"], call["width"]), call["reduction"], call.get("window")
    channels = out.shape[-1]
    # who cuts and pads a map does so before the projection of queries, and crops after the last one
    padding = emsa_upsample.macs_of_padding(len(out), size, channels, window)
    size = (window, window) if window else size
    macs = emsa_upsample.macs(len(call["k"]), size, channels, r)
    bias = call["v"].numel() * r**2 if call["up_bias"] is not None else 0
    normed = len(call["k"]) * prod(size) * channels  # of the branch, cropped to the map
    return [
        *([Count("linear", *[padding] * 3)] if padding else []),
        Count("matmul", *[macs["attend"]] * 3),
        Count("conv", macs["up"], macs["up"], macs["up"] + bias),
        Count("norm", 0, 5 * normed, 2 * normed),
    ]


def _mlp(call: Arguments, out: Tensor) -> list[Count]:
    """Both linear layers that our fused one stands for; nobody counts the GELU between them."""
    (hidden, channels), biases = call["w1"].shape, call["b1"].numel() + call["b2"].numel()
    macs = mlp.macs(out.numel() // channels, channels, hidden)
    return [Count("linear", macs, macs, macs + biases)]


def _mhim(call: Arguments, out: Tensor) -> list[Count]:
    """The operators that our fused MHIM stands for. Nominal: whatever the kernel computes again."""
    size, r, heads = (call["height"], call["width"]), call["reduction"], call["heads"]
    macs = mhim.macs(len(out), size, out.shape[-1], heads, r, has_branch=call["up_weight"] is not None)
    entries = macs["mix"] // heads  # of the maps
    mix_bias = entries if call["mix_bias"] is not None else 0
    counts = [
        Count("matmul", *[macs["attend"]] * 3),
        Count("conv", macs["mix"], macs["mix"], macs["mix"] + mix_bias),
        Count("norm", 0, 4 * entries, entries),
    ]
    if call["up_weight"] is None:
        return counts
    bias = call["v"].numel() * r**2 if call["up_bias"] is not None else 0
    normed = out.numel()  # of the branch, cropped to the map
    return [
        *counts,
        Count("conv", macs["up"], macs["up"], macs["up"] + bias),
        Count("norm", 0, 5 * normed, 2 * normed),
    ]


def _window_reduce(call: Arguments, out: Tensor) -> list[Count]:
    """The convolution that our fused one stands for. Nominal: its taps on padding too."""
    macs = out.numel() * prod(call["weight"].shape[1:])
    return [Count("conv", macs, macs, macs + (out.numel() if call["bias"] is not None else 0))]


SEVERAL: dict[str, SeveralHandle] = {
    "restv2::emsa_upsample": _emsa_upsample,
    "restv2::mhim": _mhim,
    "restv2::window_reduce": _window_reduce,
    "restv2::mlp": _mlp,
}

# Reductions, moved, made and sorted data, norms of vectors: no convention counts them. What PyTorch's registry says to
# be element by element, or a view, is free by that (`known_as`). An operator in neither table is reported as
# uncounted, so that nothing is skipped in silence.
_FREE = """
    _aminmax _assert_async _assert_scalar _assert_tensor_metadata _chunk_cat _copy_from _cummax_helper
    _cummin_helper _functional_assert_async _fused_dropout _index_put_impl _is_all_true _is_any_true
    _local_scalar_dense _log_softmax _logcumsumexp _masked_scale _masked_softmax _new_zeros_with_same_feature_meta
    _pin_memory _reshape_alias _safe_softmax _softmax _stack _to_copy _unique _unique2 _unsafe_index
    _unsafe_index_put _unsafe_masked_index _unsafe_view _weight_norm_interface
    affine_grid_generator alias all allclose amax amin aminmax any arange argmax argmin as_strided as_strided_scatter
    bartlett_window bernoulli bincount blackman_window block_diag bucketize cat cauchy celu channel_shuffle chunk
    clone col2im complex constant_pad_nd contiguous copy count_nonzero cummax cummin cumprod cumsum detach diag_embed
    diagonal diagonal_scatter dropout embedding embedding_renorm empty empty_like empty_permuted empty_strided expand
    exponential eye feature_dropout fft_fftfreq fft_rfftfreq fill flatten flip full full_like gather gelu geometric
    getitem glu hamming_window hann_window hardshrink hardsigmoid hardswish histc im2col index index_add index_copy
    index_fill index_put index_reduce index_select is_pinned is_same_size isin kaiser_window kthvalue lift lift_fresh
    linalg_vector_norm linspace log_normal log_sigmoid_forward log_softmax logcumsumexp logspace logsumexp masked_fill
    masked_scatter masked_select max max_unpool2d max_unpool3d mean median meshgrid min mish mode movedim multinomial
    nanmedian nansum narrow native_dropout new_empty new_empty_strided new_full new_ones new_zeros nonzero
    nonzero_static norm normal normal_functional normalize ones ones_like pad permute pixel_shuffle pixel_unshuffle
    poisson polar prod put rand rand_like randint randint_like randn randn_like random randperm range
    reflection_pad1d reflection_pad2d reflection_pad3d renorm repeat repeat_interleave replication_pad1d
    replication_pad2d replication_pad3d reshape resize resize_as rms_norm roll rot90 rrelu_with_noise scalar_tensor
    scatter scatter_add scatter_reduce searchsorted segment_reduce select select_scatter set silu slice slice_scatter
    softmax softplus softshrink sort split split_with_sizes squeeze stack std std_mean sum sym_size t take tile to
    topk trace transpose tril tril_indices triu triu_indices type_as unbind unflatten unfold uniform unique_consecutive
    unique_dim unique_dim_consecutive unsafe_split unsafe_split_with_sizes unsqueeze var var_mean view
    view_as view_as_complex view_as_real where zero zeros zeros_like
"""
FREE = frozenset(_FREE.split())
_TABLES = frozenset(HANDLES) | frozenset(SEVERAL) | FREE


@cache
def known_as(operator: Any) -> str | None:
    """The name under which the tables know an operator of `torch.ops`; None for one that is to be reported.

    It is its own, or that of the operator which works in place, or makes a copy where this gives a view; "free" for
    one that the registry says is element by element or a view.
    """
    name = operator._schema.name.removeprefix("aten::")
    plain = name if name.startswith("__") else name.removesuffix("_")
    for each in (name, plain, plain.removesuffix("_copy"), plain.removesuffix("_functional")):
        if each in _TABLES:
            return each
    returns = operator._schema.returns
    is_view = returns and all(each.alias_info and not each.alias_info.is_write for each in returns)
    return "free" if is_view or torch.Tag.pointwise in operator.tags else None


def _first(call: Arguments, *names: str) -> Tensor:
    return next(call[name] for name in names if name in call)
