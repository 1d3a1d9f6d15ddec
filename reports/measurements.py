"""A row of a time, a comparison, a profile or a count, read and checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench import profiles, stats, visits
from bench.cases import Case, parsed
from bench.record import Row
from bench.roofline import Peaks
from bench.trace import tables
from bench.traffic import Traffic
from reports.rows import count_of, is_a


@dataclass(frozen=True)
class Measured:
    """The common part of a time and a comparison."""

    case: Case  # of a comparison, the first
    row: Row

    @property
    def ok(self) -> bool:
        """Whether it was measured; else the row says why not."""
        return bool(self.row["outcome"] == "ok")

    @property
    def protocol(self) -> str:
        """The name of the protocol that it was measured under."""
        return str((self.row.get("protocol") or {}).get("name", "unknown"))

    @property
    def uuid(self) -> str | None:
        """The device's own number, which tells it from another of the same kind."""
        return (self.row.get("device") or {}).get("uuid")

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases that were measured."""
        return (self.case,)

    def unlike(self, other: Measured) -> list[str]:
        """Notes on code, versions and threads that differ from the other's: two numbers with any do not compare."""
        mine, theirs = self.row.get("environment") or {}, other.row.get("environment") or {}
        found = []
        sources = [item.get("source") or {} for item in (mine, theirs)]
        # the hash takes in a user's own files, which are no other's
        own = any(case.is_users or case.has("weights") for case in (*self.cases, *other.cases))
        one, another = (source.get("commit" if own else "hash") for source in sources)
        if one != another:
            commit = str(sources[0].get("commit") or "unknown")[:12]
            found.append(f"measured by other code (commit {commit})")
        versions = [(item.get("versions") or {}) for item in (mine, theirs)]
        pairs = {name: tuple(each.get(name) for each in versions) for name in {**versions[0], **versions[1]}}
        pairs["driver"] = tuple((each.row.get("device") or {}).get("driver") for each in (self, other))
        found += [
            f"measured with {name} {one or 'unknown'}, not {another or 'unknown'}"
            for name, (one, another) in pairs.items()
            if one != another
        ]
        if mine.get("threads") != theirs.get("threads"):
            found.append(f"measured with {mine.get('threads')} threads, not {theirs.get('threads')}")
        return found

    @property
    def is_launch_bound(self) -> bool:
        """Whether the GPU waited for the CPU's launches, so that the time says nothing of how densely it computes."""
        return visits.is_launch_bound(self.row)

    @property
    def estimate(self) -> stats.Estimate:
        """The measured quantity with its interval."""
        raise NotImplementedError

    @property
    def notes(self) -> list[str]:
        """Notes that a reader must know before believing the number, one line each."""
        if not self.ok:
            return [f"{self.row['outcome']}: {self.row.get('reason') or 'no reason given'}"]
        return [*visits.notes(self.row), *self._notes(self.row["result"])]

    def _notes(self, result: dict[str, Any]) -> Iterable[str]:
        if result.get("discarded"):
            yield "some samples were discarded and taken again (the machine throttled)"
        if result.get("power_capped"):
            yield "the power limit held the clock down"


def _check_shares(row: Row, cases: int) -> None:
    """Hold the shares of time in which the GPU computed to being such, one for each case of a row that has any.

    Raises:
        ValueError: they are not.
    """
    shares = visits.device_shares(row)
    known = [share for share in shares if share is not None]
    if not all(is_a(share, (int, float)) and 0 <= share <= 1 for share in known):
        raise ValueError("not a share of time")
    if known and len(shares) != cases:
        raise ValueError(f"not a share of time for each of {cases} cases")


def _about(estimate: stats.Estimate) -> Iterable[str]:
    """Notes on what an interval means, or why there is none."""
    if estimate.low is None:
        yield f"no interval: {estimate.why}"
    elif estimate.within_run:
        yield "one visit: the interval is the spread within this run, and nothing is concluded from it"


