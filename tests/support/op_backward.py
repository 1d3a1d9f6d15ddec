"""What the operator of a fused backward must do, whichever it is, where Triton interprets: each a check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from tests.support.emsa_upsample import double, off


@dataclass(frozen=True)
class Operator:
    """A forward operator whose gradient is one too, and the reference's formulas for that."""

    name: str
    forward: Callable[..., Tensor]
    gradients: Callable[..., tuple[Tensor | None, ...]]
    reference: Callable[..., tuple[Tensor | None, ...]]


def check_registration(operator: Operator, call: tuple[Any, ...]) -> None:
    """Schema, fake tensors, and that no result is part of another or of an argument."""
    backward = getattr(torch.ops.restv2, f"{operator.name}_backward").default
    torch.library.opcheck(backward, (torch.randn_like(call[0]), *call))


def check_called(operator: Operator, tensors: list[Any], geometry: dict[str, Any]) -> None:
    """The forward's gradient is the backward operator's, and right."""
    live, upstream = _live(tensors), torch.randn_like(tensors[0])
    found = torch.autograd.grad(operator.forward(*tensors, **geometry), live, upstream)
    own = _there(operator.gradients(upstream, *tensors, **geometry))
    assert all(map(torch.equal, found, own))
    truth = _there(operator.reference(upstream.double(), *double(tensors), **geometry))
    for one, other in zip(found, truth, strict=True):
        assert off(one, other) < 4e-3 * (1 + other.abs().max())


def check_fp32(operator: Operator, tensors: list[Any], geometry: dict[str, Any]) -> None:
    """It is left to the reference."""
    live, upstream = _live(tensors), torch.randn_like(tensors[0])
    found = torch.autograd.grad(operator.forward(*tensors, **geometry), live, upstream)
    with torch.no_grad():
        own = _there(operator.reference(upstream, *tensors, **geometry))
    assert all(map(torch.equal, found, own))


def check_saved(operator: Operator, tensors: list[Any], geometry: dict[str, Any]) -> None:
    """Nothing but the inputs: neither the result nor what is between, of which autograd saves much of the reference."""
    live, saved = _live(tensors), []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        operator.forward(*tensors, **geometry)
    assert {x.untyped_storage().data_ptr() for x in saved} == {x.untyped_storage().data_ptr() for x in live}
    assert len(saved) == len(live)


def check_compiled(operator: Operator, tensors: list[Any], geometry: dict[str, Any]) -> None:
    """A step compiles to one graph forward and one back, without a break; the second has the operator in it."""
    torch.compiler.reset()
    live, upstream, graphs = _live(tensors), torch.randn_like(tensors[0]), []

    def keep(graph: Any, _: Any) -> Any:
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return make_boxed_func(graph.forward)

    def core(*tensors: Any) -> Tensor:
        return operator.forward(*tensors, **geometry)

    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    out = torch.compile(core, fullgraph=True, backend=backend)(*tensors)
    found = torch.autograd.grad(out, live, upstream)
    truth = torch.autograd.grad(core(*tensors), live, upstream)
    assert all(map(torch.equal, found, truth))
    assert len(graphs) == 2
    assert f"restv2.{operator.name}_backward.default" in graphs[1]


def check_autocast(operator: Operator, tensors: list[Any], geometry: dict[str, Any]) -> None:
    """Parameters, which are of fp32, have gradients of fp32."""
    live = _live(tensors)
    with torch.autocast("cpu", torch.bfloat16):
        out = operator.forward(*tensors, **geometry)
    upstream = torch.randn_like(out)
    found = torch.autograd.grad(out, live, upstream)
    assert {one.dtype for one in found} == {torch.float32}
    truth = _there(operator.reference(upstream.double(), *double(tensors), **geometry))
    for one, other in zip(found, truth, strict=True):
        assert off(one, other) < 0.05 * (1 + other.abs().max())


def _live(tensors: list[Any]) -> list[Tensor]:
    return [tensor.requires_grad_() for tensor in _there(tensors)]


def _there(tensors: Any) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]
