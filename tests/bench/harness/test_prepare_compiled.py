"""A compiled case was compiled, and the precision policy holds whatever a model set before."""

from __future__ import annotations

import importlib

import pytest
import torch

from bench.cases import parse
from bench.errors import Wrong
from bench.harness.prepare import Spent, precision, prepare

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


def test_a_model_that_keeps_the_compiler_out_is_not_timed_as_compiled(tmp_path, monkeypatch):
    (tmp_path / "uncompiled_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    case = parse("uncompiled_nets:Eager@32:b2:fp32:compile")
    with pytest.raises(Wrong, match=r"torch\.compile compiled nothing of it"):
        prepare(case, 1, torch.device("cpu"), lambda text: None, Spent())


def test_the_policy_holds_where_a_model_used_the_newer_names():
    """Reading the older ones raises then."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this torch has the older names alone")
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with precision():
            assert matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before
