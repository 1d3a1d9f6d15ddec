"""Digests: a later visit that computes something else than the first is refused, before and after it is timed."""

import copy
import importlib

import pytest
import torch
from torch import nn

import models
from bench.cases import parse
from bench.errors import Wrong
from bench.harness import digests, inputs, prepare
from bench.harness.verify import EAGER_BOUND, FIRST_VISIT, check_outputs

CPU = torch.device("cpu")
NETS = """
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 50))


def scripted():
    return torch.jit.script(Net())


class Wrapped(nn.Module):
    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        return self.change(self.net(x))
"""


@pytest.fixture
def nets(write_module):
    write_module("digested_nets", NETS)
    return importlib.import_module("digested_nets")


def checked(model: nn.Module, batch: int, before=None, eager=None):
    case = parse(f"digested_nets:Net@16:b{batch}:fp32")
    (given,) = inputs.calls(case, batch, CPU)
    return check_outputs(case, model, eager or copy.deepcopy(model), given, CPU, before)


@pytest.mark.parametrize("batch", [1, 4, 11])
def test_the_same_model_passes_and_its_reference_does_not_run(nets, batch):
    torch.manual_seed(0)
    net = nets.Net()
    first = checked(net, batch)
    assert len(first.digest[next(iter(first.digest))]) == {1: 2, 4: 4, 11: inputs.DISTINCT}[batch]

    class Untouchable(nn.Module):
        def forward(self, x):
            raise AssertionError("the reference of a later visit is the first")

    later = checked(net, batch, first.digest, Untouchable())
    assert (later.found["against"], later.found["error"]) == (FIRST_VISIT, 0)
    assert later.found["bound"] == EAGER_BOUND["fp32"]
    later.again()


@pytest.mark.parametrize("batch", [1, 4, 11])
@pytest.mark.parametrize(
    "change",
    [
        torch.zeros_like,
        lambda out: out.flip(1),
        lambda out: out + 1e-2,
        lambda out: out * float("nan"),
        lambda out: out[:, :10],
        lambda out: {"other": out, "more": out},
        lambda out: out[:1].expand_as(out) if len(out) > 1 else out * 1.01,  # the first image's for all
        lambda out: torch.cat([out[:-1], out[-1:] * 1.01]),
    ],
    ids=["zeros", "flipped", "shifted", "NaN", "short", "others", "one for all", "last image"],
)
def test_a_later_visit_that_computes_something_else_is_refused(nets, batch, change):
    torch.manual_seed(0)
    net = nets.Net()
    first = checked(net, batch)
    with pytest.raises(Wrong):
        checked(nets.Wrapped(net, change), batch, first.digest)


def test_a_later_visit_that_changes_while_it_is_timed_is_refused(nets):
    torch.manual_seed(0)
    net = nets.Net()
    first = checked(net, 4)
    later = checked(net, 4, first.digest)
    with torch.no_grad():
        net[0].weight.mul_(1.1)
    with pytest.raises(Wrong, match="first visit"):
        later.again()


@pytest.mark.parametrize(
    "text",
    ["restv2_lite@32:b2:fp32", "restv2_lite@32:b2:bf16", "convnext_tiny@32:b1:fp32", "regnety_4g@64:b1:fp32"],
)
def test_a_prepared_case_leaves_digests_that_it_keeps_itself_and_another_model_does_not(text):
    def prepared(text, known=None):
        with digests.known(known):
            return prepare.prepare(parse(text), 1, CPU, lambda phase: None, prepare.Spent())

    first = prepared(text)
    assert first.finish() == [] and "aten::addmm" in first.took
    later = prepared(text, [first.digests])
    assert later.finish() == []
    assert later.check["against"] == FIRST_VISIT
    assert later.check["error"] == 0
    changed = [
        [{name: [[-x for x in row] for row in rows] for name, rows in one.items()} for one in first.digests]
    ]
    with pytest.raises(Wrong, match="first visit"):
        prepared(text, changed).finish()


def prepared(text, known=None):
    with digests.known(known):
        return prepare.prepare(parse(text), 1, CPU, lambda phase: None, prepare.Spent())


@pytest.mark.parametrize(
    ("text", "is_late"),
    [
        ("restv2_lite@32:b1:fp32", True),
        ("restv2_lite@32:b1:fp32:sdpa", True),
        ("convnext_tiny@32:b1:fp32", True),
        ("restv2_lite@32:b2:fp32", False),  # each image has another place in the end
        ("digested_nets:Net@16:b1:fp32", False),  # may keep what it made of the weights at its first call
        ("timm:levit_128s:b1:fp32", False),  # does so
    ],
)
def test_of_an_image_alone_a_later_visit_of_a_model_known_here_is_checked_once_it_is_timed(
    nets, text, is_late
):
    first = prepared(text)
    assert first.finish() == []
    later = prepared(text, [first.digests])
    assert bool(later.check) != is_late
    later.run()
    assert later.finish() == []
    assert later.check["against"] == FIRST_VISIT and later.check["error"] == 0
    assert first.took and later.took == {}


def test_a_scripted_model_which_takes_no_hooks_is_recorded_too(nets):
    first = prepared("digested_nets:scripted@16:b1:fp32")
    assert first.finish() == [] and "aten::linear" in first.took


def test_a_later_visit_runs_the_very_model_that_was_built_and_the_first_a_copy(nets, monkeypatch):
    build = models.build
    built: list[nn.Module] = []

    def kept(*names, **more) -> nn.Module:
        built.append(build(*names, **more))
        return built[-1]

    def prepared(known=None) -> prepare.Prepared:
        case = parse("digested_nets:Net@16:b2:fp32")
        with digests.known(known):
            return prepare.prepare(case, 1, CPU, lambda phase: None, prepare.Spent())

    monkeypatch.setattr(models, "build", kept)
    first = prepared()
    assert first.model is not built[0]
    assert prepared([first.digests]).model is built[1]


def test_where_rounding_leaves_nothing_to_compare_every_visit_is_checked_in_full():
    text = "restv2_lite[mhim]@32:b1:bf16"
    case = prepare.prepare(parse(text), 1, CPU, lambda phase: None, prepare.Spent())
    assert case.digests == []
