"""A study on a cluster: sbatch's jobs for it, an array a type of GPU and a report after all. Slurm does the rest.

A shard that ends early, for whatever reason, is not requeued: the report's job looks at the rows, and submits those
shards again that have some missing, as long as the last time measured any. The user's file slurm.toml says what a site
asks for, in sbatch's own long options:

    [all]               # of every job
    account = "lab"

    [h100]              # of the array for `--gpu h100`; a name that gpus.toml does not know is a type of yours
    gres = "gpu:nvidia_h100:1"      # default gpu:h100:1
    constraint = "sxm"
    exclusive = false               # default true
    gpu = "h100"                    # what `run --gpu` is told; default the table's name

    [report]            # of the job that needs no GPU
    partition = "cpu"
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import progress, shard, studies
from bench.cases import unknown
from bench.errors import Failure, UsageError
from bench.jobs import Job, hashes_of_sources, jobs_of
from bench.machine.devices import Device, cpu_device
from bench.machine.gpus import profiles
from bench.machine.provenance import ROOT
from bench.progress import Progress
from bench.protocols import PROTOCOLS
from bench.setup_env import VENVS
from bench.shard import Shard

FILE = Path("slurm.toml")
LOGS = Path("results/slurm")
DONE_BEFORE = "BENCH_ROWS_DONE"  # tells the report's job how many rows were there when it was submitted
NOTICE_S = 30  # of the signal before the time limit
SLACK, SPARE_S = 2.0, 600  # a limit is so many times the estimate, and so much longer
ALL, REPORT = "all", "report"  # tables of the user's file that are no type of GPU
OURS = (
    "array",
    "dependency",
    "parsable",
    "output",
    "signal",
    "chdir",
    "job-name",
    "wrap",
    "requeue",
    "no-requeue",
    "wait",
    "test-only",
    "help",
    "usage",
    "version",
)


@dataclass(frozen=True)
class Kind:
    """A type of GPU: what Slurm is asked for, and what is measured on it."""

    name: str
    device: Device
    options: Mapping[str, Any]  # sbatch's

    @property
    def gpu(self) -> str:
        """The type's name for `run`."""
        return self.device.profile.name if self.device.profile else "cpu"

    @property
    def stack(self) -> str:
        """The environment that it needs, a key of VENVS."""
        return self.device.profile.stack if self.device.profile else "cuda13"


@dataclass(frozen=True)
class Batch:
    """A job of Slurm's, as sbatch takes it."""

    name: str
    options: Mapping[str, Any]
    script: str
    after: tuple[str, ...] = ()  # the names of those that it waits for, however they end

    def arguments(self, ids: Mapping[str, str]) -> list[str]:
        """The arguments of sbatch; `ids` says how each job is called that this one waits for."""
        words = [
            f"--{name}" if value is True else f"--{name}={value}" for name, value in self.options.items()
        ]
        if self.after:
            words.append(f"--dependency=afterany:{':'.join(ids[name] for name in self.after)}")
        return ["--parsable", f"--job-name={self.name}", *words]


# ---- what is asked for


def kinds(names: Sequence[str], path: Path = FILE) -> list[Kind]:
    """The types of these names, from the user's file or else as gpus.toml has them.

    Raises:
        UsageError: no such type, with the nearest there is, two of them measure on the same, or the file cannot be
            read.
    """
    tables = _tables(path)
    known = {"cpu", *profiles(), *tables} - {ALL, REPORT}
    for name in tables.keys() - {"cpu", ALL, REPORT} - profiles().keys():
        if "gpu" not in tables[name]:
            raise UsageError(
                f'{path}: [{name}] is not in gpus.toml: gpu = "…" in it says what it measures on'
            )
    found = []
    for name in dict.fromkeys(name if name in known else name.lower() for name in names):
        if name not in known:
            raise unknown("GPU", name, sorted(known), f"in gpus.toml and {path}")
        options = dict(tables.get(name, {}))
        gpu = options.pop("gpu", name)
        if gpu != "cpu" and gpu not in profiles():
            raise UsageError(f"{path}: [{name}]: gpu = {gpu!r} is neither cpu nor in gpus.toml")
        own = {} if "gres" in options or "gpus" in options else {"gres": f"gpu:{gpu.partition('-')[0]}:1"}
        defaults = {**({} if gpu == "cpu" else own), "exclusive": True}
        found.append(Kind(name, _device(gpu), {**defaults, **tables.get(ALL, {}), **options}))
    by_gpu: dict[str, str] = {}
    for kind in found:
        if (other := by_gpu.setdefault(kind.gpu, kind.name)) != kind.name:
            raise UsageError(
                f"{other} and {kind.name} both measure on {kind.gpu}: their shards would be the same"
            )
    return found


