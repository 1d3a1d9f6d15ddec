"""Results files: one measurement a line, appended durably, read back forgivingly. No torch.

A row is a JSON object:

    schema       1
    key          what must be equal for the row to stand for a new measurement (see `key_of`)
    visit        of a case that is measured several times, each in a process of its own: the number, from 0
    group        the key without the visit: what the visits to one case have in common (see `bench/visits.py`)
    shard        which of how many, "2/7", where a shard of a run measured it: it stands for its device's type
    turn         of a visit: its round, the seed that shuffled it, its place there, the bounds of its warm-up
    harness      throughput | latency | profile | compare | turns | calibrated | macs | peaks | fourier | cka
    study        the study that asked first, or null; of `turns` and `calibrated` the name of their file
    case         the case's text as it was asked for, with the machine's batch and dtype filled in
    outcome      ok | failed | refused: the device or the stack does not run such a case
    reason       why not ok, one line, or null
    notes        lines a reader must see ("out of memory at batch 64: measured at 32")
    when         UTC, ISO 8601, at the end of the measurement
    protocol     name and settings
    device       kind, name, uuid, memory, MIG slice, profile …
    environment  host, versions, source (commit, dirty, hash), variables that may change a time, threads, loaded
                 (versions of libraries, as the worker loaded them), slurm
                 (job, array, task, node, partition, cluster, and whether the node is shared; null outside)
    readings     before, during, after: clocks, temperature, throttling, other processes, load; `during` is what a watch
                 (bench/machine/watch.py) saw while samples were taken, null where nothing was timed
    spent        seconds by what they went to: build, forward, all
    result       the harness's own; raw samples, never a statistic of them

The result of a timed case has the check that it passed, and `kernels`: ours that it runs, and in how many modules
each; an older row does not say. The result of `macs` has parameters, MACs by convention and operator, cross-checks,
and `traffic`: whose it is, and by class of operator what bench/traffic.py names. Older rows have no `traffic`; null is
a plan that could not be made. That of `turns` has `revisions`, the commits whose turns they are, new and old; null in
an A/A run. That of `calibrated` has one, and `rounds` of seconds: of the case, a matrix product and a copy.

A line that this module wrote begins with the field `sum`, the first half of the SHA-256 of the bytes behind it, which
reading checks and takes off. A row without one was written by other hands, or before there was a sum: it is shown, and
never stands for a measurement that is asked for again.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from bench.errors import Failure
from bench.machine.lock import exclusively

SCHEMA = 1
AT_ONCE = 1 << 18  # bytes of a file that are looked at together
Row = dict[str, Any]
_SEALED = re.compile(rb'\{"sum":"([0-9a-f]{32})",')
# Digits alike, and alike what stands before a number.
_ALIKE = bytes.maketrans(b"123456789:[-", b"000000000,,,")
_LARGE = b"," + 19 * b"0", b"0e+"  # numbers from 1e18 on, as JSON is written here


@dataclass
class Rows:
    """The rows of a results folder, and what in it could not be read."""

    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    sealed: list[Row] = field(
        default_factory=list, compare=False
    )  # those of `rows` whose sum was there, and right
    plain: set[int] = field(default_factory=set, compare=False)
    """Ids of rows whose text is printable and whose numbers are finite, and below 1e18, as their lines told."""

    def ok(self, harness: str) -> list[Row]:
        """The rows of a harness that have a result."""
        return [row for row in self.rows if row["harness"] == harness and row["outcome"] == "ok"]


def key_of(**parts: Any) -> str:
    """A short name for everything that must be the same for a row to be used again."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def read(folder: Path) -> Rows:
    """Every readable row of a folder, or of one file, oldest first; a broken line is a problem, not an error."""
    rows = Rows()
    files: list[list[Row]] = []
    for path in [folder] if folder.is_file() else sorted(folder.glob("*.jsonl")):
        files.append([])
        for number, (line, is_plain) in enumerate(_lines(path), 1):
            if not line.strip():
                continue
            try:
                seal = _SEALED.match(line)
                row, is_json = _decoded(line)
                if seal and seal[1] != _sum(line[seal.end() :]):
                    raise ValueError("its sum is not that of its content: it was damaged, or edited")
                if seal:
                    del row["sum"]
                elif "sum" in row or re.fullmatch("[0-9a-f]{32}", str(next(iter(row.values()), ""))):
                    raise ValueError("its sum is damaged")
                if row["schema"] != SCHEMA:
                    raise ValueError(f"schema {row['schema']}, not {SCHEMA}")
                for name in ("key", "harness", "case", "outcome"):
                    if not isinstance(row[name], str):
                        raise ValueError(f"its {name} is no text")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                what = "not JSON" if isinstance(error, json.JSONDecodeError) else f"not a row ({error})"
                rows.problems.append(f"{path.name} line {number}: {what}, passed over")
            else:
                files[-1].append(row)
                if seal:
                    rows.sealed.append(row)
                    if is_json and (is_plain or _is_plain(line)):
                        rows.plain.add(id(row))
    rows.rows = _in_order(files)
    return rows


