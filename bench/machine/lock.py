"""One run at a time on a device: a lock that every run on this machine asks for, whatever file it writes. No torch."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import Failure
from bench.machine.devices import Device

FOLDER = "BENCH_LOCKS"  # names another folder for the locks, such as one that containers on one GPU share


def path_of(device: Device) -> Path:
    """The file that is locked: one a GPU or slice; one for the CPU, however much of it a run may use."""
    folder = os.environ.get(FOLDER) or tempfile.gettempdir()
    return Path(folder) / f"restv2-bench-{device.uuid if device.kind == 'cuda' else 'cpu'}.lock"


@contextmanager
def held(device: Device, wait: Callable[[str], None] | None = None) -> Iterator[str | None]:
    """Hold a device for this process alone.

    Gives None, or in words why it could not be locked where that is not because another run has it: the run then goes
    on, because a file system without locks is no reason not to measure.

    Args:
        wait: where another run has it, is told so, and that run's end is waited for.

    Raises:
        Failure: another run measures there, and is not waited for.
    """
    path, file = path_of(device), None
    try:
        file = _open(path)
        exclusively(file, f"another run is measuring on {device}", wait)
        said = None
    except Failure:
        if file is not None:
            os.close(file)
        raise
    except OSError as error:
        said = f"{path} cannot be locked ({error.strerror}): start no second run on {device}"
    try:
        yield said
    finally:
        if file is not None:
            os.close(file)


def exclusively(file: int, why: str, wait: Callable[[str], None] | None) -> None:
    """Lock an open file for this process alone.

    Raises:
        Failure: another process has it, which `why` says, and nobody waits for it.
        OSError: it cannot be locked at all.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # EWOULDBLOCK alone means that somebody has it
        if wait is None:
            raise Failure(f"{why}; wait for it, or end it") from None
        wait(f"{why}: waiting for its end")
        fcntl.flock(file, fcntl.LOCK_EX)


def _open(path: Path) -> int:
    """The lock file, open for writing: network file systems lock nothing else. Any user may lock it."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(
            path, os.O_RDWR | os.O_NOFOLLOW
        )  # no O_CREAT: in a shared folder it fails on another's file
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with contextlib.suppress(OSError):
        os.fchmod(file, 0o666)  # past the umask
    return file
