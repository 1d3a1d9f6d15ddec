"""Questions of our operators to PyTorch and Triton about the device that they run on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}  # as tunings name them
TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2])


@triton.jit
def _any_kernel():
    pass


# Whether Triton interprets kernels. It decides that when it decorates them, and later changes mean nothing.
INTERPRETED = not isinstance(_any_kernel, triton.runtime.JITFunction)


def upcasts(x: Tensor) -> bool:
    """Whether operands of products like `x` are made fp32: the interpreter's bf16 products are wrong."""
    return INTERPRETED and x.dtype == torch.bfloat16


def loop_bound(number: int) -> Any:
    """The bound of a kernel's loop: the interpreter takes no tensor for one, and makes one of every number."""
    return tl.constexpr(number) if INTERPRETED else number


def not_nvidia(device: torch.device) -> str | None:
    """The kind of a device that is no NVIDIA GPU, to stand behind "does not run on"; None where it is one."""
    if device.type == "cuda":
        return "AMD GPUs" if torch.version.hip else None
    return f"a {device.type.upper()}"


def capability(device: torch.device) -> int:
    """Compute capability of a GPU × 10; that of some GPU where kernels are interpreted, on a CPU."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


# torch.compile, which traces whoever asks, takes the answer as it is. `torch.compiler.assume_constant_result` sets the
# same, but imports the whole compiler for it, which takes longer than PyTorch does.
capability._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def multiprocessors(device: torch.device) -> int:
    """SMs of a GPU; a few where nothing but the interpreter runs."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def current(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make a tensor's device the current one, on which Triton launches whatever device its pointers are of."""
    if not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(tensor.device)
