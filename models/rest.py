"""What ResTv1 and ResTv2 share: four stages of attention and MLP blocks on ever smaller maps.

Parameter names are the authors', so that their released weights load as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from models.attention import Attention
from models.config import EMSAV2, Parts, ResTv2Config
from models.layers import MLP, DropPath, ceil_div, check_size, drop_path_rates, initialise, to_map
from models.windows import AcrossWindows, WindowAttention, windows_of


class Block(nn.Module):
    """x + Attention(norm(x)), then x + MLP(norm(x)). Tokens in, tokens out: (B, N, C).

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
        parts: Parts = EMSAV2,
        size: tuple[int, int] = (0, 0),
        window: int | None = None,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
        impl: str = "eager",
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        how: dict[str, Any] = {"parts": parts, "size": size, "norm_eps": norm_eps, "impl": impl}
        if window is None:
            self.attn = Attention(dim, heads, reduction, **how)
        else:
            self.attn = WindowAttention(dim, heads, reduction, window=window, **how)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = MLP(dim, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        x_BNC = x_BNC + self.drop_path(self.attn(self.norm1(x_BNC), size))
        return x_BNC + self.drop_path(self.mlp(self.norm2(x_BNC)))


class ResT(nn.Module):
    """The classifier, or a backbone. Any image of at least 32×32 goes in; with APE or RPE, only one of `size`.

    Where a side is no multiple of 32 every map has its true size: strided convolutions round up, and so does
    the key grid. The authors' code rounds down and fails there; at multiples of 32 the two are identical.

    Args:
        embeddings: the four modules that come before the stages, by the names that the authors gave them. Each makes
            tokens, and the size of their map, of an image or of the map before.
    """

    def __init__(
        self,
        config: ResTv2Config,
        parts: Parts,
        embeddings: Mapping[str, nn.Module],
        size: tuple[int, int],
        impl: str,
        num_classes: int,
    ) -> None:
        super().__init__()
        self._embeddings = tuple(embeddings)
        for name, module in embeddings.items():
            self.add_module(name, module)
        depths = parts.depths or config.depths
        rates = drop_path_rates(config.drop_path, depths)
        for stage, (dim, (height, width)) in enumerate(zip(dims(config), map_sizes(size), strict=True)):
            blocks = [
                Block(
                    dim,
                    config.heads[stage],
                    config.reductions[stage],
                    config.mlp_ratio,
                    parts=parts,
                    size=(height, width),
                    window=window,
                    drop_path=rate,
                    norm_eps=config.norm_eps,
                    impl=impl,
                )
                for rate, window in zip(
                    rates[stage], windows_of(parts.style, config.windows[stage], depths[stage]), strict=True
                )
            ]
            self.add_module(f"stage{stage + 1}", nn.ModuleList(blocks))
        if parts.style == "cwin":
            self.across = nn.ModuleList(map(AcrossWindows, dims(config)))
        self.norm = nn.LayerNorm(dims(config)[-1], eps=config.norm_eps)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(dims(config)[-1], num_classes)
        self.classifies = True
        self.channels, self.style, self.min_size = dims(config), parts.style, config.min_size
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
            if self.style == "cwin":
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


def dims(config: ResTv2Config) -> list[int]:
    """Channels of the four stages."""
    return [config.width * 2**stage for stage in range(4)]


def map_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Of the four stages, for an image of `size`."""
    return [ceil_div(size, 4 * 2**stage) for stage in range(4)]
