"""Reference models: `build` makes one, `names` lists them. Importing this package does not import torch."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from models.config import (
    AttentionConfig,
    Config,
    CoreConfig,
    FocalConfig,
    ForeignConfig,
    MLPConfig,
    PeerConfig,
    PVTConfig,
    ResTv1Config,
    Size,
)
from models.switches import COMPILED, DETECTIONS, assembled, check
from models.variants import MODELS, config_of, own_size

if TYPE_CHECKING:
    import torch
    from torch import nn

WITH_KERNELS = (("models.attention", "Attention"), ("models.layers", "MLP"))  # the modules that may run ours


def names() -> list[str]:
    """Every model that has a name of its own here."""
    return list(MODELS)


def build(
    name: str,
    *,
    size: Size = (224, 224),
    impl: str = "eager",
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """A model in evaluation mode, in fp32 (or the default dtype) on the current default device.

    Args:
        name: one of `names()`, `timm:NAME`, or `module:Class`.
        size: height and width, for the models that are built for one size.
        impl: "eager"; "sdpa", PyTorch's own fused attention; "fused", our kernels for EMSAv2, MHIM and the MLP;
            "compile" and "fused+compile", eager's formulas and our kernels through torch.compile; "auto", our
            kernels where they run, else SDPA where the model has attention for it, else eager.
        weights: file of weights: the authors' released ones for ResTv1 and ResTv2, of others whatever fits.
        options: the model's own, as in `models.switches`.

    Raises:
        ValueError: an unknown name, option or implementation, a combination without meaning, or weights that do not
            fit: one line that says which.
    """
    config = config_of(name)
    check(config, impl, {**options, **({"weights": weights} if weights else {})})
    head, detections = options.pop("head", "classifier"), int(options.pop("detections", DETECTIONS))
    model = _without_head(config, size, COMPILED.get(impl, impl), options, maps=head != "classifier")
    if weights:
        from models.checkpoint import load

        load(model, weights)
    if head != "classifier":
        model = _under_head(head, model, detections)
    model.eval()
    return compiled(model) if impl in COMPILED else model


def _without_head(config: Config, size: Size, impl: str, options: dict[str, Any], *, maps: bool) -> nn.Module:
    """The classifier, or a part of one stage; a peer whose `maps` are asked for is a `Backbone` already."""
    if isinstance(config, ForeignConfig):
        return _foreign(config, size, impl, options)
    if isinstance(config, PeerConfig):
        from models.peers import build_peer

        return build_peer(config, size, impl, maps=maps)
    if isinstance(config, CoreConfig):
        from models.attention import Core

        return Core(config.shape(size, **options), impl=impl)
    if isinstance(config, MLPConfig):
        from models.layers import MLP

        return MLP(config.shape(size, **options).dim, config.of.mlp_ratio, may_fuse=impl in ("fused", "auto"))
    if isinstance(config, AttentionConfig):
        from models.windows import alone

        return alone(config, size, impl=impl, **options)
    if isinstance(config, FocalConfig):
        from models.focal import Focal

        return Focal(config, impl=impl)
    switches = assembled(config, options)
    if isinstance(config, PVTConfig):
        from models.pvt import PyramidVisionTransformer

        return PyramidVisionTransformer(config, switches, size=size, impl=impl)
    from models.rest import ResTv1, ResTv2

    family = ResTv1 if isinstance(config, ResTv1Config) else ResTv2
    return family(config, switches, size=size, impl=impl)


def _foreign(config: ForeignConfig, size: Size, impl: str, options: dict[str, Any]) -> nn.Module:
    """A model of timm's by its own name, or a user's class, which is called without arguments.

    Raises:
        ValueError: timm does not have the model or cannot run it so; the class cannot be imported, or gives no
            nn.Module when called without arguments.
    """
    name = config.title
    if config.is_timms:
        from models.peers import build_timm  # not above: timm takes two seconds to import

        return build_timm(
            name.removeprefix("timm:"), size, own_size(name), impl, is_dynamic="dynamic_img_size" in options
        )
    from torch import nn

    made = users_class(name)
    try:
        model = made()
    except Exception as error:  # a user's class may fail in any way; which one is the message
        raise ValueError(f"cannot make {name}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} gives {type(model).__name__}, not a torch.nn.Module")
    stated = getattr(made, "INPUTS", None)
    return _by_name(model, list(stated)) if isinstance(stated, dict) else model


def _by_name(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """The model, which takes by position now what its forward takes by these names: everything here calls it so."""
    own: Any = type(model)
    if getattr(own, "takes_by_position", False):  # whoever makes it gives the same one again
        return model

    class ByName(own):
        takes_by_position = True

        def forward(self, *given: Any) -> Any:
            if len(given) > len(names):
                raise TypeError(f"{len(given)} inputs for the {len(names)} that INPUTS names")
            return super().forward(**dict(zip(names, given, strict=False)))

    ByName.__name__, ByName.__qualname__ = own.__name__, own.__qualname__
    model.__class__ = ByName  # and not a module around it, which would change the names of all others
    return model


def users_class(name: str) -> Any:
    """The class that `module:Class` names.

    Raises:
        ValueError: it cannot be imported.
    """
    module, attribute = name.split(":", 1)
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module may fail in any way; which one is the message
        raise ValueError(f"cannot make {name}: {type(error).__name__}: {error}") from error


def _under_head(head: str, model: nn.Module, detections: int) -> nn.Module:
    """The model as the backbone of a detector or a segmenter."""
    from models.backbone import Backbone

    backbone = model if isinstance(model, Backbone) else Backbone.of_rest(model)
    if head == "mask_rcnn":
        from models.detection import MaskRCNN

        return MaskRCNN(backbone, detections=detections)
    from models.segmentation import UperNet

    return UperNet(backbone)


def kernels_in(model: nn.Module, device: torch.device, dtype: torch.dtype) -> dict[str, int]:
    """Our kernels that a forward of the model runs, and in how many modules each.

    Args:
        dtype: of the tokens; under autocast, what it casts to.
    """
    # what nobody has imported is in no model, and importing it, for one of timm's, would take a tenth of a second
    kinds = tuple(getattr(sys.modules[place], kind) for place, kind in WITH_KERNELS if place in sys.modules)
    ours = (module for module in model.modules() if isinstance(module, kinds))
    names = Counter(module.kernel(device, dtype) for module in ours)
    return {name: number for name, number in sorted(names.items(), key=str) if name}


def compiled(model: nn.Module, backend: object = "inductor") -> nn.Module:
    """The model through torch.compile, one graph for one shape; ours must be a single graph without a break."""
    import torch

    ours = type(model).__module__.startswith(f"{__name__}.")
    return torch.compile(model, backend=backend, dynamic=False, fullgraph=ours)
