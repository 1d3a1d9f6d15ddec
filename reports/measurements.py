"""One row of a results file, read and checked: a time, a comparison, a profile, a count, an analysis of branches."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import cache, cached_property
from typing import Any

from bench import profiles, stats, visits
from bench.cases import RUN_OPTIONS, Case, parse
from bench.jobs import HARNESSES
from bench.record import Row
from bench.roofline import Peaks
from bench.text import printable
from bench.trace import tables

BRANCHES = ("com", "attn", "up")
PAIRS = ("attn_com", "up_com", "up_attn")  # pairs of branches


@cache
def parsed(text: str) -> Case:
    """The case of a text. A report meets the same text in many rows and studies, and parses it once."""
    return parse(text)


def when(row: Row) -> str:
    """When a row was measured, as it stands there: UTC, ISO 8601."""
    return str(row.get("when") or "")


def moment(row: Row) -> str:
    """When a row was measured, for people."""
    return when(row).replace("T", " ").replace("+00:00", " UTC")


# ---- rows from anywhere

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

Tree = dict[
    str, tuple[Any, "Tree"]
]  # SHAPE by its first names: the types, if there are any, and what is below


def _tree(shape: dict[tuple[str, ...], Any]) -> Tree:
    firsts = dict.fromkeys(path[0] for path in shape)
    return {
        name: (
            shape.get((name,)),
            _tree({path[1:]: types for path, types in shape.items() if path[0] == name and path[1:]}),
        )
        for name in firsts
    }


_TREE = _tree(SHAPE)


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
    _check_types(row, _TREE, ())
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
    if not is_a(value, int) or value < least:
        raise ValueError("not a count")
    return int(value)


def check_peaks(result: dict[str, Any]) -> None:
    """Hold the result of a `peaks` row to being rates.

    Raises:
        ValueError: a rate that is none; and whatever else reading a damaged row raises.
    """
    rates = [*result["tflops"].values(), *filter(None, [result.get("bandwidth_gb_s")])]
    if not rates or not all(is_a(rate, (int, float)) and rate > 0 for rate in rates):
        raise ValueError("not a rate")


def _check_types(value: Any, tree: Tree, path: tuple[str, ...]) -> None:
    """Hold the values of a mapping, by their names or by *, to their types; what is unknown or no mapping has none."""
    if not isinstance(value, dict):
        return
    for name, (types, below) in tree.items():
        for inner in value.values() if name == "*" else [value.get(name)]:
            if inner is not None and types and not is_a(inner, types):
                raise ValueError(f"its {' '.join((*path, name))} is of another type")
            if below:
                _check_types(inner, below, (*path, name))


def _check_numbers(value: Any) -> None:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_numbers(inner)
    elif isinstance(value, int | float) and not -LARGEST < value < LARGEST:  # nor does NaN compare
        raise ValueError("a number that is none, or too large to be one")


# ---- times, comparisons, counts


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
        """What was measured."""
        return (self.case,)

    def unlike(self, other: Measured) -> list[str]:
        """What it was measured with that the other was not, a note each: such two numbers do not compare."""
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
        """How many times as long the first takes for an image as the other."""
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
            _ = self.parts(by)
        if not sum(part.line.ms for part in self.parts("operator") if part.line.phase == "all") > 0:
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
    for field in fields(tables.Line):
        value = record.get(field.name)
        if field.name == "remarks":
            is_good = value is None or (
                isinstance(value, list) and all(isinstance(each, str) for each in value)
            )
        elif value is None:
            is_good = field.name not in LINE_NEEDS
        elif field.name in LINE_TEXTS:
            is_good = isinstance(value, str)
        else:
            is_good = is_a(value, (int, float)) and value >= 0
        if not is_good:
            raise ValueError(f"a line's {field.name} is of another type")


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
        """How much more the other counts, relative to ours."""
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
        for name, counted in result["conventions"].items():
            count_of(counted["macs"])
            _ = [count_of(macs) for macs in self.by_operator(name).values()]
        _ = self.cross_checks, self.least_traffic


# ---- analyses of branches


@dataclass(frozen=True)
class BranchRow:
    """One analysis of one case: what the model was, and what it was shown."""

    row: Row

    @property
    def _result(self) -> dict[str, Any]:
        return self.row["result"]

    @property
    def blocks(self) -> list[str]:
        """Names of the blocks, in the order in which an image goes through them."""
        return [str(block) for block in self._result["blocks"]]

    @property
    def is_trained(self) -> bool:
        """Whether weights came from a file; what a user's own class starts with is not known."""
        return bool(self._result["weights"]["source"] == "file")

    @property
    def is_of_photographs(self) -> bool:
        """Whether it looked at a folder of images, not at synthetic ones."""
        return bool(self._result["images"]["source"] == "folder")

    @property
    def is_shown(self) -> bool:
        """Whether it is fit for a figure."""
        return True

    @property
    def rank(self) -> tuple[bool, bool, str]:
        """The larger, the more it says: trained weights, then photographs, then the newest."""
        return self.is_trained, self.is_of_photographs, when(self.row)

    @property
    def model(self) -> str:
        """`ResTv2-T [mhim] at 224 × 224`, without its weights and images, which have words of their own."""
        case = parsed(self.row["case"])
        told = {*RUN_OPTIONS, "weights"}
        title = replace(case, options=tuple(pair for pair in case.options if pair[0] not in told)).title
        return f"{title} at {' × '.join(map(str, case.size))}"

    @property
    def weights(self) -> str:
        """Where the weights came from, in words."""
        return {
            "file": f"weights of {self._result['weights']['file']}",
            "initial": "initial weights",
            "module": "weights as its class makes them",
        }[self._result["weights"]["source"]]

    @property
    def images(self) -> str:
        """The images that were looked at, in words."""
        images = self._result["images"]
        used, there = int(images["used"]), int(images["found"])
        if not self.is_of_photographs:
            return f"{used} synthetic images"
        return f"{f'{used:,} of ' if used < there else ''}{there:,} images in {images['folder']}"

    @property
    def subtitle(self) -> str:
        """Model, weights and images in a line, with what a reader must not take the analysis for."""
        text = f"{self.model}, {self.weights}, {self.images}"
        if self._result["weights"]["source"] == "initial":
            return f"{text}: curves of an untrained network."
        return f"{text}." if self.is_of_photographs else f"{text}, no photographs."

    def _values(self, values: Iterable[Any], count: int) -> list[float]:
        numbers = [float(value) for value in values]
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            raise ValueError(f"not {count} finite numbers")
        return numbers

    def check(self) -> None:
        """Read everything that a report will read.

        Raises:
            Exception: whatever reading a damaged row raises.
        """
        if not self.blocks:
            raise ValueError("no block")
        _ = self.subtitle, self.rank