def _lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Every line of a file, and whether it is known to be plain, as most are: its neighbours then are too.

    One look at many lines is quicker than one at each, as long as they stay in the processor's cache.

    Raises:
        Failure: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            while lines := file.readlines(AT_ONCE):
                is_plain = _is_plain(b"".join(lines))
                for line in lines:
                    yield line.rstrip(b"\r\n").removeprefix(codecs.BOM_UTF8), is_plain
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}") from None


def _decoded(line: bytes) -> tuple[Any, bool]:
    """The value of a line, and whether it is strictly JSON: Python also takes NaN and half of a surrogate pair.

    Raises:
        ValueError, RecursionError: it is none to Python either.
    """
    try:
        return orjson.loads(line), True
    except orjson.JSONDecodeError:
        return json.loads(line), False


def _is_plain(lines: bytes) -> bool:
    """Whether lines of JSON that were written here have nothing for which a report would look value by value."""
    if not lines.isascii() or b"\\" in lines or b"\x7f" in lines:
        return False
    alike = lines.translate(_ALIKE)  # far faster than a regular expression
    return not any(large in alike for large in _LARGE)


def _in_order(files: list[list[Row]]) -> list[Row]:
    """The rows of all files, oldest first. Within a file its lines' order decides, whatever the clock said.

    A clock that was set back would else make an older line of the same file the newer one. Between files there is
    nothing but the clock: a row counts as no older than those above it.
    """
    dated: list[tuple[str, Row]] = []
    for lines in files:
        moment = ""
        for row in lines:
            when = row.get("when")
            moment = max(moment, when) if isinstance(when, str) else moment
            dated.append((moment, row))
    return [row for _, row in sorted(dated, key=lambda pair: pair[0])]


def line_of(row: Row) -> bytes:
    """A row as a line of a file, with the sum of what it holds."""
    content = json.dumps(row, separators=(",", ":")).encode()[1:]
    return b'{"sum":"' + _sum(content) + b'",' + content + b"\n"


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:32].encode()


# What a good row of each harness has in its result, at the least.
NEEDED = {
    "throughput": ("samples_s", "batch", "statistic"),
    "latency": ("samples_s", "batch", "statistic"),
    "profile": ("samples_s", "batch", "statistic", "profiled_s", "lines"),
    "compare": ("blocks", "batch", "a", "b"),
    "macs": ("parameters", "conventions"),
    "turns": ("blocks",),
    "calibrated": ("rounds",),
    "peaks": ("tflops", "bandwidth_gb_s"),
    "fourier": ("blocks", "frequencies", "log_amplitude"),
    "cka": ("blocks", "cka"),
}
_TIMES = ("samples_s", "profiled_s", "blocks", "rounds")  # seconds: none is empty, and each is above 0


