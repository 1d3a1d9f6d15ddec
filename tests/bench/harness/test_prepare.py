"""What is refused before a case is timed."""

import pytest
import torch

from bench.cases import parse
from bench.errors import Wrong
from bench.harness import prepare as preparing

CPU = torch.device("cpu")
NETS = """
import torch


class Crowded(torch.nn.Module):
    def forward(self, x):
        out = x.mean((2, 3))
        return out / 0 if len(x) > 2 else out
"""


def prepare(text):
    return preparing.prepare(parse(text), 1, CPU, lambda phase: None, preparing.Spent())


def test_the_whole_batch_is_checked_not_only_its_first_images(write_module):
    write_module("crowded_nets", NETS)
    assert prepare("crowded_nets:Crowded@32:b2").check["against"] == "its own eager"
    with pytest.raises(Wrong, match="not finite"):
        prepare("crowded_nets:Crowded@32:b3")


def test_compile_without_a_compiler_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler"):
        prepare("restv2_lite@32:b1:fp32:compile")
