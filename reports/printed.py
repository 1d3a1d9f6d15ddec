"""The paper's printed numbers, and whether a count agrees with one to the precision it was printed in."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

PAPER = Path(__file__).with_name("paper")
SCALE = {"M": Decimal(10) ** 6, "G": Decimal(10) ** 9}  # of the units that counts are printed in


@dataclass(frozen=True)
class Printed:
    """One number as it stands in the paper: `text` keeps its digits, because they are its precision."""

    text: str
    unit: str
    convention: str
    source: str

    @property
    def value(self) -> float:
        """In whole things: 4.1 G is 4.1e9."""
        return float(Decimal(self.text) * SCALE.get(self.unit, Decimal(1)))

    def matches(self, count: int) -> bool:
        """Whether `count`, rounded to the digits that are printed, prints the same."""
        printed = Decimal(self.text)
        exponent = Decimal(1).scaleb(int(printed.as_tuple().exponent))
        return (Decimal(count) / SCALE.get(self.unit, Decimal(1))).quantize(
            exponent, ROUND_HALF_UP
        ) == printed


def table(name: str) -> dict[str, dict[str, Printed]]:
    """`paper/NAME.csv` as case text → metric → number, in the paper's order."""
    found: dict[str, dict[str, Printed]] = {}
    with (PAPER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            number = Printed(line["value"], line["unit"], line["convention"], line["source"])
            found.setdefault(line["case"], {})[line["metric"]] = number
    return found
