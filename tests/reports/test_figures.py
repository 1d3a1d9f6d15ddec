"""The common parts of figures: looks that differ without colour, many drawn at once in order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D

from reports import __main__ as command
from reports import chapters, figures, scatter
from reports.beside import device_of
from reports.chapter import Told
from reports.figures import NARROW, Plot
from reports.results import load
from tests.support import synthetic_rows as synthetic
from tests.support.profiled import profile_row
from tests.support.reporting import ROOT, results_of
from tests.support.sweeps import swept


def test_families_and_operators_differ_without_colour():
    markers = [marker for _, marker in figures.FAMILIES.values()]
    hatches = [hatch for _, hatch in figures.OPERATOR_LOOKS.values()]
    assert len(set(markers)) == len(markers)
    assert set(markers) | {figures.OTHER_FAMILY[1]} == set(scatter.SIZE_ON_PAPER)
    assert len(set(hatches)) == len(hatches)


def test_a_rate_has_one_slope_in_all_panels():
    figure = Figure(figsize=(5, 8))
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, ends in zip(panels, ((1, 12), (50, 2000)), strict=True):
        axes.set(xscale="log", yscale="log", xlim=(3, 70), ylim=ends)
    scatter.same_slopes(*panels)
    one, other = map(scatter._slope_on_paper, panels)
    assert abs(one - other) < 0.01
    for axes, (low, high) in zip(panels, ((1, 12), (50, 2000)), strict=True):
        bottom, top = axes.get_ylim()
        assert bottom <= low * 1.001 and top >= high * 0.999


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one two three four", "one two\nthree four"),
        ("one two", "one two"),
        ("", ""),
        ("over ten of 99 % here", "over ten of\n99 % here"),
    ],
)
def test_lines_are_few_and_even_and_a_percentage_is_whole(text, lines):
    assert figures.even_lines(text, 15) == lines


def test_no_word_is_broken_for_even_lines():
    name = "convnext_large_mlp.clip_laion2b_ft_320"
    assert name in figures.even_lines(f"{name} is slower", 38).splitlines()


def test_more_lines_of_a_title_make_a_figure_taller_and_leave_its_drawing_alone():
    rooms = []
    for title in ("Short", "A title that takes more than a single line of a phone"):
        with figures.new_figure(NARROW, 3, title, "") as figure:
            axes = figure.subplots()
            figures.settle(figure)
            rooms.append((figure.get_figheight(), axes.get_window_extent().height))
    (low, room), (high, same) = rooms
    assert high > low and same == pytest.approx(room, abs=1)


@pytest.mark.parametrize("values", [(100.0001, 100.0002), (2e8, 3e8), (0.0001, 0.0002)])
def test_ticks_say_whole_numbers_and_nothing_stands_where_a_title_does(values):
    with figures.new_figure(NARROW, 3, "Title", "") as figure:
        axes = figure.subplots()
        axes.plot([0, 1], values)
        axes.set_title("title")
        figures.settle(figure)
        figure.draw_without_rendering()
        assert axes.yaxis.get_offset_text().get_text() == ""
        numbers = [float(label.get_text()) for label in axes.get_yticklabels()]
        assert all(one < another for one, another in pairwise(numbers))


# ---- every figure of every chapter, in both forms

PHONE = 330 / 72 / NARROW  # pixels of a point, where a phone's 390 leave 330 between the page's margins
LEAST = 9  # pixels of a letter that can be read


@dataclass(frozen=True)
class Written:
    """A line of text as it is drawn: its corners in points from the upper left one of the figure, and its size."""

    text: str
    corners: Any
    size: float

    def is_within(self, width: float, height: float) -> bool:
        """Whether all of it stands in a figure of that size in points."""
        return bool((self.corners > -1).all() and (self.corners < (width + 1, height + 1)).all())

    def covers(self, other: Written) -> bool:
        """Whether two texts, each written in any direction, cover each other: none of their sides lies between them."""
        for sides in (np.diff(self.corners[:3], axis=0), np.diff(other.corners[:3], axis=0)):
            for side in sides:
                here, there = self.corners @ side, other.corners @ side
                if here.max() <= there.min() or there.max() <= here.min():
                    return False
        return True


@pytest.fixture
def written(monkeypatch) -> dict[str, list[Written]]:
    """Fills, figure by figure as they are drawn, with what stands in each SVG, by its name."""
    found: dict[str, list[Written]] = {}
    drawn: list[Written] = []

    def draw_text(renderer, gc, x, y, text, font, angle, *rest, **more):
        width, height, descent = renderer.get_text_width_height_descent(text, font, False)
        # a point between two words of a line, and no more between lines than there is
        left, right, upper, lower = -0.5, width + 0.5, descent - height + 0.5, descent - 0.5
        placed = Affine2D().rotate_deg(-angle).translate(x, y)
        corners = placed.transform([(left, upper), (right, upper), (right, lower), (left, lower)])
        drawn.append(Written(text, corners, font.get_size_in_points()))
        return original(renderer, gc, x, y, text, font, angle, *rest, **more)

    def own(svg, name, alt):
        found[name] = [line for line in drawn if line.text.strip()]
        drawn.clear()
        return of_its_own(svg, name, alt)

    original, of_its_own = RendererSVG.draw_text, figures._own
    monkeypatch.setattr(RendererSVG, "draw_text", draw_text)
    monkeypatch.setattr(figures, "_own", own)
    return found


@pytest.fixture(scope="module")
def stories(everything, tmp_path_factory) -> list[Told]:
    """Chapters in which each figure is drawn: of all studies, of two devices, and of what was profiled by hand."""
    two = load(ROOT / "results", "reference/h100")
    two.beside = [device_of(load(ROOT / "results", "reference/cpu"))]
    row = profile_row(
        "restv2_tiny@224:b1:fp32:eager", {"linear": 64.0, "norm": 6.0}, {"linear": 8_000_000_000}
    )
    for line in row["result"]["lines"]["operator"]:
        line |= {"moved_bytes": 12_300_000, "gb_per_s": 0.2}
        if line["macs"]:
            line |= {"dtype": "fp32", "tflops": 0.25, "flop_per_byte": 1300.0}
    peaks = synthetic.row("peaks", "cpu", {"tflops": {"fp32": 1.0}, "bandwidth_gb_s": 12.3})
    by_hand = results_of(tmp_path_factory.mktemp("by-hand"), peaks, row)
    files = {name: synthetic.study_rows(name, "cuda") for name in ("kernels", "sweep")}
    on_gpu = results_of(tmp_path_factory.mktemp("gpu"), **files)
    told = [told for results in (everything, on_gpu, two, by_hand) for told in chapters.tell(results)]
    return [*told, Told(chapters.generic.chapter_of(everything.study("table1")), everything)]


FIGURES = dict.fromkeys(
    [draw for chapter in chapters.CHAPTERS for draw in chapter.figures] + [chapters.generic.against_macs]
)


@pytest.mark.parametrize(
    "draw",
    swept(FIGURES, lambda draw: draw.__name__.startswith("figure")),
    ids=lambda draw: f"{draw.__module__.rpartition('.')[2]}-{draw.__name__}",
)
def test_every_figure_has_a_form_for_a_phone_and_all_its_text_can_be_read(draw, stories, written):
    """In both forms: no text covers another or ends outside; on a phone, none is too small."""
    drawn = 0
    for told in stories:
        if draw not in told.chapter.figures or not (plot := draw(told)):
            continue
        drawn += 1
        assert plot.narrow, f"{plot.name} is drawn for a desktop alone"
        for form in (plot, plot.narrow):
            view = ElementTree.fromstring(form.svg_file).attrib["viewBox"]
            _, _, width, height = map(float, view.split())
            texts = written[form.name]
            assert len(texts) > 5
            outside = [text.text for text in texts if not text.is_within(width, height)]
            covered = [(one.text, other.text) for one, other in combinations(texts, 2) if one.covers(other)]
            assert outside == covered == []
        assert width == pytest.approx(72 * NARROW)
        assert [text.text for text in texts if text.size * PHONE < LEAST] == []
    assert drawn


# ---- many of them


@pytest.fixture
def cores(monkeypatch):
    """A function that gives this process so many cores."""

    def have(number):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(number)), raising=False)

    return have


def named(name):
    """A figure of which only the name is asked."""
    return Plot(name, "", "", "", b"")


def test_figures_keep_their_order_and_are_drawn_while_the_caller_goes_on(cores, tmp_path):
    """The second waits for the caller, and the first for the second."""

    def once(sign, name):
        while not (tmp_path / sign).exists():
            time.sleep(0.01)
        (tmp_path / name).touch()
        return named(name)

    cores(2)
    jobs: list[Callable[[], Plot | None]] = [
        partial(once, "second", "first"),
        partial(once, "caller", "second"),
        lambda: None,
    ]
    with figures.drawing(jobs) as plots:
        (tmp_path / "caller").touch()
        while not (tmp_path / "first").exists():  # before anybody has asked for one
            time.sleep(0.01)
        assert list(plots) == [named("first"), named("second"), None]


def test_one_core_draws_when_it_is_asked(cores):
    cores(1)
    calls: list[int] = []
    with figures.drawing([partial(calls.append, number) for number in range(3)]) as plots:
        assert not calls
        assert list(plots) == [None] * 3
    assert calls == [0, 1, 2]


def test_what_waits_is_not_drawn_once_the_caller_failed(cores, tmp_path):
    def draw(number):
        (tmp_path / str(number)).touch()
        time.sleep(0.05)

    cores(2)
    with pytest.raises(BrokenPipeError), figures.drawing([partial(draw, number) for number in range(40)]):
        raise BrokenPipeError
    assert len(list(tmp_path.iterdir())) < 20


def test_the_chapters_that_show_most_are_drawn_first_and_each_gets_its_own_figures(everything, monkeypatch):
    told = chapters.tell(everything)
    started: list[Told] = []

    @contextmanager
    def without_drawing(jobs):
        started.extend(job.args[0] for job in jobs)
        yield iter([named(f"{job.args[0].chapter.anchor} {job.func.__name__}") for job in jobs])

    monkeypatch.setattr(figures, "drawing", without_drawing)
    with command.drawing(told):
        pass
    shown = [len(chapter.shown) for chapter in started]
    assert shown == sorted(shown, reverse=True) and shown[0] > shown[-1]
    assert [plot.name for chapter in told for plot in chapter.plots] == [
        f"{chapter.chapter.anchor} {figure.__name__}"
        for chapter in told
        for figure in chapter.chapter.figures
    ]
