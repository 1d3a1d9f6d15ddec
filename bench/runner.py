"""Runs jobs in a worker process and records each as soon as it is done: order, isolation, resume."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from bench import environment, photos, record, sizes
from bench.cases import Case, parse
from bench.environment import Device
from bench.errors import Failure, UsageError
from bench.record import ResultsFile, Row
from bench.screen import Screen
from bench.studies import Study
from bench.timing import Rules

START_LIMIT_S = 180  # importing torch from a cold disk
COUNT_LIMIT_S = 300
ANALYSIS_LIMIT_S = 3600  # the largest model and image, 256 of them, on a few cores

HEAD_TIMES = {"mask_rcnn": 3, "upernet": 8}  # a ResTv2-T, by MACs

AMPERE = 8  # the first major compute capability with bf16 units

ANALYSES = ("fourier", "cka")  # of features, with harnesses of their own: bench/branches.py
ANALYSIS_BATCH = 16  # whatever the machine, because CKA is an estimate over minibatches

# A row stands for a new measurement only while the code that made it is the same.
SOURCES = {
    "macs": ("kernels", "models", *(f"bench/{name}.py" for name in ("macs", "cases", "sizes"))),
    "peaks": ("bench/worker.py", "bench/timing.py"),
    **dict.fromkeys(
        ANALYSES,
        (
            "kernels",
            "models",
            *(f"bench/{name}.py" for name in ("branches", "cases", "inputs", "photos", "ready", "worker")),
        ),
    ),
}
TIMED_SOURCES = (
    "kernels",
    "models",
    *(
        f"bench/{name}.py"
        for name in (
            *("cases", "checks", "environment", "inputs", "memory"),
            *("ready", "sizes", "split", "stats", "timing", "training"),
            "worker",
        )
    ),
)


class WorkerLost(Exception):
    """The worker crashed or had to be killed; the message is the reason for the row."""


class Worker:
    """The measuring process. `ask` starts it when it is not there."""

    def __init__(self, device: Device) -> None:
        path = os.pathsep.join(filter(None, (str(environment.ROOT), os.environ.get("PYTHONPATH"))))
        self._environ = {**os.environ, **environment.visible(device), "PYTHONPATH": path}
        self._process: subprocess.Popen[bytes] | None = None
        self.import_s = 0.0  # of every worker that was started
        self.threads: int | None = None

    def ask(self, job: dict[str, Any], limit_s: float, on_phase: Callable[[str], None]) -> dict[str, Any]:
        """The worker's answer to `job`.

        Raises:
            WorkerLost: it died, or took more than `limit_s`; it is gone then.
            Failure: it could not even start.
        """
        if self._process is None:
            on_phase("starting")
            self._start()
        assert self._process and self._process.stdin
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
            return self._reply(limit_s, on_phase)
        except (BrokenPipeError, EOFError):
            raise WorkerLost(self._obituary()) from None
        except TimeoutError:
            self.kill()
            raise WorkerLost(f"hung: not done after its limit of {limit_s:.0f} s") from None

    def kill(self) -> None:
        """End it and what it started, at once."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._replies)
        self._output.close()
        self._process = None

    def _start(self) -> None:
        self._replies, theirs = os.pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `kill`): what models print, last words
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker"],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            pass_fds=[theirs],
            env={**self._environ, "BENCH_REPLY": str(theirs)},
            start_new_session=True,
        )
        os.close(theirs)
        try:
            ready = self._message(time.monotonic() + START_LIMIT_S)
        except (EOFError, TimeoutError):
            raise Failure(f"the measuring process does not start: {self._obituary()}") from None
        self.import_s += ready["import_s"]
        self.threads = ready["threads"]

    def _reply(self, limit_s: float, on_phase: Callable[[str], None]) -> dict[str, Any]:
        until = time.monotonic() + limit_s
        while True:
            message = self._message(until)
            if "phase" not in message:
                return message
            on_phase(message["phase"])

    def _message(self, until: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            wait_s = min(1.0, max(0.0, until - time.monotonic()))
            if not select.select([self._replies], [], [], wait_s)[0]:
                assert self._process
                if self._process.poll() is not None:  # what it started still holds the other end open
                    raise EOFError
                if time.monotonic() >= until:
                    raise TimeoutError
                continue
            received = os.read(self._replies, 1 << 16)
            if not received:
                raise EOFError
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _obituary(self) -> str:
        """How it ended, with the last line it printed."""
        assert self._process
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            status = None
        self._output.seek(0)
        words = [
            line.strip() for line in self._output.read().decode(errors="replace").splitlines() if line.strip()
        ]
        self.kill()
        how = f"crashed with exit status {status}"
        if status is None:
            how = "closed its line"
        elif status < 0:
            how = f"killed by {signal.Signals(-status).name}"
            if status == -signal.SIGKILL:
                how += " (by someone, or by the kernel for want of memory)"
        return how + (f": {words[-1][:200]}" if words else "")


@dataclass(frozen=True)
class Job:
    """One row to be: what to do, for which study, under which rules."""

    harness: str  # macs | throughput | latency | compare | peaks | fourier | cka
    case: str
    rules: Rules
    study: str | None = None
    other: str | None = None  # the second case of a comparison

    def order(self) -> dict[str, Any]:
        """What the worker is told."""
        if self.harness in ("macs", "peaks"):
            return {"do": "count" if self.harness == "macs" else "peaks", "case": self.case}
        if self.harness in ANALYSES:
            return {"do": "analyse", "analysis": self.harness, "case": self.case}
        if self.harness == "compare":
            return {"do": "compare", "a": self.case, "b": self.other, "rules": self.rules.as_dict()}
        return {"do": "measure", "case": self.case, "harness": self.harness, "rules": self.rules.as_dict()}

    @property
    def limit_s(self) -> float:
        if self.harness in ANALYSES:
            return ANALYSIS_LIMIT_S
        return COUNT_LIMIT_S if self.harness in ("macs", "peaks") else self.rules.limit_s


def _expected(job: Job, rows: list[Row], device: Device) -> float:
    """Seconds that a job may take: what the same took before, whatever has changed since, else a guess."""
    for row in reversed(rows):
        same = (row["harness"], row["case"]) == (job.harness, job.case)
        if same and isinstance(row.get("spent"), dict) and isinstance(row.get("protocol"), dict):
            took = row["spent"].get("all")
            if row["protocol"].get("name") == job.rules.name and isinstance(took, float):
                return took
    if job.harness in ("macs", "peaks"):
        return 0.5
    image_s = 0.1 if device.kind == "cpu" else 0.001  # about a ResTv2-T on two cores, on a GPU of 2017
    if job.harness in ANALYSES:
        return 3.0 + 3 * image_s * _images_looked_at(parse(job.case))
    iterations, case = job.rules.warmup_iterations + job.rules.min_samples, parse(job.case)
    image_s *= HEAD_TIMES.get(case.head, 1)
    if case.mode == "train":
        image_s *= 3  # backward has twice the forward's products
    if case.takes_tokens:
        image_s /= 10  # a part of one of eleven blocks
    if job.harness == "compare":  # A B B A
        iterations, cap_s = 4 * iterations, 2 * job.rules.cap_s
    else:
        cap_s = job.rules.cap_s
    return 3.0 + max(cap_s, iterations * image_s * _images_of_224(case) * (case.batch or 1))


def _images_of_224(case: Case) -> float:
    """How many images of 224×224 pixels an iteration's have together; of a mix that cannot be read, none."""
    of = [case.size]
    if case.mix:
        try:
            of = sizes.representatives(sizes.read(case.mix.source).sizes, case.mix.shapes)
        except ValueError:
            return 0.0
    return sum(height * width for height, width in of) / 224**2


def timing_job(case: Case, harness: str, device: Device, rules: Rules, study: str | None = None) -> Job:
    """A case with its open parts taken from the protocol, else from the device's defaults."""
    return Job(harness, str(resolved(case, device, rules)), rules, study)


def analysis_job(case: Case, harness: str, rules: Rules, study: str | None = None) -> Job:
    """One of ANALYSES of a case: in fp32, in batches of ANALYSIS_BATCH images, where it says nothing else.

    Raises:
        UsageError: no such folder of images or none in it, or an implementation without branches to look at.
    """
    if case.impl not in ("eager", "sdpa") or case.mode != "infer":
        part = case.impl if case.mode == "infer" else case.mode
        raise UsageError(f"branches are looked at in eager or sdpa, and in inference: {case} has {part!r}")
    if case.takes_tokens:
        raise UsageError(f"branches are looked at in a whole model, of which {case} is a part")
    if case.head != "classifier":
        raise UsageError(f"branches are looked at in the classifier: {case} has a head of another kind")
    try:
        _photos(case)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Job(harness, str(case.resolve(ANALYSIS_BATCH, "fp32")), rules, study)


def _photos(case: Case) -> photos.Photos | None:
    """Those that the case names; None for synthetic images. Raises ValueError as `photos.find`."""
    folder = dict(case.options).get("images")
    return photos.find(Path(str(folder))) if folder else None


def _images_looked_at(case: Case) -> int:
    try:
        found = _photos(case)
    except ValueError:
        return 0
    return len(found.files) if found else photos.SYNTHETIC


def resolved(case: Case, device: Device, rules: Rules) -> Case:
    """A case that is to be timed, with its open parts filled in.

    Raises:
        UsageError: it names images, on which no time depends.
    """
    if case.has("images"):
        raise UsageError(f"images=FOLDER is for `branches` to look at; a time does not depend on it: {case}")
    batch, dtype = defaults(device)
    if case.mode == "train" and dtype == "fp16" and not case.has("autocast"):  # which takes no fp16 weights
        dtype = "bf16" if _major(device) >= AMPERE else "fp32"
    return case.resolve(rules.batch or batch, rules.dtype or dtype)


def _major(device: Device) -> int:
    """Of the compute capability; 0 where there is none, or nobody says."""
    return int((device.compute_capability or "0").partition(".")[0])


def defaults(device: Device) -> tuple[int, str]:
    """Batch and dtype where neither case nor protocol says: the profile's, one image in fp32 on a CPU."""
    if device.kind == "cpu":
        return 1, "fp32"
    return (device.profile.batch, device.profile.dtype) if device.profile else (64, "fp16")


def counting_job(case: Case, rules: Rules, study: str | None = None) -> Job:
    """A count is the forward's for one image, whatever else is done to how many in which dtype."""
    options = tuple(option for option in case.options if option[0] in case.model_options)
    alone = replace(case, options=options, batch=None, dtype=None, mode="infer")
    return Job("macs", str(alone), rules, study)


def jobs_of(study: Study, device: Device, rules: Rules, *, quick: bool) -> list[Job]:
    """What a study asks for: counts first, because they take no time, then each case, then the comparisons."""
    listed = study.parsed(device.kind, quick)
    if not study.is_timed:
        return [analysis_job(case, study.harness, rules, study.name) for case in listed]
    jobs = [Job("peaks", "cpu", rules)] if device.kind == "cpu" else []
    jobs += [counting_job(case, rules, study.name) for case in study.to_count(device.kind, quick)]
    jobs += [timing_job(case, study.harness, device, rules, study.name) for case in listed]
    for pair in study.pairs(device.kind, quick):
        first, second = (str(resolved(parse(text), device, rules)) for text in pair)
        jobs.append(Job("compare", first, rules, study.name, other=second))
    return jobs


@dataclass
class Summary:
    """What a run came to."""

    rows: list[Row]  # one a job, in the jobs' order
    measured: int
    reused: int
    failed: int
    refused: int  # this device does not run what they ask for
    seconds: dict[str, float]  # all, imports, build, forward


class Runner:
    """Runs jobs on one device into one results file."""

    def __init__(self, device: Device, folder: Path, screen: Screen) -> None:
        self.device, self.folder, self.screen = device, folder, screen
        self._versions = environment.versions()
        self._environment = {
            "host": environment.host(),
            "versions": self._versions,
            "source": environment.source(),
        }

    def run(self, jobs: Iterable[Job], file_name: str, *, fresh: bool = False) -> Summary:
        """Do every job that no row stands for yet, and append each row as soon as it is there.

        Raises:
            Failure: the results cannot be written, the worker cannot start, another process uses the GPU.
        """
        started = time.perf_counter()
        jobs = list(dict.fromkeys(jobs))  # a sweep over batches counts a model once
        worker = Worker(self.device)
        spent = {"build": 0.0, "forward": 0.0}
        with ResultsFile(self.folder / f"{file_name}.jsonl").locked() as results:
            self.screen.say(results.set_aside)
            found = record.read(self.folder)
            for problem in found.problems:
                self.screen.say(problem)
            known = {} if fresh else {row["key"]: row for row in found.rows if _whole(row)}
            sources = [self._source_hash(job) for job in jobs]
            keys = [self._key(job, source) for job, source in zip(jobs, sources, strict=True)]
            todo = [key for key in keys if key not in known]
            if len(todo) < len(jobs):
                self.screen.say(
                    f"{len(jobs) - len(todo)} of {len(jobs)} rows are there already and are used again"
                )
            if todo:
                environment.check_idle(self.device)
            rows: list[Row] = []
            try:
                with self.screen.live(
                    _expected(job, found.rows, self.device)
                    for job, key in zip(jobs, keys, strict=True)
                    if key not in known
                ):
                    for job, key, source in zip(jobs, keys, sources, strict=True):
                        row = known.get(key)
                        if row is None:
                            row = self._row(job, key, source, self._answer(worker, job), worker)
                            results.append(row)
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
        try:
            answer = worker.ask(job.order(), job.limit_s, self.screen.phase)
        except WorkerLost as lost:
            return {"failed": str(lost)}
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
            "case": job.case if job.other is None else f"{job.case} / {job.other}",
            "outcome": "ok" if "failed" not in answer else "refused" if answer.get("refused") else "failed",
            "reason": answer.get("failed"),
            "notes": answer.get("notes", []),
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "protocol": job.rules.as_dict(),
            "device": environment.as_dict(self.device),
            "environment": {**self._environment, "source": made_by, "threads": worker.threads},
            "readings": answer.get("readings"),
            "spent": answer.get("spent"),
            "result": answer.get("result"),
        }

    def _source_hash(self, job: Job) -> str:
        """Of the code that makes the row, and of the user's files that it depends on."""
        sources = SOURCES.get(job.harness, TIMED_SOURCES)
        own = [
            path
            for text in (job.case, job.other)
            if text and text != "cpu"
            for path in _own_files(parse(text))
        ]
        return environment.source_hash([*sources, *own])

    def _key(self, job: Job, source: str) -> str:
        """What must be equal for a row to be reused; a count depends on neither device nor protocol."""
        counted = job.harness == "macs"
        timed = not counted and job.harness not in ANALYSES
        return record.key_of(
            harness=job.harness,
            case=[job.case, job.other],
            source=source,
            versions=self._versions,
            device=None if counted else [self.device.uuid, self.device.driver],
            protocol=job.rules.as_dict() if timed else None,
            **_stamps(job),
        )


