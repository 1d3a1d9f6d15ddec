"""The profile of a case or of a trace: its rows by operator and by module, what they say, and their tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.roofline import Peaks
from bench.stats import Estimate
from bench.text import printable
from bench.trace import tables, told
from bench.trace.joined import PHASES, Joined
from bench.trace.tables import Line
from reports.columns import COUNT, HALF_WIDTH, NUMBER, SHARE, Column, Form
from reports.measurements import Profiled
from reports.tables import Table, made_of
from reports.text import hundredths, share, significant

LEAST, LEAST_OF_MANY = 0.001, 0.02  # share of the time from which on an operator is in a table
FEW, FEWEST_MODULES = 6, 3  # profiles that are not many; modules of each of very many
MODULES = 72  # in a table, of all profiles together
MOST_NAMES = 3  # of what takes longest for a reason


@dataclass(frozen=True)
class Profile:
    """One profile: rows of all phases, the longest first, and what is true of the whole. Times are of the device.

    Times of a case are of one iteration, those of a trace of all that was recorded.
    """

    title: str
    operators: Sequence[Line]
    modules: Sequence[Line] = ()
    phases: Mapping[str, Sequence[Line]] = field(
        default_factory=dict
    )  # operators of each, of a step of training
    estimates: Mapping[str, Estimate] = field(
        default_factory=dict
    )  # milliseconds of each operator, over visits
    device: str = ""
    peaks: Peaks = field(default_factory=Peaks)
    iteration_ms: float | None = None  # unprofiled
    attributed: float | None = None  # the share of the time that belongs to an operator
    idle: float | None = None  # the share of the iteration in which no kernel ran; None on a CPU
    perturbation: float | None = None  # a profiled iteration, as a multiple of an unprofiled one
    reasons: Sequence[Mapping[str, Any]] = ()  # why MACs are not known, or kernels are no operator's

    @property
    def ms(self) -> float:
        """Milliseconds of all calls."""
        return sum(line.ms for line in self.operators)

    @property
    def macs(self) -> float:
        """MACs of all calls, as far as they are known."""
        return sum(line.macs or 0 for line in self.operators)

    @property
    def known(self) -> float:
        """The share of the time in calls whose MACs are known."""
        return sum((line.macs_known or 0) * line.share for line in self.operators)

    @property
    def times(self) -> Mapping[str, float]:
        """The share of the time of each operator."""
        return {line.name: line.share for line in self.operators}

    @property
    def works(self) -> Mapping[str, float]:
        """The share of the MACs of each operator that has any."""
        return {line.name: line.macs_share for line in self.operators if line.macs_share}

    @property
    def without_macs(self) -> float:
        """The share of the time that is known to have no MACs."""
        return sum(line.share * (line.macs_known or 0) for line in self.operators if not line.macs)

    @property
    def gain_ms(self) -> float | None:
        """Milliseconds that all operators would save at their roofs, as far as these are known; None if no roof is."""
        gains = [gain for line in self.operators if (gain := gain_ms(line)) is not None]
        return sum(gains) if gains else None


def gain_ms(line: Line) -> float | None:
    """Milliseconds that a row's calls would save at their roof; None where that is unknown.

    It is of the calls whose MACs and bytes are known. None too where they are beyond their roof already.
    """
    if line.ms_at_roof is None or not line.share_of_attainable or line.share_of_attainable > 1:
        return None
    return line.ms_at_roof / line.share_of_attainable - line.ms_at_roof


# ---- where they come from


def of_trace(title: str, joined: Joined) -> Profile:
    """The profile of a trace that was read."""
    whole, by_operator = told.summary(joined), tables.lines(joined)
    return Profile(
        printable(title),
        _of_phase(by_operator, "all"),
        _of_phase(tables.lines(joined, "module"), "all"),
        _by_phase(by_operator),
        device=printable(joined.device),
        peaks=joined.peaks,
        attributed=whole["attributed"],
        idle=whole["idle"],
        reasons=_reasons(whole),
    )


def of_row(title: str, profiled: Profiled, peaks: Peaks, device: str) -> Profile:
    """The profile of a case, of one iteration."""
    parts, result = profiled.parts("operator", peaks), profiled.row["result"]
    by_operator = [part.line for part in parts]
    return Profile(
        title,
        _of_phase(by_operator, "all"),
        _of_phase([part.line for part in profiled.parts("module", peaks)], "all"),
        _by_phase(by_operator),
        {part.line.name: part.ms for part in parts if part.line.phase == "all"},
        device,
        peaks,
        iteration_ms=1e3 * profiled.estimate.value,
        attributed=result.get("attributed"),
        idle=result.get("idle_share"),
        perturbation=result.get("perturbation"),
        reasons=_reasons(result),
    )


def _of_phase(lines: Sequence[Line], phase: str) -> list[Line]:
    return [line for line in lines if line.phase == phase]


def _by_phase(lines: Sequence[Line]) -> dict[str, list[Line]]:
    return {phase: found for phase in PHASES if (found := _of_phase(lines, phase))}


def _reasons(whole: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Why MACs are not known and why time belongs to no operator, each reason once, but what has a row itself."""
    found = {
        reason["why"]: reason for name in ("unjoined", "unattributed") for reason in whole.get(name) or []
    }
    return [reason for reason in found.values() if reason["share"] > 0 and reason["names"] != [reason["why"]]]


