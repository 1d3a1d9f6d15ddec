"""Devices of one type beside each other: how long each takes for what another measured too, and which is odd."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, log

from reports.measurements import Timing

ODD = 0.05  # of the middle time, beyond which a device is named odd: our choice


@dataclass(frozen=True)
class Node:
    """A device, and the ratios of its times to the middle device's, a case each; of two, to the other's."""

    name: str
    ratios: tuple[float, ...]

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
        return f"{self.ratio:.3f} times as long as the middle device, over {cases} that another measured too"


def beside(timings: Iterable[Timing]) -> list[Node]:
    """The devices that timed a case which another timed too; none where there is none.

    Args:
        timings: of devices of one type.
    """
    seconds: dict[tuple[str, str, str], dict[str, float]] = {}
    for timing in timings:
        if timing.ok:
            row = timing.row
            place = (row["harness"], str(timing.case), timing.protocol)
            seconds.setdefault(place, {})[_name(timing)] = 1 / timing.images_per_s.value
    ratios: dict[str, list[float]] = {}
    for by_device in seconds.values():
        for name, own in by_device.items():
            others = [value for other, value in by_device.items() if other != name]
            if others:
                middle = statistics.median([own, *others] if len(others) > 1 else others)
                ratios.setdefault(name, []).append(own / middle)
    return [Node(name, tuple(found)) for name, found in sorted(ratios.items())]


def _name(timing: Timing) -> str:
    """A device by what tells it from others of its type, and by the node that it is in where Slurm says that."""
    device, environment = timing.row["device"], timing.row.get("environment") or {}
    node = (environment.get("slurm") or {}).get("node")
    return f"{device.get('uuid')}{f' in {node}' if node else ''}"
