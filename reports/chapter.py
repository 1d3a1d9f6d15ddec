"""A chapter: all that the report says of a study; and what a chapter says where it says nothing of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.cases import Case, parsed
from bench.stats import TOO_WIDE
from bench.study import Study
from bench.visits import LAUNCH_BOUND
from reports import columns
from reports.columns import COLUMNS, MODULES, NUMBER, PAIR_COLUMNS, Column, Layout
from reports.lines import ANALYSIS, Line, Pair, lines_of, pairs_of
from reports.results import Results, grouped, usual
from reports.tables import Table, made_of
from reports.text import sentences, share, significant

if TYPE_CHECKING:
    from reports.figures import Plot  # matplotlib takes a second to import, and the tables do without it

MANY = 3  # names in a note: more are counted, where they may be
TOO_LITTLE = "Too little is measured yet to compare speed with MACs"


@dataclass(frozen=True)
class Card:
    """One number with its words, for the top of the page."""

    value: str
    text: str


@dataclass
class Told:
    """A chapter with the results it tells of. Everything in it is made when it is first asked for, and once."""

    chapter: Chapter
    results: Results
    # the chapters that were told before this one; each holds those before it, so that a text of all of them never ends
    before: Sequence[Told] = field(default=(), repr=False)

    @cached_property
    def study(self) -> Study:
        """The study that the chapter is about.

        Raises:
            UsageError: it is about none that is known here.
        """
        return self.results.study(self.chapter.study)

    @cached_property
    def lines(self) -> list[Line]:
        """Every line of the study, tried or not; none where the chapter is about no study."""
        if not self.chapter.study:
            return []
        return lines_of(self.results, self.study, self.chapter.references)

    @cached_property
    def shown(self) -> list[Line]:
        """The lines that tables show: of a long study what was tried, of a quick look what it asks for or counts."""
        if self.chapter.is_long:
            return [line for line in self.lines if line.timing]
        return [line for line in self.lines if line.timing or line.counted or line.case in self.asked]

    @cached_property
    def asked(self) -> set[Case]:
        """The cases that were to be timed: fewer in a quick look."""
        texts = self.study.cases(self.results.kind, self.is_quick) if self.lines else ()
        return set(map(parsed, texts))

    @cached_property
    def pairs(self) -> list[Pair]:
        """The comparisons that were asked for, tried or not, and those that were made all the same."""
        if not self.chapter.study:
            return []
        texts = self.study.pairs(self.results.kind, self.is_quick)
        asked = {(parsed(first), parsed(second)) for first, second in texts}
        pairs = pairs_of(self.results, self.study, self.lines)
        return [pair for pair in pairs if pair.comparison or (pair.first.case, pair.second.case) in asked]

    @cached_property
    def is_quick(self) -> bool:
        """Whether all that was run of the study is a quick look, which asks for less than the whole."""
        return self.results.protocols(self.study.name) == {"quick"}

    @cached_property
    def tables(self) -> list[Table]:
        """The tables for the terminal, for Markdown and for the page."""
        return self.chapter.tables(self)

    @cached_property
    def context(self) -> dict[str, Any]:
        """Further things for the template of its section: tables that stand on the page alone, say."""
        return self.chapter.context(self)

    @cached_property
    def plots(self) -> list[Plot]:
        """The figures that the rows allow."""
        return [plot for draw in self.chapter.figures if (plot := draw(self))]

    @property
    def csv(self) -> dict[str, str]:
        """CSV files by name: of the study's lines, of its pairs if it has any, and the chapter's own."""
        files = dict(self.chapter.files(self))
        if not self.chapter.study:
            return files
        files[f"{self.study.name}.csv"] = columns.to_csv(self.csv_columns, self.shown)
        if self.pairs:
            files[f"{self.study.name}_pairs.csv"] = columns.to_csv(pairs_csv_columns(), self.pairs)
        return files

    @property
    def csv_columns(self) -> list[Column[Line]]:
        """The columns of the study's CSV file and frame."""
        return self.columns_of(columns.csv_for_harness(self.chapter.csv, self.study.harness))

    def columns_of(self, names: Sequence[str]) -> list[Column[Line]]:
        """The columns of these names, the chapter's own among them."""
        known = {**COLUMNS, **columns.named(self.chapter.columns)}
        return [known[name] for name in names]


