"""What windows cost ResTv2 in Mask R-CNN, on paper: MACs in closed form, for an image or a mix of them. No torch.

Section 5.1 and Table 3. A windowed block pads its map to whole windows after `norm1`, and all of EMSAv2 runs in the
padded windows: the queries, the reduction and its norm, keys and values, the products, the upsample branch and its
norm, the projection. What comes out is put together and cut to the map; `norm2` and the MLP see no padding.

1 MAC = 2 FLOPs. Operators and convention are `fvcore`'s of `bench.macs`; what the paper adds up under "Others" is
`OTHERS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from bench.images import Size
from kernels.emsa_upsample import cost
from models.config import DETECTOR, EMSAV2, RESTV2, Detector, ResTv2Config

OTHERS = ("norm", "upsample")  # Table 3(b)'s last column; the first three are conv, linear and matmul


@dataclass(frozen=True)
class Style:
    """Which blocks of a stage are windowed, and what joins the windows."""

    windowed: bool = True
    last_is_global: bool = False  # the last block of each stage, which the FPN sees
    joined: bool = False  # by a depthwise 7x7 after the last block of each stage

    def windowed_blocks(self, depth: int) -> int:
        """Of the `depth` blocks of a stage."""
        return depth - self.last_is_global if self.windowed else 0


TABLE3 = RESTV2["restv2_tiny"]  # the backbone there

STYLES = {
    "global": Style(windowed=False),
    "win": Style(),
    "cwin": Style(joined=True),
    "hwin": Style(last_is_global=True),
}


def counts(config: ResTv2Config, shape: Size, style: str, detections: int = 0) -> Counter[str]:
    """Of one image of `shape`, resized and padded: `fvcore` MACs by operator.

    Raises:
        ValueError: an unknown style, sides that are no multiples of 32, or a model that is no ResTv2 with EMSAv2.
    """
    found = backbone(config, shape, style) + _pyramid_and_heads(config, shape)
    found["conv"] += detections * detection_macs()
    return found


def average(
    config: ResTv2Config,
    style: str,
    shapes: Mapping[Size, int],
    detections: float = 0,
) -> dict[str, float]:
    """The mean of `counts` over a mix of `shapes`, each with its number of images; `detections` is the images' mean.

    Raises:
        ValueError: as `counts`.
    """
    images, total = sum(shapes.values()), Counter[str]()
    for shape, number in shapes.items():
        total += _times(number, counts(config, shape, style))
    mean = {operator: macs / images for operator, macs in total.items()}
    return mean | {"conv": mean["conv"] + detections * detection_macs()}


def detection_macs(config: Detector = DETECTOR) -> int:
    """Of the mask head for one detection, all of them convolutions: four on 14×14, one to 28×28, the masks."""
    small, large = (config.mask_pool,) * 2, (2 * config.mask_pool,) * 2
    body = 4 * _conv(small, config.pyramid, config.pyramid, 3)
    # each pixel of the transposed convolution's input meets 2×2 taps; its output takes those of a 1×1 convolution
    return (
        body
        + _conv(small, config.pyramid, config.pyramid, 2)
        + _conv(large, config.pyramid, config.classes, 1)
    )


# ---- the backbone


def backbone(config: ResTv2Config, shape: Size, style: str) -> Counter[str]:
    """The four maps of ResTv2 from one image of `shape`: `fvcore` MACs by operator.

    Raises:
        ValueError: as `counts`.
    """
    how = checked(config, shape, style)
    half, quarter, width = ceil_div(shape, 2), ceil_div(shape, 4), config.width
    found = Counter(
        conv=_conv(half, 3, width // 2, 3)
        + _conv(quarter, width // 2, width, 3)
        + _conv(quarter, width, width, 1),
        norm=2 * prod(half) * width // 2 + 2 * prod(quarter) * width,  # BatchNorm
    )
    for stage, depth in enumerate(config.depths):
        channels, size, reduction = *stage_map(config, shape, stage), config.reductions[stage]
        tokens, windowed = prod(size), how.windowed_blocks(depth)
        embedding = _conv(size, channels // 2, channels, 3) if stage else 0
        found += Counter(
            conv=embedding + _conv(size, 1, channels, 3) + how.joined * _conv(size, 1, channels, 7),
            linear=depth * 2 * tokens * config.mlp_ratio * channels**2,
            norm=5 * tokens * channels * (1 + 2 * depth),  # the embedding's, norm1 and norm2
        )
        found += _times(windowed, attention(padded_windows(size, config.windows[stage]), channels, reduction))
        found += _times(depth - windowed, attention(Counter([size]), channels, reduction))
    return found


def checked(config: ResTv2Config, shape: Size, style: str) -> Style:
    """The style of that name. Raises ValueError for what these formulas do not hold for."""
    if style not in STYLES:
        raise ValueError(f"there is no style {style!r}; there are {', '.join(STYLES)}")
    if min(shape) < 32 or shape[0] % 32 or shape[1] % 32:
        raise ValueError(f"a detector sees multiples of 32, not {shape[0]}x{shape[1]}")
    if config.parts != EMSAV2:
        raise ValueError(f"{config.title} has other parts than ResTv2's, which these formulas are of")
    return STYLES[style]


def attention(windows: Mapping[Size, int], channels: int, reduction: int) -> Counter[str]:
    """EMSAv2 from the queries to the projection, in so many windows of each size."""
    found = Counter[str]()
    for size, number in windows.items():
        queries, keys = number * prod(size), number * prod(ceil_div(size, reduction))
        branches = cost.macs(number, size, channels, reduction)
        reduces = reduction > 1
        found += Counter(
            conv=reduces * keys * channels * (reduction + 1) ** 2 + branches["up"],
            linear=(queries + keys) * 2 * channels**2,  # q and proj, k and v
            matmul=branches["attend"],
            norm=5 * channels * (queries + reduces * keys),  # up_norm, sr_norm
        )
    return found


# ---- what is around it


def _pyramid_and_heads(config: ResTv2Config, shape: Size, detector: Detector = DETECTOR) -> Counter[str]:
    """FPN and RPN on the image, the box head on its proposals; the mask head waits for detections."""
    maps = [stage_map(config, shape, stage) for stage in range(4)]
    levels, width = [size for _, size in maps], detector.pyramid
    lateral = sum(_conv(size, channels, width, 1) for channels, size in maps)
    output = sum(_conv(size, width, width, 3) for size in levels)
    outputs = len(detector.anchor_ratios) * (1 + 4)  # objectness and a box
    rpn = sum(
        _conv(size, width, width, 3) + _conv(size, width, outputs, 1)
        for size in [*levels, ceil_div(levels[-1], 2)]
    )
    hidden, classes = detector.hidden, detector.classes
    box = detector.box_pool**2 * width * hidden + hidden**2 + hidden * (classes + 1 + 4 * classes)
    return Counter(
        conv=lateral + output + rpn,
        linear=detector.proposals * box,
        upsample=width * sum(map(prod, levels[:-1])),  # nearest: 1 per output
    )


# ---- shapes


def stage_map(config: ResTv2Config, shape: Size, stage: int) -> tuple[int, Size]:
    """Channels and size of a stage's map; stages count from 0."""
    return config.width * 2**stage, ceil_div(shape, 4 * 2**stage)


def ceil_div(size: Size, by: int) -> Size:
    """Each side, rounded up."""
    return -(-size[0] // by), -(-size[1] // by)


def padded_windows(size: Size, window: int) -> Counter[Size]:
    """The windows of a map padded to whole ones."""
    return Counter({(window, window): prod(ceil_div(size, window))})


# ---- arithmetic


def _conv(outputs: Size, inputs_per_group: int, channels: int, kernel: int) -> int:
    """MACs; depthwise is one input per group."""
    return prod(outputs) * channels * inputs_per_group * kernel**2


def _times(number: int, found: Mapping[str, int]) -> Counter[str]:
    return Counter({operator: number * macs for operator, macs in found.items()})
