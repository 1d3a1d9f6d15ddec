"""The times of every configuration on a GPU, as they are committed."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"
AGAIN = 1.02  # a difference that is less than one between repetitions


def times(operator: str, gpu: str = "h100") -> Iterator[tuple[tuple[str, int, str], dict[str, float]]]:
    """By model, stage and image: the smaller of the two times of each configuration, in µs."""
    found: dict[tuple[str, int, str], dict[str, float]] = {}
    with (REFERENCE / gpu / "candidates.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["operator"] == operator and "=" in row["configuration"]:
                problem = (row["model"], int(row["stage"]), row["image"])
                us = min(float(row["us"]), float(row["us_again"]))
                found.setdefault(problem, {})[row["configuration"]] = us
    yield from found.items()


def named(config: Any, *without: str) -> str:
    """A configuration as the file names it."""
    names = (field.name for field in fields(config) if field.name not in without)
    return ", ".join(f"{name}={getattr(config, name)!r}" for name in names)