@dataclass(frozen=True)
class Spectra(BranchRow):
    """Relative log amplitudes of each block's branches: a row of harness `fourier`."""

    @cached_property
    def frequencies(self) -> list[list[float]]:
        """The frequencies of each block, in units of π."""
        per_block = self._for_each_block(self._result["frequencies"])
        return [self._values(frequencies, len(frequencies)) for frequencies in per_block]

    @cached_property
    def curves(self) -> dict[str, list[list[float]]]:
        """Curves of each branch, block by block, at its frequencies: ln of the amplitude, less its value at 0."""
        return {
            name: [
                self._values(values, len(frequencies))
                for values, frequencies in zip(
                    self._for_each_block(self._result["log_amplitude"][name]), self.frequencies, strict=True
                )
            ]
            for name in BRANCHES
        }

    def _for_each_block(self, lists: list[list[Any]]) -> list[list[Any]]:
        if len(lists) != len(self.blocks) or not all(lists):
            raise ValueError(f"not a curve for each of {len(self.blocks)} blocks")
        return lists

    def check(self) -> None:
        """Read the curves too."""
        super().check()
        _ = self.curves


@dataclass(frozen=True)
class Similarity(BranchRow):
    """Linear CKA of the branches, block by block: a row of harness `cka`."""

    @property
    def is_shown(self) -> bool:
        """Whether it is of so many images that it is more than noise."""
        return int(self._result["images"]["used"]) >= stats.CKA_SHOWN

    @property
    def is_told(self) -> bool:
        """Whether it is of so many images that blocks can be told apart by it."""
        return int(self._result["images"]["used"]) >= stats.CKA_TOLD

    @cached_property
    def cka(self) -> dict[str, list[float]]:
        """CKA of each pair of branches, block by block."""
        return {name: self._values(self._result["cka"][name], len(self.blocks)) for name in PAIRS}

    def check(self) -> None:
        """Read the values too."""
        super().check()
        _ = self.cka


READERS: dict[str, type[Spectra] | type[Similarity]] = {"fourier": Spectra, "cka": Similarity}
