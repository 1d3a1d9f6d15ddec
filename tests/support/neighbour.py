"""A neighbour on this machine: a process whose load comes and goes, three seconds each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PROGRAM = """
import os, time
parent = os.getppid()
while os.getppid() == parent:  # also where that is killed
    until = time.monotonic() + 3
    while time.monotonic() < until:
        sum(range(1000))
    time.sleep(3)
"""


@contextmanager
def neighbour() -> Iterator[None]:
    """Has one while the context lasts."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM]) as process:
        try:
            yield
        finally:
            process.kill()
