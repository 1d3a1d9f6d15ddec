"""Mask R-CNN with a feature pyramid (arXiv 1703.06870, 1612.03144) around any backbone, of torchvision's modules.

How boxes are chosen is written here, and not taken from torchvision, for three reasons. Every image gets the same
number of proposals and of detections, so that backbones are compared on equal work, even with weights that detect
nothing.
Boxes are fp32 in half precision too: fp16 cannot tell the pixels of a large image apart. And shapes are known without
looking at values, so that a model can be counted without running it.

Images come resized and padded; masks leave as 28×28 each, not pasted into the image.

# B batch, C channels, H W feature map, P proposals, D detections, K classes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead, concat_box_prediction_layers
from torchvision.ops import (
    FeaturePyramidNetwork,
    MultiScaleRoIAlign,
    batched_nms,
    clip_boxes_to_image,
    remove_small_boxes,
)
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper

from models.backbone import Backbone
from models.config import DETECTOR, Detector, Size

Levels = Mapping[str, Tensor]  # of the pyramid, finest first: (B, 256, H, W) each
LEAST_SIDE = 1e-3  # pixels of a box: what is left of one outside the image is none


@dataclass(frozen=True)
class Detections:
    """The objects found, as many in every image: those that suppression leaves, by score, then the best of the rest."""

    boxes_BD4: Tensor  # x1, y1, x2, y2 in pixels
    scores_BD: Tensor
    labels_BD: Tensor  # classes, from 0
    masks_BDHW: Tensor  # probabilities, 28×28


class MaskRCNN(nn.Module):
    """Backbone, pyramid, proposals, then boxes and masks: the four submodules that a time is split into.

    Args:
        detections: number of them in every image.
    """

    SUBMODULES = ("backbone", "fpn", "rpn", "heads")

    def __init__(self, backbone: Backbone, *, detections: int, config: Detector = DETECTOR) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = FeaturePyramidNetwork(backbone.channels, config.pyramid, LastLevelMaxPool())
        self.rpn = Proposals(config)
        self.heads = Heads(config, detections)

    def forward(self, images_BCHW: Tensor) -> Detections:
        """Boxes, scores, labels and masks.

        Raises:
            ValueError: the image has fewer anchors than proposals are wanted.
        """
        size = _size(images_BCHW)
        levels = self.pyramid(images_BCHW)
        return self.heads(levels, self.rpn(levels, size), size)

    def pyramid(self, images_BCHW: Tensor) -> Levels:
        """The levels of the feature pyramid, by name from 0, and one coarser."""
        maps = self.backbone(images_BCHW)
        return self.fpn({str(level): x_BCHW for level, x_BCHW in enumerate(maps)})

    def dense(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Outputs to compare between dtypes and implementations, (B, …) by name: all up to where boxes are chosen.

        Which boxes are chosen may turn on the last bit, and with them all that follows. So the heads are given boxes
        here that are always the same.
        """
        size, levels = _size(images_BCHW), self.pyramid(images_BCHW)
        objectness, deltas = self.rpn.predict(levels)
        boxes_BP4 = _tiles(size, levels["0"]).expand(len(images_BCHW), -1, -1)
        singles = {name: _single(level) for name, level in levels.items()}
        scores, box_deltas = self.heads.predict_boxes(singles, boxes_BP4, size)
        masks = self.heads.predict_masks(singles, boxes_BP4, size)
        return {
            **{f"pyramid {name}": level for name, level in levels.items()},
            "objectness": objectness,
            "proposal deltas": deltas,
            **{
                name: output.unflatten(0, boxes_BP4.shape[:2])
                for name, output in (("scores", scores), ("box deltas", box_deltas), ("masks", masks))
            },
        }


