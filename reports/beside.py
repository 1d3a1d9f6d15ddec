"""Devices summed up: little enough is kept of each that many stand side by side, in a report that compares them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.cases import RUN_OPTIONS, Case
from bench.errors import Failure
from bench.fitting import Fitted
from reports import claims
from reports.claims import Finding
from reports.fits import of_most_rows
from reports.guide import Guide, Pair
from reports.lines import ANALYSIS, Line, lines_of
from reports.pool import pool
from reports.sentences import CLAIMS

if TYPE_CHECKING:
    from reports.results import Results, Source

OF_TIME = [claim for claim in CLAIMS if claim.by == "measured"]  # the others are the same on every device


Ran = tuple[str, str, tuple[tuple[str, Any], ...]]  # the paper's name, the implementation, other options
Setting = tuple[int | None, str | None]  # batch and dtype


@dataclass(frozen=True)
class Speed:
    """The images a second of a case on a device, and how it ran there."""

    title: str  # the paper's name, or the model's
    name: str  # the title with the size, where that is not the usual one
    case: Case
    batch: int | None
    dtype: str | None
    images_per_s: float
    macs: int | None  # core MACs of one image; None where they were not counted
    is_uncertain: bool  # of one visit, or with no interval or too wide a one
    is_launch_bound: bool


@dataclass(frozen=True)
class Device:
    """One device by all that is set beside others."""

    key: str  # of its results
    name: str
    uuid: str | None  # the device's own number, which tells it from another of the same kind
    speeds: dict[Ran, dict[Setting, Speed]]  # of inference, by what was run and how, then by batch and dtype
    findings: list[Finding]  # on the paper's sentences about time
    pairs: list[Pair]  # of models measured in turns
    fitted: Fitted | None  # the cost model of most rows; None where there are too few
    problems: int = 0  # with its rows, each of which its own report names


def device_of(results: Results) -> Device:
    """All that a device's results say beside those of others."""
    speeds: dict[Ran, dict[Setting, Speed]] = {}
    for study in map(results.study, results.ran):
        for line in lines_of(results, study) if study.harness == "throughput" else ():
            if line.images_per_s and not line.is_training:
                options = tuple(
                    sorted((name, value) for name, value in line.case.options if name in RUN_OPTIONS)
                )
                of_case = speeds.setdefault((line.case.paper_name, line.case.impl, options), {})
                of_case.setdefault((line.batch, line.dtype), _speed(line))
    return Device(
        results.key,
        str(results.device.get("name") or results.key),
        results.device.get("uuid"),
        speeds,
        claims.find(results, OF_TIME),
        Guide(results).pairs,
        of_most_rows(results),
        len(results.problems),
    )


def _speed(line: Line) -> Speed:
    assert line.images_per_s
    return Speed(
        line.title,
        line.name,
        line.case,
        line.batch,
        line.dtype,
        line.images_per_s.value,
        line.macs(ANALYSIS),
        line.too_uncertain,
        line.is_launch_bound,
    )


def names(devices: Sequence[Device]) -> list[str]:
    """A name for each device, with the key of its results where two have the same."""
    times = Counter(device.name for device in devices)
    return [
        f"{each.name} ({key})" if times[each.name] > 1 else each.name
        for each, key in zip(devices, keys(devices), strict=True)
    ]


def keys(devices: Sequence[Device]) -> list[str]:
    """The key of each device's results, with its place where two would be called the same."""
    own = [device.key for device in devices]
    placed = [f"{key}-{place}" if own.count(key) > 1 else key for place, key in enumerate(own, 1)]
    if len(set(placed)) < len(placed):  # a key that ends like a place
        return [f"{key}-{place}" for place, key in enumerate(own, 1)]
    return placed


def of_one(results: Results, devices: Sequence[Device]) -> list[str]:
    """Problems: rows under two keys that are of one device, which agrees with itself."""
    known: dict[str, str] = {}
    found = []
    for key, uuid in (
        (results.key, results.device.get("uuid")),
        *((each.key, each.uuid) for each in devices),
    ):
        if uuid and (other := known.setdefault(uuid, key)) != key:
            found.append(
                f"{other} and {key} are of one device ({uuid}): that they agree says nothing of others"
            )
    return found


def read(sources: Sequence[Source]) -> list[Device | None]:
    """The devices of results that are read for it; None of those without a row.

    One after the other on each core: no more rows are in memory than those of as many devices as there are cores.

    Raises:
        Failure: the system ended a process, as it does where memory runs out.
    """
    workers = pool(len(sources))
    if workers is None:
        return list(map(_read, sources))
    try:
        with workers:
            return list(workers.map(_read, sources))
    except BrokenProcessPool:
        raise Failure(
            f"reading {len(sources)} devices was ended from outside: is there memory enough?"
        ) from None


def _read(source: Source) -> Device | None:
    results = source.read()
    return device_of(results) if results.rows else None
