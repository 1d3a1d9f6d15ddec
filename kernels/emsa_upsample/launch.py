"""Running the kernels: a call and a configuration to a result. Nothing is checked here; `op.py` does that.

# B batch, H W feature map, N = H·W queries, M = ceil(H/r)·ceil(W/r) keys, C = A·D channels
# S windows in all images, B where there are none; w side of a window, whose keys are ceil(w/r)²
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar
from weakref import ref

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from kernels.arguments import laid_out
from kernels.device import capability, current, loop_bound, multiprocessors, upcasts
from kernels.emsa_upsample import (
    cost,
    forward,
    forward_heads,
    forward_long,
    forward_loop,
    forward_resident,
    tuning,
    up_product,
)

T = TypeVar("T")


class Call(NamedTuple):
    """The arguments of one call, in the operator's order. A FLOP formula is given shapes in place of tensors."""

    q: Tensor  # (B, N, C)
    k: Tensor  # (S, M, C)
    v: Tensor  # (S, M, C)
    up_weight: Tensor  # (C·r², 1, 3, 3)
    up_bias: Tensor | None  # (C·r²,)
    norm_weight: Tensor  # (C,)
    norm_bias: Tensor  # (C,)
    heads: int
    height: int
    width: int
    reduction: int
    eps: float
    window: int | None = (
        None  # side of the windows that the map is cut into; k and v have each of them as an image
    )

    @property
    def size(self) -> tuple[int, int]:
        """H, W of the feature map."""
        return self.height, self.width

    @property
    def region(self) -> tuple[int, int]:
        """Height and width of what attends to itself: the map, or a window."""
        return (self.window, self.window) if self.window else self.size

    @property
    def regions(self) -> int:
        """Number of those in an image."""
        return math.prod(cost.ceil_div(self.size, self.window)) if self.window else 1

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the keys of a region."""
        return cost.ceil_div(self.region, self.reduction)

    @property
    def keys(self) -> int:
        """Number of those."""
        return math.prod(self.grid)

    @property
    def head_dim(self) -> int:
        return self.q.shape[-1] // self.heads


def launch(config: tuning.Config, call: Call) -> Tensor:
    """The kernels of `config.design`: (B, N, C)."""
    q = call.q
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if out.numel():
        with current(q):
            DESIGNS[config.design](config, laid_out(call, 3, 7), out)
    return out


# ---- each design


def _vector(config: tuning.Config, call: Call, out: Tensor) -> None:
    """forward.py."""
    batch, queries, _ = call.q.shape
    q, k, v = call[:3]
    given = {"HAS_BIAS": call.up_bias is not None, "WINDOWED": call.window is not None}
    filters, bias = taps(call)
    tiles = tuning.tiles(config, call.reduction, call.grid)
    geometry = (*call.size, *call.grid, tiles, call.window or 0)
    statistics = out
    if call.heads > 1:
        statistics = torch.empty((batch, queries, 2), dtype=torch.float32, device=q.device)
        forward._emsa_statistics[(tiles * len(k),)](
            *(v, filters, bias, statistics, v.stride(0), v.stride(1), *geometry, call.eps),
            **_compiled_for(config, call, "forward._emsa_statistics"),
            **given,
        )
    forward._emsa_upsample[(tiles * call.heads * len(k),)](
        *(
            q,
            k,
            v,
            filters,
            bias,
            call.norm_weight,
            call.norm_bias,
            statistics,
            out,
            *_strides(call),
            *geometry,
        ),
        *(loop_bound(-(-call.keys // config.block_k)), call.eps, _scale(call)),
        **_compiled_for(config, call, "forward._emsa_upsample"),
        **given,
        PRECISION=precision(q),
        UPCAST=upcasts(call.q),
    )


def taps(call: Call) -> tuple[Tensor, Tensor]:
    """The weights as forward.py wants them, (r², 9, C), and the bias, (r², C); the weights again if there is none."""
    return _kept(call, "vector", _taps)


def _taps(call: Call) -> tuple[Tensor, Tensor]:
    channels, phases, dtype = call.q.shape[-1], call.reduction**2, call.q.dtype
    # under autocast the parameters may be wider than q: a convolution would cast them too
    packed = call.up_weight.reshape(channels, phases, 9).permute(1, 2, 0).to(dtype).contiguous()
    if call.up_bias is None:
        return packed, packed
    return packed, call.up_bias.reshape(channels, phases).t().to(dtype).contiguous()


def _resident(config: tuning.Config, call: Call, out: Tensor) -> None:
    """forward_resident.py."""
    pieces = call.reduction**2 // config.phases
    most = max(1, config.programs * multiprocessors(call.q.device) // pieces)
    parts, tiles = tuning.walk(len(out), tuning.tiles(config, call.reduction, call.grid) // pieces, most)
    units = len(out) * parts
    walkers = min(most, units)
    forward_resident.emsa_resident[(pieces * walkers,)](
        *(call.q, call.k, call.v, call.up_weight, _bias(call), call.norm_weight, call.norm_bias, out),
        *(
            *_strides(call),
            *call.size,
            *call.grid,
            units,
            parts,
            loop_bound(tiles),
            walkers,
            call.eps,
            _scale(call),
        ),
        **_compiled_for(config, call, "forward_resident.emsa_resident"),
        HAS_BIAS=call.up_bias is not None,
        UPCAST=upcasts(call.q),
    )


def _at_once(config: tuning.Config, call: Call, out: Tensor) -> None:
    """forward_heads.py and forward_loop.py."""
    kernel = {"heads": forward_heads.emsa_heads, "loop": forward_loop.emsa_loop}[config.design]
    tiles = tuning.tiles(config, call.reduction, call.grid)
    kernel[(tiles * len(call.k),)](
        *(
            call.q,
            call.k,
            call.v,
            _kept(call, config.phases, partial(_pack, config)),
            call.norm_weight,
            call.norm_bias,
            out,
        ),
        *(*_strides(call), *call.size, *call.grid, tiles, call.window or 0, call.eps, _scale(call)),
        **_compiled_for(config, call, f"forward_{config.design}.emsa_{config.design}"),
        WINDOWED=call.window is not None,
        UPCAST=upcasts(call.q),
    )


def _long(config: tuning.Config, call: Call, out: Tensor) -> None:
    """forward_long.py."""
    v, pack = call.v, _kept(call, config.phases, partial(_pack, config))
    tiles = tuning.tiles(config, call.reduction, call.grid)
    geometry = (*call.size, *call.grid, tiles)
    statistics = out  # a pointer is wanted also where it is not read
    if call.heads > 1:
        statistics = torch.empty((*out.shape[:2], 2), dtype=torch.float32, device=out.device)
        forward_long.emsa_long_statistics[(tiles * len(out),)](
            *(v, pack, statistics, v.stride(0), v.stride(1), *geometry, call.eps),
            **_compiled_for(config, call, "forward_long.emsa_long_statistics"),
            UPCAST=upcasts(call.q),
        )
    forward_long.emsa_long[(tiles * call.heads * len(out),)](
        *(
            call.q,
            call.k,
            v,
            pack,
            call.norm_weight,
            call.norm_bias,
            statistics,
            out,
            *_strides(call),
            *geometry,
        ),
        *(loop_bound((call.keys - 1) // config.block_k), call.eps, _scale(call)),
        **_compiled_for(config, call, "forward_long.emsa_long"),
        UPCAST=upcasts(call.q),
    )


DESIGNS: dict[str, Callable[[tuning.Config, Call, Tensor], None]] = {
    "cell": _vector,
    "phase": _vector,
    "resident": _resident,
    "heads": _at_once,
    "loop": _at_once,
    "long": _long,
}


# ---- what they share


def _strides(call: Call) -> tuple[int, ...]:
    return tuple(stride for x in call[:3] for stride in x.stride()[:2])


def _scale(call: Call) -> float:
    return math.log2(math.e) * call.head_dim**-0.5


def _bias(call: Call) -> Tensor:
    """A pointer is wanted also where it is not read."""
    return call.up_weight if call.up_bias is None else call.up_bias


def _compiled_for(config: tuning.Config, call: Call, kernel: str) -> dict[str, Any]:
    """Constants of a kernel, and the compiler's options; not to be changed."""
    return _kernels(config, call.head_dim, call.reduction, call.heads, call.keys)[kernel]


