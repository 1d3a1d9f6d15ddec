"""Profiles: where the time goes beside the MACs, by operator and by module; the roof; what windows and MHIM add."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.cases import Case
from bench.text import printable
from reports import icicle, profiles, roofs, shares
from reports.chapter import Card, Chapter, Told, setting
from reports.columns import NUMBER, SHARE, Column
from reports.lines import USUAL_SIZE
from reports.measurements import Profiled
from reports.profiles import LEAST, Profile
from reports.results import grouped, usual
from reports.tables import Table, made_of
from reports.text import enumerated, sentences, share, significant

if TYPE_CHECKING:
    from reports.figures import Plot

STUDY = HARNESS = "profile"
NAME = "profile"  # begins those of its tables and figures
DRAWN = 4  # profiles in a figure of modules or of roofs, which have no room for more
NAMED = 3  # operators in a sentence
SMALL = 0.05  # share of the largest difference, below which a sentence does not name an operator


# ---- the profiles of a run


def measured(told: Told) -> list[Profiled]:
    """The newest profile of each case; of the chapter of what was profiled by hand none where the study was run."""
    if not told.chapter.study and STUDY in told.results.ran:
        return []
    timings = told.results.timings.get(HARNESS, [])
    newest = {str(timing.case): timing for timing in timings if timing.ok and isinstance(timing, Profiled)}
    return list(newest.values())


def titles(found: Sequence[Profiled]) -> list[str]:
    """A name each, with batch and dtype where these are not those of most."""
    usual_one = usual([_batch(profiled) for profiled in found])
    return [
        ", ".join([_name(profiled.case), *([] if _batch(profiled) == usual_one else [_batch(profiled)])])
        for profiled in found
    ]


def _batch(profiled: Profiled) -> str:
    return f"batch {profiled.batch}, {profiled.case.dtype}"


def _name(case: Case) -> str:
    size = "" if case.size == USUAL_SIZE and not case.mix else f" at {case.shape}"
    impl = "" if case.impl == "eager" else case.impl
    mode = "" if case.mode == "infer" else "a step of training"
    return ", ".join(filter(None, (f"{case.title}{size}", impl, mode)))


def context(told: Told) -> dict[str, dict[Case, Profile]]:
    """The profiles of the run, with their names: made once, for tables, figures and sentences; nothing without any."""
    found, results = measured(told), told.results
    device = str(results.device.get("name") or "")
    named = {
        profiled.case: profiles.of_row(title, profiled, results.peaks, device)
        for title, profiled in zip(titles(found), found, strict=True)
    }
    return {"profiles": named} if named else {}


def by_case(told: Told) -> dict[Case, Profile]:
    """The profiles of the run, by their cases."""
    found: dict[Case, Profile] = told.context.get("profiles", {})
    return found


# ---- which of them stand beside each other


def ways(found: Mapping[Case, Profile]) -> list[Case]:
    """The models that were run in several ways, implementations or training, each way of them."""
    groups = grouped((_without_a_way(case), case) for case in found)
    return [case for cases in groups.values() if len(cases) > 1 for case in cases]


def _without_a_way(case: Case) -> Case:
    return replace(case, impl="eager", mode="infer", batch=None, dtype=None)


def models(found: Mapping[Case, Profile]) -> list[Case]:
    """The cases that are no way to run another of them, and no change to it."""
    several, changed_ones = set(ways(found)), changes(found)
    firsts = {id(change.first) for change in changed_ones}
    seconds = {id(change.second) for change in changed_ones}
    return [
        case
        for case, profile in found.items()
        if not (case in several and case != replace(case, impl="eager", mode="infer"))
        and id(profile) not in firsts
        and not (id(profile) in seconds and case.has("style"))
    ]


def _apart(found: Mapping[Case, Profile]) -> list[Profile]:
    """The profiles that stand beside others: windows and global attention, MHIM on and off."""
    pairs = [profile for change in changes(found) for profile in (change.second, change.first)]
    return list({id(profile): profile for profile in pairs}.values())


# ---- what changes from one case to another


@dataclass(frozen=True)
class Change:
    """A profile and that of the same case without one option: windows beside global attention, MHIM on beside off."""

    first: Profile
    second: Profile


@dataclass(frozen=True)
class ChangedOperator:
    """An operator in both profiles of a change, in milliseconds of an iteration and shares of the time."""

    change: Change
    operator: str

    def ms(self, profile: Profile) -> float:
        """Its milliseconds in one of the two; 0 where it does not run."""
        return next((line.ms for line in profile.operators if line.name == self.operator), 0.0)

    @property
    def more_ms(self) -> float:
        """Milliseconds that the first takes more."""
        return self.ms(self.change.first) - self.ms(self.change.second)

    @property
    def is_sure(self) -> bool:
        """Whether the intervals of the two, over visits, lie apart; or it runs in one of the two alone."""
        found = [profile.estimates.get(self.operator) for profile in (self.change.first, self.change.second)]
        if None in found:
            return True
        first, second = (estimate for estimate in found if estimate)
        if first.within_run or second.within_run or None in (first.low, second.low):
            return False
        return (first.low or 0) > (second.high or 0) or (second.low or 0) > (first.high or 0)


def _in_windows(case: Case) -> Case | None:
    """The same case with global attention; None for one without windows."""
    if case.option("style", "global") == "global":
        return None
    return _with(case, "style", "global")


def _with_mhim(case: Case) -> Case | None:
    """The same case without MHIM; None for one that has none."""
    return _with(case, "mhim", None) if case.has("mhim") else None


def _with(case: Case, option: str, value: str | None) -> Case:
    others = [pair for pair in case.options if pair[0] != option]
    return replace(case, options=tuple(sorted([*others, *([(option, value)] if value else [])])))


REFERENCES: tuple[Callable[[Case], Case | None], ...] = (_in_windows, _with_mhim)


def changes(found: Mapping[Case, Profile]) -> list[Change]:
    """Windows beside global attention and MHIM on beside off, of what was profiled of both."""
    made = []
    for reference in REFERENCES:
        for case, profile in found.items():
            other = reference(case)
            # global attention is what a model has that names no style
            names = [other, _with(other, "style", None)] if other else []
            made += [Change(profile, found[name]) for name in names if name in found][:1]
    return made


CHANGES: tuple[Column[ChangedOperator], ...] = (
    Column("first", "first", lambda row: row.change.first.title),
    Column("second", "second", lambda row: row.change.second.title),
    Column("operator", "operator", lambda row: row.operator),
    Column("first_ms", "ms of first", lambda row: row.ms(row.change.first), NUMBER),
    Column("second_ms", "ms of second", lambda row: row.ms(row.change.second), NUMBER),
    Column("more_ms", "ms more in first", lambda row: row.more_ms, NUMBER),
    Column(
        "first_share", "of first's time", lambda row: row.change.first.times.get(row.operator, 0.0), SHARE
    ),
    Column(
        "second_share", "of second's time", lambda row: row.change.second.times.get(row.operator, 0.0), SHARE
    ),
)


def changed(change: Change) -> list[ChangedOperator]:
    """The operators of both profiles, those first that the first takes most more time for."""
    names = [
        line.name
        for profile in (change.first, change.second)
        for line in profile.operators
        if line.share >= LEAST
    ]
    rows = [ChangedOperator(change, name) for name in dict.fromkeys(names)]
    return sorted(rows, key=lambda row: -row.more_ms)


def changes_table(found: Sequence[Change], where: str) -> Table:
    """The table of what each operator takes in the first of two cases and in the second."""
    columns = [column.header for column in CHANGES]
    table = made_of(
        CHANGES,
        [row for change in found for row in changed(change)],
        f"{NAME}_changes",
        "Where the time of windows and of MHIM goes",
        "Milliseconds of an iteration, of each profile's own. The two were profiled apart, so that a drift of the "
        "machine is in a difference; how many times as long one takes as the other only a comparison in turns can say.",
        notes=[change_in_words(change) for change in found],
        setting=where,
    )
    return replace(table, narrow=[[*columns[:3], *columns[6:]], columns[:6]])


def change_in_words(change: Change) -> str:
    """Sentences on the operators that the first surely takes more time for, and on those that it takes less for."""
    rows = [row for row in changed(change) if row.is_sure]
    most = max((abs(row.more_ms) for row in rows), default=0.0)
    more = [row for row in rows if row.more_ms > SMALL * most][:NAMED]
    less = [row for row in reversed(rows) if row.more_ms < -SMALL * most][:NAMED]
    first, second = change.first, change.second
    return sentences(
        f"{first.title}: {significant(first.ms)} ms in all; {second.title}: {significant(second.ms)} ms",
        f"The first takes more for {_both(more)}" if more else "",
        f"The first takes less for {_both(less)}" if less else "",
        "" if more or less else "No operator's intervals over visits lie apart: nothing is concluded",
    )


def _both(rows: Sequence[ChangedOperator]) -> str:
    texts = [
        f"{row.operator} ({significant(row.ms(row.change.first))} ms, "
        f"{significant(row.ms(row.change.second))} in the second)"
        for row in rows
    ]
    return enumerated(texts)


# ---- tables


def tables(told: Told) -> list[Table]:
    """The tables of the profiles: each as a whole, by operator and by module, and what windows and MHIM change."""
    found, where = by_case(told), _setting(told)
    if not found:
        return []
    answers, whole, *others = profiles.profile_tables(list(found.values()), NAME, where)
    made = [
        replace(answers, caption=f"{_in_common(told)} {answers.caption}"),
        replace(whole, notes=[*whole.notes, *_notes(told)]),
        *others,
    ]
    if pairs := changes(found):
        made.append(changes_table(pairs, where))
    return made


def _setting(told: Told) -> str:
    """The machine, the protocol and the peak, as every chapter of a study has them."""
    if told.shown:
        return setting(told.results, told.shown)
    return sentences(f"Measured on {told.results.machine}", f"Peaks: {told.results.peaks.source}")


def _in_common(told: Told) -> str:
    """The batch and dtype of most profiles, and the memory's rate, which a roof is made of."""
    batch, memory = (
        usual([_batch(profiled) for profiled in measured(told)]),
        told.results.peaks.bandwidth_gb_s,
    )
    return sentences(
        f"Profiles are of {batch} unless they say otherwise",
        f"Memory {significant(memory)} GB/s" if memory else "",
    )


