"""Profiled steps as one unprofiled iteration: operators and what they leave, kernels and idle time. By hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.errors import UsageError
from bench.trace import iterations, tables, told
from bench.trace.joined import OUTSIDE, PHASES
from bench.trace.operators import BY
from tests.support.traces import Event, annotation, kernel, launched, operator, written

SQUARE = [[4, 8], [8, 16]]
MACS = 4 * 8 * 16


def module(name: str, ts: float, dur: float) -> Event:
    return annotation(f"nn.Module: {name}", ts, dur)


def cpu_step(number: int, at: float) -> list[Event]:
    """A step of 100 µs: 10 outside, a product of 30 in a module, 20 outside in another, a sum of 40."""
    return [
        annotation(f"ProfilerStep#{number}", at, 100),
        module("stages.0", at + 5, 40),
        module("fc", at + 6, 38),
        operator("aten::mm", at + 10, 30, SQUARE),
        module("head", at + 50, 50),
        operator("aten::sum", at + 60, 40, [[4, 16]]),
    ]


def read(
    folder: Path, events: list[Event], unprofiled_us: float, per_step: int = 1, **more: Any
) -> dict[str, Any]:
    return iterations.read(written(folder / "it.json", events, **more), unprofiled_us / 1e6, per_step)


def named(told_of: dict[str, Any], by: str, phase: str = "all") -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in told_of["lines"][by] if line["phase"] == phase}


def test_on_a_cpu_the_parts_add_up_to_the_unprofiled_iteration(tmp_path):
    found = read(tmp_path, [*cpu_step(1, 0), *cpu_step(2, 500)], 80, device=None)
    assert (found["steps"], found["scale"]) == (2, 1)
    for by in BY:
        assert sum(line["ms"] for line in found["lines"][by]) == pytest.approx(0.08)
        assert sum(line["share"] for line in found["lines"][by]) == pytest.approx(1)
    lines = named(found, "operator")
    assert {name: line["ms"] for name, line in lines.items()} == pytest.approx(
        {"matmul": 0.03, "reduction": 0.04, "outside": 0.01}
    )
    assert found["outside_share"] == pytest.approx(1 / 8)
    assert found["unattributed"] == [{"why": OUTSIDE, "share": pytest.approx(1 / 8), "names": [OUTSIDE]}]
    assert found["attributed"] == pytest.approx(7 / 8)
    assert (found["busy_s"], found["idle_share"], found["launches"]) == (None, None, None)


def test_operators_that_take_longer_than_the_unprofiled_iteration_are_scaled_to_it(tmp_path):
    found = read(tmp_path, [*cpu_step(1, 0), *cpu_step(2, 500)], 35, device=None)
    assert found["scale"] == pytest.approx(0.5)
    lines = named(found, "operator")
    assert {name: line["ms"] for name, line in lines.items()} == pytest.approx(
        {"matmul": 0.015, "reduction": 0.02}
    )
    assert (found["outside_share"], found["attributed"], found["unattributed"]) == (0, 1, [])


def test_counts_are_of_one_iteration_and_rates_of_its_time(tmp_path):
    found = read(tmp_path, [*cpu_step(1, 0), *cpu_step(2, 500)], 35, device=None)
    product = named(found, "operator")["matmul"]
    moved = 4 * (4 * 8 + 8 * 16 + 4 * 16)
    assert (product["calls"], product["macs"], product["moved_bytes"]) == (1, MACS, moved)
    assert product["tflops"] == pytest.approx(2 * MACS / 15e-6 / 1e12)
    assert product["gb_per_s"] == pytest.approx(moved / 15e-6 / 1e9)
    assert found["macs"] == MACS
    assert found["known"] == 1.0  # also where no operator runs: nothing is multiplied there


def test_a_step_of_several_iterations_is_divided_by_them(tmp_path):
    found = read(tmp_path, cpu_step(1, 0), 50, per_step=2, device=None)
    assert found["scale"] == 1
    line = named(found, "operator")["reduction"]
    assert line["ms"] == line["ms_per_step_low"] == line["ms_per_step_high"] == pytest.approx(0.02)


def test_the_ends_are_the_shortest_and_the_longest_step(tmp_path):
    slow = [annotation("ProfilerStep#2", 500, 100), operator("aten::sum", 500, 80, [[4, 16]])]
    found = read(tmp_path, [*cpu_step(1, 0), *slow], 100, device=None)
    line = named(found, "operator")["reduction"]
    ends = line["ms_per_step_low"], line["ms"], line["ms_per_step_high"]
    assert ends == pytest.approx((0.04, 0.06, 0.08))


def test_time_outside_of_operators_is_of_the_module_of_what_comes_next(tmp_path):
    found = read(tmp_path, cpu_step(1, 0), 100, device=None)
    lines = {name: line["ms"] for name, line in named(found, "module").items()}
    assert lines == pytest.approx({"stages.0.fc": 0.04, "head": 0.06})


def test_time_outside_of_operators_has_a_phase(tmp_path):
    events = [
        annotation("ProfilerStep#1", 0, 100),
        operator("aten::mm", 10, 10, SQUARE),
        operator("autograd::engine::evaluate_function: MmBackward0", 40, 10),
        annotation("Optimizer.step#AdamW.step", 60, 35),
        operator("aten::add_", 70, 20, [[4, 16]]),
    ]
    found = read(tmp_path, events, 100, device=None)
    outside = {phase: named(found, "operator", phase)["outside"]["ms"] for phase in PHASES[:3]}
    assert outside == pytest.approx({"forward": 0.01, "backward": 0.02, "optimizer": 0.03})
    whole = {phase: sum(line["ms"] for line in named(found, "call", phase).values()) for phase in outside}
    assert whole == pytest.approx({"forward": 0.02, "backward": 0.03, "optimizer": 0.05})


def test_operators_outside_of_the_steps_are_left_out(tmp_path):
    before = operator("aten::add", -100, 50, [[4, 4]])
    found = read(tmp_path, [before, *cpu_step(1, 0)], 100, device=None)
    assert "element-wise" not in named(found, "operator")


def test_on_a_gpu_kernels_are_as_they_are_and_the_rest_is_idle(tmp_path):
    steps = [
        event
        for number in (1, 2)
        for event in (
            annotation(f"ProfilerStep#{number}", 1000 * number, 900),
            *launched("aten::mm", 1000 * number + 10, 100, SQUARE, number=2 * number),
            *launched("aten::relu", 1000 * number + 200, 50, [[4, 16]], number=2 * number + 1),
        )
    ]
    found = read(tmp_path, steps, 200)
    assert (found["scale"], found["launches"], found["calls"], found["outside_share"]) == (1, 2, 2, None)
    assert found["busy_s"] == pytest.approx(150e-6)
    assert found["idle_share"] == pytest.approx(0.25)
    lines = named(found, "operator")
    assert {name: line["ms"] for name, line in lines.items()} == pytest.approx(
        {"matmul": 0.1, "activation": 0.05}
    )
    assert lines["matmul"]["tflops"] == pytest.approx(2 * MACS / 100e-6 / 1e12)
    assert lines["matmul"]["flop_per_launch"] == 2 * MACS
    assert "share_of_peak" in lines["matmul"]
    busier = read(tmp_path, steps, 140)  # kernels are a little slower under a profiler
    assert busier["idle_share"] == 0.0
    before = launched("aten::mm", 10, 100, SQUARE, number=9)  # in no step
    assert read(tmp_path, [*before, *steps], 200)["busy_s"] == pytest.approx(150e-6)


def test_kernels_of_a_graph_are_listed_and_not_dropped(tmp_path):
    graph = [
        annotation("ProfilerStep#1", 0, 500),
        {**launched("x", 9, 1)[1], "name": "cudaGraphLaunch", "ts": 10, "args": {"correlation": 7}},
        *(kernel(7, start, 40) for start in (20, 60)),
    ]
    found = read(tmp_path, graph, 100)
    assert found["attributed"] == 0.0 and found["launches"] == 2
    assert [reason["share"] for reason in found["unattributed"]] == [1.0]
    assert named(found, "operator")["(no operator)"]["ms"] == pytest.approx(0.08)


def test_a_trace_without_steps_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nothing took any time in a step"):
        read(tmp_path, [operator("aten::mm", 0, 10, SQUARE)], 10, device=None)


def test_names_of_modules_are_cut_as_far_as_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(iterations, "MOST_MODULES", 3)
    names = ["stages.0.a", "stages.0.b", "stages.1.a", "stages.1.b", "head"]
    events = [annotation("ProfilerStep#1", 0, 100)]
    for place, name in enumerate(names):
        events += [module(name, 20 * place, 20), operator("aten::sum", 20 * place, 20, [[2]])]
    found = read(tmp_path, events, 100, device=None)
    assert {name: line["ms"] for name, line in named(found, "module").items()} == pytest.approx(
        {"stages.0": 0.04, "stages.1": 0.04, "head": 0.02}
    )


def test_a_line_is_the_same_once_packed_and_unpacked_but_for_its_last_digits(tmp_path):
    joined = told.read(written(tmp_path / "it.json", launched("aten::mm", 0, 10, SQUARE)))
    for line in tables.lines(joined, "operator"):
        packed = iterations.packed(line)
        assert None not in packed.values()
        back = iterations.unpacked(packed).record()
        for name, value in line.record().items():
            assert back[name] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)
