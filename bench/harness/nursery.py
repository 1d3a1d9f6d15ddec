"""The process that forks those that measure: `python -P nursery.py FD`, started by `bench/nursery.py` alone.

It has imported torch, which takes most of a start, and nothing of ours: what it forks becomes the worker of whatever
revision it is told. Each message on its socket is answered by one: an order with three open files, of the new process's
input, output and replies, by its number; a number, by how that process ended, or null while it lives.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import runpy
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

gc.disable()  # as in the worker: hardly anything that is imported is garbage

import torch  # noqa: E402, F401 (what it is all about)

gc.freeze()
gc.enable()

MOST = 1 << 16  # bytes of a message


def die_with_parent() -> None:
    """Have the kernel end this process with its parent."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def become(order: Mapping[str, Any], files: Sequence[int]) -> int:
    """Be `python -m MODULE ARGUMENT…` in a folder, with variables besides; the exit status.

    Args:
        order: its `argv`, `cwd` (None for that of the nursery), and the `places` of its PYTHONPATH.
        files: its input, its output, and where it replies, which BENCH_REPLY tells it.
    """
    given, printed, replies = files
    os.dup2(given, 0)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.close(given)
    os.close(printed)
    os.environ |= {"BENCH_REPLY": str(replies), "PYTHONPATH": os.pathsep.join(order["places"])}
    if order["cwd"]:
        os.chdir(order["cwd"])
    sys.path[:0] = [os.getcwd(), *order["places"]]
    module, *sys.argv[1:] = order["argv"]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def forked(order: Mapping[str, Any], files: Sequence[int], line: socket.socket) -> int:
    """The number of a new process, which leads a group, so that it is ended with all that it starts."""
    if child := os.fork():
        os.setpgid(child, child)  # by both: neither may go on before it is done
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        line.close()
        die_with_parent()
        status = become(order, files)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)  # nothing of the nursery's is for it to end


def ended(pid: int) -> int | None:
    """How a process ended, None while it lives; one of an earlier nursery was killed with that."""
    try:
        number, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return -signal.SIGKILL
    return os.waitstatus_to_exitcode(status) if number else None


def main() -> None:
    """Fork until whoever asks is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to handle
    die_with_parent()
    line = socket.socket(fileno=int(sys.argv[1]))
    while True:
        said, files, _, _ = socket.recv_fds(line, MOST, 3)
        if not said:
            return
        asked = json.loads(said)
        if isinstance(asked, dict):
            answer: int | None = forked(asked, files, line)
            for file in files:
                os.close(file)
        else:
            answer = ended(asked)
        line.sendall(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
