"""The history of the regression suite: what was accepted and what was measured of each case, commit by commit.

Accepted figures are those of bench/baselines/<gpu>.json; measured ones the rows of results/<gpu>/regress/, which
`python -m bench regress` left: of what was checked out alone, and of two commits in turns.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import baseline, cases, record, stats
from bench.errors import Failure, UsageError
from bench.record import Row
from bench.stats import Estimate
from reports.columns import COUNT, NUMBER, WORDS, Column
from reports.figures import (
    INK,
    MUTED,
    WIDE,
    Plot,
    finish,
    grid_behind,
    new_figure,
    no_minor_ticks,
)
from reports.results import answers
from reports.rows import shown
from reports.tables import Table, made_of
from reports.text import sentences, significant

NAME = "history"  # begins the names of its files
DRAWN = 30  # commits, the newest
ACCEPTED = "accepted"
# By how a figure was taken: marker and colour. All three are seconds of an iteration on the same device.
LOOKS = {ACCEPTED: ("D", "#BF5300"), "alone": ("o", "#0072B2"), "in turns": ("s", "#00795A")}


@dataclass(frozen=True)
class Entry:
    """Seconds of a case at a commit, over restarts."""

    when: str  # UTC, ISO 8601, when the last restart ended
    commit: str
    case: str
    source: str  # a key of LOOKS
    seconds: Estimate
    device: str
    uuid: str = ""  # of the very device, empty where that is not known
    reason: str = ""  # for which it was accepted


COLUMNS: tuple[Column[Entry], ...] = (
    Column("time", "when", lambda entry: entry.when[:16].replace("T", " "), WORDS),
    Column("commit", "commit", lambda entry: entry.commit[:12], WORDS),
    Column("case", "case", lambda entry: entry.case, WORDS),
    Column("source", "figure", lambda entry: entry.source, WORDS),
    Column("ms", "ms", lambda entry: 1e3 * entry.seconds.value, NUMBER),
    Column("low", "from", lambda entry: entry.seconds.low and 1e3 * entry.seconds.low, NUMBER),
    Column("high", "to", lambda entry: entry.seconds.high and 1e3 * entry.seconds.high, NUMBER),
    Column("restarts", "restarts", lambda entry: entry.seconds.n, COUNT),
    Column("reason", "accepted for", lambda entry: entry.reason, WORDS),
)
UUID: Column[Entry] = Column("uuid", "uuid", lambda entry: entry.uuid, WORDS)  # shown where there are several


def latest(results: Path, accepted: Path) -> str | None:
    """The device whose history was written last; None where there is none."""
    files = [*results.glob("*/regress/*.jsonl"), *accepted.glob("*.json")]
    newest = max(files, key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is None:
        return None
    return newest.stem if newest.parent == accepted else newest.parent.parent.name


def entries(key: str, folder: Path, accepted: Path, case: str | None = None) -> list[Entry]:
    """The history of a device, or of one case of it, the oldest figure first.

    Args:
        key: the device's.
        folder: its results.
        accepted: the folder of baselines.
        case: as a user writes it; an open batch or dtype is any.

    Raises:
        UsageError: a baseline that cannot be read, or no such case, with the nearest there is.
        Failure: there is no history.
    """
    read = map(shown, record.read(folder / "regress").rows)
    rows = [row for row in read if row["outcome"] == "ok" and _is_whole(row)]
    found = [*_accepted(key, accepted), *_measured(rows)]
    if not found:
        raise Failure(
            f"no history of {key}: neither {accepted / key}.json nor rows in {folder / 'regress'}/; "
            "`make regress` makes some"
        )
    found.sort(key=lambda entry: (entry.when, entry.source))
    if case is None:
        return found
    asked, known = cases.parse(case), dict.fromkeys(entry.case for entry in found)
    wanted = {text for text in known if _answers(text, asked)}
    if not wanted:
        raise cases.unknown("case", case, known)
    return [entry for entry in found if entry.case in wanted]


def _is_whole(row: Row) -> bool:
    """Whether a row, which other hands may have written, has what an entry is made of."""
    device, result = row.get("device"), row.get("result")
    if row["harness"] not in ("turns", "calibrated") or record.damage(row["harness"], result) is not None:
        return False
    assert isinstance(result, dict)
    of_turns = row["harness"] == "turns"
    taken, least = (result["blocks"], 4) if of_turns else (result["rounds"], 1)
    commits = result.get("revisions") or []
    return (
        isinstance(device, dict)
        and isinstance(device.get("name"), str)
        and all(isinstance(row.get(name), str) for name in ("group", "when", "study"))
        and isinstance(commits, list)
        and len(commits) <= (2 if of_turns else 1)
        and all(isinstance(commit, str) for commit in commits)
        and isinstance(taken, list)
        and all(isinstance(each, list) and len(each) >= least for each in taken)
    )


def _answers(text: str, asked: cases.Case) -> bool:
    """Whether a case of the history is meant; one that has another name by now is not."""
    try:
        return answers(cases.parse(text), asked)
    except UsageError:
        return False


def _accepted(key: str, folder: Path) -> Iterator[Entry]:
    """The figures that were accepted for a device."""
    device, acceptances = baseline.load(folder / f"{key}.json")
    for each in acceptances:
        for case, figures in each.cases.items():
            seconds = stats.over_visits([[reading.case] for reading in figures.readings], 2)
            uuid = str(each.environment.device[0] or "")
            yield Entry(each.when, each.commit, case, ACCEPTED, seconds, device["name"], uuid, each.reason)


def _measured(rows: Iterable[Row]) -> Iterator[Entry]:
    """The figures that were measured, alone or in turns; neither A/A runs nor what was measured to be accepted."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in record.newest(list(rows)).values():
        for side in range(len(row["result"].get("revisions") or ())):
            groups.setdefault((row["group"], side), []).append(row)
    for (_, side), of_group in groups.items():
        last = of_group[-1]
        commits, is_alone = last["result"]["revisions"], last["harness"] == "calibrated"
        if (len(commits) == 2 and commits[0] == commits[1]) or last["study"] == ACCEPTED:
            continue
        seconds = stats.over_visits([_samples(row["result"], side) for row in of_group], 2)
        when = max(row["when"] for row in of_group)
        source = "alone" if is_alone else "in turns"
        device = last["device"]
        uuid = str(device.get("uuid") or "")
        yield Entry(when, commits[side], last["case"], source, seconds, device["name"], uuid)


