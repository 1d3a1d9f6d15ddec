"""Several devices side by side: speeds, the paper's sentences and the cost model, and which conclusions travel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from statistics import correlation
from typing import TYPE_CHECKING

from bench.fitting import Fitted
from reports import claims
from reports.chapter import Chapter, Told
from reports.claims import Claim, Finding
from reports.columns import NUMBER, SIZE, WORDS, Column
from reports.figures import (
    FAINT,
    WIDE,
    Plot,
    family_look,
    finish,
    for_both,
    new_figure,
    plain_log_ticks,
    settle,
)
from reports.fits import fits, largest, named
from reports.guide import Guide
from reports.labels import label_points
from reports.lines import ANALYSIS, Line, lines_of
from reports.results import Results
from reports.sentences import CLAIMS
from reports.tables import Table, made_of
from reports.text import enumerated, interval, sentences, significant
from reports.verdicts import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "devices"  # begins those of its tables and figure
LEAST = 3  # models of which an order is told


def names(devices: Sequence[Results]) -> list[str]:
    """A name for each device, with the key of its results where two have the same."""
    texts = [str(each.device.get("name") or each.key) for each in devices]
    return [
        f"{text} ({each.key})" if texts.count(text) > 1 else text
        for text, each in zip(texts, devices, strict=True)
    ]


def devices_of(told: Told) -> list[Results]:
    """The device that the page is of, and those beside it."""
    return [told.results, *told.results.beside]


# ---- speeds


@dataclass(frozen=True)
class Model:
    """A case that several devices measured: its line on each, None where one did not."""

    lines: Sequence[Line | None]

    @property
    def line(self) -> Line:
        """The line on the first device that measured it."""
        return next(line for line in self.lines if line)

    def speed(self, place: int) -> float | None:
        """Images a second on a device."""
        line = self.lines[place]
        return line.images_per_s.value if line and line.images_per_s else None


def models(devices: Sequence[Results]) -> list[Model]:
    """The cases of studies of throughput that two devices measured at the least."""
    found: dict[tuple[str, str], dict[int, Line]] = {}
    for place, results in enumerate(devices):
        studies = [results.study(name) for name in results.ran]
        for study in (study for study in studies if study.harness == "throughput"):
            for line in lines_of(results, study):
                if line.images_per_s and not line.is_training:
                    found.setdefault((line.case.paper_name, line.case.impl), {}).setdefault(place, line)
    return [
        Model([by_place.get(place) for place in range(len(devices))])
        for by_place in found.values()
        if len(by_place) > 1
    ]


def both(found: Sequence[Model], one: int, other: int) -> list[tuple[Model, float, float]]:
    """The models that two devices measured, with both speeds."""
    speeds = ((model, model.speed(one), model.speed(other)) for model in found)
    return [(model, first, second) for model, first, second in speeds if first and second]


def order(first: Sequence[float], second: Sequence[float]) -> str | None:
    """Spearman's rank correlation of two orders; None of too few."""
    if len(first) < LEAST:
        return None
    ranks = [[float(sorted(values).index(value)) for value in values] for values in (first, second)]
    return f"{correlation(*ranks):.2f}"


def orders(devices: Sequence[Results], found: Sequence[Model]) -> str:
    """A clause on how alike the orders of models are: by MACs and by time on each device, by speed on two."""
    called, said = names(devices), []
    for place, name in enumerate(called):
        known = [
            (macs, 1 / speed)
            for model in found
            if (speed := model.speed(place)) and (macs := model.line.macs(ANALYSIS))
        ]
        if known and (rank := order(*zip(*known, strict=True))):
            said.append(f"{rank} between MACs and time on {name}")
    for one, other in combinations(range(len(devices)), 2):
        speeds = [(first, second) for _, first, second in both(found, one, other)]
        if speeds and (rank := order(*zip(*speeds, strict=True))):
            said.append(f"{rank} between the speeds on {called[one]} and {called[other]}")
    return f"Rank correlations of these models: {enumerated(said)}" if said else ""


