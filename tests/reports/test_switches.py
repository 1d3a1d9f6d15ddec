"""The figure of variants beside their reference."""

import re

import pytest

from bench.cases import parse
from reports import switches
from reports.labels import Box
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import lines_of, plot_of, results_of, row_where


def test_a_switch_is_its_change_in_macs_and_in_time(tmp_path):
    rows = synthetic.study_rows("table2")
    for text, seconds in (("restv2_tiny@224", 2.0), ("restv2_tiny[target=none]@224", 1.0)):
        row_where(rows, "throughput", text)["result"]["samples_s"] = [seconds] * 9
    shown = switches.switches(lines_of(results_of(tmp_path, *rows), "table2"))
    assert len(shown) == 12  # thirteen cases, without the reference
    assert shown[0].label == "w/o (a, b), EMSA (c)"
    assert shown[0].reference == "ResTv2-T"
    assert shown[0].macs == pytest.approx(4.066 / 4.083)
    assert shown[0].time == pytest.approx((0.5, 0.5, 0.5))
    assert shown[0].beyond_macs == pytest.approx(4.066 / 4.083 / 0.5)


def test_the_ends_of_a_change_are_the_widest_that_both_intervals_allow(tmp_path):
    rows = synthetic.study_rows("table7")
    # of six samples the interval is from the first to the last
    samples = {"restv2_lite@224": [1.0, 2, 2, 2, 2, 4], "restv2_lite[mhim]@224": [3.0, 6, 6, 6, 6, 12]}
    for text, seconds in samples.items():
        row_where(rows, "throughput", text)["result"]["samples_s"] = seconds
    results = results_of(tmp_path, *rows)
    with_mhim = lines_of(results, "table7")[1]
    assert switches.Switch([with_mhim]).time == pytest.approx((6 / 2, 3 / 4, 12 / 1))


def test_the_figure_says_which_switch_changes_time_most_beyond_its_macs(tmp_path):
    rows = synthetic.study_rows("table6")
    times = {
        "pvt_tiny@224": 1.0,
        "pvt_tiny[attention=msa]@224": 2.0,
        "pvt_tiny[attention=emsav2]@224": 4.0,
        "restv2_lite[attention=emsa,mhim]@224": 1.0,
        "restv2_lite[attention=msa]@224": 2.0,
        "restv2_lite[mhim]@224": 1.0,
    }
    for text, seconds in times.items():
        row_where(rows, "throughput", text)["result"]["samples_s"] = [seconds] * 9
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
    for row in rows:
        if row["harness"] == "throughput":
            seconds = synthetic.gmacs(parse(row["case"]))
            row["result"]["samples_s"] = [seconds * (1 + 0.01 * i) for i in range(-4, 5)]
    results = results_of(tmp_path, *rows)
    plot = plot_of(results, "table2", "macs_against_time")
    assert plot
    assert plot.title == "Of no switch the time is known to change otherwise than the MACs"
    assert "as printed" not in plot.svg


def test_without_its_reference_a_switch_is_not_drawn(tmp_path):
    rows = synthetic.study_rows("table6")
    rows.remove(row_where(rows, "throughput", "pvt_tiny@224"))
    results = results_of(tmp_path / "one", *rows)
    shown = switches.switches(lines_of(results, "table6"))
    assert {switch.reference for switch in shown} == {"ResTv1-Lite"}
    rows.remove(row_where(rows, "throughput", "restv2_lite[attention=emsa,mhim]"))
    results = results_of(tmp_path / "none", *rows)
    assert plot_of(results, "table6", "macs_against_time") is None


def test_no_text_of_the_figure_covers_another(everything):
    """Names at the left, numbers at the right, legend below: none may run into another."""
    boxes = []

    def look(figure, *rest):
        figure.draw_without_rendering()
        texts = [text for axes in figure.axes for text in (*axes.texts, *axes.get_yticklabels())]
        texts += [axes._left_title for axes in figure.axes]
        texts += [*figure.legends[0].get_texts(), *figure.texts]
        boxes.append([(text.get_text(), Box.of(text)) for text in texts if text.get_text()])
        return original(figure, *rest)

    original = switches.finish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(switches, "finish", look)
        for name in ("table2", "table6"):
            plot_of(everything, name, "macs_against_time")
    assert len(boxes) == 2
    for each in boxes:
        assert len(each) > 15
        for i, (text, box) in enumerate(each):
            covered = [other for other, place in each[i + 1 :] if place.overlap(box)]
            assert not covered, (text, covered)
