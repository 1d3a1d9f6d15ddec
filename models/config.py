"""Every model that has a name, as data. No torch here: the command line and the reports read this file too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Option:
    """An option of a model, written `model[name]` (a flag) or `model[name=value]`."""

    help: str
    flag: bool = True


MHIM = Option("multi-head interaction module: a 1x1 conv across heads before the softmax, InstanceNorm after")
WEIGHTS = Option("the authors' released weights: a .pth or .safetensors file", flag=False)


@dataclass(frozen=True)
class ResTv2Config:
    """A ResTv2 variant: section 3.3 and Table 9 of the paper; `lite` is Table 7's."""

    title: str
    width: int  # channels of the first stage; doubled at each later one
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)
    mlp_ratio: int = 4

    family: ClassVar[str] = "ResTv2"
    options: ClassVar[dict[str, Option]] = {"mhim": MHIM, "weights": WEIGHTS}
    impls: ClassVar[tuple[str, ...]] = ("eager", "sdpa", "compile")
    min_size: ClassVar[int] = 32  # stage 4 sees a 32nd of the image


@dataclass(frozen=True)
class PeerConfig:
    """A model taken from timm under the paper's name for it."""

    title: str
    family: str
    timm: str
    timm_384: str | None = None  # where the authors' 384 model is another network, not another input
    takes_size: bool = False  # built for one size, named when it is built
    has_attention: bool = False  # so `sdpa` means something

    options: ClassVar[dict[str, Option]] = {}
    min_size: ClassVar[int] = 32

    @property
    def impls(self) -> tuple[str, ...]:
        return ("eager", "sdpa", "compile") if self.has_attention else ("eager", "compile")


RESTV2 = {
    "restv2_tiny": ResTv2Config("ResTv2-T", 96, (1, 2, 6, 2)),
    "restv2_small": ResTv2Config("ResTv2-S", 96, (1, 2, 12, 2)),
    "restv2_base": ResTv2Config("ResTv2-B", 96, (1, 3, 16, 3)),
    "restv2_large": ResTv2Config("ResTv2-L", 128, (2, 3, 16, 2), heads=(2, 4, 8, 16)),
    "restv2_lite": ResTv2Config("ResTv2-Lite", 64, (2, 2, 2, 2)),
}


def _swin(letter: str, size: str, timm_384: str | None = None) -> PeerConfig:
    return PeerConfig(
        f"Swin-{letter}",
        "Swin",
        f"swin_{size}_patch4_window7_224",
        timm_384=timm_384,
        takes_size=True,
        has_attention=True,
    )


PEERS = {
    "regnety_4g": PeerConfig("RegNetY-4G", "RegNetY", "regnety_040"),
    "regnety_8g": PeerConfig("RegNetY-8G", "RegNetY", "regnety_080"),
    "regnety_16g": PeerConfig("RegNetY-16G", "RegNetY", "regnety_160"),
    "convnext_tiny": PeerConfig("ConvNeXt-T", "ConvNeXt", "convnext_tiny"),
    "convnext_small": PeerConfig("ConvNeXt-S", "ConvNeXt", "convnext_small"),
    "convnext_base": PeerConfig("ConvNeXt-B", "ConvNeXt", "convnext_base"),
    "swin_tiny": _swin("T", "tiny"),
    "swin_small": _swin("S", "small"),
    # at 384 the paper's Swin-B is the one with windows of 12, as its 47.1 G shows
    "swin_base": _swin("B", "base", "swin_base_patch4_window12_384"),
}

MODELS: dict[str, ResTv2Config | PeerConfig] = {**RESTV2, **PEERS}
