"""The progress of runs and of their shards, from files alone: what each has to do, and what of it is done. No torch.

A run writes `progress/<its results file>.json` when it begins, touches it at each row, and says in it when it has
ended. What is done stands in the rows, and nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bench import record, visits
from bench.errors import Failure
from bench.jobs import Job
from bench.machine.provenance import text_of
from bench.record import Row
from bench.shard import Shard, parse

FOLDER = "progress"
PATIENCE_S = 60.0  # besides a row's limit: to start a process, and for clocks of two machines that differ
Turns = Mapping[str, tuple[str, float]]  # by key: the group, and the seconds that the row may take


class Announcement:
    """The file by which a run tells others of itself."""

    def __init__(
        self, results: Path, study: str, shard: Shard, asked: str, turns: Turns, limit_s: float
    ) -> None:
        """
        Args:
            results: the file of its rows.
            asked: the digest of its jobs.
            turns: all that it has to do, what is there already included.
            limit_s: the longest that a row may take before it is given up.
        """
        self._path = results.parent / FOLDER / f"{results.stem}.json"
        self._content = {
            "study": study,
            "shard": str(shard),
            "asked": asked,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "silent_s": limit_s + PATIENCE_S,
            "ended": False,
            "turns": turns,
        }

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Say that the run goes on, and at the end that it does no more, however it ends.

        Raises:
            Failure: it cannot be written.
        """
        self._write()
        try:
            yield
        finally:
            self._content["ended"] = True
            with contextlib.suppress(Failure):  # what ended the run, such as a full disk, has been said
                self._write()

    def touch(self) -> None:
        """Show a sign of life."""
        with contextlib.suppress(OSError):  # somebody cleared it away, and the rows are what counts
            os.utime(self._path)

    def _write(self) -> None:
        try:
            self._path.parent.mkdir(exist_ok=True)
            file, name = tempfile.mkstemp(prefix=f".{self._path.name}-", dir=self._path.parent)
            with os.fdopen(file, "w", encoding="utf-8") as writing:
                json.dump(self._content, writing)
            os.chmod(name, 0o644)
            os.replace(name, self._path)
        except OSError as error:
            raise Failure(f"cannot write {self._path}: {error.strerror}") from None


State = Literal["done", "running", "stopped", "not begun"]


@dataclass(frozen=True)
class Progress:
    """The progress of a shard, in rows; of one that has not begun only the time is known, and that by the others'."""

    device: str  # the results' folder
    study: str
    shard: Shard
    state: State
    done: int = 0
    failed: int = 0  # with the visits that are not made because the first failed
    refused: int = 0
    left: int = 0
    left_s: float = 0.0
    silent_s: float | None = None  # since the last sign of life
    asked: str | None = None  # the digest of its jobs

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return {**vars(self), "shard": str(self.shard)}


def digest(jobs: Iterable[tuple[Job, str]]) -> str:
    """A short name for jobs, each with the hash of its sources: the same wherever the same checkout asks for them."""
    return record.key_of(asked=[(job.harness, job.text, source, job.rules.as_dict()) for job, source in jobs])


def find(root: Path) -> list[Progress]:
    """The progress of each study's last run under results/, and of all its shards.

    Raises:
        Failure: a folder cannot be read.
    """
    found: list[Progress] = []
    if root.exists() and not root.is_dir():
        raise Failure(f"{root} is no folder")
    for folder in sorted({path.parent.parent for path in root.glob(f"*/{FOLDER}/*.json")}):
        announced = list(_announced(folder))
        if announced:
            rows = record.read(folder).rows
            found += _of_folder(folder.name, announced, rows)
    return found


def _announced(folder: Path) -> Iterator[tuple[dict[str, Any], float]]:
    """Reports of runs on themselves, with the time of the last; none from a file that is damaged."""
    for path in sorted((folder / FOLDER).glob("*.json")):
        with contextlib.suppress(
            *(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, Failure)
        ):
            content = json.loads(path.read_bytes())
            for name, types in FIELDS.items():
                if not isinstance(content[name], types):
                    raise TypeError(f"its {name} is of another type")
            turns = {key: (str(group), float(s)) for key, (group, s) in content["turns"].items()}
            if not all(0 <= seconds < math.inf for _, seconds in turns.values()):
                raise ValueError("a time that is none")
            fields = {name: content[name] for name in FIELDS}
            yield {**fields, "shard": parse(content["shard"]), "turns": turns}, path.stat().st_mtime


