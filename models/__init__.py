"""Reference models: `build` makes one, `names` lists them. Importing this package does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.config import MODELS, PEERS, RESTV2

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
        size: height and width, for the peers that are built for one size.
        impl: "eager", "sdpa", or "compile": eager's formulas through torch.compile.
        weights: the authors' released weights, for ResTv2.
        options: the model's own, as in `models.config`.

    Raises:
        ValueError: an unknown name, option or implementation, or weights that do not fit: one line that says which.
    """
    inner = "eager" if impl == "compile" else impl
    if name in RESTV2:
        from models.restv2 import ResTv2

        model = ResTv2(RESTV2[name], impl=inner, **options)
        if weights:
            from models.checkpoint import load

            load(model, weights)
    elif options or weights:
        raise ValueError(f"{name} takes no option {', '.join([*options, *(['weights'] if weights else [])])}")
    elif name in PEERS:
        from models.peers import build_peer

        model = build_peer(PEERS[name], size, inner)
    elif name.startswith("timm:"):
        from models.peers import build_timm

        model = build_timm(name.removeprefix("timm:"), inner)
    elif ":" in name:
        from models.custom import build_class

        model = build_class(name)
    else:
        raise ValueError(f"no model {name!r}; there are {', '.join(names())}, timm:NAME and module:Class")
    model.eval()
    return compiled(model) if impl == "compile" else model


def compiled(model: nn.Module, backend: object = "inductor") -> nn.Module:
    """`model` through torch.compile, one graph for one shape; ours must be a single graph without a break."""
    import torch

    from models.restv2 import ResTv2

    return torch.compile(model, backend=backend, dynamic=False, fullgraph=isinstance(model, ResTv2))
