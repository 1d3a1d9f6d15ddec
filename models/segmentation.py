"""UperNet (arXiv 1807.10221) around any backbone, with the sizes and the auxiliary head that Swin's authors use.

Written here, because no library fits: segmentation-models-pytorch adds a norm per level and has no auxiliary head,
mmsegmentation needs a compiled extension for the GPU at hand, and transformers one for each backbone.

# B batch, C channels, H W feature map, K classes
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import Backbone
from models.config import SEGMENTER, Segmenter, Size


def conv_norm_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """A convolution that keeps the map's size, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class PyramidPooling(nn.Module):
    """The map beside its averages over grids of 1, 2, 3 and 6 cells a side, put together by a convolution."""

    def __init__(self, inputs: int, outputs: int, grids: tuple[int, ...]) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(grid), conv_norm_relu(inputs, outputs, 1)) for grid in grids
        )
        self.bottleneck = conv_norm_relu(inputs + len(grids) * outputs, outputs, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        pooled = [_resized(pool(x_BCHW), x_BCHW.shape[2:]) for pool in self.pools]
        return self.bottleneck(torch.cat([x_BCHW, *pooled], 1))


class UperHead(nn.Module):
    """Pyramid pooling on the coarsest map, a top-down pyramid, and all four levels fused at the finest."""

    def __init__(self, channels: list[int], config: Segmenter) -> None:
        super().__init__()
        width = config.width
        self.pyramid_pooling = PyramidPooling(channels[-1], width, config.grids)
        self.laterals = nn.ModuleList(conv_norm_relu(inputs, width, 1) for inputs in channels[:-1])
        self.outputs = nn.ModuleList(conv_norm_relu(width, width, 3) for _ in channels[:-1])
        self.fuse = conv_norm_relu(len(channels) * width, width, 3)
        self.classify = nn.Conv2d(width, config.classes, 1)

    def forward(self, maps: list[Tensor], size: Size) -> Tensor:
        """Logits of every pixel of an image of `size`, (B, K, *size), from its four maps, (B, C, H, W) each."""
        coarsest = self.pyramid_pooling(maps[-1])
        levels = [lateral(x_BCHW) for lateral, x_BCHW in zip(self.laterals, maps[:-1], strict=True)] + [
            coarsest
        ]
        for finer in reversed(range(len(levels) - 1)):
            levels[finer] = levels[finer] + _resized(levels[finer + 1], levels[finer].shape[2:])
        smooth = [output(level) for output, level in zip(self.outputs, levels[:-1], strict=True)] + [coarsest]
        fused = self.fuse(torch.cat([_resized(level, levels[0].shape[2:]) for level in smooth], 1))
        return _resized(self.classify(fused), size)


class UperNet(nn.Module):
    """Backbone and decoder. The auxiliary head, which only training uses, is among the parameters and does not run."""

    SUBMODULES = ("backbone", "decoder")

    def __init__(self, backbone: Backbone, config: Segmenter = SEGMENTER) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = UperHead(backbone.channels, config)
        self.auxiliary = nn.Sequential(
            conv_norm_relu(backbone.channels[2], config.auxiliary, 3),
            nn.Conv2d(config.auxiliary, config.classes, 1),
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of every pixel, (B, K, H, W)."""
        return self.decoder(self.backbone(images_BCHW), (images_BCHW.shape[2], images_BCHW.shape[3]))


def _resized(x_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x_BCHW, size=tuple(size), mode="bilinear")
