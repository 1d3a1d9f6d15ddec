"""The form of a row of any harness, to which those from anywhere are held; its case, and when it was measured."""

from __future__ import annotations

from datetime import datetime
from types import NoneType
from typing import Any

from bench.jobs import HARNESSES
from bench.record import Row
from bench.text import printable


def when(row: Row) -> str:
    """When a row was measured, as it stands there: UTC, ISO 8601."""
    return str(row.get("when") or "")


def moment(row: Row) -> str:
    """When a row was measured, for people."""
    return when(row).replace("T", " ").replace("+00:00", " UTC")


LARGEST = 2**63  # no count and no time here is near it, and beyond it numbers stop adding up
OUTCOMES = ("ok", "failed", "refused")
# What every row has to be, whatever measured it: by the path to a value, its types. None is unknown and may stand
# anywhere but in a row's name; a mapping's values are named by *.
SHAPE: dict[tuple[str, ...], type | tuple[type, ...]] = {
    ("key",): str,
    ("harness",): str,
    ("case",): str,
    ("study",): str,
    ("reason",): str,
    ("when",): str,
    ("group",): str,
    ("visit",): int,
    ("shard",): str,
    ("notes",): list,
    ("protocol",): dict,
    ("protocol", "name"): str,
    ("protocol", "visits"): int,
    ("device",): dict,
    **{
        ("device", name): str
        for name in ("kind", "name", "uuid", "mig", "profile", "driver", "compute_capability", "key")
    },
    ("device", "memory_gib"): (int, float),
    ("environment",): dict,
    ("environment", "host"): dict,
    ("environment", "versions"): dict,
    ("environment", "versions", "*"): str,
    ("environment", "source"): dict,
    ("environment", "source", "commit"): str,
    ("environment", "source", "dirty"): bool,
    ("environment", "source", "hash"): str,
    ("environment", "threads"): int,
    ("readings",): dict,
    ("readings", "before"): dict,
    ("readings", "after"): dict,
    ("spent",): dict,
    ("result",): dict,
}


class _Level:
    """The part of SHAPE that is about one mapping: the types of its values, and the mappings in it.

    Types are compared as JSON gives them, because a bool is no number. Those of values that were right are kept: most
    rows have the same, and are known to be right at one look.
    """

    def __init__(self, path: tuple[str, ...] = ()) -> None:
        here = {each[-1]: types for each, types in SHAPE.items() if each[:-1] == path}
        self.types = {
            name: frozenset(types if isinstance(types, tuple) else (types,)) for name, types in here.items()
        }
        self.names = tuple(here)
        self.below = {
            name: _Level((*path, name)) for name in here if any(each[:-1] == (*path, name) for each in SHAPE)
        }
        self.path = path
        self.right: set[tuple[type, ...]] = set()

    def check(self, value: dict[str, Any]) -> None:
        """Hold the values of a mapping, by their names or by *, to their types; what is unknown has none."""
        every = self.types.get("*")
        names = tuple(value) if every else self.names
        found = tuple(map(type, map(value.get, names)))
        if found not in self.right:
            for name, kind in zip(names, found, strict=True):
                if kind is not NoneType and kind not in (every or self.types[name]):
                    raise ValueError(f"its {' '.join((*self.path, name))} is of another type")
            self.right.add(found)
        for name, level in self.below.items():
            if inner := value.get(name):
                level.check(inner)


_ROW = _Level()


def shown(value: Any) -> Any:
    """A row, or anything in one, with all its text made fit to show."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(name): shown(inner) for name, inner in value.items()}
    return [shown(inner) for inner in value] if isinstance(value, list) else value


def check_shape(row: Row, *, is_plain: bool = False) -> None:
    """Hold a row to what every row has to be.

    Args:
        is_plain: its numbers are known to be some, as `record.read` tells.

    Raises:
        ValueError: a value of another type, a number that is none, an unknown harness or outcome.
    """
    if row["harness"] not in HARNESSES:
        raise ValueError(f"no harness is named {row['harness']!r}")
    if row["outcome"] not in OUTCOMES:
        raise ValueError(f"its outcome is {row['outcome']!r}")
    _ROW.check(row)
    if not all(isinstance(note, str) for note in row.get("notes") or []):
        raise ValueError("its notes are of another type")
    if row["outcome"] == "ok" and row.get("result") is None:
        raise ValueError("it has no result")
    if not isinstance((row.get("device") or {}).get("name"), str):
        raise ValueError("it names no device")
    if row.get("when") is not None:
        datetime.fromisoformat(row["when"])
    if not is_plain:
        _check_numbers(row)


def is_a(value: Any, types: type | tuple[type, ...]) -> bool:
    """Whether a value is of one of the types; a bool is no number."""
    return isinstance(value, types) and not (isinstance(value, bool) and types is not bool)


def count_of(value: Any, *, least: int = 0) -> int:
    """A count, from `least` on.

    Raises:
        ValueError: it is none.
    """
    if type(value) is not int or value < least:  # a bool is none
        raise ValueError("not a count")
    return value


def check_peaks(result: dict[str, Any]) -> None:
    """Hold the result of a `peaks` row to being rates.

    Raises:
        ValueError: a rate that is none; and whatever else reading a damaged row raises.
    """
    rates = [*result["tflops"].values(), *filter(None, [result.get("bandwidth_gb_s")])]
    if not rates or not all(is_a(rate, (int, float)) and rate > 0 for rate in rates):
        raise ValueError("not a rate")


def _check_numbers(value: Any) -> None:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_numbers(inner)
    elif isinstance(value, int | float) and not -LARGEST < value < LARGEST:  # nor does NaN compare
        raise ValueError("a number that is none, or too large to be one")