def speeds_table(devices: Sequence[Results], found: Sequence[Model]) -> Table:
    """Images a second, a device a column."""
    columns: list[Column[Model]] = [
        Column("model", "Model", lambda model: model.line.title),
        Column("size", "Size", lambda model: model.line.case, SIZE),
    ]
    for place, name in enumerate(names(devices)):
        columns.append(Column(f"speed{place}", f"{name}, images/s", partial(_speed, place), NUMBER))
    return made_of(
        columns,
        found,
        f"{NAME}_speeds",
        "Speeds by device",
        sentences(
            enumerated([_how(found, place, name) for place, name in enumerate(names(devices))]),
            orders(devices, found),
        ),
        notes=_caveats(devices, found),
    )


def _speed(place: int, model: Model) -> float | None:
    return model.speed(place)


def _how(found: Sequence[Model], place: int, name: str) -> str:
    """The batches and dtypes of a device's lines."""
    lines = [model.lines[place] for model in found]
    ways = dict.fromkeys(f"batch {line.batch}, {line.dtype}" for line in lines if line)
    return f"{name} at {' or '.join(ways)}"


def _caveats(devices: Sequence[Results], found: Sequence[Model]) -> list[str]:
    """Devices from whose speeds alone nothing can be concluded of a model."""
    said = []
    for place, name in enumerate(names(devices)):
        lines = [model.lines[place] for model in found]
        wide = sum(line.too_uncertain for line in lines if line)
        if wide:
            said.append(
                f"{name}: {wide} of {sum(line is not None for line in lines)} speeds are of one visit, or uncertain, "
                "and nothing is concluded from one of them"
            )
    return said


# ---- the paper's sentences


@dataclass(frozen=True)
class Judgement:
    """A sentence of the paper with what was found of it on each device."""

    claim: Claim
    findings: Sequence[Finding]

    @property
    def travels(self) -> str:
        """Whether the verdict is the same wherever there is one."""
        return travels([_holds(finding.verdict.status) for finding in self.findings])


def _holds(status: Status) -> bool | None:
    return {Status.CONFIRMED: True, Status.REFUTED: False}.get(status)


def travels(holding: Sequence[bool | None]) -> str:
    """Whether a conclusion is the same on all devices that can tell: yes, no, or open; None is one that cannot."""
    known = [holds for holds in holding if holds is not None]
    if len(known) < 2:
        return "open"
    return "yes" if len(set(known)) == 1 else "no"


def judgements(devices: Sequence[Results]) -> list[Judgement]:
    """The sentences about time that pairs in turns on some device say something of."""
    of_time = [claim for claim in CLAIMS if claim.by == "measured"]
    found = zip(*(claims.find(results, of_time) for results in devices), strict=True)
    judged = [Judgement(findings[0].claim, findings) for findings in found]
    return [
        each
        for each in judged
        if any(finding.verdict.status is not Status.NOT_MEASURED for finding in each.findings)
    ]


def claims_table(devices: Sequence[Results]) -> list[Table]:
    """Verdicts, a device a column; none where no device measured a pair that a sentence is about."""
    if not (rows := judgements(devices)):
        return []
    verdict_columns: list[Column[Judgement]] = [
        Column(f"verdict{place}", name, partial(_verdict, place)) for place, name in enumerate(names(devices))
    ]
    name: Column[Judgement] = Column("claim", "claim", lambda row: row.claim.name)
    same: Column[Judgement] = Column("travels", "travels", lambda row: row.travels)
    asks: Column[Judgement] = Column("asks", "asked for", lambda row: row.claim.asks.words)
    words: Column[Judgement] = Column("sentence", "the paper's words", lambda row: f"“{row.claim.quote}”")
    return [
        made_of(
            (name, *verdict_columns, same, asks, words),
            rows,
            f"{NAME}_claims",
            "The paper's sentences by device",
            "Sentences about time, with the speed of the first beside the second's, as each device took it in turns. "
            "What is printed or counted is the same on all.",
            narrow=[[name, asks, words], [name, *verdict_columns, same]],
        )
    ]


def _verdict(place: int, row: Judgement) -> str | None:
    finding = row.findings[place]
    if finding.verdict.status is Status.NOT_MEASURED:
        return None
    ends = f" ({interval(finding.effect)})" if finding.effect and finding.effect.low is not None else ""
    return f"{finding.verdict.word}{f': {finding.effect.value:.3g}' if finding.effect else ''}{ends}"


# ---- the cost model


@dataclass(frozen=True)
class Quantity:
    """Something that the fit of each device says; None where it says nothing."""

    name: str
    values: Sequence[str | None]


