"""Runs jobs in a worker and records each as soon as it is done: rounds of visits, isolation, and resuming."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import record, visits
from bench.errors import Failure, UsageError
from bench.jobs import HARNESSES, Expectations, Job, group_of, hashes_of_sources, key_of
from bench.machine import provenance, variables
from bench.machine.devices import Device, as_dict, check_idle, cpu_device
from bench.machine.lock import held
from bench.process import Worker, WorkerLost
from bench.progress import Announcement, digest
from bench.protocols import Rules
from bench.record import ResultsFile, Row
from bench.screen import Screen
from bench.shard import Identity, Shard, identity

NODE_IS_SHARED = "Slurm may run other jobs on the node at the same time: --exclusive keeps them away"


@dataclass
class Summary:
    """The outcome of a run."""

    rows: list[Row]  # one a job, in the jobs' order, its visits joined
    measured: int
    reused: int
    failed: int
    refused: int  # this device does not run what they ask for
    seconds: dict[str, float]  # all, imports, build, forward


def ask(job: Job, device: Device) -> tuple[dict[str, Any], list[str]]:
    """The result and notes of a job that leaves no row.

    Raises:
        UsageError: the case cannot be what it asks for.
        Failure: the worker was lost, cannot start, or the user's code failed in it.
    """
    worker = Worker(_place_of(job, device), job.harness)
    try:
        answer = worker.ask(job.order(), job.limit_s, lambda _: None)
    except WorkerLost as lost:
        raise Failure(f"{job.text}: {lost}") from None
    finally:
        worker.kill()
    if "failed" in answer:
        raise Failure(f"{job.text}: {answer['failed']}") if answer["fatal"] else UsageError(answer["failed"])
    return answer["result"], answer["notes"]


class Runner:
    """Runs jobs on one device into one results file.

    Those of a shard wait until the device is free, and their rows stand for the device's type.

    Args:
        own: the jobs of a shard whose rows stand for this device alone.
    """

    def __init__(
        self,
        device: Device,
        folder: Path,
        screen: Screen,
        shard: Shard | None = None,
        own: Collection[Identity] = (),
    ) -> None:
        self.device, self.folder, self.screen, self.shard, self._own = device, folder, screen, shard, own
        self._versions = provenance.versions()
        self._environment: dict[str, Any] = {
            "host": provenance.host(),
            "versions": self._versions,
            "source": provenance.source(),
            "variables": variables.recorded(),
            "slurm": provenance.slurm(),
        }
        shared = (self._environment["slurm"] or {}).get("shared")
        self._noted = [NODE_IS_SHARED] if shared else []

    def run(self, jobs: Iterable[Job], file_name: str, *, fresh: bool = False) -> Summary:
        """Do every job that no row stands for yet, and append each row as soon as it is there.

        Raises:
            UsageError: an environment variable makes a time meaningless.
            Failure: the results cannot be written, the worker cannot start, or another process uses the GPU.
        """
        variables.check()
        jobs = list(dict.fromkeys(jobs))  # a sweep over batches counts a model once
        workers = Workers(self.device, *dict.fromkeys(job.harness for job in jobs))
        wait = self.screen.say if self.shard else None
        ours = self.shard or Shard()
        spent = {"build": 0.0, "forward": 0.0}
        with (
            ResultsFile(self.folder / f"{ours.file_of(file_name)}.jsonl").locked(wait) as results,
            held(self.device, wait) as unlocked,
        ):
            started = time.perf_counter()
            for said in (unlocked, results.noticed, results.set_aside):
                self.screen.say(said)
            results.noticed = None
            earlier = record.read(self.folder)
            for problem in earlier.problems:
                self.screen.say(problem)
            turns = self._turns(jobs, {visits.group_of(row) for row in earlier.sealed if row.get("shard")})
            known = {} if fresh else _known(turns, earlier.sealed)
            rows_of: dict[str, list[Row]] = {}  # each group's rows that this run uses again or takes
            for turn in turns:
                if turn.key in known:
                    rows_of.setdefault(turn.group, []).append(known[turn.key])
            todo = [turn for turn in turns if turn.key not in known]
            if len(todo) < len(turns):
                self.screen.say(
                    f"{len(turns) - len(todo)} of {len(turns)} rows are there already and are used again"
                )
            if todo:
                check_idle(self.device)
            expected = Expectations(earlier.rows, self.device)
            plan = Plan.of(todo, expected)
            announcement = Announcement(
                *(results.path, file_name, ours),
                digest((turn.job, turn.source) for turn in turns if not turn.job.visit),
                {turn.key: (turn.group, round(expected.seconds(turn.job), 2)) for turn in turns},
                max((turn.job.limit_s for turn in turns), default=0.0),
            )
            measured = 0
            try:
                with announcement.made(), self.screen.live(plan.left_s(expected)):
                    for row in self._take(plan, workers, rows_of, expected):
                        results.append(row)
                        announcement.touch()
                        self.screen.say(results.noticed)
                        results.noticed = None
                        measured += 1
                        for part in spent:
                            spent[part] += (row.get("spent") or {}).get(part, 0.0)
            finally:
                workers.kill()
                os.utime(
                    results.path
                )  # also where every row was used again: a report shows what was run last
        seconds = {"all": time.perf_counter() - started, "imports": workers.import_s, **spent}
        failed, refused = (
            sum(row["outcome"] == how for rows in rows_of.values() for row in rows)
            for how in ("failed", "refused")
        )
        whole = [visits.join(rows_of[group]) for group in dict.fromkeys(turn.group for turn in turns)]
        return Summary(whole, measured, len(turns) - len(todo), failed, refused, seconds)

    def _take(
        self, plan: Plan, workers: Workers, rows_of: dict[str, list[Row]], expected: Expectations
    ) -> Iterator[Row]:
        """Take the rows round by round; each is done, for the screen, once whoever asked has kept it.

        Args:
            rows_of: the rows that there are, by group; those taken are put to them.
        """
        took_s = 0.0
        for number, round_of in enumerate(plan.rounds):
            if number:
                workers.kill()  # each round in a process of its own
            self.screen.expect(plan.left_s(expected, number))
            for place, turn in enumerate(round_of):
                rows = rows_of.setdefault(turn.group, [])
                if rows and not any(row["outcome"] == "ok" for row in rows):
                    self.screen.skip()  # what failed at the first visit fails at the others
                    continue
                rules = turn.job.rules.in_round(number, short=plan.is_short, took_s=took_s)
                worker = workers.of(turn.job)
                answer = self._answer(worker, turn.job, _digests(rows), rules)
                took_s = took_s or (answer.get("result") or {}).get("board_s") or 0.0
                row = self._row(turn, answer, worker)
                if turn.job.visits > 1:
                    bounds = {"board_least_s": rules.board_least_s, "board_most_s": rules.board_most_s}
                    row["turn"] = {"seed": plan.seed, "round": number, "place": place, **bounds}
                yield row
                rows.append(row)
                expected.learn(row)
                self.screen.done(turn.job, visits.join(rows) if turn.is_last else row)

    def _turns(self, jobs: list[Job], sharded: set[str]) -> list[Turn]:
        """Every visit to every job, the jobs in their order.

        Args:
            sharded: the groups that a shard has begun: they are gone on with on any device of the type.
        """
        turns = []
        for job, source in zip(jobs, hashes_of_sources(jobs), strict=True):
            group = group_of(job, source, self._versions, self.device, by_type=True)
            by_type = identity(job) not in self._own and (self.shard is not None or group in sharded)
            if not by_type:
                group = group_of(job, source, self._versions, self.device)
            for visit in range(job.visits):
                visiting = replace(job, visit=visit)
                key = key_of(visiting, source, self._versions, self.device, by_type=by_type)
                turns.append(Turn(visiting, key, group, source, by_type))
        return turns

    def _answer(self, worker: Worker, job: Job, digests: Any, rules: Rules) -> dict[str, Any]:
        self.screen.start(job)
        order = {**job.order(), "digests": digests, "rules": rules.as_dict()}
        modules = job.users_modules
        if (
            worker.modules - modules
        ):  # what a user's module sets stays set: the next case gets a fresh process
            worker.kill()
        worker.modules |= modules
        try:
            answer = worker.ask(order, job.limit_s, self.screen.phase)
        except WorkerLost as lost:
            return {"failed": str(lost)}
        if answer.pop("changed", None):  # settings of torch's, by the case: no other is to be run under them
            worker.kill()
        if "failed" not in answer and (damage := record.damage(job.harness, answer.get("result"))):
            answer = {**answer, "failed": f"the measuring process answered with {damage}", "result": None}
        if answer.get("fatal"):  # its CUDA context, or its memory, may be beyond use
            worker.kill()
        return answer

    def _row(self, turn: Turn, answer: dict[str, Any], worker: Worker) -> Row:
        job, made_by = turn.job, {**self._environment["source"], "hash": turn.source}
        return {
            "schema": record.SCHEMA,
            "key": turn.key,
            **({"visit": job.visit, "group": turn.group} if job.visits > 1 else {}),
            **({"shard": str(self.shard or Shard())} if turn.by_type else {}),
            "harness": job.harness,
            "study": job.study,
            "case": job.text,
            "outcome": "ok" if "failed" not in answer else "refused" if answer.get("refused") else "failed",
            "reason": answer.get("failed"),
            "notes": [*answer.get("notes", []), *(self._noted if HARNESSES[job.harness].by_device else [])],
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "protocol": job.rules.as_dict(),
            "device": as_dict(self.device),
            "environment": {
                **self._environment,
                "source": made_by,
                "threads": worker.threads,
                "loaded": answer.get("loaded"),
            },
            "readings": answer.get("readings"),
            "spent": answer.get("spent"),
            "result": answer.get("result"),
        }


class Workers:
    """The process that measures on a device, and beside a GPU another, which sees none, for what no device decides.

    To count a compiled case is to plan for a GPU that is not there, and what PyTorch and Triton remember of it, such as
    the GPU to compile for, must not reach a case that runs.

    Args:
        harnesses: as a worker takes them.
    """

    def __init__(self, device: Device, *harnesses: str) -> None:
        self._device, self._harnesses = device, harnesses
        self._by_place: dict[Device, Worker] = {}

    def of(self, job: Job) -> Worker:
        """The worker for a job."""
        place = _place_of(job, self._device)
        if place not in self._by_place:
            self._by_place[place] = Worker(place, *self._harnesses)
        return self._by_place[place]

    @property
    def import_s(self) -> float:
        """Seconds that all processes took to import, together."""
        return sum(worker.import_s for worker in self._by_place.values())

    def kill(self) -> None:
        """End all of them."""
        for worker in self._by_place.values():
            worker.kill()


def _place_of(job: Job, device: Device) -> Device:
    """The device on which a job's process runs."""
    return device if HARNESSES[job.harness].by_device else cpu_device()


