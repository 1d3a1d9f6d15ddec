"""The times of every configuration on a GPU, as they are committed."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"
AGAIN = 1.02  # a difference that is less than one between repetitions
# What tells no code from another, or had not been thought of when the file was written.
NOT_NAMED = re.compile(r", (spills=\d+|registers=None)")


def times(
    operator: str, gpu: str = "h100", file: str = "candidates.csv", **only: str
) -> Iterator[tuple[tuple[str, int, str], dict[str, float]]]:
    """By model, stage and image: the smallest of the times of each configuration, in µs.

    Args:
        only: what rows have to have, by column.
    """
    found: dict[tuple[str, int, str], dict[str, float]] = {}
    with (REFERENCE / gpu / file).open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            is_it = row["operator"] == operator and all(row[name] == value for name, value in only.items())
            if is_it and "=" in row["configuration"] and row["us"]:
                of_problem = found.setdefault((row["model"], int(row["stage"]), row["image"]), {})
                name = NOT_NAMED.sub("", row["configuration"])
                us = min(float(row["us"]), float(row["us_again"] or row["us"]))
                of_problem[name] = min(us, of_problem.get(name, us))
    yield from found.items()


def named(config: Any) -> str:
    """A configuration as `times` names it."""
    text = ", ".join(f"{field.name}={getattr(config, field.name)!r}" for field in fields(config))
    return NOT_NAMED.sub("", text)
