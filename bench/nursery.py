"""The parent's end of the nursery, a process that has imported torch and forks the workers of a pair. No torch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.errors import Failure
from bench.machine.provenance import ROOT
from bench.text import ending

PROGRAM = ROOT / "bench" / "harness" / "nursery.py"
MOST = 1 << 16  # bytes of an answer
START_LIMIT_S = 180  # importing torch from a cold disk
STARTS = 3  # attempts: somebody, or the kernel, may kill a process while it imports
NAP_S = 0.002  # between two looks at whether a process has ended


class Forked:
    """A process that a nursery forked, with what `subprocess.Popen` has that is asked of it here."""

    def __init__(self, nursery: Nursery, pid: int, stdin: int) -> None:
        self.pid, self.stdin = pid, os.fdopen(stdin, "wb")
        self._nursery = nursery
        self._status: int | None = None

    def poll(self) -> int | None:
        """How it ended: its exit status, or minus the signal that killed it; None while it runs."""
        if self._status is None:
            self._status = self._nursery.status(self.pid)
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """How it ended, when it has.

        Raises:
            subprocess.TimeoutExpired: it still runs after so many seconds.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(PROGRAM.name, timeout or 0.0)
            time.sleep(NAP_S)
        return status


class _Gone(Exception):
    """The nursery answers no more: its exit status, and what it printed."""


class Nursery:
    """Forks processes that need not import torch. On Linux only.

    Each runs as one that is started, but for what it has of the nursery's: the addresses of libraries, the seed of
    hashes, and an exit without `atexit`. Its heap begins at a place of its own. What the addresses of libraries do to
    one revision and not to the other is the same in all that one nursery forks: no interval over restarts has it.

    Args:
        environ: of the process and of all that it forks.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, where it is not there, without waiting for its import."""
        if self._process:
            return
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.settimeout(START_LIMIT_S)
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 (`_put_away` closes it)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM), str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
                pass_fds=[theirs.fileno()],
                env=self._environ,
                start_new_session=True,
            )

    def fork(
        self, argv: Sequence[str], cwd: Path | None, places: Sequence[str], output: int, replies: int
    ) -> Forked:
        """A new process: `python -m` of a module with arguments. The first waits until the nursery has imported torch.

        Args:
            cwd: the folder that it runs in; None is that of the nursery.
            places: folders to import from before all others, which its PYTHONPATH names.
            output: an open file that it prints to.
            replies: an open file that it knows by BENCH_REPLY.

        Raises:
            Failure: there is no nursery: it hangs, ends by itself, or is killed every time.
        """
        order = {"argv": list(argv), "cwd": str(cwd) if cwd else None, "places": list(places)}
        status, printed = 0, b""
        for _ in range(STARTS):
            given, stdin = os.pipe()
            self.start()
            try:
                pid = self._answer(order, (given, output, replies))
                assert pid
                return Forked(self, pid, os.dup(stdin))
            except _Gone as gone:
                status, printed = gone.args
                if status >= 0:  # nobody killed it
                    break
            finally:
                os.close(given)
                os.close(stdin)
        raise Failure(f"the measuring process does not start: {ending(status, printed)}")

    def status(self, pid: int) -> int | None:
        """How a process that it forked ended; None while it runs. None outlives the nursery."""
        try:
            return self._answer(pid) if self._process else -signal.SIGKILL
        except _Gone:
            return -signal.SIGKILL

    def end(self) -> None:
        """End it, and all that it forked."""
        if self._process:
            self._process.kill()
            self._put_away()

    def _answer(self, message: object, files: Sequence[int] = ()) -> int | None:
        """Its answer to a message. Where none comes it is put away, so that none can come later.

        Raises:
            _Gone: it was gone.
            Failure: it hangs.
        """
        said = b""
        try:
            socket.send_fds(self._line, [json.dumps(message).encode()], files)
            said = self._line.recv(MOST)
        except ConnectionError:
            pass
        except BaseException as error:  # Ctrl-C among them
            self.end()
            if isinstance(error, TimeoutError):
                raise Failure(
                    f"the process that has imported torch gives no answer in {START_LIMIT_S} s"
                ) from None
            raise
        if not said:
            raise _Gone(*self._put_away())
        answer: int | None = json.loads(said)
        return answer

    def _put_away(self) -> tuple[int, bytes]:
        """Its exit status, or minus the signal that killed it, and what it printed."""
        assert self._process
        status = self._process.wait()
        self._process = None
        self._line.close()
        with self._printed as file:
            file.seek(0)
            return status, file.read()
