"""The parent's end of the worker: starts the process that measures, asks it, and ends it. No torch."""

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
from collections.abc import Callable
from typing import Any

from bench.errors import Failure
from bench.machine.devices import Device, visible
from bench.machine.provenance import ROOT

START_LIMIT_S = 180  # importing torch from a cold disk


class WorkerLost(Exception):
    """The worker crashed or had to be killed; the message is the reason for the row."""


class Worker:
    """The process that measures. `ask` starts it when it is not there."""

    def __init__(self, device: Device) -> None:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._environ = {**os.environ, **visible(device), "PYTHONPATH": path}
        self._process: subprocess.Popen[bytes] | None = None
        self.import_s = 0.0  # all workers that were started, together
        self.threads: int | None = None

    def ask(self, job: dict[str, Any], limit_s: float, on_phase: Callable[[str], None]) -> dict[str, Any]:
        """The worker's answer to a job.

        Args:
            on_phase: is told in a few words what the worker is doing.

        Raises:
            WorkerLost: the worker died, or took more than `limit_s`; it is gone then.
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
        """End the worker and what it started, at once."""
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
            [sys.executable, "-m", "bench.harness.worker"],
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
        """How the worker ended, with the last line it printed."""
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