def _notes(told: Told) -> Iterator[str]:
    """Notes on single profiles that a reader must know; those that have the same note share it."""
    found = measured(told)
    notes = (
        (note, title)
        for title, profiled in zip(titles(found), found, strict=True)
        for note in [*profiled.unlike(found[-1]), *profiled.notes]
    )
    for note, names in grouped(notes).items():
        yield f"{'all' if len(names) == len(found) > 1 else ', '.join(names)}: {printable(note)}"


# ---- figures


def _subtitle(told: Told, drawn: int, found: int) -> str:
    some = f" {drawn} of {found} profiles." if drawn < found else ""
    return f"Measured on {told.results.machine}.{some}"


def _bars(told: Told, cases: Sequence[Case], name: str) -> Plot | None:
    found = by_case(told)
    return shares.macs_and_time(
        [found[case] for case in cases], f"{NAME}_{name}", _subtitle(told, len(found), len(found))
    )


def macs_and_time(told: Told) -> Plot | None:
    """Share of MACs beside share of time by operator, model by model."""
    return _bars(told, models(by_case(told)), "shares")


def macs_and_time_by_way(told: Told) -> Plot | None:
    """The same of a model's implementations, and of its training."""
    return _bars(told, ways(by_case(told)), "ways")


def macs_and_time_of_changes(told: Told) -> Plot | None:
    """The same with windows and with global attention, with MHIM and without."""
    found = by_case(told)
    apart = {id(profile) for profile in _apart(found)}
    return _bars(told, [case for case, profile in found.items() if id(profile) in apart], "variants")


