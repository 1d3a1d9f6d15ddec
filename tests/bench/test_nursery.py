"""Processes that a nursery forks: whatever they run, they are as if they had been started, and none outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.errors import Failure
from bench.machine.devices import cpu_device
from bench.machine.provenance import ROOT
from bench.nursery import Forked, Nursery
from bench.process import environ_of
from bench.sides import ON_CPU
from tests.support.sweeps import sweep

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only on Linux is anything forked")
PROGRAMS = {
    "tells": """
import json, os, sys
found = {
    "argv": sys.argv[1:], "cwd": os.getcwd(), "places": os.environ["PYTHONPATH"], "line": sys.stdin.readline(),
    "name": __name__, "leads": os.getpgrp() == os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS"),
    "imported": [name for name in ("torch", "bench", "models", "kernels") if name in sys.modules],
}
os.fdopen(int(os.environ["BENCH_REPLY"]), "w").write(json.dumps(found))
print("printed")
""",
    "ends": "import sys\nsys.exit(int(sys.argv[1]))",
    "fails": "raise RuntimeError('a shape went wrong')",
    "crashes": "import ctypes\nctypes.string_at(0)",
    "sleeps": "import time\ntime.sleep(1000)",
}
PARENT = """
import os, sys, time
from pathlib import Path
from bench.machine.devices import cpu_device
from bench.nursery import Nursery
from bench.process import environ_of
nursery = Nursery(environ_of(cpu_device()))
child = nursery.fork(["sleeps"], Path(sys.argv[1]), [sys.argv[1]], 1, 1)
print(child.pid, nursery._process.pid, flush=True)
time.sleep(1000)
"""


class Said(NamedTuple):
    """A forked process's replies, what it printed, and how it ended."""

    replied: Any
    printed: str
    status: int


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    found = Nursery(environ_of(cpu_device(), ON_CPU))
    yield found
    found.end()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with all the programs."""
    for name, text in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def forked(nursery: Nursery, folder: Path, *argv: str) -> tuple[Forked, int, int]:
    """A process that runs one of the programs, and the ends of its output and its replies."""
    output, printed = os.pipe()
    replies, theirs = os.pipe()
    try:
        return nursery.fork(argv, folder, [str(folder), "elsewhere"], printed, theirs), output, replies
    except Failure:
        os.close(output)
        os.close(replies)
        raise
    finally:
        os.close(printed)
        os.close(theirs)


def said(nursery: Nursery, folder: Path, *argv: str, line: bytes = b"") -> Said:
    """The replies, the output and the end of a program that is given a line."""
    process, output, replies = forked(nursery, folder, *argv)
    process.stdin.write(line)
    process.stdin.close()
    with os.fdopen(replies) as file, os.fdopen(output) as printed:
        text = file.read()
        return Said(json.loads(text) if text else None, printed.read(), process.wait(30))


def is_there(pid: int) -> bool:
    """Whether a process lives; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def soon(is_so: Any) -> bool:
    """Whether something becomes true within ten seconds."""
    until = time.monotonic() + 10
    while not is_so() and time.monotonic() < until:
        time.sleep(0.02)
    return bool(is_so())


def test_what_is_forked_is_as_if_it_had_been_started_and_has_torch(nursery, folder):
    found = said(nursery, folder, "tells", "one", "two", line=b"a line\n")
    assert found.replied == {
        "argv": ["one", "two"],
        "cwd": str(folder),
        "places": f"{folder}{os.pathsep}elsewhere",
        "line": "a line\n",
        "name": "__main__",
        "leads": True,
        "threads": environ_of(cpu_device(), ON_CPU)["OMP_NUM_THREADS"],
        "imported": ["torch"],
    }
    assert found[1:] == ("printed\n", 0)


@pytest.mark.parametrize(
    ("argv", "status", "word"),
    [
        (["ends", "0"], 0, ""),
        (["ends", "3"], 3, ""),
        (["fails"], 1, "a shape went wrong"),
        (["crashes"], -signal.SIGSEGV, ""),
        (["nowhere"], 1, "No module named nowhere"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_how_it_ended_is_told(argv, status, word, nursery, folder):
    found = said(nursery, folder, *argv)
    assert found.status == status
    assert word in found.printed


def test_one_that_lives_is_waited_for_and_can_be_killed(nursery, folder):
    process, *ends = forked(nursery, folder, "sleeps")
    try:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(10) == process.poll() == -signal.SIGKILL
    for end in ends:
        os.close(end)


def test_what_a_nursery_forked_dies_with_it_and_another_takes_its_place(nursery, folder):
    process, *ends = forked(nursery, folder, "sleeps")
    os.kill(nursery._process.pid, signal.SIGKILL)
    assert soon(lambda: not is_there(process.pid))
    assert process.wait(10) == -signal.SIGKILL
    assert said(nursery, folder, "ends", "0").status == 0
    other, *more = forked(nursery, folder, "sleeps")
    other._status, other.pid = None, process.pid  # the new one is asked for a process of the old one
    assert other.poll() == -signal.SIGKILL
    for end in (*ends, *more):
        os.close(end)


def test_a_nursery_without_torch_says_why(tmp_path, folder):
    (tmp_path / "torch.py").write_text("raise RuntimeError('no torch today')")
    nursery = Nursery({**environ_of(cpu_device()), "PYTHONPATH": str(tmp_path)})
    with pytest.raises(Failure, match=r"does not start: crashed with exit status 1: .*no torch today"):
        forked(nursery, folder, "ends", "0")


@sweep
def test_a_nursery_that_is_killed_every_time_says_so(tmp_path, folder):
    (tmp_path / "torch.py").write_text("import os\nos.kill(os.getpid(), 9)")
    nursery = Nursery({**environ_of(cpu_device()), "PYTHONPATH": str(tmp_path)})
    with pytest.raises(Failure, match="does not start: killed by SIGKILL"):
        forked(nursery, folder, "ends", "0")


@pytest.fixture
def stuck(tmp_path) -> Iterator[tuple[Nursery, int]]:
    """A nursery that never ends its import, and its pid."""
    (tmp_path / "torch.py").write_text("import time\ntime.sleep(1000)")
    found = Nursery({**environ_of(cpu_device()), "PYTHONPATH": str(tmp_path)})
    found.start()
    assert found._process
    pid = found._process.pid
    yield found, pid
    assert found._process is None
    assert not is_there(pid)


def test_a_nursery_that_hangs_is_put_away(stuck, folder):
    stuck[0]._line.settimeout(0.2)
    with pytest.raises(Failure, match="gives no answer in"):
        forked(stuck[0], folder, "ends", "0")


def test_a_nursery_that_is_interrupted_is_put_away(stuck, folder):
    timer = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        forked(stuck[0], folder, "ends", "0")


def test_each_begins_its_memory_elsewhere(nursery, folder):
    (folder / "lies.py").write_text(
        "import ctypes, json, os\nlibc = ctypes.CDLL(None)\nlibc.malloc.restype = ctypes.c_void_p\n"
        "places = [libc.malloc(1 << 20), id([bytes(99) for _ in range(9999)][-1])]\n"
        "os.fdopen(int(os.environ['BENCH_REPLY']), 'w').write(json.dumps(places))\n"
    )
    of_heap, of_objects = zip(*(said(nursery, folder, "lies").replied for _ in range(4)), strict=True)
    assert len(set(of_heap)) == 4
    assert len(set(of_objects)) == 4


@sweep
def test_none_outlives_whoever_asked_for_it(folder):
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, text=True, env=environ
    ) as parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_there, pids))
        parent.kill()
        assert soon(lambda: not any(map(is_there, pids)))