class Proposals(nn.Module):
    """The region proposal network: torchvision's head and anchors, the same number of proposals for every image."""

    def __init__(self, config: Detector) -> None:
        super().__init__()
        self.config = config
        self.anchors = AnchorGenerator(
            tuple((side,) for side in config.anchor_sides), (config.anchor_ratios,) * len(config.anchor_sides)
        )
        self.head = RPNHead(config.pyramid, len(config.anchor_ratios))
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))

    def predict(self, levels: Levels) -> tuple[Tensor, Tensor]:
        """Objectness, (B, N), and deltas, (B, N, 4), of the N anchors of all levels."""
        objectness, deltas = concat_box_prediction_layers(*self.head(list(levels.values())))
        batch = len(levels["0"])
        return objectness.view(batch, -1), deltas.view(batch, -1, 4)

    def forward(self, levels: Levels, size: Size) -> Tensor:
        """Proposed boxes, (B, P, 4), in pixels."""
        objectness_BN, deltas_BN4 = map(_single, self.predict(levels))
        batch = len(objectness_BN)
        like = [_single(level[..., :1, :1]).expand(level.shape) for level in levels.values()]
        anchors = self.anchors(ImageList(like[0].new_empty(()).expand(batch, 3, *size), [size] * batch), like)
        boxes_BN4 = self.coder.decode(deltas_BN4.flatten(0, 1), anchors).view(batch, -1, 4)
        numbers = [len(self.config.anchor_ratios) * level.shape[2] * level.shape[3] for level in like]
        best, of_level = [], []
        start = 0
        for level, number in enumerate(numbers):
            top = objectness_BN[:, start : start + number].topk(min(number, self.config.proposals)).indices
            best.append(top + start)
            of_level.append(torch.full_like(top, level))
            start += number
        best_BN, level_BN = torch.cat(best, 1), torch.cat(of_level, 1)
        scores_BN = objectness_BN.gather(1, best_BN).sigmoid()
        boxes_BN4 = clip_boxes_to_image(boxes_BN4.take_along_dim(best_BN[..., None], 1), size)
        chosen_BP = _chosen(boxes_BN4, scores_BN, level_BN, self.config.rpn_nms, self.config.proposals)
        return boxes_BN4.take_along_dim(chosen_BP[..., None], 1)


