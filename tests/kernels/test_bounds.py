"""Static bounds, against sums by hand."""

import pytest

from kernels.bounds import bound, seconds
from kernels.gpus import GPUS
from kernels.launches import Call
from kernels.sass import Counts

A100, H200, B200 = (next(gpu for gpu in GPUS if gpu.name == name) for name in ("A100", "H200", "B200"))


def call(precision="fp16", bytes_=0, macs=0, moved=0):
    return Call(
        *("op", "query", "a model", "shape", "tile", True, 90, precision),
        *(1000, 1000 * bytes_, 1000 * (bytes_ + moved), 1000 * macs, 1, ()),
    )


@pytest.mark.parametrize(
    ("gpu", "counts", "unit", "clocks"),
    [
        (H200, {"BRA": 100.0}, "issue", 25),  # four schedulers
        (H200, {"FFMA": 100.0}, "fma", 25),  # 128 lanes
        (A100, {"FFMA": 100.0}, "fma", 50),  # 64
        (B200, {"FFMA2": 100.0}, "fma", 50),  # two results each, 128 a clock
        (H200, {"HFMA2": 60.0, "FFMA": 20.0, "IMAD": 10.0}, "fma", 25),  # 60/4 + 20/4 + 10/2
        (A100, {"HFMA2": 60.0, "FFMA": 20.0}, "half2", 15),  # a unit of its own before GA10x
        (H200, {"IADD3": 100.0}, "alu", 50),
        (B200, {"FMNMX": 100.0}, "alu", 25),
        (H200, {"MUFU.EX2": 100.0}, "mufu", 200),
        (H200, {"SHFL.BFLY": 100.0}, "lsu", 100),
        (H200, {"LDG.E.128": 100.0}, "l1", 400),  # 512 bytes a warp, 128 a clock
        (H200, {"HGMMA.64x64x16.F32": 100.0}, "tensor", 800),  # 16384 MACs a warp, 2048 a clock
    ],
)
def test_the_clocks_of_a_unit(gpu, counts, unit, clocks):
    found = bound(gpu, call(), Counts(counts))
    assert found.clocks[unit] == pytest.approx(clocks)


def test_the_slowest_unit_binds():
    found = bound(H200, call(bytes_=20), Counts({"IADD3": 80.0, "MUFU.EX2": 10.0}))
    assert (found.pipe, found.most) == ("alu", 40)
    a_clock = 4800 / 1.83 / 132  # bytes for each SM
    assert found.share_of_roof == pytest.approx(20 / a_clock / 40)


def test_the_roof_is_memory_or_the_products_whichever_is_longer():
    memory, products = call(bytes_=400, macs=2048), call(bytes_=4, macs=204800)
    assert bound(H200, memory, Counts({})).roof_clocks == pytest.approx(400 * 1.83 * 132 / 4800)
    assert bound(H200, products, Counts({})).roof_clocks == 100
    # fp32 has no matrix units: 128 multiply-adds a clock
    assert bound(H200, call("fp32", macs=1280), Counts({})).roof_clocks == 10


def test_what_launches_leave_for_each_other_binds_and_is_no_roof():
    found = bound(H200, call(bytes_=400, moved=400), Counts({}))
    assert found.pipe == "dram"
    assert found.share_of_roof == pytest.approx(0.5)


def test_padding_counts_where_the_name_of_an_instruction_tells():
    """A product of 64 slots for 49 keys keeps the matrix units busy for 64."""
    padded = Counts({"HGMMA.64x64x16.F32": 1.0})
    assert bound(H200, call(macs=16384 * 49 // 64), padded).clocks["tensor"] == 8
    assert bound(B200, call(macs=4096), Counts({"UTCHMMA": 9.0})).clocks["tensor"] == 1


def test_seconds_are_of_all_sms_at_once():
    assert seconds(H200, call(), 132.0) == pytest.approx(1000 / 1.83e9)
