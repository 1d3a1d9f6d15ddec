"""The page: one HTML file that needs nothing else, neither network nor the folder it lies in."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.record import Row
from reports.chapter import Card, Chapter, Told
from reports.figures import FAINT, INK, MUTED
from reports.guide import Guide
from reports.results import Results
from reports.rows import moment, when
from reports.tables import Table, without_repeats
from reports.verdicts import Status

if TYPE_CHECKING:
    from reports.figures import Plot

FEW = 8  # chapters on a page that need no folding
OPEN = 4  # chapters of a longer one that are open from the start
QUESTION = "Why are FLOPs a poor guide to speed, and what is a good one?"
TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Section:
    """One chapter on the page: its words, its figures, its tables, and what its template needs besides."""

    chapter: Chapter
    plots: Sequence[Plot]
    tables: Sequence[Table]
    context: Mapping[str, Any]
    is_open: bool = True  # of a long page the chapters after the first ones are folded


def prose(text: str) -> Markup:
    """Text with what stands between backticks as code, and no line between a number and its %."""
    words = re.split("`([^`]+)`", str(escape(text)))  # every other one is code
    return Markup(
        "".join(
            f"<code>{word}</code>" if place % 2 else re.sub(r"(?<=\d) %", "&nbsp;%", word)
            for place, word in enumerate(words)
        )
    )


def folding(text: str) -> Markup:
    """A case, or a name of several words, that may be broken before its brackets, its size and its hyphens."""
    return Markup(re.sub(r"(?=[\[@:,])|(?<=-)", "<wbr>", str(escape(text))))


# What a page that is read in the dark gives another shade; the hatches of bars stay on their light ground.
THEMED = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    FAINT: "var(--faint)",
    "#ffffff": "var(--card)",
    "#0072b2": "var(--blue)",
    "#b5548f": "var(--purple)",
    "#00795a": "var(--green)",
    "#23708f": "var(--sky)",
    "#7a6a00": "var(--olive)",
    "#8f5f00": "var(--amber)",
    "#bf5300": "var(--orange)",
    "#d55e00": "var(--vermilion)",
    "#7b2d8e": "var(--violet)",
    "#d1242f": "var(--red)",
}


def themed(svg: str) -> Markup:
    """A figure's SVG in the page's own colours, which are others in the dark."""
    parts = re.split(r"(<pattern.*?</pattern>)", svg, flags=re.DOTALL)
    colours = re.compile("|".join(THEMED), re.IGNORECASE)
    return Markup(
        "".join(
            part if part.startswith("<pattern") else colours.sub(lambda match: THEMED[match[0].lower()], part)
            for part in parts
        )
    )


def render(results: Results, told: Sequence[Told]) -> str:
    """The whole page. The same rows give the same text: it carries no date but theirs."""
    return _rendered(
        "page.html",
        title=f"FLOPs and speed: {results.device.get('name') or results.key}",
        question=QUESTION,
        answer=answer(results, told),
        cards=cards(results, told),
        results=results,
        sections=sections(told),
        groups=environment_groups(results),
        commands=commands(results),
        caveat=source_caveat(results),
    )


def render_profile(title: str, standfirst: str, plots: Sequence[Plot], tables: Sequence[Table]) -> str:
    """The page of a single profile: its figures, then its tables; the first figure's title is the headline."""
    headline = next((plot.title for plot in plots), title)
    return _rendered(
        "trace.html", title=title, headline=headline, standfirst=standfirst, plots=plots, tables=tables
    )


def _rendered(template: str, **context: Any) -> str:
    """A template's page, with style and script in it."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,  # of the files of sections, which stand one after another
    )
    environment.filters["prose"] = prose
    environment.filters["folding"] = folding
    environment.globals["svg"] = lambda plot: themed(plot.svg)
    page = environment.get_template(template).render(
        **context,
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
    )
    return page.removesuffix("\n")


def sections(told: Sequence[Told]) -> list[Section]:
    """The chapters that there is something to show of; a table's setting is told where it changes."""
    tables = iter(without_repeats([table for chapter in told for table in chapter.tables]))
    all_sections = [
        Section(chapter.chapter, chapter.plots, [next(tables) for _ in chapter.tables], chapter.context)
        for chapter in told
    ]
    shown = [section for section in all_sections if section.plots or section.tables or section.context]
    return [
        replace(section, is_open=place < OPEN or len(shown) <= FEW) for place, section in enumerate(shown)
    ]


def answer(results: Results, told: Sequence[Told]) -> list[str]:
    """The answer, computed from rows: how good a guide MACs are, where the time goes, and what predicts it better.

    What was not measured to tell is said in its place.
    """
    return [
        Guide(results).sentence(),
        *(words for chapter in told if (words := chapter.chapter.answer(chapter))),
    ]


