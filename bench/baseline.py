"""Accepted figures of a GPU, in bench/baselines/<gpu>.json: what was measured, of which commit, and why accepted.

A file holds for one kind of device: one model of GPU, or one kind of CPU. It has every acceptance, a line each, the
oldest first, and begins with a sum of what follows, so that a merge or an edit that damaged it is seen. No torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.errors import Failure, UsageError
from bench.machine.devices import Device, as_dict
from bench.machine.provenance import ROOT
from bench.taking import Environment, Reading

FOLDER = ROOT / "bench" / "baselines"
SCHEMA = 1


@dataclass(frozen=True)
class Figures:
    """The figures of a case: a reading a restart, and what is compared exactly."""

    readings: list[Reading]
    counts: dict[str, int]


@dataclass(frozen=True)
class Acceptance:
    """Figures that somebody accepted at once, and the reason."""

    when: str  # UTC, ISO 8601
    commit: str
    reason: str
    environment: Environment
    cpu: str  # of the host
    cases: dict[str, Figures]


def path_of(device: Device, folder: Path = FOLDER) -> Path:
    """The file of a device's accepted figures."""
    return folder / f"{device.key}.json"


def read(device: Device, folder: Path = FOLDER) -> list[Acceptance]:
    """Every acceptance of a device's figures, the oldest first; none where there is no file.

    Raises:
        UsageError: the file is damaged, no baseline, or another device's.
    """
    path = path_of(device, folder)
    of, acceptances = load(path)
    if acceptances and of != identity(device):
        if device.kind == "cuda":
            raise UsageError(f"{path} is of another GPU: {of.get('name')}, not {device.name}")
        raise UsageError(
            f"{path} is of another CPU, {of.get('name')} ({of.get('uuid')}), than {device.name} ({device.uuid}) here: "
            "a CPU's figures hold for its kind, with as many cores and as much memory, alone"
        )
    return acceptances


def load(path: Path) -> tuple[dict[str, Any], list[Acceptance]]:
    """The device of a baseline's file, and every acceptance, the oldest first; nothing where there is no file.

    Raises:
        UsageError: the file is damaged, or no baseline.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}, []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no text'}"
        ) from None
    try:
        document = json.loads(text)
        schema, of = document["schema"], document["device"]
        acceptances = [_acceptance(each) for each in document["accepted"]]
        seal = document["sum"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        is_json = not isinstance(error, json.JSONDecodeError)
        what = f"a baseline ({type(error).__name__}: {error})" if is_json else "JSON"
        raise UsageError(
            f"{path} is not {what}: take it back from git, or remove it and accept anew"
        ) from None
    if schema != SCHEMA:
        raise UsageError(f"{path} has schema {schema}, and this is {SCHEMA}: remove it and accept anew")
    if seal != _sum(of, document["accepted"]):
        raise UsageError(
            f"{path} was damaged, or edited: its sum is not that of its content; take it back from git"
        )
    return of, acceptances


def identity(device: Device) -> dict[str, Any]:
    """Key of a device: what it has in common with another whose figures may be compared with its own.

    Any board of a model of GPU; of a CPU, whose name says little, the kind, with the cores that are ours.
    """
    told = as_dict(device)
    return {name: told[name] for name in ("kind", "key", "name", "mig")} | (
        {"uuid": device.uuid} if device.kind == "cpu" else {}
    )


def newest(acceptances: Sequence[Acceptance]) -> dict[str, Acceptance]:
    """The acceptance that holds, by case."""
    return {case: each for each in acceptances for case in each.cases}


def accept(acceptance: Acceptance, device: Device, folder: Path = FOLDER) -> Path:
    """Add an acceptance to a device's file, which is replaced as a whole or not at all; the file.

    Raises:
        UsageError: the file that is there is damaged, or another device's.
        Failure: it cannot be written.
    """
    path, of = path_of(device, folder), identity(device)
    accepted = [_as_json(each) for each in (*read(device, folder), acceptance)]
    lines = ",\n".join(json.dumps(each) for each in accepted)
    head = json.dumps({"sum": _sum(of, accepted), "schema": SCHEMA, "device": of})
    waiting = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with waiting.open("w", encoding="utf-8") as file:
            file.write(f'{head[:-1]}, "accepted": [\n{lines}\n]}}\n')
            file.flush()
            os.fsync(file.fileno())
        os.replace(waiting, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            waiting.unlink(missing_ok=True)
        raise Failure(f"cannot write {path}: {error.strerror}; it is as it was") from None
    return path


def _acceptance(told: dict[str, Any]) -> Acceptance:
    """An acceptance as the file has it."""
    cases = {
        case: Figures([Reading(*map(float, each)) for each in figures["readings"]], dict(figures["counts"]))
        for case, figures in told["cases"].items()
    }
    environment = Environment(**told["environment"])
    return Acceptance(**{**told, "environment": environment, "cases": cases})


def _as_json(acceptance: Acceptance) -> dict[str, Any]:
    return {**asdict(acceptance), "environment": acceptance.environment._asdict()}


def _sum(of: dict[str, Any], accepted: list[dict[str, Any]]) -> str:
    content = json.dumps([of, accepted], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]
