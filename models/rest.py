"""ResTv1 (arXiv 2105.13677) and ResTv2 (section 3.3, Table 9): four stages of attention and MLP on ever smaller maps.

The two differ in what their embeddings are made of. ResTv1 has BatchNorm there, and EMSA with its multi-head
interaction module in the blocks; ResTv2 has LayerNorm, and EMSAv2. Parameter names are the authors', so that their
released weights load as they are.

# B batch, C channels, H W feature map, N = H·W tokens
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from models.attention import Attention
from models.config import ResTv2Config, Size, doubled, map_sizes, stage_shapes
from models.layers import MLP, DropPath, check_size, drop_path_rates, initialise, position, to_map, to_tokens
from models.switches import EMSAV2, STYLES, Switches
from models.windows import AcrossWindows, WindowAttention, windows_of

# ---- embeddings: each makes tokens, and the size of their map, of an image or of the map before


class ConvStem(nn.Module):
    """ResTv1's stem in the released weights: three 3×3 convolutions, the first and the last of stride 2."""

    def __init__(self, channels: int, pos: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels // 2, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels // 2)
        self.conv2 = nn.Conv2d(channels // 2, channels // 2, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels // 2)
        self.conv3 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.pos = pos

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Size]:
        """Tokens of a map a 4th the size of the image, rounded up."""
        x_BCHW = self.act(self.norm1(self.conv1(x_BCHW)))
        x_BCHW = self.act(self.norm2(self.conv2(x_BCHW)))
        return to_tokens(self.pos(self.conv3(x_BCHW)))


class PoolStem(nn.Module):
    """ResTv1's stem in the printed MACs: a 7×7 convolution and max pooling, as a ResNet's."""

    def __init__(self, channels: int, pos: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.pos = pos

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Size]:
        """Tokens of a map a 4th the size of the image, rounded up."""
        return to_tokens(self.pos(self.pool(self.act(self.norm(self.conv(x_BCHW))))))


STEMS: dict[str, type[ConvStem] | type[PoolStem]] = {"three_conv": ConvStem, "pool": PoolStem}


class BatchNormEmbedding(nn.Module):
    """ResTv1's embedding before stages 2 to 4: a 3×3 convolution of stride 2, BatchNorm, a positional embedding."""

    def __init__(self, channels: int, pos: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.pos = pos

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Size]:
        """Tokens of a map half the size, rounded up."""
        return to_tokens(self.pos(self.norm(self.conv(x_BCHW))))


class LayerNormEmbedding(nn.Module):
    """ResTv2's embedding before every stage: a projection, a positional embedding, then LayerNorm over channels."""

    def __init__(self, proj: nn.Module, pos: nn.Module, channels: int) -> None:
        super().__init__()
        self.proj = proj
        self.pos = pos
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Size]:
        """Tokens of a map half the size, rounded up; after the stem, a 4th."""
        x_BNC, size = to_tokens(self.pos(self.proj(x_BCHW)))
        return self.norm(x_BNC), size


