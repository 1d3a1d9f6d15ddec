"""The times of every configuration on an H100, as they are committed."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[2] / "results" / "reference" / "h100" / "candidates.csv"
AGAIN = 1.02  # a difference that is less than one between repetitions


def times(operator: str) -> Iterator[tuple[tuple[str, int, str], dict[str, float]]]:
    """By model, stage and image: the smaller of the two times of each configuration, in µs."""
    found: dict[tuple[str, int, str], dict[str, float]] = {}
    with FILE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["operator"] == operator and "=" in row["configuration"]:
                problem = (row["model"], int(row["stage"]), row["image"])
                us = min(float(row["us"]), float(row["us_again"]))
                found.setdefault(problem, {})[row["configuration"]] = us
    yield from found.items()


def named(config: Any, *without: str) -> str:
    """A configuration as the file names it."""
    return ", ".join(f"{name}={value!r}" for name, value in asdict(config).items() if name not in without)