@dataclass(frozen=True)
class Timing(Measured):
    """One timed case, or the reason why it could not be timed."""

    @cached_property
    def estimate(self) -> stats.Estimate:
        """Seconds of one iteration over one batch."""
        return visits.seconds(self.row)

    @cached_property
    def by_module(self) -> dict[str, stats.Estimate]:
        """Seconds that each module of the model takes in one iteration, in the order in which they run."""
        result = self.row["result"]
        return {
            str(name): stats.estimate(samples, result["statistic"])
            for name, samples in (result.get("parts_s") or {}).items()
        }

    @property
    def batch(self) -> int:
        """Images in that batch; fewer than asked for where memory ran out."""
        return int(self.row["result"]["batch"])

    @cached_property
    def images_per_s(self) -> stats.Estimate:
        """Images that one second takes, with the interval of the seconds."""
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
        yield from _about(self.estimate)

    def check(self) -> None:
        """Read everything that a report will read.

        Raises:
            ValueError: a time that is none; and whatever else reading a damaged row raises.
        """
        result = self.row["result"] or {}
        if self.ok:
            count_of(result["batch"], least=1)
        if self.ok and not self.images_per_s.value > 0:
            raise ValueError("not a time")
        if self.ok:
            _check_shares(self.row, 1)
        joules = result.get("joules_per_image")
        if joules is not None and not (is_a(joules, (int, float)) and joules > 0):
            raise ValueError("not an energy")
        for name in ("peak_memory_bytes", "batch_requested"):
            if result.get(name) is not None:
                count_of(result[name])
        if self.ok and not all(seconds.value > 0 for seconds in self.by_module.values()):
            raise ValueError("not the time of a part")
        _ = self.notes


@dataclass(frozen=True)
class Comparison(Measured):
    """Two cases measured in turns, or the reason why they could not be."""

    other: Case

    @property
    def cases(self) -> tuple[Case, ...]:
        """The two that were compared."""
        return self.case, self.other

    @cached_property
    def estimate(self) -> stats.Estimate:
        """The time of the first for an image as a multiple of the other's."""
        return visits.ratio(self.row)

    def among(self, looked_at: int) -> stats.Estimate:
        """The estimate, with an interval that holds for the most extreme of so many comparisons."""
        return visits.ratio(self.row, looked_at)

    def _notes(self, result: dict[str, Any]) -> Iterable[str]:
        yield from super()._notes(result)
        yield from _about(self.estimate)

    def check(self) -> None:
        """Read everything that a report will read.

        Raises:
            ValueError: a ratio that is none; and whatever else reading a damaged row raises.
        """
        if self.ok and not self.estimate.value > 0:
            raise ValueError("not a ratio")
        if self.ok:
            _check_shares(self.row, 2)
            _ = [count_of(batch, least=1) for batch in self.row["result"]["batch"]]
        _ = self.notes


def comparison(row: Row) -> Comparison:
    """The comparison of a row, which names its two cases by their results, or where it has none by `A / B`."""
    first, _, other = row["case"].partition(" / ")
    if row["outcome"] == "ok":
        first, other = row["result"]["a"], row["result"]["b"]
    return Comparison(parsed(first), row, parsed(other))


# The fields of a profile's line that are texts or lists of them; all others are numbers that are not below 0.
LINE_TEXTS = ("phase", "name", "dtype")
LINE_NEEDS = ("phase", "name", "calls", "ms", "share")  # what is unknown of the others is left out