def damage(harness: str, result: Any) -> str | None:
    """The damage to a result, in a few words; None if it can stand for a measurement."""
    if not isinstance(result, dict) or not result:
        return "no result"
    if missing := [name for name in NEEDED.get(harness, ()) if name not in result]:
        return f"a result without {missing[0]}"
    if not all(map(math.isfinite, _numbers(result))):
        return "a result with a number that is not finite"
    for name in _TIMES:
        if name in NEEDED.get(harness, ()) and harness not in ("fourier", "cka"):
            seconds = list(_numbers(result[name]))
            if not seconds or min(seconds) <= 0:
                return f"{name} that are no times"
    return None


def _numbers(value: Any) -> Iterator[float]:
    """Every number in a JSON value, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def newest(rows: list[Row]) -> dict[str, Row]:
    """The last row of each key, oldest first: a case that failed and was run again counts once."""
    last: dict[str, Row] = {}
    for row in rows:
        last.pop(row["key"], None)
        last[row["key"]] = row
    return last


class ResultsFile:
    """The one writer of a results file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside: str | None = None
        self.noticed: str | None = None  # what another program did to the file, and what became of it
        self._lines: list[bytes] = []  # of this run
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
        except OSError as error:
            raise Failure(f"cannot write {path}: {error.strerror}") from None

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)

    @contextmanager
    def locked(self, wait: Callable[[str], None] | None = None) -> Iterator[ResultsFile]:
        """Hold the file for this process alone, and mend a line that a killed run left half written.

        It is the file itself that is locked, open for writing, because network file systems lock nothing else; one that
        has no locks is written without.

        Args:
            wait: where another run holds it, is told so, and that run's end is waited for.

        Raises:
            Failure: another run holds it and is not waited for, that line cannot be moved, or the rows of this run
                cannot be put back where another program took them out.
        """
        try:
            exclusively(self._file, f"another run is measuring into {self.path}", wait)
        except Failure:
            os.close(self._file)
            raise
        except OSError as error:
            self.noticed = f"{self.path} cannot be locked ({error.strerror}): start no second run into it"
        try:
            self._set_torn_line_aside()
            yield self
            if not self._is_as_it_was_left():
                self._put_back()
        finally:
            os.close(self._file)

    def append(self, row: Row) -> None:
        """Append a row so that it survives a kill and a power cut from then on.

        Where another program has rewritten or replaced the file meanwhile, every row of this run that is no longer in
        it is put back first, and `noticed` says so.

        Raises:
            Failure: the disk is full or refuses; the file then ends with the last whole row.
        """
        if not self._is_as_it_was_left():
            self._put_back()
        line = line_of(row)
        self._write(line)
        self._lines.append(line)

    def _write(self, lines: bytes) -> None:
        end = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, lines)
            if written < len(lines):  # a disk that fills up takes the part that fits
                raise OSError(28, "No space left on device")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, end)
            raise Failure(f"cannot write {self.path}: {error.strerror}; every earlier row is kept") from None

    def _is_as_it_was_left(self) -> bool:
        """Whether the path still names the open file, and this ends with the last row of this run."""
        ours = os.fstat(self._file)
        try:
            there = os.stat(self.path)
        except OSError:
            return False
        if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
            return False
        last = self._lines[-1] if self._lines else b""
        return not last or os.pread(self._file, len(last), max(0, ours.st_size - len(last))) == last

    def _put_back(self) -> None:
        """Go over to the file that is there now, and append what of this run is missing in it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self._open()
        except OSError as error:
            raise Failure(f"cannot write {self.path}: {error.strerror}") from None
        os.close(self._file)
        self._file = file
        with contextlib.suppress(OSError):  # whoever has it, these rows must not be lost
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        content = self.path.read_bytes()
        there = set(content.splitlines(keepends=True))
        missing = [line for line in self._lines if line not in there]
        if content and not content.endswith(b"\n"):
            missing.insert(0, b"\n")
        if missing:
            self._write(b"".join(missing))
        self.noticed = (
            f"another program changed {self.path}: {len([m for m in missing if m.strip()])} of the rows of this run"
            " were missing there and were put back"
        )

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
