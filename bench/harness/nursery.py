"""The process that forks those that measure: `python -P nursery.py FD PARENT`, started by `bench/nursery.py` alone.

It has imported torch, which takes most of a start, and nothing of ours: what it forks becomes the worker of whatever
revision it is told. An order comes on its socket with three open files, the new process's input, output and replies,
and is answered with that process's pid; a pid is answered with how that process ended, or null while it runs.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import runpy
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

MOST = 1 << 16  # bytes of a message
LIBC = ctypes.CDLL(None)
LIBC.malloc.argtypes, LIBC.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
kept: list[object] = []  # what a process's own memory lies behind


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process with its parent, whose pid was this one."""
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


die_with_parent(int(sys.argv[2]))  # at once: importing may hang
gc.disable()  # as in the worker: hardly anything that is imported is garbage

import torch  # noqa: E402, F401 (what it is all about)

gc.freeze()
gc.enable()


def begin_elsewhere() -> None:
    """Move what this process will allocate, small objects and tensors of less than 32 MiB, by as much as chance says.

    Equal code is faster or slower by where its data lie. Of two revisions that were forked from one process each would
    have its own places, the same in every restart, which no restart would tell from the code.
    """
    chance = random.SystemRandom()
    kept.append([bytes(chance.randrange(1, 400)) for _ in range(chance.randrange(1 << 14))])
    LIBC.malloc(16 * chance.randrange(1 << 16))  # of the heap, a MiB at the most


def become(order: Mapping[str, Any], files: Sequence[int]) -> None:
    """Be `python -m MODULE ARGUMENT…` in a folder, until it ends.

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
    begin_elsewhere()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def status_of(order: Mapping[str, Any], files: Sequence[int]) -> int:
    """Its exit status, once what `become` runs has ended in any way."""
    try:
        become(order, files)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def forked(order: Mapping[str, Any], files: Sequence[int], line: socket.socket) -> int:
    """The pid of a new process, which leads a group, so that it is ended with all that it starts."""
    nursery = os.getpid()
    sys.stdout.flush()  # what is written later is the new process's
    sys.stderr.flush()
    if child := os.fork():
        os.setpgid(child, child)  # by both: neither may go on before it is done
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        die_with_parent(nursery)
        line.close()
        status = status_of(order, files)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)  # nothing of the nursery's is for it to end


def ended(pid: int) -> int | None:
    """How a process ended, None while it runs; those of an earlier nursery were killed with it."""
    try:
        number, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return -signal.SIGKILL
    return os.waitstatus_to_exitcode(status) if number else None


def main() -> None:
    """Fork until whoever asks is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to handle
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
