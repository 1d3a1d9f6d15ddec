"""Every model that has a name, as data. No torch here: the command line and the reports read this file too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, ClassVar

Depths = tuple[int, int, int, int]  # of the four stages, as everything else that comes in fours
Changes = Mapping[str, Any]  # fields of Parts, and what an option sets them to
IMPLS = ("eager", "sdpa", "compile", "fused", "fused+compile", "auto")
FUSED = ("fused", "fused+compile")
COMPILED = {"compile": "eager", "fused+compile": "fused"}  # and what goes through torch.compile


@dataclass(frozen=True)
class Option:
    """An option: `model[name]` if it is a flag, else `model[name=value]`, one of `values` or the text it `takes`."""

    help: str
    takes: str = ""  # what kind of text
    values: Mapping[str, Changes] = field(default_factory=dict)  # each with what it changes
    sets: Changes = field(default_factory=dict)  # what a flag changes

    @property
    def is_flag(self) -> bool:
        return not self.takes and not self.values

    def changes(self, value: str | bool) -> Changes:
        """Raises ValueError for a value that it does not take."""
        if self.values and value not in self.values:
            raise ValueError(f"there is no {value!r}; there are {', '.join(self.values)}")
        return self.values[str(value)] if self.values else self.sets


WEIGHTS = Option("the authors' released weights", takes="FILE")


# ---- what stands around a backbone


@dataclass(frozen=True)
class Detector:
    """A Mask R-CNN as detectron2 and mmdetection have it; torchvision's background has deltas and masks of its own."""

    classes: int = 80  # COCO's; one more, the background, is scored
    proposals: int = 1000  # at most of each level before suppression, and of all levels after it
    candidates: int = 1000  # pairs of box and class, the best, that suppression sees
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

HEADS = {
    "head": Option(
        "what stands on the backbone: the classifier (default), Mask R-CNN (Tables 3 and 4) or UperNet (Table 5)",
        values={"classifier": {}, "mask_rcnn": {}, "upernet": {}},
    ),
    "detections": Option("of every image by head=mask_rcnn (default: 100)", takes="N"),
}
DETECTIONS = 100  # detectron2's and torchvision's most
LEAST_DETECTED = 64  # pixels a side: a smaller image has fewer anchors than there are to be proposals


def check_head(impl: str, options: Mapping[str, str | bool]) -> None:
    """Raises ValueError for options that say nothing together, or what `impl` cannot run."""
    head = options.get("head")
    if "detections" in options:
        detections = str(options["detections"])
        if head != "mask_rcnn":
            raise ValueError("detections=N is for head=mask_rcnn")
        if not (detections.isdecimal() and 1 <= int(detections) <= DETECTOR.candidates):
            raise ValueError(f"detections={detections}: it takes a number from 1 to {DETECTOR.candidates}")
    if head == "mask_rcnn" and impl in COMPILED:
        raise ValueError(
            f"Mask R-CNN chooses boxes by their values, which is no single graph to run as {impl!r}: "
            "without head=mask_rcnn its backbone runs so"
        )


# ---- what a ResT or a PVT is put together from


@dataclass(frozen=True)
class Parts:
    """The switches of the paper's ablations. The defaults are ResTv2's: equation 2 and section 3."""

    attends: bool = True  # softmax(Q Kᵀ / √d) V; without it a block is a ConvNet
    reduction: str | None = "depthwise"  # of the grid of keys and values: depthwise | dense | None
    mhim: bool = False  # multi-head interaction module: Conv before the softmax, InstanceNorm after it
    target: str | None = "v"  # what is upsampled: v | k | x, the reduced x′ | None: no upsample branch
    upsample: str = "pixel_shuffle"  # how: pixel_shuffle | nearest | bilinear
    up_bias: bool = True
    pe: str | None = "pa"  # pa | peg at the four embeddings, ape after them, rpe on the keys of every block
    style: str = (
        "global"  # where a block attends: global | win | cwin | hwin, which models/windows.py explains
    )
    stem: str = "conv"  # of ResTv1: three_conv | pool; ResTv2 has one
    depths: Depths | None = None  # instead of the model's own