def time_by_module(told: Told) -> Plot | None:
    """Time by module, as icicles: of windows and MHIM where they were profiled, else of the first profiles."""
    found = by_case(told)
    chosen = [*_apart(found), *found.values()] if len(found) > DRAWN else list(found.values())
    chosen = list({id(profile): profile for profile in chosen}.values())[:DRAWN]
    return icicle.time_by_module(chosen, f"{NAME}_modules", _subtitle(told, len(chosen), len(found)))


def rooflines(told: Told) -> Plot | None:
    """The figure of what each operator of the first models reaches below the roof of the device."""
    found = by_case(told)
    chosen = [found[case] for case in models(found)[:DRAWN]]
    return roofs.rooflines(chosen, f"{NAME}_roofline", _subtitle(told, len(chosen), len(found)))


def cards(told: Told) -> list[Card]:
    """A card: the share of the time that has no MACs."""
    found = by_case(told)
    if not found:
        return []
    amount, whose = shares.without_macs([found[case] for case in models(found) or found])
    return [Card(amount, f"of the time{whose} without a MAC")]


def answer(told: Told) -> str | None:
    """A sentence on where the time goes that has no MACs; or that no profile was taken that could tell."""
    found = by_case(told)
    if not found:
        was_run = told.chapter.study or STUDY in told.results.ran
        return None if was_run and not told.chapter.study else NOT_PROFILED
    shown = [found[case] for case in models(found) or found]
    amount, whose = shares.without_macs(shown)
    means = {
        name: statistics.fmean(0 if name in each.works else each.times.get(name, 0) for each in shown)
        for profile in shown
        for name in profile.times.keys() - profile.works.keys()
    }
    most = sorted(means, key=lambda name: -means[name])[:NAMED]
    whose = whose or f" of {len(shown)} profiles"
    mean = "in the mean " if len(shown) > 1 else ""
    named = enumerated([f"{name} {share(means[name])}" for name in most])
    return sentences(f"{amount} of the time{whose} is spent without a MAC: {mean}{named}")


NOT_PROFILED = (
    "Nothing was profiled here that says where the time goes: `python -m bench profile CASE` does it, "
    "`make bench STUDY=profile` for many models."
)
STUDIED = Chapter(
    study=STUDY,
    title="Profiles",
    heading="Where the time goes",
    nav="Where the time goes",
    text="Iterations under torch.profiler, each operator's time joined with its MACs and bytes. Were FLOPs speed, an "
    "operator would have the same share of both.",
    is_long=True,
    tables=tables,
    context=context,
    figures=(macs_and_time, macs_and_time_by_way, macs_and_time_of_changes, time_by_module, rooflines),
    answer=answer,
    cards=cards,
)
CHAPTERS = (STUDIED,)
# The same of cases that were profiled by hand, where the study was not run.
BY_HAND = (replace(STUDIED, study="", is_long=False, own_anchor="profile-by-hand"),)
