"""The figure of time by module: the tree that names make, the shades, and labels where they fit."""

from __future__ import annotations

import pytest

from reports import icicle
from reports.icicle import Module, macs_in_half_of_the_time, time_by_module, tree
from tests.support.profiled import line, profile
from tests.support.reporting import words_in


def modules(**ms_and_macs):
    """Lines by module; the names' dots are written as __."""
    whole = sum(ms for ms, _ in ms_and_macs.values())
    return [line(name.replace("__", "."), ms, whole, macs=macs) for name, (ms, macs) in ms_and_macs.items()]


NET = modules(stage__0__attn=(3.0, 10), stage__0=(2.0, 0), stage__1=(1.0, 20), head=(4.0, 70))


def shape(module: Module):
    """Names with milliseconds and MACs, in nested lists."""
    return [module.name, module.ms, module.macs, *map(shape, module.inside)]


def test_names_make_a_tree_in_which_what_a_module_does_itself_is_a_box_of_its_own():
    block = ["0", 5.0, 10, ["attn", 3.0, 10], ["itself", 2.0, 0]]
    assert shape(tree(NET)) == [
        *("", 10.0, 100),
        ["stage", 6.0, 30, block, ["1", 1.0, 20]],
        ["head", 4.0, 70],
    ]


def test_a_module_around_a_single_one_is_joined_with_it():
    found = tree(modules(net__body__a=(1.0, 1), net__body__b=(2.0, 1)))
    assert shape(found) == ["net.body", 3.0, 2, ["b", 2.0, 1], ["a", 1.0, 1]]


def test_a_name_of_very_many_parts_is_a_tree_that_can_be_drawn():
    lines = [line("a." * 5000 + "b", 1.0, 0.5), line("c", 1.0, 0.5)]
    assert tree(lines).ms == 2
    assert time_by_module([profile({"conv": 1.0}, {}, modules=lines)], "made", "")


def test_macs_that_are_unknown_in_a_part_are_unknown_in_the_whole():
    lines = [*NET, line("head.x", 1.0, 11.0, macs=None, macs_known=0.0)]
    assert tree(lines).macs is None
    plot = time_by_module([profile({"conv": 1.0}, {}, modules=lines)], "made", "")
    assert plot and plot.title == "Time by module"
    assert "unknown" in words_in(plot)


def test_half_of_the_time_is_taken_where_macs_are_fewest():
    """By MACs a millisecond: itself 2 ms with 0, attn 3 ms with 10, then head and 1: half of 10 ms has 10 of 100."""
    assert macs_in_half_of_the_time(tree(NET)) == pytest.approx(0.1)
    # of one that lies across the half, a part: 2 of 4 ms of b
    assert macs_in_half_of_the_time(tree(modules(a=(1.0, 0), b=(4.0, 8), c=(1.0, 12)))) == pytest.approx(0.2)
    assert macs_in_half_of_the_time(tree(modules(a=(1.0, 0), b=(1.0, 0)))) is None


def test_the_title_says_it():
    plot = time_by_module([profile({"conv": 1.0}, {}, modules=NET)], "made", "Invented.")
    assert plot and plot.title == "Half of the time of Net goes to modules with 10 % of the MACs"


def test_next_to_no_macs_are_not_printed_as_0():
    plot = time_by_module(
        [profile({"conv": 1.0}, {}, modules=modules(a=(6.0, 1), b=(4.0, 9999)))], "made", ""
    )
    assert plot and plot.title == "Half of the time of Net goes to modules with next to no MACs"


@pytest.mark.parametrize(
    ("macs", "shade"),
    [(100, 0), (100_000, 0), (60, 1), (20, 2), (5, 3), (0, None)],
)
def test_the_shade_is_of_the_macs_a_millisecond_beside_the_wholes(macs, shade):
    root = Module("", 10.0, 1000)
    expected = icicle.NONE if shade is None else icicle.DENSITIES[shade][1]
    assert icicle._colour(Module("a", 1.0, macs), root) == expected


def test_labels_stand_where_they_fit_and_a_block_is_named_with_its_stage():
    plot = time_by_module([profile({"conv": 1.0}, {}, modules=NET)], "made", "")
    assert plot and plot.narrow
    for form in (plot, plot.narrow):
        words = words_in(form)
        assert {"stage  60 %", "head  40 %", "stage.0  50 %", "attn  30 %", "itself  20 %"} <= set(words)
    long = "a_module_with_a_name_that_is_longer_than_its_column_is_wide_and_than_any_other_is_either_0"
    many = modules(**{f"{long}__{i}": (1.0, 1) for i in range(60)}, small=(0.7, 1), other=(0.7, 1))
    plot = time_by_module([profile({"conv": 1.0}, {}, modules=many)], "made", "")
    assert plot and plot.narrow
    words = words_in(plot.narrow)
    (name,) = {text for text in words if text.startswith("a_m")}
    assert name.endswith("…_0") and len(name) < 30
    assert not any("small" in text for text in words)  # too low for its name


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("attn", "attn"),
        ("3", "blocks.3"),
        ("3.attn", "blocks.3.attn"),
        ("3 more", "3 more"),
        ("itself", "itself"),
    ],
)
def test_a_block_that_has_but_a_number_is_named_with_what_it_is_a_block_of(name, label):
    assert icicle._label(name, "stage1.blocks") == label


def test_modules_that_are_too_small_are_one_box():
    many = modules(**{f"m{i}": (0.01, 1) for i in range(40)}, large=(9.6, 1))
    plot = time_by_module([profile({"conv": 1.0}, {}, modules=many)], "made", "")
    assert plot
    words = words_in(plot)
    assert "40 more  4.0 %" in words and "m0" not in " ".join(words)


def test_a_model_without_modules_has_no_figure():
    alone = modules(net=(1.0, 1))
    assert time_by_module([profile({"conv": 1.0}, {}, modules=alone)], "made", "") is None
    assert time_by_module([], "made", "") is None
