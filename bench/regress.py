"""Two revisions compared on the regression suite: restarts of two processes that take turns, kept row by row.

What is measured is kept in results/<gpu>/regress/: `rows.jsonl` of comparisons; `noise.jsonl` of A/A runs, in which
both revisions are one, from which the noise of this machine is known. A run that was killed goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import gate
from bench.cases import Case
from bench.errors import Failure, Undecided, UsageError
from bench.gate import AA_RESTARTS, Finding, Plan, Visit
from bench.jobs import Job, job_of
from bench.machine import provenance, variables
from bench.machine.devices import Device, check_idle
from bench.machine.lock import held
from bench.revisions import Repository
from bench.screen import Screen
from bench.suite import RULES
from bench.taking import NOISE, TURNS, changes, taking

FOLDER = "regress"
UNLESS = ":(exclude)bench/baselines"  # no measurement reads what was accepted
TIMES = tuple(f"bench/harness/{name}.py" for name in ("turns", "timing", "speed"))
# The host's load over the last minute, for each of its cores, above which nothing is measured.
LOAD_PER_CORE = 1.5
BAD_HOUR_S = 3600.0  # after which a noise that is large is measured again


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
        UsageError: that folder is in no repository, or a module not in that folder.
    """
    if not own:
        return Repository(provenance.ROOT, [*provenance.OURS, UNLESS])
    paths = []
    for top in dict.fromkeys(case.model.partition(":")[0].partition(".")[0] for case in own):
        here = [path for path in (top, f"{top}.py") if Path(path).exists()]
        if not here:  # found elsewhere, both revisions would be what lies there
            raise UsageError(
                f"no module {top!r} in this folder, whose revisions are compared: go to where it is"
            )
        paths += here
    found = Repository(Path.cwd(), paths)
    for place in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        if (
            Path(place).is_absolute()
            and Path(place).resolve().is_relative_to(found.top)
            and place != str(found.folder)
        ):
            raise UsageError(f"PYTHONPATH names {place}, which both revisions would import from: take it out")
    return found


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
        Undecided: the host is busy, or the two are timed in different ways.
        Failure: what is checked out does not run, or a process was lost.
    """
    old, new = repository.commit(base), repository.head()
    if others := [file for file in TIMES if repository.differs(old, new, file)]:  # each side runs its own
        raise Undecided(f"the two revisions are timed in different ways: {others[0]} is not the same in both")
    jobs = [job_of("turns", device, RULES[device.kind], case) for case in dict.fromkeys(cases)]
    with quiet(device, screen):
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
            taking(file, TURNS, (new, old), (now.folder, was.folder), device, screen) as taken,
        ):
            if fresh:
                taken.known.clear()
            jobs, without = taken.first(jobs)
            judge = partial(gate.judge_ratios, noise=noise)
            findings = gate.settle([job.text for job in jobs], taken.restart(jobs), judge, plan)
    changed = {case: changes(*counts) for case, counts in taken.counts.items()}
    outcome = Outcome(findings, changed, {**left_out, **without}, [*warnings, *taken.warnings()])
    if not findings:
        why = next(iter(outcome.left_out.values()), "there are none")
        raise UsageError(f"no case can be compared with {base}: {why}")
    return outcome


@contextmanager
def quiet(device: Device, screen: Screen) -> Iterator[None]:
    """A device, and a host, that nobody else works on; both are this process's for as long as the context lasts.

    Raises:
        UsageError: a variable is set under which times mean nothing.
        Undecided: somebody works there.
    """
    variables.check()
    check_load()
    with ExitStack() as stack:
        try:
            screen.say(stack.enter_context(held(device)))
            check_idle(device)
        except Failure as error:
            raise Undecided(str(error)) from None
        yield


def check_load() -> None:
    """See that the host is not busy with others' work, nor a node of Slurm's that may be at any moment.

    Raises:
        Undecided: it is, by its load over the last minute, or the node is shared.
    """
    if (job := provenance.slurm()) and job["shared"]:
        raise Undecided(
            f"Slurm may run other jobs on node {job['node']}: ask it for the node with --exclusive"
        )
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
    file = results / FOLDER / f"{NOISE}.jsonl"
    with (
        repository.checked_out(commit, commit) as (one, other),
        taking(file, TURNS, (commit, commit), (one.folder, other.folder), device, screen) as taken,
    ):
        missing = [job for job in jobs if not taken.has(job, AA_RESTARTS)]
        for job in jobs:
            is_known = job not in missing and taken.age_s(job, AA_RESTARTS) > BAD_HOUR_S
            if is_known and gate.floor(taken.kept(job, AA_RESTARTS)) > gate.LOUD:
                taken.forget(job, AA_RESTARTS)  # measured in a bad hour: once more
                missing.append(job)
        if missing:
            screen.say(
                taken.since(missing) or "the noise of this machine is not known yet: an A/A run comes first"
            )
        jobs, left_out = taken.first(jobs)
        again = taken.restart(jobs)
        visits: dict[str, list[Visit]] = {job.text: [] for job in jobs}
        for _ in range(AA_RESTARTS):
            for case, visit in again([job.text for job in jobs]).items():
                visits[case].append(visit)
    floors = {case: gate.floor(of_case) for case, of_case in visits.items()}
    if missing:
        for case, floor in floors.items():
            screen.say(f"{case}: A/A within {floor:.1%}")
    return floors, left_out
