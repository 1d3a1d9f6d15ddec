"""Runs for tests: jobs with few samples, and a screen that remembers what was said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import kept
from bench.cases import parse
from bench.errors import UsageError
from bench.jobs import Job, job_of
from bench.machine import devices
from bench.protocols import Rules
from bench.record import Row
from bench.runner import Runner, Summary
from bench.screen import Screen

RULES = Rules("tiny", 1, 0.0, 0.0, 6, None, 0.02, limit_s=120)


class Heard(Screen):
    """Says nothing, remembers what was said and done."""

    def __init__(self) -> None:
        super().__init__(announce=False)
        self.said: list[str] = []
        self.rows: list[Row] = []
        self.expected: list[float] = []

    def say(self, text: str | None) -> None:
        if text:
            self.said.append(text)

    def live(self, expected_s):
        self.expected = list(expected_s)
        return super().live(self.expected)

    def done(self, job, row):
        self.rows.append(row)
        super().done(job, row)


def count_here(patch: pytest.MonkeyPatch) -> None:
    """Has the command line count in this process: a worker would first import torch."""
    from bench.harness import macs
    from bench.harness.prepare import Spent

    def here(job, device):
        try:
            return getattr(macs, job.harness)(job.cases, job.rules, lambda phase: None, Spent())
        except ValueError as error:
            raise UsageError(str(error)) from None

    patch.setattr(sys.modules["bench.__main__"], "ask", here)
    patch.setenv(kept.FOLDER, "")


def throughput(text: str, rules: Rules = RULES) -> Job:
    return job_of("throughput", devices.cpu_device(), rules, parse(text), study="a study")


def run(folder: Path, jobs: list[Job], *, fresh: bool = False) -> tuple[Summary, Heard]:
    heard = Heard()
    return Runner(devices.cpu_device(), folder, heard).run(jobs, "tiny", fresh=fresh), heard
