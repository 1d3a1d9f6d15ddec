"""Visits joined to one measurement: a row a visit in the file, one row for whoever reads it. No torch.

A row of a visit has its number in `visit`, and in `group` what its fellows share: same case, code, versions, device and
protocol. The joined row looks like that of one visit; its `result` has the samples of all of them, and by visit in
`visits_s` (`visits_blocks` of a comparison; `visits_lines` of a profile). `visits` has the rows. A row without `visit`
is one visit.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from bench import record, stats
from bench.cases import Case, breaks, parsed
from bench.record import Row
from bench.stats import Estimate

LAUNCH_BOUND = 0.9  # a GPU that computes for less of an iteration waits for the CPU
SAMPLED = {"samples_s": "visits_s", "blocks": "visits_blocks"}


def group_of(row: Row) -> str:
    """The name that the visits to one case have in common."""
    return str(row.get("group") or row["key"])


def asked(row: Row) -> int:
    """The number of visits that the protocol of a row asks for."""
    return int((row.get("protocol") or {}).get("visits") or 1)


def groups(rows: list[Row]) -> list[list[Row]]:
    """The visits to each case, in the order of their last rows. Of each key, and of each visit, the last row counts."""
    found: dict[tuple[Any, ...], dict[Any, Row]] = {}
    for row in record.newest(rows).values():
        name = (group_of(row), row["harness"], row["case"])
        members = found.pop(name, {})
        members.pop(row.get("visit"), None)
        found[name] = {**members, row.get("visit"): row}
    return [list(members.values()) for members in found.values()]


def join(rows: Sequence[Row]) -> Row:
    """The rows of one group as one: of those that have a result, if any has."""
    if len(rows) == 1 and asked(rows[0]) == 1:
        return rows[0]
    good = [row for row in rows if row["outcome"] == "ok"]
    if not good:
        return {**rows[-1], "visits": list(rows)}
    batches = [row["result"].get("batch") for row in good]
    batch = max(batches, key=lambda each: (batches.count(each), each))  # that of most; of as many, the larger
    alike = sorted(
        (row for row in good if row["result"].get("batch") == batch), key=lambda row: row.get("visit") or 0
    )
    notes = [note for row in alike for note in row.get("notes") or []]
    notes += [f"a visit {row['outcome']}: {row.get('reason')}" for row in rows if row["outcome"] != "ok"]
    if (count := len({(row.get("device") or {}).get("uuid") for row in alike})) > 1:
        notes.append(f"its visits are of {count} devices of this type, as shards were given them")
    if len(alike) < len(good):
        notes.append("some visits ran at another batch and are left out")
    return {
        **good[-1],
        "notes": list(dict.fromkeys(notes)),
        "spent": _sums([row["spent"] for row in alike if isinstance(row.get("spent"), dict)]),
        "result": _results([row["result"] for row in alike]),
        "visits": list(rows),
    }


def _sums(spent: Sequence[dict[str, Any]]) -> dict[str, float]:
    names = dict.fromkeys(name for seconds in spent for name in seconds)
    return {name: sum(seconds.get(name, 0.0) for seconds in spent) for name in names}


def _results(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The results of visits as one."""
    first = results[0]
    whole = dict(first)
    for name, by_visit in SAMPLED.items():
        if name in first:
            whole[by_visit] = [result[name] for result in results]
            whole[name] = [sample for result in results for sample in result[name]]
    if any("settling" in result for result in results):
        whole["visits_settling"] = [result.get("settling") for result in results]
    if first.get("parts_s"):
        whole["parts_s"] = {
            part: [sample for result in results for sample in result["parts_s"][part]]
            for part in first["parts_s"]
        }
    if "lines" in first:  # of a profile
        whole["visits_lines"] = [result["lines"] for result in results]
        whole["profiled_s"] = [seconds for result in results for seconds in result["profiled_s"]]
        for name in ("perturbation", "busy_s", "idle_share", "outside_share", "known", "attributed"):
            values = [value for result in results if (value := result[name]) is not None]
            whole[name] = statistics.fmean(values) if values else None  # so that shares add up
        for name in ("unattributed", "unjoined"):
            whole[name] = _reasons([result[name] for result in results])
    if "discarded" in first:
        whole["discarded"] = sum(result["discarded"] for result in results)
    for name in ("throttled", "power_capped"):
        if name in first:
            whole[name] = any(result[name] for result in results)
    if peaks := [peak for result in results if (peak := result.get("peak_memory_bytes"))]:
        whole["peak_memory_bytes"] = max(peaks)
    if joules := [each for result in results if (each := result.get("joules_per_image"))]:
        whole["joules_per_image"] = statistics.median(joules)
    if "device_share" in first:
        shares = [result.get("device_share") for result in results]
        if isinstance(first["device_share"], list):
            whole["device_share"] = [_median(of_one) for of_one in zip(*shares, strict=True)]
        else:
            whole["device_share"] = _median(shares)
    return whole


