"""Inductor's plan of small graphs, against what can be worked out by hand: no GPU, and no data."""

from __future__ import annotations

import textwrap

import pytest
import torch

from bench.cases import parse
from bench.harness import macs, plan
from bench.traffic import Traffic
from tests.support.sweeps import sweep, swept

NET = """
    import torch
    from torch import nn
    from torch.nn import functional as F


    class Net(nn.Module):
        INPUTS = [(64, 32)]

        def __init__(self):
            super().__init__()
            self.linear, self.scale = nn.Linear(32, 48), nn.Parameter(torch.ones(48))

        def forward(self, x):
            x = F.gelu(self.linear(x) * 3) + 1  # one kernel of a library, and one of Triton's
            x = x.softmax(-1) * self.scale  # in the same, for a row is a block of threads' own
            return x[:, :32] @ x.mT
"""


@pytest.fixture
def net(write_module):
    write_module("planned_net", textwrap.dedent(NET))
    return parse("planned_net:Net:compile")


def test_what_is_fused_is_read_and_written_once(net):
    counts = macs.planned(net)
    assert counts.traffic_of == plan.FOR and counts.notes == []
    rows, wide = 64, 48
    assert counts.traffic_by(1) == {
        "linear": Traffic(1, rows * 32, rows * wide, 32 * wide, macs=rows * 32 * wide),
        "fused": Traffic(
            1, rows * wide, rows * wide, 2 * wide
        ),  # the bias too: something follows to add it in
        "matmul": Traffic(1, rows * wide, 32 * rows, macs=32 * rows * wide),  # both are of one buffer
    }


@pytest.mark.parametrize(
    "asked", swept(["freezing", "max_autotune", "triton.cudagraphs"], lambda asked: asked == "max_autotune")
)
def test_the_plan_is_that_of_the_defaults_whatever_the_environment_asks_for(net, asked):
    from torch._inductor import config

    usual = macs.planned(net).traffic
    with config.patch({asked: True}):
        assert macs.planned(net).traffic == usual
    assert usual


def test_a_plan_that_cannot_be_made_costs_no_count(net, monkeypatch):
    def broken(*_):
        raise RuntimeError("another PyTorch")

    monkeypatch.setattr(plan, "traffic", broken)
    counts = macs.planned(net)
    assert counts.macs("core") == 64 * 32 * 48 + 32 * 64 * 48
    assert counts.as_dict()["traffic"] is None
    assert "no plan: RuntimeError" in counts.notes[0]


def test_planning_leaves_the_gpu_as_it_was(net):
    before = torch.cuda.get_device_properties, torch.cuda.get_device_capability
    macs.planned(net)
    assert (torch.cuda.get_device_properties, torch.cuda.get_device_capability) == before


BROKEN = """
    import torch
    from torch import nn


    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)

        def forward(self, x):
            x = self.one(x)
            torch._dynamo.graph_break()
            return self.two(x)


    class Net(nn.Module):
        INPUTS = (64,)

        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(4))

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x


    class Between(nn.Module):
        INPUTS = (64,)

        def __init__(self):
            super().__init__()
            self.one, self.large = nn.Linear(64, 64), torch._dynamo.disable(nn.Linear(64, 1000))

        def forward(self, x):
            return self.large(self.one(x) + 1)
"""


@pytest.fixture
def broken_nets(write_module):
    write_module("broken_nets", textwrap.dedent(BROKEN))


def test_a_graph_that_runs_several_times_is_planned_as_often(broken_nets):
    counts = macs.planned(parse("broken_nets:Net:compile"))
    linear = counts.traffic_by(1)["linear"]
    assert (linear.macs, linear.launches, linear.once) == (8 * 64 * 64, 8, 8 * 64 * 64)
    assert any("captured graphs alone" in note for note in counts.notes)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("broken_nets:Between:compile", "a part of it runs between the captured graphs"),
        ("restv2_lite[autocast]@64:b1:bf16", "autocast decides on its casts as it runs"),
        pytest.param(
            *("restv2_lite@coco2~2:compile", "of a compiled mix no plan is made"),
            marks=sweep,
        ),
    ],
)
@pytest.mark.usefixtures("small_models")
def test_bytes_that_are_not_known_are_none_and_a_note(broken_nets, text, why):
    counts = macs.planned(parse(text))
    assert counts.as_dict()["traffic"] is None
    assert f"bytes and launches unknown: {why}" in counts.notes
