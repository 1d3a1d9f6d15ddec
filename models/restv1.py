"""ResTv1 (arXiv 2105.13677): BatchNorm at each embedding, EMSA with its multi-head interaction module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from models.config import ResTv1Config
from models.layers import position, to_tokens
from models.rest import ResT, dims, map_sizes


class ConvStem(nn.Module):
    """Three 3×3 convolutions, the first and the last of stride 2: the stem of the released weights."""

    def __init__(self, channels: int, pos: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels // 2, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels // 2)
        self.conv2 = nn.Conv2d(channels // 2, channels // 2, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels // 2)
        self.conv3 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.pos = pos

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x_BCHW = self.act(self.norm1(self.conv1(x_BCHW)))
        x_BCHW = self.act(self.norm2(self.conv2(x_BCHW)))
        return to_tokens(self.pos(self.conv3(x_BCHW)))


class PoolStem(nn.Module):
    """A 7×7 convolution and max pooling, as a ResNet's: the stem that the printed MACs come from."""

    def __init__(self, channels: int, pos: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.pos = pos

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return to_tokens(self.pos(self.pool(self.act(self.norm(self.conv(x_BCHW))))))


class PatchEmbed(nn.Module):
    """A 3×3 convolution of stride 2, BatchNorm, a positional embedding."""

    def __init__(self, channels: int, pos: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.pos = pos

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return to_tokens(self.pos(self.norm(self.conv(x_BCHW))))


STEMS: dict[str, type[ConvStem] | type[PoolStem]] = {"three_conv": ConvStem, "pool": PoolStem}


class ResTv1(ResT):
    """ResTv1, with the options of `models.config.RESTV1_OPTIONS`; arguments and errors as ResTv2's."""

    def __init__(
        self,
        config: ResTv1Config,
        *,
        size: tuple[int, int] = (224, 224),
        impl: str = "eager",
        num_classes: int = 1000,
        **options: Any,
    ) -> None:
        config.check(impl, **options)
        parts = config.assemble(**options)
        first, *later = [
            (channels, position(parts.pe, channels, map_size))
            for channels, map_size in zip(dims(config), map_sizes(size), strict=True)
        ]
        embeddings: dict[str, nn.Module] = {"stem": STEMS[parts.stem](*first)}
        embeddings |= {f"patch_embed_{stage}": PatchEmbed(*each) for stage, each in enumerate(later, start=2)}
        super().__init__(config, parts, embeddings, size, impl, num_classes)
