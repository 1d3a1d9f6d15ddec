"""The families of models: a configuration of each, their heads, and the geometry of their stages. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from kernels.emsa_upsample.cost import ceil_div
from models.switches import (
    ATTENTION_OPTIONS,
    EMSAV1,
    EMSAV2,
    HEADS,
    MOST_DETECTED,
    PVT_OPTIONS,
    RESTV1_OPTIONS,
    RESTV2_OPTIONS,
    SRA,
    STAGE_OPTIONS,
    TIMM_OPTIONS,
    USERS_OPTIONS,
    Depths,
    Option,
    Switches,
)

Size = tuple[int, int]  # height and width: pixels of an image, tokens of a map
Shape = tuple[int, ...]

DEFAULT_SIZE: Size = (224, 224)


# ---- families


@dataclass(frozen=True)
class ResTv2Config:
    """A ResTv2 variant: section 3.3 and Table 9 of the paper; `lite` is Table 7's."""

    title: str
    width: int  # channels of the first stage; doubled at each later one
    depths: Depths
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    drop_path: float = 0.1  # Table 8: the last block's rate of stochastic depth, in training
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)
    windows: tuple[int, int, int, int] = (64, 32, 16, 8)  # section 5.1: sides, for the styles with windows
    mlp_ratio: int = 4
    norm_eps: float = 1e-6  # of every LayerNorm: the authors' logits tell
    switches: Switches = EMSAV2

    family: ClassVar[str] = "ResTv2"
    options: ClassVar[Mapping[str, Option]] = RESTV2_OPTIONS
    min_size: ClassVar[int] = 32  # stage 4 sees a 32nd of the image
    has_attention: ClassVar[bool] = True
    has_kernel: ClassVar[bool] = True  # as far as the switches leave it


@dataclass(frozen=True)
class ResTv1Config(ResTv2Config):
    """A ResTv1 variant: EMSA with MHIM, BatchNorm after the embeddings' convolutions."""

    norm_eps: float = 1e-5
    switches: Switches = EMSAV1

    family: ClassVar[str] = "ResTv1"
    options: ClassVar[Mapping[str, Option]] = RESTV1_OPTIONS


@dataclass(frozen=True)
class PVTConfig:
    """A Pyramid Vision Transformer (arXiv 2102.12122, Table 1)."""

    title: str
    dims: tuple[int, int, int, int]
    depths: Depths
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    drop_path: float = 0.1
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)
    mlp_ratios: tuple[int, int, int, int] = (8, 8, 4, 4)
    switches: Switches = SRA

    family: ClassVar[str] = "PVT"
    options: ClassVar[Mapping[str, Option]] = PVT_OPTIONS
    min_size: ClassVar[int] = 32
    has_attention: ClassVar[bool] = True
    has_kernel: ClassVar[bool] = True  # as far as the switches leave it


@dataclass(frozen=True)
class FocalConfig:
    """A Focal Transformer (arXiv 2107.00641, Table 1), with two focal levels.

    Raises:
        ValueError: a focal window is even, so that it has no window in its middle.
    """

    title: str
    width: int
    depths: Depths
    heads: tuple[int, int, int, int]
    drop_path: float = 0.2  # S and B: 0.3 and 0.5, in the configurations of microsoft/Focal-Transformer
    window: int = 7
    focal_windows: tuple[int, int, int, int] = (7, 5, 3, 1)  # pooled windows a side that a window attends to
    expand_sizes: tuple[int, int, int, int] = (3, 3, 3, 0)  # fine tokens around a window that it attends to
    focal_levels: int = 2
    mlp_ratio: int = 4

    family: ClassVar[str] = "Focal"
    options: ClassVar[Mapping[str, Option]] = {}
    min_size: ClassVar[int] = 32
    has_attention: ClassVar[bool] = True
    has_kernel: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.focal_levels != 2 or not all(focal % 2 for focal in self.focal_windows):
            raise ValueError("Focal is written for two focal levels, and odd focal windows")


@dataclass(frozen=True)
class PeerConfig:
    """A model taken from timm under the paper's name for it."""

    title: str
    family: str
    timm: str
    timm_384: str | None = None  # where the authors' 384 model is another network, not another input
    takes_size: bool = False  # built for one size, named when it is built
    has_attention: bool = False
    maps_normed: bool = False  # a LayerNorm for each map that a head is given, as its authors fine-tune it

    options: ClassVar[Mapping[str, Option]] = HEADS
    min_size: ClassVar[int] = 32
    has_kernel: ClassVar[bool] = False


@dataclass(frozen=True)
class ForeignConfig:
    """A model of timm's under timm's own name, or a user's class: nothing is known of it before it is built."""

    title: str

    family: ClassVar[str] = "other"
    min_size: ClassVar[int] = 1
    has_attention: ClassVar[bool] = True  # as far as anybody can tell
    has_kernel: ClassVar[bool] = False

    @property
    def options(self) -> Mapping[str, Option]:
        """The options of timm's models, or of users'."""
        return TIMM_OPTIONS if self.is_timms else USERS_OPTIONS

    @property
    def is_timms(self) -> bool:
        """Whether it is timm's."""
        return self.title.startswith("timm:")


