"""MACs and bytes of a recorded operator, from the shapes of its arguments: one table of formulas. 1 MAC = 2 FLOPs.

MACs are those of the convention `core`, nominal: what the mathematics has, whatever the kernel recomputes or skips
(Winograd multiplies less, a causal mask skips half). A backward counts each gradient that it computes: of a
convolution as much as the forward for each of input and weight, of attention twice the forward. Bytes are those of the
tensors that are read and written, each once: what a cache saves, and what a kernel reads twice, is not in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import prod

from bench.trace.operators import COUNTED, Operator, Shape, class_of, is_backward, plain
from kernels.window_reduce import cost as window_reduce

SIZES = {
    "float": 4, "double": 8, "c10::Half": 2, "c10::BFloat16": 2, "long int": 8, "long": 8, "int": 4, "short int": 2,
    "signed char": 1, "unsigned char": 1, "bool": 1, "c10::complex<float>": 8, "c10::complex<double>": 16,
    "c10::Float8_e4m3fn": 1, "c10::Float8_e5m2": 1,
}  # fmt: skip
COMPARISONS = frozenset(
    [
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "logical_and",
        "logical_or",
        "logical_not",
        "isnan",
        "isinf",
        "isfinite",
    ]
)
DTYPES = {"float": "fp32", "double": "fp64", "c10::Half": "fp16", "c10::BFloat16": "bf16"}

# Where a convolution's settings stand among its arguments: stride, padding, dilation, and whether it is transposed.
_PLAIN, _CUDNN, _MKLDNN, _KERNEL = (3, 4, 5), (3, 2, 4), (4, 3, 5), (4, 5, 6)
SETTINGS: dict[str, tuple[int, int, int]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "_convolution"), _PLAIN),
    **dict.fromkeys(
        ("convolution_overrideable", "cudnn_convolution_relu", "miopen_convolution_relu"), _PLAIN
    ),
    "cudnn_convolution": _CUDNN,
    **dict.fromkeys(("mkldnn_convolution", "miopen_convolution", "miopen_depthwise_convolution"), _MKLDNN),
    "mkldnn::_convolution_pointwise": _MKLDNN,
    **dict.fromkeys(
        ("_conv_depthwise2d", "conv_depthwise3d", "slow_conv_dilated2d", "slow_conv_dilated3d"), _KERNEL
    ),
    **dict.fromkeys(("thnn_conv2d", "thnn_conv2d_forward", "slow_conv2d_forward"), (4, 5, -1)),
    **dict.fromkeys(("_slow_conv2d_forward", "slow_conv3d", "slow_conv3d_forward"), (4, 5, -1)),
}


def macs(call: Operator, kind: str) -> int | None:
    """MACs of a call of this class; None where its shapes do not tell them."""
    if kind == "fused":  # of a template of products nothing is known; the others have none
        return None if call.name.startswith("triton_tem") else 0
    if kind not in COUNTED:
        return None if kind == "other" else 0
    try:
        formula = MACS.get(plain(call.name))
        return None if formula is None else _believed(formula(call))
    except (IndexError, TypeError, ValueError):  # fewer arguments or dimensions than it has: nothing is known
        return None


def moved(call: Operator) -> int | None:
    """Bytes that an operator reads and writes; None where its shapes do not tell them."""
    try:
        read = [_bytes(call, place) for place in range(len(call.shapes))]
        return _believed(_moved(call, class_of(call.name) or "", [size for size in read if size is not None]))
    except (IndexError, TypeError, ValueError):
        return None


def _believed(number: int | None) -> int | None:
    """The number, unless no memory could hold such tensors: a damaged file's."""
    return number if number is not None and number < 1 << 80 else None


def dtype(call: Operator) -> str | None:
    """The type of the first tensor of floating point among the arguments."""
    return next((DTYPES[name] for name in call.types if name in DTYPES), None)


def output(call: Operator) -> Shape | None:
    """The shape of a convolution's output, by its settings or because another operator told it."""
    if call.output is not None:
        return call.output
    name = plain(call.name)
    places = SETTINGS.get(name)
    if places is None or _is_transposed(call):
        return None
    given, weight = _tensor(call, 0), _tensor(call, 1)
    sizes = given[2:]
    stride, padding, dilation = (_setting(call, place, len(sizes)) for place in places)
    if stride is None or padding is None:
        return None
    dilation = dilation or (1,) * len(sizes)
    return (given[0], weight[0], *map(_convolved, sizes, weight[2:], stride, padding, dilation))


