"""The tables of the studies: each from its lines, and its comparisons from its pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bench import studies
from bench.stats import Estimate
from reports import detection, kernel_study, windows
from reports.about import about
from reports.lines import ANALYSIS, TOO_WIDE, Line, named, shown_lines, study_lines, without_run
from reports.measured import Results, usual
from reports.pairs import Pair, study_pairs
from reports.table import DASH, Cell, Table, half_width, number, size, text
from reports.text import share, significant

OURS_WITH_DETECTIONS = f"GMACs ours, {studies.TABLE3_DETECTIONS} detections"  # of an image

Column = tuple[bool, Callable[[Line], Cell]]  # whether it holds numbers, and what stands in it


def _paper(metric: str) -> Column:
    def cell(line: Line) -> Cell:
        found = line.printed.get(metric)
        return Cell(found.text, found.value) if found else Cell(DASH)

    return True, cell


def _verdict(metric: str) -> Column:
    return False, lambda line: text(line.verdict(metric))


def _speed(line: Line) -> Cell:
    if line.images_per_s is None:
        return Cell(line.outcome)
    return Cell(significant(line.images_per_s.value), line.images_per_s.value)


def _printed_ms(line: Line) -> Cell:
    found = line.printed.get("ms")
    return Cell(found.text, found.value) if found else Cell(DASH)


def _with_products(line: Line) -> int | None:
    """MACs with those of the attention products, in the convention that is nearest to the line's."""
    return line.macs(line.convention.removesuffix("-no-attention"))


def _without_products(line: Line) -> int | None:
    whole = _with_products(line)
    if whole is None or line.counted is None:
        return None
    return whole - line.counted.by_operator(line.convention.removesuffix("-no-attention")).get("matmul", 0)


def _milliseconds(line: Line) -> Cell:
    if line.seconds is None:
        return Cell(line.outcome)
    return number(1e3 * line.seconds.value, significant)


def _times(value: float | None) -> Cell:
    return number(value, lambda times: f"{times:.2f}")


def _giga(macs: int | None) -> Cell:
    return number(macs, lambda n: f"{n / 1e9:.2f}")


# By header, in the order in which they stand.
COLUMNS: dict[str, Column] = {
    "Model": (False, lambda line: text(f"{line.part} {line.title}".strip())),
    "Size": (True, lambda line: size(line.case)),
    "M params paper": _paper("parameters"),
    "M params ours": (True, lambda line: number(line.parameters, lambda n: f"{n / 1e6:.2f}")),
    "params verdict": _verdict("parameters"),
    "GMACs paper": _paper("macs"),
    "GMACs ours": (True, lambda line: _giga(line.macs())),
    "GMACs with products": (True, lambda line: _giga(_with_products(line))),
    "GMACs without": (True, lambda line: _giga(_without_products(line))),
    "GMACs paper, its detections": _paper("macs_with_detections"),
    OURS_WITH_DETECTIONS: (True, lambda line: _giga(line.macs())),
    "counted as": (False, lambda line: text(line.convention)),
    "GMACs verdict": _verdict("macs"),
    "GMACs forward": (True, lambda line: _giga(line.macs(ANALYSIS))),
    "ms paper": (True, _printed_ms),
    "ms here": (True, lambda line: _milliseconds(line)),
    "images/s paper": _paper("throughput"),
    "images/s here": (True, _speed),
    "ms/step": (True, lambda line: number(1e3 * line.seconds.value if line.seconds else None, significant)),
    "± 95 %": (True, lambda line: half_width(line.images_per_s)),
    "paper ×": (True, lambda line: _times(line.times_printed)),
    "here ×": (True, lambda line: _times(line.times_here)),
    "× inference": (True, lambda line: _times(line.times_inference)),
    "GMAC/s here": (
        True,
        lambda line: number(line.macs_per_s.value / 1e9 if line.macs_per_s else None, significant),
    ),
    "share of peak": (True, lambda line: number(line.share_of_peak, share)),
    "peak memory, MiB": (True, lambda line: number(line.peak_memory_bytes, lambda n: f"{n / 2**20:.0f}")),
    "batch": (True, lambda line: number(line.batch, lambda n: f"{n:.0f}")),
    "dtype": (False, lambda line: text(line.dtype)),
    "Top-1 %, printed": _paper("top1"),
    "box AP, printed": _paper("ap_box"),
    "mask AP, printed": _paper("ap_mask"),
    "mIoU, printed": _paper("miou"),
    "case": (
        False,
        lambda line: text(named(without_run(line.case)) + (":train" if line.is_training else "")),
    ),
}