def _samples(result: dict[str, Any], side: int) -> list[float]:
    """Seconds of one side in a row's rounds or blocks; the new side's are the outer ones."""
    if "rounds" in result:
        return [of_round[0] for of_round in result["rounds"]]
    return [seconds for block in result["blocks"] for seconds in (block[1:3] if side else block[::3])]


def files(found: Sequence[Entry]) -> dict[str, str]:
    """The history for other tools, by the name of its file."""
    return {
        f"{NAME}.csv": to_csv(found),
        f"{NAME}_wide.csv": to_wide_csv(found),
        f"{NAME}_bencher.json": json.dumps(to_metrics(found), indent=1) + "\n",
    }


def to_csv(found: Sequence[Entry]) -> str:
    """The history as CSV, an entry a line: for a frame, or, of one case, for Otava."""
    names = (
        "time",
        "commit",
        "case",
        "source",
        "device",
        "uuid",
        "seconds",
        "low",
        "high",
        "restarts",
        "reason",
    )
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for entry in found:
        seconds = entry.seconds
        ends = (seconds.value, seconds.low, seconds.high, seconds.n)
        writer.writerow(
            [
                *(entry.when, entry.commit, entry.case, entry.source, entry.device, entry.uuid),
                *(*ends, entry.reason),
            ]
        )
    return file.getvalue()


