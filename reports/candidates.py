"""Configurations of the fused kernels as a GPU timed them: the fastest of each call, and how far all others are."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reports.columns import COUNT, NUMBER, TIMES, Column
from reports.figures import FAINT, Plot, finish, for_both, grid_behind, name_rows, new_figure
from reports.results import grouped
from reports.tables import Table, made_of

OPERATORS = {
    "emsa_upsample": "EMSAv2",
    "emsa_upsample_backward": "EMSAv2's gradient",
    "mlp": "MLP",
}
LOOKS = {4: ("#D55E00", "o"), 8: ("#0072B2", "s"), 16: ("#4d4d4d", "X")}  # by warps of a program


@dataclass(frozen=True)
class Candidate:
    """One configuration of one call, or formulas in its place, with microseconds of two passes, in either order."""

    operator: str
    model: str
    stage: int
    image: str
    batch: int
    configuration: str
    us: float
    us_again: float
    largest_error: float | None  # as a multiple of eager's own

    @property
    def call(self) -> tuple[str, str, int, str, int]:
        """The operator, model, stage, image and batch that it computes, whatever the configuration."""
        return self.operator, self.model, self.stage, self.image, self.batch

    @property
    def name(self) -> str:
        """The call in words."""
        size = "" if self.image == "224" else f" at {self.image}"
        return f"{OPERATORS[self.operator]}, {self.model} stage {self.stage}{size}"

    @property
    def mean_us(self) -> float:
        """The mean of both passes."""
        return (self.us + self.us_again) / 2

    @property
    def warps(self) -> int | None:
        """Warps of a program, of the first kernel where there are several; None of formulas."""
        found = re.search(r"num_warps=(\d+)", self.configuration)
        return int(found[1]) if found else None

    @property
    def design(self) -> str:
        """The kernel's design; its tile where there is one design."""
        found = re.search(r"design='(\w+)'", self.configuration)
        if found:
            return found[1]
        tiles = re.findall(r"(?:block_t|patches|pixels)=(\d+)", self.configuration)
        return f"tiles of {' × '.join(tiles)}" if tiles else self.configuration


def read(path: Path, **only: str) -> list[Candidate]:
    """The candidates of a file that were timed twice, in its order.

    Args:
        only: what a line has to have, by column.
    """
    with path.open(newline="", encoding="utf-8") as file:
        return [
            _candidate(line)
            for line in csv.DictReader(file)
            if line["us_again"] and all(line[name] == value for name, value in only.items())
        ]


def _candidate(line: Mapping[str, str]) -> Candidate:
    error = line["largest_error"]
    return Candidate(
        *(line["operator"], line["model"], int(line["stage"]), line["image"], int(line["batch"])),
        *(line["configuration"], float(line["us"]), float(line["us_again"]), float(error) if error else None),
    )


@dataclass(frozen=True)
class Call:
    """All candidates of one call, the fastest first."""

    candidates: Sequence[Candidate]

    @property
    def fastest(self) -> Candidate:
        """The one with the least time."""
        return self.candidates[0]

    def times(self, candidate: Candidate) -> float:
        """The time of a candidate as a multiple of the fastest's."""
        return candidate.mean_us / self.fastest.mean_us

    @property
    def runner_up(self) -> Candidate | None:
        """The fastest with another number of warps."""
        others = (one for one in self.candidates if one.warps and one.warps != self.fastest.warps)
        return next(others, None)


def calls(candidates: Sequence[Candidate], operator: str) -> list[Call]:
    """The calls of an operator, in the file's order."""
    of_calls = grouped((one.call, one) for one in candidates if one.operator == operator and one.warps)
    return [Call(sorted(found, key=lambda one: one.mean_us)) for found in of_calls.values()]


TABLE: tuple[Column[Call], ...] = (
    Column("name", "call", lambda call: call.fastest.name),
    Column("batch", "batch", lambda call: call.fastest.batch, COUNT),
    Column("configurations", "configurations", lambda call: len(call.candidates), COUNT),
    Column("us", "fastest, µs", lambda call: call.fastest.mean_us, NUMBER),
    Column("design", "design", lambda call: call.fastest.design),
    Column("warps", "warps", lambda call: call.fastest.warps, COUNT),
    Column(
        "other",
        "with other warps, ×",
        lambda call: call.times(call.runner_up) if call.runner_up else None,
        TIMES,
    ),
    Column("slowest", "slowest, ×", lambda call: call.times(call.candidates[-1]), TIMES),
    Column(
        "error",
        "largest error, × eager's",
        lambda call: max(one.largest_error or 0 for one in call.candidates),
        TIMES,
    ),
)


def fastest(candidates: Sequence[Candidate], operator: str) -> Table:
    """The fastest configuration of each call of an operator."""
    return made_of(
        TABLE, calls(candidates, operator), f"fastest_{operator}", f"{OPERATORS[operator]}: the fastest"
    )


def spread(candidates: Sequence[Candidate], operator: str, machine: str) -> Plot:
    """Every configuration's time over that of the fastest for the same call."""
    found = calls(candidates, operator)
    return for_both(f"candidates_{operator}", lambda name, width: _drawn(found, name, machine, width))


def _drawn(found: Sequence[Call], name: str, machine: str, width: float) -> Plot:
    choices = [call for call in found if call.runner_up] or found
    ((most, wins),) = Counter(call.fastest.warps for call in choices).most_common(1)
    title = (
        f"Where warps can be chosen, the fastest program has {most} in {wins} of {len(choices)} calls; the slowest "
        f"takes up to {max(call.times(call.candidates[-1]) for call in found):.2f} times as long"
    )
    subtitle = f"Measured on {machine}: the mean of two passes, without an interval."
    with new_figure(width, 1.6 + 0.3 * len(found), title, subtitle) as figure:
        axes = figure.subplots()
        for warps, (colour, marker) in LOOKS.items():
            points = [
                (call.times(one), row)
                for row, call in enumerate(found)
                for one in call.candidates
                if one.warps == warps
            ]
            if points:
                label = f"{warps} warps"
                axes.plot(
                    *zip(*points, strict=True), marker, color=colour, markersize=5, alpha=0.8, label=label
                )
        axes.axvline(1, color=FAINT, linewidth=0.8, zorder=0)
        name_rows(axes, [call.fastest.name.partition(", ")[2] for call in found])
        axes.set_xlabel("time, as a multiple of the fastest's")
        grid_behind(axes, "x")
        axes.legend(loc="lower right", frameon=False, fontsize=8)
        alt = f"Times of all configurations of {len(found)} calls, over the fastest of each. {title}."
        return finish(figure, name, title, alt)
