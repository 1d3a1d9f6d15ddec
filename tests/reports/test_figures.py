"""The common parts of figures: well-formed SVG, looks that differ without colour."""

import re
from collections import Counter
from xml.etree import ElementTree

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports import figures, scatter
from tests.support.reporting import plots_of


def test_every_figure_is_well_formed_and_keeps_its_text(swept):
    plots = plots_of(swept)
    assert [figure.name for figure in plots] == [
        "throughput_against_macs",
        "sweep_batch",
        "sweep_resolution",
        "macs_by_operator",
    ]
    for figure in plots:
        ElementTree.fromstring(figure.svg_file)
        assert "ResTv2-T" in re.sub("<title.*?</title>", "", figure.svg)
        assert figure.png.startswith(b"\x89PNG")
    families = "RegNetY|ConvNeXt|Swin|Focal|ResTv1|ResTv2"
    measured_names = Counter(re.findall(rf">((?:{families})-\w+)</text>", plots[0].svg))
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
