"""The paper's printed numbers, and whether a count agrees with one to the precision it was printed in."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path

PAPER = Path(__file__).with_name("paper")
SCALE = {"M": Decimal(10) ** 6, "G": Decimal(10) ** 9}  # the units that counts are printed in


@dataclass(frozen=True)
class Printed:
    """One number as it stands in the paper: `text` keeps its digits, because they are its precision."""

    text: str
    unit: str
    convention: str
    source: str
    note: str = ""  # what is known about the number: why no count gives it, say
    cut: bool = False  # its digits were cut off after the last one, not rounded

    @property
    def value(self) -> float:
        """The number without its unit: 4.1 G is 4.1e9."""
        return float(Decimal(self.text) * SCALE.get(self.unit, Decimal(1)))

    def matches(self, count: int) -> bool:
        """Whether `count`, rounded (or cut) to the digits that are printed, prints the same."""
        return self._rounded(count) == Decimal(self.text)

    def as_printed(self, count: int) -> str:
        """`count` as the paper would print it: 32 585 000 parameters beside 30.43 M are "32.59 M"."""
        return f"{self._rounded(count)} {self.unit}"

    def _rounded(self, count: int) -> Decimal:
        exponent = Decimal(1).scaleb(int(Decimal(self.text).as_tuple().exponent))
        return (Decimal(count) / SCALE.get(self.unit, Decimal(1))).quantize(
            exponent, ROUND_DOWN if self.cut else ROUND_HALF_UP
        )


@dataclass(frozen=True)
class PrintedRow:
    """One row of one of the paper's tables; several may stand for the same case."""

    source: str  # Table 2(b)
    name: str  # the row's name in the paper
    case: str
    numbers: dict[str, Printed] = field(default_factory=dict)  # what is printed, by metric

    @property
    def panel(self) -> str:
        """The panel of the table that the row stands in, `(b)`; empty where the table has none."""
        match = re.search(r"\(\w\)$", self.source)
        return match[0] if match else ""


def rows(name: str) -> tuple[PrintedRow, ...]:
    """The rows of `paper/NAME.csv` in the paper's order; none where the paper prints no such table."""
    return _read(PAPER / f"{name}.csv")


def table(name: str) -> dict[str, dict[str, Printed]]:
    """The numbers of a table in which no case has two rows, by case and metric."""
    return {row.case: row.numbers for row in rows(name)}


@cache
def _read(path: Path) -> tuple[PrintedRow, ...]:
    """The rows of a file, read once however many chapters ask for it."""
    if not path.exists():
        return ()
    by_key: dict[tuple[str, str, str], PrintedRow] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            key = line["source"], line["row"], line["case"]
            row = by_key.setdefault(key, PrintedRow(*key))
            row.numbers[line["metric"]] = Printed(
                line["value"],
                line["unit"],
                line["convention"],
                line["source"],
                line["note"],
                cut=line.get("rounded") == "down",
            )
    return tuple(by_key.values())