EMSAV2 = Parts()

# A combination that has no meaning, and why.
NONSENSE: tuple[tuple[Callable[[Parts, Changes], bool], str], ...] = (
    (
        lambda it, _: not it.attends and it.target is None,
        "neither an attention nor an upsample branch is left",
    ),
    (lambda it, _: not it.attends and it.target == "k", "a ConvNet has no keys to upsample"),
    (lambda it, _: not it.attends and it.mhim, "MHIM works on the attention map, and a ConvNet has none"),
    (lambda it, _: not it.attends and it.pe == "rpe", "RPE is added to the keys, and a ConvNet has none"),
    (lambda it, asked: "upsample" in asked and it.target is None, "there is nothing to upsample"),
    (
        lambda it, _: not it.attends and it.style != "global",
        "windows are there to attend inside, and a ConvNet attends to nothing",
    ),
    (
        lambda it, _: it.pe == "rpe" and it.style != "global",
        "RPE is learnt for the keys of a whole map, and inside a window there are others",
    ),
    (
        lambda it, asked: "emsav2" in asked.values() and not (it.attends and it.target),
        "emsav2 is an attention and an upsample branch, and one of them is left out",
    ),
)

# Parts that an implementation cannot run, and why. `auto` takes the first of fused, sdpa and eager that can.
CANNOT: tuple[tuple[tuple[str, ...], Callable[[Parts], bool], str], ...] = (
    (("sdpa", *FUSED), lambda it: not it.attends, "a ConvNet has no attention to run as {impl!r}"),
    (
        ("sdpa", *FUSED),
        lambda it: it.mhim,
        "MHIM works on the attention map, which {impl!r} never forms: run it as eager or compile",
    ),
    (FUSED, lambda it: it.target is None, "without an upsample branch there is no EMSAv2 to run as {impl!r}"),
    (FUSED, lambda it: it.target != "v", "{impl!r} upsamples the values, as EMSAv2 does, and nothing else"),
    (
        FUSED,
        lambda it: it.upsample != "pixel_shuffle",
        "{impl!r} upsamples by a convolution and pixel_shuffle, as EMSAv2 does, and in no other way",
    ),
    # besides, PVT's class token is a key and a query that are in no map
    (
        FUSED,
        lambda it: it.reduction != "depthwise",
        "without a depthwise reduction it is not EMSAv2, which {impl!r} runs",
    ),
)


def refusal(parts: Parts, impl: str) -> str | None:
    """Why `impl` cannot run `parts`, in one line; None where it can."""
    return next(
        (why.format(impl=impl) for impls, is_so, why in CANNOT if impl in impls and is_so(parts)), None
    )


MHIM = Option(
    "multi-head interaction module: a 1x1 conv across heads before the softmax, InstanceNorm after",
    sets={"mhim": True},
)

