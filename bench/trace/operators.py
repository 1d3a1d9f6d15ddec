"""One recorded operator, and the classes that operators are added up in: by name, and by what runs inside what.

The first seven classes are those in which MACs are counted (`bench/harness/operators.py`); the others have time and no
MACs of the convention `core`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

Shape = tuple[Any, ...]  # of a tensor; of a list of tensors, the shapes of them

CLASSES = {
    "conv": "convolutions, with their bias",
    "linear": "linear layers: products with a weight, and a bias along the rows",
    "matmul": "other matrix products, attention's among them",
    "norm": "batch, layer, group and other norms",
    "activation": "ReLU, GELU, SiLU and their like",
    "pool": "pooling",
    "upsample": "upsampling and sampling at points",
    "attention": "attention in one kernel: products and softmax, and with it whatever else such a kernel does",
    "softmax": "softmax and log-softmax",
    "element-wise": "sums, products and other arithmetic element by element, dropout, optimizers' updates",
    "reduction": "sums, means, extremes, and sorting",
    "copy": "copies, casts, joining, gathering and filling",
    "loss": "losses",
    "fused": "kernels that a compiler made of several operators",
    "compiled": "regions of torch.compile on a CPU: guards and wrappers, and kernels that are not recorded one by one",
    "communication": "between GPUs",
    "view": "views, allocation, autograd around its operators: no kernel, time on a CPU alone",
    "outside": "outside of operators: what they leave of an iteration, Python's above all; of a case on a CPU alone",
    "other": "operators that are in no table",
}
BY = ("operator", "call", "kernel", "module")  # what a table has a line of
COUNTED = ("conv", "linear", "matmul", "attention")  # those that have MACs of the convention `core`

# An operator that runs inside one of these is part of it; one class inside another of no such pair stands for itself,
# as the copy inside a matrix product does.
PART_OF = {
    "conv": ("linear", "matmul", "element-wise"),
    "linear": ("matmul", "element-wise"),
    "norm": ("element-wise", "reduction"),
    "activation": ("element-wise",),
    "pool": ("reduction",),
    "softmax": ("element-wise", "reduction"),
    "loss": ("element-wise", "reduction"),
    "element-wise": ("reduction",),
}

_NAMES = {
    "conv": """conv1d conv2d conv3d convolution _convolution cudnn_convolution cudnn_convolution_relu
        cudnn_convolution_add_relu cudnn_convolution_transpose mkldnn_convolution miopen_convolution
        miopen_convolution_relu miopen_convolution_transpose miopen_depthwise_convolution conv_transpose1d
        conv_transpose2d conv_transpose3d _conv_depthwise2d conv_depthwise3d thnn_conv2d thnn_conv2d_forward
        slow_conv2d slow_conv2d_forward _slow_conv2d _slow_conv2d_forward slow_conv3d slow_conv3d_forward
        slow_conv_dilated2d slow_conv_dilated3d slow_conv_transpose2d slow_conv_transpose3d convolution_overrideable
        mkldnn::_convolution_pointwise restv2::window_reduce""",
    "linear": "linear mkldnn_linear mkldnn::_linear_pointwise _mkl_linear restv2::mlp",
    "matmul": """matmul mm bmm baddbmm addbmm mv addmv dot vdot _int_mm _scaled_mm addmm _addmm_activation
        _trilinear""",
    "norm": """batch_norm _batch_norm_impl_index native_batch_norm cudnn_batch_norm miopen_batch_norm
        _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update batch_norm_stats
        batch_norm_elemt batch_norm_gather_stats_with_counts batch_norm_update_stats batch_norm_reduce
        layer_norm native_layer_norm group_norm native_group_norm instance_norm rms_norm _fused_rms_norm
        _weight_norm_interface""",
    "activation": """relu relu6 leaky_relu elu celu selu prelu _prelu_kernel gelu silu mish hardswish hardsigmoid
        hardtanh threshold glu softplus sigmoid tanh log_sigmoid log_sigmoid_forward hardshrink softshrink rrelu
        rrelu_with_noise""",
    "pool": """max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices
        max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
        adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
        adaptive_max_pool3d mkldnn_max_pool2d max_unpool2d max_unpool3d""",
    "upsample": """interpolate upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d
        upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_bicubic2d_aa _upsample_bilinear2d_aa
        _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d pixel_shuffle pixel_unshuffle
        grid_sampler grid_sampler_2d grid_sampler_3d cudnn_grid_sampler torchvision::roi_align
        torchvision::deform_conv2d affine_grid_generator""",
    "attention": """_scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention
        _scaled_dot_product_cudnn_attention _scaled_dot_product_flash_attention_for_cpu
        _scaled_dot_product_fused_attention_overrideable _flash_attention_forward _efficient_attention_forward
        _cudnn_attention_forward _flash_attention _efficient_attention _cudnn_attention restv2::emsa_upsample
        restv2::mhim""",
    "softmax": "softmax _softmax log_softmax _log_softmax _safe_softmax _masked_softmax",
    "element-wise": """add sub rsub mul div true_divide floor_divide remainder fmod pow square sqrt rsqrt exp exp2
        expm1 log log2 log10 log1p neg abs sign sin cos reciprocal clamp clamp_min clamp_max minimum maximum fmax fmin
        addcmul addcdiv lerp where masked_fill eq ne lt le gt ge logical_and logical_or logical_not bitwise_and
        bitwise_or bitwise_not erf floor ceil round trunc isnan isinf isfinite dropout native_dropout feature_dropout
        _fused_dropout masked_scale _masked_scale bernoulli tril triu nan_to_num rand rand_like randn randn_like
        randint randint_like randperm uniform normal log_normal normal_functional random cauchy exponential
        geometric poisson multinomial arange range linspace logspace complex polar normalize renorm
        embedding_renorm allclose isin fft_fftfreq fft_rfftfreq bartlett_window blackman_window hamming_window
        hann_window kaiser_window
        _fused_adam _fused_adamw _fused_sgd _fused_adagrad _amp_foreach_non_finite_check_and_unscale
        _amp_update_scale""",
    "reduction": """sum mean prod max min amax amin aminmax argmax argmin var std var_mean std_mean norm
        linalg_vector_norm any all cumsum cumprod logsumexp sort argsort topk nonzero unique _unique2 count_nonzero
        bincount histc torchvision::nms _aminmax _cummax_helper _cummin_helper cummax cummin _is_all_true
        _is_any_true _logcumsumexp logcumsumexp _unique bucketize kthvalue median mode nanmedian nansum
        nonzero_static searchsorted segment_reduce trace unique_consecutive unique_dim
        unique_dim_consecutive""",
    "copy": """copy clone contiguous to _to_copy reshape cat _cat stack _stack concat fill zero zeros ones full
        zeros_like ones_like full_like new_zeros new_ones new_full index index_select index_put _index_put_impl
        index_add index_copy index_fill gather scatter scatter_add scatter_reduce embedding embedding_dense
        embedding_bag _embedding_bag take masked_select masked_scatter pad constant_pad_nd reflection_pad1d
        reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d roll flip repeat
        repeat_interleave tile im2col col2im item _local_scalar_dense unfold slice select type_as channel_shuffle
        native_channel_shuffle split_with_sizes_copy _chunk_cat _copy_from _unsafe_index _unsafe_index_put
        _unsafe_masked_index as_strided_scatter block_diag diag_embed diagonal_scatter eye index_reduce
        _new_zeros_with_same_feature_meta _pin_memory put rot90 scalar_tensor select_scatter slice_scatter
        tril_indices triu_indices""",
    "loss": """nll_loss nll_loss_nd nll_loss_forward nll_loss2d nll_loss2d_forward cross_entropy_loss mse_loss
        l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits kl_div ctc_loss
        _ctc_loss""",
    "communication": """c10d::allreduce_ c10d::_allgather_base_ c10d::_reduce_scatter_base_ c10d::broadcast_
        c10d::allgather_ c10d::reduce_scatter_ c10d::send c10d::recv_ record_param_comms""",
    "view": """view _unsafe_view _reshape_alias as_strided transpose t permute expand expand_as squeeze unsqueeze
        flatten unflatten narrow split split_with_sizes chunk unbind detach alias resize empty empty_like
        empty_strided new_empty new_empty_strided set lift_fresh view_as movedim swapaxes numpy_T conj
        resolve_conj resolve_neg result_type result_dtype is_nonzero result _assert_async _assert_scalar
        _assert_tensor_metadata _functional_assert_async diagonal empty_permuted getitem is_pinned is_same_size
        lift meshgrid resize_as sym_size unsafe_split unsafe_split_with_sizes view_as_complex view_as_real""",
}
_CLASS_OF = {name: kind for kind, names in _NAMES.items() for name in names.split()}
_BACKWARD = re.compile(r"_backward(_\w+)?$")
_FUSED = re.compile(r"triton_|(graph_\d+_)?cpp_fused_")
_COMPILED = re.compile(
    r"Torch-Compiled Region|TorchDynamo |Pregraph bytecode|AOTDispatcher |CompiledFunction|## Call Com"
)


@dataclass(slots=True, eq=False)
class Operator:
    """An operator as recorded: its arguments' shapes, types and values in order, as far as they were recorded."""

    name: str
    shapes: tuple[Shape, ...] = ()
    types: tuple[str, ...] = ()
    values: tuple[str, ...] = ()  # of the arguments that are no tensors, as text
    strides: tuple[Shape, ...] = ()
    parent: Operator | None = None
    output: Shape | None = None  # where another operator tells it
    inside: frozenset[str] = frozenset()  # the names of the operators that ran inside it

    def outwards(self) -> Iterator[Operator]:
        """This operator, the one that it ran in, and so on."""
        found: Operator | None = self
        while found is not None:
            yield found
            found = found.parent


