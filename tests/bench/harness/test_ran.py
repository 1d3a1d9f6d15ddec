"""What ran on a CPU: operators alone, by their own time, of the call that is asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.harness.ran import own_times, recording, recording_next_call


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
    ran: list[str] = []
    with recording(ran), torch.profiler.record_function("a program's own"):
        torch.ones(3) + 1
    assert "aten::add" in ran and "a program's own" not in ran
    assert len(set(ran)) == len(ran)


def test_they_are_those_that_pytorchs_own_table_gives():
    ran: list[str] = []
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3, groups=8)).eval()
    with (
        torch.no_grad(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled,
    ):
        model(torch.randn(1, 3, 64, 64))
    with torch.no_grad(), recording(ran):
        model(torch.randn(1, 3, 64, 64))
    assert set(ran) >= {event.key for event in profiled.key_averages() if event.self_cpu_time_total > 50}


def test_only_the_next_call_of_the_model_is_recorded():
    ran: list[str] = []
    model = nn.Linear(3, 3)
    with recording_next_call(ran, model):
        torch.sin(torch.ones(1))
        model(torch.ones(1, 3))
        first = list(ran)
        torch.cos(model(torch.ones(1, 3)))
    model(torch.ones(1, 3))
    assert "aten::addmm" in first and ran == first
    assert not {"aten::sin", "aten::cos"} & set(ran)


def test_a_call_that_fails_leaves_the_model_as_it_was():
    model = nn.Linear(3, 3)
    for _ in range(2):  # nor does a profiler stay open
        with pytest.raises(RuntimeError, match="shapes"), recording_next_call([], model):
            model(torch.ones(1, 4))
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_a_model_that_is_not_called_has_nothing():
    ran: list[str] = []
    with recording_next_call(ran, nn.Linear(3, 3)):
        pass
    assert ran == []