def _whole(row: Row) -> bool:
    """Whether a row can stand for a measurement; one that somebody damaged cannot."""
    return row["outcome"] == "ok" and all(isinstance(row.get(name), dict) for name in ("result", "spent"))


def _stamps(job: Job) -> dict[str, Any]:
    """Of the images that a mix or an analysis is of; nothing for other jobs, so that they keep the keys they have."""
    cases = [] if job.harness == "peaks" else [parse(text) for text in (job.case, job.other) if text]
    try:
        if sources := [case.mix.source for case in cases if case.mix]:
            return {"shapes": [sorted(sizes.shapes(sizes.read(source).sizes).items()) for source in sources]}
        found = _photos(cases[0]) if job.harness in ANALYSES else None
    except ValueError:  # gone since; the worker says so
        return {}
    return {"images": found.stamp} if found else {}


def _own_files(case: Case) -> list[Path]:
    """What of the user's a case depends on: weights, and the package or the file that `module:Class` is in."""
    paths = [Path(str(value)).resolve() for name, value in case.options if name == "weights"]
    if ":" in case.model and not case.model.startswith("timm:"):
        spec = PathFinder.find_spec(case.model.partition(":")[0].partition(".")[0])  # imports nothing
        package = list(spec.submodule_search_locations or []) if spec else []
        paths += map(Path, package or ([spec.origin] if spec and spec.origin else []))
    # what was installed is known by its version, and may be large
    return [path for path in paths if path.exists() and "site-packages" not in path.parts]
