"""Rows as the reports read them: a time, a comparison, a count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench import stats
from bench.cases import Case
from bench.record import Row


def when(row: Row) -> str:
    return str(row.get("when") or "")


def moment(row: Row) -> str:
    """When a row was measured, for people."""
    return when(row).replace("T", " ").replace("+00:00", " UTC")


@dataclass(frozen=True)
class Measured:
    """What a time and a comparison have in common."""

    case: Case  # of a comparison, the first
    row: Row

    @property
    def ok(self) -> bool:
        return bool(self.row["outcome"] == "ok")

    @property
    def protocol(self) -> str:
        return str((self.row.get("protocol") or {}).get("name", "unknown"))

    @property
    def uuid(self) -> str | None:
        """Of the device."""
        return (self.row.get("device") or {}).get("uuid")

    @property
    def estimate(self) -> stats.Estimate:
        raise NotImplementedError

    @property
    def notes(self) -> list[str]:
        """What a reader must know before believing the number, one line each."""
        if not self.ok:
            return [f"{self.row['outcome']}: {self.row.get('reason') or 'no reason given'}"]
        return [*(self.row.get("notes") or []), *self._notes(self.row["result"])]

    def _notes(self, result: dict[str, Any]) -> Iterable[str]:
        if result.get("stopped_by") == "time cap":
            yield "stopped by the time cap, before its interval was narrow enough"
        if result.get("discarded"):
            yield "some samples were discarded and taken again (the machine throttled)"
        if result.get("power_capped"):
            yield "the power limit held the clock down"


@dataclass(frozen=True)
class Timing(Measured):
    """One timed case, or the reason why it could not be timed."""

    @cached_property
    def estimate(self) -> stats.Estimate:
        """Seconds of one iteration over one batch."""
        return stats.estimate(self.row["result"]["samples_s"], self.row["result"]["statistic"])

    @cached_property
    def parts(self) -> dict[str, stats.Estimate]:
        """Seconds of one iteration that each part of the model takes, in the order in which they run."""
        found = self.row["result"].get("parts_s") or {}
        return {
            str(name): stats.estimate(samples, self.row["result"]["statistic"])
            for name, samples in found.items()
        }

    @property
    def batch(self) -> int:
        """Images in that batch; less than asked for where memory ran out."""
        return int(self.row["result"]["batch"])

    @property
    def images_per_s(self) -> stats.Estimate:
        return self.estimate.map(lambda seconds: self.batch / seconds)

    def _notes(self, result: dict[str, Any]) -> Iterable[str]:
        asked = result.get("batch_requested") or self.batch
        if asked != self.batch and not any(str(self.batch) in note for note in self.row.get("notes") or []):
            yield f"batch {self.batch} instead of {asked}"
        yield from super()._notes(result)
        if mix := result.get("mix"):
            ran, share = len(mix["shapes"]), 100 * mix["share"]
            yield (
                f"timed on {ran} shape{'s' if ran > 1 else ''} in place of {mix['images']:,} images, of which "
                f"{share:.0f} % have such a shape; the mean area timed is {mix['area_ratio']:.3f} times theirs"
            )
        if self.estimate.low is None:
            yield f"{result.get('statistic', 'median')} of {self.estimate.n} samples, no interval"


@dataclass(frozen=True)
class Comparison(Measured):
    """Two cases measured in turns, or the reason why they could not be."""

    other: Case

    @cached_property
    def estimate(self) -> stats.Estimate:
        """How many times as long the first takes for an image as the other."""
        return stats.ratio(self.row["result"]["blocks"], tuple(self.row["result"]["batch"]))

    def _notes(self, result: dict[str, Any]) -> Iterable[str]:
        yield from super()._notes(result)
        if self.estimate.low is None:
            yield f"median of {self.estimate.n} blocks, no interval"


@dataclass(frozen=True)
class CrossCheck:
    """Another counter's MACs beside ours in the convention that comes nearest to what it counts."""

    counter: str
    compared_with: str
    macs: int
    ours: int
    why: str

    @property
    def difference(self) -> float:
        """Relative to ours."""
        return self.macs / self.ours - 1 if self.ours else 0.0


@dataclass(frozen=True)
class Counts:
    """What was counted for one case: the same for each of its implementations, batches and dtypes."""

    case: Case
    row: Row

    @property
    def parameters(self) -> int:
        return int(self.row["result"]["parameters"])

    @property
    def macs(self) -> dict[str, int]:
        """MACs of one image, by convention."""
        return {name: int(each["macs"]) for name, each in self.row["result"]["conventions"].items()}

    def by_operator(self, convention: str) -> dict[str, int]:
        return dict(self.row["result"]["conventions"][convention]["by_operator"])

    @property
    def least_traffic(self) -> tuple[int, int] | None:
        """Elements that must be moved for each image, and once for a batch; None of what is no core."""
        found = self.row["result"].get("least_traffic")
        return (int(found[0]), int(found[1])) if found else None

    @property
    def cross_checks(self) -> list[CrossCheck]:
        checks = self.row["result"].get("cross_checks") or []
        return [
            CrossCheck(
                str(check["counter"]),
                str(check["compared_with"]),
                int(check["macs"]),
                int(check["ours"]),
                str(check.get("why") or ""),
            )
            for check in checks
        ]
