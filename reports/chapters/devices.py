"""Several devices side by side: speeds, the paper's sentences and the cost model, and which conclusions travel."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import inf
from statistics import correlation
from typing import TYPE_CHECKING, Any

from bench.fitting import Fitted
from reports import columns
from reports.beside import OF_TIME, Device, Speed, device_of
from reports.chapter import Chapter, Told
from reports.claims import Claim, Finding
from reports.columns import NUMBER, SIZE, WORDS, Column, Row
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
from reports.fits import named
from reports.labels import label_points
from reports.tables import Table, made_of
from reports.text import enumerated, interval, sentences, significant
from reports.verdicts import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "devices"  # begins those of its tables, its figure and its file
LEAST = 3  # models of which an order is told
UNCERTAIN = "of one visit or have too wide an interval: no conclusion rests on such a speed alone"
SIDE_BY_SIDE = 6  # devices that have a column each: of more, a table counts, or has a row for each


def devices_of(told: Told) -> list[Device]:
    """The device that the page is of, and those beside it; none where it is alone."""
    found: list[Device] = told.context.get("devices", [])
    return found


def with_devices(told: Told) -> dict[str, Any]:
    """The devices, which tables, figure and file share."""
    beside = told.results.beside
    return {"devices": [device_of(told.results), *beside]} if beside else {}


def names(devices: Sequence[Device]) -> list[str]:
    """A name for each device, with the key of its results where two have the same."""
    times = Counter(device.name for device in devices)
    return [
        f"{each.name} ({key})" if times[each.name] > 1 else each.name
        for each, key in zip(devices, keys(devices), strict=True)
    ]


def keys(devices: Sequence[Device]) -> list[str]:
    """The key of each device's results, with its place where files of two have the same name."""
    times = Counter(device.key for device in devices)
    return [
        f"{each.key}-{place}" if times[each.key] > 1 else each.key for place, each in enumerate(devices, 1)
    ]


def a_column_each(
    devices: Sequence[Device],
    name: str,
    value: Callable[[int, Row], str | None],
    word: Callable[[int, Row], str],
) -> list[Column[Row]]:
    """A column for each device with its value; of many devices one, on how many of them each word is said."""
    if len(devices) <= SIDE_BY_SIDE:
        return [
            Column(f"{name}{place}", called, partial(value, place))
            for place, called in enumerate(names(devices))
        ]

    def counted(row: Row) -> str:
        times = Counter(word(place, row) for place in range(len(devices)))
        return ", ".join(f"{text}: {count}" for text, count in times.most_common())

    return [Column(name, f"on how many of {len(devices)} devices", counted)]


# ---- speeds


@dataclass(frozen=True)
class Model:
    """A case that several devices measured: its speed on each, None where one did not."""

    speeds: Sequence[Speed | None]

    @property
    def shown(self) -> Speed:
        """The speed on the first device that measured it, for its names and its case."""
        return next(speed for speed in self.speeds if speed)

    @property
    def macs(self) -> int | None:
        """Core MACs of one image, which are the same wherever they were counted; None where they were not."""
        return next((speed.macs for speed in self.speeds if speed and speed.macs), None)

    def speed(self, place: int) -> float | None:
        """Images a second on a device."""
        speed = self.speeds[place]
        return speed.images_per_s if speed else None


def models(devices: Sequence[Device]) -> list[Model]:
    """The cases of studies of throughput that two devices measured at the least."""
    cases = dict.fromkeys(case for device in devices for case in device.speeds)
    found = [Model([device.speeds.get(case) for device in devices]) for case in cases]
    return [model for model in found if sum(speed is not None for speed in model.speeds) > 1]


def both(found: Sequence[Model], one: int, other: int) -> list[tuple[Model, float, float]]:
    """The models that two devices measured, with both speeds."""
    speeds = ((model, model.speed(one), model.speed(other)) for model in found)
    return [(model, first, second) for model, first, second in speeds if first and second]


def order(first: Sequence[float], second: Sequence[float]) -> str | None:
    """Spearman's rank correlation of two orders; None of too few, or where one has all alike."""
    if len(first) < LEAST or min(len(set(first)), len(set(second))) < 2:
        return None
    return f"{correlation(_ranks(first), _ranks(second)):.2f}"


