"""The parent's end of the worker: starts the process that measures, asks it, and ends it. No torch."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.errors import Failure
from bench.machine.devices import Device, visible
from bench.machine.provenance import ROOT
from bench.nursery import START_LIMIT_S, STARTS, Forked, Nursery
from bench.text import ending

LAST_WORDS = 1 << 16  # bytes of what models print that are kept


class WorkerLost(Exception):
    """The worker crashed or had to be killed; the message is the reason for the row."""


def caches(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Folders for what compilers keep, for a user without a name or a home that can be written: none is found else."""
    folder = Path(tempfile.gettempdir()) / f"restv2-bench-{os.getuid()}"
    try:
        getpass.getuser()
        has_name = True
    except (KeyError, OSError):  # `docker run --user` with a number that no one has
        has_name = False
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    needed = {"TORCHINDUCTOR_CACHE_DIR": not has_name, "TRITON_CACHE_DIR": not os.access(home, os.W_OK)}
    return {name: str(folder / name.lower()) for name, is_needed in needed.items() if is_needed}


def environ_of(device: Device, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process that measures on a device, which sees no other.

    Args:
        variables: for where ours says nothing of them.
    """
    return {**caches(), **(variables or {}), **os.environ, **visible(device)}


class _Killed(Failure):
    """The worker was killed by a signal before it was ready."""


class Worker:
    """The process that measures. `ask` starts it when it is not there.

    Args:
        harnesses: those whose jobs it will be asked for, so that it imports no more; none: any.
        folder: where it runs, and looks for modules first: another checkout of this repository, whose code then is
            what measures, or a user's; default: the folder that we are in, and this checkout.
        variables: of its environment, where ours says nothing of them.
        nursery: forks it, with the nursery's environment; default: it is started, and imports torch itself.
    """

    def __init__(
        self,
        device: Device,
        *harnesses: str,
        folder: Path | None = None,
        variables: Mapping[str, str] | None = None,
        nursery: Nursery | None = None,
    ) -> None:
        self._harnesses, self._folder, self._nursery = harnesses, folder, nursery
        ours, theirs = (folder, ROOT), os.environ.get("PYTHONPATH", "").split(os.pathsep)
        self._places = [str(place) for place in (*ours, *theirs) if place]
        self._environ = {**environ_of(device, variables), "PYTHONPATH": os.pathsep.join(self._places)}
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._is_ready = False
        self.modules: set[str] = set()  # of users, that it has imported
        self.import_s = 0.0  # all workers that were started, together
        self.threads: int | None = None
        self._number = 0  # of the job, which every answer to it carries

    def ask(self, job: dict[str, Any], limit_s: float, on_phase: Callable[[str], None]) -> dict[str, Any]:
        """The worker's answer to a job.

        Args:
            on_phase: is told in a few words what the worker is doing.

        Raises:
            WorkerLost: the worker died, or took more than `limit_s`; it is gone then.
            Failure: it could not even start.
        """
        if not self._is_ready:
            on_phase("starting")
        self.send(job)
        return self.answer(limit_s, on_phase)

    def send(self, job: dict[str, Any]) -> None:
        """Give the worker a job without waiting for it: `answer` does.

        Raises:
            WorkerLost: the worker died.
            Failure: it could not even start.
        """
        if not self._is_ready:
            self._start_or_again()
        self._number += 1
        self.tell(job)

    def tell(self, order: dict[str, Any]) -> None:
        """Go on with the job at hand, of a harness that takes turns.

        Raises:
            WorkerLost: the worker died.
        """
        assert self._process and self._process.stdin
        try:
            self._process.stdin.write(json.dumps({**order, "number": self._number}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerLost(self._obituary()) from None

    def answer(self, limit_s: float, on_phase: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
        """The worker's next answer to the job at hand.

        Raises:
            WorkerLost: the worker died, or took more than `limit_s`; it is gone then.
        """
        try:
            return self._reply(limit_s, on_phase)
        except EOFError:
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
        os.close(self._output)
        self._process, self._is_ready = None, False
        self.modules = set()

    def _start_or_again(self) -> None:
        """Start the worker, again where it is killed before it is ready.

        Raises:
            Failure: it ends by itself, or is killed every time.
        """
        for attempt in range(1, STARTS + 1):
            try:
                return self._start()
            except _Killed as killed:
                if attempt == STARTS:
                    raise Failure(str(killed)) from None

    def begin(self) -> None:
        """Start the process without waiting for it: two of them may import side by side.

        Where a nursery forks it, the first waits until that has imported torch.

        Raises:
            Failure: the nursery that is to fork it does not start.
        """
        self._replies, theirs = os.pipe()
        self._output, printed = (
            os.pipe()
        )  # what models print: read as it comes, and forgotten but for the end
        os.set_blocking(self._output, False)
        self._printed, self._is_heard = b"", True
        self._buffer = b""
        argv = ["bench.harness.worker", *self._harnesses]
        try:
            if self._nursery:
                self._process = self._nursery.fork(argv, self._folder, self._places, printed, theirs)
                return
            self._process = subprocess.Popen(
                [sys.executable, "-m", *argv],
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=printed,
                pass_fds=[theirs],
                env={**self._environ, "BENCH_REPLY": str(theirs)},
                cwd=self._folder,
                start_new_session=True,
            )
        except Failure:
            os.close(self._replies)
            os.close(self._output)
            raise
        finally:
            os.close(theirs)
            os.close(printed)

    def _start(self) -> None:
        if self._process is None:
            self.begin()
        try:
            ready = self._message(time.monotonic() + START_LIMIT_S)
        except (EOFError, TimeoutError) as error:
            how = self._obituary()
            killed = isinstance(error, EOFError) and how.startswith("killed by")
            raise (_Killed if killed else Failure)(f"the measuring process does not start: {how}") from None
        self._is_ready = True
        self.import_s += ready["import_s"]
        self.threads = ready["threads"]

    def _reply(self, limit_s: float, on_phase: Callable[[str], None]) -> dict[str, Any]:
        until = time.monotonic() + limit_s
        while True:
            message = self._message(until)
            if message.get("number") != self._number:  # no answer to this job
                continue
            if "phase" not in message:
                return message
            on_phase(message["phase"])

    def _message(self, until: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            wait_s = min(1.0, max(0.0, until - time.monotonic()))
            open_ends = [self._replies, self._output] if self._is_heard else [self._replies]
            heard = select.select(open_ends, [], [], wait_s)[0]
            if self._output in heard:
                self._hear()
            if self._replies not in heard:
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

    def _hear(self) -> None:
        """Take a piece of what was printed, and keep its end."""
        with contextlib.suppress(BlockingIOError):
            heard = os.read(self._output, 1 << 20)
            self._printed = (self._printed + heard)[-LAST_WORDS:]
            self._is_heard = bool(heard)  # nothing: nobody has the other end any more

    def _obituary(self) -> str:
        """The way in which the worker ended, with the last line it printed."""
        assert self._process
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            status = None
        while self._is_heard and select.select([self._output], [], [], 0)[0]:
            self._hear()
        self.kill()
        return ending(status, self._printed)
