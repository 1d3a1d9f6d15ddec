"""A shard: one of N equal shares of a run, so that several devices of one type can divide it. No torch.

Every shard deals out the whole run's jobs by itself, and all come to the same shares: what decides is the checkout
alone, the jobs and the rows in results/reference/, and never the rows that other shards have meanwhile measured.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bench import record
from bench.errors import UsageError
from bench.jobs import HARNESSES, Expectations, Job
from bench.machine.devices import Device
from bench.machine.provenance import ROOT
from bench.text import shortened

MOST = 10_000  # shards of one run
# An iteration that is expected to compute for so long does not wait for the CPU's launches.
BEYOND_LAUNCHES_S = 0.02
COUNT = "BENCH_SHARDS"  # the number of shards, where a scheduler numbers its tasks and does not count them


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` shares, from 1. The only one of one is the whole run, on any device of the type."""

    number: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def is_whole(self) -> bool:
        """Whether it is all there is to do."""
        return self.count == 1

    def file_of(self, study: str) -> str:
        """The name, without its ending, of the file for a study's rows: no two shards of one run share it."""
        return study if self.is_whole else f"{study}.{self.number}-of-{self.count}"


def parse(text: str) -> Shard:
    """The shard of a text, "2/7".

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count <= MOST:
        raise UsageError(
            f"{shortened(text)!r} is no shard: I/N, such as 1/4 and 4/4, with I from 1 to N, and N at most {MOST:,}"
        )
    return Shard(number, count)


@dataclass(frozen=True)
class Scheduler:
    """The variables by which a scheduler tells a task which of how many it is."""

    name: str
    number: str  # from 0, or from `first`
    count: str
    first: str | None = None  # the smallest number of a task
    step: str | None = None  # between the numbers of two tasks
    last: str | None = None


SCHEDULERS = (
    Scheduler(
        *("Slurm", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
        *("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_MAX"),
    ),
    Scheduler("SkyPilot", "SKYPILOT_JOB_RANK", "SKYPILOT_NUM_JOBS"),  # sky jobs launch --num-jobs
    Scheduler("SkyPilot", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),  # num_nodes of a task
    Scheduler("Kubernetes", "JOB_COMPLETION_INDEX", COUNT),  # completionMode: Indexed
)


def of_environment(environ: Mapping[str, str] = os.environ) -> tuple[Shard | None, str | None]:
    """The shard that a scheduler's variables name, and the first of them; None without any, and for a task alone.

    Raises:
        UsageError: they do not say which of how many, or two schedulers each name a share.
    """
    numbered = [one for one in SCHEDULERS if one.number in environ]
    # SkyPilot numbers nodes also where a job has one, and then does not count them
    counted = [one for one in numbered if one.count in environ]
    named = [(_read(one, environ), one.number) for one in counted or numbered]
    divided = [(found, variable) for found, variable in named if not found.is_whole]
    if len(divided) > 1:
        (first, variable), (second, other) = divided[:2]
        raise UsageError(
            f"{variable} makes this shard {first}, and {other} shard {second}: say with --shard I/N which it is"
        )
    return divided[0] if divided else (None, named[0][1] if named else None)


def _read(scheduler: Scheduler, environ: Mapping[str, str]) -> Shard:
    """The shard that this scheduler names.

    Raises:
        UsageError: a number is missing or is none, or tasks between the first and the last are.
    """

    def value(name: str | None, otherwise: int | None = None) -> int:
        if otherwise is not None and (name is None or name not in environ):
            return otherwise
        text = environ.get(str(name), "")
        if not re.fullmatch(r"\d{1,9}", text.strip(), re.ASCII):
            said = f"is {shortened(text)!r}" if text else "is not set"
            raise UsageError(
                f"{scheduler.number} makes this a task of {scheduler.name}, and {name} {said}: set it, or say "
                "--shard I/N; --shard 1/1 is the whole run"
            )
        return int(text)

    number, count = value(scheduler.number), value(scheduler.count)
    first, step = value(scheduler.first, 0), value(scheduler.step, 1) or 1
    last = value(scheduler.last, first + step * (count - 1))
    place, beside = divmod(number - first, step)
    if beside or not 0 <= place < count or last != first + step * (count - 1):
        raise UsageError(
            f"task {number} of {count}, numbered {first} to {last}, does not say which share is meant: say --shard I/N"
        )
    if count > MOST:
        raise UsageError(f"{scheduler.name} has {count:,} tasks here, and a run {MOST:,} shards at most")
    return Shard(place + 1, count)


# ---- who does what

Identity = tuple[str, str]


def identity(job: Job) -> Identity:
    """A job without the study that asks for it: a case in two studies is measured once."""
    return job.harness, job.text


class Share(NamedTuple):
    """The jobs of a shard: all that it does, and of these what stands for its own device alone."""

    jobs: frozenset[Identity]
    own: frozenset[Identity]


def shares(jobs: Iterable[Job], expected: Expectations, device: Device, count: int) -> list[Share]:
    """The shares of so many shards: together every job once, and in each the common one."""
    jobs = list(jobs)
    also = common(jobs, expected, device) if count > 1 else frozenset()
    dealt = [frozenset(map(identity, each)) for each in deal(jobs, expected, count)]
    return [Share(each | also, also - each) for each in dealt]


def common(jobs: Iterable[Job], expected: Expectations, device: Device) -> frozenset[Identity]:
    """The job that every shard does for its own device, so that devices compare: the shortest that times one case.

    Of those whose iteration computes for long enough that launches do not decide its time; where there are none, the
    one that computes longest. None on a CPU, of which nothing tells one machine from others of its kind.
    """
    timed = [job for job in jobs if HARNESSES[job.harness].is_timed and len(job.cases) == 1]
    if device.kind == "cpu" or not timed:
        return frozenset()
    computes = {job: expected.iteration_s(job.cases[0]) or 0.0 for job in timed}
    least = min(BEYOND_LAUNCHES_S, max(computes.values()))
    long = [job for job in timed if computes[job] >= least]
    return frozenset([identity(min(long, key=lambda job: (expected.of_all_visits(job), identity(job))))])


def deal(jobs: Iterable[Job], expected: Expectations, count: int) -> list[list[Job]]:
    """The jobs in so many shares that are expected to take equally long: the longest first, each to the least loaded.

    Two shares then differ by no more than the longest job that is dealt after each has one. A job is dealt with all of
    its visits, and a pair that is compared is one job.
    """
    distinct = {identity(job): job for job in jobs}
    seconds = {name: expected.of_all_visits(job) for name, job in distinct.items()}
    shares: list[list[Job]] = [[] for _ in range(count)]
    loads = [(0.0, place) for place in range(count)]
    for name in sorted(distinct, key=lambda name: (-seconds[name], name)):
        load, least = loads[0]
        shares[least].append(distinct[name])
        heapq.heapreplace(loads, (load + seconds[name], least))
    return shares


def expectations(device: Device) -> Expectations:
    """The seconds that jobs may take, as the checkout alone tells, so that every shard expects the same.

    They come from results/reference/: counts, and the times of such a device.
    """
    rows = [
        row
        for folder in sorted((ROOT / "results" / "reference").glob("*/"))
        for row in record.read(folder).rows
        if row["harness"] == "macs" or (row.get("device") or {}).get("key") == device.key
    ]
    return Expectations(rows, device)