# The rows of the paper's Table 2, and what the paper compares EMSAv2 with.
RESTV2_OPTIONS = {
    "attention": Option(
        "standard, PVT's, ResTv1's (without MHIM), or ResTv2's (default)",
        values={
            "msa": {"reduction": None, "target": None},
            "sra": {"reduction": "dense", "target": None},
            "emsa": {"reduction": "depthwise", "target": None},
            "emsav2": {"reduction": "depthwise"},
        },
    ),
    "branches": Option(
        "Table 2(c): attention alone, the upsample branch alone (v2, v3: in more blocks), or both (default)",
        values={
            "emsa": {"target": None},
            "convnet": {"attends": False, "up_bias": False},
            "convnetv2": {"attends": False, "up_bias": False, "depths": (2, 3, 6, 2)},
            "convnetv3": {"attends": False, "up_bias": False, "depths": (2, 3, 6, 3)},
            "emsav2": {"attends": True},
        },
    ),
    "target": Option(
        "Table 2(a): what is upsampled: nothing, the reduced x′, the keys, or the values (default)",
        values={"none": {"target": None}, "x": {"target": "x"}, "k": {"target": "k"}, "v": {"target": "v"}},
    ),
    "upsample": Option(
        "Table 2(b): how it is upsampled (default: pixel_shuffle)",
        values={name: {"upsample": name} for name in ("nearest", "bilinear", "pixel_shuffle")},
    ),
    "pe": Option(
        "Table 2(d): positional embedding (default: pa); ape and rpe belong to one size of image",
        values={"none": {"pe": None}, **{name: {"pe": name} for name in ("ape", "rpe", "peg", "pa")}},
    ),
    "style": Option(
        "Table 3: attention to the whole map (default), or inside windows; cwin has convolutions of its own, which "
        "weights have to hold too",
        values={name: {"style": name} for name in ("global", "win", "cwin", "hwin")},
    ),
    "mhim": MHIM,
    **HEADS,
    "weights": WEIGHTS,
}

RESTV1_OPTIONS = {
    "attention": Option(
        "standard (without MHIM), ResTv1's (default), or ResTv2's with MHIM",
        values={"msa": {"reduction": None, "mhim": False}, "emsa": {}, "emsav2": {"target": "v"}},
    ),
    "stem": Option(
        "three 3x3 convs, as the released weights have it (default), or a 7x7 conv and max pooling",
        values={"three_conv": {"stem": "three_conv"}, "pool": {"stem": "pool"}},
    ),
    **HEADS,
    "weights": WEIGHTS,
}

PVT_OPTIONS = {
    "attention": Option(
        "standard, PVT's (default), or PVT's with an upsample branch on the values",
        values={"msa": {"reduction": None}, "sra": {}, "emsav2": {"target": "v"}},
    ),
}


class _Assembled:
    """What configurations that are put together from Parts have in common."""

    title: str
    depths: Depths
    parts: Parts
    options: ClassVar[dict[str, Option]]

    def assemble(self, **options: str | bool) -> Parts:
        """The parts that are left when `options` have changed the defaults.

        Raises:
            ValueError: an unknown option or value, two that contradict each other, or a combination without meaning.
        """
        changed: dict[str, tuple[str, Any]] = {}  # field → who set it, to what
        for name, value in options.items():
            if name not in self.options:
                raise ValueError(f"{self.title} takes no option {name}")
            said = name if value is True else f"{name}={value}"
            for part, new in self.options[name].changes(value).items():
                before, old = changed.setdefault(part, (said, new))
                if old != new:
                    raise ValueError(f"{before} and {said} contradict each other")
        parts = replace(self.parts, **{part: new for part, (_, new) in changed.items()})
        for is_so, why in NONSENSE:
            if is_so(parts, options):
                raise ValueError(why)
        if parts.depths and self.depths != RESTV2["restv2_tiny"].depths:
            said, _ = changed["depths"]
            raise ValueError(f"{said} has the paper's depths for ResTv2-T, not {self.title}")
        return parts

    def normalises_map(self, **options: str | bool) -> bool:
        """Whether there is an InstanceNorm on the attention map, which multiplies the map's rounding."""
        return self.assemble(**options).mhim

    def check(self, impl: str, **options: str | bool) -> None:
        """Raises ValueError where `impl` cannot run the model with these options: the line says why."""
        if why := refusal(self.assemble(**options), impl):
            raise ValueError(why)
        check_head(impl, options)


@dataclass(frozen=True)
class ResTv2Config(_Assembled):
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
    parts: Parts = EMSAV2

    family: ClassVar[str] = "ResTv2"
    options: ClassVar[dict[str, Option]] = RESTV2_OPTIONS
    min_size: ClassVar[int] = 32  # stage 4 sees a 32nd of the image


