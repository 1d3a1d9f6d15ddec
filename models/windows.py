"""EMSAv2 inside fixed windows: the styles of fine-tuning of section 5.1 (Table 3), in steps that can be timed apart.

    win   every block attends inside windows
    cwin  as win, and a depthwise 7×7 convolution after the last block of each stage joins the windows
    hwin  every block but the last of each stage

The map is padded with zeros, on the right and at the bottom, to a multiple of the window, and the whole of EMSAv2, with
its reduction, its up convolution and their own zero padding, runs inside each window as if that were an image. So
queries, keys and values that come from padding take part, as in the FLOPs of Table 3(b). The LayerNorm before it sees
no padding, nor does the MLP. A map that is smaller than a window is padded up to one. `fused` finds its windows by
index arithmetic, and copies nothing where keys are reduced.

# B batch, H W feature map, N = H·W tokens, P Q the sides once padded, C channels
# w side of a window, M = w² tokens of one, S = B·(P/w)·(Q/w) windows, L = S/B of an image
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kernels.emsa_upsample.partition import pad, partition, reverse
from kernels.window_reduce import op
from models.attention import Attention
from models.config import AttentionConfig, Size
from models.switches import STYLES


class WindowAttention(Attention):
    """`Attention` inside windows, with the same arguments and parameters, for any size of map.

    Args:
        window: side of the windows, in tokens.
    """

    def __init__(self, *args: Any, window: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.window = window

    def forward(self, x_BNC: Tensor, size: Size) -> Tensor:
        """Attended and projected tokens: (B, N, C) → (B, N, C)."""
        if self._fuses(x_BNC):
            k_SMC, v_SMC = self.kv(self._reduce_inside(x_BNC, size)).chunk(2, dim=-1)
            return self.proj(self._fused(self.q(x_BNC), k_SMC, v_SMC, size, window=self.window))
        x_SMC = partition(pad(x_BNC, size, self.window), self.window)
        return reverse(super().forward(x_SMC, (self.window, self.window)), size, self.window)

    def kernel(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Name of our kernel that is to run, as `Attention.kernel`, in windows."""
        name = super().kernel(device, dtype)
        return name and f"{name} in windows"

    def _reduce_inside(self, x_BNC: Tensor, size: Size) -> Tensor:
        """The reduced tokens x′ of all windows, by the kernel: (B, N, C) → (S, M, C)."""
        if self.reduction == 1:  # keys are the tokens and the padding themselves
            return partition(pad(x_BNC, size, self.window), self.window)
        weight, bias = self.sr.weight, self.sr.bias
        reduced = op.window_reduce(
            x_BNC, weight, bias, size=size, reduction=self.reduction, window=self.window
        )
        return self.sr_norm(reduced)

    def branches(self, x_BNC: Tensor, size: Size) -> tuple[Tensor | None, Tensor | None]:
        """The two terms of equation 2, as `Attention.branches`, for the whole map without padding."""
        # `forward` comes here with a window for a map, for which nothing below moves any data
        x_SMC = partition(pad(x_BNC, size, self.window), self.window)
        attended, up = super().branches(x_SMC, (self.window, self.window))
        return (
            attended if attended is None else reverse(attended, size, self.window),
            up if up is None else reverse(up, size, self.window),
        )


class AcrossWindows(nn.Module):
    """CWin's depthwise 7×7 convolution, added to its input.

    The paper says no more than "we add a 7×7 depth-wise convolution layer". Ours has a bias, and is a residual: weights
    were trained without it, and fine-tuning is to start from them. Neither changes a digit of what is counted.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.conv(x_BCHW)


def windows_of(style: str, window: int, depth: int) -> list[int | None]:
    """Side of the windows of each block of a stage; None where a block attends to the whole map."""
    windowed = STYLES[style].windowed_blocks(depth)
    return [window] * windowed + [None] * (depth - windowed)


# ---- a block's attention alone, for one size of map: where its time goes


class OfOneMap(nn.Module):
    """An attention, windowed or not, for maps of one size."""

    def __init__(self, attn: Attention, size: Size) -> None:
        super().__init__()
        self.attn, self.size = attn, size

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Attended and projected tokens: (B, N, C) → (B, N, C)."""
        return self.attn(x_BNC, self.size)


class Inside(nn.Module):
    """The attention inside windows that were partitioned before: what `WindowAttention` does between its copies."""

    def __init__(self, attn: Attention, window: int) -> None:
        super().__init__()
        self.attn, self.window = attn, window

    def forward(self, x_BLMC: Tensor) -> Tensor:
        """Attended and projected tokens of L windows an image: (B, L, w², C) → (B, L, w², C)."""
        y_SMC = self.attn(x_BLMC.flatten(0, 1), (self.window, self.window))
        return y_SMC.unflatten(0, x_BLMC.shape[:2])


class Copies(nn.Module):
    """The copies of `WindowAttention`, with nothing in between: the output is the input.

    Eager makes every copy. A compiler may see that all of them together change nothing, and make one.
    """

    def __init__(self, size: Size, window: int) -> None:
        super().__init__()
        self.size, self.window = size, window

    def forward(self, x_BNC: Tensor) -> Tensor:
        """The same tokens, padded, partitioned and put back: (B, N, C) → (B, N, C)."""
        x_SMC = partition(pad(x_BNC, self.size, self.window), self.window)
        return reverse(x_SMC, self.size, self.window)


def alone(
    config: AttentionConfig,
    size: Size,
    *,
    stage: str = "1",
    style: str = "global",
    part: str = "all",
    impl: str = "eager",
) -> nn.Module:
    """The attention of one block of a stage, or a part of it, for images of `size`; the options are the model's."""
    shape = config.shape(size, stage)
    if part == "copies":
        return Copies(shape.map_size, shape.window)
    if style == "win" and part == "all":
        inside = WindowAttention(shape.dim, shape.heads, shape.reduction, window=shape.window, impl=impl)
        return OfOneMap(inside, shape.map_size)
    attn = Attention(shape.dim, shape.heads, shape.reduction, impl=impl)
    return Inside(attn, shape.window) if part == "inside" else OfOneMap(attn, shape.map_size)
