"""The figure of rooflines: points, the roof's shares, its regions, and what lies above it."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from bench.roofline import Peaks
from reports import roofs
from reports.figures import WIDE
from reports.profiles import Profile
from reports.roofs import points, rooflines
from tests.support.profiled import PEAKS, lines, moving, profile, rated
from tests.support.reporting import words_in

TIMES = {"conv": 5.0, "matmul": 3.0, "norm": 1.9, "view": 0.05, "loss": 0.05}
MACS = {"conv": 9, "matmul": 1}
NET = profile(
    TIMES,
    MACS,
    conv=rated(80, 1000, 0.8),  # of 100: compute-bound
    matmul=rated(5, 10, 0.5),  # of 10, the memory's: 1000 GB/s at 10 FLOPs a byte
    norm=moving(300),
    loss=moving(10),
)
BEYOND = "138 of 636 calls beyond fp16's 100 TFLOP/s, at most 130: Winograd"


def figure(*found):
    plot = rooflines(found, "made", "Invented.")
    assert plot and plot.narrow
    return plot


def test_operators_are_points_with_the_share_of_their_roof():
    words = words_in(figure(NET))
    assert {"conv 80 %", "matmul 50 %", "norm", "30 %"} <= set(words)
    assert "loss" not in words  # which takes next to no time
    assert [point.line.name for point in points([NET])] == ["conv", "matmul", "norm"]


def test_what_a_roof_allows_lies_on_it():
    """Peak 100 TFLOP/s and 1 TB/s: min(100, FLOPs a byte) TFLOP/s."""
    for point in points([NET])[:2]:
        allowed = (point.line.tflops or 0) / point.of_roof
        assert allowed == pytest.approx(min(100, point.line.flop_per_byte or 0))


@pytest.mark.parametrize("form", ["wide", "narrow"])
def test_the_regions_and_the_lines_are_named(form):
    plot = figure(NET)
    words = " ".join(words_in(plot if form == "wide" else plot.narrow))
    for text in ("memory-bound", "compute-bound", "fp16", "100 TFLOP/s", "10 %", "1 %", "reached", "allowed"):
        assert text in words


def test_the_title_names_what_loses_most_below_its_roof():
    """conv loses a fifth of 50 %, matmul half of 30 %, norm 70 % of 19 %."""
    assert figure(NET).title == "matmul of Net takes 30 % of the time and reaches 50 % of its roof"


def test_a_point_above_the_roof_is_drawn_and_explained():
    above = profile(TIMES, MACS, conv=rated(130, 1000, 1.3, remarks=(BEYOND,)))
    plot = figure(above)
    assert plot.narrow
    for form in (plot, plot.narrow):
        words = words_in(form)
        assert "conv 130 %" in words
        assert "138 of 636 calls beyond" in " ".join(words)
    axes = Figure().subplots()
    roofs._roof(axes, points([above]), PEAKS, WIDE)
    drawn = max(np.max(np.asarray(line.get_ydata(), float)) for line in axes.lines)
    assert drawn == 130 < axes.get_ylim()[1]


def test_several_profiles_have_letters():
    other = Profile("Other", NET.operators, peaks=PEAKS)
    words = words_in(figure(NET, other))
    assert {"A conv 80 %", "B conv 80 %", "A norm", "B norm"} <= set(words)
    assert "Invented. A Net, B Other." in words


def test_a_dtype_with_another_peak_has_a_roof_of_its_own():
    peaks = Peaks({"fp16": 100.0, "fp32": 20.0}, 1000.0, "invented")
    mixed = {"conv": rated(80, 1000, 0.8), "matmul": rated(10, 1000, 0.5, dtype="fp32")}
    net = Profile("Net", lines(TIMES, MACS, **mixed), peaks=peaks)
    words = words_in(figure(net))
    assert any("fp16 100 TFLOP/s" in text for text in words) and "fp32 20 TFLOP/s" in words


@pytest.mark.parametrize("peaks", [Peaks(), Peaks({"fp16": 100.0})])
def test_without_a_roof_there_is_no_figure(peaks):
    assert rooflines([Profile("Net", NET.operators, peaks=peaks)], "made", "") is None


def test_operators_without_macs_alone_are_a_figure_too():
    net = profile(
        {"norm": 1.0, "copy": 1.0}, {}, norm=moving(300), copy=moving(1200, remarks=("120 %: cached",))
    )
    plot = figure(net)
    words = words_in(plot)
    assert {"120 %", "copy: 120 %: cached", "Without MACs: memory alone"} <= set(words)
    assert "compute-bound" not in words


def test_dtypes_whose_peaks_are_unknown_are_left_out():
    net = profile(TIMES, MACS, conv=rated(80, 1000, 0.8, dtype="int8"), norm=moving(300))
    assert "compute-bound" not in words_in(figure(net))
    alone = profile({"conv": 1.0}, {"conv": 9}, conv=rated(80, 1000, 0.8, dtype="int8"))
    assert rooflines([alone], "made", "") is None
