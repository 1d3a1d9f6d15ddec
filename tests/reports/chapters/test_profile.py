"""The chapter of profiled cases: rows to profiles, answers, what windows and MHIM add; invented rows."""

from __future__ import annotations

import copy

import pytest

from reports import chapters
from reports.chapters import profile as chapter
from reports.results import Results
from tests.support import synthetic_rows as synthetic
from tests.support.profiled import line, profile_row
from tests.support.reporting import (
    cards_of,
    cell,
    column,
    files_of,
    page_and_plots,
    page_of,
    results_of,
    table_of,
)
from tests.support.sweeps import sweep

TINY = "restv2_tiny@224:b1:fp32:eager"
MHIM = "restv2_tiny[mhim]@224:b1:fp32:eager"
WIN, GLOBAL = (
    f"restv2_tiny[detections=30,head=mask_rcnn,style={style}]@coco500~1:b1:fp32:eager"
    for style in ("win", "global")
)
TIMES = {"linear": 4.0, "conv": 2.0, "norm": 3.0, "copy": 1.0}
MACS = {"linear": 8_000_000_000, "conv": 2_000_000_000}
MODULES = [line("stage1.0", 4.0, 10.0, macs=1), line("stage1.1", 6.0, 10.0, macs=3)]


def told(results: Results):
    """The chapter as the results tell it."""
    (found,) = [found for found in chapters.tell(results) if found.chapter.anchor == "profile-by-hand"]
    return found


def quick(row):
    """The row as a quick look has it: one visit."""
    return {**row, "protocol": {**row["protocol"], "name": "quick"}}


def test_without_profiles_nothing_is_on_the_page(cpu):
    assert told(cpu).tables == [] and told(cpu).plots == [] and told(cpu).chapter.cards(told(cpu)) == []
    assert "Where the time goes" not in page_of(cpu, drawn=False)


def test_a_profile_by_hand_is_told_without_table_1(tmp_path):
    results = results_of(tmp_path, profile_row(TINY, TIMES, MACS, MODULES))
    page, plots = page_and_plots(results)
    assert [plot.name for plot in plots] == ["profile_shares", "profile_modules"]
    assert plots[0].title == "40 % of the time of ResTv2-T is without MACs"
    assert "Measured on SYNTHETIC CPU" in plots[0].alt
    assert '<section id="profile-by-hand">' in page and "study-table1" not in page
    assert page.count('<div class="wide">') == page.count('<div class="narrow">') == 2
    assert ("40 %", "of the time of ResTv2-T without a MAC") in [
        (card.value, card.text) for card in cards_of(results)
    ]
    answers = table_of(results, "profile_answers")
    assert cell(answers, 0, "has the MACs") == "linear 80 %, conv 20 %"
    assert cell(answers, 0, "has the time") == "linear 40 %, norm 30 %, conv 20 %"
    assert {"profile_operators.md", "profile_modules.md"} <= set(files_of(results))


def test_what_is_true_of_the_whole_stands_in_a_table(tmp_path):
    gap = {"why": "no input shapes were recorded", "share": 0.25, "names": ["aten::a|b", "c", "d", "e"]}
    of_gpu = {"idle_share": 0.3, "device_share": 0.7, "unjoined": [gap], "attributed": 0.9}
    row = profile_row(TINY, TIMES, MACS, result=of_gpu, device=synthetic.H200)
    table = table_of(results_of(tmp_path, row), "profile_whole")
    assert cell(table, 0, "ms an iteration") == cell(table, 0, "ms of its parts") == "10.0"
    assert cell(table, 0, "idle") == "30 %"
    assert cell(table, 0, "profiled") == "1.25×"
    assert cell(table, 0, "of operators") == "90 %"
    assert "25 % of the time, no input shapes were recorded: aten::a|b, c, d" in table.notes
    assert any("launch-bound" in note for note in table.notes)


