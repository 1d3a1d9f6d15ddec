"""Speeds of models on several devices, and their figure."""

from __future__ import annotations

from reports import device_speeds
from reports.beside import device_of
from reports.results import load
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import ROOT, results_of


def test_orders_are_spearmans():
    """Ranks 1 2 3 4 and 1 2 4 3 have the squared differences 0 0 1 1: 1 − 6 × 2 / (4 × 15) = 0.8."""
    assert device_speeds.order([1, 20, 300, 4000], [5, 6, 8, 7]) == "0.80"
    assert device_speeds.order([1, 2], [1, 2]) is None
    assert device_speeds.order([2, 2, 2], [1, 2, 3]) is None
    # of ranks 1.5 1.5 3 4 and 1 2 3 4, Pearson's correlation: 4.5 / √(4.5 × 5)
    assert device_speeds.order([1, 1, 2, 3], [1, 2, 3, 4]) == "0.95"


def test_only_what_was_run_in_the_same_way_and_at_the_same_batch_stands_in_a_row(tmp_path):
    """One device ran two batches, and the larger first; the other the smaller, and another through a CUDA graph."""
    ran = {
        "one": [("restv2_tiny@224", 64), ("restv2_tiny@224", 1)],
        "other": [("restv2_tiny@224", 1), ("restv2_tiny[graph]@224", 1)],
    }
    devices = []
    for name, cases in ran.items():
        rows = [
            synthetic.throughput_row(text, batch, "fp16", study="sweep", device=synthetic.H200)
            for text, batch in cases
        ]
        devices.append(device_of(results_of(tmp_path / name, rows)))
    found = device_speeds.models(devices)
    assert [model.setting for model in found] == [(1, "fp16")]
    first, second = (model.speed(place) for model in found for place in (0, 1))
    assert first == second


def test_of_speeds_that_nothing_is_concluded_from_the_figure_names_no_factor():
    """The H100's rows are of one visit each."""
    devices = [device_of(load(ROOT / "results", f"reference/{key}")) for key in ("h100", "cpu")]
    plot = device_speeds.draw(devices)
    assert plot and plot.title.startswith(
        "The speeds of 20 models are too uncertain to say how many times as fast"
    )
