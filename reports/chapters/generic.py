"""The chapter of a study that has none of its own: a user's, or a new one before anybody has written about it."""

from __future__ import annotations

from collections.abc import Sequence

from bench.study import Study
from reports.chapter import Chapter, Told
from reports.figures import WIDE, Plot, finish, for_both, new_figure, settle
from reports.lines import ANALYSIS, Line
from reports.scatter import Point, draw_points, iso_rates, macs_label, name_points, size_and_family_legend


def chapter_of(study: Study) -> Chapter:
    """The least that can be said of a study: its name, its question, its tables, and speed or time against MACs."""
    return Chapter(
        study=study.name,
        title=f"Study {study.name}",
        heading=study.question,
        nav=study.name,
        figures=(against_macs,),
    )


def against_macs(told: Told) -> Plot | None:
    """Images/s over core MACs, or milliseconds for latency; None unless two cases have both."""
    is_latency = told.study.harness == "latency"
    points = [point for line in told.shown if (point := _point(line, is_latency))]
    if len({point.gmacs for point in points}) < 2:
        return None
    return for_both(
        f"{told.study.name}_against_macs", lambda name, width: _drawn(told, points, is_latency, name, width)
    )


def _drawn(told: Told, points: Sequence[Point], is_latency: bool, name: str, width: float) -> Plot:
    what = "Time" if is_latency else "Throughput"
    title = f"{what} against MACs in {told.study.name}"
    subtitle = f"Measured on {told.results.machine}."
    if not is_latency:
        subtitle += " On a grey line all do equally many MACs a second."
    with new_figure(width, 5.2, title, subtitle) as figure:
        axes = figure.subplots()
        draw_points(axes, points, "", "ms" if is_latency else "images / s")
        axes.set_xlabel(macs_label("iteration" if is_latency else "image", width))
        size_and_family_legend(axes, [point.line for point in points], None if width == WIDE else 3)
        settle(figure)
        name_points(axes, points, [] if is_latency else iso_rates(axes))
        alt = f"{what} against MACs of {len(points)} cases, log-log. {title}."
        return finish(figure, name, title, alt)


def _point(line: Line, is_latency: bool) -> Point | None:
    """The line over its MACs; None where it has no MACs that a rate can be made of, or no time."""
    if not line.macs_per_s or not line.images_per_s or not line.seconds:
        return None
    gmacs = (line.macs(ANALYSIS) or 0) / 1e9
    if is_latency:  # an iteration's, as its time is
        return Point(line, gmacs * (line.batch or 1), line.seconds.map(lambda seconds: 1e3 * seconds))
    return Point(line, gmacs, line.images_per_s)