def costmodel_table(devices: Sequence[Results], found: Sequence[Fitted | None]) -> list[Table]:
    """Errors on families left out, and rates, a device a column; none where no device has rows enough."""
    if not any(found):
        return []

    def row(name: str, value: Callable[[Fitted], str | None]) -> Quantity:
        return Quantity(name, [value(fit) if fit else None for fit in found])

    def of_two(term: str) -> Callable[[Fitted], str | None]:
        return lambda fit: significant(fit.two.model.rates[term]) if term in fit.two.model.rates else None

    rows = [
        row("rows", lambda fit: str(len(fit.campaign.rows))),
        row("dtype", lambda fit: fit.campaign.dtype),
        row("MACs alone: half within, %", lambda fit: significant(fit.alone.errors.median)),
        row("MACs alone: 9 in 10 within, %", lambda fit: significant(fit.alone.errors.ninth)),
        row("best terms", lambda fit: named(fit.best)),
        row("best terms: half within, %", lambda fit: significant(fit.best.errors.median)),
        row("best terms: 9 in 10 within, %", lambda fit: significant(fit.best.errors.ninth)),
        row("MACs and bytes: TFLOP/s", of_two("macs")),
        row("MACs and bytes: GB/s", of_two("bytes")),
    ]
    columns: list[Column[Quantity]] = [Column("quantity", "of the cost model", lambda each: each.name)]
    for place, name in enumerate(names(devices)):
        columns.append(Column(f"value{place}", name, partial(_value, place), WORDS))
    return [
        made_of(
            columns,
            rows,
            f"{NAME}_costmodel",
            "The cost model by device",
            "Each fitted to the device's own rows, and judged on families left out.",
        )
    ]


def _value(place: int, row: Quantity) -> str | None:
    return row.values[place]


# ---- which conclusions travel


@dataclass(frozen=True)
class Conclusion:
    """A sentence that each device's rows bear out, contradict, or say nothing of."""

    text: str
    holding: Sequence[bool | None]
    details: Sequence[str]

    @property
    def travels(self) -> str:
        """Whether it is the same on all devices that can tell: yes, no, or open."""
        return travels(self.holding)


def conclusions(devices: Sequence[Results], found: Sequence[Fitted | None]) -> list[Conclusion]:
    """The conclusions: whether MACs are a guide to time on the devices, and whether the cost model is a better one."""
    guides = [Guide(results) for results in devices]
    off = [
        f"{len(guide.off)} of {len(guide.pairs)} pairs" if guide.pairs else "no pair in turns"
        for guide in guides
    ]
    inverted = [sum(pair.is_inverted for pair in guide.pairs) for guide in guides]
    return [
        Conclusion(
            "some models differ in time otherwise than in MACs",
            [True if guide.off else None for guide in guides],
            off,
        ),
        Conclusion(
            "some model with more MACs is the faster one",
            [True if count else None for count in inverted],
            [
                f"{count} of {len(guide.pairs)} pairs" if guide.pairs else "no pair in turns"
                for guide, count in zip(guides, inverted, strict=True)
            ],
        ),
        Conclusion(
            "MACs and more predict left-out families better than MACs alone",
            [fit.best.errors.median < fit.alone.errors.median if fit else None for fit in found],
            [
                f"{significant(fit.best.errors.median)} % off beside {significant(fit.alone.errors.median)} %"
                if fit
                else "too few rows"
                for fit in found
            ],
        ),
    ]


def conclusions_table(devices: Sequence[Results], found: Sequence[Fitted | None]) -> Table:
    """The conclusions, a device a column, and whether each travels."""
    columns: list[Column[Conclusion]] = [Column("conclusion", "conclusion", lambda row: row.text)]
    for place, name in enumerate(names(devices)):
        columns.append(Column(f"holds{place}", name, partial(_detail, place)))
    columns.append(Column("travels", "travels", lambda row: row.travels))
    return made_of(
        columns,
        conclusions(devices, found),
        f"{NAME}_conclusions",
        "Which conclusions travel",
        "A conclusion travels where all devices that can tell say the same, and two at the least can; else it is open.",
    )


def _detail(place: int, row: Conclusion) -> str:
    word = {True: "yes", False: "no", None: "cannot tell"}[row.holding[place]]
    return f"{word}: {row.details[place]}"