def _device(gpu: str) -> Device:
    """The device as it will be there, as far as it decides what is run."""
    if gpu == "cpu":
        return cpu_device()
    profile = profiles()[gpu]
    return Device(
        *("cuda", None, profile.title, "", profile.memory_gb, profile.compute_capability), profile=profile
    )


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    """The user's file, empty where there is none.

    Raises:
        UsageError: it cannot be read, or has something else than sbatch's options in it.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name!r} is no table; [h100] begins one")
        if not re.fullmatch(r"[\w.+-]+", name, re.ASCII):
            raise UsageError(
                f"{path}: {name!r} is no name for a type of GPU: letters, digits, - and _ make one"
            )
        if name in (ALL, REPORT) and "gpu" in table:
            raise UsageError(f"{path}: [{name}]: gpu is for the table of a type")
        for option, value in table.items():
            is_text = isinstance(value, str) and value.isprintable()
            if not re.fullmatch("[a-z][a-z-]*", option) or not (is_text or isinstance(value, int)):
                raise UsageError(f"{path}: [{name}]: {option} = {value!r} is no long option of sbatch's")
            if option in OURS:
                raise UsageError(f"{path}: [{name}]: {option!r} is not yours to set")
    return tables


@dataclass(frozen=True)
class Asked:
    """The run that is to be made on each type."""

    studies: tuple[str, ...]  # names, or files of the user's
    shards: int
    quick: bool

    @property
    def words(self) -> list[str]:
        """The options that `run` and `slurm` share."""
        named = [word for name in self.studies for word in ("--study", name)]
        return [*named, *(["--quick"] if self.quick else [])]


@dataclass(frozen=True)
class Array:
    """The shards of one type: which are to be submitted, and how long one may take."""

    kind: Kind
    missing: tuple[int, ...]
    running: tuple[int, ...]
    done_rows: int
    limit_s: float


def arrays(
    asked: Asked, chosen: Sequence[Kind], root: Path, environ: Mapping[str, str] = os.environ
) -> list[Array]:
    """The shards that are missing on each type, an array a type, from the files of earlier runs.

    The report's job knows that none goes on: it waited for all of them, and a node that died cannot say its end.

    Raises:
        UsageError: no such study, or a case in it that cannot be run.
    """
    reached = progress.find(root)
    if DONE_BEFORE in environ:
        reached = [replace(one, state="stopped") if one.state == "running" else one for one in reached]
    return [_array(asked, kind, reached) for kind in chosen]


def _array(asked: Asked, kind: Kind, reached: Sequence[Progress]) -> Array:
    device, protocol = kind.device, "quick" if asked.quick else "default"
    rules = PROTOCOLS[protocol][device.kind]
    planned = {
        study.name: jobs_of(study, device, rules, quick=asked.quick)
        for study in map(studies.find, asked.studies)
    }
    expected = shard.expectations(device)
    whole = [job for jobs in planned.values() for job in jobs]
    sources = dict(zip(whole, hashes_of_sources(whole), strict=True))
    shares = [mine for mine, _ in shard.shares(whole, expected, device, asked.shards)]
    state: dict[int, set[str]] = {}
    done = 0
    for number, mine in enumerate(shares, 1):
        for study, jobs in planned.items():
            ours = list(dict.fromkeys(job for job in jobs if shard.identity(job) in mine))
            one = _reached(reached, device.key, study, Shard(number, asked.shards), ours, sources)
            state.setdefault(number, set()).add(one.state if one else "not begun")
            done += one.done if one else 0
    seconds = {shard.identity(job): expected.of_all_visits(job) for job in whole}
    longest_s = max(sum(seconds[name] for name in mine) for mine in shares)
    rounds_s = rules.visits * (rules.board_most_s + 30)
    return Array(
        kind,
        tuple(n for n, states in state.items() if states != {"done"} and "running" not in states),
        tuple(n for n, states in state.items() if "running" in states),
        done,
        SLACK * (longest_s + rounds_s) + SPARE_S,
    )


def _reached(
    found: Sequence[Progress],
    device: str,
    study: str,
    ours: Shard,
    jobs: Sequence[Job],
    sources: Mapping[Job, str],
) -> Progress | None:
    """The progress of a shard that did the same jobs by the same code; None where there is none."""
    fitting = [one for one in found if (one.device, one.study, one.shard) == (device, study, ours)]
    asked = progress.digest((job, sources[job]) for job in jobs) if fitting else None
    return next((one for one in fitting if one.asked == asked), None)


# ---- the jobs


def batches(asked: Asked, found: Sequence[Array], path: Path = FILE) -> list[Batch]:
    """The jobs to submit: an array for each type that has shards missing, then the report.

    Raises:
        UsageError: a path that cannot stand in a script.
    """
    tables = _tables(path)
    for text in (str(Path.cwd()), str(ROOT), *asked.words):
        if not text.isprintable():
            raise UsageError(f"{text!r} has characters in it that cannot stand in a job's script")
    logs = {"chdir": Path.cwd(), "signal": f"B:TERM@{NOTICE_S}", "no-requeue": True}
    jobs = []
    for array in found:
        if not array.missing:
            continue
        options = {"time": math.ceil(array.limit_s / 60), **array.kind.options, **logs}
        numbers = (
            f"1-{asked.shards}" if len(array.missing) == asked.shards else ",".join(map(str, array.missing))
        )
        words = ["run", *asked.words, "--gpu", array.kind.gpu]
        script = _script(
            f"exec {_python(array.kind.stack, *words)} --shard $SLURM_ARRAY_TASK_ID/{asked.shards}"
        )
        jobs.append(
            Batch(
                f"bench-{array.kind.name}",
                {**_set(options), "array": numbers, "output": LOGS / "%x-%A_%a.log"},
                script,
            )
        )
    if not jobs:
        return []
    names = [array.kind.name for array in found]
    stack = found[0].kind.stack
    again = ["slurm", *(word for name in names for word in ("--gpu", name)), *asked.words]
    again += ["--shards", str(asked.shards), "--submit"]
    keys = dict.fromkeys(array.kind.device.key for array in found)
    lines = [f"{_python(stack, module='reports')} --gpu {key}" for key in keys]
    lines += [
        f"export {DONE_BEFORE}={sum(array.done_rows for array in found)}",
        f"exec {_python(stack, *again)}",
    ]
    options = {
        "time": 60,
        **tables.get(ALL, {}),
        **tables.get(REPORT, {}),
        **logs,
        "output": LOGS / "%x-%j.log",
    }
    return [*jobs, Batch("bench-report", _set(options), _script(*lines), tuple(job.name for job in jobs))]


def _set(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not switched off."""
    return {name: value for name, value in options.items() if value is not False}


