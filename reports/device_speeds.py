"""Speeds of models on several devices: which measured the same, how alike they order them, and a figure of two."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from statistics import correlation
from typing import TYPE_CHECKING

from reports.beside import Device, Ran, Setting, Speed, names
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
from reports.labels import label_points
from reports.text import enumerated, sentences, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "devices"  # begins the names of all that stands in their chapter
LEAST = 3  # models of which an order is told
SIDE_BY_SIDE = 6  # devices that have a column each: of more, a table counts, or has a row for each
UNCERTAIN = "of one visit, or have no interval or too wide a one: no conclusion rests on such a speed alone"


@dataclass(frozen=True)
class Model:
    """A case that several devices measured: its speed on each, None where one did not."""

    ran: Ran
    setting: Setting | None  # batch and dtype; None where each device has its own
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
    """The cases of studies of throughput that two devices measured at the least, one for each batch and dtype.

    Where a device ran a case as no other did, it stands there once more, with what each device's first study took.
    """
    found = []
    for ran in dict.fromkeys(ran for device in devices for ran in device.speeds):
        own = [device.speeds.get(ran, {}) for device in devices]
        settings = dict.fromkeys(setting for of_device in own for setting in of_device)
        shared = [setting for setting in settings if sum(setting in of_device for of_device in own) > 1]
        found += [Model(ran, setting, [of_device.get(setting) for of_device in own]) for setting in shared]
        is_left = any(of_device and not of_device.keys() & set(shared) for of_device in own)
        if is_left and sum(map(bool, own)) > 1:
            found.append(Model(ran, None, [next(iter(of_device.values()), None) for of_device in own]))
    return found


def one_each(found: Sequence[Model], *places: int) -> list[Model]:
    """The first of each case that all the devices at `places` measured: an order of models has each once."""
    measured = [model for model in found if all(model.speeds[place] for place in places)]
    return list({model.ran: model for model in reversed(measured)}.values())[::-1]


def both(found: Sequence[Model], one: int, other: int) -> list[tuple[Model, float, float]]:
    """The models that two devices measured, with both speeds."""
    speeds = ((model, model.speed(one), model.speed(other)) for model in one_each(found, one, other))
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
    models_here = one_each(found, place)
    known = [
        (macs, 1 / speed) for model in models_here if (speed := model.speed(place)) and (macs := model.macs)
    ]
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


def how(found: Sequence[Model], place: int, name: str) -> str:
    """A device's name with the batches and dtypes of its speeds."""
    return f"{name} at {ways(found, place)}"


def ways(found: Sequence[Model], place: int) -> str:
    """The batches and dtypes of a device's speeds."""
    speeds = [model.speeds[place] for model in found]
    return " or ".join(dict.fromkeys(f"batch {speed.batch}, {speed.dtype}" for speed in speeds if speed))


def caveats(devices: Sequence[Device], found: Sequence[Model], places: Sequence[int]) -> list[str]:
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


# ---- the figure


def draw(devices: Sequence[Device]) -> Plot | None:
    """Images a second on one device over those on another, with lines on which one factor would carry all over.

    Of many devices, the two that measured most models both; None where that are too few.
    """
    found = models(devices)
    pairs = combinations(range(len(devices)), 2)
    one, other = max(pairs, key=lambda pair: len(both(found, *pair)), default=(0, 0))
    shared = [model for model, _, _ in both(found, one, other)]
    if len(shared) < LEAST:
        return None
    slow, fast = sorted((one, other), key=lambda place: sum(model.speed(place) or 0 for model in shared))
    called = names(devices)
    title = _title(shared, (slow, fast), called)
    subtitle = sentences(
        enumerated([how(shared, place, called[place]) for place in (slow, fast)]),
        "On a grey line one factor carries all speeds over",
        "; ".join(caveats(devices, shared, (slow, fast))),
    )
    return for_both(f"{NAME}_speeds", partial(_drawn, shared, (slow, fast), called, title, subtitle))


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