def cards(results: Results, told: Sequence[Told]) -> list[Card]:
    """The numbers at the top: of pairs in turns, the chapters' own, then how much is reproduced and measured."""
    made = [card for chapter in told for card in chapter.chapter.cards(chapter)]
    if pairs := (guide := Guide(results)).pairs:
        words = "pairs of models, measured in turns, whose times have another ratio than their MACs"
        made.insert(0, Card(f"{len(guide.off)} of {len(pairs)}", words))
    lines = [line for chapter in told for line in chapter.shown]
    for metric, words in (("macs", "MAC"), ("parameters", "parameter")):
        if verdicts := [verdict.status for line in lines if (verdict := line.verdict(metric))]:
            matches = f"{verdicts.count(Status.MATCH)} of {len(verdicts)}"
            made.append(Card(matches, f"printed {words} counts reproduced to their last digit"))
    if lines:
        measured = sum(line.outcome == "ok" for line in lines)
        made.append(Card(f"{measured} of {len(lines)}", "rows of the tables on this page measured"))
    return made


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
        ("Devices of this type", [(node.name, node.sentence) for node in results.nodes]),
        ("Host", [item for item in part("environment", "host") if not item[0].startswith("load")]),
        ("Versions", part("environment", "versions")),
        ("Source", part("environment", "source")),
        ("Protocol", part("protocol")),
        ("While it ran", [*_spread(timed), *((name, moment(row)) for name, row in first_last)]),
    ]
    return [(title, items) for title, items in groups if items]


def _at(row: Row, path: Sequence[str]) -> Any:
    """The value in a row under these keys; None where there is no such thing."""
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    """Names and values of nested mappings: `{"a": {"b": 1}}` gives ("a b", 1)."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}".strip())
    elif name:
        yield name, value


def _differing(all_items: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Each name with its value, or with all its values and how many rows have each; None is left out."""
    shown = []
    for name in dict.fromkeys(name for items in all_items for name in items):
        counted = Counter(_text(items[name]) for items in all_items if items.get(name) is not None)
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
                listed = (value or ["none"]) if isinstance(value, list) else [value]
                for single in listed:
                    if single is not None:
                        seen.setdefault(name, []).append(single)
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
    """A name of a row in words: `memory_gib` as "memory, GiB"."""
    *words, last = name.replace("_", " ").split(" ")
    return f"{' '.join(words)}, {UNITS[last]}" if words and last in UNITS else " ".join([*words, last])


def _text(value: Any) -> str:
    """A value of a row in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(str(name))} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- how to repeat it


def _protocol(results: Results, study: str) -> str:
    """The name of the protocol that a study's newest timed row followed."""
    rows = [row for row in results.rows if str(row.get("study")) == study and row["harness"] != "macs"]
    return str(_at(rows[-1], ("protocol", "name"))) if rows else "default"


def commands(results: Results) -> list[str]:
    """The lines to type to get these rows again, as far as they say: a run for each protocol that was followed."""
    commits = dict.fromkeys(_at(row, ("environment", "source", "commit")) for row in results.rows)
    newest = [commit for commit in commits if re.fullmatch("[0-9a-f]{7,64}", str(commit))][-1:]
    key = results.key.removeprefix("reference/")
    runs: dict[str, list[str]] = {}
    own = [name for name in results.ran if name in results.own_studies]
    for study in (name for name in results.ran if name not in own):
        runs.setdefault(_protocol(results, study), []).append(study)
    return [
        *(f"git checkout {commit}" for commit in newest),
        *(_run(key, names, protocol) for protocol, names in runs.items()),
        *(_run(key, [f"{results.folder}/{name}.toml"], _protocol(results, name)) for name in own),
        "make report",
    ]


def _run(key: str, studies: Sequence[str], protocol: str) -> str:
    """The line that runs these studies under that protocol; `make` knows the default one and the quick look."""
    if protocol in ("default", "quick"):
        words = [f"GPU={key}", f"STUDY={' '.join(studies)}", *(["QUICK=1"] if protocol == "quick" else [])]
        # make reads a dollar before the shell does
        return f"make bench {' '.join(_quoted(word.replace('$', '$$')) for word in words)}"
    chosen = " ".join(f"--study {shlex.quote(name)}" for name in studies)
    return f"python -m bench run --gpu {shlex.quote(key)} {chosen} --protocol {shlex.quote(protocol)}"


def _quoted(assignment: str) -> str:
    """`NAME=value` for a shell, with quotes around the value alone."""
    name, _, value = assignment.partition("=")
    return f"{name}={shlex.quote(value)}"


def source_caveat(results: Results) -> str | None:
    """Why the commands may not give quite the same rows: local changes, no commit, or rows from several commits."""
    sources = [_at(row, ("environment", "source")) or {} for row in results.rows]
    commits = {source.get("commit") for source in sources}
    if None in commits:
        return "Some rows were measured outside of a commit."
    if any(source.get("dirty") for source in sources):
        return "Some rows were measured with uncommitted changes, so the commit alone does not repeat them."
    return f"The rows come from {len(commits)} commits; the newest is named." if len(commits) > 1 else None