def _convolved(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    if padding < 0:  # "same"
        return size
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


# ---- MACs


def _conv(call: Operator) -> int | None:
    if _is_transposed(call):  # each element of its input meets the filter once
        return prod(_tensor(call, 0)) * prod(_tensor(call, 1)[1:])
    out = output(call)
    return None if out is None else prod(out) * prod(_tensor(call, 1)[1:])


def _conv_backward(call: Operator) -> int:
    met = _tensor(
        call, 1 if _flag(call, 7) else 0
    )  # the input of a transposed one, else the output's gradient
    return _gradients(call) * prod(met) * prod(_tensor(call, 2)[1:])


def _old_conv_backward(call: Operator) -> int:
    """Gradients of a convolution as an older PyTorch takes them: input, output's gradient, weight."""
    return _gradients(call) * prod(_tensor(call, 1)) * prod(_tensor(call, 2)[1:])


def _conv_backward_input(call: Operator) -> int:
    """The gradient of the input alone, where nothing around it was recorded."""
    return prod(_tensor(call, 1)) * prod(_tensor(call, 2)[1:])


def _gradients(call: Operator) -> int:
    """The number of gradients of input and weight in a convolution's backward: both, unless it says otherwise."""
    mask = re.findall("True|False", _value(call, 10) or "")
    if len(mask) in (2, 3):  # the third is the bias's
        return mask[:2].count("True")
    parts = [name for name in call.inside if name.endswith(("_backward_input", "_backward_weight"))]
    return len(parts) or 2


def _linear(call: Operator) -> int:
    return prod(_tensor(call, 0)) * _tensor(call, 1)[0]


def _product(one: int, other: int) -> Callable[[Operator], int]:
    """The product of the arguments at these places: matrices, batches of them, vectors."""

    def formula(call: Operator) -> int:
        a, b = _tensor(call, one), _tensor(call, other)
        if len(b) == 1:
            return prod(a)
        if len(a) == 1:
            return prod(b)
        batches = [max(pair) for pair in _broadcast(a[:-2], b[:-2])]
        return prod(batches) * a[-2] * a[-1] * b[-1]

    return formula


def _attention(first: int, is_length_first: bool, times: int = 1) -> Callable[[Operator], int]:
    """Both products of attention, whose queries, keys and values begin at this argument.

    Args:
        is_length_first: the length stands before the heads.
        times: 2 for a backward, which has four products.
    """

    def formula(call: Operator) -> int:
        query, key, value = (_tensor(call, place) for place in range(first, first + 3))
        if len(query) != 4:  # sequences of several lengths in one: their ends are not in the shapes
            raise ValueError
        images, keys = query[0], key[1 if is_length_first else 2]
        queries, heads = (query[1], query[2]) if is_length_first else (query[2], query[1])
        return times * images * heads * queries * keys * (query[3] + value[3])

    return formula


def _emsa_upsample(first: int, times: int = 1) -> Callable[[Operator], int]:
    """Our fused core, as kernels/emsa_upsample/cost.py has it: attention's products, and the upsampling's.

    Its q is the `first` argument; a backward has them `times` over. In windows, keys have more images than q, and no
    query is padding.
    """

    def formula(call: Operator) -> int:
        images, queries, channels = _tensor(call, first)
        (windows, keys, _), filters = _tensor(call, first + 1), _tensor(call, first + 3)[0]
        return times * keys * (2 * images * queries * channels + 9 * windows * filters)

    return formula


def _mhim(first: int, times: int = 1) -> Callable[[Operator], int]:
    """Our fused MHIM: attention's products, the mixing of heads, and the upsampling's where there is one.

    Its q is the `first` argument; a backward has them `times` over.
    """

    def formula(call: Operator) -> int:
        (images, queries, channels), keys = _tensor(call, first), _tensor(call, first + 1)[1]
        heads, filters = _tensor(call, first + 3)[0], (call.shapes[first + 5] or (0,))[0]
        return times * images * keys * (queries * (2 * channels + heads**2) + 9 * filters)

    return formula


def _window_reduce(first: int, times: int = 1) -> Callable[[Operator], int]:
    """Our reduction inside windows: the convolution of all cells, by the numbers that were recorded.

    Its tokens are the `first` argument; a backward has it `times` over.
    """

    def formula(call: Operator) -> int:
        images, _, channels = _tensor(call, first)
        numbers = range(first + 3, first + 7)
        height, width, reduction, window = (int(_value(call, place) or "") for place in numbers)
        return times * window_reduce.macs(images, (height, width), channels, reduction, window)

    return formula


def _mlp(call: Operator) -> int:
    """Our fused feed-forward: two products of the tokens with a weight, over as many hidden channels."""
    return 2 * prod(_tensor(call, 0)) * _tensor(call, 1)[0]


def _names(text: str) -> list[str]:
    return text.split()


_HEADS_FIRST = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
    "_cudnn_attention_forward",
)


