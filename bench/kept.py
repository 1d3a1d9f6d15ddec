"""Counts kept in the user's cache, so that whoever asks again need not wait for torch. No torch.

A count depends on nothing but its case, our source and the versions of what we import; it is kept under a name made of
those. Cases of users' modules, which may depend on anything, are counted each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.jobs import Job, group_of
from bench.machine import provenance
from bench.machine.devices import Device

FOLDER = "BENCH_CACHE"  # names another folder; empty: nothing is kept
Answer = tuple[dict[str, Any], list[str]]  # a result and its notes


def once(job: Job, device: Device, ask: Callable[[Job, Device], Answer]) -> Answer:
    """The answer to a job of counting: the one that is kept, else that of `ask`, which is kept then.

    Raises:
        UsageError, Failure: as `ask` does.
    """
    file = _file(job, device)
    if file is None:
        return ask(job, device)
    with contextlib.suppress(OSError):  # it is not there
        seal, _, text = file.read_bytes().partition(b"\n")
        if seal == _seal(text):
            result, notes = json.loads(text)
            return result, notes
    result, notes = ask(job, device)
    text = json.dumps([result, notes]).encode()
    with contextlib.suppress(OSError):  # a disk that is full, or that may not be written
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_seal(text) + b"\n" + text)
    return result, notes


def _seal(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def _file(job: Job, device: Device) -> Path | None:
    """The file in which the answer to a job is kept; None where it is not."""
    folder = os.environ.get(FOLDER)
    if folder == "" or job.harness != "breakdown" or job.users_modules:
        return None
    with contextlib.suppress(OSError, RuntimeError, UsageError):  # a user without a home
        # of all files: finding out which of them matter would take as long as much of the counting
        source = provenance.source_hash(provenance.OURS)
        name = group_of(job, source, provenance.versions(), device)
        return (Path(folder) if folder else Path.home() / ".cache" / "restv2-bench") / f"{name}.json"
    return None