# ---- tables


@dataclass(frozen=True)
class Entry:
    """A row of a profile with the profile that it is of."""

    profile: Profile
    line: Line

    @property
    def half_width(self) -> float | None:
        """Half of the interval of an operator's milliseconds over visits, relative to them; None without one."""
        estimate = self.profile.estimates.get(self.line.name)
        return (
            None if estimate is None or estimate.low is None or estimate.within_run else estimate.half_width
        )

    def phase_ms(self, phase: str) -> float | None:
        """Its milliseconds in a phase; None where phases were not told apart."""
        lines = self.profile.phases.get(phase)
        return next((line.ms for line in lines if line.name == self.line.name), 0.0) if lines else None


GIGAMACS = Form(lambda macs: hundredths(macs / 1e9))
MEGAFLOP = Form(lambda flop: significant(flop / 1e6))
RATE = Form(hundredths)  # of a CPU, thousandths
PERTURBATION = Form(lambda times: f"{times:.2f}×")


def _sized(value: Callable[[Line], float | None]) -> Callable[[Entry], float | None]:
    """A value that needs bytes; None where they are known for less than half of the row's time."""
    return lambda entry: value(entry.line) if (entry.line.bytes_known or 0) >= 0.5 else None


def _of_line(name: str) -> Callable[[Entry], Any]:
    """A field of the row; nothing where it is 0, as MACs and FLOPs of operators without any."""
    return lambda entry: getattr(entry.line, name) or None


def _phase(phase: str) -> Callable[[Entry], float | None]:
    return lambda entry: entry.phase_ms(phase)


MODEL: Column[Entry] = Column("title", "Model", lambda entry: entry.profile.title)
HALF: Column[Entry] = Column("half_width", "± 95 %", lambda entry: entry.half_width, HALF_WIDTH)
TIME: tuple[Column[Entry], ...] = (
    Column("ms", "ms", lambda entry: entry.line.ms, NUMBER),
    HALF,
    Column("share", "of time", lambda entry: entry.line.share, SHARE),
    *(Column(f"{phase}_ms", f"{phase}, ms", _phase(phase), NUMBER) for phase in PHASES[:3]),
)
WORK: tuple[Column[Entry], ...] = (
    Column("macs", "GMACs", _of_line("macs"), GIGAMACS),
    Column("macs_share", "of MACs", _of_line("macs_share"), SHARE),
)
RATES: tuple[Column[Entry], ...] = (
    Column("dtype", "dtype", lambda entry: entry.line.dtype),
    Column("tflops", "TFLOP/s", lambda entry: entry.line.tflops, RATE),
    Column("gb_per_s", "GB/s", _sized(lambda line: line.gb_per_s), NUMBER),
    Column("flop_per_byte", "FLOP/B", _sized(lambda line: line.flop_per_byte or None), NUMBER),
    Column("flop_per_launch", "MFLOP/launch", _of_line("flop_per_launch"), MEGAFLOP),
)
ROOF: tuple[Column[Entry], ...] = (
    Column("share_of_attainable", "of roof", _sized(lambda line: line.share_of_attainable), SHARE),
    Column("gain_ms", "ms saved at roof", _sized(gain_ms), NUMBER),
)
OPERATOR: Column[Entry] = Column("operator", "operator", lambda entry: entry.line.name)
CALLS: tuple[Column[Entry], ...] = (
    Column("calls", "calls", lambda entry: entry.line.calls, COUNT),
    Column("launches", "launches", lambda entry: entry.line.launches, COUNT),
)
MODULE: Column[Entry] = Column("module", "module", lambda entry: printable(entry.line.name))

