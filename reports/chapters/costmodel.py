"""The cost model: time from MACs and bytes beside MACs alone, each family predicted by models fitted without it."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench import fitting, prediction, speeds
from bench.costmodel import HeldOut, errors
from bench.fitting import Fitted, Judged, parameters
from bench.text import bracketed
from reports.chapter import Chapter, Told, no_tables
from reports.columns import COUNT, NUMBER, WORDS, Column, Form
from reports.figures import (
    FAINT,
    MUTED,
    WIDE,
    Plot,
    family_look,
    finish,
    for_both,
    grid_behind,
    new_figure,
    plain_log_ticks,
)
from reports.fits import fits, largest, named
from reports.printed import PAPER
from reports.tables import Table, made_of
from reports.text import sentences, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN = "predicted_against_measured"  # the figure's name

# ---- what was fitted


@cache
def printed_fit() -> Fitted | None:
    """The fit of the speeds that the paper prints in Table 1."""
    (campaign,) = speeds.read(PAPER / "table1.csv")
    return fitting.fitted(campaign)


def where(fit: Fitted) -> str:
    """The subject of a fit: the device, or who printed it."""
    source = fit.campaign.source
    return source if "printed" in source else fit.campaign.name


def doubts(fit: Fitted) -> str:
    """How many rows of a fit say less than they seem to, and how many said nothing; in words, empty without such."""
    left = sum(why == speeds.WITHOUT for _, why in fit.campaign.left)
    without = f"{left} more {speeds.WITHOUT} left out" if left else ""
    return ", ".join(filter(None, (fit.campaign.doubts, without)))


def sentence(fit: Fitted) -> str:
    """A sentence on what a fit says, with its numbers."""
    of, best, alone = where(fit), fit.best.errors, fit.alone.errors
    uncertain = f" ({len(fit.campaign.rows)} rows: {doubts(fit)})" if doubts(fit) else ""
    return (
        f"{of[0].upper()}{of[1:]}{uncertain}: on families that they were not fitted to, half of the predictions by "
        f"MACs alone are within {significant(alone.median)} % and nine in ten within {significant(alone.ninth)} %; by "
        f"{named(fit.best)} within {significant(best.median)} % and {significant(best.ninth)} %"
        + (": MACs alone are the better guide there, in the median" if alone.median < best.median else "")
    )


def answer(told: Told) -> str:
    """A sentence on which guide to time is the better one, by its errors on families that it has not seen."""
    here = told.context["here"]
    if here:
        fit = largest(here)
        best, alone = fit.best.errors.median, fit.alone.errors.median
        how, rows = named(fit.best), f"{len(fit.campaign.rows)} models"
        about = f"Over {rows} measured here ({'; '.join(filter(None, (where(fit), doubts(fit))))})"
    else:
        line = max(published_lines(), key=lambda each: int(each["rows"]))
        best, alone = float(line["median_error"]), float(line["macs_alone_median_error"])
        how = "MACs and bytes"
        about = (
            "Too few models were measured here with an interval to judge another guide; over the "
            f"{line['rows']} that timm published of an {line['device'].upper().replace('RTX', 'RTX ')}"
        )
    better = "no better" if best >= alone else "the better guide"
    return sentences(
        f"{about}, {how} are {better}: {significant(best)} % off in the median on families that they were not fitted "
        f"to, where MACs alone are {significant(alone)} % off"
    )


# ---- tables


class Row(NamedTuple):
    """A model of one fit."""

    fit: Fitted
    judged: Judged


MODELS: tuple[Column[Row], ...] = (
    Column("campaign", "Measured", lambda row: where(row.fit)),
    Column("model", "Time from", lambda row: named(row.judged)),
    Column("median", "half within, %", lambda row: row.judged.errors.median, NUMBER),
    Column("ninth", "9 in 10 within, %", lambda row: row.judged.errors.ninth, NUMBER),
    Column(
        "interval",
        "9 in 10 measured, × predicted",
        lambda row: f"{row.judged.interval.low:.2f} to {row.judged.interval.high:.2f}",
        WORDS,
    ),
    Column("coverage", "in that range, % of those left out", lambda row: 100 * row.judged.coverage, COUNT),
    Column("rates", "rates", lambda row: parameters(row.judged.model), WORDS),
)


def models(found: Sequence[Fitted]) -> Table:
    """MACs alone, MACs and bytes, and the terms with the least errors, of each fit."""
    rows = [Row(fit, judged) for fit in found for judged in fit.models.values()]
    return made_of(
        MODELS,
        rows,
        "costmodel",
        "Time from what can be counted",
        sentences(*map(sentence, found)),
        narrow=[[*MODELS[:2], *MODELS[4:]], MODELS[:4]],
    )


class Family(NamedTuple):
    """A family of one fit, and its rows."""

    campaign: str
    name: str
    alone: Sequence[HeldOut]
    best: Sequence[HeldOut]


SIGNED = Form(lambda value: f"{value:+.0f}".replace("-", "−"))
BY_FAMILY: tuple[Column[Family], ...] = (
    Column("campaign", "Measured", lambda row: row.campaign),
    Column("family", "Family left out", lambda row: row.name),
    Column("rows", "rows", lambda row: len(row.best), COUNT),
    Column("alone", "MACs alone, %", lambda row: errors(row.alone).median, NUMBER),
    Column("best", "cost model, %", lambda row: errors(row.best).median, NUMBER),
    Column("bias", "too slow (+) or too fast (−), %", lambda row: 100 * _bias(row.best), SIGNED),
)


def _bias(held: Sequence[HeldOut]) -> float:
    return statistics.fmean(each.error for each in held)


def families(found: Sequence[Fitted]) -> Table:
    """The errors by family that was left out: of what was measured here, and of what the paper prints."""
    rows = []
    for fit in found:
        for name in dict.fromkeys(row.family for row in fit.campaign.rows):
            alone, best = (
                [each for each in judged.held if each.row.family == name] for judged in (fit.alone, fit.best)
            )
            rows.append(Family(where(fit), name, alone, best))
    return made_of(
        BY_FAMILY,
        rows,
        "costmodel_families",
        "By family that was left out",
        narrow=[[*BY_FAMILY[:3], BY_FAMILY[5]], [*BY_FAMILY[:2], *BY_FAMILY[3:5]]],
    )


Line = Mapping[str, str]


def _number(name: str, header: str) -> Column[Line]:
    return Column(name, header, lambda line: float(line[name]) if line[name] else None, NUMBER)


PUBLISHED: tuple[Column[Line], ...] = (
    Column("device", "GPU", lambda line: line["device"]),
    Column("way", "how", lambda line: ", ".join(filter(None, (line["dtype"], line["way"], line["about"])))),
    Column("rows", "rows", lambda line: int(line["rows"]), COUNT),
    Column(
        "uncertain",
        "uncertain rows",
        lambda line: int(line["uncertain"]) if line["uncertain"] else None,
        COUNT,
    ),
    _number("macs_alone_median_error", "MACs alone: median, %"),
    _number("macs_alone_ninth_error", "MACs alone: 9 in 10, %"),
    _number("median_error", "MACs and bytes: median, %"),
    _number("ninth_error", "MACs and bytes: 9 in 10, %"),
    _number("best_median_error", "best terms: median, %"),
    _number("best_ninth_error", "best terms: 9 in 10, %"),
    _number("tflops", "TFLOP/s"),
    _number("gb_per_s", "GB/s"),
)


def published_lines() -> list[Line]:
    """The fits to speeds that others published, of bench/rates.csv."""
    with prediction.FILE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def published() -> Table:
    """The table of those."""
    return made_of(
        PUBLISHED,
        published_lines(),
        "costmodel_published",
        "On GPUs",
        "timm's tables for an RTX 3090 and a 4090, the paper's Table 1, and the H100's rows of this repository, which "
        "are a quick look of one visit each; the others give no intervals. On "
        "families left out, half of the predictions are within the median, nine in ten within the other number. "
        "TFLOP/s and GB/s are those of MACs and bytes together; 1 MAC = 2 FLOP.",
        narrow=[
            [*PUBLISHED[:5], *PUBLISHED[6:8], *PUBLISHED[9:]],
            [*PUBLISHED[:2], PUBLISHED[4], PUBLISHED[6]],
        ],
    )


def context(told: Told) -> dict[str, Any]:
    """The variables of the section's template."""
    here = fits(told.results)
    of_print = printed_fit()
    both = [*here, *([of_print] if of_print else [])]
    return {
        "here": here,
        "sentences": [sentence(fit) for fit in both],
        "models": models(both),
        "families": families(both),
        "published": published(),
    }