def _ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value; of equal ones their mean."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value)) / 2 for value in values]


def order_of_macs(found: Sequence[Model], place: int) -> str | None:
    """The rank correlation of MACs and time on a device."""
    known = [(macs, 1 / speed) for model in found if (speed := model.speed(place)) and (macs := model.macs)]
    return order(*zip(*known, strict=True)) if known else None


def order_of_speeds(found: Sequence[Model], one: int, other: int) -> str | None:
    """The rank correlation of the speeds on two devices."""
    speeds = [(first, second) for _, first, second in both(found, one, other)]
    return order(*zip(*speeds, strict=True)) if speeds else None


def orders(devices: Sequence[Device], found: Sequence[Model]) -> str:
    """A clause on how alike the orders of models are: by MACs and by time on each device, by speed on two."""
    called, said = names(devices), []
    for place, name in enumerate(called):
        if rank := order_of_macs(found, place):
            said.append(f"{rank} between MACs and time on {name}")
    for one, other in combinations(range(len(devices)), 2):
        if rank := order_of_speeds(found, one, other):
            said.append(f"{rank} between the speeds on {called[one]} and {called[other]}")
    return f"Rank correlations of these models: {enumerated(said)}" if said else ""


def speeds_table(devices: Sequence[Device], found: Sequence[Model]) -> Table:
    """Images a second, a device a column; of many devices a row for each, with how it orders the models."""
    name, title, notes = f"{NAME}_speeds", "Speeds by device", _caveats(devices, found, range(len(devices)))
    if len(devices) > SIDE_BY_SIDE:
        return made_of(
            _order_columns(devices, found),
            range(len(devices)),
            name,
            title,
            f"Rank correlations of models that were measured on both; each speed is in {NAME}.csv.",
            notes=notes,
        )
    return made_of(
        _speed_columns(devices),
        found,
        name,
        title,
        sentences(
            enumerated([_how(found, place, name) for place, name in enumerate(names(devices))]),
            orders(devices, found),
        ),
        notes=notes,
    )


def _speed_columns(devices: Sequence[Device]) -> list[Column[Model]]:
    """The columns of a model: its name, its size, and its speed on each device."""
    return [
        Column("model", "Model", lambda model: model.shown.title),
        Column("size", "Size", lambda model: model.shown.case, SIZE),
        *(
            Column(f"{key}_images_per_s", f"{name}, images/s", partial(_speed, place), NUMBER)
            for place, (name, key) in enumerate(zip(names(devices), keys(devices), strict=True))
        ),
    ]


def _order_columns(devices: Sequence[Device], found: Sequence[Model]) -> list[Column[int]]:
    """The columns of a device by its place: what it measured, and how it orders the models."""
    called = names(devices)
    return [
        Column("device", "Device", lambda place: called[place]),
        Column(
            "models", "Models", lambda place: str(sum(bool(model.speed(place)) for model in found)), WORDS
        ),
        Column("how", "How", lambda place: _ways(found, place)),
        Column("macs", "MACs and time", partial(order_of_macs, found)),
        Column(
            "first",
            f"speeds on {called[0]} and here",
            lambda place: order_of_speeds(found, 0, place) if place else None,
        ),
    ]


def _speed(place: int, model: Model) -> float | None:
    return model.speed(place)


def _how(found: Sequence[Model], place: int, name: str) -> str:
    return f"{name} at {_ways(found, place)}"


def _ways(found: Sequence[Model], place: int) -> str:
    """The batches and dtypes of a device's speeds."""
    speeds = [model.speeds[place] for model in found]
    return " or ".join(dict.fromkeys(f"batch {speed.batch}, {speed.dtype}" for speed in speeds if speed))


def _caveats(devices: Sequence[Device], found: Sequence[Model], places: Sequence[int]) -> list[str]:
    """Devices, of those at the places, from whose speeds alone nothing can be concluded of a model."""
    said, called = [], names(devices)
    for place in places:
        speeds = [speed for model in found if (speed := model.speeds[place])]
        wide = sum(speed.is_uncertain for speed in speeds)
        if wide:
            said.append(f"{called[place]}: {wide} of {len(speeds)} speeds are {UNCERTAIN}")
    if len(said) > SIDE_BY_SIDE:
        return [f"{len(said)} of {len(devices)} devices have speeds that are {UNCERTAIN}"]
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