ALIKE = 0.02  # the parts of an iteration add up to it, within so much
NAMED, SMALL = 3, 0.05  # operators that an answer names, of those that have so large a share


def most_work(profile: Profile) -> str:
    """The operators that have the MACs."""
    return _named(sorted(profile.works.items(), key=lambda item: -item[1])) or "unknown"


def most_time(profile: Profile) -> str:
    """The operators that have the time."""
    return _named(sorted(profile.times.items(), key=lambda item: -item[1]))


def most_gain(profile: Profile) -> str | None:
    """The operators that would save most at their roofs, in shares of all time; None where no roof is known."""
    gains = {line.name: gain / profile.ms for line in profile.operators if (gain := gain_ms(line))}
    return _named(sorted(gains.items(), key=lambda item: -item[1])) or None


def _named(found: Sequence[tuple[str, float]]) -> str:
    large = [item for item in found if item[1] >= SMALL][:NAMED] or found[:1]
    return ", ".join(f"{name} {share(amount)}" for name, amount in large)


ANSWERS: tuple[Column[Profile], ...] = (
    Column("title", "Model", lambda profile: profile.title),
    Column("most_work", "has the MACs", most_work),
    Column("most_time", "has the time", most_time),
    Column("without_macs", "time without MACs", lambda profile: profile.without_macs, SHARE),
    Column("gain_ms", "ms saved at roof", lambda profile: profile.gain_ms, NUMBER),
    Column("most_gain", "most saved by (of all time)", most_gain),
)
WHOLE: tuple[Column[Profile], ...] = (
    Column("title", "Model", lambda profile: profile.title),
    Column("iteration_ms", "ms an iteration", lambda profile: profile.iteration_ms, NUMBER),
    Column("ms", "ms of its parts", lambda profile: profile.ms, NUMBER),
    Column("known", "MACs known for", lambda profile: profile.known, SHARE),
    Column("attributed", "of operators", lambda profile: profile.attributed, SHARE),
    Column("idle", "idle", lambda profile: profile.idle, SHARE),
    Column("perturbation", "profiled", lambda profile: profile.perturbation, PERTURBATION),
)


def profile_tables(profiles: Sequence[Profile], name: str, setting: str = "") -> list[Table]:
    """The tables of what the profiles answer, of each as a whole, by operator, and by module where they have any."""
    if not profiles:
        return []
    made = [
        _answers(profiles, name, setting),
        _whole(profiles, name, setting),
        _operators(profiles, name, setting),
    ]
    if any(len(profile.modules) > 1 for profile in profiles):
        made.append(_modules(profiles, name, setting))
    return [table.without(table.empty() | _only_one(profiles)) for table in made]


def _whose(profiles: Sequence[Profile], profile: Profile) -> str:
    return f"{profile.title}: " if len(profiles) > 1 else ""


def _only_one(profiles: Sequence[Profile]) -> set[str]:
    return {MODEL.header} if len(profiles) == 1 else set()


