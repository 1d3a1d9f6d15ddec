"""The figure of variants beside their reference."""

import re

import pytest

from bench.cases import parse
from reports import switches
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import lines_of, plot_of, results_of, row_where


def compared_as(rows, ratios, spread: float = 0.001) -> None:
    """Make each comparison of a case show that it takes so many times as long; all others, as long."""
    for row in rows:
        if row["harness"] == "compare":
            ratio = next((ratio for text, ratio in ratios.items() if row["case"].startswith(text)), 1.0)
            offs = [spread * off for off in (-1, 0.4, 1, -0.4, 0.2)] * 3
            row["result"]["blocks"] = [[ratio * (1 + off), 1, 1, ratio * (1 + off)] for off in offs]


def test_a_switch_is_its_change_in_macs_and_in_time_taken_in_turns(tmp_path):
    rows = synthetic.study_rows("table2")
    # rows taken apart say something else, and do not count
    row_where(rows, "throughput", "restv2_tiny[target=none]@224")["result"]["samples_s"] = [9.0] * 10
    compared_as(rows, {"restv2_tiny[target=none]": 0.5})
    shown = switches.switches(lines_of(results_of(tmp_path, *rows), "table2"))
    assert len(shown) == 12  # thirteen cases, without the reference
    assert shown[0].label == "w/o (a, b), EMSA (c)"
    assert shown[0].reference == "ResTv2-T"
    assert shown[0].macs == pytest.approx(4.066 / 4.083)
    assert shown[0].time(1) == pytest.approx((0.5, 0.5, 0.5), rel=0.003)
    assert shown[0].beyond_macs(12) == pytest.approx(4.066 / 4.083 / 0.5, rel=0.005)
    assert shown[0].beyond_macs(12) < shown[0].beyond_macs(
        1
    )  # the interval of the largest of twelve is wider


def test_a_switch_that_was_not_compared_is_not_drawn(tmp_path):
    rows = [row for row in synthetic.study_rows("table2") if row["harness"] != "compare"]
    assert switches.switches(lines_of(results_of(tmp_path, *rows), "table2")) == []


def test_the_figure_says_which_switch_changes_time_most_beyond_its_macs(tmp_path):
    rows = synthetic.study_rows("table6")
    times = {
        "pvt_tiny[attention=msa]@224": 2.0,
        "pvt_tiny[attention=emsav2]@224": 4.0,
        "restv2_lite[attention=msa]@224": 2.0,
        "restv2_lite[mhim]@224": 1.0,
    }
    compared_as(rows, times)
    results = results_of(tmp_path, *rows)
    plot = plot_of(results, "table6", "macs_against_time")
    assert plot
    assert plot.title == f"PVT-EMSAv2-Tiny: {1.934 / 1.925:.2f}× the MACs of PVT-Tiny, 4.00× its time"
    drawn = re.findall(r">([^<>]+)</text>", plot.svg)
    # 4.80 / 1.925 and 4.36 / 1.43 of the MACs; twice the time
    for text in ("PVT-MSA-Tiny", "2.5×", "3.0×", "2.0×", "+0.5 %", "±0 %", "Beside ResTv1-Lite"):
        assert text in drawn, text
    assert any("as printed" in text for text in drawn)


def test_of_speeds_that_may_be_as_the_macs_nothing_is_claimed(tmp_path):
    rows = synthetic.study_rows("table2")
    base = synthetic.gmacs(parse("restv2_tiny@224"))
    for row in rows:
        if row["harness"] == "compare":
            first = row["case"].partition(" / ")[0]
            compared_as([row], {first: synthetic.gmacs(parse(first)) / base}, spread=0.01)
    results = results_of(tmp_path, *rows)
    plot = plot_of(results, "table2", "macs_against_time")
    assert plot
    assert plot.title == "Of no switch the time is known to change otherwise than the MACs"
    assert "bar: 95 % interval" in plot.svg
    words = re.sub(r"\s+", " ", " ".join(re.findall(r">([^<>]+)</text>", plot.svg)))
    assert "Intervals are widened so that all 12 hold at once." in words
    for switch in switches.switches(lines_of(results, "table2")):  # as the title, so what is drawn
        value, low, high = switch.time(12)
        assert low < switch.macs < high and (high - low) > 1.2 * (switch.time(1)[2] - switch.time(1)[1]) > 0
        assert value == switch.time(1)[0]
    assert "as printed" not in plot.svg


def test_of_one_visit_no_bar_is_drawn_and_the_legend_says_so(tmp_path):
    rows = synthetic.study_rows("table2", protocol={"name": "quick", "visits": 1})
    compared_as(rows, {"restv2_tiny[target=none]": 0.5}, spread=0.1)
    results = results_of(tmp_path, *rows)
    for switch in switches.switches(lines_of(results, "table2")):
        value, low, high = switch.time(12)
        assert value == low == high and switch.beyond_macs(12) == 1.0
    plot = plot_of(results, "table2", "macs_against_time")
    assert plot and "bar: none, of one visit" in plot.svg
    assert "95 %" not in plot.svg and "widened" not in plot.svg


def test_without_a_comparison_with_its_reference_a_switch_is_not_drawn(tmp_path):
    rows = synthetic.study_rows("table6")
    rows = [row for row in rows if not (row["harness"] == "compare" and "/ pvt_tiny@224" in row["case"])]
    results = results_of(tmp_path / "one", *rows)
    shown = switches.switches(lines_of(results, "table6"))
    assert {switch.reference for switch in shown} == {"ResTv1-Lite"}
    rows = [row for row in rows if row["harness"] != "compare"]
    results = results_of(tmp_path / "none", *rows)
    assert plot_of(results, "table6", "macs_against_time") is None