def interpreter(stack: str) -> Path:
    """The Python of a stack's environment."""
    return ROOT / VENVS[stack] / "bin" / "python"


def _python(stack: str, *words: str, module: str = "bench") -> str:
    return shlex.join([str(interpreter(stack)), "-m", module, *words])


def _script(*lines: str) -> str:
    path = f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"
    return "\n".join(["#!/bin/sh", path, *lines, ""])


def set_ups(found: Sequence[Array]) -> list[list[str]]:
    """The commands that set the stacks up, once each; none for the one that this process runs in."""
    stacks = dict.fromkeys(array.kind.stack for array in found if array.missing)
    ours = Path(sys.prefix).resolve()
    return [
        [sys.executable, "-m", "bench.setup_env", "--stack", stack]
        for stack in stacks
        if (ROOT / VENVS[stack]).resolve() != ours
    ]


# ---- printed, or submitted


def as_shell(set_up: Sequence[Sequence[str]], jobs: Sequence[Batch]) -> Iterator[str]:
    """The lines of a shell script that submits the jobs, and goes no further where something fails."""
    yield "(set -e"  # in a shell of its own, so that one that it is pasted into does not end
    yield f"mkdir -p {shlex.quote(str(Path.cwd() / LOGS))}"
    yield from (f"(cd {shlex.quote(str(ROOT))} && {shlex.join(command)})" for command in set_up)
    variables = {job.name: f"job{number}" for number, job in enumerate(jobs, 1)}
    for job in jobs:
        words = [shlex.quote(word) for word in replace(job, after=()).arguments({})]
        if job.after:
            ids = ":".join(f"${{{variables[name]}%%;*}}" for name in job.after)  # Slurm says job;cluster
            words.append(f"--dependency=afterany:{ids}")
        yield f"{variables[job.name]}=$(sbatch {' '.join(words)} <<'END'"
        yield from job.script.split("\n")[:-1]
        yield from ("END", ")")
    yield ")"


