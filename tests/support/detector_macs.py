"""MACs of a windowed ResTv2 in Mask R-CNN, in closed form, for an image or a mix of them.

Section 5.1 and Table 3. A windowed block pads its map to whole windows after `norm1`, and all of EMSAv2 runs in the
padded windows. What comes out is put together and cut to the map; `norm2` and the MLP see no padding.

An oracle: counts of the models as they run are compared with it. Operators and convention are `fvcore`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod

from kernels.emsa_upsample.cost import ceil_div
from models.config import DETECTOR, Detector, ResTv2Config, Size, map_sizes, stage_shapes
from models.cost import attention_macs, checked, conv_macs, detection_macs, padded_windows


def counts(config: ResTv2Config, size: Size, style: str, detections: int = 0) -> Counter[str]:
    """MACs by operator of one image of `size`, resized and padded.

    Raises:
        ValueError: the formulas do not hold, as `models.cost.checked` says.
    """
    macs = backbone(config, size, style) + _pyramid_and_heads(config, size)
    macs["conv"] += detections * detection_macs()
    return macs


def average(
    config: ResTv2Config, style: str, sizes: Mapping[Size, int], detections: float = 0
) -> dict[str, float]:
    """The mean of `counts` over a mix of `sizes`, each with its number of images; `detections` is the images' mean.

    Raises:
        ValueError: the formulas do not hold, as `models.cost.checked` says.
    """
    images, total = sum(sizes.values()), Counter[str]()
    for size, number in sizes.items():
        total += _times(number, counts(config, size, style))
    mean = {operator: macs / images for operator, macs in total.items()}
    return mean | {"conv": mean["conv"] + detections * detection_macs()}


def backbone(config: ResTv2Config, size: Size, style: str) -> Counter[str]:
    """MACs by operator of the four maps of a ResTv2, from one image of `size`.

    Raises:
        ValueError: the formulas do not hold, as `models.cost.checked` says.
    """
    windows = checked(config, size, style)
    half, quarter, width = ceil_div(size, 2), ceil_div(size, 4), config.width
    total = Counter(
        conv=conv_macs(half, 3, width // 2, 3)
        + conv_macs(quarter, width // 2, width, 3)
        + conv_macs(quarter, width, width, 1),
        norm=2 * prod(half) * width // 2 + 2 * prod(quarter) * width,  # BatchNorm
    )
    for stage, (shape, depth) in enumerate(zip(stage_shapes(config, size), config.depths, strict=True)):
        channels, map_size = shape.dim, shape.map_size
        tokens, windowed = prod(map_size), windows.windowed_blocks(depth)
        embedding = conv_macs(map_size, channels // 2, channels, 3) if stage else 0
        total += Counter(
            conv=embedding
            + conv_macs(map_size, 1, channels, 3)
            + windows.joined * conv_macs(map_size, 1, channels, 7),
            linear=depth * 2 * tokens * config.mlp_ratio * channels**2,
            norm=5 * tokens * channels * (1 + 2 * depth),  # the embedding's, norm1 and norm2
        )
        inside, whole = padded_windows(map_size, shape.window), Counter([map_size])
        total += _times(windowed, attention_macs(inside, channels, shape.reduction))
        total += _times(depth - windowed, attention_macs(whole, channels, shape.reduction))
    return total


def _pyramid_and_heads(config: ResTv2Config, size: Size, detector: Detector = DETECTOR) -> Counter[str]:
    """FPN and RPN on the image, the box head on its proposals; the mask head waits for detections."""
    levels, width = map_sizes(size), detector.pyramid
    lateral = sum(conv_macs(shape.map_size, shape.dim, width, 1) for shape in stage_shapes(config, size))
    output = sum(conv_macs(level, width, width, 3) for level in levels)
    outputs = len(detector.anchor_ratios) * (1 + 4)  # objectness and a box
    rpn = sum(
        conv_macs(level, width, width, 3) + conv_macs(level, width, outputs, 1)
        for level in [*levels, ceil_div(levels[-1], 2)]
    )
    hidden, classes = detector.hidden, detector.classes
    box = detector.box_pool**2 * width * hidden + hidden**2 + hidden * (classes + 1 + 4 * classes)
    return Counter(
        conv=lateral + output + rpn,
        linear=detector.proposals * box,
        upsample=width * sum(map(prod, levels[:-1])),  # nearest: 1 per output
    )


def _times(number: int, macs: Mapping[str, int]) -> Counter[str]:
    return Counter({operator: number * count for operator, count in macs.items()})
