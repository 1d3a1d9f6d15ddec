"""Profiles and the board's energy as a row has them; readings and events of GPUs here are synthetic."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from bench.harness import speed
from bench.harness.prepare import Prepared


@pytest.mark.parametrize(
    ("spans", "length"),
    [
        ([], 0),
        ([(0, 1), (2, 4)], 3),
        ([(2, 4), (0, 3)], 4),  # two streams at once count once
        ([(0, 10), (1, 2), (3, 4)], 10),
        ([(0, 1), (1, 2), (1, 2)], 2),
    ],
)
def test_busy_time_is_the_union_of_the_kernels(spans, length):
    assert speed.busy(spans) == length


def event(name: str, start: float, end: float, on: DeviceType, annotation: bool = False) -> Any:
    return SimpleNamespace(
        name=name,
        device_type=on,
        is_user_annotation=annotation,
        time_range=SimpleNamespace(start=start, end=end),
        self_device_time_total=end - start if on is DeviceType.CUDA else 0.0,
    )


class FakeProfiler:
    """Synthetic events of a GPU in place of torch's profiler; times are in µs."""

    EVENTS: tuple[Any, ...] = (
        event(speed.CALL, 0, 1100, DeviceType.CPU, annotation=True),
        event("cudaLaunchKernel", 10, 900, DeviceType.CPU),
        event(speed.CALL, 100, 1000, DeviceType.CUDA, annotation=True),
        event("gemm", 100, 300, DeviceType.CUDA),
        event("norm", 250, 350, DeviceType.CUDA),  # on another stream
        event("memcpy", 800, 1000, DeviceType.CUDA),
        event(speed.CALL, 2000, 2500, DeviceType.CPU, annotation=True),
        event("copy", 2100, 2200, DeviceType.CUDA),
        event("gemm", 2200, 2350, DeviceType.CUDA),
        event("gemm", 2350, 2400, DeviceType.CUDA),
    )

    def __init__(self, **_: Any) -> None:
        pass

    def __enter__(self) -> FakeProfiler:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def events(self) -> Any:
        return self.EVENTS


def test_the_share_is_of_kernels_alone_and_of_an_iteration_without_the_profiler(monkeypatch):
    monkeypatch.setattr("torch.profiler.profile", FakeProfiler)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    profiled, other = speed._profiled_on_gpu([lambda: None, lambda: None])
    assert profiled.operators == ["gemm", "memcpy", "norm"]
    assert profiled.busy_s == pytest.approx(450e-6)
    assert profiled.share(900e-6, 1) == pytest.approx(0.5)
    assert profiled.share(450e-6, 2) == pytest.approx(0.5)  # a call of two iterations
    assert profiled.share(400e-6, 1) == 1.0  # kernels are a little slower under a profiler
    assert other.operators == ["gemm", "copy"]  # the second of a pair has its own
    assert other.busy_s == pytest.approx(300e-6)


@pytest.mark.parametrize("fails", [True, False])
def test_what_was_not_recorded_is_not_known(monkeypatch, fails):
    class Empty(FakeProfiler):
        EVENTS = ()

        def events(self) -> Any:
            if fails:
                raise RuntimeError("another profiler holds the counters")
            return None

    monkeypatch.setattr("torch.profiler.profile", Empty)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert [each.share(1.0, 1) for each in speed._profiled_on_gpu([lambda: None] * 2)] == [None, None]


@pytest.mark.parametrize("took", [None, {"aten::ones": 1.0, "aten::add": 2.0}, {}])
def test_a_cpu_has_operators_and_no_share(took):
    """The operators are those of a run where the check records none, and a later visit has none."""
    runs = []
    case = Prepared(lambda: runs.append(torch.ones(3) + 1), {}, took=took)
    (profiled,) = speed._profiled([case], torch.device("cpu"))
    assert profiled.busy_s is None and profiled.share(1.0, 1) is None
    assert len(runs) == (took is None)
    ran = speed._ran(profiled, case)
    assert (ran is None) == (took == {})
    if took:
        assert ran == ["aten::add", "aten::ones"]
    elif took is None:
        assert ran and "aten::add" in ran


STATE: dict[str, Any] = {"energy_j": 700.0, "energy_s": 2.0, "other_processes": []}


@pytest.mark.parametrize(
    ("change", "joules"),
    [
        ({}, 0.7),
        ({"energy_j": None}, None),
        ({"energy_j": 0.0}, None),
        ({"energy_s": 0.3}, None),  # the counter's steps would be seen
        ({"other_processes": ["4711 (python)"]}, None),
        ({"other_processes": None}, 0.7),
    ],
)
def test_energy_is_for_an_image_where_it_is_this_cases_alone(monkeypatch, change, joules):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    assert speed._joules({**STATE, **change}, 1000) == joules


def test_a_slice_has_not_the_boards_energy(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    assert speed._joules(STATE, 1000) is None


def test_every_call_is_counted():
    counted = speed.Counted(lambda: "out")
    assert [counted() for _ in range(3)] == ["out"] * 3
    assert counted.calls == 3