class Heads(nn.Module):
    """The box head on every proposal, and the mask head on every detection."""

    def __init__(self, config: Detector, detections: int) -> None:
        super().__init__()
        self.config, self.detections = config, detections
        self.box_pool, self.mask_pool = map(_pool, (config.box_pool, config.mask_pool))
        self.box_head = TwoMLPHead(config.pyramid * config.box_pool**2, config.hidden)
        self.box_predictor = FastRCNNPredictor(config.hidden, config.classes + 1)
        self.box_predictor.bbox_pred = nn.Linear(config.hidden, 4 * config.classes)
        self.mask_head = MaskRCNNHeads(config.pyramid, (config.pyramid,) * 4, 1)
        self.mask_predictor = MaskRCNNPredictor(config.pyramid, config.pyramid, config.classes)
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))

    def predict_boxes(self, levels: Levels, boxes_BP4: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Logits of the background and the classes, (B·P, 1+K), and deltas, (B·P, 4K)."""
        pooled = _pooled(self.box_pool, levels, boxes_BP4, size)
        return self.box_predictor(self.box_head(pooled.to(self.box_head.fc6.weight.dtype)))

    def predict_masks(self, levels: Levels, boxes_BD4: Tensor, size: Size) -> Tensor:
        """Logits of every class, (B·D, K, 28, 28)."""
        pooled = _pooled(self.mask_pool, levels, boxes_BD4, size)
        return self.mask_predictor(self.mask_head(pooled.to(self.mask_predictor.conv5_mask.weight.dtype)))

    def forward(self, levels: Levels, proposals_BP4: Tensor, size: Size) -> Detections:
        """The best boxes that the box head makes of the proposals, (B, P, 4), with their masks."""
        batch, classes = len(proposals_BP4), self.config.classes
        # once for both pools, and none of the coarsest level, from which nothing is pooled
        levels = {name: _single(levels[name]) for name in self.box_pool.featmap_names}
        logits, deltas = map(_single, self.predict_boxes(levels, proposals_BP4, size))
        scores_BN = logits.softmax(-1)[:, 1:].reshape(batch, -1)
        best_BN = scores_BN.topk(self.config.candidates).indices
        boxes_BN4 = self.coder.decode(deltas, list(proposals_BP4)).view(batch, -1, 4)
        boxes_BN4 = boxes_BN4.take_along_dim(best_BN[..., None], 1)
        boxes_BN4, scores_BN = clip_boxes_to_image(boxes_BN4, size), scores_BN.gather(1, best_BN)
        class_BN = best_BN % classes
        chosen_BD = _chosen(boxes_BN4, scores_BN, class_BN, self.config.box_nms, self.detections)
        boxes_BD4 = boxes_BN4.take_along_dim(chosen_BD[..., None], 1)
        labels_BD = class_BN.gather(1, chosen_BD)
        masks = self.predict_masks(levels, boxes_BD4, size)
        own = masks.take_along_dim(labels_BD.flatten()[:, None, None, None], 1)
        return Detections(
            boxes_BD4,
            scores_BN.gather(1, chosen_BD),
            labels_BD,
            own.sigmoid().view(batch, -1, *masks.shape[2:]),
        )


def _chosen(boxes_BN4: Tensor, scores_BN: Tensor, groups_BN: Tensor, overlap: float, count: int) -> Tensor:
    """Indices of the `count` boxes to keep of each image, (B, count): what suppression within a group leaves, by
    score; where that is too little, the best of the others.

    Raises:
        ValueError: there are not so many boxes.
    """
    if boxes_BN4.shape[1] < count:
        raise ValueError(
            f"{boxes_BN4.shape[1]} boxes are there, and {count} are wanted: the image is too small"
        )
    if boxes_BN4.is_meta:  # how many suppression leaves depends on values
        return groups_BN[:, :count]
    chosen = []
    for boxes, scores, groups in zip(boxes_BN4, scores_BN, groups_BN, strict=True):
        real = remove_small_boxes(boxes, LEAST_SIDE)
        left = real[batched_nms(boxes[real], scores[real], groups[real], overlap)]
        if len(left) < count:
            others = scores.index_fill(0, left, -1).topk(count - len(left)).indices
            left = torch.cat([left, others])
        chosen.append(left[:count])
    return torch.stack(chosen)


def _pool(side: int) -> MultiScaleRoIAlign:
    """RoIAlign from the levels that are a 4th to a 32nd of the image; by itself it would guess from the first image."""
    pool = MultiScaleRoIAlign([str(level) for level in range(4)], side, sampling_ratio=2)
    pool.scales = [1 / 2**power for power in range(2, 6)]
    pool.map_levels = initLevelMapper(2, 5)
    return pool


def _pooled(pool: MultiScaleRoIAlign, levels: Levels, boxes_BP4: Tensor, size: Size) -> Tensor:
    """Features of each box from the level of its size, (B·P, C, side, side).

    The maps are fp32, because RoIAlign takes boxes of no other dtype than the map's, and boxes are fp32.
    """
    finest = levels["0"]
    if finest.is_meta:  # which level a box is of depends on values
        return finest.new_empty(boxes_BP4.shape[:2].numel(), finest.shape[1], *pool.output_size)
    return pool(levels, list(boxes_BP4), [size] * len(boxes_BP4))


def _single(x: Tensor) -> Tensor:
    """The tensor in at least fp32."""
    return x if x.dtype == torch.float64 else x.float()


def _size(images_BCHW: Tensor) -> Size:
    return images_BCHW.shape[2], images_BCHW.shape[3]


def _tiles(size: Size, like: Tensor) -> Tensor:
    """Boxes to compare outputs by, (1, P, 4): the image in 4×4 tiles, and as a whole."""
    height, width = size
    boxes = [
        (width * column / 4, height * row / 4, width * (column + 1) / 4, height * (row + 1) / 4)
        for row in range(4)
        for column in range(4)
    ]
    return _single(like.new_empty(0)).new_tensor([[*boxes, (0.0, 0.0, float(width), float(height))]])
