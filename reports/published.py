"""Speeds and rates that others publish of GPUs, each with its source; and a user's own CSV file of printed speeds."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench import csv_file
from bench.cases import parse, unknown
from bench.errors import UsageError
from bench.machine.gpus import PEAK_DTYPES, profiles
from bench.text import printable

PUBLISHED = Path(__file__).with_name("published")
MOST = 1e12  # a number from which on it is no speed, and no count in G


@dataclass(frozen=True)
class Speed:
    """A printed speed of a model on a GPU, a profile's name, as it stands in its source.

    `case` is the model as the suite runs it, empty where it does not; `macs` what the source prints, of one image.
    `family` and `size` tell which models are variants of one another.
    """

    model: str
    gpu: str
    images_per_s: float
    dtype: str = "fp32"
    case: str = ""
    source: str = ""
    family: str = ""
    size: str = ""
    macs: float | None = None

    @property
    def name(self) -> str:
        """Model, size and source."""
        return f"{self.model}{f' at {self.size}' if self.size else ''}, {self.source}"

    @property
    def where(self) -> str:
        """The source without what it says of how it measured."""
        return self.source.partition(": ")[0]


@dataclass(frozen=True)
class Rate:
    """The best rate of an operator that somebody published of a GPU: FLOP/s, or bytes/s."""

    gpu: str
    dtype: str
    operator: str
    per_s: float
    of_flops: bool  # not of bytes
    of: str
    source: str


@cache
def speeds() -> tuple[Speed, ...]:
    """The speeds that others print of models that the suite runs."""
    return tuple(
        Speed(row["model"], row["gpu"], float(row["images_per_s"]), row["dtype"], row["case"], row["source"])
        for row in _rows(PUBLISHED / "speeds.csv")
    )


@cache
def rates() -> tuple[Rate, ...]:
    """The best published rates by GPU, dtype and operator."""
    return tuple(
        Rate(
            row["gpu"],
            row["dtype"],
            row["operator"],
            float(row["rate"]) * UNITS[row["unit"]],
            row["unit"] == "TFLOP/s",
            row["of"],
            row["source"],
        )
        for row in _rows(PUBLISHED / "rates.csv")
    )


UNITS = {"TFLOP/s": 1e12, "GB/s": 1e9}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- a user's own file


def _text(value: str) -> str:
    return printable(value.strip())


def _required(value: str) -> str:
    if not value.strip():
        raise UsageError("is empty")
    return _text(value)


def _number(value: str) -> float:
    # Python's own reading would also take 1_400, and digits of other scripts
    plain = re.fullmatch(
        r"\+?[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?|\+?\.[0-9]+(e[+-]?[0-9]+)?", value.strip().lower()
    )
    number = float(value) if plain else 0.0
    if not 0 < number < MOST:
        raise UsageError(f"expected a number above 0, found {value!r}")
    return number


def _one_of(kind: str, known: Callable[[], Sequence[str]]) -> Callable[[str], str]:
    def read_name(value: str) -> str:
        if value.strip().lower() not in known():
            raise unknown(kind, value, known())
        return value.strip().lower()

    return read_name


def _case(value: str) -> str:
    return parse(value.strip()).paper_name if value.strip() else ""


READERS: Mapping[str, Callable[[str], Any]] = {
    "model": _required,
    "gpu": _one_of("GPU", lambda: list(profiles())),
    "images_per_s": _number,
    "gmacs": _number,
    "dtype": _one_of("dtype", lambda: PEAK_DTYPES),
    "case": _case,
    "source": _text,
    "family": _text,
    "size": _text,
}
NEEDED = ("model", "gpu", "images_per_s", "gmacs")


def read(path: Path) -> list[Speed]:
    """The speeds of a CSV file whose first line names its columns: those that are NEEDED, and any of READERS.

    Without `dtype` a speed is taken for one of fp32. With `case`, what the suite counted of it takes the place of
    `gmacs`. Other columns are passed over.

    Raises:
        UsageError: the file cannot be read, a column is missing, or a value is none; the line names file, line and
            column.
    """
    columns, lines = csv_file.read(path)
    if not lines:
        raise UsageError(f"{path}: no rows below a line of column names")
    if missing := [name for name in NEEDED if name not in columns]:
        raise UsageError(f"{path}: no column {missing[0]!r}; the columns are {', '.join(READERS)}")
    for line in lines:
        if line.more:
            raise UsageError(
                f"{path}: line {line.number}: {len(columns) + line.more} values for {len(columns)} columns"
            )
    return [_speed(path, line.number, line.values) for line in lines]


def _speed(path: Path, number: int, row: Mapping[str, str | None]) -> Speed:
    values: dict[str, Any] = {}
    for name, reader in READERS.items():
        if name not in NEEDED and not (row.get(name) or "").strip():
            continue
        try:
            values[name] = reader(row.get(name) or "")
        except UsageError as error:
            raise UsageError(f"{path}: line {number}: column {name!r}: {error}") from None
    return Speed(macs=1e9 * values.pop("gmacs"), **{"source": path.name, **values})
