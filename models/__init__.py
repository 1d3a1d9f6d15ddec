"""Reference models: `build` makes one, `names` lists them. Importing this package does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.config import (
    ATTENTIONS,
    COMPILED,
    CORES,
    DETECTIONS,
    FOCAL,
    FUSED,
    MODELS,
    OWN,
    PEERS,
    PVT,
    RESTV1,
    RESTV2,
)

if TYPE_CHECKING:
    from torch import nn


def names() -> list[str]:
    """Every model that has a name of its own here."""
    return list(MODELS)


def build(
    name: str,
    *,
    size: tuple[int, int] = (224, 224),
    impl: str = "eager",
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """A model in evaluation mode, in fp32 (or the default dtype) on the current default device.

    Args:
        name: one of `names()`, `timm:NAME`, or `module:Class`.
        size: height and width, for the models that are built for one size.
        impl: "eager"; "sdpa", PyTorch's own fused attention; "fused", our kernel for EMSAv2; "compile" and
            "fused+compile", eager's formulas and our kernel through torch.compile; "auto", the fused kernel where it
            runs, else SDPA where the model has attention for it, else eager.
        weights: the authors' released weights, for ResTv1 and ResTv2.
        options: the model's own, as in `models.config`.

    Raises:
        ValueError: an unknown name, option or implementation, a combination without meaning, or weights that do not
            fit: one line that says which.
    """
    inner = COMPILED.get(impl, impl)
    if name in MODELS:
        MODELS[name].check(impl, **options)
    elif impl in FUSED:
        raise ValueError(f"{name} has no EMSAv2 to run as {impl!r}")
    elif unknown := options.keys() & {"head", "detections"}:
        raise ValueError(f"{name} takes no option {', '.join(sorted(unknown))}")
    head, detections = options.pop("head", "classifier"), options.pop("detections", None)
    if name in OWN:
        model = _build_own(name, size, inner, options)
        if weights:
            from models.checkpoint import load

            load(model, weights)
    elif options or weights:
        raise ValueError(f"{name} takes no option {', '.join([*options, *(['weights'] if weights else [])])}")
    elif name in PEERS:
        from models.peers import build_peer

        model = build_peer(PEERS[name], size, inner, features=head != "classifier")
    elif name.startswith("timm:"):
        from models.peers import build_timm

        model = build_timm(name.removeprefix("timm:"), inner)
    elif ":" in name:
        from models.custom import build_class

        model = build_class(name)
    else:
        raise ValueError(f"no model {name!r}; there are {', '.join(names())}, timm:NAME and module:Class")
    if head != "classifier":
        model = _under_head(head, model, detections)
    model.eval()
    return compiled(model) if impl in COMPILED else model


def _build_own(name: str, size: tuple[int, int], impl: str, options: dict[str, Any]) -> nn.Module:
    if name in CORES:
        from models.attention import Core

        return Core(CORES[name].shape(size, **options), impl=impl)
    if name in ATTENTIONS:
        from models.windows import alone

        return alone(ATTENTIONS[name], size, impl=impl, **options)
    if name in FOCAL:
        from models.focal import Focal

        if options:
            raise ValueError(f"{name} takes no option {', '.join(options)}")
        return Focal(FOCAL[name], impl=impl)
    if name in PVT:
        from models.pvt import PyramidVisionTransformer

        return PyramidVisionTransformer(PVT[name], size=size, impl=impl, **options)
    if name in RESTV1:
        from models.restv1 import ResTv1

        return ResTv1(RESTV1[name], size=size, impl=impl, **options)
    from models.restv2 import ResTv2

    return ResTv2(RESTV2[name], size=size, impl=impl, **options)


def _under_head(head: str, model: nn.Module, detections: str | None) -> nn.Module:
    from models.backbone import Backbone

    backbone = model if isinstance(model, Backbone) else Backbone.of_rest(model)
    if head == "mask_rcnn":
        from models.detection import MaskRCNN

        return MaskRCNN(backbone, detections=int(detections or DETECTIONS))
    from models.segmentation import UperNet

    return UperNet(backbone)


def compiled(model: nn.Module, backend: object = "inductor") -> nn.Module:
    """`model` through torch.compile, one graph for one shape; ours must be a single graph without a break."""
    import torch

    ours = type(model).__module__.startswith(f"{__name__}.")
    return torch.compile(model, backend=backend, dynamic=False, fullgraph=ours)