def stem(channels: int) -> nn.Module:
    """ResTv2's projection of the image, Table 9: Conv-3_C/2_2, Conv-3_C_2, Conv-1_C_1, BatchNorm and ReLU between."""
    return nn.Sequential(
        nn.Conv2d(3, channels // 2, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels // 2),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 1),
    )


# ---- stages


class Block(nn.Module):
    """One block: x + Attention(norm(x)), then x + MLP(norm(x)). Tokens in, tokens out: (B, N, C).

    Args:
        window: side of the windows that it attends inside; None is the whole map.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        reduction: int,
        mlp_ratio: int,
        *,
        switches: Switches = EMSAV2,
        size: Size = (0, 0),
        window: int | None = None,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
        impl: str = "eager",
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        common: dict[str, Any] = {"switches": switches, "size": size, "norm_eps": norm_eps, "impl": impl}
        if window is None:
            self.attn = Attention(dim, heads, reduction, **common)
        else:
            self.attn = WindowAttention(dim, heads, reduction, window=window, **common)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = MLP(dim, mlp_ratio, may_fuse=impl in ("fused", "auto") and self.attn.may_fuse)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BNC: Tensor, size: Size) -> Tensor:
        x_BNC = x_BNC + self.drop_path(self.attn(self.norm1(x_BNC), size))
        return x_BNC + self.drop_path(self.mlp(self.norm2(x_BNC)))


class ResT(nn.Module):
    """The classifier, or a backbone. It takes any image of at least 32×32; with APE or RPE, only one of `size`.

    Where a side is no multiple of 32 every map has its true size: strided convolutions round up, and so does
    the key grid. The authors' code rounds down and fails there; at multiples of 32 the two are identical.

    Args:
        switches: the configuration's own, as options have changed them.
        embeddings: the four modules before the stages, by the names that the authors gave them.
    """

    def __init__(
        self,
        config: ResTv2Config,
        switches: Switches,
        embeddings: Mapping[str, nn.Module],
        size: Size,
        impl: str,
        num_classes: int,
    ) -> None:
        super().__init__()
        self._embeddings = tuple(embeddings)
        for name, module in embeddings.items():
            self.add_module(name, module)
        depths = switches.depths or config.depths
        shapes, rates = stage_shapes(config, size), drop_path_rates(config.drop_path, depths)
        for stage, (shape, depth) in enumerate(zip(shapes, depths, strict=True)):
            blocks = [
                Block(
                    shape.dim,
                    shape.heads,
                    shape.reduction,
                    config.mlp_ratio,
                    switches=switches,
                    size=shape.map_size,
                    window=window,
                    drop_path=rate,
                    norm_eps=config.norm_eps,
                    impl=impl,
                )
                for rate, window in zip(
                    rates[stage], windows_of(switches.style, shape.window, depth), strict=True
                )
            ]
            self.add_module(f"stage{stage + 1}", nn.ModuleList(blocks))
        self.channels = doubled(config.width)
        self.joined = STYLES[switches.style].joined
        if self.joined:
            self.across = nn.ModuleList(map(AcrossWindows, self.channels))
        self.norm = nn.LayerNorm(self.channels[-1], eps=config.norm_eps)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(self.channels[-1], num_classes)
        self.classifies, self.min_size = True, config.min_size
        self.apply(initialise)

    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        """The four stages' maps, (B, C, H, W) each, at 1/4, 1/8, 1/16 and 1/32 of the image.

        Raises:
            ValueError: the image is smaller than 32×32, or not of the size that positions were learnt for.
        """
        check_size(x_BCHW, self.min_size)
        maps = []
        for stage, name in enumerate(self._embeddings, start=1):
            x_BNC, size = getattr(self, name)(x_BCHW)
            for block in getattr(self, f"stage{stage}"):
                x_BNC = block(x_BNC, size)
            # not `to_map`: an embedding that is given one image channels last converts all its weights each time
            x_BCHW = x_BNC.transpose(1, 2).unflatten(2, size)
            if self.joined:
                x_BCHW = self.across[stage - 1](x_BCHW)
            maps.append(x_BCHW)
        return maps

    def as_backbone(self) -> ResT:
        """The same model without its classifier: it gives `features` from now on."""
        del self.norm, self.avg_pool, self.head
        self.classifies = False
        return self

    def forward(self, x_BCHW: Tensor) -> Tensor | list[Tensor]:
        """Logits, (B, num_classes); of a backbone, the four maps."""
        maps = self.features(x_BCHW)
        if not self.classifies:
            return maps
        last_BCHW = maps[-1]
        normed_BNC = self.norm(last_BCHW.flatten(2).transpose(1, 2))
        return self.head(self.avg_pool(to_map(normed_BNC, last_BCHW.shape[2:])).flatten(1))


# ---- the two families


class ResTv1(ResT):
    """A ResTv1. `build` has checked that its switches fit together and that `impl` can run them.

    Args:
        size: images that APE and RPE are learnt for; without them it takes any.
        impl: a key of `models.attention.ATTEND`.
    """

    def __init__(
        self,
        config: ResTv2Config,
        switches: Switches,
        *,
        size: Size = (224, 224),
        impl: str = "eager",
        num_classes: int = 1000,
    ) -> None:
        first, *later = [
            (channels, position(switches.pe, channels, map_size))
            for channels, map_size in zip(doubled(config.width), map_sizes(size), strict=True)
        ]
        embeddings: dict[str, nn.Module] = {"stem": STEMS[switches.stem](*first)}
        for stage, (channels, pos) in enumerate(later, start=2):
            embeddings[f"patch_embed_{stage}"] = BatchNormEmbedding(channels, pos)
        super().__init__(config, switches, embeddings, size, impl, num_classes)


class ResTv2(ResT):
    """A ResTv2. `build` has checked that its switches fit together and that `impl` can run them.

    Args:
        size: images that APE and RPE are learnt for; without them it takes any.
        impl: a key of `models.attention.ATTEND`.
    """

    def __init__(
        self,
        config: ResTv2Config,
        switches: Switches,
        *,
        size: Size = (224, 224),
        impl: str = "eager",
        num_classes: int = 1000,
    ) -> None:
        dims = doubled(config.width)
        projections = {"stem": stem(config.width)}
        for stage, channels in enumerate(dims[1:], start=2):
            projections[f"patch_{stage}"] = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        embeddings = {
            name: LayerNormEmbedding(projection, position(switches.pe, channels, map_size), channels)
            for (name, projection), channels, map_size in zip(
                projections.items(), dims, map_sizes(size), strict=True
            )
        }
        super().__init__(config, switches, embeddings, size, impl, num_classes)
