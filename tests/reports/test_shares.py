"""The figure of MACs beside time: what is drawn, named and lumped, and that it needs no colour."""

from __future__ import annotations

import re
from html import unescape
from itertools import pairwise

import pytest
from matplotlib.colors import to_rgb

from bench.trace.operators import CLASSES
from reports.figures import OPERATOR_LOOKS
from reports.shares import _looks, macs_and_time
from tests.support.profiled import profile
from tests.support.reporting import words_in

MACS = {"conv": 8, "linear": 2}
TIMES = {"conv": 3.0, "linear": 1.0, "norm": 4.0, "copy": 1.9, "view": 0.1}


def figure(*found):
    plot = macs_and_time(found, "made", "Invented.")
    assert plot and plot.narrow
    return plot


def test_it_says_how_much_of_the_time_has_no_macs():
    plot = figure(profile(TIMES, MACS))
    assert plot.title == "60 % of the time of Net is without MACs"
    assert "60 % without MACs" in words_in(plot)
    both = figure(profile(TIMES, MACS), profile({"conv": 9.0, "norm": 1.0}, MACS, "Other"))
    assert both.title == "10 to 60 % of the time is without MACs"


@pytest.mark.parametrize("form", ["wide", "narrow"])
def test_parts_are_named_with_their_shares_where_these_fit(form):
    plot = figure(profile(TIMES, MACS))
    words = words_in(plot if form == "wide" else plot.narrow)
    for text in ("80 %", "20 %", "30 %", "40 %", "19 %"):
        assert text in words
    assert "1.0 %" not in words
    # in a bar, and in the legend
    assert words.count("conv") == 3 and words.count("norm") == 2 and words.count("others") == 1


def test_what_is_small_in_every_bar_is_drawn_as_others_and_what_is_large_in_one_is_not():
    one, other = profile(TIMES, MACS), profile({"conv": 9.0, "view": 1.0}, MACS, "Other")
    assert list(_looks([one])) == ["conv", "linear", "norm", "copy", "others"]
    assert list(_looks([one, other])) == ["conv", "linear", "norm", "copy", "view"]


def test_a_profile_whose_macs_are_unknown_says_so():
    plot = figure(profile({"conv": 1.0, "copy": 3.0}, {}, conv={"macs": None, "macs_known": 0.0}))
    words = words_in(plot)
    assert "unknown" in words
    assert "4.00 ms, MACs known for 75 %" in words


def test_without_profiles_there_is_no_figure():
    assert macs_and_time([], "made", "") is None


def test_every_class_has_a_look_and_neighbours_differ_in_grey_or_hatch():
    assert set(CLASSES) - {"other"} <= set(OPERATOR_LOOKS)
    greys = [sum(part * weight for part, weight in zip(to_rgb(colour), (0.3, 0.59, 0.11), strict=True))
             for colour, _ in OPERATOR_LOOKS.values()]  # fmt: skip
    hatches = [hatch for _, hatch in OPERATOR_LOOKS.values()]
    for (grey, next_grey), (hatch, next_hatch) in zip(pairwise(greys), pairwise(hatches), strict=True):
        assert abs(grey - next_grey) > 0.1 or set(hatch) != set(next_hatch)


def test_a_name_is_text_and_a_long_one_is_wrapped():
    name = "<script>alert(1)</script> " + "long " * 30
    plot = figure(profile(TIMES, MACS, name))
    for form in (plot, plot.narrow):
        assert form and "<script>" not in form.svg
    assert plot.narrow
    lines = [unescape(text) for text in words_in(plot.narrow) if "long" in text]
    assert len(lines) > 3 and max(map(len, lines)) < 40


def test_the_narrow_form_is_one_of_a_phone():
    plot = figure(profile(TIMES, MACS))
    assert plot.narrow
    widths = [float(re.findall(r'<svg[^>]* width="([\d.]+)pt"', form.svg)[0]) for form in (plot, plot.narrow)]
    assert widths == [pytest.approx(7.6 * 72), pytest.approx(3.5 * 72)]
    assert plot.narrow.name == "made_narrow" and 'id="made_narrow"' in plot.narrow.svg
