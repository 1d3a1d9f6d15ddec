"""What a profile says: shares, what the roof would save, and its tables; numbers from hand calculation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.trace import tables, told
from reports import profiles, shares
from reports.profiles import gain_ms
from reports.tables import Table
from tests.support.profiled import line, moving, profile, rated
from tests.support.published import RESNET50, needs_folder, table_of
from tests.support.reporting import cell, column

TIMES = {"conv": 4.0, "norm": 3.0, "copy": 2.0, "other": 1.0}
MACS = {"conv": 9_000_000_000}


def tables_of(*found) -> dict[str, Table]:
    return {table.name: table for table in profiles.profile_tables(found, "made")}


def test_time_without_macs_is_that_of_lines_that_are_known_to_have_none():
    net = profile(TIMES, MACS, other={"macs": None, "macs_known": 0.0})
    assert net.ms == 10
    assert net.without_macs == pytest.approx(0.5)  # norm and copy; of the other nothing is known
    assert net.known == pytest.approx(0.9)
    assert net.works == {"conv": 1.0}


@pytest.mark.parametrize(
    ("fields", "gain"),
    [
        ({"ms_at_roof": 1.0, "share_of_attainable": 0.25}, 3.0),
        # of half of its calls nothing is known, and nothing is said: the others take 2 ms of its 4
        ({"ms_at_roof": 1.0, "share_of_attainable": 0.5}, 1.0),
        ({"ms_at_roof": 5.0, "share_of_attainable": 1.25}, None),  # beyond its roof
        ({"ms_at_roof": None, "share_of_attainable": None}, None),
        ({"ms_at_roof": 0.0, "share_of_attainable": 0.0}, None),  # moves nothing that is counted
    ],
)
def test_what_the_roof_would_save(fields, gain):
    assert gain_ms(line("conv", 4.0, 10.0, **fields)) == gain


def test_the_answers_name_who_has_the_macs_who_the_time_and_who_would_save_it():
    half = rated(25, 1000, 0.5, ms_at_roof=2.0)  # conv: 2 of 4 ms
    slow = moving(100, ms_at_roof=0.3)  # norm: 2.7 of 3
    net = profile(TIMES, MACS, conv=half, norm=slow)
    answers = tables_of(net, profile(TIMES, {}, "Other"))["made_answers"]
    assert cell(answers, 0, "has the MACs") == "conv 100 %"
    assert cell(answers, 0, "has the time") == "conv 40 %, norm 30 %, copy 20 %"
    assert cell(answers, 0, "ms saved at roof") == "4.70"
    assert cell(answers, 0, "most saved by (of all time)") == "norm 27 %, conv 20 %"
    assert cell(answers, 1, "has the MACs") == "unknown"
    assert cell(answers, 1, "ms saved at roof") == "–"


def test_operators_stand_with_their_shares_and_small_ones_are_left_out():
    net = profile({**TIMES, "view": 0.001}, MACS, conv=rated(20, 50, 0.4, ms_at_roof=1.6, remarks=("Why.",)))
    table = tables_of(net)["made_operators"]
    assert "Model" not in table.headers  # which is the same for all
    assert column(table, "operator") == ["conv", "norm", "copy", "other"]
    assert column(table, "of time") == ["40 %", "30 %", "20 %", "10 %"]
    assert column(table, "GMACs") == ["9.00", "–", "–", "–"]
    assert cell(table, 0, "of roof") == "40 %"
    assert cell(table, 0, "ms saved at roof") == "2.40"
    assert table.notes == ["conv: Why."]
    assert "forward, ms" not in table.headers


@pytest.mark.parametrize(
    ("iteration_ms", "idle", "said"), [(9.0, 0.0, True), (9.9, 0.0, False), (9.0, None, False)]
)
def test_parts_that_add_up_to_more_than_the_iteration_are_told(iteration_ms, idle, said):
    net = replace(profile(TIMES, MACS), iteration_ms=iteration_ms, idle=idle)
    told = "its parts add up to 11 % more than an iteration takes: kernels overlap, or take longer under the profiler"
    assert tables_of(net)["made_whole"].notes == ([told] if said else [])


def test_of_a_step_of_training_the_phases_stand_beside_each_other():
    net = profile(TIMES, MACS)
    net = profiles.Profile(
        "Net",
        net.operators,
        phases={"forward": [line("conv", 1.5, 10.0)], "backward": [line("conv", 2.5, 10.0)]},
    )
    table = tables_of(net)["made_operators"]
    assert (cell(table, 0, "forward, ms"), cell(table, 0, "backward, ms")) == ("1.50", "2.50")
    assert cell(table, 1, "forward, ms") == "0.00"
    assert "optimizer, ms" not in table.headers


def test_bytes_that_are_known_for_little_of_the_time_give_no_rate():
    net = profile(TIMES, MACS, norm=moving(500, bytes_known=0.4, ms_at_roof=1.0))
    table = tables_of(net)["made_operators"]
    assert "GB/s" not in table.headers and "of roof" not in table.headers


def test_modules_stand_in_a_table_if_there_are_several():
    several = [line("a.b", 6.0, 10.0), line("<b>a</b>", 4.0, 10.0)]
    assert "made_modules" not in tables_of(profile(TIMES, MACS, modules=several[:1]))
    table = tables_of(profile(TIMES, MACS, modules=several))["made_modules"]
    assert column(table, "module") == ["a.b", "<b>a</b>"]
    assert column(table, "of time") == ["60 %", "40 %"]


# ---- what others measured


@needs_folder
def test_a_third_of_the_v100s_step_is_without_macs():
    """The README of the folder: convolutions have all MACs and 66 % of a step's GPU time."""
    joined = told.read(RESNET50)
    net = profiles.of_trace("ResNet-50", joined)
    assert shares.title_of([net]) == "34 % of the time of ResNet-50 is without MACs"
    answers, operators = (tables_of(net)[f"made_{name}"] for name in ("answers", "operators"))
    assert cell(answers, 0, "has the MACs") == "conv 100 %"
    assert cell(answers, 0, "has the time").startswith("conv 66 %, ")
    assert "Winograd" in operators.notes[0]
    # 1×1 convolutions, 52 % of the forward's MACs, take 68 % of the time: they are far below the roof, 3×3 above it
    by_call = {each.name: each for each in tables.lines(joined, "call") if each.phase == "forward"}
    one, three = (by_call[f"conv2d {size}"] for size in ("1×1", "3×3"))
    assert (gain_ms(one) or 0) > 30 and gain_ms(three) is None


@needs_folder
def test_timesformers_time_goes_to_what_has_no_macs():
    """The same README: softmax, multiplications and copies take 60 % of the time at no MACs, linears have 67 % of the
    MACs in 5 % of the time."""
    net = profiles.of_trace("TimeSformer", table_of("timesformer"))
    assert round(100 * sum(net.times[name] for name in ("softmax", "element-wise", "copy"))) in range(60, 66)
    assert 0.6 < net.without_macs < 0.66
    assert round(100 * net.works["linear"]) == 67 and round(100 * net.times["linear"]) == 5
    assert cell(tables_of(net)["made_answers"], 0, "has the time").startswith("softmax ")
