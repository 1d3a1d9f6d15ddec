"""The layers around attention: positional embeddings, the feed-forward, stochastic depth, initial weights.

# B batch, C channels, H W feature map, N = H·W tokens
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.mlp import op


def to_tokens(x_BCHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """A map's tokens and its size: (B, C, H, W) → (B, N, C), (H, W)."""
    height, width = x_BCHW.shape[2:]
    return x_BCHW.flatten(2).transpose(1, 2), (height, width)


def to_map(x_BNC: Tensor, size: tuple[int, int]) -> Tensor:
    """A map of tokens: (B, N, C) → (B, C, H, W), a view in channels-last order."""
    # not transpose, then unflatten: for one image that leaves a stride by which convolutions do not know the order
    return x_BNC.unflatten(1, size).permute(0, 3, 1, 2)


def pad_to_multiple(x_BCHW: Tensor, of: int) -> Tensor:
    """A map padded with zeros, on the right and at the bottom, to a multiple of `of`; itself where it is one."""
    height, width = x_BCHW.shape[2:]
    return F.pad(x_BCHW, (0, -width % of, 0, -height % of)) if height % of or width % of else x_BCHW


def check_size(x_BCHW: Tensor, least: int) -> None:
    """Refuse an image that leaves nothing for the last stage.

    Raises:
        ValueError: a side is below `least`.
    """
    height, width = x_BCHW.shape[-2:]
    if min(height, width) < least:
        raise ValueError(f"a {height}x{width} image is smaller than {least}x{least}")


# ---- positional embeddings, appendix E


class PixelAttention(nn.Module):
    """PA: x · σ(DWConv3x3(x)), equation 5. Zero padding tells a pixel where it stands, at any size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pa_conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.pa_conv(x_BCHW).sigmoid()


class PositionalEncodingGenerator(nn.Module):
    """PEG: x + DWConv3x3(x), equation 6. Like PA, for any size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.conv(x_BCHW)


class AbsolutePosition(nn.Module):
    """APE: x + θ, equation 3. It is learnt for one size of map."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.empty(channels, *size))
        nn.init.trunc_normal_(self.theta, std=0.02)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The map with its positions.

        Raises:
            ValueError: the map is not of the size that positions were made for.
        """
        if x_BCHW.shape[1:] != self.theta.shape:
            made, got = (f"{shape[-2]}x{shape[-1]}" for shape in (self.theta.shape, x_BCHW.shape))
            raise ValueError(f"absolute positions were made for a {made} map, and this one is {got}")
        return x_BCHW + self.theta


def position(kind: str | None, channels: int, size: tuple[int, int]) -> nn.Module:
    """The positional embedding of a map of `size`; the identity for RPE, which is added to keys, and for none."""
    if kind == "ape":
        return AbsolutePosition(channels, size)
    return {"pa": PixelAttention, "peg": PositionalEncodingGenerator}.get(kind or "", nn.Identity)(channels)


# ---- the rest of a block


class MLP(nn.Module):
    """Feed-forward of a block: C → ratio·C, GELU, → C.

    Args:
        may_fuse: take the fused kernel wherever it runs: not in fp32, nor for more than 256 channels.
    """

    def __init__(self, channels: int, ratio: int, *, may_fuse: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(ratio * channels, channels)
        self.may_fuse = may_fuse

    def kernel(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Name of our kernel that runs for tokens of a dtype, autocast's under autocast; None where none does."""
        fc1 = self.fc1
        fuses = self.may_fuse and op.why_not(device, dtype, fc1.in_features, fc1.out_features) is None
        return "mlp" if fuses else None

    def forward(self, x_BNC: Tensor) -> Tensor:
        fc1, fc2 = self.fc1, self.fc2
        if self.may_fuse and self.kernel(x_BNC.device, product_dtype(x_BNC)):
            return op.mlp(x_BNC, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
        return fc2(self.act(fc1(x_BNC)))


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a product with `x` is computed: autocast's where that is on, else its own."""
    kind = x.device.type
    is_cast = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if is_cast else x.dtype


class DropPath(nn.Module):
    """Stochastic depth: in training, an image's branch is left out at `rate`, and the others are scaled up for it.

    timm has one too, which costs every start of a worker four seconds of imports.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_BNC: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x_BNC
        kept_B11 = x_BNC.new_empty(x_BNC.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return x_BNC * (kept_B11 / (1 - self.rate))


def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates of stochastic depth by stage and block, rising evenly from 0 in the first block to `last` in the last."""
    rates = iter(torch.linspace(0, last, sum(depths), device="cpu").tolist())
    return [[next(rates) for _ in range(depth)] for depth in depths]


def initialise(module: nn.Module) -> None:
    """Initial weights as the authors have them: truncated normal of 0.02, biases zero."""
    # a meta tensor has no values, and to go through the motions takes longer than to count the model
    if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.is_meta:
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
