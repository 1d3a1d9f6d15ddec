"""The page: one HTML file that needs nothing else, neither network nor the folder it lies in."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.record import Row
from bench.studies import STUDIES
from reports import detection, finding, study_tables, tables
from reports.about import BRANCHES, About, about
from reports.drawing import Plot
from reports.lines import Line, shown_lines
from reports.measured import Results
from reports.pairs import study_pairs
from reports.rows import moment, when
from reports.table import Table, without_repeats

TEMPLATES = Path(__file__).with_name("templates")

# What each convention counts, for a reader who has not read DESIGN.md.
CONVENTIONS = {
    "core": "convolutions, linear layers, matrix products, attention's too; behind every rate on this page",
    "core+norm": "the same and norms, as fvcore counts them: the paper's Table 5",
    "core+norm-no-attention": "that without attention's products: the paper's Table 4",
    "fvcore": "as the tool of that name counts, with what it silently skips added",
    "paper": "as the paper's Table 1 counts ResTv2: biases, norms, activations, pooling, and a term of its "
    "own for attention",
    "paper-no-attention": "the same without that term: the paper's Table 9, and ResTv1's rows in Table 1",
    "closed-form": "the formula of Focal's authors, which leaves things out: Focal's rows in Table 1",
}


@dataclass(frozen=True)
class Card:
    """One number with its words, for the top of the page."""

    value: str
    text: str


@dataclass(frozen=True)
class Section:
    """What the page says of a study: sentences, figures by name, tables."""

    anchor: str
    about: About
    figures: list[str]
    tables: list[Table]


def render(results: Results, plots: Sequence[Plot]) -> str:
    """The whole page. The same rows give the same text: it carries no date but theirs."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    table1, shown = shown_lines(results, "table1"), sections(results, plots)
    return environment.get_template("page.html").render(
        title=f"FLOPs are not speed: {results.device.get('name') or results.key}",
        headline=headline(table1, shown, plots),
        standfirst=standfirst(results, table1),
        cards=cards(results, table1),
        results=results,
        figures={plot.name: {"plot": plot, "svg": Markup(plot.svg)} for plot in plots},
        sections=shown,
        cross_checks=tables.cross_checks(results),
        elsewhere=tables.elsewhere(results),
        not_measured=tables.not_measured(results),
        conventions=CONVENTIONS,
        groups=environment_groups(results),
        commands=commands(results),
        caveat=source_caveat(results),
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
    )


def sections(results: Results, plots: Sequence[Plot]) -> list[Section]:
    """Those that there is something to show in."""
    there = {plot.name for plot in plots}
    all_tables = without_repeats(study_tables.all_tables(results))
    of_studies = [
        Section(
            f"study-{name}",
            about(name),
            [plot for plot in about(name).figures if plot in there],
            [table for table in all_tables if table.name == name or table.name.startswith(f"{name}_")],
        )
        for name in results.studies
        if STUDIES[name].is_timed
    ]
    of_branches = Section("branches", BRANCHES, [name for name in BRANCHES.figures if name in there], [])
    found = [*of_studies, of_branches]
    return [section for section in found if section.figures or section.tables]


def headline(table1: Sequence[Line], shown: Sequence[Section], plots: Sequence[Plot]) -> str:
    """What Table 1 says; where it was not run, what the first figure says, or what the first section is about."""
    if table1 or not shown:
        return finding.headline(table1)
    return plots[0].title if plots else shown[0].about.heading


def standfirst(results: Results, lines: Sequence[Line]) -> str:
    """The paragraph under the headline."""
    parts = [f"Measured on {results.machine}"]
    if sentence := finding.span_sentence(lines):
        parts.append(sentence)
    return "".join(f"{part}. " for part in parts).strip()


def cards(results: Results, table1: Sequence[Line]) -> list[Card]:
    """What a reader wants to know first."""
    found = []
    if (rank := finding.rank_correlation(table1)) is not None:
        found.append(
            Card(f"{rank:.2f}", "rank correlation of MACs and time per image; 1 would make FLOPs a ranking")
        )
    if span := finding.rate_span(table1):
        slow, fast = (line.macs_per_s.value for line in span if line.macs_per_s)
        found.append(Card(f"{fast / slow:.1f}×", "between the fastest and the slowest MAC of Table 1"))
    table3 = study_pairs(results, "table3") if "table3" in results.studies else []
    if (pair := detection.windows_pair(table3)) and pair.here:
        found.append(
            Card(
                f"{pair.here.value:.2f}×",
                f"the time of Mask R-CNN with windows beside global attention; the paper: {pair.printed:.2f}×",
            )
        )
    lines = [
        line for name in results.studies if STUDIES[name].is_timed for line in shown_lines(results, name)
    ]
    for metric, words in (("macs", "MAC"), ("parameters", "parameter")):
        if verdicts := [line.verdict(metric) for line in lines if line.verdict(metric)]:
            matches = f"{verdicts.count('MATCH')} of {len(verdicts)}"
            found.append(Card(matches, f"printed {words} counts reproduced to their last digit"))
    if lines:
        measured = sum(line.outcome == "ok" for line in lines)
        found.append(Card(f"{measured} of {len(lines)}", "rows of the tables on this page measured"))
    return found