TRAINING_ONLY = ("GMACs forward", "ms/step", "× inference")
DENSE_ONLY = (
    *("GMACs with products", "GMACs without", "GMACs paper, its detections", OURS_WITH_DETECTIONS),
    *("ms paper", "ms here", "box AP, printed", "mask AP, printed", "mIoU, printed"),
)
PAPER = tuple(header for header in COLUMNS if header not in (*TRAINING_ONLY, *DENSE_ONLY))
TRAINING = (
    *("Model", "Size", "GMACs forward", "images/s here", "ms/step", "± 95 %", "× inference"),
    *("peak memory, MiB", "batch", "dtype", "case"),
)
SWEEP = ("Model", "Size", "batch", "dtype", "images/s here", "± 95 %", "GMAC/s here", "share of peak")
STYLES = (
    *("Model", "Size", "M params paper", "M params ours", "params verdict"),
    *("GMACs paper, its detections", OURS_WITH_DETECTIONS, "ms paper", "ms here", "± 95 %"),
    *("paper ×", "here ×", "peak memory, MiB", "batch", "dtype", "case"),
)
DENSE = (
    *("Model", "Size", "M params paper", "M params ours", "params verdict"),
    *("GMACs paper", "GMACs ours", "counted as", "GMACs verdict", "GMACs with products", "GMACs without"),
    *("images/s paper", "images/s here", "± 95 %", "paper ×", "here ×", "GMAC/s here", "share of peak"),
    *("peak memory, MiB", "batch", "dtype", "box AP, printed", "mask AP, printed", "mIoU, printed", "case"),
)
LAYOUTS = {  # of all others: PAPER
    "table3": STYLES,
    "table4": DENSE,
    "table5": DENSE,
    "table8": TRAINING,
    "sweep": SWEEP,
}

# Two halves of a table of the paper's that each fit a terminal of 80 columns.
COUNTED = (
    *("Model", "Size", "M params paper", "M params ours", "params verdict"),
    *("GMACs paper", "GMACs ours", "counted as", "GMACs verdict"),
)
TIMED = (
    *("Model", "Size", "images/s paper", "images/s here", "± 95 %"),
    *("paper ×", "here ×", "share of peak", "batch", "dtype", "Top-1 %, printed"),
)
DENSE_TIMED = (
    *("Model", "Size", "GMACs with products", "GMACs without", "images/s paper", "images/s here", "± 95 %"),
    *("paper ×", "here ×"),
)
NARROW = {
    PAPER: (COUNTED, TIMED),
    TRAINING: (TRAINING[:-1],),
    STYLES: (STYLES[:7], (*STYLES[:1], *STYLES[7:-4])),
    DENSE: (COUNTED, DENSE_TIMED),
}
MANY = 3  # names in a note: more are counted, where they may be


def all_tables(results: Results) -> list[Table]:
    """Those of each study that was run here."""
    return [table for name in results.studies for table in tables_of(results, name)]


def tables_of(results: Results, study: str) -> list[Table]:
    """The table of a study that was run, and that of its comparisons, as far as it has them."""
    if not studies.find(study).is_timed:
        return []
    if study == "kernels":
        return kernel_study.all_tables(results, setting(results, shown_lines(results, study)))
    made, lines, pairs = [], shown_lines(results, study), study_pairs(results, study)
    wholes = [line for line in lines if not line.case.attention]
    if wholes:
        made.append(_of_lines(results, study, wholes))
    if made and study == "windows":
        made += [windows.work_table(), *_of_blocks(results, lines, pairs)]
    if made and study == "table3":
        made.append(detection.operators_table(lines))
    if parts := detection.parts_table(study, lines):
        made.append(parts)
    if between_wholes := [pair for pair in pairs if not pair.first.case.attention]:
        made.append(_of_pairs(study, between_wholes))
    return made


