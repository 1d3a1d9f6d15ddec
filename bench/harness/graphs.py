"""CUDA graphs: a case captured to be replayed without launches, its outputs checked through what is replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import out_of_memory


class Graphed(nn.Module):
    """A model that is called as it is until it is captured, and from then on through the graph that is timed."""

    def __init__(self, model: nn.Module, given: tuple[Tensor, ...]) -> None:
        """
        Args:
            given: the tensors that the graph will read.
        """
        super().__init__()
        self._model, self._given = model, given
        self._replay: Callable[[], object] | None = None
        self._out: object = None

    def captured(self, replay: Callable[[], object], out: object) -> None:
        """Call the graph from now on.

        Args:
            out: where a replay leaves its output.
        """
        self._replay, self._out = replay, out

    def forward(self, *arguments: Tensor) -> Any:
        """The output for other images of the same shape; a later call overwrites it."""
        if self._replay is None:
            return self._model(*arguments)
        kept = [mine.clone() for mine in self._given]
        for mine, theirs in zip(self._given, arguments, strict=True):
            mine.copy_(theirs)
        self._replay()
        for mine, before in zip(self._given, kept, strict=True):
            mine.copy_(before)
        return self._out


def captured(run: Callable[[], object], iterations: int) -> tuple[Callable[[], object], object]:
    """A function that replays so many iterations of `run` from one CUDA graph, and where the last leaves its output.

    `run` has run before, and compiled what it compiles.

    Raises:
        RuntimeError: it cannot be captured, or there is no memory for its graph; the process should not go on.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # as PyTorch asks for: what is set up lazily, is then set up
        run()
    torch.cuda.current_stream().wait_stream(aside)
    torch.cuda.empty_cache()  # the graph has a pool of its own
    graph, out = torch.cuda.CUDAGraph(), None
    try:
        with torch.cuda.graph(graph):
            for _ in range(iterations):
                out = run()
    except Exception as error:  # capturing fails with whatever the model or a library raises then
        first = error.__context__ or error  # leaving a capture that failed raises an error of its own
        if out_of_memory(first):
            raise first from None
        reason = next(iter(str(first).strip().splitlines()), type(first).__name__)
        raise RuntimeError(f"this model cannot be captured in a CUDA graph: {reason}") from error
    return graph.replay, out
