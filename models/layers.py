"""Parts that are not attention: embeddings and the feed-forward.

# B batch, C channels, H W feature map, N = H·W tokens
"""

from __future__ import annotations

from torch import Tensor, nn


def to_tokens(x_BCHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """(B, C, H, W) → (B, N, C) and the map's size."""
    height, width = x_BCHW.shape[2:]
    return x_BCHW.flatten(2).transpose(1, 2), (height, width)


def to_map(x_BNC: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, N, C) → (B, C, H, W), a view in channels-last order."""
    # not transpose, then unflatten: for one image that leaves a stride by which convolutions do not know the order
    return x_BNC.unflatten(1, size).permute(0, 3, 1, 2)


class PixelAttention(nn.Module):
    """PA: x · σ(DWConv3x3(x)), equation 5. Zero padding tells a pixel where it stands, at any size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pa_conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.pa_conv(x_BCHW).sigmoid()


class PatchEmbed(nn.Module):
    """A projection that shrinks the map, a positional embedding, then LayerNorm over channels."""

    def __init__(self, proj: nn.Module, channels: int) -> None:
        super().__init__()
        self.proj = proj
        self.pos = PixelAttention(channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The tokens of the smaller map, and its size: each side halved, rounded up (for the stem, twice)."""
        x_BNC, size = to_tokens(self.pos(self.proj(x_BCHW)))
        return self.norm(x_BNC), size


def stem(channels: int) -> PatchEmbed:
    """Table 9: Conv-3_C/2_2, Conv-3_C_2, Conv-1_C_1, PA; BatchNorm and ReLU between the convolutions."""
    proj = nn.Sequential(
        nn.Conv2d(3, channels // 2, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels // 2),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 1),
    )
    return PatchEmbed(proj, channels)


def patch_embed(channels: int) -> PatchEmbed:
    """Between stages, Table 9: Conv-3_2C_2, PA; `channels` come out of half as many."""
    return PatchEmbed(nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1), channels)


class MLP(nn.Module):
    """The feed-forward of a block: C → ratio·C, GELU, → C."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(ratio * channels, channels)

    def forward(self, x_BNC: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x_BNC)))