def _reasons(of_visits: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The reasons of all visits, each with its mean share and the names that the first visit gives."""
    shares: dict[str, float] = {}
    names: dict[str, list[str]] = {}
    for reason in (reason for reasons in of_visits for reason in reasons):
        shares[reason["why"]] = shares.get(reason["why"], 0.0) + reason["share"] / len(of_visits)
        names.setdefault(reason["why"], reason["names"])
    return [
        {"why": why, "share": shares[why], "names": names[why]}
        for why in sorted(shares, key=lambda why: -shares[why])
    ]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


# ---- what a joined row says


def seconds(row: Row) -> Estimate:
    """Seconds of an iteration: over the visits, or by the protocol's statistic of the samples of the only one."""
    result = row["result"]
    if (visits := asked(row)) > 1:
        settling = result.get("visits_settling") or [result.get("settling")]
        return stats.over_visits(
            result.get("visits_s") or [result["samples_s"]],
            visits,
            settling=[stats.Drift(**drift) if drift else None for drift in settling],
        )
    found = stats.estimate(result["samples_s"], result["statistic"])
    why = "" if found.low else f"{result['statistic']} of {found.n} samples"
    return Estimate(found.value, found.low, found.high, found.n, why, within_run=True)


def ratio(row: Row, looked_at: int = 1) -> Estimate:
    """The time of the first of two for an image as a multiple of the second's, over the visits of their comparison.

    Args:
        looked_at: comparisons of which this one is picked for what it says: its interval is then wider.
    """
    result = row["result"]
    first, second = result["batch"]
    visits = result.get("visits_blocks") or [result["blocks"]]
    if (count := asked(row)) > 1:
        by_visit = [stats.ratios(blocks, (first, second)) for blocks in visits]
        estimate = stats.over_visits(by_visit, count, stats.corrected(looked_at))
        return replace(estimate, blocks=sum(map(len, visits)))
    estimate = stats.ratio(result["blocks"], (first, second))
    why = "" if estimate.low else f"{estimate.n} blocks are too few"
    return replace(estimate, within_run=True, why=why, blocks=estimate.n)


def device_shares(row: Row) -> list[float | None]:
    """The share of an iteration in which the GPU computed, of each case of a row; None where it is not known."""
    shares = (row["result"] or {}).get("device_share") if row["outcome"] == "ok" else None
    return list(shares) if isinstance(shares, list) else [shares]


def is_launch_bound(row: Row) -> bool:
    """Whether a time of the row is that of the CPU's launches: nothing can be read from it about the computing."""
    return any(share is not None and share < LAUNCH_BOUND for share in device_shares(row))


def notes(row: Row) -> list[str]:
    """The notes of a row, those on the samples of all its visits among them."""
    found = list(row.get("notes") or [])
    if not is_launch_bound(row):
        return found
    cases = [parsed(text) for text in row["case"].split(" / ")]
    for case, share in zip(cases, device_shares(row), strict=True):
        if share is not None and share < LAUNCH_BOUND:
            whose = f"{case}: " if len(cases) > 1 else ""
            found.append(
                f"{whose}launch-bound: the GPU computed {100 * share:.0f} % of the time, and waited for the CPU's "
                f"launches for the rest{_instead(case)}"
            )
    return found


@cache  # a report asks it of many rows of one case
def _instead(case: Case) -> str:
    """Advice on how to time the same without launches; none where that cannot be."""
    if case.has("graph"):
        return ""
    graphed = replace(case, options=(*case.options, ("graph", True)))
    return (
        "; a larger batch waits less"
        if breaks(graphed, "run")
        else "; with [graph] or a larger batch it waits less"
    )
