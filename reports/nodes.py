"""Devices of one type beside each other: how long each takes for what another measured too, and which is odd."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

from reports.measurements import Timing

ODD = 0.05  # of the middle time, beyond which a device is named odd: our choice


@dataclass(frozen=True)
class Node:
    """A device, and the ratios of its times to the middle device's, a case each; of two, to the other's."""

    name: str
    ratios: tuple[float, ...]
    others: int  # devices that it was compared with, at the most

    @property
    def ratio(self) -> float:
        """The geometric mean of its ratios."""
        return exp(statistics.fmean(map(log, self.ratios)))

    @property
    def is_odd(self) -> bool:
        """Whether it is further off the middle one than devices of one type are."""
        return abs(log(self.ratio)) > log(1 + ODD)

    @property
    def sentence(self) -> str:
        """Its time beside the middle device's, in words."""
        cases = f"{len(self.ratios)} case{'s' * (len(self.ratios) > 1)}"
        beside = "the other device" if self.others == 1 else "the middle device"
        return f"{self.ratio:.3f} times as long as {beside}, over {cases} that another measured too"


def beside(timings: Iterable[Timing]) -> list[Node]:
    """The devices that timed a case which another timed too, by the same code; none where there is none.

    Where a GPU waited for its launches, or the visits to a case were on several devices, a time is of no one device.

    Args:
        timings: of devices of one type, the newest last.
    """
    seconds: dict[tuple[Any, ...], dict[str, float]] = {}
    for timing in timings:
        row = timing.row
        uuids = {visit["device"].get("uuid") for visit in row.get("visits") or [row]}
        if timing.ok and not timing.is_launch_bound and len(uuids) == 1:
            environment = row.get("environment") or {}
            by = (environment.get("source") or {}).get("hash"), str(environment.get("versions"))
            place = (row["harness"], str(timing.case), timing.protocol, *by, row["device"].get("driver"))
            seconds.setdefault(place, {})[_name(timing)] = 1 / timing.images_per_s.value
    ratios: dict[str, list[float]] = {}
    most: dict[str, int] = {}
    for by_device in seconds.values():
        for name, own in by_device.items():
            others = [value for other, value in by_device.items() if other != name]
            if others:
                middle = statistics.median([own, *others] if len(others) > 1 else others)
                ratios.setdefault(name, []).append(own / middle)
                most[name] = max(most.get(name, 0), len(others))
    return [Node(name, tuple(found), most[name]) for name, found in sorted(ratios.items())]


def told(found: Sequence[Node]) -> list[str]:
    """A line on each device that is odd; of two, which of them is odd cannot be told, and the slower is named."""
    odd = [node for node in found if node.is_odd]
    if len(found) == 2:
        return [
            f"{node.name} takes {node.sentence}: which of the two is odd cannot be told"
            for node in odd
            if node.ratio > 1
        ]
    return [f"{node.name} takes {node.sentence}" for node in odd]


def _name(timing: Timing) -> str:
    """A device by what tells it from others of its type, and by the node that it is in where Slurm says that."""
    device, environment = timing.row["device"], timing.row.get("environment") or {}
    node = (environment.get("slurm") or {}).get("node")
    return f"{device.get('uuid')}{f' in {node}' if node else ''}"