def _of_blocks(results: Results, lines: Sequence[Line], pairs: Sequence[Pair]) -> list[Table]:
    """The table of single blocks' attention, or none where none was tried. Its dashes say what was not."""
    blocks = [line for line in lines if line.case.attention]
    turns = [pair for pair in pairs if pair.first.case.attention]
    tried = [line for line in blocks if line.timing]
    if not tried:
        return []
    notes = line_notes(tried, "cases")
    notes += _pair_notes([pair for pair in turns if pair.comparison], "comparisons")
    return [windows.attention_table(blocks, turns, setting(results, tried), notes)]


def _of_lines(results: Results, study: str, shown: Sequence[Line]) -> Table:
    """Without the columns that are empty, and those of which the caption says the one value."""
    layout, its = LAYOUTS.get(study, PAPER), about(study)
    whole = Table(
        name=study,
        title=its.title,
        caption=caption(shown),
        setting=setting(results, shown),
        headers=list(layout),
        rows=[[COLUMNS[header][1](line) for header in layout] for line in shown],
        numeric=[COLUMNS[header][0] for header in layout],
        notes=line_notes(shown),
        narrow=[list(headers) for headers in NARROW.get(layout, ())],
    )
    if about(study).is_long and (left := len(study_lines(results, study)) - len(shown)):
        whole.notes.append(f"{left} more cases of the sweep are not measured yet")
    return whole.without(whole.empty() | set(_constant(shown)))


def _constant(shown: Sequence[Line]) -> dict[str, str]:
    """Columns that say the same of every line that was tried, with what the caption says instead."""
    tried = [line for line in shown if line.timing]
    found = _said({line.batch for line in tried}, {line.dtype for line in tried})
    sizes = {(line.case.size, line.case.mix) for line in shown}
    if len(sizes) == 1:
        one, mix = sizes.pop()
        found["Size"] = f"sizes {mix}" if mix else f"images of {' × '.join(map(str, one))} pixels"
    return found


def _said(batches: set[int | None], dtypes: set[str | None]) -> dict[str, str]:
    found = {}
    if len(batches) == 1:
        found["batch"] = f"batch {batches.pop()}"
    if len(dtypes) == 1:
        found["dtype"] = str(dtypes.pop())
    return found


# ---- what is said above and below


def setting(results: Results, shown: Sequence[Line]) -> str:
    """The machine, the protocol and the peak, in a paragraph."""
    protocol = usual([line.timing.protocol for line in shown if line.timing])
    peaks = results.peaks
    dtypes = dict.fromkeys(line.dtype for line in shown if line.dtype in peaks.tflops)
    peak = ", ".join(f"{significant(peaks.tflops[dtype])} TFLOP/s {dtype}" for dtype in dtypes if dtype)
    return _sentences(
        f"{'Measured' if any(line.timing for line in shown) else 'Not measured yet'} on {results.machine}",
        f"Protocol {protocol}" if protocol else "",
        f"Peak {peak} ({peaks.source})" if peak else f"Peak {peaks.source}",
        "1 MAC = 2 FLOP; GMAC/s and share of peak count core MACs",
    )


def caption(shown: Sequence[Line]) -> str:
    """What else is to be known of these lines: what they have in common, and what columns mean."""
    same = ", ".join(_constant(shown).values())
    printed = {metric for line in shown for metric in line.printed}
    return _sentences(
        f"All rows: {same}" if same else "",
        "GMACs are those of the forward pass alone (core)" if any(line.is_training for line in shown) else "",
        "× inference is the time of an image beside inference at the same batch and dtype"
        if any(line.times_inference for line in shown)
        else "",
        "The paper's machine is a V100" if {"throughput", "ms"} & printed else "",
        _reference_sentence(shown) if any(line.times_printed or line.times_here for line in shown) else "",
        "Top-1 is the paper's: no accuracy is measured here" if "top1" in printed else "",
    )


def _sentences(*parts: str) -> str:
    return " ".join(f"{part}." for part in parts if part)


def _reference_sentence(shown: Sequence[Line]) -> str:
    """What 1.00 × is."""
    references = {line.reference.case: line.reference for line in shown if line.reference}
    # in parts of a table the reference has a name in each
    names = [line.case.title if line.part else line.title for line in references.values()]
    sizes = [case.shape for case in references]
    if len(set(names)) == 1 < len(set(sizes)):
        return f"× is speed as a multiple of that of {names[0]} at the same size"
    one = "Size" in _constant(shown)
    first, *others = [name if one else f"{name} at {at}" for name, at in zip(names, sizes, strict=True)]
    text = f"× is speed as a multiple of that of {first}"
    return text + "".join(f", from {name} on of that of {name}" for name in others)


