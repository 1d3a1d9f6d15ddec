"""The ablations as data: options, the switches that they set, and RULES, what cannot be built of them. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from models.config import Config

Depths = tuple[
    int, int, int, int
]  # blocks of the four stages; everything else that comes in fours is by stage too
Changes = Mapping[str, Any]  # fields of Switches, with the values that an option gives them
Options = Mapping[str, str | bool]  # as a case has them: a flag is True, anything else is text

IMPLS = ("eager", "sdpa", "compile", "fused", "fused+compile", "auto")
FUSED = ("fused", "fused+compile")
COMPILED = {
    "compile": "eager",
    "fused+compile": "fused",
}  # with the implementation that torch.compile is given


# ---- what an ablation changes


@dataclass(frozen=True)
class Style:
    """A style of windows (section 5.1): which blocks of a stage attend inside windows, and what joins the windows."""

    windowed: bool = True
    last_is_global: bool = False  # the last block of each stage, whose map a head takes
    joined: bool = False  # a depthwise 7×7 convolution after the last block of each stage

    def windowed_blocks(self, depth: int) -> int:
        """Number of blocks with windows in a stage of `depth` blocks."""
        return depth - self.last_is_global if self.windowed else 0


STYLES = {
    "global": Style(windowed=False),
    "win": Style(),
    "cwin": Style(joined=True),
    "hwin": Style(last_is_global=True),
}


@dataclass(frozen=True)
class Switches:
    """The switches of the paper's ablations. The defaults are ResTv2's: equation 2 and section 3."""

    attends: bool = True  # softmax(Q Kᵀ / √d) V; without it a block is a ConvNet
    reduction: str | None = "depthwise"  # of the grid of keys and values: depthwise | dense | None
    mhim: bool = False  # multi-head interaction module: Conv before the softmax, InstanceNorm after it
    target: str | None = "v"  # what is upsampled: v | k | x, the reduced x′ | None: no upsample branch
    upsample: str = "pixel_shuffle"  # how: pixel_shuffle | nearest | bilinear
    up_bias: bool = True
    pe: str | None = "pa"  # pa | peg at the four embeddings, ape after them, rpe on the keys of every block
    style: str = "global"  # where a block attends: a key of STYLES
    stem: str = "conv"  # of ResTv1: three_conv | pool; ResTv2 has one
    depths: Depths | None = None  # instead of the model's own


EMSAV2 = Switches()
EMSAV1 = Switches(target=None, mhim=True, stem="three_conv")  # ResTv1's
SRA = Switches(reduction="dense", target=None)  # PVT's


# ---- the options that set the switches


@dataclass(frozen=True)
class Option:
    """One option of a model or a run: `model[name]` for a flag, else `model[name=value]`.

    A value is a key of `values`, or text of the kind that the option `takes`.
    """

    help: str
    takes: str = ""  # the kind of text
    values: Mapping[str, Changes] = field(default_factory=dict)  # each value with the switches that it sets
    sets: Changes = field(default_factory=dict)  # the switches that a flag sets

    @property
    def is_flag(self) -> bool:
        return not self.takes and not self.values

    def changes(self, value: str | bool) -> Changes:
        """The switches that `value` sets.

        Raises:
            ValueError: the option does not take this value.
        """
        if self.values and value not in self.values:
            raise ValueError(f"there is no {value!r}; there are {', '.join(self.values)}")
        return self.values[str(value)] if self.values else self.sets


WEIGHTS = Option("the authors' released weights", takes="FILE")

HEADS = {
    "head": Option(
        "what stands on the backbone: the classifier (default), Mask R-CNN (Tables 3 and 4) or UperNet (Table 5)",
        values={"classifier": {}, "mask_rcnn": {}, "upernet": {}},
    ),
    "detections": Option("of every image by head=mask_rcnn (default: 100)", takes="N"),
}
DETECTIONS = 100  # detectron2's and torchvision's most
MOST_DETECTED = 1000  # pairs of box and class that suppression sees: more cannot be left
LEAST_DETECTED = 64  # pixels a side: a smaller image has fewer anchors than there are to be proposals

MHIM = Option(
    "multi-head interaction module: a 1x1 conv across heads before the softmax, InstanceNorm after",
    sets={"mhim": True},
)

# The rows of the paper's Table 2, and the kinds of attention that the paper compares EMSAv2 with.
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
        values={name: {"style": name} for name in STYLES},
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

STAGE_OPTIONS = {
    "stage": Option(
        "whose heads, channels, map and reduction (default: 1)", values={str(n): {} for n in range(1, 5)}
    )
}

ATTENTION_OPTIONS = {
    **STAGE_OPTIONS,
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


OTHERS_WEIGHTS = Option("a file of weights, .pth or .safetensors (default: initial ones)", takes="FILE")
TIMM_OPTIONS = {
    "dynamic_img_size": Option(
        "embeddings fitted to whatever image comes, where the model can (default: built for the one size)"
    ),
    "weights": OTHERS_WEIGHTS,
}
USERS_OPTIONS = {
    "inputs": Option(
        "what the model is called with for one image, as 1x28x28 or 3x224x224+10 (default: the INPUTS of the class, "
        "else an image)",
        takes="SHAPES",
    ),
    "weights": OTHERS_WEIGHTS,
}


def assembled(config: Config, options: Options) -> Switches:
    """The switches of a model, its own as `options` change them; EMSAv2's for a model that has none.

    Raises:
        ValueError: the model does not take an option or its value, or two options contradict each other.
    """
    changed: dict[str, tuple[str, Any]] = {}  # switch → the option that sets it, and the value
    for name, value in options.items():
        if name not in config.options:
            raise ValueError(f"{config.title} takes no option {name}")
        text = name if value is True else f"{name}={value}"
        for switch, new in config.options[name].changes(value).items():
            first, old = changed.setdefault(switch, (text, new))
            if old != new:
                raise ValueError(f"{first} and {text} contradict each other")
    own: Switches = getattr(config, "switches", EMSAV2)
    return replace(own, **{switch: value for switch, (_, value) in changed.items()})


# ---- what cannot be built or run, and why


class Request(NamedTuple):
    """A model with its options, and the implementation that is to run it: what RULES judge."""

    impl: str
    switches: Switches = EMSAV2
    options: Options = MappingProxyType({})
    title: str = ""
    depths: Depths | None = None  # of the model itself
    has_attention: bool = True  # so that `sdpa` means something
    has_kernel: bool = True  # of ours, for EMSAv2 or, where it is alone, the MLP

    def asks(self, option: str, *values: str) -> bool:
        """Whether `option` is given, with one of `values` if there are any."""
        return option in self.options and (not values or self.options[option] in values)


def shapes_in(text: str) -> tuple[tuple[int, ...], ...] | None:
    """The shapes that `inputs=…` writes, `3x224x224+10`; None where it is written otherwise."""
    written = [shape.split("x") for shape in text.split("+")]
    if all(re.fullmatch(r"[1-9][0-9]{0,8}", side) for shape in written for side in shape):
        return tuple(tuple(map(int, shape)) for shape in written)
    return None


TINY_DEPTHS: Depths = (1, 2, 6, 2)  # of ResTv2-T, which Table 2(c) deepens


def _is_number_of_detections(text: str | bool) -> bool:
    return str(text).isdecimal() and 1 <= int(text) <= MOST_DETECTED


# The first that applies is the reason given; its text may name any field of the request.
# `auto` takes the first of fused, sdpa and eager that no rule forbids.
RULES: tuple[tuple[Callable[[Request], bool], str], ...] = (
    # combinations of switches without meaning
    (
        lambda asked: not asked.switches.attends and asked.switches.target is None,
        "neither an attention nor an upsample branch is left",
    ),
    (
        lambda asked: not asked.switches.attends and asked.switches.target == "k",
        "a ConvNet has no keys to upsample",
    ),
    (
        lambda asked: not asked.switches.attends and asked.switches.mhim,
        "MHIM works on the attention map, and a ConvNet has none",
    ),
    (
        lambda asked: not asked.switches.attends and asked.switches.pe == "rpe",
        "RPE is added to the keys, and a ConvNet has none",
    ),
    (
        lambda asked: asked.asks("upsample") and asked.switches.target is None,
        "there is nothing to upsample",
    ),
    (
        lambda asked: not asked.switches.attends and asked.switches.style != "global",
        "windows are there to attend inside, and a ConvNet attends to nothing",
    ),
    (
        lambda asked: asked.switches.pe == "rpe" and asked.switches.style != "global",
        "RPE is learnt for the keys of a whole map, and inside a window there are others",
    ),
    (
        lambda asked: (
            (asked.asks("attention", "emsav2") or asked.asks("branches", "emsav2"))
            and not (asked.switches.attends and asked.switches.target)
        ),
        "emsav2 is an attention and an upsample branch, and one of them is left out",
    ),
    (
        lambda asked: asked.switches.depths is not None and asked.depths not in (None, TINY_DEPTHS),
        "branches={options[branches]} has the paper's depths for ResTv2-T, not {title}",
    ),
    # one stage alone
    (
        lambda asked: asked.asks("part", "copies", "inside") and not asked.asks("style", "win"),
        "part={options[part]} is a part of style=win: a whole map is not cut into windows",
    ),
    (
        lambda asked: asked.asks("part", "copies") and COMPILED.get(asked.impl, asked.impl) != "eager",
        "copies have no attention to run as {impl!r}; they run as eager and compile",
    ),
    # implementations that a whole family does not have
    (
        lambda asked: asked.impl == "sdpa" and not asked.has_attention,
        "{title} has no attention to run as 'sdpa'; it runs as eager, compile, auto",
    ),
    (
        lambda asked: asked.impl in FUSED and not asked.has_kernel,
        "{title} has no EMSAv2 to run as {impl!r}",
    ),
    # switches that an implementation cannot run
    (
        lambda asked: asked.impl in ("sdpa", *FUSED) and not asked.switches.attends,
        "a ConvNet has no attention to run as {impl!r}",
    ),
    (
        lambda asked: asked.impl == "sdpa" and asked.switches.mhim,
        "MHIM works on the attention map, which {impl!r} never forms: run it as eager, compile or fused",
    ),
    (
        # its norm is of all queries of a window, those that are padding too
        lambda asked: asked.impl in FUSED and asked.switches.mhim and asked.switches.style != "global",
        "MHIM in windows has no kernel to run as {impl!r}: run it as eager or compile",
    ),
    (
        lambda asked: asked.impl in FUSED and asked.switches.target is None and not asked.switches.mhim,
        "without an upsample branch there is no EMSAv2 to run as {impl!r}",
    ),
    (
        lambda asked: asked.impl in FUSED and asked.switches.target not in ("v", None),
        "{impl!r} upsamples the values, as EMSAv2 does, and nothing else",
    ),
    (
        lambda asked: asked.impl in FUSED and asked.switches.upsample != "pixel_shuffle",
        "{impl!r} upsamples by a convolution and pixel_shuffle, as EMSAv2 does, and in no other way",
    ),
    (
        # besides, PVT's class token is a key and a query that are in no map
        lambda asked: asked.impl in FUSED and asked.switches.reduction != "depthwise",
        "without a depthwise reduction it is not EMSAv2, which {impl!r} runs",
    ),
    # inputs
    (
        lambda asked: asked.asks("inputs") and shapes_in(str(asked.options["inputs"])) is None,
        "inputs={options[inputs]}: it takes shapes of one image, as 1x28x28 or 3x224x224+10",
    ),
    # heads
    (
        lambda asked: asked.asks("detections") and not asked.asks("head", "mask_rcnn"),
        "detections=N is for head=mask_rcnn",
    ),
    (
        lambda asked: asked.asks("detections") and not _is_number_of_detections(asked.options["detections"]),
        f"detections={{options[detections]}}: it takes a number from 1 to {MOST_DETECTED}",
    ),
    (
        lambda asked: asked.asks("head", "mask_rcnn") and asked.impl in COMPILED,
        "Mask R-CNN chooses boxes by their values, which is no single graph to run as {impl!r}: "
        "without head=mask_rcnn its backbone runs so",
    ),
)


def reason(asked: Request) -> str | None:
    """Why a request cannot be met, in one line; None where it can."""
    return next((why.format(**asked._asdict()) for applies, why in RULES if applies(asked)), None)


def refusal(config: Config, impl: str, options: Options) -> str | None:
    """Why a model with these options cannot be built or run by `impl`, in one line; None where it can."""
    try:
        switches = assembled(config, options)
    except ValueError as error:
        return str(error)
    return reason(
        Request(
            impl,
            switches,
            options,
            config.title,
            getattr(config, "depths", None),
            config.has_attention,
            config.has_kernel,
        )
    )


def check(config: Config, impl: str, options: Options) -> None:
    """Refuse what cannot be built or run.

    Raises:
        ValueError: `refusal` has a reason, which is the message.
    """
    if why := refusal(config, impl, options):
        raise ValueError(why)
