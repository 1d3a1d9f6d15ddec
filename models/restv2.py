"""ResTv2: four stages of EMSAv2 and MLP blocks on ever smaller maps (section 3.3, Table 9).

Parameter names are the authors', so that their released weights load as they are.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.attention import EMSAv2
from models.config import ResTv2Config
from models.layers import MLP, patch_embed, stem, to_map


class Block(nn.Module):
    """x + EMSAv2(norm(x)), then x + MLP(norm(x)). Tokens in, tokens out: (B, N, C)."""

    def __init__(
        self, dim: int, heads: int, reduction: int, mlp_ratio: int, *, mhim: bool, impl: str
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = EMSAv2(dim, heads, reduction, mhim=mhim, impl=impl)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, mlp_ratio)

    def forward(self, x_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        x_BNC = x_BNC + self.attn(self.norm1(x_BNC), size)
        return x_BNC + self.mlp(self.norm2(x_BNC))


class ResTv2(nn.Module):
    """The classifier. Any image of at least 32×32 goes in.

    Where a side is no multiple of 32 every map has its true size: strided convolutions round up, and so does
    the key grid. The authors' code rounds down and fails there; at multiples of 32 the two are identical.
    """

    def __init__(
        self, config: ResTv2Config, *, mhim: bool = False, impl: str = "eager", num_classes: int = 1000
    ) -> None:
        super().__init__()
        dims = [config.width * 2**stage for stage in range(4)]
        self.stem = stem(dims[0])
        self.patch_2, self.patch_3, self.patch_4 = map(patch_embed, dims[1:])
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            nn.ModuleList(
                Block(dim, heads, reduction, config.mlp_ratio, mhim=mhim, impl=impl) for _ in range(depth)
            )
            for dim, depth, heads, reduction in zip(
                dims, config.depths, config.heads, config.reductions, strict=True
            )
        )
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(dims[-1], num_classes)
        self.min_size = config.min_size
        self.apply(_initialise)

    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        """The four stages' maps, (B, C, H, W) each, at 1/4, 1/8, 1/16 and 1/32 of the image.

        Raises:
            ValueError: the image is smaller than 32×32.
        """
        if min(x_BCHW.shape[-2:]) < self.min_size:
            height, width = x_BCHW.shape[-2:]
            raise ValueError(f"a {height}x{width} image is smaller than {self.min_size}x{self.min_size}")
        maps = []
        for embed, blocks in (
            (self.stem, self.stage1),
            (self.patch_2, self.stage2),
            (self.patch_3, self.stage3),
            (self.patch_4, self.stage4),
        ):
            x_BNC, size = embed(x_BCHW)
            for block in blocks:
                x_BNC = block(x_BNC, size)
            # not `to_map`: an embedding that is given one image channels last converts all its weights each time
            x_BCHW = x_BNC.transpose(1, 2).unflatten(2, size)
            maps.append(x_BCHW)
        return maps

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits, (B, num_classes)."""
        last_BCHW = self.features(x_BCHW)[-1]
        normed_BNC = self.norm(last_BCHW.flatten(2).transpose(1, 2))
        return self.head(self.avg_pool(to_map(normed_BNC, last_BCHW.shape[2:])).flatten(1))


def _initialise(module: nn.Module) -> None:
    """Truncated normal of 0.02 for weights, zero for biases, as the authors start their training."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