@dataclass(frozen=True)
class Turn:
    """One row to be: a visit of a job, with what it is found by."""

    job: Job
    key: str
    group: str
    source: str
    by_type: bool = False  # any device of this type may take it

    @property
    def is_last(self) -> bool:
        """Whether it is the last visit to its case."""
        return self.job.visit == self.job.visits - 1


SHORT_ROUND_S = 60.0  # a round that takes longer warms the machine by itself
START_S = 5.0  # of a process: its imports


@dataclass(frozen=True)
class Plan:
    """The order in which rows are to be taken: in rounds, each of which has a process of its own."""

    rounds: list[list[Turn]]
    seed: int  # by which they were shuffled
    is_short: bool  # a round is too short to warm the machine by itself

    @classmethod
    def of(cls, turns: Sequence[Turn], expected: Expectations) -> Plan:
        """A plan for these rows, shuffled anew."""
        seed = random.SystemRandom().randrange(2**32)
        rounds = _rounds(turns, seed)
        is_short = sum(expected.seconds(turn.job) for turn in rounds[-1]) < SHORT_ROUND_S
        return cls(rounds, seed, is_short)

    def left_s(self, expected: Expectations, first: int = 0) -> Iterator[float]:
        """The seconds that each row may take, from a round on; the first that is timed in one has its start besides."""
        for number, round_of in enumerate(self.rounds[first:], first):
            is_cold = True
            for turn in round_of:
                seconds = expected.seconds(turn.job)
                if is_cold and HARNESSES[turn.job.harness].in_rounds:
                    rules = turn.job.rules.in_round(number, short=self.is_short)
                    seconds += START_S + min(rules.board_least_s, rules.board_most_s)
                    is_cold = False
                yield seconds


