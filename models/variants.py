"""Every model that has a name, a line each. No torch: the command line and the reports read these tables too."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Any

from models.config import (
    DEFAULT_SIZE,
    AttentionConfig,
    Config,
    CoreConfig,
    FocalConfig,
    ForeignConfig,
    MLPConfig,
    PeerConfig,
    PVTConfig,
    ResTv1Config,
    ResTv2Config,
    Shape,
    Size,
    StageConfig,
)
from models.switches import IMPLS, TINY_DEPTHS, refusal, shapes_in

RESTV2 = {
    "restv2_tiny": ResTv2Config("ResTv2-T", 96, TINY_DEPTHS),
    "restv2_small": ResTv2Config("ResTv2-S", 96, (1, 2, 12, 2), drop_path=0.2),
    "restv2_base": ResTv2Config("ResTv2-B", 96, (1, 3, 16, 3), drop_path=0.3),
    "restv2_large": ResTv2Config("ResTv2-L", 128, (2, 3, 16, 2), heads=(2, 4, 8, 16), drop_path=0.5),
    "restv2_lite": ResTv2Config("ResTv2-Lite", 64, (2, 2, 2, 2)),
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

TABLE3 = RESTV2["restv2_tiny"]  # the backbone of Table 3, which has the styles of windows

CORES = {
    "core_tiny": CoreConfig("EMSAv2 core of ResTv2-T", RESTV2["restv2_tiny"]),  # S and B have the same stages
    "core_large": CoreConfig("EMSAv2 core of ResTv2-L", RESTV2["restv2_large"]),
    "core_lite": CoreConfig("EMSAv2 core of ResTv2-Lite", RESTV2["restv2_lite"]),
}

MLPS = {
    "mlp_tiny": MLPConfig("MLP of ResTv2-T", RESTV2["restv2_tiny"]),
    "mlp_large": MLPConfig("MLP of ResTv2-L", RESTV2["restv2_large"]),
    "mlp_lite": MLPConfig("MLP of ResTv2-Lite", RESTV2["restv2_lite"]),
}

ATTENTIONS = {
    "attention_tiny": AttentionConfig("Attention of ResTv2-T", RESTV2["restv2_tiny"]),
    "attention_large": AttentionConfig("Attention of ResTv2-L", RESTV2["restv2_large"]),
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

# The models that are written here; the others are timm's.
OWN: dict[str, Config] = {**RESTV2, **RESTV1, **PVT, **FOCAL, **CORES, **MLPS, **ATTENTIONS}
MODELS: dict[str, Config] = {**OWN, **PEERS}


def config_of(name: str) -> Config:
    """The configuration of a named model, of `timm:NAME` or of a user's `module:Class`.

    Raises:
        ValueError: there is no such name.
    """
    if name in MODELS:
        return MODELS[name]
    if ":" in name:
        return ForeignConfig(name)
    raise ValueError(f"no model {name!r}; there are {', '.join(MODELS)}, timm:NAME and module:Class")


TIMM_SIZES = Path(__file__).with_name("timm_sizes.csv")


def own_size(name: str) -> Size:
    """The size of image that a model is meant for: of timm's as timm says, tag by tag; of any other 224."""
    source, _, tagged = name.partition(":")
    if source != "timm":
        return DEFAULT_SIZE
    known = _timm_sizes()
    return known.get(tagged) or known.get(tagged.partition(".")[0], DEFAULT_SIZE)


@cache
def _timm_sizes() -> dict[str, Size]:
    """Sizes by name, from a file: to ask timm itself takes seconds, and torch. Those that are not there are 224."""
    found: dict[str, Size] = {}
    with TIMM_SIZES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            height, _, width = row["size"].partition("x")
            found |= dict.fromkeys(row["models"].split(), (int(height), int(width or height)))
    return found


def runs(config: Config, impl: str, **options: str | bool) -> bool:
    """Whether `impl` can run the model with these options."""
    return refusal(config, impl, options) is None


def implementations(config: Config) -> list[str]:
    """The implementations that run the model without options."""
    return [impl for impl in IMPLS if runs(config, impl)]


def input_shapes(name: str, size: Size, **options: Any) -> tuple[Shape, ...]:
    """Shapes of the model's inputs for one image of `size`: an image, the tokens of a stage, or what `inputs` says."""
    config = MODELS.get(name)
    if shapes := shapes_in(options.get("inputs", "")):
        return shapes
    return config.inputs(size, **options) if isinstance(config, StageConfig) else ((3, *size),)
