"""Tables 3 to 5 beyond their lines: MACs by operator as Table 3(b) has them, and times by part of the model."""

from __future__ import annotations

from collections.abc import Sequence

from bench import windowcost
from reports.lines import Line
from reports.pairs import Pair
from reports.rows import Counts
from reports.table import DASH, Cell, Table, number, size, text
from reports.text import significant

# Table 3(b)'s columns, and which operators of our count are in each.
OPERATORS = {
    "conv": ("conv",),
    "linear": ("linear",),
    "matmul": ("matmul",),
    "others": windowcost.OTHERS,
}
PARTS = {"backbone": "backbone", "fpn": "FPN", "rpn": "RPN", "heads": "heads", "decoder": "decoder"}


def counted_by_column(counts: Counts) -> dict[str, int]:
    """MACs of an image in Table 3(b)'s columns."""
    counted = counts.by_operator("fvcore")
    return {column: sum(counted.get(name, 0) for name in names) for column, names in OPERATORS.items()}


def by_operator(line: Line) -> dict[str, int] | None:
    """MACs of an image in Table 3(b)'s columns, without those of the detections; None where it was not counted."""
    if line.counted is None or "fvcore" not in line.counted.macs:
        return None
    found = counted_by_column(line.counted)
    detections = int(str(dict(line.case.options)["detections"]))
    return found | {"conv": found["conv"] - detections * windowcost.detection_macs()}


def implied_detections(line: Line) -> float | None:
    """How many detections an image must have for the printed convolutions; None without a count or a print."""
    counted, conv = by_operator(line), line.printed.get("conv")
    return (conv.value - counted["conv"]) / windowcost.detection_macs() if counted and conv else None


def operators_table(lines: Sequence[Line]) -> Table:
    """Table 3(b), printed and counted."""
    headers, rows = ["Style"], []
    for column in OPERATORS:
        headers += [f"{column} paper", f"{column} ours"]
    for line in lines:
        counted, row = by_operator(line), [text(line.title)]
        for column in OPERATORS:
            printed = line.printed.get(column)
            row.append(Cell(printed.text, printed.value) if printed else Cell(DASH))
            row.append(number(counted[column] if counted else None, lambda macs: f"{macs / 1e9:.2f}"))
        row.append(text(_verdict(line)))
        row.append(number(implied_detections(line), lambda detections: f"{detections:.1f}"))
        rows.append(row)
    headers += ["verdict", "detections implied"]
    return Table(
        "table3_operators",
        "Table 3(b): GMACs by operator",
        "GMACs of an image, the mean over the first 500 images of COCO val2017, as `fvcore` counts; others are norms "
        "and upsampling. The paper says 1k images, over which linear would be 0.1 % more, and matmul up to 0.3 %. Ours "
        "have no detections: the paper's convolutions include those of weights that are not public, "
        f"{windowcost.detection_macs() / 1e9:.3f} GMACs each. How many that would be is fitted, one number a row, so "
        "that the verdict is on the other three.",
        headers,
        rows,
        [False, *[True] * (2 * len(OPERATORS)), False, True],
        narrow=[headers[:1] + headers[1:5] + headers[-1:], headers[:1] + headers[5:-1]],
    )


def _verdict(line: Line) -> str | None:
    """On every column but that of the convolutions."""
    counted = by_operator(line)
    if counted is None or not all(column in line.printed for column in OPERATORS):
        return None
    wrong = [name for name in OPERATORS if name != "conv" and not line.printed[name].matches(counted[name])]
    return f"NO MATCH: {', '.join(wrong)}" if wrong else "MATCH"


def parts_table(study: str, lines: Sequence[Line]) -> Table | None:
    """Milliseconds by part of the model, of the lines that were taken apart; None where none was."""
    split = [line for line in lines if line.parts]
    if not split:
        return None
    names = [name for name in PARTS if any(name in line.parts for line in split)]
    rows = [
        [
            text(line.title),
            size(line.case),
            number(1e3 * line.seconds.value if line.seconds else None, significant),
            *(
                number(1e3 * line.parts[name].value if name in line.parts else None, significant)
                for name in names
            ),
        ]
        for line in split
    ]
    return Table(
        f"{study}_parts",
        f"Table {study.removeprefix('table')}: where the time goes, ms",
        "Medians (means, where the protocol says so), from the border of one part to that of the next, taken while the "
        "images were timed; so they add up to the whole but for rounding, and for medians of samples that vary.",
        ["Model", "Size", "ms an iteration", *(PARTS[name] for name in names)],
        rows,
        [False, True, True, *[True] * len(names)],
    )


def windows_pair(pairs: Sequence[Pair]) -> Pair | None:
    """Windows beside global attention, if the two were compared."""
    found = (pair for pair in pairs if "style=win" in str(pair.first.case) and pair.printed)
    return next((pair for pair in found if pair.here), None)


def claim(pairs: Sequence[Pair]) -> str | None:
    """What the paper says of windows in Mask R-CNN, and what was seen here; None where that was not measured."""
    pair = windows_pair(pairs)
    if pair is None or pair.here is None:
        return None
    here, paper = pair.here, pair.printed or 1.0
    seen = f"{here.value:.3f} times"
    if here.low is not None:
        seen += f" ({here.low:.3f} to {here.high:.3f})"
    more, claimed = (f"{100 * (times - 1):.0f} %" for times in (here.value, paper))
    verdict = {
        "slower": f"windows are slower here, by {more} where the paper has {claimed}",
        "faster": "windows are faster here, and the claim does not hold on this machine",
        "no difference seen": "no difference is seen here",
    }.get(pair.verdict, "too few samples to say")
    return (
        f"The paper: with windows Mask R-CNN takes {pair.printed:.2f} times as long as with global attention. "
        f"Here it takes {seen}: {verdict}."
    )
