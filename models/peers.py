"""timm's models, under the paper's names or their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
import timm.layers
from torch import nn

from models.backbone import Backbone
from models.config import PeerConfig


def build_peer(config: PeerConfig, size: tuple[int, int], impl: str, *, maps: bool = False) -> nn.Module:
    """One of the paper's peers with initial weights, built for `size` where it has to be.

    Args:
        maps: whether it is to give its four maps, as a `Backbone`, rather than logits.
    """
    name = config.timm_384 if config.timm_384 and size == (384, 384) else config.timm
    options: dict[str, object] = {"img_size": size} if config.takes_size else {}
    if not maps:
        return _create(name, impl, **options)
    body = _create(name, impl, **options, features_only=True, out_indices=(-4, -3, -2, -1))
    stages: Any = body.feature_info
    return Backbone(
        body, stages.channels(), channels_last=body.output_fmt == "NHWC", normed=config.maps_normed
    )


def build_timm(name: str, impl: str) -> nn.Module:
    """`timm:NAME`, with initial weights.

    Raises:
        ValueError: timm has no such model, or does not run its attention as `sdpa`.
    """
    if name not in timm.list_models():
        near = timm.list_models(f"*{name[:8]}*")[:3]
        raise ValueError(f"timm has no model {name!r}" + (f"; near it: {', '.join(near)}" if near else ""))
    model = _create(name, impl)
    if impl == "sdpa" and not any(getattr(module, "fused_attn", False) for module in model.modules()):
        raise ValueError(f"timm:{name} has no attention that timm runs as 'sdpa'")
    return model


def _create(name: str, impl: str, **options: object) -> nn.Module:
    with _fused_attention(impl in ("sdpa", "auto")):  # where there is no attention, it changes nothing
        return timm.create_model(name, pretrained=False, **options)


@contextmanager
def _fused_attention(enabled: bool) -> Iterator[None]:
    """Fused attention on or off in the layers that timm makes meanwhile: they read a global of timm's."""
    before = {
        "enable": timm.layers.use_fused_attn(),
        "experimental": timm.layers.use_fused_attn(experimental=True),
    }
    # Swin's, with its bias as a mask, is among those that timm calls experimental
    timm.layers.set_fused_attn(enabled, experimental=enabled)
    try:
        yield
    finally:
        timm.layers.set_fused_attn(**before)
