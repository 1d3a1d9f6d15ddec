"""Recording what runs on a CPU: operators alone, by their own time, of every call that is asked for."""

from __future__ import annotations

import torch
from torch import nn

from bench.harness.ran import own_times, recording

CPU_ALONE = [torch.profiler.ProfilerActivity.CPU]


def test_the_time_of_a_call_is_not_its_callers():
    calls = [
        (0, -100, 1, "linear"),
        (10, -60, 1, "addmm"),
        (20, -5, 1, "empty"),
        (20, -300, 2, "backward"),  # another thread's, and nobody's here
        (80, -20, 1, "add"),  # ends with what it is in
        (100, -7, 1, "linear"),
    ]
    assert own_times(calls) == {"linear": 20 + 7, "addmm": 55, "empty": 5, "add": 20, "backward": 300}


def test_operators_are_recorded_and_a_programs_own_names_are_not():
    took: dict[str, float] = {}
    with recording(took), torch.profiler.record_function("a program's own"):
        torch.ones(3) + 1
    assert "aten::add" in took
    assert all(name.startswith("aten::") for name in took), took


def test_they_are_those_of_pytorchs_own_table():
    took: dict[str, float] = {}
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3, groups=8)).eval()

    def run() -> None:
        with torch.no_grad(), torch.profiler.record_function("a program's own"):
            model(torch.ones(1, 3, 64, 64))

    run()
    with torch.profiler.profile(activities=CPU_ALONE) as profiled:
        run()
    with recording(took):
        run()
    assert took.keys() == {event.key for event in profiled.key_averages() if not event.is_user_annotation}


def test_calls_add_up():
    took: dict[str, float] = {}
    with recording(took):
        torch.sin(torch.ones(9))
    before = dict(took)
    torch.exp(torch.ones(9))
    with recording(took):
        torch.cos(torch.ones(9))
    assert took.keys() - before.keys() == {"aten::cos"}
    assert took["aten::fill_"] > before["aten::fill_"]
