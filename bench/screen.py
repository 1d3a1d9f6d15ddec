"""A run as a person sees it: one live line on a terminal, one line a finished case elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.describe import failure
from bench.jobs import HARNESSES, Job
from bench.record import Row
from bench.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress


class Screen:
    """A run on a terminal, on standard error: standard output is the result's alone."""

    def __init__(self, *, announce: bool = True) -> None:
        """
        Args:
            announce: print a line for each row as it is there; not for a command that prints its rows itself.
        """
        from rich.console import Console  # not above: most commands need none

        # markup off: `restv2_tiny[mhim]` is a case, not a style
        self._console = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)
        self._announce = announce
        self._progress: Progress | None = None
        self._left: list[float] = []
        self._began = time.monotonic()
        self._expected_done = 0.0

    def say(self, text: str | None) -> None:
        """Print a line that stays."""
        if text:
            self._console.print(printable(text))

    @contextmanager
    def live(self, expected_s: Iterable[float]) -> Iterator[None]:
        """Show progress over jobs that are expected to take so many seconds, one after the other."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        self._left = list(expected_s)
        if not self._left:
            yield
            return
        self.say(f"{len(self._left)} rows to measure, about {_span(sum(self._left))}")
        self._began, self._expected_done = time.monotonic(), 0.0
        self._progress = Progress(
            SpinnerColumn(),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=len(self._left), left="")
        with self._progress:
            yield
        self._progress = None

    def expect(self, left_s: Iterable[float]) -> None:
        """Correct what the jobs that are left are expected to take."""
        left = list(left_s)
        if self._expected_done and len(left) and abs(sum(left) / (sum(self._left) or 1) - 1) > 0.5:
            self.say(f"{len(left)} rows left, about {_span(sum(left))}")
        self._left = left
        self._began, self._expected_done = time.monotonic(), 0.0

    def skip(self) -> None:
        """A job is left out."""
        self._left.pop(0)
        if self._progress:
            self._progress.update(self._task, advance=1, left=self._time_left())

    def start(self, job: Job) -> None:
        """A job begins."""
        self._job = job

    def phase(self, text: str) -> None:
        """Show what the worker does for the job."""
        if self._progress:
            description = printable(f"{self._job.harness} {self._job.text}: {text}")
            self._progress.update(self._task, description=description, left=self._time_left())

    def done(self, job: Job, row: Row) -> None:
        """A job ends, with its row."""
        self._expected_done += self._left.pop(0)
        if self._progress:
            self._progress.update(self._task, advance=1, left=self._time_left())
        is_last = job.visit == job.visits - 1
        is_told = is_last and HARNESSES[job.harness].is_announced
        if self._announce and (is_told or row["outcome"] != "ok"):
            self.say(describe(row))

    def _time_left(self) -> str:
        """The time that the jobs left may take, corrected by how long the done ones took."""
        pace = (time.monotonic() - self._began) / self._expected_done if self._expected_done > 5 else 1.0
        return f"{_span(pace * sum(self._left))} left"


def describe(row: Row) -> str:
    """A row in one line: its harness's words, or why there is no result. Nothing in it acts on a terminal."""
    return printable(HARNESSES[row["harness"]].describe(row) if row["outcome"] == "ok" else failure(row))


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
