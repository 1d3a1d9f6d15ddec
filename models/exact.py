"""Grouped convolutions of float64 on a CPU, for references: PyTorch has no kernel for them and takes group by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class QuickDoubles(TorchFunctionMode):
    """Computes 2D grouped convolutions of float64 on a CPU tap by tap, all groups at once, while it is entered.

    PyTorch starts its threads anew for each group, of which a ResTv2 has thousands, and where others keep the cores
    busy it mostly waits for them. Gradients pass through.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = _by_taps(*args, **kwargs) if func is torch.conv2d else None
        return func(*args, **kwargs) if out is None else out


def _by_taps(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """Convolve as `torch.conv2d` does, (images, channels, height, width) to the same; None where that is to do it."""
    is_double = input.dtype == torch.float64 and input.device.type == "cpu"
    if not is_double or groups == 1 or input.ndim != 4 or isinstance(padding, str):
        return None
    (down, across), (top, left), (row_step, column_step) = map(_pair, (stride, padding, dilation))
    padded = F.pad(input, (left, left, top, top)).unflatten(1, (groups, -1))
    rows, columns = weight.shape[2:]
    height = (padded.shape[-2] - row_step * (rows - 1) - 1) // down + 1
    width = (padded.shape[-1] - column_step * (columns - 1) - 1) // across + 1
    filters = weight.unflatten(0, (groups, -1))  # groups, outputs and inputs of each, rows, columns
    out: Tensor | None = None
    for row in range(rows):
        for column in range(columns):
            first, last = row * row_step, row * row_step + (height - 1) * down + 1
            begin, end = column * column_step, column * column_step + (width - 1) * across + 1
            met = padded[..., first:last:down, begin:end:across]
            tap = _met(met, filters[..., row, column])
            out = tap if out is None else out + tap
    assert out is not None  # a filter has a tap
    whole = out.flatten(1, 2)
    return whole if bias is None else whole + bias[:, None, None]


def _met(met: Tensor, filters: Tensor) -> Tensor:
    """One tap of the filters with what it meets: (images, groups, inputs, height, width) to outputs in their place."""
    if met.shape[2] == 1:
        return met * filters[..., None]  # (groups, outputs, 1, 1)
    return torch.matmul(filters, met.flatten(3)).unflatten(3, met.shape[3:])


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    values = tuple(value)
    return (values[0], values[-1])