# ---- heads


@dataclass(frozen=True)
class Detector:
    """A Mask R-CNN as detectron2 and mmdetection have it; torchvision's background has deltas and masks of its own."""

    classes: int = 80  # COCO's; one more, the background, is scored
    proposals: int = 1000  # at most of each level before suppression, and of all levels after it
    candidates: int = MOST_DETECTED  # pairs of box and class, the best, that suppression sees
    rpn_nms: float = 0.7
    box_nms: float = 0.5
    pyramid: int = 256  # channels
    hidden: int = 1024
    box_pool: int = 7  # side of what is pooled for a box
    mask_pool: int = 14
    anchor_sides: tuple[int, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Segmenter:
    """An UperNet for ADE20K, as Swin's and ConvNeXt's authors have it."""

    classes: int = 150
    width: int = 512
    grids: tuple[int, ...] = (1, 2, 3, 6)
    auxiliary: int = 256  # channels


DETECTOR, SEGMENTER = Detector(), Segmenter()


# ---- geometry of the four stages


def doubled(width: int) -> list[int]:
    """Channels of the four stages of a model whose first has `width`."""
    return [width * 2**stage for stage in range(4)]


def map_sizes(size: Size) -> list[Size]:
    """Sizes of the four stages' maps of an image: a 4th to a 32nd, rounded up, as strided convolutions leave them."""
    return [ceil_div(size, 4 * 2**stage) for stage in range(4)]


@dataclass(frozen=True)
class StageShape:
    """C channels in heads, reduction r, H × W of the feature map, side of the windows."""

    dim: int
    heads: int
    reduction: int
    map_size: Size
    window: int


def stage_shapes(config: ResTv2Config, size: Size) -> list[StageShape]:
    """The four stages of a ResT for an image of `size`."""
    columns = (doubled(config.width), config.heads, config.reductions, map_sizes(size), config.windows)
    return [StageShape(*stage) for stage in zip(*columns, strict=True)]


# ---- a part of one stage, run alone on the stage's tokens


@dataclass(frozen=True)
class StageConfig:
    """A part of one stage of a model, alone."""

    title: str
    of: ResTv2Config

    family: ClassVar[str]
    options: ClassVar[Mapping[str, Option]] = STAGE_OPTIONS
    min_size: ClassVar[int] = 32
    has_attention: ClassVar[bool] = True
    has_kernel: ClassVar[bool] = True

    def shape(self, size: Size, stage: str = "1") -> StageShape:
        """The shape of the stage for an image of `size`."""
        return stage_shapes(self.of, size)[int(stage) - 1]


class CoreConfig(StageConfig):
    """The EMSAv2 core of a stage, alone: attention and upsample branch without projections; one call of the kernel."""

    family: ClassVar[str] = "EMSAv2 core"

    def inputs(self, size: Size, stage: str = "1") -> tuple[Shape, ...]:
        """Shapes for one image: q, (N, C), then k and v side by side, (M, 2C)."""
        shape = self.shape(size, stage)
        keys = prod(ceil_div(shape.map_size, shape.reduction))
        return (prod(shape.map_size), shape.dim), (keys, 2 * shape.dim)


class AttentionConfig(StageConfig):
    """The attention of one block, alone: from its normalised tokens to its projection, or a part of that."""

    family: ClassVar[str] = "EMSAv2 attention"
    options: ClassVar[Mapping[str, Option]] = ATTENTION_OPTIONS

    def inputs(
        self, size: Size, stage: str = "1", style: str = "global", part: str = "all"
    ) -> tuple[Shape, ...]:
        """Shape of the tokens of one image: (N, C), or, inside windows, (windows of the padded map, w², C)."""
        shape = self.shape(size, stage)
        if part == "inside":
            return ((prod(ceil_div(shape.map_size, shape.window)), shape.window**2, shape.dim),)
        return ((prod(shape.map_size), shape.dim),)


class MLPConfig(StageConfig):
    """The feed-forward of a block of a stage, alone: fc1, GELU and fc2; one call of its kernel, up to 256 channels."""

    family: ClassVar[str] = "MLP"
    has_attention: ClassVar[bool] = False

    def hidden(self, stage: str = "1") -> int:
        """Channels between the two layers."""
        return self.of.mlp_ratio * doubled(self.of.width)[int(stage) - 1]

    def inputs(self, size: Size, stage: str = "1") -> tuple[Shape, ...]:
        """Shape of the tokens of one image: (N, C)."""
        shape = self.shape(size, stage)
        return ((prod(shape.map_size), shape.dim),)


Config = (
    ResTv2Config
    | PVTConfig
    | FocalConfig
    | PeerConfig
    | ForeignConfig
    | CoreConfig
    | AttentionConfig
    | MLPConfig
)