# Products whose first argument is added to them
SUMMED = ("addmm", "baddbmm", "addbmm", "addmv", "_addmm_activation")

MACS: dict[str, Callable[[Operator], int | None]] = {
    **dict.fromkeys((*SETTINGS, *_names("conv_transpose1d conv_transpose2d conv_transpose3d")), _conv),
    **dict.fromkeys(_names("cudnn_convolution_transpose miopen_convolution_transpose"), _conv),
    **dict.fromkeys(_names("slow_conv_transpose2d slow_conv_transpose3d"), _conv),
    "convolution_backward": _conv_backward,
    "convolution_backward_overrideable": _conv_backward,
    "cudnn_convolution_backward": _old_conv_backward,
    "miopen_convolution_backward": _old_conv_backward,
    "mkldnn_convolution_backward": _old_conv_backward,
    "cudnn_convolution_backward_input": _conv_backward_input,
    "miopen_convolution_backward_input": _conv_backward_input,
    **dict.fromkeys(("linear", "mkldnn_linear", "mkldnn::_linear_pointwise"), _linear),
    **dict.fromkeys(("mm", "bmm", "matmul", "mv", "dot", "vdot", "_int_mm", "_scaled_mm"), _product(0, 1)),
    **dict.fromkeys(SUMMED, _product(1, 2)),
    **dict.fromkeys(_HEADS_FIRST, _attention(0, False)),
    **dict.fromkeys(
        (f"{name.removesuffix('_forward')}_backward" for name in _HEADS_FIRST), _attention(1, False, 2)
    ),
    **dict.fromkeys(("_flash_attention_forward", "_efficient_attention_forward"), _attention(0, True)),
    **dict.fromkeys(("_flash_attention_backward", "_efficient_attention_backward"), _attention(1, True, 2)),
    "restv2::emsa_upsample": _emsa_upsample(0),
    "restv2::emsa_upsample_backward": _emsa_upsample(1, 2),
    "restv2::mlp": _mlp,
    "restv2::mhim": _mhim(0),
    "restv2::mhim_backward": _mhim(1, 2),
    "restv2::window_reduce": _window_reduce(0),
    "restv2::window_reduce_backward": _window_reduce(1, 2),
}


# ---- bytes


