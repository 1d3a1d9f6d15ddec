"""A time split by the parts of a model: with a clock that the test turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import protocols
from bench.cases import parse
from bench.harness import speed, timing
from bench.harness.prepare import Spent
from bench.harness.timing import Stamps
from bench.machine.state import NoMonitor, Reading

CPU = torch.device("cpu")


class Clockwork:
    """Time that passes when somebody says so."""

    now = 0.0

    def __call__(self, run: Any, iterations: int) -> float:
        start = self.now
        for _ in range(iterations):
            run()
        return self.now - start

    flush_s = 0.0


class Takes(nn.Module):
    """A part that takes the seconds it is told to, one after another."""

    def __init__(self, clock: Clockwork, *seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += self.seconds[self.calls % len(self.seconds)]
        self.calls += 1
        return x


class InParts(nn.Module):
    SUBMODULES = ("first", "second")

    def __init__(self, clock: Clockwork, first: tuple[float, ...], second: tuple[float, ...]) -> None:
        super().__init__()
        self.first, self.second = Takes(clock, *first), Takes(clock, *second)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


RULES = protocols.Rules("test", 2, 0, 0, 3, 3, 0, limit_s=60)


def split_of(clock: Clockwork, model: nn.Module) -> Stamps:
    return Stamps(model, CPU, stamp=lambda: clock.now, seconds_between=lambda first, then: then - first)


def test_a_sample_is_split_without_its_warm_up():
    clock = Clockwork()
    # two calls of warm-up that are slower than all others
    model = InParts(clock, (50, 50, 1, 2, 3), (70, 70, 10, 20, 30))
    with split_of(clock, model) as split:
        taken = timing.sample(lambda: model(torch.zeros(1)), clock, NoMonitor(), RULES, sampled=split.sampled)
    assert split.samples_s == {"first": [1, 2, 3], "second": [10, 20, 30]}
    assert taken.samples_s == [11, 22, 33]


def test_the_parts_of_a_mix_are_the_mean_over_its_images():
    clock = Clockwork()
    model = InParts(clock, (1, 2, 6), (10, 20, 60))

    def run() -> None:
        for _ in range(3):
            model(torch.zeros(1))

    with split_of(clock, model) as split:
        taken = timing.sample(run, clock, NoMonitor(), RULES, per_call=3, sampled=split.sampled)
    assert split.samples_s == {"first": [3.0] * 3, "second": [30.0] * 3}
    assert taken.samples_s == [33.0] * 3


def test_a_sample_that_heat_spoilt_is_in_no_part():
    clock = Clockwork()
    model = InParts(clock, (1, 1, 99, 50, 50, 2, 3, 4), (1,))  # after a pause it warms up again
    readings = iter([True, False, False, False])

    class Hot:
        def read(self) -> Reading:
            return Reading(throttle=("thermal",) if next(readings) else ())

    with split_of(clock, model) as split:
        timing.sample(
            lambda: model(torch.zeros(1)), clock, Hot(), RULES, sampled=split.sampled, pause=lambda s: None
        )
    assert split.samples_s["first"] == [2, 3, 4]


@pytest.mark.usefixtures("small_models", "narrow_heads")
def test_a_row_has_its_parts(monkeypatch):
    """As the worker makes it: as many samples as of the whole, which they add up to."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    rules = protocols.Rules("test", 1, 0, 0, 3, 3, 0, limit_s=60)
    say, spent = (lambda phase: None), Spent()
    for harness, case, names in (
        (
            speed.throughput,
            "restv2_lite[detections=2,head=mask_rcnn]@64:b1:fp32",
            ["backbone", "fpn", "rpn", "heads"],
        ),
        (speed.latency, "restv2_lite[head=upernet]@64:b2:fp32", ["backbone", "decoder"]),
        (speed.throughput, "restv2_lite[head=upernet]@64:b2:fp32", ["backbone", "decoder"]),
        (speed.latency, "restv2_lite@64:b1:fp32", []),
    ):
        result, _ = harness([parse(case)], rules, say, spent)
        parts = result["parts_s"] or {}
        assert list(parts) == names
        assert all(len(seconds) == len(result["samples_s"]) == 3 for seconds in parts.values())
        for number, whole in enumerate(result["samples_s"] if names else []):
            assert 0.8 * whole < sum(seconds[number] for seconds in parts.values()) <= whole


def test_on_a_gpu_stamps_are_events_that_are_read_once_they_are_over(monkeypatch):
    clock, made = Clockwork(), []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            made.append(self)

        def record(self) -> None:
            self.at = clock.now

        def elapsed_time(self, other: Event) -> float:
            return 1e3 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    model = InParts(clock, (3,), (4,))
    with Stamps(model, torch.device("cuda")) as split:
        for _ in range(2):
            model(torch.zeros(1))
        split.sampled(True)
    assert len(made) == 2 * 3
    assert split.samples_s == {"first": [3], "second": [4]}


def test_nothing_is_left_on_the_model_and_one_without_parts_has_none():
    clock = Clockwork()
    model = InParts(clock, (1,), (2,))
    with pytest.raises(KeyError), split_of(clock, model):
        raise KeyError
    with split_of(clock, model) as split:
        pass
    model(torch.zeros(1))
    split.sampled(True)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with Stamps(nn.Linear(2, 2), CPU) as split:
        split.sampled(True)
    assert split.samples_s == {}
    with Stamps(None, CPU) as split:
        split.sampled(True)
    assert split.samples_s == {}