_kernels = lru_cache(1000)(tuning.kernels)


def _pack(config: tuning.Config, call: Call) -> Tensor:
    """The filters in the order and the dtype of the product: (pieces, C, P, 16)."""
    channels, phases = call.q.shape[-1], config.phases
    pieces = 1 if call.reduction == 2 else call.reduction**2 // phases
    pack = torch.empty((pieces, channels, phases, 16), dtype=call.v.dtype, device=call.v.device)
    up_product.pack_filters[(pieces * channels // 16,)](
        *(call.up_weight, _bias(call), pack, channels, call.reduction),
        **_compiled_for(config, call, "up_product.pack_filters"),
        HAS_BIAS=call.up_bias is not None,
    )
    return pack


# By up_weight: what was made of it, and of which state of it and of the bias. It goes when the weight goes.
_KEPT: WeakIdKeyDictionary = WeakIdKeyDictionary()
_CAPTURED: WeakIdKeyDictionary = WeakIdKeyDictionary()  # weights that a CUDA graph reads


def _kept(call: Call, kind: Any, make: Callable[[Call], T]) -> T:
    """The result of `make` for the parameters, or that of an earlier call where nothing wrote to them since.

    In the capture of a CUDA graph it is made by the graph, which must follow its weights; and ever after for those
    weights, because a graph with an optimizer writes to them unseen. Only the default stream keeps anything: others
    may have a memory pool of their own, and would have to wait for the one that made it. `.data` hides writes from
    PyTorch, too: who writes through it has to do so before the first call.
    """
    weight, bias = call.up_weight, call.up_bias
    if weight.is_cuda and torch.cuda.is_current_stream_capturing():
        _CAPTURED[weight] = True
        _KEPT.pop(weight, None)
        return make(call)
    if weight in _CAPTURED or not _may_be_kept(weight, bias):
        return make(call)
    state = (_state(weight), _state(bias))
    entries = _KEPT.setdefault(weight, {})
    before, of_bias, made = entries.get((kind, call.q.dtype), (None, None, None))
    if before != state or (bias is not None and of_bias() is not bias):
        made = make(call)
        entries[kind, call.q.dtype] = (state, bias if bias is None else ref(bias), made)
    return made


def _may_be_kept(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether writes to both would be seen, from the one stream that keeps anything."""
    if weight.is_cuda:
        device = weight.device
        if torch.cuda.current_stream(device) != torch.cuda.default_stream(device):
            return False
    # tensors of inference count no versions
    return not weight.is_inference() and (bias is None or not bias.is_inference())


def _state(parameter: Tensor | None) -> tuple[int, int] | None:
    """The address of a parameter, and the number of times that it was written to; None without one."""
    return None if parameter is None else (parameter.data_ptr(), parameter._version)


def precision(q: Tensor) -> str:
    """The precision of products of fp32: TF32's where it is allowed. Half precision has but one."""
    return "tf32" if q.dtype == torch.float32 and _allows_tf32(q.device) else "ieee"


def _allows_tf32(device: torch.device) -> bool:
    """Whether products of fp32 may be TF32's, where the GPU has them: otherwise IEEE's, as in cuBLAS."""
    if capability(device) < 80:
        return False
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # since torch 2.9; where somebody used it, the older name raises
        return matmul.fp32_precision == "tf32"
    return torch.get_float32_matmul_precision() != "highest"
