"""A whole model from a CUDA graph: checked through what is replayed, refused where it cannot be.

No GPU is used: what stands for a graph here is a function that runs the case again into the same output.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import bench.harness.prepare as prepare_module
from bench.cases import parse
from bench.errors import Refused, UsageError, Wrong
from bench.harness.graphs import captured
from bench.harness.prepare import Prepared, Spent, prepare

CASES = [
    "restv2_lite[graph]@64:b2:fp32",
    "restv2_lite[graph]@64:b1:fp32:sdpa",
    "regnety_4g[graph]@64:b2:fp32",
]


def prepared(text: str, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    monkeypatch.setattr(prepare_module, "_has_graphs", lambda device: True)
    return prepare(parse(text), 1, torch.device("cpu"), lambda text: None, Spent())


def as_graph(it: Prepared, replay: Callable[[Tensor], object]) -> None:
    """Hand in a graph that was not captured: its output, and what replaying does to that."""
    out: Any = it.run()
    out = out.clone()
    it.captured(lambda: replay(out), out)


@pytest.mark.parametrize("text", CASES)
def test_outputs_are_checked_through_what_is_replayed(monkeypatch, text):
    it, replays = prepared(text, monkeypatch), []

    def replay(out: Tensor) -> None:
        replays.append(1)
        out.copy_(it.run())

    as_graph(it, replay)
    assert it.finish() == []
    assert replays
    assert it.check["error"] <= it.check["bound"]


@pytest.mark.parametrize("text", CASES[:2])
def test_a_graph_that_keeps_its_first_output_is_wrong(monkeypatch, text):
    it = prepared(text, monkeypatch)
    as_graph(it, lambda out: None)
    with pytest.raises(Wrong):
        it.finish()


def test_a_graph_that_is_a_little_off_is_wrong(monkeypatch):
    it = prepared(CASES[0], monkeypatch)
    as_graph(it, lambda out: out.copy_(1.01 * it.run()))  # type: ignore[operator]
    with pytest.raises(Wrong, match="differs from"):
        it.finish()


@pytest.mark.parametrize(
    "text", ["restv2_tiny[graph]:train", "restv2_tiny[graph]@coco", "swin_tiny[graph,head=mask_rcnn]"]
)
def test_what_no_graph_can_replay_is_refused_in_a_line(text):
    with pytest.raises(UsageError, match="a graph replays"):
        parse(text)


def test_a_cpu_has_no_graphs():
    with pytest.raises(Refused, match="a CUDA graph needs an NVIDIA GPU"):
        prepare(parse(CASES[0]), 1, torch.device("cpu"), lambda text: None, Spent())


@pytest.fixture
def cuda(monkeypatch) -> None:
    """A fake torch.cuda that captures nothing; like torch's, leaving a capture that failed raises once more."""

    @contextlib.contextmanager
    def graph(graph: object) -> Iterator[None]:
        try:
            yield
        except RuntimeError:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")  # noqa: B904

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "empty_cache": lambda: None,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: "replayed"),
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)


def failing(message: str) -> Callable[[], object]:
    """A function that runs once, to be warmed up, and fails when it is captured."""
    calls: list[int] = []

    def run() -> object:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError(message)
        return None

    return run


def test_a_model_that_cannot_be_captured_is_told_with_the_first_reason(cuda):
    with pytest.raises(
        RuntimeError, match="this model cannot be captured in a CUDA graph: operation not permitted"
    ):
        captured(failing("operation not permitted when stream is capturing\n(more)"), 3)


def test_want_of_memory_in_a_capture_is_still_that(cuda):
    """So that the batch is halved."""
    from bench.errors import out_of_memory

    with pytest.raises(RuntimeError) as caught:
        captured(failing("CUDA out of memory"), 3)
    assert out_of_memory(caught.value)


def test_the_output_is_that_of_the_last_iteration(cuda):
    numbers = iter(range(9))
    replay, out = captured(lambda: next(numbers), 3)
    assert (replay(), out) == ("replayed", 3)