# What a run tells of itself, with its type.
FIELDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("study", "shard", "asked", "host"), str),
    **{"process": int, "silent_s": (int, float), "ended": bool, "turns": dict},
}


def _of_folder(
    device: str, announced: Sequence[tuple[dict[str, Any], float]], rows: Iterable[Row]
) -> Iterator[Progress]:
    newest = record.newest(list(rows))
    outcomes = {key: row["outcome"] for key, row in newest.items()}
    of_groups: dict[str, set[str]] = {}
    for row in newest.values():
        of_groups.setdefault(visits.group_of(row), set()).add(row["outcome"])
    last: dict[str, tuple[float, int]] = {}  # of each study: when, and in how many shards, it was last run
    for content, when in announced:
        last[content["study"]] = max(last.get(content["study"], (0.0, 0)), (when, content["shard"].count))
    for study, (_, count) in sorted(last.items()):
        shards = {
            content["shard"].number: (content, when)
            for content, when in announced
            if content["study"] == study and content["shard"].count == count
        }
        begun = {
            number: _of_shard(device, content, when, outcomes, of_groups)
            for number, (content, when) in shards.items()
        }
        whole_s = [sum(seconds for _, seconds in content["turns"].values()) for content, _ in shards.values()]
        absent = Progress(device, study, Shard(1, count), "not begun", left_s=sum(whole_s) / len(whole_s))
        for number in range(1, count + 1):
            yield begun.get(number) or replace(absent, shard=Shard(number, count))


def _of_shard(
    device: str,
    content: dict[str, Any],
    when: float,
    outcomes: Mapping[str, str],
    of_groups: Mapping[str, set[str]],
) -> Progress:
    counts = {"ok": 0, "failed": 0, "refused": 0, "left": 0}
    left_s = 0.0
    for key, (group, seconds) in content["turns"].items():
        outcome = outcomes.get(key)
        siblings = of_groups.get(group, set())
        if outcome is None and siblings and "ok" not in siblings:
            outcome = min(siblings)  # what failed, or was refused, at the first visit is not visited again
        if outcome not in counts:
            left_s += seconds
        counts[outcome if outcome in counts else "left"] += 1  # a row of another version's outcome is none
    silent_s = max(0.0, time.time() - when)
    state: State = "running" if _is_alive(content, silent_s) else "stopped" if counts["left"] else "done"
    return Progress(
        *(device, content["study"], content["shard"], state),
        *(counts["ok"], counts["failed"], counts["refused"], counts["left"]),
        *(left_s, silent_s, content["asked"]),
    )


def _is_alive(content: dict[str, Any], silent_s: float) -> bool:
    """Whether a run goes on: it has not said its end, is not known to be gone, and was not silent for too long."""
    if content["ended"] or silent_s > content["silent_s"]:
        return False
    here = content["host"] == socket.gethostname()
    command = text_of(
        Path(f"/proc/{content['process']}/cmdline")
    )  # of a process that nobody waited for: empty
    return not here or not Path("/proc/self").exists() or bool(command)


# ---- in words


def lines(found: Sequence[Progress]) -> Iterator[str]:
    """A line a shard, then one on each device's study where it has several."""
    for (device, study), shards in _by_run(found).items():
        for one in shards:
            name = f"{device}  {study}" + ("" if one.shard.is_whole else f"  {one.shard}")
            yield f"{name}: {_in_words(one)}"
        if len(shards) > 1:
            states = [one.state for one in shards]
            told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
            done, failed = (sum(getattr(one, part) for one in shards) for part in ("done", "failed"))
            left_s = max(one.left_s for one in shards)
            yield (
                f"{device}  {study}: of {len(shards)} shards {told}; {done} rows done, {failed} failed, "
                f"{span(left_s)} left if all run at once"
            )


def _by_run(found: Sequence[Progress]) -> dict[tuple[str, str], list[Progress]]:
    runs: dict[tuple[str, str], list[Progress]] = {}
    for one in found:
        runs.setdefault((one.device, one.study), []).append(one)
    return runs


def _in_words(one: Progress) -> str:
    if one.state == "not begun":
        return f"not begun, {span(one.left_s)} or so"
    whole = one.done + one.failed + one.refused + one.left
    parts = [one.state, f"{one.done} of {whole} rows done"]
    parts += [
        f"{count} {what}"
        for count, what in ((one.failed, "failed"), (one.refused, "not to be had here"))
        if count
    ]
    if one.left:
        parts.append(f"{span(one.left_s)} left")
    if one.state == "running":
        parts.append(f"last sign {span(one.silent_s or 0.0)} ago")
    return ", ".join(parts)


def span(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