def line_notes(shown: Sequence[Line], counted: str = "") -> list[str]:
    """What a reader must know about single rows; rows with the same note share it.

    Many are `counted` under that name, where a row of the table is more than one of them.
    """
    protocol = usual([line.timing.protocol for line in shown if line.timing])
    found = ((note, line.name) for line in shown for note in _notes(line, protocol))
    return _shared(found, len(shown), counted)


def _shared(notes: Iterable[tuple[str, str]], everyone: int, counted: str) -> list[str]:
    """A line for each note, which come with whose they are: all of `everyone`, by name, or how many."""
    whose: dict[str, list[str]] = {}
    for note, name in notes:
        whose.setdefault(note, []).append(name)

    def who(names: Sequence[str]) -> str:
        if counted and len(names) > MANY:
            return f"{len(names)} of {everyone} {counted}"
        return "all" if len(names) == everyone > 1 else ", ".join(names)

    return [f"{who(names)}: {note}" for note, names in whose.items()]


def _notes(line: Line, protocol: str | None) -> Iterable[str]:
    if line.timing is None:
        yield "not measured yet"
    else:
        if line.timing.protocol != protocol:
            yield f"measured under protocol {line.timing.protocol}, not {protocol}"
        yield from line.timing.notes
    if line.too_uncertain:
        yield f"an interval wider than ± {100 * TOO_WIDE:.0f} %: nothing is concluded from it"
    if (line.share_of_peak or 0) > 1:
        yield "above the peak, which is therefore too low"
    if line.counts is None:
        yield "not counted yet"
    elif line.counted is None:
        yield f"counting failed: {line.counts.row.get('reason') or 'no reason given'}"
    yield from filter(None, map(line.remark, ("parameters", "macs")))


# ---- comparisons


PAIR_COLUMNS: dict[str, tuple[bool, Callable[[Pair], Cell]]] = {
    "first": (False, lambda pair: text(pair.first.name)),
    "second": (False, lambda pair: text(pair.second.name)),
    "time × paper": (True, lambda pair: _ratio(pair.printed)),
    "time × here": (True, lambda pair: _ratio(pair.here.value) if pair.here else Cell(pair.outcome)),
    "95 % interval": (True, lambda pair: text(_interval(pair.here))),
    "verdict": (False, lambda pair: text(pair.verdict)),
    "blocks": (True, lambda pair: number(pair.here.n if pair.here else None, str)),
    "batch": (True, lambda pair: number(pair.batch, str)),
    "dtype": (False, lambda pair: text(pair.dtype)),
}


def _ratio(times: float | None) -> Cell:
    return number(times, lambda value: f"{value:.3f}")


def _interval(ratio: Estimate | None) -> str | None:
    return None if ratio is None or ratio.low is None else f"{ratio.low:.3f} to {ratio.high:.3f}"


def _pair_notes(pairs: Sequence[Pair], counted: str = "") -> list[str]:
    """As `line_notes`."""
    found = (
        (note, pair.name)
        for pair in pairs
        for note in (pair.comparison.notes if pair.comparison else ["not measured yet"])
    )
    return _shared(found, len(pairs), counted)


def _of_pairs(study: str, pairs: Sequence[Pair]) -> Table:
    made = [pair for pair in pairs if pair.comparison]
    same = _said({pair.batch for pair in made}, {pair.dtype for pair in made})
    table = Table(
        f"{study}_pairs",
        f"{about(study).title}: in turns",
        "How many times as long the first takes for an image as the second. Here the two were measured in turns "
        "(A B B A), so that a drift of the machine favours neither; the paper's is the ratio of its printed speeds. "
        "The verdict is the interval's: no difference is seen where it includes 1."
        + (f" All rows: {', '.join(same.values())}." if same else "")
        + (f" {claim}" if study == "table3" and (claim := detection.claim(pairs)) else ""),
        list(PAIR_COLUMNS),
        [[cell(pair) for _, cell in PAIR_COLUMNS.values()] for pair in pairs],
        [numeric for numeric, _ in PAIR_COLUMNS.values()],
        _pair_notes(pairs),
        narrow=[[header for header in PAIR_COLUMNS if header != "blocks"]],
    )
    return table.without(table.empty() | set(same))
