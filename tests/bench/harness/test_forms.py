"""Weights that are not floating-point: left as they are with a line, or refused; never cast."""

from __future__ import annotations

import importlib

import pytest
import torch

from bench.cases import parse
from bench.errors import Refused
from bench.harness import forms, verify
from bench.harness.forms import in_form
from bench.harness.prepare import Spent, prepare

CPU = torch.device("cpu")
SOURCE = '''
import torch
from torch import nn


class Whole(nn.Module):
    """A table of whole numbers and a mask, beside real weights."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 5)
        self.table = nn.Parameter(torch.tensor([2**24 + 1, 7, -3]), requires_grad=False)
        self.register_buffer("mask", torch.tensor([True, False, True]))

    def forward(self, x):
        assert self.table.dtype == torch.int64 and self.mask.dtype == torch.bool
        return self.head(self.norm(x).mean((2, 3)) * self.mask)


class Complex(nn.Module):
    """A filter of frequencies, as GFNet and FNO have."""

    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(3, 8, 5, dtype=torch.cfloat))
        self.head = nn.Linear(192, 5)

    def forward(self, x):
        y = torch.fft.irfft2(torch.fft.rfft2(x) * self.filter, s=(8, 8))
        return self.head(y.flatten(1))


class Spectrum(Complex):
    def forward(self, x):
        return (torch.fft.rfft2(x) * self.filter).flatten(1)
'''


@pytest.fixture(autouse=True)
def classes(write_module):
    write_module("weighty", SOURCE)


def prepared(text: str):
    case = parse(text)
    return prepare(case.resolve(2, case.dtype or "fp32"), 1, CPU, lambda phase: None, Spent())


@pytest.mark.parametrize("dtype", ["fp32", "fp64", "bf16"])
def test_whole_numbers_stay_and_are_told(dtype):
    notes = prepared(f"weighty:Whole@8:{dtype}").notes
    assert "1 of its weights is int64 and stay so, as table" in notes
    assert "1 of its weights is bool and stay so, as mask" in notes
    assert len(notes) == 2  # a batch norm's counter is no weight


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp64"])
def test_no_conversion_touches_a_counter(dtype):
    Whole = importlib.import_module("weighty").Whole

    model = in_form(parse(f"weighty:Whole@8:{dtype}"), Whole(), CPU)
    assert model.norm.num_batches_tracked.dtype == torch.int64
    assert model.norm.running_mean.dtype == forms.TORCH_DTYPES[dtype]
    assert model.table.tolist() == [2**24 + 1, 7, -3]


@pytest.mark.parametrize(("dtype", "kept"), [("fp32", torch.complex64), ("fp64", torch.complex128)])
def test_complex_weights_keep_their_imaginary_parts(dtype, kept, recwarn):
    Complex = importlib.import_module("weighty").Complex

    made = Complex()
    before = made.filter.detach().clone()
    model = in_form(parse(f"weighty:Complex@8:{dtype}"), made, CPU)
    assert model.filter.dtype == kept
    assert torch.equal(model.filter.detach().to(torch.cfloat), before)
    assert "1 of its weights is " in prepared(f"weighty:Complex@8:{dtype}").notes[0]
    assert not [warning for warning in recwarn if "imaginary" in str(warning.message)]


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_complex_weights_are_refused_in_half_precision(dtype):
    with pytest.raises(Refused, match=f"filter is complex, and {dtype} has no complex numbers"):
        prepared(f"weighty:Complex@8:{dtype}")


def test_a_complex_output_is_compared_in_both_parts():
    out = verify._rows({"x": torch.tensor([[1 + 2j]])})["x"]
    assert out.tolist() == [[1.0, 2.0]]
    assert prepared("weighty:Spectrum@8").run().is_complex()