def to_wide_csv(found: Sequence[Entry]) -> str:
    """The measured figures as CSV, a commit a line and a case a column of seconds: as Otava reads it, in order of time.

    Where a commit was measured more than once, its newest figure is taken.
    """
    names = dict.fromkeys(entry.case for entry in found)
    lines: dict[str, dict[str, Any]] = {}
    for entry in found:
        if entry.source != ACCEPTED:
            line = lines.setdefault(entry.commit, {"time": entry.when, "commit": entry.commit})
            line[entry.case] = entry.seconds.value
    file = io.StringIO()
    writer = csv.DictWriter(file, ["time", "commit", *names], lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines.values())
    return file.getvalue()


def to_metrics(found: Sequence[Entry]) -> dict[str, Any]:
    """The newest measured figure of each case in Bencher's metric format: nanoseconds with their interval."""
    newest = {entry.case: entry.seconds for entry in found if entry.source != ACCEPTED}
    return {
        case: {
            "latency": {
                "value": 1e9 * seconds.value,
                **(
                    {"lower_value": 1e9 * seconds.low, "upper_value": 1e9 * seconds.high}
                    if seconds.low and seconds.high
                    else {}
                ),
            }
        }
        for case, seconds in newest.items()
    }


def table(found: Sequence[Entry]) -> Table:
    """The history as a table, with the very device of each figure where it is of several."""
    columns = (*COLUMNS, UUID) if len(_devices(found)) > 1 else COLUMNS
    caption = sentences("Milliseconds of an iteration, over restarts", _caveat(found))
    return made_of(columns, found, NAME, f"History on {found[0].device}", caption)


def _devices(found: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.uuid for entry in found if entry.uuid))


def _caveat(found: Sequence[Entry]) -> str:
    """The caveat of a history that several devices of one type stand in; empty where it is one device."""
    devices = _devices(found)
    if len(devices) < 2:
        return ""
    return f"Figures are of {len(devices)} devices, so that a step may be one from device to device"


def draw(found: Sequence[Entry]) -> Plot:
    """A panel a case: figures over commits with their 95 % intervals, and what was accepted as a line from then on."""
    shown = dict.fromkeys(entry.case for entry in found)
    commits = list(dict.fromkeys(entry.commit for entry in found))[-DRAWN:]
    title = "Milliseconds of an iteration, commit by commit"
    subtitle = sentences(
        found[0].device,
        "Commits in the order in which they were measured; axes do not begin at zero",
        _caveat(found),
    )
    height = 0.9 + 1.5 * len(shown)
    with new_figure(WIDE, height, title, subtitle) as figure:
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axes, case in zip(panels, shown, strict=True):
            of_case = [entry for entry in found if entry.case == case and entry.commit in commits]
            axes.set_title(case)
            grid_behind(axes, "y")
            for beside, (source, (marker, colour)) in enumerate(LOOKS.items(), -1):
                points = [entry for entry in of_case if entry.source == source]
                places = [commits.index(entry.commit) + beside / 8 for entry in points]
                values = [1e3 * entry.seconds.value for entry in points]
                ends = [
                    [
                        1e3 * abs((end if end is not None else entry.seconds.value) - entry.seconds.value)
                        for entry, end in zip(points, side, strict=True)
                    ]
                    for side in ([p.seconds.low for p in points], [p.seconds.high for p in points])
                ]
                if points:
                    axes.errorbar(
                        places, values, ends, fmt=marker, color=colour, markersize=4, capsize=2, label=source
                    )
                if points and source == ACCEPTED:
                    steps = [*places, len(commits) - 0.5]
                    axes.step(steps, [*values, values[-1]], where="post", color=colour, linewidth=0.8)
            axes.set_ylabel("ms", color=INK)
        axes.set_xlim(-0.5, len(commits) - 0.5)
        axes.set_xticks(range(len(commits)), [commit[:7] for commit in commits], rotation=90, fontsize=7)
        no_minor_ticks(axes.xaxis)
        panels[0].legend(loc="best", frameon=False, fontsize=8, labelcolor=MUTED)
        alt = "; ".join(
            f"{case}: {significant(1e3 * last.seconds.value)} ms {last.source} at {last.commit[:7]}"
            for case in shown
            for last in [[entry for entry in found if entry.case == case][-1]]
        )
        return finish(figure, NAME, title, alt)