@dataclass(frozen=True)
class Profiled(Timing):
    """One profiled case, or the reason why it could not be profiled. Its time is that without the profiler."""

    def parts(self, by: str, peaks: Peaks | None = None) -> list[profiles.Part]:
        """Its lines by operator, call, kernel or module, over its visits; of one iteration."""
        result = self.row["result"]
        of_visits = [lines[by] for lines in result.get("visits_lines") or [result["lines"]]]
        return profiles.parts(self.row, by, peaks) if all(of_visits) else []

    def check(self) -> None:
        """Read everything that a report will read.

        Raises:
            ValueError: a value that is none; and whatever else reading a damaged row raises.
        """
        super().check()
        if not self.ok:
            return
        result = self.row["result"]
        for name in ("attributed", "known", "idle_share", "outside_share", "busy_s", "perturbation"):
            if result.get(name) is not None and not (is_a(result[name], (int, float)) and result[name] >= 0):
                raise ValueError(f"its {name} is no share")
        for by in ("operator", "module"):
            for record in result["lines"][by]:
                _check_line(record)
        of_operators = self.parts("operator")
        _ = self.parts("module")  # which may raise
        if not sum(part.line.ms for part in of_operators if part.line.phase == "all") > 0:
            raise ValueError("nothing took any time")
        for reason in [*(result.get("unjoined") or []), *(result.get("unattributed") or [])]:
            texts = [reason["why"], *reason["names"]]
            if not all(isinstance(text, str) for text in texts) or not is_a(reason["share"], (int, float)):
                raise ValueError("a reason of another type")


def _check_line(record: dict[str, Any]) -> None:
    """Hold a line of a profile to what it has to be; what is unknown in it is left out.

    Raises:
        ValueError: a value of another type.
    """
    for name in tables.FIELDS:
        value = record.get(name)
        if name == "remarks":
            is_good = value is None or (
                isinstance(value, list) and all(isinstance(each, str) for each in value)
            )
        elif value is None:
            is_good = name not in LINE_NEEDS
        elif name in LINE_TEXTS:
            is_good = isinstance(value, str)
        else:
            is_good = is_a(value, (int, float)) and value >= 0
        if not is_good:
            raise ValueError(f"a line's {name} is of another type")


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
        """The surplus of the other's count over ours, relative to ours."""
        return self.macs / self.ours - 1 if self.ours else 0.0


@dataclass(frozen=True)
class Counts:
    """The counts of one case: the same for each of its implementations, batches and dtypes."""

    case: Case
    row: Row

    @property
    def ok(self) -> bool:
        """Whether counting succeeded."""
        return bool(self.row["outcome"] == "ok")

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return int(self.row["result"]["parameters"])

    @cached_property
    def macs(self) -> dict[str, int]:
        """MACs of one image, by convention."""
        conventions = self.row["result"]["conventions"]
        return {name: int(counted["macs"]) for name, counted in conventions.items()}

    def by_operator(self, convention: str) -> dict[str, int]:
        """MACs of one image in a convention, by operator."""
        return dict(self.row["result"]["conventions"][convention]["by_operator"])

    @property
    def least_traffic(self) -> tuple[int, int] | None:
        """Elements that must be moved for each image, and once for a batch; None unless the case is a core."""
        traffic = self.row["result"].get("least_traffic")
        return (int(traffic[0]), int(traffic[1])) if traffic else None

    @property
    def cross_checks(self) -> list[CrossCheck]:
        """The counts of other counters for the same case."""
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

    def check(self) -> None:
        """Read everything that a report will read.

        Raises:
            ValueError: a count that is none; and whatever else reading a damaged row raises.
        """
        if not self.ok:
            return
        result = self.row["result"]
        count_of(result["parameters"])
        if "core" not in result["conventions"]:
            raise ValueError("no MACs as core counts them, which every rate is made of")
        for counted in result["conventions"].values():
            count_of(counted["macs"])
            _ = [count_of(macs) for macs in counted["by_operator"].values()]
        _ = self.cross_checks, self.least_traffic
        if moved := result.get("traffic"):
            for part in (
                part for by in ("by_operator", "by_module") for part in (moved.get(by) or {}).values()
            ):
                if not all(type(value) is int for value in Traffic(**part)):
                    raise ValueError("not a count of what is moved")