def pairs_csv_columns() -> list[Column[Pair]]:
    """The columns of the CSV file and the frame of a study's pairs."""
    return [PAIR_COLUMNS[name] for name in columns.PAIRS_CSV]


# ---- the tables of a study that needs no others


def no_tables(told: Told) -> list[Table]:
    """No table: the chapter has figures, or tables that stand on the page alone."""
    return []


def usual_tables(told: Told) -> list[Table]:
    """The table of the lines, of the time by module, and of the pairs, as far as there is something for each."""
    return [*lines_tables(told, told.shown), *modules_tables(told), *pairs_tables(told, told.pairs)]


def lines_tables(told: Told, lines: Sequence[Line]) -> list[Table]:
    """The table of the lines, without the columns that are empty, and those of which the caption says the one value.

    None without lines.
    """
    if not lines:
        return []
    layout = columns.for_harness(told.chapter.layout, told.study.harness)
    notes = line_notes(lines)
    if told.chapter.is_long and (left := len(told.lines) - len(lines)):
        notes.append(f"{left} more cases of the sweep are not measured yet")
    table = made_of(
        told.columns_of(layout.names),
        lines,
        told.study.name,
        told.chapter.title,
        caption(lines),
        notes=notes,
        setting=setting(told.results, lines),
        narrow=[told.columns_of(names) for names in layout.narrow],
    )
    repeated = {COLUMNS["impl"].header} if len({line.case.impl for line in lines}) == 1 else set()
    return [table.without(table.empty() | set(_constant(lines)) | repeated)]


def modules_tables(told: Told) -> list[Table]:
    """The table of milliseconds by module of the model, of the lines that were taken apart; none where none was."""
    apart = [line for line in told.shown if line.by_module]
    if not apart:
        return []
    modules = [module for module in MODULES if any(module in line.by_module for line in apart)]
    ms_columns = [
        Column("title", "Model", lambda line: line.title),
        COLUMNS["size"],
        Column("iteration_ms", "ms an iteration", COLUMNS["ms"].value, NUMBER),
        *(_module_ms(module) for module in modules),
    ]
    return [
        made_of(
            ms_columns,
            apart,
            f"{told.study.name}_parts",
            f"{told.chapter.nav}: where the time goes, ms",
            "Medians (means, where the protocol says so), from the border of one part to that of the next, taken "
            "while the images were timed; so they add up to the whole but for rounding, and for medians of samples "
            "that vary.",
        )
    ]


def _module_ms(module: str) -> Column[Line]:
    def milliseconds(line: Line) -> float | None:
        return 1e3 * line.by_module[module].value if module in line.by_module else None

    return Column(f"{module}_ms", MODULES[module], milliseconds, NUMBER)


def pairs_tables(told: Told, pairs: Sequence[Pair]) -> list[Table]:
    """The table of the pairs, with the chapter's claim about them in its caption; none without pairs."""
    if not pairs:
        return []
    made = [pair for pair in pairs if pair.comparison]
    same = _said({pair.batch for pair in made}, {pair.dtype for pair in made})
    claim = told.chapter.claim(told)
    table = made_of(
        [PAIR_COLUMNS[name] for name in columns.PAIRS.names],
        pairs,
        f"{told.study.name}_pairs",
        f"{told.chapter.title}: in turns",
        "How many times as long the first takes for an image as the second. Here the two were measured in turns "
        "(A B B A or B A A B, by a coin), so that a drift of the machine favours neither; the paper's is the ratio of "
        "its printed speeds. The same: the whole interval is within 1 % of 1. Faster, slower: the interval leaves 1 "
        "out, and the value is further from 1 than that. All else is undecided."
        + (f" All rows: {', '.join(same.values())}." if same else "")
        + (f" {claim}" if claim else ""),
        notes=pair_notes(pairs),
        narrow=[[PAIR_COLUMNS[name] for name in names] for names in columns.PAIRS.narrow],
    )
    return [table.without(table.empty() | set(same))]


# ---- captions