@dataclass(frozen=True)
class ResTv1Config(ResTv2Config):
    """A ResTv1 variant: EMSA with MHIM, BatchNorm after the embeddings' convolutions."""

    norm_eps: float = 1e-5
    parts: Parts = Parts(target=None, mhim=True, stem="three_conv")

    family: ClassVar[str] = "ResTv1"
    options: ClassVar[dict[str, Option]] = RESTV1_OPTIONS


@dataclass(frozen=True)
class StageShape:
    """C channels in heads, reduction r, H × W of the feature map, side of the windows."""

    dim: int
    heads: int
    reduction: int
    map_size: tuple[int, int]
    window: int


@dataclass(frozen=True)
class StageConfig:
    """A part of one stage of a ResTv2 that is run alone, and takes the stage's tokens instead of an image."""

    title: str
    of: ResTv2Config

    family: ClassVar[str]
    options: ClassVar[dict[str, Option]] = {
        "stage": Option(
            "whose heads, channels, map and reduction (default: 1)", values={str(n): {} for n in range(1, 5)}
        )
    }
    min_size: ClassVar[int] = 32

    def check(self, impl: str, **options: str | bool) -> None:
        """Every implementation runs it. Raises ValueError for an unknown option or value."""
        for name, value in options.items():
            if name not in self.options:
                raise ValueError(f"{self.title} takes no option {name}")
            self.options[name].changes(value)

    def shape(self, size: tuple[int, int], stage: str = "1") -> StageShape:
        """Of the stage, for an image of `size`."""
        index = int(stage) - 1
        width, height = (
            -(-side // (4 * 2**index)) for side in reversed(size)
        )  # strided convolutions round up
        return StageShape(
            self.of.width * 2**index,
            self.of.heads[index],
            self.of.reductions[index],
            (height, width),
            self.of.windows[index],
        )

    def inputs(self, size: tuple[int, int], **options: Any) -> tuple[tuple[int, ...], ...]:
        """Shapes of what it is called with, for one image."""
        raise NotImplementedError


@dataclass(frozen=True)
class CoreConfig(StageConfig):
    """What the fused kernel computes, alone: attention and upsample branch of one stage, without the projections."""

    family: ClassVar[str] = "EMSAv2 core"

    def inputs(self, size: tuple[int, int], **options: Any) -> tuple[tuple[int, ...], ...]:
        """Of q, (N, C), and of k and v beside each other, (M, 2C), for one image."""
        it = self.shape(size, **options)
        height, width = it.map_size
        keys = -(-height // it.reduction) * -(-width // it.reduction)
        return (height * width, it.dim), (keys, 2 * it.dim)


@dataclass(frozen=True)
class AttentionConfig(StageConfig):
    """The attention of one block, alone: from its normalised tokens to its projection, or a part of that."""

    family: ClassVar[str] = "EMSAv2 attention"
    options: ClassVar[dict[str, Option]] = {
        **StageConfig.options,
        "style": Option(
            "where it attends: to the whole map (default), or inside windows",
            values={name: {} for name in ("global", "win")},
        ),
        "part": Option(
            "of style=win: all (default); the copies alone, which are padding, partition and reverse; or the "
            "attention alone, inside windows that were padded and partitioned before",
            values={name: {} for name in ("all", "copies", "inside")},
        ),
    }

    def check(self, impl: str, **options: str | bool) -> None:
        """Every implementation runs it, but copies are the same in all, and have no more than eager and compile.

        Raises:
            ValueError: an unknown option or value, a part of what has no windows, or copies as anything else.
        """
        super().check(impl, **options)
        part = options.get("part", "all")
        if part != "all" and options.get("style", "global") == "global":
            raise ValueError(f"part={part} is a part of style=win: a whole map is not cut into windows")
        if part == "copies" and COMPILED.get(impl, impl) != "eager":
            raise ValueError(f"copies have no attention to run as {impl!r}; they run as eager and compile")

    def inputs(self, size: tuple[int, int], **options: Any) -> tuple[tuple[int, ...], ...]:
        """Of the tokens for one image: (N, C), or, inside windows, (windows of the padded map, w², C)."""
        it = self.shape(size, options.get("stage", "1"))
        if options.get("part") == "inside":
            windows = prod(-(-side // it.window) for side in it.map_size)
            return ((windows, it.window**2, it.dim),)
        return ((prod(it.map_size), it.dim),)


@dataclass(frozen=True)
class PVTConfig(_Assembled):
    """A Pyramid Vision Transformer (arXiv 2102.12122, Table 1)."""

    title: str
    dims: tuple[int, int, int, int]
    depths: Depths
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    drop_path: float = 0.1
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)
    mlp_ratios: tuple[int, int, int, int] = (8, 8, 4, 4)
    parts: Parts = Parts(reduction="dense", target=None)

    family: ClassVar[str] = "PVT"
    options: ClassVar[dict[str, Option]] = PVT_OPTIONS
    min_size: ClassVar[int] = 32


@dataclass(frozen=True)
class FocalConfig:
    """A Focal Transformer (arXiv 2107.00641, Table 1)."""

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
    options: ClassVar[dict[str, Option]] = {}
    min_size: ClassVar[int] = 32

    def check(self, impl: str, **options: str | bool) -> None:
        """Raises ValueError for the fused kernel, which is EMSAv2's."""
        if impl in FUSED:
            raise ValueError(f"{self.title} has no EMSAv2 to run as {impl!r}")


@dataclass(frozen=True)
class PeerConfig:
    """A model taken from timm under the paper's name for it."""

    title: str
    family: str
    timm: str
    timm_384: str | None = None  # where the authors' 384 model is another network, not another input
    takes_size: bool = False  # built for one size, named when it is built
    has_attention: bool = False  # so `sdpa` means something
    maps_normed: bool = False  # a LayerNorm for each map that a head is given, as its authors fine-tune it

    options: ClassVar[dict[str, Option]] = HEADS
    min_size: ClassVar[int] = 32

    def check(self, impl: str, **options: str | bool) -> None:
        """Raises ValueError for an unknown option, for `sdpa` of a model without attention, and for the fused kernel,
        which is EMSAv2's."""
        for name, value in options.items():
            if name not in self.options:
                raise ValueError(f"{self.title} takes no option {name}")
            self.options[name].changes(value)
        if impl == "sdpa" and not self.has_attention:
            raise ValueError(
                f"{self.title} has no attention to run as 'sdpa'; it runs as eager, compile, auto"
            )
        if impl in FUSED:
            raise ValueError(f"{self.title} has no EMSAv2 to run as {impl!r}")
        check_head(impl, options)


RESTV2 = {
    "restv2_tiny": ResTv2Config("ResTv2-T", 96, (1, 2, 6, 2)),
    "restv2_small": ResTv2Config("ResTv2-S", 96, (1, 2, 12, 2), drop_path=0.2),
    "restv2_base": ResTv2Config("ResTv2-B", 96, (1, 3, 16, 3), drop_path=0.3),
    "restv2_large": ResTv2Config("ResTv2-L", 128, (2, 3, 16, 2), heads=(2, 4, 8, 16), drop_path=0.5),
    "restv2_lite": ResTv2Config("ResTv2-Lite", 64, (2, 2, 2, 2)),
}

CORES = {
    "core_tiny": CoreConfig("EMSAv2 core of ResTv2-T", RESTV2["restv2_tiny"]),  # S and B have the same stages
    "core_large": CoreConfig("EMSAv2 core of ResTv2-L", RESTV2["restv2_large"]),
    "core_lite": CoreConfig("EMSAv2 core of ResTv2-Lite", RESTV2["restv2_lite"]),
}

ATTENTIONS = {
    "attention_tiny": AttentionConfig("Attention of ResTv2-T", RESTV2["restv2_tiny"]),
    "attention_large": AttentionConfig("Attention of ResTv2-L", RESTV2["restv2_large"]),
}

RESTV1 = {
    "restv1_lite": ResTv1Config("ResTv1-Lite", 64, (2, 2, 2, 2)),
    "restv1_small": ResTv1Config("ResTv1-S", 64, (2, 2, 6, 2)),
    "restv1_base": ResTv1Config("ResTv1-B", 96, (2, 2, 6, 2)),
    "restv1_large": ResTv1Config("ResTv1-L", 96, (2, 2, 18, 2)),
}

PVT = {"pvt_tiny": PVTConfig("PVT-Tiny", (64, 128, 320, 512), (2, 2, 2, 2))}

FOCAL = {
    "focal_tiny": FocalConfig("Focal-T", 96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "focal_small": FocalConfig("Focal-S", 96, (2, 2, 18, 2), (3, 6, 12, 24), drop_path=0.3),
    "focal_base": FocalConfig("Focal-B", 128, (2, 2, 18, 2), (4, 8, 16, 32), drop_path=0.5),
}


def _swin(letter: str, size: str, timm_384: str | None = None) -> PeerConfig:
    return PeerConfig(
        f"Swin-{letter}",
        "Swin",
        f"swin_{size}_patch4_window7_224",
        timm_384=timm_384,
        takes_size=True,
        has_attention=True,
        maps_normed=True,
    )


def _convnext(letter: str, size: str) -> PeerConfig:
    return PeerConfig(f"ConvNeXt-{letter}", "ConvNeXt", f"convnext_{size}", maps_normed=True)


PEERS = {
    "regnety_4g": PeerConfig("RegNetY-4G", "RegNetY", "regnety_040"),
    "regnety_8g": PeerConfig("RegNetY-8G", "RegNetY", "regnety_080"),
    "regnety_16g": PeerConfig("RegNetY-16G", "RegNetY", "regnety_160"),
    "convnext_tiny": _convnext("T", "tiny"),
    "convnext_small": _convnext("S", "small"),
    "convnext_base": _convnext("B", "base"),
    "swin_tiny": _swin("T", "tiny"),
    "swin_small": _swin("S", "small"),
    # at 384 the paper's Swin-B is the one with windows of 12, as its 47.1 G shows
    "swin_base": _swin("B", "base", "swin_base_patch4_window12_384"),
    "resnet50": PeerConfig("ResNet-50", "ResNet", "resnet50"),
    "resnet101": PeerConfig("ResNet-101", "ResNet", "resnet101"),
    # with three 3x3 convolutions for a stem, as mmsegmentation has them in UperNet
    "resnet50c": PeerConfig("ResNet-50-C", "ResNet", "resnet50c"),
    "resnet101c": PeerConfig("ResNet-101-C", "ResNet", "resnet101c"),
}

Config = ResTv2Config | StageConfig | PVTConfig | FocalConfig | PeerConfig
OWN: dict[str, Config] = {
    **RESTV2,
    **RESTV1,
    **PVT,
    **FOCAL,
    **CORES,
    **ATTENTIONS,
}  # written here; the others are built by timm
MODELS: dict[str, Config] = {**OWN, **PEERS}


def runs(config: Config, impl: str, **options: str | bool) -> bool:
    """Whether `impl` can run the model with these options."""
    try:
        config.check(impl, **options)
    except ValueError:
        return False
    return True


def input_shapes(name: str, size: tuple[int, int], **options: str | bool) -> tuple[tuple[int, ...], ...]:
    """Of what the model is called with, for one image of `size`: an image, or the tokens of a stage."""
    config = MODELS.get(name)
    return config.inputs(size, **options) if isinstance(config, StageConfig) else ((3, *size),)


def implementations(config: Config) -> list[str]:
    """Those that run the model as it is without options."""
    return [impl for impl in IMPLS if runs(config, impl)]