# ---- the figure


def predicted_against_measured(told: Told) -> Plot | None:
    """Predicted over measured milliseconds of an image on left-out families: MACs alone, and the cost model."""
    here: list[Fitted] = told.context["here"]
    if not here:
        return None
    fit = largest(here)
    return for_both(DRAWN, lambda name, width: _drawn(told, fit, name, width))


def _title(fit: Fitted) -> str:
    best, alone = fit.best.errors.median, fit.alone.errors.median
    return (
        f"MACs alone are {significant(alone)} % off on families that they were not fitted to, "
        f"the cost model {significant(best)} %"
    )


def _drawn(told: Told, fit: Fitted, name: str, width: float) -> Plot:
    title, is_wide = _title(fit), width == WIDE
    subtitle = (
        f"{len(fit.campaign.rows)} cases measured on {told.results.machine}, {fit.campaign.dtype}, "
        f"{fit.campaign.way}{bracketed(fit.campaign.doubts)}. Each is predicted from {named(fit.best)}, or from MACs "
        "alone, by what was fitted without its family; grey: nine in ten."
    )
    with new_figure(width, 4.4 if is_wide else 7.4, title, subtitle) as figure:
        panels = figure.subplots(*((1, 2) if is_wide else (2, 1)), sharex=True, sharey=True)
        held = [*fit.alone.held, *fit.best.held]
        ends = [1e3 * each.row.seconds for each in held] + [1e3 * each.predicted for each in held]
        low, high = min(ends) / 1.3, max(ends) * 1.3
        for axes, judged, who in zip(
            panels, (fit.alone, fit.best), ("MACs alone", "Cost model"), strict=True
        ):
            _panel(axes, judged, low, high)
            axes.set_title(f"{who}: median {significant(judged.errors.median)} % off")
        for axes in panels if is_wide else panels[1:]:
            axes.set_xlabel("measured, ms an image")
        for axes in panels if not is_wide else panels[:1]:
            axes.set_ylabel("predicted, ms an image")
        known = dict.fromkeys((*family_look(each.row.family), each.row.family) for each in fit.best.held)
        handles = [
            panels[0].plot([], [], marker, color=colour, label=family)[0] for colour, marker, family in known
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=6 if is_wide else 3, frameon=False, fontsize=8
        )
        alt = f"Predicted over measured time of {len(fit.campaign.rows)} cases in two panels. {title}."
        return finish(figure, name, title, alt)


def _panel(axes: Axes, judged: Judged, low: float, high: float) -> None:
    """A point a case, the line on which prediction and measurement agree, and the ends of nine in ten around it."""
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axes.plot([low, high], [low, high], color=MUTED, linewidth=0.8, zorder=1)
    # measured lies between low and high times predicted
    line, (shorter, longer) = np.array([low, high]), judged.interval
    axes.fill_between(line, line / longer, line / shorter, color=FAINT, alpha=0.5, linewidth=0, zorder=0)
    for each in judged.held:
        colour, marker = family_look(each.row.family)
        axes.plot(1e3 * each.row.seconds, 1e3 * each.predicted, marker, color=colour, markersize=5, zorder=2)
    plain_log_ticks(axes)
    grid_behind(axes, "y")


CHAPTERS = (
    Chapter(
        heading="What predicts the time: MACs and bytes",
        nav="Cost model",
        text="Time is taken to be MACs / R + bytes / B, and what else lowers the errors: launches, a constant. R and B "
        "are fitted to all families of models but one, and judged on that one.",
        tables=no_tables,
        answer=answer,
        context=context,
        figures=(predicted_against_measured,),
        template="costmodel.html",
        own_anchor="cost-model",
    ),
)
