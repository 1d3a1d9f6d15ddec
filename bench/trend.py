"""The comparison of what is checked out with figures accepted for its GPU: slower code, or a slower machine?

Each restart also measures a matrix product and a copy. What takes longer in seconds has to take longer in those, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from math import log
from pathlib import Path
from statistics import median

from bench import baseline, gate, stats
from bench.baseline import Acceptance, Figures
from bench.cases import Case
from bench.errors import UsageError
from bench.gate import DIFFERENT, Finding, Plan
from bench.jobs import job_of
from bench.machine import provenance
from bench.machine.devices import Device
from bench.regress import FOLDER, Outcome, quiet
from bench.revisions import Repository
from bench.screen import Screen
from bench.stats import PRACTICAL, Verdict
from bench.suite import ALONE
from bench.taking import CALIBRATED, Reading, Taking, changes, environment_of, taking

RESTARTS = 12  # behind accepted figures
# What a case is measured by: the second, and what this machine takes for a product and for a copy.
UNITS = (
    lambda reading: log(reading.case),
    lambda reading: log(reading.case / reading.product),
    lambda reading: log(reading.case / reading.copy),
)


def accept(
    repository: Repository,
    cases: Sequence[Case],
    device: Device,
    results: Path,
    screen: Screen,
    reason: str,
    *,
    folder: Path = baseline.FOLDER,
    fresh: bool = False,
) -> tuple[Path, Acceptance]:
    """Measure what is checked out, and accept its figures; the file, and what was added to it.

    Raises:
        UsageError: no reason, changes that no commit has, a baseline that cannot be read, or figures that are accepted.
        Undecided: the host is busy.
        Failure: a case does not run, a process was lost, or the file cannot be written.
    """
    if not reason.strip():
        raise UsageError("figures are accepted for a reason: give --reason, which is kept with them")
    commit, earlier = repository.head(), baseline.read(device, folder)
    jobs = [job_of("turns", device, ALONE[device.kind], case) for case in dict.fromkeys(cases)]
    with _taking("accepted", commit, device, results, screen, fresh=fresh) as taken:
        jobs, left_out = taken.first(jobs)
        for case, why in left_out.items():
            screen.say(f"{case}: left out, {why}")
        again = taken.restart(jobs)
        readings: dict[str, list[Reading]] = {job.text: [] for job in jobs}
        for _ in range(RESTARTS):
            for case, reading in again(list(readings)).items():
                readings[case].append(reading)
    found = {case: Figures(of_case, taken.counts[case][0]) for case, of_case in readings.items()}
    if not found:
        raise UsageError("no case runs here: there is nothing to accept")
    if earlier and earlier[-1].cases == found:
        raise UsageError(f"these figures are accepted already ({earlier[-1].reason}): --fresh measures anew")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    cpu = provenance.host()["cpu"]
    accepted = Acceptance(now, commit, " ".join(reason.split()), environment_of(device), cpu, found)
    return baseline.accept(accepted, device, folder), accepted


def compare(
    repository: Repository,
    cases: Sequence[Case],
    device: Device,
    results: Path,
    screen: Screen,
    *,
    folder: Path = baseline.FOLDER,
    fresh: bool = False,
    plan: Plan | None = None,
) -> Outcome:
    """Compare what is checked out with the accepted figures of its device.

    Raises:
        UsageError: there are none, or they cannot be read; or changes that no commit has.
        Undecided: the host is busy.
        Failure: a case does not run, or a process was lost.
    """
    accepted = baseline.newest(baseline.read(device, folder))
    if not accepted:
        raise UsageError(
            f"no figures are accepted for {device.key}: {baseline.path_of(device, folder)} is not there; "
            f"make baseline GPU={device.key} REASON=… makes it, and --base REV compares with a commit"
        )
    commit = repository.head()
    jobs = [job_of("turns", device, ALONE[device.kind], case) for case in dict.fromkeys(cases)]
    left_out = {job.text: "no figures of it are accepted" for job in jobs if job.text not in accepted}
    jobs = [job for job in jobs if job.text in accepted]
    if not jobs:
        raise UsageError(f"no figures of {', '.join(left_out)} are accepted: make baseline accepts them")
    warnings = _changed(device, [accepted[job.text] for job in jobs])
    for warning in warnings:
        screen.say(warning)
    with _taking("trend", commit, device, results, screen, fresh=fresh) as taken:
        jobs, without = taken.first(jobs)
        then = {job.text: accepted[job.text].cases[job.text] for job in jobs}
        judge = partial(judge_readings, then={case: figures.readings for case, figures in then.items()})
        findings = gate.settle(list(then), taken.restart(jobs), judge, plan)
    changed = {case: changes(taken.counts[case][0], figures.counts) for case, figures in then.items()}
    if not findings:
        raise UsageError(f"no case can be compared: {next(iter(without.values()))}")
    return Outcome(findings, changed, {**left_out, **without}, [*warnings, *taken.warnings()])


@contextmanager
def _taking(
    file: str, commit: str, device: Device, results: Path, screen: Screen, *, fresh: bool
) -> Iterator[Taking[Reading]]:
    """Visits to what is checked out, on a quiet machine; `fresh` takes anew what is there."""
    with (
        quiet(device, screen),
        taking(results / FOLDER / f"{file}.jsonl", CALIBRATED, [commit], [None], device, screen) as taken,
    ):
        if fresh:
            taken.known.clear()
        yield taken


def _changed(device: Device, acceptances: Sequence[Acceptance]) -> list[str]:
    """Lines on what of the environment is other than when figures were accepted."""
    lines = []
    for each in {acceptance.when: acceptance for acceptance in acceptances}.values():
        named = environment_of(device).since(each.environment)
        cpu = provenance.host()["cpu"]
        named += [f"the host's CPU {each.cpu} → {cpu}"] if each.cpu != cpu else []
        if named:
            lines.append(f"changed since figures were accepted ({each.reason}): {', '.join(named)}")
    return lines


def judge_readings(
    visits: Mapping[str, Sequence[Reading]], then: Mapping[str, Sequence[Reading]]
) -> dict[str, Finding]:
    """The finding of each case by the readings that there are, beside those that were accepted.

    Slower or faster is what is so in seconds, in products and in copies, and beside all other cases (Holm): a machine
    that changed moves what takes as long as either. What takes the same seconds on a machine that changed is undecided.
    """
    found, chances = {}, {}
    for case, now in visits.items():
        samples = [([unit(each) for each in now], [unit(each) for each in then[case]]) for unit in UNITS]
        restarts = len(now)
        alike = 2 / (1 / restarts + 1 / len(then[case]))  # as many on both sides would tell as much
        in_seconds, *by_machine = (
            gate.found_of(stats.beside(new, old), _noise(old), restarts, alike) for new, old in samples
        )
        verdicts = {finding.verdict for finding in by_machine}
        product, copy = (
            median(unit(each) for each in now) / median(unit(each) for each in then[case])
            for unit in (lambda reading: reading.product, lambda reading: reading.copy)
        )
        machine = (
            f"the machine's own product takes {product:.3f} and its copy {copy:.3f} times as long as then"
        )
        if in_seconds.verdict in DIFFERENT and verdicts != {in_seconds.verdict}:
            in_seconds = in_seconds.doubted(f"{in_seconds.verdict.value} in seconds alone: {machine}")
        elif in_seconds.verdict is Verdict.SAME and len(verdicts) == 1 and verdicts <= set(DIFFERENT):
            in_seconds = in_seconds.doubted(f"the same in seconds, on a machine that is not: {machine}")
        found[case] = in_seconds
        chances[case] = max(stats.chance_beside(new, old) for new, old in samples)
    stand = stats.holm(chances)
    for case, finding in found.items():
        if finding.verdict in DIFFERENT and case not in stand:
            found[case] = finding.doubted(
                f"{finding.reason}, and by chance one of {len(visits)} cases may look so"
            )
    return found


def _noise(logs: Sequence[float]) -> float:
    """The noise of accepted figures: how far apart their halves may lie, as those of an A/A run."""
    half = len(logs) // 2
    return gate.width(stats.beside(logs[half:], logs[:half])) if half > 1 else PRACTICAL
