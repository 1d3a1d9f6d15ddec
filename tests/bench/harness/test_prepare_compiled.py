"""A compiled case was compiled, and the precision policy holds whatever a model set before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from operator import attrgetter

import pytest
import torch
from torch._dynamo import config

import bench.harness.prepare as prepare_module
import models
from bench.cases import parse
from bench.errors import Wrong
from bench.harness.prepare import Prepared, Spent, _graphs, precision, prepare
from tests.support.sweeps import sweep

SHAPES = 11  # that 30 of coco are
LIMITS = {"cache_size_limit": 8, "recompile_limit": 8, "fail_on_recompile_limit_hit": False}  # torch's own
MIXED = """
from torch import nn

class Conv(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""

NETS = """
import torch
from torch import nn

class Eager(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    @torch.compiler.disable
    def forward(self, x):
        return super().forward(x)
"""


def test_a_model_that_keeps_the_compiler_out_is_not_timed_as_compiled(write_module):
    write_module("uncompiled_nets", NETS)
    case = parse("uncompiled_nets:Eager@32:b2:fp32:compile")
    with pytest.raises(Wrong, match=r"torch\.compile compiled nothing of it"):
        prepare(case, 1, torch.device("cpu"), lambda text: None, Spent())


NEWER = hasattr(torch.backends.cuda.matmul, "fp32_precision")
PROGRAMS = (
    "",
    "torch.set_float32_matmul_precision('high')",
    "torch.set_float32_matmul_precision('medium')",
    "torch.backends.cuda.matmul.allow_tf32 = True",
    "torch.backends.cudnn.allow_tf32 = False",
    *(
        (
            "torch.backends.fp32_precision = 'tf32'",
            "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
            "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
            "torch.set_float32_matmul_precision('high'); torch.backends.cuda.matmul.fp32_precision = 'ieee'",
        )
        if NEWER
        else ()
    ),
)


def asked() -> dict[str, object]:
    """The precision of fp32 by every name, "raises" where PyTorch says that they contradict each other."""
    backends = torch.backends
    names: dict[str, Callable[[], object]] = {
        "products": torch.get_float32_matmul_precision,
        "matmul": lambda: backends.cuda.matmul.allow_tf32,
        "cudnn": lambda: backends.cudnn.allow_tf32,
    }
    if NEWER:
        for part in ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn"):
            names[part] = partial(attrgetter(f"{part}.fp32_precision"), backends)
    answers = {}
    for name, ask in names.items():
        try:
            answers[name] = ask()
        except RuntimeError:
            answers[name] = "raises"
    return answers


@pytest.fixture
def untouched() -> Iterator[None]:
    """Every precision put back afterwards, the newer names that an older one sets last."""
    before, everything = asked(), torch.backends.fp32_precision if NEWER else None
    yield
    if NEWER:
        torch.backends.fp32_precision = everything
    torch.set_float32_matmul_precision(before["products"])
    torch.backends.cudnn.allow_tf32 = before["cudnn"]
    for part, value in before.items():
        if "." in part:
            attrgetter(part)(torch.backends).fp32_precision = value
    assert asked() == before


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_policy_holds_whatever_names_a_program_used_and_is_taken_back(program, untouched):
    """Inside, no name may contradict another: what reads an older one would raise, as inductor does."""
    exec(program)
    before = asked()
    with precision():
        held = asked()
    assert asked() == before
    assert held.pop("products") == "highest"
    assert (held.pop("matmul"), held.pop("cudnn")) == (False, False)
    assert set(held.values()) <= {"ieee"}


@pytest.fixture
def conv(write_module, monkeypatch) -> Iterator[str]:
    """A user's small network, captured by dynamo and run as it is, and dynamo's limits put back afterwards."""
    write_module("mixed_nets", MIXED)
    torch.compiler.reset()
    monkeypatch.setattr(models, "compiled", partial(models.compiled, backend="eager"))
    with config.patch({name: value for name, value in LIMITS.items() if hasattr(config, name)}):
        yield "mixed_nets:Conv"
    torch.compiler.reset()


def prepared(text: str) -> Prepared:
    return prepare(parse(text), 1, torch.device("cpu"), lambda text: None, Spent())


@sweep
def test_every_shape_of_a_mix_is_compiled(conv):
    """Torch makes 8 graphs by itself, and runs the other shapes as eager operators."""
    before = _graphs()
    it = prepared(f"{conv}@coco~30:b1:fp32:compile")
    assert (it.per_call, _graphs() - before) == (30, SHAPES)
    it.run()
    assert _graphs() - before == SHAPES


def test_a_limit_that_is_hit_is_an_error(conv, monkeypatch):
    monkeypatch.setattr(prepare_module, "GRAPHS", 0)  # as if each shape needed more than it has room for
    with pytest.raises(Wrong, match=r"torch\.compile gave up on 11 shapes"):
        prepared(f"{conv}@coco~30:b1:fp32:compile")


def test_a_torch_that_hits_it_in_silence_is_found_out(conv, monkeypatch):
    monkeypatch.setattr(prepare_module, "_make_room", lambda shapes: None)
    with pytest.raises(Wrong, match=r"torch\.compile made 8 graphs of 11 shapes"):
        prepared(f"{conv}@coco~30:b1:fp32:compile")