def test_on_a_cpu_the_roof_is_its_measured_peak(tmp_path):
    """8 GMACs are 16 GFLOP, and take 16 of the 64 ms at 1 TFLOP/s; 12.3 MB at 12.3 GB/s take 1 ms."""
    row = profile_row(TINY, {"linear": 64.0}, {"linear": 8_000_000_000})
    for record in row["result"]["lines"]["operator"]:
        record |= {
            "tflops": 0.25,
            "dtype": "fp32",
            "moved_bytes": 12_300_000,
            "flop_per_byte": 1300.0,
            "gb_per_s": 0.2,
        }
    peaks = synthetic.row("peaks", "cpu", {"tflops": {"fp32": 1.0}, "bandwidth_gb_s": 12.3})
    results = results_of(tmp_path, peaks, row)
    table = table_of(results, "profile_operators")
    assert cell(table, 0, "of roof") == "25 %" and cell(table, 0, "ms saved at roof") == "48.0"
    assert [plot.name for plot in told(results).plots] == ["profile_shares", "profile_roofline"]
    assert (
        told(results).plots[1].title
        == "linear of ResTv2-T takes 100 % of the time and reaches 25 % of its roof"
    )


def test_visits_are_joined_and_the_newest_profile_of_a_case_is_told(tmp_path):
    old = profile_row(TINY, {"conv": 1.0}, MACS, when="2026-11-21T12:00:00+00:00")
    failed = {
        **profile_row(TINY, TIMES, MACS),
        "outcome": "failed",
        "reason": "out of memory",
        "result": None,
    }
    results = results_of(
        tmp_path, old, {**profile_row(TINY, TIMES, MACS), "key": "newer"}, {**failed, "key": "last"}
    )
    (found,) = chapter.by_case(told(results)).values()
    assert found.ms == pytest.approx(10.0)
    assert found.estimates["norm"].n == synthetic.VISITS and not found.estimates["norm"].within_run


def test_titles_have_what_tells_them_apart(tmp_path):
    other = "swin_tiny@384:b8:bf16:compile:train"
    rows = [profile_row(TINY, TIMES, MACS), profile_row(other, TIMES, MACS, result={"batch": 8})]
    found = chapter.by_case(told(results_of(tmp_path, rows))).values()
    assert [profile.title for profile in found] == [
        "ResTv2-T",  # as most of them: the first of as many
        "Swin-T at 384, compile, a step of training, batch 8, bf16",
    ]


def test_a_step_of_training_has_its_phases(tmp_path):
    phases = {
        name: [line("linear", ms, 10.0, phase=name)] for name, ms in (("forward", 1.0), ("backward", 3.0))
    }
    row = profile_row("restv2_tiny@224:b1:fp32:eager:train", TIMES, MACS, phases=phases)
    results = results_of(tmp_path, row)
    table = table_of(results, "profile_operators")
    assert column(table, "operator") == ["linear", "norm", "conv", "copy"]
    assert (cell(table, 0, "forward, ms"), cell(table, 0, "backward, ms")) == ("1.00", "3.00")


# ---- windows, and MHIM


def test_windows_and_mhim_stand_beside_what_lacks_them(tmp_path):
    in_windows = {"linear": 4.0, "conv": 2.0, "norm": 3.0, "copy": 5.0, "matmul": 0.5}
    with_global = {**TIMES, "matmul": 3.0}
    rows = [
        profile_row(WIN, in_windows, MACS),
        profile_row(GLOBAL, with_global, MACS),
        profile_row(TINY, TIMES, MACS),
        profile_row(MHIM, {**TIMES, "norm": 6.0}, MACS),
    ]
    table = table_of(results_of(tmp_path, rows), "profile_changes")
    places = [place for place, name in enumerate(column(table, "first")) if "style=win" in name]
    assert "style=global" in cell(table, places[0], "second")
    assert [cell(table, place, "operator") for place in (places[0], places[-1])] == ["copy", "matmul"]
    assert [cell(table, places[0], name) for name in ("ms of first", "ms of second", "ms more in first")] == [
        *("5.00", "1.00", "4.00")
    ]
    assert (
        cell(table, places[0], "of first's time") == "34 %"
        and cell(table, places[0], "of second's time") == "7.7 %"
    )
    mhim = [row for row in table.rows if "mhim" in row[0].text]
    assert mhim[0][2].text == "norm" and mhim[0][5].text == "3.00"
    assert not any("×" in header or "ratio" in header for header in table.headers)
    win, other = table.notes
    assert "The first takes more for copy (5.00 ms, 1.00 in the second)." in win
    assert "The first takes less for matmul (0.50 ms, 3.00 in the second)." in win
    assert "The first takes more for norm (6.00 ms, 3.00 in the second)." in other and "less" not in other


