"""Several devices side by side: speeds, the paper's sentences and the cost model, and which conclusions travel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from bench.fitting import Fitted
from bench.text import bracketed
from reports import columns, device_speeds
from reports.beside import OF_TIME, Device, device_of, keys, names
from reports.chapter import Chapter, Told
from reports.claims import Claim, Finding
from reports.columns import COUNT, NUMBER, SIZE, WORDS, Column, Row
from reports.device_speeds import (
    NAME,
    SIDE_BY_SIDE,
    Model,
    caveats,
    how,
    models,
    one_each,
    order_of_macs,
    order_of_speeds,
    orders,
    ways,
)
from reports.figures import Plot
from reports.fits import named
from reports.tables import Table, made_of
from reports.text import enumerated, interval, sentences, significant
from reports.verdicts import Status


def devices_of(told: Told) -> list[Device]:
    """The device that the page is of, and those beside it; none where it is alone."""
    found: list[Device] = told.context.get("devices", [])
    return found


def with_devices(told: Told) -> dict[str, Any]:
    """The devices, which tables, figure and file share."""
    beside = told.results.beside
    return {"devices": [device_of(told.results), *beside]} if beside else {}


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


def speeds_table(devices: Sequence[Device], found: Sequence[Model]) -> Table:
    """Images a second, a device a column; of many devices a row for each, with how it orders the models."""
    name, title, notes = f"{NAME}_speeds", "Speeds by device", caveats(devices, found, range(len(devices)))
    if len(devices) > SIDE_BY_SIDE:
        return made_of(
            _order_columns(devices, found),
            range(len(devices)),
            name,
            title,
            f"Rank correlations of models that were measured on both; each speed is in {NAME}.csv.",
            notes=notes,
        )
    own = [model for model in found if not model.setting]
    shown = [
        column
        for column in _speed_columns(devices)
        if column.header not in ("Batch", "Dtype") or len(own) < len(found)
    ]
    return made_of(
        shown,
        found,
        name,
        title,
        sentences(
            enumerated([how(own, place, name) for place, name in enumerate(names(devices))]) if own else "",
            orders(devices, found),
        ),
        notes=notes,
    )


def _speed_columns(devices: Sequence[Device]) -> list[Column[Model]]:
    """The columns of a model: its name, its size, and its speed on each device."""
    return [
        Column("model", "Model", lambda model: model.shown.title),
        Column("size", "Size", lambda model: model.shown.case, SIZE),
        # of a case that each device ran at its own, neither
        Column("batch", "Batch", lambda model: model.setting and model.setting[0], COUNT),
        Column("dtype", "Dtype", lambda model: model.setting and model.setting[1], WORDS),
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
        Column("models", "Models", lambda place: str(len(one_each(found, place))), WORDS),
        Column("how", "How", lambda place: ways(found, place)),
        Column("macs", "MACs and time", partial(order_of_macs, found)),
        Column(
            "first",
            f"speeds on {called[0]} and here",
            lambda place: order_of_speeds(found, 0, place) if place else None,
        ),
    ]


def _speed(place: int, model: Model) -> float | None:
    return model.speed(place)


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
    Quantity("uncertain rows", lambda fit: fit.campaign.doubts or "none"),
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
    few = f" {left} device{'s have' if left > 1 else ' has'} too few rows with an interval." if left else ""
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
                + bracketed(fit.campaign.doubts)
                if fit
                else "too few rows with an interval"
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


def speed_by_device(told: Told) -> Plot | None:
    """Images a second on one device over those on another, of the two that measured most models both."""
    return device_speeds.draw(devices_of(told))


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