def setting(results: Results, lines: Sequence[Line]) -> str:
    """The machine, the protocol and the peak, in a paragraph."""
    protocol = usual([line.timing.protocol for line in lines if line.timing])
    peaks = results.peaks
    dtypes = dict.fromkeys(line.dtype for line in lines if line.dtype in peaks.tflops)
    peak = ", ".join(f"{significant(peaks.tflops[dtype])} TFLOP/s {dtype}" for dtype in dtypes if dtype)
    return sentences(
        f"{'Measured' if any(line.timing for line in lines) else 'Not measured yet'} on {results.machine}",
        f"Protocol {protocol}" if protocol else "",
        f"Peak {peak} ({peaks.source})" if peak else f"Peak {peaks.source}",
        "1 MAC = 2 FLOP; GMAC/s and share of peak count core MACs",
    )


def caption(lines: Sequence[Line]) -> str:
    """A table's caption: what its lines have in common, and what its columns mean."""
    same = ", ".join(_constant(lines).values())
    printed = {metric for line in lines for metric in line.printed}
    return sentences(
        f"All rows: {same}" if same else "",
        "GMACs are those of the forward pass alone (core)" if any(line.is_training for line in lines) else "",
        "× inference is the time of an image beside inference at the same batch and dtype, the two taken in turns"
        if any(line.times_inference for line in lines)
        else "",
        "The paper's machine is a V100" if {"throughput", "ms"} & printed else "",
        _reference_sentence(lines) if any(line.times_printed or line.times_here for line in lines) else "",
        f"GPU computed is the share of an iteration in which it did; below {100 * LAUNCH_BOUND:.0f} % the CPU's "
        "launches are what was timed, and no rate of computing is given"
        if any(line.device_share is not None for line in lines)
        else "",
        "mJ / image is what the whole board took" if any(line.joules_per_image for line in lines) else "",
        "Top-1 is the paper's: no accuracy is measured here" if "top1" in printed else "",
    )


def _constant(lines: Sequence[Line]) -> dict[str, str]:
    """Columns that say the same of every line that was tried, with what the caption says instead."""
    tried = [line for line in lines if line.timing]
    said = _said({line.batch for line in tried}, {line.dtype for line in tried})
    sizes = {(line.case.size, line.case.mix) for line in lines}
    if len(sizes) == 1:
        size, mix = sizes.pop()
        said["Size"] = f"sizes {mix}" if mix else f"images of {' × '.join(map(str, size))} pixels"
    return said


def _said(batches: set[int | None], dtypes: set[str | None]) -> dict[str, str]:
    """The batch and the dtype in words, by header, where all rows have the same known one."""
    said = {}
    if len(batches) == 1 and None not in batches:
        said["batch"] = f"batch {batches.pop()}"
    if len(dtypes) == 1:
        said["dtype"] = str(dtypes.pop())
    return said


def _reference_sentence(lines: Sequence[Line]) -> str:
    """The sentence that says which speed is 1.00 ×."""
    references = {line.reference.case: line.reference for line in lines if line.reference}
    # in panels of a table the reference has a name in each
    names = [line.case.title if line.panel else line.title for line in references.values()]
    sizes = [case.shape for case in references]
    if len(set(names)) == 1 < len(set(sizes)):
        return f"× is speed as a multiple of that of {names[0]} at the same size"
    has_one_size = "Size" in _constant(lines)
    first, *others = [
        name if has_one_size else f"{name} at {size}" for name, size in zip(names, sizes, strict=True)
    ]
    text = f"× is speed as a multiple of that of {first}"
    return text + "".join(f", from {name} on of that of {name}" for name in others)


# ---- notes


def line_notes(lines: Sequence[Line], counted: str = "") -> list[str]:
    """Notes that a reader must know about single rows; rows with the same note share it.

    Many are `counted` under that name, where a row of the table is more than one of them.
    """
    protocol = usual([line.timing.protocol for line in lines if line.timing])
    notes = ((note, line.name) for line in lines for note in _notes(line, protocol))
    return _shared(notes, len(lines), counted)