def tables(told: Told) -> list[Table]:
    """Conclusions, speeds, sentences and cost model by device; none of one device alone."""
    if not told.results.beside:
        return []
    devices = devices_of(told)
    found, fitted = models(devices), [largest(made) if (made := fits(each)) else None for each in devices]
    return [
        conclusions_table(devices, fitted),
        *([speeds_table(devices, found)] if found else []),
        *claims_table(devices),
        *costmodel_table(devices, fitted),
    ]


# ---- the figure


def speed_by_device(told: Told) -> Plot | None:
    """Images a second on one device over those on another, with lines on which one factor would carry all over."""
    devices = devices_of(told)
    found = models(devices) if told.results.beside else []
    pairs = [(one, other, both(found, one, other)) for one, other in combinations(range(len(devices)), 2)]
    one, other, points = max(pairs, key=lambda pair: len(pair[2]), default=(0, 0, []))
    if len(points) < LEAST:
        return None
    slow, fast = sorted(
        (one, other), key=lambda place: sum(model.speed(place) or 0 for model, _, _ in points)
    )
    called = names(devices)
    title = _title([model for model, _, _ in points], (slow, fast), called)
    subtitle = sentences(
        enumerated([_how([model for model, _, _ in points], place, called[place]) for place in (slow, fast)]),
        "On a grey line one factor carries all speeds over",
        "; ".join(_caveats(devices, [model for model, _, _ in points])),
    )
    return for_both(
        f"{NAME}_speeds",
        partial(_drawn, [model for model, _, _ in points], (slow, fast), called, title, subtitle),
    )


def _title(found: Sequence[Model], places: tuple[int, int], called: Sequence[str]) -> str:
    """The title: how many times as fast one device is, by models whose speeds on both can be concluded from."""
    slow, fast = places
    both_ways = [[line for place in places if (line := model.lines[place])] for model in found]
    ratios = [
        (model.speed(fast) or 0) / (model.speed(slow) or 1)
        for model, lines in zip(found, both_ways, strict=True)
        if not any(line.too_uncertain or line.is_launch_bound for line in lines)
    ]
    if len(ratios) < LEAST:
        return f"The speeds of {len(found)} models are too uncertain to say how many times as fast {called[fast]} is"
    alike = all(len({(line.batch, line.dtype) for line in lines}) == 1 for lines in both_ways)
    return (
        f"{called[fast]} is {significant(min(ratios))} to {significant(max(ratios))} times as fast as {called[slow]}, "
        f"model by model{'' if alike else ', at another batch or dtype'}"
    )


def _drawn(
    found: Sequence[Model],
    places: tuple[int, int],
    called: Sequence[str],
    title: str,
    subtitle: str,
    name: str,
    width: float,
) -> Plot:
    slow, fast = places
    with new_figure(width, 4.8 if width == WIDE else 6.4, title, subtitle) as figure:
        axes = figure.subplots()
        points: list[tuple[float, float, str, str]] = []
        for model in found:
            colour, marker = family_look(model.line.case.family)
            x, y = model.speed(slow) or 1, model.speed(fast) or 1
            axes.plot(x, y, marker, color=colour, markersize=7, markeredgecolor="white", zorder=3)
            points.append((x, y, model.line.name, colour))
        xs, ys = [point[0] for point in points], [point[1] for point in points]
        axes.set(
            xscale="log",
            yscale="log",
            xlim=(min(xs) / 1.3, max(xs) * 1.7),
            ylim=(min(ys) / 1.5, max(ys) * 1.5),
        )
        axes.set_xlabel(f"images/s on {called[slow]}")
        axes.set_ylabel(f"images/s on {called[fast]}")
        _factors(axes)
        plain_log_ticks(axes)
        settle(figure)
        label_points(axes, points, [])
        alt = f"Speeds of {len(points)} models on two devices, log-log. {title}."
        return finish(figure, name, title, alt)


def _factors(axes: Axes) -> None:
    """Draw the lines along which one device is some times as fast as the other."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    factor = 2.0**-20
    while factor * left < top:
        if factor * right > bottom:
            axes.plot([left, right], [factor * left, factor * right], color=FAINT, linewidth=0.8, zorder=0)
        factor *= 2
    axes.set(xlim=(left, right), ylim=(bottom, top))


CHAPTERS = (
    Chapter(
        heading="Several devices side by side",
        nav="Devices",
        text="The same on each device that results are there of: what holds on one need not hold on another.",
        tables=tables,
        figures=(speed_by_device,),
        own_anchor="devices",
    ),
)
