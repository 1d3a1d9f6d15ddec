"""Pyramid Vision Transformer (arXiv 2102.12122): patch embeddings, absolute positions, SRA, a class token at the end.

# B batch, C channels, H W feature map, N = H·W tokens, T = 1 class token, before the map's
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.config import PVTConfig, Size, map_sizes
from models.layers import check_size, drop_path_rates, initialise, pad_to_multiple, to_tokens
from models.rest import Block
from models.switches import Switches


class PatchEmbed(nn.Module):
    """A convolution over patches that do not overlap, LayerNorm, a class token in the last stage, positions."""

    def __init__(self, channels_in: int, channels: int, patch: int, size: Size, class_token: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels_in, channels, patch, stride=patch)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.cls = nn.Parameter(torch.empty(1, 1, channels)) if class_token else None
        self.pos = nn.Parameter(torch.empty(1, size[0] * size[1] + class_token, channels))
        for tokens in (self.cls, self.pos):
            if tokens is not None:
                nn.init.trunc_normal_(tokens, std=0.02)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Size]:
        """Tokens, (B, T+N, C), and the map's size: each side divided by the patch, rounded up.

        Raises:
            ValueError: the map is not of the size that positions were made for.
        """
        x_BNC, size = to_tokens(self.proj(pad_to_multiple(x_BCHW, self.proj.stride[0])))
        x_BNC = self.norm(x_BNC)
        if self.cls is not None:
            x_BNC = torch.cat([self.cls.expand(len(x_BNC), -1, -1), x_BNC], 1)
        if x_BNC.shape[1] != self.pos.shape[1]:
            raise ValueError(
                f"positions were made for {self.pos.shape[1]} tokens, and this map has {x_BNC.shape[1]}"
            )
        return x_BNC + self.pos, size


class PyramidVisionTransformer(nn.Module):
    """The classifier, for images of one `size`, which its positions are learnt for.

    Where a side does not divide by 32, maps are padded with zeros on the right and at the bottom. `build` has checked
    that the switches, Table 6's, fit together and that `impl` can run them.
    """

    def __init__(
        self,
        config: PVTConfig,
        switches: Switches,
        *,
        size: Size = (224, 224),
        impl: str = "eager",
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        channels_in = 3
        rates = drop_path_rates(config.drop_path, config.depths)
        for stage, (channels, map_size) in enumerate(zip(config.dims, map_sizes(size), strict=True)):
            embed = PatchEmbed(channels_in, channels, 2 if stage else 4, map_size, class_token=stage == 3)
            self.add_module(f"patch_embed{stage + 1}", embed)
            blocks = [
                Block(
                    channels,
                    config.heads[stage],
                    config.reductions[stage],
                    config.mlp_ratios[stage],
                    switches=switches,
                    drop_path=rate,
                    impl=impl,
                )
                for rate in rates[stage]
            ]
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))
            channels_in = channels
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Linear(channels, num_classes)
        self.min_size = config.min_size
        self.apply(initialise)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits of the class token, (B, num_classes).

        Raises:
            ValueError: an image smaller than 32×32, or of another size than positions were made for.
        """
        check_size(x_BCHW, self.min_size)
        for stage in range(1, 5):
            embed, blocks = getattr(self, f"patch_embed{stage}"), getattr(self, f"block{stage}")
            x_BNC, size = embed(x_BCHW)
            for block in blocks:
                x_BNC = block(x_BNC, size)
            if stage < 4:
                x_BCHW = x_BNC.transpose(1, 2).unflatten(2, size)
        return self.head(self.norm(x_BNC)[:, 0])
