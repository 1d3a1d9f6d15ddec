"""Two revisions compared on the regression suite: restarts of two processes that take turns, kept row by row.

What is measured is kept in results/<gpu>/regress/: `rows.jsonl` of comparisons; `noise.jsonl` of A/A runs, in which
both revisions are one, from which the noise of this machine is known. A run that was killed goes on from there.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench import gate, record, stats
from bench.cases import Case
from bench.errors import Failure, Undecided, UsageError
from bench.gate import Finding, Plan, Visit
from bench.jobs import Job, job_of
from bench.machine import provenance, variables
from bench.machine.devices import Device, as_dict, check_idle
from bench.machine.lock import held
from bench.pair import CaseFailed, Pair
from bench.process import WorkerLost
from bench.record import ResultsFile, Row
from bench.revisions import Repository, Revision
from bench.screen import Screen
from bench.suite import RULES

FOLDER = "regress"
NOISE_RESTARTS = 6
# The host's load over the last minute, for each of its cores, above which nothing is measured.
LOAD_PER_CORE = 1.5
CLOCKS_APART = 0.01  # a smaller difference between the two sides' SM clocks is none
SIDES = ("new", "old")  # in this order in every row, as A and B


@dataclass
class Outcome:
    """The findings of a comparison."""

    findings: dict[str, Finding]
    changes: dict[str, list[str]]  # by case, what is counted exactly and differs: "launches 12 → 13"
    left_out: dict[str, str]  # cases that do not run here, or did not in the old revision, and why
    warnings: list[str] = field(default_factory=list)  # of the environment

    @property
    def exit_status(self) -> int:
        """1 where a case is slower, else 3 where one is undecided, else 0."""
        return gate.exit_status(self.findings)


def repository_of(own: Sequence[Case]) -> Repository:
    """The repository whose revisions are compared: this one, or where cases are of a user's modules, that of the folder
    that we are in.

    Raises:
        UsageError: that folder is in no repository.
    """
    if not own:
        return Repository(provenance.ROOT, provenance.OURS)
    tops = dict.fromkeys(case.model.partition(":")[0].partition(".")[0] for case in own)
    return Repository(
        Path.cwd(), [path for top in tops for path in (top, f"{top}.py") if Path(path).exists()]
    )


def compare(
    repository: Repository,
    base: str,
    cases: Sequence[Case],
    device: Device,
    results: Path,
    screen: Screen,
    *,
    fresh: bool = False,
    plan: Plan | None = None,
) -> Outcome:
    """Compare what is checked out with a base, case by case.

    Args:
        base: a revision of the repository, as git names them.
        results: the folder of this device's rows.
        fresh: measure again what is there already, but for the noise.

    Raises:
        UsageError: no such commit, changes that no commit has, or a base that cannot be measured.
        Undecided: the host is busy.
        Failure: what is checked out does not run, or a process was lost.
    """
    variables.check()
    old, new = repository.commit(base), repository.head()
    jobs = [job_of("turns", device, RULES[device.kind], case) for case in dict.fromkeys(cases)]
    check_load()
    with held(device) as unlocked:
        screen.say(unlocked)
        check_idle(device)
        warnings = []
        if repository.differs(old, new, "constraints", "pyproject.toml"):
            warnings.append("the two ask for other versions of packages: both ran with those that are here")
        for warning in warnings:
            screen.say(warning)
        noise, left_out = _noise(repository, old, jobs, device, results, screen)
        jobs = [job for job in jobs if job.text in noise]
        file = results / FOLDER / "rows.jsonl"
        with (
            repository.checked_out(old, new) as (was, now),
            _taking(file, now, was, device, screen) as taking,
        ):
            if fresh:
                taking.known.clear()
            jobs, without = taking.first(jobs)
            findings = gate.settle([job.text for job in jobs], taking.restart(jobs), noise, plan)
    outcome = Outcome(findings, taking.changes, {**left_out, **without}, [*warnings, *taking.warnings()])
    if not findings:
        why = next(iter(outcome.left_out.values()), "there are none")
        raise UsageError(f"no case can be compared with {base}: {why}")
    return outcome


def check_load() -> None:
    """See that the host is not busy with others' work.

    Raises:
        Undecided: it is, by its load over the last minute.
    """
    load, cores = provenance.load_average(), os.cpu_count() or 1
    if load is not None and load > LOAD_PER_CORE * cores:
        raise Undecided(
            f"the host is busy: a load of {load} on {cores} cores, where {LOAD_PER_CORE} each is the most; try later"
        )


def _noise(
    repository: Repository, commit: str, jobs: Sequence[Job], device: Device, results: Path, screen: Screen
) -> tuple[dict[str, float], dict[str, str]]:
    """The practical size of each case by A/A runs on this machine as it is; and the cases that do not run, with why.

    Cases whose noise is known are not measured again until the environment changes.
    """
    file = results / FOLDER / "noise.jsonl"
    with (
        repository.checked_out(commit, commit) as (one, other),
        _taking(file, one, other, device, screen) as taking,
    ):
        missing = [job for job in jobs if not taking.has(job, NOISE_RESTARTS)]
        for job in (loud := taking.loud(jobs)):  # measured in a bad hour: once more
            taking.forget(job)
        missing += [job for job in loud if job not in missing]
        if missing:
            screen.say(
                taking.since(missing) or "the noise of this machine is not known yet: an A/A run comes first"
            )
        jobs, left_out = taking.first(jobs)
        again = taking.restart(jobs)
        visits: dict[str, list[Visit]] = {job.text: [] for job in jobs}
        for _ in range(NOISE_RESTARTS):
            for case, visit in again([job.text for job in jobs]).items():
                visits[case].append(visit)
    floors = {case: gate.floor(of_case) for case, of_case in visits.items()}
    if missing:
        for case, floor in floors.items():
            screen.say(f"{case}: A/A within {floor:.1%}")
    return floors, left_out


@contextmanager
def _taking(file: Path, new: Revision, old: Revision, device: Device, screen: Screen) -> Iterator[Taking]:
    """A `Taking` that keeps its visits in a file; its processes end with the context."""
    with ResultsFile(file).locked() as results:
        for said in (results.noticed, results.set_aside):
            screen.say(said)
        taking = Taking(results, new, old, device, screen)
        try:
            yield taking
        finally:
            taking.pair.kill()


class _Environment(NamedTuple):
    """The environment that the noise of a machine, and a comparison, hold for."""

    device: list[str | None]
    versions: dict[str, str | None]
    variables: dict[str, Any]


class Taking:
    """Takes visits of one pair of revisions, and gives those that are in the file already.

    Args:
        new, old: the revisions; where they are one, it is an A/A run, and its rows hold for any commit.
    """

    def __init__(
        self, results: ResultsFile, new: Revision, old: Revision, device: Device, screen: Screen
    ) -> None:
        self.pair = Pair(device, (new.folder, old.folder))
        self.changes: dict[str, list[str]] = {}
        self._results, self._device, self._screen = results, device, screen
        self._revisions = (new, old)
        self._environment = _Environment(
            [device.uuid, device.driver], provenance.versions(), variables.recorded()
        )
        self._host = provenance.host()
        earlier = record.read(results.path.parent)
        self._earlier = [row for row in earlier.sealed if row["harness"] == "turns"]
        self.known = {row["key"]: row for row in self._earlier if row["outcome"] == "ok"}
        self._taken: list[Row] = []

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
                    new, old = self._revisions
                    if not failed.refused and failed.side == 0 and new.commit != old.commit:
                        raise Failure(f"{job.text} does not run in {new.commit[:12]}: {failed}") from None
                    all_of_old &= not failed.refused
                    why = (
                        ""
                        if failed.refused
                        else f"{SIDES[failed.side]} {self._revisions[failed.side].commit[:12]}: "
                    )
                    left_out[job.text] = f"{why}{failed}"
        finally:
            self.pair.kill()
        if jobs and not runs and all_of_old:
            old = self._revisions[1]
            raise UsageError(
                f"the base {old.commit[:12]} cannot be measured: {next(iter(left_out.values()))}"
            )
        return runs, left_out

    def restart(self, jobs: Sequence[Job]) -> gate.Restart:
        """A function that visits cases in a fresh pair of processes, as `gate.settle` asks for it."""
        by_text = {job.text: job for job in jobs}
        visited = dict.fromkeys(by_text, 0)

        def again(asked: Sequence[str]) -> dict[str, Visit]:
            order = random.sample(list(asked), len(asked))  # nothing always has the same neighbour
            found = {}
            if new := [text for text in order if self._key(by_text[text], visited[text]) not in self.known]:
                self._screen.say(f"restart {visited[new[0]] + 1} of {len(new)} case{'s' * (len(new) > 1)}")
            try:
                for text in order:
                    row = self._visit(by_text[text], visited[text])
                    visited[text] += 1
                    found[text] = visit_of(row)
            except CaseFailed as failed:
                raise Failure(f"{text}: {failed}") from None
            finally:
                self.pair.kill()
            return found

        return again

    def has(self, job: Job, visits: int) -> bool:
        """Whether so many visits to a case are there."""
        return all(self._key(job, number) in self.known for number in range(visits))

    def loud(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs whose noise is known, and so large that nothing could be told the same."""
        known = [job for job in jobs if self.has(job, NOISE_RESTARTS)]
        visits = {
            job: [self.known[self._key(job, number)] for number in range(NOISE_RESTARTS)] for job in known
        }
        return [job for job, rows in visits.items() if gate.floor(list(map(visit_of, rows))) > gate.LOUD]

    def forget(self, job: Job) -> None:
        """Have the visits to a case taken anew."""
        for number in range(NOISE_RESTARTS):
            self.known.pop(self._key(job, number))

    def since(self, jobs: Iterable[Job]) -> str:
        """The changes since the last rows of these cases were taken, in words; empty where there are no rows."""
        texts = {job.text for job in jobs}
        rows = [row for row in self._earlier if row["case"] in texts and not row["result"]["revisions"]]
        if not rows:
            return ""
        device, environment = rows[-1]["device"], rows[-1]["environment"]
        before = _Environment(
            [device["uuid"], device["driver"]], environment["versions"], environment["variables"]
        )
        now = self._environment
        named = [name for name in now.versions if before.versions.get(name) != now.versions[name]]
        named += ["the device or its driver"] if before.device != now.device else []
        named += ["variables"] if before.variables != now.variables else []
        what = ", ".join(named) or "how it is measured"
        return f"changed since the noise was last measured: {what}; an A/A run comes first"

    def warnings(self) -> list[str]:
        """Lines on what differed between the environments of the two sides, or was unusual."""
        lines = []
        for row in self._taken:
            result = row["result"]
            lines += result["notes"]
            new, old = result["loaded"]
            lines += [
                f"{name} is {new[name]} in the new and {old.get(name)} in the old"
                for name in new
                if new[name] != old.get(name)
            ]
            if result["clocks_mhz"]:
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
            if self.pair.is_new:
                self.pair.start()
            earlier = next((row for row in self._taken if row["case"] == job.text), None)
            digests = earlier["result"]["digests"] if earlier else (None, None)
            try:
                result = self.pair.visit(job, digests)
                if number == 0:
                    result["counts"] = self.pair.count(job)
            except WorkerLost as lost:
                raise Failure(
                    f"{job.text}: {lost}; every visit so far is kept, and the same command goes on"
                ) from None
            row = self._row(job, number, key, result)
            self._results.append(row)
            self._screen.say(self._results.noticed)
            self._results.noticed = None
            self.known[key] = row
        self._taken.append(row)
        if number == 0:
            self.changes[job.text] = changes(row)
        return row

    def _key(self, job: Job, number: int) -> str:
        return record.key_of(group=self._group(job), visit=number)

    def _group(self, job: Job) -> str:
        return record.key_of(
            harness="turns",
            case=job.text,
            revisions=self._commits(),
            environment=self._environment,
            threads=provenance.threads(),
            rules=job.rules.as_dict(),
            source=provenance.source_hash(["bench/harness/turns.py", "bench/pair.py"]),
        )

    def _commits(self) -> list[str] | None:
        """The two commits; None for an A/A run, which is of the machine."""
        new, old = (revision.commit for revision in self._revisions)
        return None if new == old and self._results.path.stem == "noise" else [new, old]

    def _row(self, job: Job, number: int, key: str, result: dict[str, Any]) -> Row:
        return {
            "schema": record.SCHEMA,
            "key": key,
            "visit": number,
            "group": self._group(job),
            "harness": "turns",
            "study": None,
            "case": job.text,
            "outcome": "ok",
            "reason": None,
            "notes": result["notes"],
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "protocol": job.rules.as_dict(),
            "device": as_dict(self._device),
            "environment": {
                "host": {**self._host, "load_average": provenance.load_average()},
                "versions": self._environment.versions,
                "variables": self._environment.variables,
            },
            "result": {**result, "revisions": self._commits()},
        }


def visit_of(row: Row) -> Visit:
    """The ratios of a row's blocks: in time, and in cycles where the clock is known."""
    blocks, clocks = row["result"]["blocks"], row["result"]["clocks_mhz"]
    cycles = clocks and [
        _by_side([seconds * mhz for seconds, mhz in zip(block, at, strict=True)])
        for block, at in zip(blocks, clocks, strict=True)
    ]
    return Visit(stats.ratios(blocks), cycles)


def _by_side(block: Sequence[float]) -> float:
    """New / old of a block."""
    return stats.ratios([block])[0]


def changes(row: Row) -> list[str]:
    """The exact counts that both revisions do not share, old → new; memory only on a GPU, whose allocator counts."""
    result = row["result"]
    sides: Sequence[dict[str, int | None]] = result.get("counts") or ({}, {})
    counts = [dict(side) for side in sides]
    if row["device"]["kind"] == "cuda":
        for side, peak in zip(counts, result["peak_memory_bytes"], strict=True):
            side["bytes of peak memory"] = peak
    new, old = counts
    return [
        f"{name} {old[name]:,} → {new[name]:,}"
        for name in new
        if name in old and None not in (new[name], old[name]) and new[name] != old[name]
    ]