def _rounds(turns: Sequence[Turn], seed: int) -> list[list[Turn]]:
    """A round a visit, each shuffled anew; what is done once comes first in the first, in its order.

    A fixed order would give each case the same neighbours, and the same place in a machine that warms up.
    """
    by_visit: dict[int, list[Turn]] = {}
    once = []
    for turn in turns:
        if HARNESSES[turn.job.harness].in_rounds:
            by_visit.setdefault(turn.job.visit, []).append(turn)
        else:
            once.append(turn)
    rounds = []
    for visit, visiting in sorted(by_visit.items()):
        if any(turn.job.visits > 1 for turn in visiting):
            random.Random(f"{seed} {visit}").shuffle(visiting)
        rounds.append(visiting)
    return [[*once, *rounds[0]], *rounds[1:]] if rounds else [once]


def _known(turns: Sequence[Turn], rows: Sequence[Row]) -> dict[str, Row]:
    """The rows that can be used again, by key."""
    known = {row["key"]: row for row in rows if _whole(row)}
    asked = {turn.key: (turn.job.harness, turn.job.text) for turn in turns}
    return {  # without another row's content under one of these keys
        key: row for key, row in known.items() if asked.get(key) == (row["harness"], row["case"])
    }


def _digests(rows: Sequence[Row]) -> Any:
    """The digests of the outputs that an earlier visit checked in full; None where there is none."""
    results = (row["result"] for row in rows if row["outcome"] == "ok")
    return next((result["digests"] for result in results if result.get("digests")), None)


def _whole(row: Row) -> bool:
    """Whether a row can stand for a measurement; one that somebody damaged cannot."""
    if row["outcome"] != "ok" or not isinstance(row.get("spent"), dict):
        return False
    return record.damage(row["harness"], row.get("result")) is None