def _moved(call: Operator, kind: str, read: Sequence[int]) -> int | None:
    """Bytes by class, from those of each tensor that is read."""
    if not read:
        return None
    name = plain(call.name)
    size = SIZES.get(call.types[0]) or SIZES.get(call.types[1])
    if size is None:
        return None
    if name == "restv2::window_reduce":
        return sum(read) + _window_reduce(0)(call) // prod(_tensor(call, 1)[1:]) * size
    # the output is as large as the queries, or as the tokens; a backward writes what it reads beside the gradient
    if kind == "attention" or name in ("restv2::mlp", "restv2::window_reduce_backward"):
        return sum(read) + (sum(read[1:4]) if is_backward(call.name) else read[0])
    if kind == "conv":
        if is_backward(call.name):
            return _conv_gradients_moved(call, size)
        out = output(call)
        return None if out is None else sum(read) + prod(out) * size
    if kind in ("linear", "matmul"):
        at = int(name in SUMMED)
        a, b = _tensor(call, at), _tensor(call, at + 1)
        if kind == "linear":
            return sum(read) + prod(a[:-1]) * b[0] * size
        batches = [max(pair) for pair in _broadcast(a[:-2], b[:-2])]
        rows = a[-2] if len(a) > 1 else 1
        return sum(read) + prod(batches) * rows * (b[-1] if len(b) > 1 else 1) * size
    if name in ("copy", "fill", "zero", "zeros_like", "ones_like"):  # only the first is written
        return sum(read[:2])
    if kind in ("norm", "activation", "softmax", "element-wise"):
        if name.startswith("_fused_"):  # an optimizer's, of lists of tensors
            return None
        if name in COMPARISONS:
            return sum(read) + max(map(prod, call.shapes))
        if kind in ("activation", "softmax") or name.startswith("clamp"):
            # of one tensor, and in a backward of its gradient too; a further one is where the output goes
            return sum(read[: 2 if is_backward(call.name) else 1]) + max(read)
        return sum(read) + max(read)  # one is written, of the size of the largest
    if name in ("clone", "contiguous", "cat", "_cat", "stack", "flip", "roll"):
        return 2 * sum(read)
    if kind in ("reduction", "loss"):  # what is written is small beside it
        return sum(read)
    if kind == "pool" and is_backward(call.name):  # the gradient of the input, as large as the input
        return sum(read) + read[1]
    if kind == "fused":  # a kernel's arguments are what it reads and writes
        return sum(read)
    return None


def _conv_gradients_moved(call: Operator, size: int) -> int | None:
    """Bytes of a convolution's backward: each of its two parts reads two of the three tensors and writes the third."""
    tensors = [shape for shape in call.shapes[:3] if shape]
    return _gradients(call) * sum(prod(shape) for shape in tensors) * size if len(tensors) == 3 else None


def _bytes(call: Operator, place: int) -> int | None:
    """Bytes of an argument; None for one that is no tensor.

    Raises:
        ValueError: the type of a list's tensors is not recorded.
    """
    shape = call.shapes[place]
    kind = call.types[place] if place < len(call.types) else ""
    if shape and isinstance(shape[0], tuple):
        raise ValueError(kind)
    if kind not in SIZES:
        return None
    strides = call.strides[place] if place < len(call.strides) else ()
    if len(strides) == len(shape):  # an expanded dimension is read once
        shape = tuple(size for size, step in zip(shape, strides, strict=True) if step != 0)
    return prod(shape) * SIZES[kind]


# ---- arguments


def _tensor(call: Operator, place: int) -> tuple[int, ...]:
    """The shape of the tensor at a place.

    Raises:
        ValueError: none was recorded there.
    """
    shape = call.shapes[place]
    if not shape:
        raise ValueError(place)
    return shape


def _value(call: Operator, place: int) -> str | None:
    return call.values[place] if 0 <= place < len(call.values) and call.values[place] else None


def _flag(call: Operator, place: int) -> bool:
    return _value(call, place) in ("True", "1")


def _is_transposed(call: Operator) -> bool:
    name = plain(call.name)
    return "transpose" in name or (name in ("convolution", "_convolution") and _flag(call, 6))


def _setting(call: Operator, place: int, dims: int) -> tuple[int, ...] | None:
    """A list of whole numbers among the arguments, one for each dimension; -1 stands for the padding "same"."""
    text = _value(call, place)
    if text is None:
        return None
    if text.strip("'\"") in ("same", "valid"):
        return (-1 if "same" in text else 0,) * dims
    numbers = tuple(map(int, re.findall(r"-?\d+", text)))
    if len(numbers) == 1:
        return numbers * dims
    return numbers if len(numbers) == dims else None


def _broadcast(one: Sequence[int], other: Sequence[int]) -> list[tuple[int, int]]:
    """The sizes of two tensors beside each other, from the last on; what is missing is 1."""
    length = max(len(one), len(other))
    return [
        (a, b)
        for a, b in zip(
            [1] * (length - len(one)) + list(one), [1] * (length - len(other)) + list(other), strict=True
        )
    ]
