"""What tests of kernels on a GPU share: marks, problems moved there, and what must come out the same every time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.emsa_upsample import double, off, rms

NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
    pytest.mark.timeout(900),
]
CUDA = torch.device("cuda")
HALVES = (torch.float16, torch.bfloat16)


def moved(tensors: Iterable[Tensor | None]) -> list[Any]:
    """The tensors on the GPU, each with its layout and with what lies around it, so that poison stays poison."""
    return [None if x is None else _moved(x) for x in tensors]


def _moved(x: Tensor) -> Tensor:
    whole = torch.tensor([], dtype=x.dtype).set_(x.untyped_storage())
    return whole.to(CUDA).as_strided(x.shape, x.stride(), x.storage_offset())


def held(
    run: Callable[[Any], Tensor],
    configs: Iterable[Any],
    reference: Callable[..., Tensor],
    tensors: Sequence[Any],
    geometry: dict[str, Any],
) -> None:
    """Hold what each configuration gives to twice the reference's own largest error, and 1.25 times its RMS one.

    Both are errors against the reference in float64.
    """
    truth, eager = reference(*double(tensors), **geometry), reference(*tensors, **geometry)
    for config in configs:
        out = run(config)
        assert out.isfinite().all()
        assert off(out, truth) <= 2 * off(eager, truth) + 1e-5, config
        assert rms(out, truth) <= 1.25 * rms(eager, truth) + 1e-6, config


def same_from_a_graph(run: Callable[[], Tensor]) -> bool:
    """Whether a CUDA graph of a call gives the bits of the call."""
    with torch.no_grad():
        eager = run()  # compiled before it is captured
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replayed = run()
        graph.replay()
        return torch.equal(replayed, eager)


def same_bits(repeats: int, run: Callable[..., Tensor | Sequence[Tensor | None]], *arguments: Any) -> bool:
    """Whether every repetition gives the bits of the first: what does not is a race, or reads what nobody wrote."""
    first = _several(run(*arguments))
    return all(
        all(one is other or torch.equal(one, other) for one, other in zip(first, again, strict=True))
        for again in (_several(run(*arguments)) for _ in range(repeats))
    )


def _several(out: Tensor | Sequence[Tensor | None]) -> list[Any]:
    return [out] if isinstance(out, Tensor) else list(out)
