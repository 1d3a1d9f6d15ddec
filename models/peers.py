"""Models of timm's, under the paper's names or their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import timm
import timm.layers
from torch import nn

from models.config import PeerConfig


def build_peer(config: PeerConfig, size: tuple[int, int], impl: str) -> nn.Module:
    """One of the paper's peers, initial weights, built for `size` where it has to be."""
    name = config.timm_384 if config.timm_384 and size == (384, 384) else config.timm
    return _create(name, impl, **({"img_size": size} if config.takes_size else {}))


def build_timm(name: str, impl: str) -> nn.Module:
    """`timm:NAME`, initial weights.

    Raises:
        ValueError: timm has no such model, or `sdpa` of one whose attention timm does not run so.
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
    """timm picks fused attention by itself, from a global that a layer reads when it is made."""
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
