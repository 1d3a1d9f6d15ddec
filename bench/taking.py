"""Visits to cases in fresh processes, kept row by row: one that is there is not taken again."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from bench import alone, pair, record, stats
from bench.errors import Failure, UsageError
from bench.gate import Visit
from bench.jobs import Job
from bench.machine import provenance, variables
from bench.machine.devices import Device, as_dict
from bench.process import WorkerLost
from bench.record import ResultsFile, Row
from bench.screen import Screen
from bench.sides import CaseFailed, Sides

CLOCKS_APART = 0.01  # a smaller difference between the two sides' SM clocks is none
SIDES = ("new", "old")  # in this order in every row, as A and B
NOISE = "noise"  # the file of A/A runs

V = TypeVar("V")  # what is seen in a visit's row


class Reading(NamedTuple):
    """A visit without another revision: medians, in seconds of an iteration."""

    case: float
    product: float  # of two matrices, on this machine
    copy: float


@contextmanager
def taking(
    file: Path,
    way: Way[V],
    commits: Sequence[str],
    folders: Sequence[Path | None],
    device: Device,
    screen: Screen,
) -> Iterator[Taking[V]]:
    """A `Taking` that keeps its visits in a file; its processes end with the context."""
    with ResultsFile(file).locked() as results:
        for said in (results.noticed, results.set_aside):
            screen.say(said)
        taken = Taking(results, way, commits, folders, device, screen)
        try:
            yield taken
        finally:
            taken.sides.close()


class Environment(NamedTuple):
    """The environment that the noise of a machine, and a comparison, hold for."""

    device: list[str | None]
    versions: dict[str, str | None]
    variables: dict[str, Any]

    def since(self, before: Environment) -> list[str]:
        """The names of what is other than before."""
        named = [
            f"{name} {before.versions.get(name)} → {version}"
            for name, version in self.versions.items()
            if before.versions.get(name) != version
        ]
        named += [
            f"{what} {then} → {now}"
            for what, then, now in zip(("device", "driver"), before.device, self.device, strict=True)
            if then != now
        ]
        then, now = before.variables, self.variables
        return named + [
            f"{name} {then.get(name, 'not set')} → {now.get(name, 'not set')}"
            for name in {**then, **now}
            if then.get(name) != now.get(name)
        ]


def environment_of(device: Device) -> Environment:
    """The environment as it is."""
    return Environment([device.uuid, device.driver], provenance.versions(), variables.recorded())


class Taking(Generic[V]):
    """Takes visits, and gives those that are in the file already.

    Args:
        commits: that are measured, the new one first; where two are one and the file is that of the noise, it is an
            A/A run, and its rows hold for any commit.
        folders: where they are checked out; None is what runs here.
    """

    def __init__(
        self,
        results: ResultsFile,
        way: Way[V],
        commits: Sequence[str],
        folders: Sequence[Path | None],
        device: Device,
        screen: Screen,
    ) -> None:
        self.sides = Sides(device, folders)
        self.counts: dict[str, list[dict[str, int]]] = {}  # by case, what is counted exactly, a side each
        self.environment = environment_of(device)
        self._results, self._device, self._screen = results, device, screen
        self._way, self._revisions = way, list(commits)
        self._host = provenance.host()
        earlier = record.read(results.path.parent)
        self._earlier = [row for row in earlier.sealed if row["harness"] == way.harness]
        self.known = {row["key"]: row for row in self._earlier if row["outcome"] == "ok"}
        self._taken: list[Row] = []
        self._is_any_new = False

    def first(self, jobs: Sequence[Job]) -> tuple[list[Job], dict[str, str]]:
        """The jobs that run in both revisions, and why others do not; each of those has its first visit then.

        Raises:
            UsageError: nothing of the old revision runs.
            Failure: a case runs in the old revision and not in the new one.
        """
        runs, left_out, all_of_old = [], {}, True
        try:
            for job in jobs:
                try:
                    self._visit(job, 0)
                    runs.append(job)
                except CaseFailed as failed:
                    is_aa = len(self._revisions) > 1 and len(set(self._revisions)) == 1
                    is_beside = (
                        len(set(self._revisions)) > 1
                    )  # of a base, which its A/A run has shown to run it
                    if failed.side == 0 and not is_aa and (is_beside or not failed.refused):
                        raise Failure(
                            f"{job.text} does not run in {self._revisions[0][:12]}: {failed}"
                        ) from None
                    all_of_old &= not failed.refused
                    why = (
                        ""
                        if failed.refused
                        else f"{SIDES[failed.side]} {self._revisions[failed.side][:12]}: "
                    )
                    left_out[job.text] = f"{why}{failed}"
        finally:
            self.sides.kill()
        if jobs and not runs and all_of_old:
            raise UsageError(
                f"the base {self._revisions[-1][:12]} cannot be measured: {next(iter(left_out.values()))}"
            )
        return runs, left_out

    def restart(self, jobs: Sequence[Job]) -> Callable[[Sequence[str]], dict[str, V]]:
        """A function that visits cases in fresh processes, as `gate.settle` asks for it."""
        by_text = {job.text: job for job in jobs}
        visited = dict.fromkeys(by_text, 0)

        def again(asked: Sequence[str]) -> dict[str, V]:
            order = random.sample(list(asked), len(asked))  # nothing always has the same neighbour
            found = {}
            if new := [text for text in order if self._key(by_text[text], visited[text]) not in self.known]:
                self._screen.say(f"restart {visited[new[0]] + 1} of {len(new)} case{'s' * (len(new) > 1)}")
            try:
                for text in order:
                    row = self._visit(by_text[text], visited[text])
                    visited[text] += 1
                    found[text] = self._way.seen(row)
            except CaseFailed as failed:
                raise Failure(f"{text}: {failed}") from None
            finally:
                self.sides.kill()
            return found

        return again

    def has(self, job: Job, visits: int) -> bool:
        """Whether so many visits to a case are there."""
        return all(self._key(job, number) in self.known for number in range(visits))

    def kept(self, job: Job, visits: int) -> list[V]:
        """The first visits to a case, which are there."""
        return [self._way.seen(self.known[self._key(job, number)]) for number in range(visits)]

    def age_s(self, job: Job, visits: int) -> float:
        """Seconds since the last of so many visits to a case, which are there."""
        whens = (self.known[self._key(job, number)]["when"] for number in range(visits))
        return (datetime.now(UTC) - max(map(datetime.fromisoformat, whens))).total_seconds()

    def forget(self, job: Job, visits: int) -> None:
        """Have the first visits to a case taken anew."""
        for number in range(visits):
            self.known.pop(self._key(job, number))

    def since(self, jobs: Iterable[Job]) -> str:
        """The changes since the last rows of these cases were taken, in words; empty where there are no rows."""
        texts = {job.text for job in jobs}
        rows = [row for row in self._earlier if row["case"] in texts and not row["result"]["revisions"]]
        if not rows:
            return ""
        named = self.environment.since(environment_in(rows[-1]))
        what = ", ".join(named) or "how it is measured"
        return f"changed since the noise was last measured: {what}; an A/A run comes first"

    def warnings(self) -> list[str]:
        """Lines on what differed between the environments of the two sides, was unusual, or was not taken now."""
        lines = []
        if self._taken and not self._is_any_new:
            last = max(row["when"] for row in self._taken)
            lines.append(f"judged by visits that were there, the last of {last}: --fresh takes them anew")
        for row in self._taken:
            result = row["result"]
            lines += result["notes"]
            new, old = result["loaded"][0], result["loaded"][-1]
            lines += [
                f"{name} is {new[name]} in the new and {old.get(name)} in the old"
                for name in new
                if new[name] != old.get(name)
            ]
            if result["clocks_mhz"] and len(self._revisions) > 1:
                ratio = stats.median([_by_side(block) for block in result["clocks_mhz"]]).value
                if abs(ratio - 1) > CLOCKS_APART:
                    lines.append(
                        f"{row['case']}: the SM clock was {ratio:.1%} of the old's in the new's turns"
                    )
        # of many visits that were disturbed alike, the first is told
        return list({re.sub(r"[\d.]+", "", line): line for line in reversed(lines)}.values())[::-1]

    def _visit(self, job: Job, number: int) -> Row:
        """The row of a visit: the one that is there, or one that is taken now.

        Raises:
            CaseFailed: one of the revisions does not run it.
            Failure: a process was lost.
        """
        key = self._key(job, number)
        row = self.known.get(key)
        if row is None:
            if self.sides.is_new:
                self.sides.start()
            earlier = next((row for row in self._taken if row["case"] == job.text), None)
            digests = earlier["result"]["digests"] if earlier else [None] * len(self._revisions)
            try:
                result = self._way.visit(self.sides, job, digests)
                if number == 0:
                    result["counts"] = self.sides.count(job)
            except WorkerLost as lost:
                raise Failure(
                    f"{job.text}: {lost}; every visit so far is kept, and the same command goes on"
                ) from None
            row = self._row(job, number, key, result)
            self._is_any_new = True
            self._results.append(row)
            self._screen.say(self._results.noticed)
            self._results.noticed = None
            self.known[key] = row
        self._taken.append(row)
        if number == 0:
            self.counts[job.text] = counts_of(row)
        return row

    def _key(self, job: Job, number: int) -> str:
        return record.key_of(group=self._group(job), visit=number)

    def _group(self, job: Job) -> str:
        return record.key_of(
            harness=self._way.harness,
            file=self._results.path.stem,
            case=job.text,
            revisions=self._commits(),
            environment=self.environment,
            threads=provenance.threads(),
            rules=job.rules.as_dict(),
            source=provenance.source_hash(self._way.source),
        )

    def _commits(self) -> list[str] | None:
        """The commits; None for an A/A run, which is of the machine."""
        is_noise = self._results.path.stem == NOISE
        return None if is_noise else self._revisions

    def _row(self, job: Job, number: int, key: str, result: dict[str, Any]) -> Row:
        return {
            "schema": record.SCHEMA,
            "key": key,
            "visit": number,
            "group": self._group(job),
            "harness": self._way.harness,
            "study": self._results.path.stem,
            "case": job.text,
            "outcome": "ok",
            "reason": None,
            "notes": result["notes"],
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "protocol": job.rules.as_dict(),
            "device": as_dict(self._device),
            "environment": {
                "host": {**self._host, "load_average": provenance.load_average()},
                "versions": self.environment.versions,
                "variables": self.environment.variables,
            },
            "result": {**result, "revisions": self._commits()},
        }


def environment_in(row: Row) -> Environment:
    """The environment of a row."""
    device, environment = row["device"], row["environment"]
    return Environment([device["uuid"], device["driver"]], environment["versions"], environment["variables"])


def _by_side(block: Sequence[float]) -> float:
    """New / old of a block."""
    return stats.ratios([block])[0]


def visit_of(row: Row) -> Visit:
    """The ratios of a row's blocks: in time, and in cycles where the clock is known."""
    blocks, clocks = row["result"]["blocks"], row["result"]["clocks_mhz"]
    cycles = clocks and [
        _by_side([seconds * mhz for seconds, mhz in zip(block, at, strict=True)])
        for block, at in zip(blocks, clocks, strict=True)
    ]
    return Visit(stats.ratios(blocks), cycles)


