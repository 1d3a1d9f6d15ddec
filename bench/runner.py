"""Runs jobs in a worker and records each as soon as it is done: their order, their isolation, and resuming."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import record
from bench.errors import Failure, UsageError
from bench.jobs import Job, expected_s, hashes_of_sources, key_of
from bench.machine import provenance, variables
from bench.machine.devices import Device, as_dict, check_idle
from bench.machine.lock import held
from bench.process import Worker, WorkerLost
from bench.record import ResultsFile, Row
from bench.screen import Screen


@dataclass
class Summary:
    """The outcome of a run."""

    rows: list[Row]  # one a job, in the jobs' order
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
    worker = Worker(device)
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
    """Runs jobs on one device into one results file."""

    def __init__(self, device: Device, folder: Path, screen: Screen) -> None:
        self.device, self.folder, self.screen = device, folder, screen
        self._modules: set[str] = set()  # of users, that the worker has imported
        self._versions = provenance.versions()
        self._environment = {
            "host": provenance.host(),
            "versions": self._versions,
            "source": provenance.source(),
            "variables": variables.recorded(),
        }

    def run(self, jobs: Iterable[Job], file_name: str, *, fresh: bool = False) -> Summary:
        """Do every job that no row stands for yet, and append each row as soon as it is there.

        Raises:
            UsageError: an environment variable makes a time meaningless.
            Failure: the results cannot be written, the worker cannot start, or another process uses the GPU.
        """
        variables.check()
        started = time.perf_counter()
        jobs = list(dict.fromkeys(jobs))  # a sweep over batches counts a model once
        worker = Worker(self.device)
        spent = {"build": 0.0, "forward": 0.0}
        with (
            ResultsFile(self.folder / f"{file_name}.jsonl").locked() as results,
            held(self.device) as unlocked,
        ):
            for said in (unlocked, results.noticed, results.set_aside):
                self.screen.say(said)
            results.noticed = None
            earlier = record.read(self.folder)
            for problem in earlier.problems:
                self.screen.say(problem)
            known = {} if fresh else {row["key"]: row for row in earlier.sealed if _whole(row)}
            sources = hashes_of_sources(jobs)
            keys = [
                key_of(job, source, self._versions, self.device)
                for job, source in zip(jobs, sources, strict=True)
            ]
            for job, key in zip(jobs, keys, strict=True):
                if key in known and (known[key]["harness"], known[key]["case"]) != (job.harness, job.text):
                    del known[key]  # another row's content under this key
            todo = [key for key in keys if key not in known]
            if len(todo) < len(jobs):
                self.screen.say(
                    f"{len(jobs) - len(todo)} of {len(jobs)} rows are there already and are used again"
                )
            if todo:
                check_idle(self.device)
            rows: list[Row] = []
            try:
                with self.screen.live(
                    expected_s(job, earlier.rows, self.device)
                    for job, key in zip(jobs, keys, strict=True)
                    if key not in known
                ):
                    for job, key, source in zip(jobs, keys, sources, strict=True):
                        row = known.get(key)
                        if row is None:
                            row = self._row(job, key, source, self._answer(worker, job), worker)
                            results.append(row)
                            self.screen.say(results.noticed)
                            results.noticed = None
                            for part in spent:
                                spent[part] += (row.get("spent") or {}).get(part, 0.0)
                            self.screen.done(job, row)
                            known[key] = row
                        rows.append(row)
            finally:
                worker.kill()
                os.utime(
                    results.path
                )  # also where every row was used again: a report shows what was run last
        seconds = {"all": time.perf_counter() - started, "imports": worker.import_s, **spent}
        failed, refused = (sum(row["outcome"] == how for row in rows) for how in ("failed", "refused"))
        return Summary(rows, len(todo), len(jobs) - len(todo), failed, refused, seconds)

    def _answer(self, worker: Worker, job: Job) -> dict[str, Any]:
        self.screen.start(job)
        modules = job.users_modules
        if self._modules - modules:  # what a user's module sets stays set: the next case gets a fresh process
            worker.kill()
            self._modules = set()
        self._modules |= modules
        try:
            answer = worker.ask(job.order(), job.limit_s, self.screen.phase)
        except WorkerLost as lost:
            return {"failed": str(lost)}
        if answer.pop("changed", None):  # settings of torch's, by the case: no other is to be run under them
            worker.kill()
        if "failed" not in answer and (damage := record.damage(job.harness, answer.get("result"))):
            answer = {**answer, "failed": f"the measuring process answered with {damage}", "result": None}
        if answer.get("fatal"):  # its CUDA context, or its memory, may be beyond use
            worker.kill()
        return answer

    def _row(self, job: Job, key: str, source: str, answer: dict[str, Any], worker: Worker) -> Row:
        made_by = {**self._environment["source"], "hash": source}
        return {
            "schema": record.SCHEMA,
            "key": key,
            "harness": job.harness,
            "study": job.study,
            "case": job.text,
            "outcome": "ok" if "failed" not in answer else "refused" if answer.get("refused") else "failed",
            "reason": answer.get("failed"),
            "notes": answer.get("notes", []),
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


def _whole(row: Row) -> bool:
    """Whether a row can stand for a measurement; one that somebody damaged cannot."""
    if row["outcome"] != "ok" or not isinstance(row.get("spent"), dict):
        return False
    return record.damage(row["harness"], row.get("result")) is None
