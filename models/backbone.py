"""Any model as a backbone: the four maps that detectors and segmenters take, at 1/4, 1/8, 1/16 and 1/32 of an image."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from models.rest import ResT


class Backbone(nn.Module):
    """A model that gives four maps of (B, C, H, W), in the memory order of the images, so that heads run alike on any.

    Args:
        body: gives the maps of images of (B, 3, H, W), in this order or channels last.
        channels: of the four maps.
        channels_last: the body's maps are (B, H, W, C).
        normed: each map has a LayerNorm of its own over the channels.
    """

    def __init__(
        self, body: nn.Module, channels: list[int], *, channels_last: bool = False, normed: bool = False
    ) -> None:
        super().__init__()
        self.body, self.channels, self.channels_last = body, channels, channels_last
        self.norms = nn.ModuleList(map(nn.LayerNorm, channels)) if normed else None

    @staticmethod
    def of_rest(model: nn.Module) -> Backbone:
        """A ResT without its classifier. Its maps have no norm: the norms that Table 3(b) counts tell."""
        rest = cast(ResT, model)
        return Backbone(rest.as_backbone(), rest.channels)

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """The four maps, finest first."""
        maps = self.body(images_BCHW)
        if self.norms is not None:
            last = maps if self.channels_last else [x_BCHW.permute(0, 2, 3, 1) for x_BCHW in maps]
            maps = [norm(x_BHWC).permute(0, 3, 1, 2) for norm, x_BHWC in zip(self.norms, last, strict=True)]
        elif self.channels_last:
            maps = [x_BHWC.permute(0, 3, 1, 2) for x_BHWC in maps]
        order = torch.contiguous_format if images_BCHW.is_contiguous() else torch.channels_last
        return [x_BCHW.contiguous(memory_format=order) for x_BCHW in maps]
