"""timm's models, under the paper's names or their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from models.config import PeerConfig, Size
from models.uncompiled import without_compiler

with without_compiler():
    import timm
    import timm.layers


def build_peer(config: PeerConfig, size: Size, impl: str, *, maps: bool = False) -> nn.Module:
    """A peer of the paper with initial weights, built for `size` where it has to be.

    Args:
        maps: whether it is to give its four maps, as a `Backbone`, rather than logits.
    """
    name = config.timm_384 if config.timm_384 and size == (384, 384) else config.timm
    options: dict[str, object] = {"img_size": size} if config.takes_size else {}
    if not maps:
        return _create(name, impl, **options)
    from models.backbone import Backbone  # not above: all of ResT, and Triton with it

    body = _create(name, impl, **options, features_only=True, out_indices=(-4, -3, -2, -1))
    stages: Any = body.feature_info
    return Backbone(
        body, stages.channels(), channels_last=body.output_fmt == "NHWC", normed=config.maps_normed
    )


def build_timm(
    name: str, size: Size, own: Size, impl: str = "eager", *, is_dynamic: bool = False
) -> nn.Module:
    """`timm:NAME`, with or without a tag, with initial weights, built for `size` where it has to be.

    Args:
        own: the size that it has where nobody asks.
        is_dynamic: whether its embeddings are to be fitted to the image at hand.

    Raises:
        ValueError: timm has no such model, does not run its attention as `sdpa`, or does not build it so.
    """
    _check_name(name)
    try:
        model = _create(name, impl, dynamic_img_size=True) if is_dynamic else _for_size(name, size, own, impl)
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise
        raise ValueError(f"timm:{name} takes no dynamic_img_size: write timm:{name}@N") from None
    if impl == "sdpa" and not any(getattr(module, "fused_attn", False) for module in model.modules()):
        raise ValueError(f"timm:{name} has no attention that timm runs as 'sdpa'")
    return model


def _check_name(name: str) -> None:
    """See that timm has a model, and its tag.

    Raises:
        ValueError: it has not; the line has what is near.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = timm.list_models(f"*{architecture[:8]}*")[:3]
        raise ValueError(f"timm has no model {name!r}" + (f"; near it: {', '.join(near)}" if near else ""))
    tags = [each.partition(".")[2] for each in timm.list_models(f"{architecture}.*", include_tags=True)]
    if tag and tag not in tags:
        raise ValueError(f"timm has no {tag!r} of {architecture}; its tags are {', '.join(tags) or 'none'}")


def _for_size(name: str, size: Size, own: Size, impl: str) -> nn.Module:
    """The model for images of a size: told the size only if it is not its own, for many do not care.

    Raises:
        ValueError: it is not built for that size.
    """
    if size == own:
        return _create(name, impl)
    try:
        return _create(name, impl, img_size=size)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return _create(name, impl)  # has no size, or one that cannot be asked for: its forward tells
    except Exception as error:  # windows and grids that do not divide the size: each says so in its own way
        _create(name, impl)  # if that fails too, it is not for the size
        raise ValueError(
            f"timm does not build {name} for {_written(size)} pixels, but for {_written(own)}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _written(size: Size) -> str:
    return "x".join(map(str, size))


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