def _answers(profiles: Sequence[Profile], name: str, setting: str) -> Table:
    return made_of(
        ANSWERS,
        profiles,
        f"{name}_answers",
        "Which operators have the MACs, which have the time, and what the roof would save",
        f"The {NAMED} operators with the largest shares. Saved at roof is a bound, not a prediction: what all "
        "operators would save if each ran at the peak of its dtype or moved its tensors at the memory's full rate, "
        "whichever takes longer, as far as bytes are known; those that are beyond their roof already save nothing.",
        setting=setting,
        narrow=[[ANSWERS[0], *ANSWERS[3:]], [ANSWERS[0], *ANSWERS[1:3]]],
    )


def _whole(profiles: Sequence[Profile], name: str, setting: str) -> Table:
    return made_of(
        WHOLE,
        profiles,
        f"{name}_whole",
        "Profiles, as a whole",
        "Idle is the share of an iteration in which no kernel ran; of operators, the share of the time that belongs to "
        "one. Profiled is an iteration with the profiler, beside those before and after it without.",
        notes=[*_notes(profiles), *_beyond_the_whole(profiles)],
        setting=setting,
    )


def _beyond_the_whole(profiles: Sequence[Profile]) -> Iterator[str]:
    """Profiles whose parts add up to more than an iteration took."""
    for profile in profiles:
        more = profile.ms / profile.iteration_ms - 1 if profile.iteration_ms else 0.0
        if profile.idle is not None and more > ALIKE:
            yield (
                f"{_whose(profiles, profile)}its parts add up to {share(more)} more than an iteration takes: "
                "kernels overlap, or take longer under the profiler"
            )


def _notes(profiles: Sequence[Profile]) -> list[str]:
    """Why MACs are not known or time is no operator's, with what takes longest of it."""
    return [
        f"{_whose(profiles, profile)}{share(reason['share'])} of the time, {reason['why']}"
        + (f": {', '.join(map(printable, names))}" if (names := reason["names"][:MOST_NAMES]) else "")
        for profile in profiles
        for reason in profile.reasons
    ]


def _operators(profiles: Sequence[Profile], name: str, setting: str) -> Table:
    least = LEAST if len(profiles) <= FEW else LEAST_OF_MANY
    entries = [
        Entry(profile, line) for profile in profiles for line in profile.operators if line.share >= least
    ]
    return made_of(
        [MODEL, OPERATOR, *TIME, *WORK, *CALLS, *RATES, *ROOF],
        entries,
        f"{name}_operators",
        "Time and MACs by operator",
        "Shares are of the time on the device and of the MACs as `core` counts them: 1 MAC = 2 FLOPs. Bytes are those "
        "of the tensors that are read and written, each once. Of roof is the time that peak and memory allow, as a "
        f"share of the time taken. Operators with less than {share(least)} of the time are left out.",
        notes=[
            f"{_whose(profiles, entry.profile)}{entry.line.name}: {remark}"
            for entry in entries
            for remark in entry.line.remarks
        ],
        setting=setting,
        narrow=[
            [MODEL, OPERATOR, *CALLS, *RATES],
            [MODEL, OPERATOR, *TIME, *WORK, *ROOF],
        ],
    )


def _modules(profiles: Sequence[Profile], name: str, setting: str) -> Table:
    most = max(FEWEST_MODULES, MODULES // (len(profiles) + FEW - 1))
    entries = [Entry(profile, line) for profile in profiles for line in profile.modules[:most]]
    columns: tuple[Column[Entry], ...] = (MODULE, TIME[0], *TIME[2:], *WORK, RATES[1], *ROOF)
    return made_of(
        [MODEL, *columns],
        entries,
        f"{name}_modules",
        "Time and MACs by module",
        "Without those inside it, which have rows of their own. "
        f"Of each profile the {most} that take longest.",
        setting=setting,
        narrow=[[MODEL, MODULE, *TIME[3:], RATES[1], *ROOF], [MODEL, MODULE, TIME[0], TIME[2], *WORK]],
    )
