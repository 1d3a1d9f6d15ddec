"""The common parts of figures: well-formed SVG, looks that differ without colour, many drawn at once in order."""

import os
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports import __main__ as command
from reports import chapters, figures, scatter
from reports.chapter import Told
from reports.figures import Plot
from tests.support.reporting import plots_of


def test_every_figure_is_well_formed_and_keeps_its_text(swept):
    plots = plots_of(swept)
    assert [figure.name for figure in plots] == [
        "predicted_against_measured",
        "throughput_against_macs",
        "sweep_batch",
        "sweep_resolution",
        "macs_by_operator",
    ]
    for figure in plots:
        ElementTree.fromstring(figure.svg_file)
        name = "ResTv2" if figure.name == "predicted_against_measured" else "ResTv2-T"  # families, not models
        assert name in re.sub("<title.*?</title>", "", figure.svg)
        assert figure.png.startswith(b"\x89PNG")
    families = "RegNetY|ConvNeXt|Swin|Focal|ResTv1|ResTv2"
    measured_names = Counter(re.findall(rf">((?:{families})-\w+)</text>", plots[1].svg))
    # here without the failed one, and on the paper's V100
    assert sum(measured_names.values()) == 23 + 24


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