def test_nothing_is_concluded_from_one_visit_each(tmp_path):
    rows = [quick(profile_row(TINY, TIMES, MACS)), quick(profile_row(MHIM, {**TIMES, "norm": 6.0}, MACS))]
    table = table_of(results_of(tmp_path, rows), "profile_changes")
    (note,) = table.notes
    assert note.endswith("No operator's intervals over visits lie apart: nothing is concluded.")


def test_other_batches_are_not_compared(tmp_path):
    rows = [
        profile_row(TINY, TIMES, MACS),
        profile_row(MHIM.replace("b1", "b2"), TIMES, MACS, result={"batch": 2}),
    ]
    assert [table.name for table in told(results_of(tmp_path, rows)).tables] == [
        *("profile_answers", "profile_whole", "profile_operators")
    ]


# ---- damage


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("perturbation",), "much"),
        (("lines",), {"operator": []}),
        (("lines", "operator", 0, "ms"), "long"),
        (("lines", "operator", 0, "share"), None),
        (("lines", "operator", 0, "macs"), -1),
        (("lines", "operator", 0, "phase"), "sideways"),
        (("lines", "operator", 0, "remarks"), [1]),
        (("lines", "operator"), []),
        (("unjoined",), [{"why": 1, "share": 0.1, "names": []}]),
    ],
)
def test_a_damaged_profile_is_named_and_passed_over(tmp_path, place, wrong):
    good = profile_row(TINY, TIMES, MACS)
    bad = copy.deepcopy(profile_row(MHIM, TIMES, MACS))
    holder = bad["result"]
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = wrong
    results = results_of(tmp_path, good, quick(bad))
    assert len(results.problems) == 1 and "passed over" in results.problems[0]
    assert [profile.title for profile in chapter.by_case(told(results)).values()] == ["ResTv2-T"]


# ---- the study


@sweep
def test_the_study_has_models_ways_to_run_one_and_variants_apart(everything):
    found = next(found for found in chapters.tell(everything) if found.chapter.study == chapter.STUDY)
    profiles = chapter.by_case(found)
    models, ways = (
        [profiles[case].title for case in choose(profiles)] for choose in (chapter.models, chapter.ways)
    )
    assert ways == ["ResTv2-T", "ResTv2-T, sdpa", "ResTv2-T, compile", "ResTv2-T, a step of training"]
    assert len(models) == 25 and models.count("ResTv2-T") == 1  # Table 1, and ResTv2-Lite
    assert not any("style" in title or "mhim" in title or "sdpa" in title for title in models)
    pairs = [(change.first.title, change.second.title) for change in chapter.changes(profiles)]
    assert ("ResTv2-Lite [mhim]", "ResTv2-Lite") in pairs
    assert [second for first, second in pairs if "style=win" in first] == [
        "ResTv2-T [style=global] at 400x672"
    ]
    assert [plot.name for plot in found.plots] == [
        *("profile_shares", "profile_ways", "profile_variants", "profile_modules")
    ]
    assert "4 of 34 profiles." in found.plots[-1].alt
    by_hand = next(f for f in (chapter.BY_HAND[0].tell(everything),) if f)
    assert by_hand.tables == [] and by_hand.plots == []
