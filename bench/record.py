"""Results files: one measurement a line, appended durably, read back forgivingly. No torch.

A row is a JSON object:

    schema       1
    key          what must be equal for the row to stand for a new measurement (see `key_of`)
    visit        of a case that is measured several times, each in a process of its own: the number, from 0
    group        the key without the visit: what the visits to one case have in common (see `bench/visits.py`)
    turn         of a visit: the seed by which its round was shuffled, and its place in the round
    harness      throughput | latency | compare | macs | peaks | fourier | cka
    study        the study that asked first, or null
    case         the case's text as it was asked for, with the machine's batch and dtype filled in
    outcome      ok | failed | refused: the device or the stack does not run such a case
    reason       why not ok, one line, or null
    notes        lines a reader must see ("out of memory at batch 64: measured at 32")
    when         UTC, ISO 8601, at the end of the measurement
    protocol     name and settings
    device       kind, name, uuid, memory, MIG slice, profile …
    environment  host, versions, source (commit, dirty, hash), threads
    readings     before, after: clocks, temperature, throttling, other processes, host's load
    spent        seconds by what they went to: build, forward, all
    result       the harness's own; raw samples, never a statistic of them
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import Failure

SCHEMA = 1
Row = dict[str, Any]


@dataclass
class Rows:
    """The rows of a results folder, and what in it could not be read."""

    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def ok(self, harness: str) -> list[Row]:
        """The rows of a harness that have a result."""
        return [row for row in self.rows if row["harness"] == harness and row["outcome"] == "ok"]


def key_of(**parts: Any) -> str:
    """A short name for everything that must be the same for a row to be used again."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def read(folder: Path) -> Rows:
    """Every readable row of a folder, oldest line of a file first; a broken line is a problem, not an error."""
    rows = Rows()
    for path in sorted(folder.glob("*.jsonl")):
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise Failure(f"cannot read {path}: {error.strerror}") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if row["schema"] != SCHEMA:
                    raise ValueError(f"schema {row['schema']}, not {SCHEMA}")
                for name in ("key", "harness", "case", "outcome"):
                    if not isinstance(row[name], str):
                        raise ValueError(f"its {name} is no text")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                what = "not JSON" if isinstance(error, json.JSONDecodeError) else f"not a row ({error})"
                rows.problems.append(f"{path.name} line {number}: {what}, passed over")
            else:
                rows.rows.append(row)
    return rows


def newest(rows: list[Row]) -> dict[str, Row]:
    """The last row of each key: a case that failed and was run again counts once."""
    return {row["key"]: row for row in rows}


class ResultsFile:
    """The one writer of a results file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside: str | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise Failure(f"cannot write {path}: {error.strerror}") from None

    @contextmanager
    def locked(self) -> Iterator[ResultsFile]:
        """Hold the file's folder for this process alone, and mend a line that a killed run left half written.

        It is the folder that is held, because two runs on one device would disturb each other whatever files they
        write.

        Raises:
            Failure: another run holds it, or that line cannot be moved.
        """
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(folder)
            os.close(self._file)
            raise Failure(
                f"another run is measuring into {self.path.parent}; wait for it, or end it"
            ) from None
        try:
            self._set_torn_line_aside()
            yield self
        finally:
            os.close(self._file)
            os.close(folder)

    def append(self, row: Row) -> None:
        """Append a row so that it survives a kill and a power cut from then on.

        Raises:
            Failure: the disk is full or refuses; the file then ends with the last whole row.
        """
        line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        end = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
            if written < len(line):  # a disk that fills up takes the part that fits
                raise OSError(28, "No space left on device")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, end)
            raise Failure(f"cannot write {self.path}: {error.strerror}; every earlier row is kept") from None

    def _set_torn_line_aside(self) -> None:
        content = self.path.read_bytes()
        if not content or content.endswith(b"\n"):
            return
        start = content.rfind(b"\n") + 1
        torn = self.path.with_suffix(".torn")
        try:
            with torn.open("ab") as file:
                file.write(content[start:] + b"\n")
        except OSError as error:
            raise Failure(f"cannot write {torn}: {error.strerror}; {self.path.name} is as it was") from None
        os.ftruncate(self._file, start)
        self.set_aside = (
            f"{self.path.name} ended in half a line (a run was killed there); moved to {torn.name}"
        )
