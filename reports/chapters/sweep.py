"""Batch and resolution: how the achieved rate grows with the density of the work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.cases import format_size
from bench.stats import Estimate
from reports.chapter import Chapter, Told
from reports.columns import Layout
from reports.figures import (
    NARROW,
    WIDE,
    Plot,
    apart,
    family_look,
    finish,
    for_both,
    grid_behind,
    label_line_ends,
    label_lines,
    new_figure,
    no_minor_ticks,
)
from reports.lines import ANALYSIS, Line, Pair

MOST_NAMES = {WIDE: 12.0, NARROW: 4.5}  # of steps on the axis, evenly; the first and the last have theirs


@dataclass(frozen=True)
class Step:
    """One line of the sweep as a point: where it stands on the axis, and what it reaches."""

    x: float
    rate: Estimate
    line: Line


Series = Mapping[str, Sequence[Step]]  # a model's steps in the order of x, by its title


def rate_against_batch(told: Told) -> Plot | None:
    """Achieved core GMAC/s over the batch, at 224 pixels."""
    lines = [line for line in told.shown if line.is_usual_size]
    series = _series(lines, lambda line: float(line.batch or 0))
    axis = "batch, images of 224 × 224 pixels"
    return _rate_plot(told, series, "sweep_batch", axis, "batch {}", lambda x: f"{x:.0f}")


def rate_against_resolution(told: Told) -> Plot | None:
    """Achieved core GMAC/s over the image's pixels, at the batch that most sizes were run at."""
    batches = [line.batch for line in told.shown if not line.is_usual_size]
    if not batches:
        return None
    batch = max(set(batches), key=batches.count)
    lines = [line for line in told.shown if line.batch == batch]
    sizes = {_pixels(line): format_size(line.case.size) for line in lines}
    series = _series(lines, _pixels)
    axis = f"image side in pixels, batch {batch} (axis: pixels per image, log)"
    return _rate_plot(told, series, "sweep_resolution", axis, "{} pixels", lambda x: sizes.get(x, ""))


def _pixels(line: Line) -> float:
    return float(line.case.size[0] * line.case.size[1])


def _series(lines: Sequence[Line], x: Callable[[Line], float]) -> Series:
    """The steps of each model that has more than one."""
    steps: dict[str, list[Step]] = {}
    for line in lines:
        if line.macs_per_s:
            steps.setdefault(line.title, []).append(Step(x(line), line.macs_per_s, line))
    return {
        title: sorted(points, key=lambda step: step.x) for title, points in steps.items() if len(points) > 1
    }


def _rate_plot(
    told: Told, series: Series, name: str, axis: str, what: str, tick: Callable[[float], str]
) -> Plot | None:
    """A line a model over the steps of the sweep; `tick` writes a step, `what` names it in the title."""
    if not series:
        return None
    title = _gain_title(series, told.pairs, what, tick)
    return for_both(name, lambda named, width: _drawn(told, series, axis, tick, title, named, width))


def _drawn(
    told: Told,
    series: Series,
    axis: str,
    tick: Callable[[float], str],
    title: str,
    name: str,
    width: float,
) -> Plot:
    subtitle = f"Measured on {told.results.machine}. Core MACs."
    xs = sorted({step.x for steps in series.values() for step in steps})
    named = apart([xs[-1], *xs], math.log(xs[-1] / xs[0]) / MOST_NAMES[width])
    with new_figure(width, 4.6, title, subtitle) as figure:
        axes = figure.subplots()
        for model, steps in series.items():
            colour, marker = family_look(steps[0].line.case.family)
            rates = [step.rate for step in steps]
            ends = [
                [rate.value - (rate.low or rate.value), (rate.high or rate.value) - rate.value]
                for rate in rates
            ]
            axes.errorbar(
                [step.x for step in steps],
                [rate.value / 1e9 for rate in rates],
                [[low / 1e9 for low, _ in ends], [high / 1e9 for _, high in ends]],
                color=colour,
                marker=marker,
                markersize=6,
                linewidth=1.6,
                capsize=3,
                label=model,
            )
        axes.set(xscale="log", xlabel=label_lines(axis, width), ylabel="achieved GMAC/s")
        axes.set_xticks(xs, [tick(x) if x in named else "" for x in xs])
        no_minor_ticks(axes.xaxis)
        axes.set_ylim(0, None)
        grid_behind(axes, "y")
        last = {model: steps[-1] for model, steps in series.items()}
        ends_of_lines = [
            (step.x, step.rate.value / 1e9, model, family_look(step.line.case.family)[0])
            for model, step in last.items()
        ]
        label_line_ends(figure, axes, ends_of_lines, widest=max(series, key=len))
        alt = f"Achieved GMAC/s of {len(series)} models against {axis}. {title}."
        return finish(figure, name, title, alt)


def _gain_title(series: Series, pairs: Sequence[Pair], what: str, tick: Callable[[float], str]) -> str:
    """The figure's title: who gains most and who least between two steps, of pairs that were taken in turns."""
    gains: dict[tuple[float, float], dict[str, float]] = {}
    for model, steps in series.items():
        by_case = {step.line.case: step for step in steps}
        for pair in pairs:
            large, small = by_case.get(pair.first.case), by_case.get(pair.second.case)
            if large and small and pair.here and not pair.here.within_run and not pair.is_launch_bound:
                macs = (large.line.macs(ANALYSIS) or 0) / (small.line.macs(ANALYSIS) or 1)
                gains.setdefault((small.x, large.x), {})[model] = macs / pair.here.value
    if not gains:
        return "Achieved MACs a second, step by step"
    (small_x, large_x), by_model = max(gains.items(), key=lambda found: len(found[1]))
    most, least = (
        max(by_model, key=lambda name: by_model[name]),
        min(by_model, key=lambda name: by_model[name]),
    )
    steps_named = what.format(f"{tick(small_x)} to {tick(large_x)}")
    rest = f", {least} {by_model[least]:.1f}×" if least != most else ""
    return f"From {steps_named} {most} reaches {by_model[most]:.1f}× the MACs a second{rest}"


CHAPTERS = (
    Chapter(
        study="sweep",
        title="Batch and resolution",
        heading="Batch and resolution: what density buys",
        nav="Batch and resolution",
        text="The same arithmetic in larger pieces. A machine on which FLOPs were speed would draw level lines.",
        layout=Layout(
            (
                *("model", "size", "batch", "dtype", "images_per_s", "half_width", "gmacs_per_s"),
                *("share_of_peak", "device_share", "millijoules_per_image"),
            )
        ),
        is_long=True,
        figures=(rate_against_batch, rate_against_resolution),
    ),
)