def submit(set_up: Sequence[Sequence[str]], jobs: Sequence[Batch]) -> dict[str, str]:
    """Submit the jobs, once Slurm has taken each on trial; their numbers by name.

    Raises:
        UsageError: there is no sbatch here, or Slurm refuses one of them: then none is queued.
        Failure: a stack cannot be set up, or Slurm refuses a job after all.
    """
    if not shutil.which("sbatch"):
        raise UsageError("there is no sbatch here: run it where jobs are submitted, or leave --submit out")
    for job in jobs:
        trial = _sbatch(
            "--test-only", *Batch(job.name, job.options, job.script).arguments({}), script=job.script
        )
        if trial.returncode:
            raise UsageError(f"Slurm refuses {job.name}, so nothing was queued: {_last_line(trial.stderr)}")
    LOGS.mkdir(parents=True, exist_ok=True)
    for command in set_up:
        if subprocess.run(command, cwd=ROOT).returncode:
            raise Failure(f"{shlex.join(command)} failed, so nothing was queued")
    ids: dict[str, str] = {}
    for job in jobs:
        done = _sbatch(*job.arguments(ids), script=job.script)
        if done.returncode:
            queued = ", ".join(f"{name} as {number}" for name, number in ids.items()) or "nothing"
            raise Failure(f"Slurm refuses {job.name}: {_last_line(done.stderr)}; {queued} was queued")
        ids[job.name] = done.stdout.strip().partition(";")[0]
    return ids


def _sbatch(*arguments: str, script: str) -> subprocess.CompletedProcess[str]:
    # of the job that submits, where one does, nothing is to reach the new one but which cluster it is
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}
    return subprocess.run(["sbatch", *arguments], input=script, env=environ, capture_output=True, text=True)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it does not say why"])[-1]


def check_progress(found: Sequence[Array], environ: Mapping[str, str] = os.environ) -> None:
    """See that the last submission measured something, where this is the report's job that submits again.

    Raises:
        Failure: it did not, and would not the next time.
    """
    before = environ.get(DONE_BEFORE, "")
    if before.isdecimal() and sum(array.done_rows for array in found) <= int(before):
        raise Failure(f"nothing was measured since the last submission: see {LOGS}/; not submitted again")