# ---- what it ran on

Group = tuple[str, list[tuple[str, str]]]


def environment_groups(results: Results) -> list[Group]:
    """Titled lists of name and value; where rows differ, every value with its number of rows."""
    timed = [row for row in results.rows if row["harness"] not in ("macs",)] or results.rows
    dated = sorted((row for row in timed if when(row)), key=when)

    def part(*path: str) -> list[tuple[str, str]]:
        return _differing([dict(_flat(_at(row, path))) for row in timed])

    first_last = [("first", dated[0]), ("last", dated[-1])] if dated else []
    groups = [
        ("Device", part("device")),
        ("Host", [item for item in part("environment", "host") if not item[0].startswith("load")]),
        ("Versions", part("environment", "versions")),
        ("Source", part("environment", "source")),
        ("Protocol", part("protocol")),
        ("While it ran", [*_spread(timed), *((name, moment(row)) for name, row in first_last)]),
    ]
    return [(title, items) for title, items in groups if items]


def _at(row: Row, path: Sequence[str]) -> Any:
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as ("a b", 1)."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}".strip())
    elif name:
        yield name, value


def _differing(all_items: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Each name with its value, or with all its values and how many rows have each; None is left out."""
    shown = []
    for name in dict.fromkeys(name for items in all_items for name in items):
        values = [_text(items[name]) for items in all_items if items.get(name) is not None]
        counted = {value: values.count(value) for value in dict.fromkeys(values)}
        if len(counted) == 1:
            shown.append((_words(name), next(iter(counted))))
        elif counted:
            shown.append((_words(name), "; ".join(f"{value} ({n} rows)" for value, n in counted.items())))
    return shown


def _spread(timed: Sequence[Row]) -> list[tuple[str, str]]:
    """Clocks, temperature, load and so on, over all readings: numbers as a range, words as a list."""
    seen: dict[str, list[Any]] = {}
    for row in timed:
        for reading in (_at(row, ("readings", "before")), _at(row, ("readings", "after"))):
            for name, value in _flat(reading or {}):
                for each in (value or ["none"]) if isinstance(value, list) else [value]:
                    if each is not None:
                        seen.setdefault(name, []).append(each)
    shown = []
    for name, values in seen.items():
        if all(isinstance(value, int | float) for value in values):
            low, high = min(values), max(values)
            text = _text(low) if low == high else f"{_text(low)} to {_text(high)}"
        else:
            text = ", ".join(dict.fromkeys(_text(value) for value in values))
        shown.append((_words(name), text))
    threads = dict.fromkeys(_at(row, ("environment", "threads")) for row in timed)
    return (
        [("threads", ", ".join(str(count) for count in threads if count)), *shown] if any(threads) else shown
    )


UNITS = {"gib": "GiB", "mhz": "MHz", "c": "°C", "w": "W", "s": "s"}


def _words(name: str) -> str:
    """`memory_gib` as "memory, GiB"."""
    *words, last = name.replace("_", " ").split(" ")
    return f"{' '.join(words)}, {UNITS[last]}" if words and last in UNITS else " ".join([*words, last])


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(str(name))} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- how to repeat it


def commands(results: Results) -> list[str]:
    """What to type to get these rows again, as far as they say."""
    commits = dict.fromkeys(_at(row, ("environment", "source", "commit")) for row in results.rows)
    newest = [commit for commit in commits if commit][-1:]
    key = results.key.removeprefix("reference/")
    return [
        *(f"git checkout {commit}" for commit in newest),
        *([f"make bench GPU={key} STUDY={shlex.quote(' '.join(results.ran))}"] if results.ran else []),
        "make report",
    ]


def source_caveat(results: Results) -> str | None:
    """Why that may not give quite the same: local changes, no commit, or rows from several commits."""
    sources = [_at(row, ("environment", "source")) or {} for row in results.rows]
    commits = {source.get("commit") for source in sources}
    if None in commits:
        return "Some rows were measured outside of a commit."
    if any(source.get("dirty") for source in sources):
        return "Some rows were measured with uncommitted changes, so the commit alone does not repeat them."
    return f"The rows come from {len(commits)} commits; the newest is named." if len(commits) > 1 else None