def _notes(line: Line, protocol: str | None) -> Iterable[str]:
    if line.timing is None:
        yield "not measured yet"
    else:
        if line.timing.protocol != protocol:
            yield f"measured under protocol {line.timing.protocol}, not {protocol}"
        yield from line.unlike
        yield from line.timing.notes
    if line.is_wide:
        yield f"an interval wider than ± {100 * TOO_WIDE:.0f} %: nothing is concluded from it"
    if (line.share_of_peak or 0) > 1:
        yield f"{share(line.share_of_peak or 0)} of the peak: {_above_peak(line)}"
    if line.counts is None:
        yield "not counted yet"
    elif line.counted is None:
        yield f"counting failed: {line.counts.row.get('reason') or 'no reason given'}"
    for verdict in map(line.verdict, ("parameters", "macs")):
        if verdict and verdict.reason:
            yield verdict.reason


def _above_peak(line: Line) -> str:
    """The reason why a share of the peak can be above 1."""
    convolves = bool(line.counted and line.counted.by_operator(ANALYSIS).get("conv"))
    by_winograd = "3 × 3 convolutions may be computed with fewer products than are counted (Winograd)"
    reasons = [by_winograd] if convolves else []
    if not line.results.on_gpu:
        reasons.append("the measured peak is too low")
    return ", or ".join(reasons) or "the peak of the datasheet is too low for this board"


def pair_notes(pairs: Sequence[Pair], counted: str = "") -> list[str]:
    """Notes on single pairs, as `line_notes` has them."""
    notes = (
        (note, pair.name)
        for pair in pairs
        for note in ([*pair.unlike, *pair.comparison.notes] if pair.comparison else ["not measured yet"])
    )
    return _shared(notes, len(pairs), counted)


def _shared(notes: Iterable[tuple[str, str]], everyone: int, counted: str) -> list[str]:
    """A line for each note of (note, name): whose it is by name, or how many of `everyone`."""

    def who(names: Sequence[str]) -> str:
        if counted and len(names) > MANY:
            return f"{len(names)} of {everyone} {counted}"
        return "all" if len(names) == everyone > 1 else ", ".join(names)

    return [f"{who(names)}: {note}" for note, names in grouped(notes).items()]


# ---- the chapter


def _nothing(told: Told) -> None:
    return None


def _no_cards(told: Told) -> list[Card]:
    return []


def _no_context(told: Told) -> dict[str, Any]:
    return {}


def _no_files(told: Told) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Chapter:
    """Everything the report says of one study or, without a study, of the whole run.

    Fixed texts state nothing that a measurement could contradict.

    The functions take the chapter as it is told, with its lines and pairs, and are called when their part is wanted.
    """

    heading: str  # of its section of the page
    nav: str  # the heading in a word or two
    study: str = ""  # the study whose lines and pairs it tells
    analyses: tuple[str, ...] = ()  # studies that time nothing, whose rows it draws
    title: str = ""  # of the table of the lines
    text: str = ""  # what to know before reading the tables
    # Cases whose speed is 1.00 ×, each for itself and for those below it; for those above, the first. Where some are of
    # a row's own size, only those are meant.
    references: tuple[str, ...] = ()
    layout: Layout = columns.PAPER
    csv: tuple[str, ...] = columns.CSV
    columns: tuple[Column[Line], ...] = field(
        default=(), hash=False
    )  # its own, for the layout and the CSV to name
    is_long: bool = False  # a run may leave most of it out: only what was tried is shown
    tables: Callable[[Told], list[Table]] = usual_tables
    files: Callable[[Told], dict[str, str]] = _no_files  # further CSV files, by name
    context: Callable[[Told], dict[str, Any]] = _no_context
    figures: tuple[
        Callable[[Told], Plot | None], ...
    ] = ()  # in the order in which they stand above the tables
    claim: Callable[[Told], str | None] = _nothing  # what the paper says of the pairs, and what was seen
    answer: Callable[[Told], str | None] = _nothing  # a sentence of the answer at the top of the page
    cards: Callable[[Told], list[Card]] = _no_cards
    summary: Callable[[Told], str | None] = _nothing  # what the terminal says in place of its tables
    template: str = "chapter.html"  # of its section of the page
    own_anchor: str = ""

    @property
    def anchor(self) -> str:
        """The id of its section of the page."""
        return self.own_anchor or f"study-{self.study}"

    def tell(self, results: Results, before: Sequence[Told] = ()) -> Told | None:
        """The chapter told from `results`; None where its study was not run."""
        if self.study and self.study not in results.ran:
            return None
        return Told(self, results, before)
