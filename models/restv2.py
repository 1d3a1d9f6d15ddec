"""ResTv2 (section 3.3, Table 9): convolutional stem, pixel attention and LayerNorm at each embedding, EMSAv2."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from models.config import ResTv2Config
from models.layers import position, to_tokens
from models.rest import ResT, dims, map_sizes


class PatchEmbed(nn.Module):
    """A projection that shrinks the map, a positional embedding, then LayerNorm over channels."""

    def __init__(self, proj: nn.Module, pos: nn.Module, channels: int) -> None:
        super().__init__()
        self.proj = proj
        self.pos = pos
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The tokens of the smaller map, and its size: each side halved, rounded up (for the stem, twice)."""
        x_BNC, size = to_tokens(self.pos(self.proj(x_BCHW)))
        return self.norm(x_BNC), size


def stem(channels: int) -> nn.Module:
    """Table 9: Conv-3_C/2_2, Conv-3_C_2, Conv-1_C_1; BatchNorm and ReLU between the convolutions."""
    return nn.Sequential(
        nn.Conv2d(3, channels // 2, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels // 2),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 1),
    )


class ResTv2(ResT):
    """ResTv2, with the options of `models.config.RESTV2_OPTIONS` for the paper's ablations.

    Args:
        size: of the images that APE and RPE are learnt for; without them it takes any.
        impl: a key of `models.attention.ATTEND`.

    Raises:
        ValueError: options that make no sense together, or that `impl` cannot run.
    """

    def __init__(
        self,
        config: ResTv2Config,
        *,
        size: tuple[int, int] = (224, 224),
        impl: str = "eager",
        num_classes: int = 1000,
        **options: Any,
    ) -> None:
        config.check(impl, **options)
        parts = config.assemble(**options)
        projections = {"stem": stem(config.width)}
        for stage, channels in enumerate(dims(config)[1:], start=2):
            projections[f"patch_{stage}"] = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        embeddings = {
            name: PatchEmbed(projection, position(parts.pe, channels, map_size), channels)
            for (name, projection), channels, map_size in zip(
                projections.items(), dims(config), map_sizes(size), strict=True
            )
        }
        super().__init__(config, parts, embeddings, size, impl, num_classes)