def reading_of(row: Row) -> Reading:
    """The medians of a row's rounds."""
    return Reading(*(stats.median(of_unit).value for of_unit in zip(*row["result"]["rounds"], strict=True)))


@dataclass(frozen=True)
class Way(Generic[V]):
    """A way to take visits: what its rows are called and depend on, how one is taken, and what is seen in it."""

    harness: str
    source: tuple[str, ...]
    visit: Callable[[Sides, Job, Sequence[Any]], dict[str, Any]]
    seen: Callable[[Row], V]


_SHARED = tuple(
    f"bench/{name}.py" for name in ("harness/turns", "harness/nursery", "nursery", "process", "sides")
)
TURNS = Way("turns", (*_SHARED, "bench/pair.py"), pair.visit, visit_of)
CALIBRATED = Way("calibrated", (*_SHARED, "bench/alone.py"), alone.visit, reading_of)


def counts_of(row: Row) -> list[dict[str, int]]:
    """The numbers that are compared exactly, of each side: what is counted; on a GPU peak memory and registers, too.

    The peak on a CPU is that of the process, and not exact.
    """
    result = row["result"]
    counts: list[dict[str, int]] = [
        dict(side) for side in result.get("counts") or [{}] * len(result["loaded"])
    ]
    if row["device"]["kind"] == "cuda":
        for side, peak, kernels in zip(counts, result["peak_memory_bytes"], result["kernels"], strict=True):
            if peak is not None:
                side["bytes of peak memory"] = peak
            side |= kernels
    return counts


def changes(new: Mapping[str, int], old: Mapping[str, int]) -> list[str]:
    """The counts that both have and that differ, old → new."""
    return [f"{name} {old[name]:,} → {new[name]:,}" for name in new if name in old and new[name] != old[name]]