def judgements(devices: Sequence[Device]) -> list[Judgement]:
    """The sentences about time that pairs in turns on some device say something of."""
    judged = [
        Judgement(claim, [device.findings[place] for device in devices])
        for place, claim in enumerate(OF_TIME)
    ]
    return [
        each
        for each in judged
        if any(finding.verdict.status is not Status.NOT_MEASURED for finding in each.findings)
    ]


def claims_table(devices: Sequence[Device]) -> list[Table]:
    """Verdicts by device; none where no device measured a pair that a sentence is about."""
    if not (rows := judgements(devices)):
        return []
    verdicts = a_column_each(
        devices, "verdict", _verdict, lambda place, row: row.findings[place].verdict.word
    )
    name: Column[Judgement] = Column("claim", "claim", lambda row: row.claim.name)
    same: Column[Judgement] = Column("travels", "travels", lambda row: row.travels)
    asks: Column[Judgement] = Column("asks", "asked for", lambda row: row.claim.asks.words)
    words: Column[Judgement] = Column("sentence", "the paper's words", lambda row: f"“{row.claim.quote}”")
    return [
        made_of(
            (name, *verdicts, same, asks, words),
            rows,
            f"{NAME}_claims",
            "The paper's sentences by device",
            "Sentences about time, with the speed of the first beside the second's, as each device took it in turns. "
            "What is printed or counted is the same on all.",
            narrow=[[name, asks, words], [name, *verdicts, same]],
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
    """Something that the fit of a device says; None where it says nothing."""

    name: str
    of: Callable[[Fitted], str | None]

    def value(self, device: Device) -> str | None:
        """The value that a device's fit gives; None where it has too few rows for one."""
        return self.of(device.fitted) if device.fitted else None


def _rate(term: str) -> Callable[[Fitted], str | None]:
    return lambda fit: significant(rate) if (rate := fit.two.model.rates.get(term, inf)) < inf else None


QUANTITIES = (
    Quantity("rows", lambda fit: str(len(fit.campaign.rows))),
    Quantity("dtype", lambda fit: fit.campaign.dtype),
    Quantity("MACs alone: half within, %", lambda fit: significant(fit.alone.errors.median)),
    Quantity("MACs alone: 9 in 10 within, %", lambda fit: significant(fit.alone.errors.ninth)),
    Quantity("best terms", lambda fit: named(fit.best)),
    Quantity("best terms: half within, %", lambda fit: significant(fit.best.errors.median)),
    Quantity("best terms: 9 in 10 within, %", lambda fit: significant(fit.best.errors.ninth)),
    Quantity("MACs and bytes: TFLOP/s", _rate("macs")),
    Quantity("MACs and bytes: GB/s", _rate("bytes")),
)


def costmodel_table(devices: Sequence[Device]) -> list[Table]:
    """Errors on families left out, and rates, by device; none where no device has rows enough."""
    fitted = [place for place, device in enumerate(devices) if device.fitted]
    if not fitted:
        return []
    name, title = f"{NAME}_costmodel", "The cost model by device"
    caption = "Each fitted to the device's own rows, and judged on families left out."
    called = names(devices)
    if len(devices) <= SIDE_BY_SIDE:
        columns: list[Column[Quantity]] = [Column("quantity", "of the cost model", lambda each: each.name)]
        for place, device in enumerate(devices):
            columns.append(Column(f"value{place}", called[place], partial(_value, device), WORDS))
        return [made_of(columns, QUANTITIES, name, title, caption)]
    by_device: list[Column[int]] = [Column("device", "Device", lambda place: called[place])]
    by_device += [
        Column(f"value{column}", each.name, partial(_value_at, devices, each))
        for column, each in enumerate(QUANTITIES)
    ]
    left = len(devices) - len(fitted)
    few = f" {left} device{'s have' if left > 1 else ' has'} too few rows." if left else ""
    return [made_of(by_device, fitted, name, title, caption + few)]


def _value_at(devices: Sequence[Device], quantity: Quantity, place: int) -> str | None:
    return quantity.value(devices[place])


def _value(device: Device, quantity: Quantity) -> str | None:
    return quantity.value(device)


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

    def word(self, place: int) -> str:
        """Whether it holds on a device."""
        return {True: "yes", False: "no", None: "cannot tell"}[self.holding[place]]


def conclusions(devices: Sequence[Device]) -> list[Conclusion]:
    """The conclusions: whether MACs are a guide to time on the devices, and whether the cost model is a better one."""
    off = [sum(pair.is_off for pair in device.pairs) for device in devices]
    inverted = [sum(pair.is_inverted for pair in device.pairs) for device in devices]
    fits = [device.fitted for device in devices]

    def of_pairs(counts: Sequence[int]) -> list[str]:
        return [
            f"{count} of {len(device.pairs)} pairs" if device.pairs else "no pair in turns"
            for device, count in zip(devices, counts, strict=True)
        ]

    return [
        Conclusion(
            "some models differ in time otherwise than in MACs",
            [True if count else None for count in off],
            of_pairs(off),
        ),
        Conclusion(
            "some model with more MACs is the faster one",
            [True if count else None for count in inverted],
            of_pairs(inverted),
        ),
        Conclusion(
            "MACs and more predict left-out families better than MACs alone",
            [fit.best.errors.median < fit.alone.errors.median if fit else None for fit in fits],
            [
                f"{significant(fit.best.errors.median)} % off beside {significant(fit.alone.errors.median)} %"
                if fit
                else "too few rows"
                for fit in fits
            ],
        ),
    ]


def conclusions_table(devices: Sequence[Device]) -> Table:
    """The conclusions by device, and whether each travels."""
    return made_of(
        [
            Column("conclusion", "conclusion", lambda row: row.text),
            *a_column_each(devices, "holds", _detail, lambda place, row: row.word(place)),
            Column("travels", "travels", lambda row: row.travels),
        ],
        conclusions(devices),
        f"{NAME}_conclusions",
        "Which conclusions travel",
        "A conclusion travels where all devices that can tell say the same, and two at the least can; else it is open.",
    )


def _detail(place: int, row: Conclusion) -> str:
    return f"{row.word(place)}: {row.details[place]}"


def tables(told: Told) -> list[Table]:
    """Conclusions, speeds, sentences and cost model by device; none of one device alone."""
    if not (devices := devices_of(told)):
        return []
    found = models(devices)
    return [
        conclusions_table(devices),
        *([speeds_table(devices, found)] if found else []),
        *claims_table(devices),
        *costmodel_table(devices),
    ]


def files(told: Told) -> dict[str, str]:
    """Every speed that several devices measured, a device a column; none of one device alone."""
    devices = devices_of(told)
    found = models(devices)
    return {f"{NAME}.csv": columns.to_csv(_speed_columns(devices), found)} if found else {}


# ---- the figure


def speed_by_device(told: Told) -> Plot | None:
    """Images a second on one device over those on another, with lines on which one factor would carry all over."""
    devices = devices_of(told)
    found = models(devices)
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
        "; ".join(_caveats(devices, [model for model, _, _ in points], (slow, fast))),
    )
    return for_both(
        f"{NAME}_speeds",
        partial(_drawn, [model for model, _, _ in points], (slow, fast), called, title, subtitle),
    )


def _title(found: Sequence[Model], places: tuple[int, int], called: Sequence[str]) -> str:
    """The title: how many times as fast one device is, by models whose speeds on both can be concluded from."""
    slow, fast = places
    both_ways = [[speed for place in places if (speed := model.speeds[place])] for model in found]
    ratios = [
        (model.speed(fast) or 0) / (model.speed(slow) or 1)
        for model, speeds in zip(found, both_ways, strict=True)
        if not any(speed.is_uncertain or speed.is_launch_bound for speed in speeds)
    ]
    if len(ratios) < LEAST:
        return f"The speeds of {len(found)} models are too uncertain to say how many times as fast {called[fast]} is"
    alike = all(len({(speed.batch, speed.dtype) for speed in speeds}) == 1 for speeds in both_ways)
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
            colour, marker = family_look(model.shown.case.family)
            x, y = model.speed(slow) or 1, model.speed(fast) or 1
            axes.plot(x, y, marker, color=colour, markersize=7, markeredgecolor="white", zorder=3)
            points.append((x, y, model.shown.name, colour))
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
        files=files,
        context=with_devices,
        figures=(speed_by_device,),
        own_anchor="devices",
    ),
)