@cache
def plain(name: str) -> str:
    """An operator's name without namespace, the underscore of one that works in place, and foreach."""
    name = name.removeprefix("aten::")
    if "::" not in name and not name.startswith("__"):
        name = name.removesuffix("_") if len(name) > 1 else name
        name = name.removeprefix("_foreach_")
    return name


@cache
def class_of(name: str) -> str | None:
    """The class of an operator by its name; None for one that is in no table, and for a wrapper."""
    short = plain(name)
    for each in (name, short, _BACKWARD.sub("", short)):
        if each in _CLASS_OF:
            return _CLASS_OF[each]
    if _FUSED.match(name):
        return "fused"
    if _COMPILED.match(name):
        return "compiled"
    return "communication" if name.startswith(("nccl", "rccl:", "gloo:")) else None


def is_backward(name: str) -> bool:
    """Whether an operator computes gradients, by its name."""
    return _BACKWARD.search(plain(name)) is not None


def call_of(innermost: Operator) -> tuple[Operator, str]:
    """Find the call that the operator which does the work is part of, and the class of that.

    The call is the outermost operator of the same class, or of one that this is part of: `conv2d` for what
    `cudnn_convolution` does, `matmul` for `bmm`. What is known to no table stands for itself, in the class "other".
    """
    found: Operator | None = None
    kind = "other"
    for each in innermost.outwards():
        outer = class_of(each.name)
        if outer is None:
            continue
        if found is None or outer == kind or kind in PART_OF.get(outer, ()):
            found, kind = each, outer
        else:
            break
    if found is None:
        return innermost, kind
    if kind == "matmul" and _is_linear(found):
        kind = "linear"
    return found, kind


def _is_linear(call: Operator) -> bool:
    """Whether a product is that of a linear layer: its bias lies along the rows."""
    return (
        plain(call.name) in ("addmm", "_addmm_activation") and bool(call.shapes) and len(call.shapes[0]) == 1
    )
