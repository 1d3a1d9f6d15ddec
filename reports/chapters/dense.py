"""Tables 3 to 5: Mask R-CNN with windows and by backbone, UperNet by backbone; by operator, and by module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench import studies
from models import cost
from reports.chapter import Card, Chapter, Told, lines_tables, modules_tables, pairs_tables
from reports.columns import COUNTED, GIGA, MODULES, PARAMETERS, PRINTED, VERDICT, WHO, Column, Form, Layout
from reports.figures import (
    MUTED,
    OPERATOR_LOOKS,
    WIDE,
    Plot,
    even_lines,
    finish,
    for_both,
    name_rows,
    new_figure,
    stacked_bars,
)
from reports.lines import Line, Pair
from reports.measurements import Counts
from reports.switches import macs_against_time
from reports.tables import Table, made_of
from reports.verdicts import Status, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# ---- Table 3(b): MACs by operator

# Table 3(b)'s columns, and which operators of our count are in each.
OPERATORS = {
    "conv": ("conv",),
    "linear": ("linear",),
    "matmul": ("matmul",),
    "others": cost.OTHERS,
}


def counted_by_column(counts: Counts) -> dict[str, int]:
    """MACs of an image in Table 3(b)'s columns."""
    counted = counts.by_operator("fvcore")
    return {column: sum(counted.get(name, 0) for name in names) for column, names in OPERATORS.items()}


def by_operator(line: Line) -> dict[str, int] | None:
    """MACs of an image in Table 3(b)'s columns, without those of the detections; None where it was not counted."""
    if line.counted is None or "fvcore" not in line.counted.macs:
        return None
    counted = counted_by_column(line.counted)
    detections = int(str(dict(line.case.options)["detections"]))
    return counted | {"conv": counted["conv"] - detections * cost.detection_macs()}


def implied_detections(line: Line) -> float | None:
    """The detections an image must have for the printed convolutions; None without a count or a print."""
    counted, conv = by_operator(line), line.printed.get("conv")
    return (conv.value - counted["conv"]) / cost.detection_macs() if counted and conv else None


def operators_verdict(line: Line) -> Verdict | None:
    """The verdict on every column but that of the convolutions; None where not all are printed and counted."""
    counted = by_operator(line)
    if counted is None or not all(column in line.printed for column in OPERATORS):
        return None
    wrong = [name for name in OPERATORS if name != "conv" and not line.printed[name].matches(counted[name])]
    return Verdict(Status.NO_MATCH, ", ".join(wrong)) if wrong else Verdict(Status.MATCH)


def _with_reason(verdict: Verdict) -> str:
    return ": ".join(filter(None, (verdict.word, verdict.reason)))


def _operator_columns(operator: str) -> tuple[Column[Line], Column[Line]]:
    """An operator's GMACs as printed and as counted."""

    def counted(line: Line) -> int | None:
        macs = by_operator(line)
        return macs[operator] if macs else None

    return (
        Column(f"paper_{operator}", f"{operator} paper", lambda line: line.printed.get(operator), PRINTED),
        Column(operator, f"{operator} ours", counted, GIGA),
    )


STYLE: Column[Line] = Column("title", "Style", lambda line: line.title)
OPERATOR_COLUMNS = [column for operator in OPERATORS for column in _operator_columns(operator)]
OPERATORS_VERDICT: Column[Line] = Column(
    "operators_verdict",
    "verdict",
    operators_verdict,
    Form(_with_reason, VERDICT.dtype, is_number=False, raw=_with_reason, sort=_with_reason),
)
DETECTIONS: Column[Line] = Column(
    "detections", "detections implied", implied_detections, Form(lambda count: f"{count:.1f}")
)


def operators_table(lines: Sequence[Line]) -> Table:
    """Table 3(b), printed and counted."""
    return made_of(
        [STYLE, *OPERATOR_COLUMNS, OPERATORS_VERDICT, DETECTIONS],
        lines,
        "table3_operators",
        "Table 3(b): GMACs by operator",
        "GMACs of an image, the mean over the first 500 images of COCO val2017, as `fvcore` counts; others are norms "
        "and upsampling. The paper says 1k images, over which linear would be 0.1 % more, and matmul up to 0.3 %. Ours "
        "have no detections: the paper's convolutions include those of weights that are not public, "
        f"{cost.detection_macs() / 1e9:.3f} GMACs each. How many that would be is fitted, one number a row, so "
        "that the verdict is on the other three.",
        narrow=[
            [STYLE, *OPERATOR_COLUMNS[:4], DETECTIONS],
            [STYLE, *OPERATOR_COLUMNS[4:], OPERATORS_VERDICT],
        ],
    )


def table3_tables(told: Told) -> list[Table]:
    """Table 3 with its second half, the MACs by operator."""
    return [
        *lines_tables(told, told.shown),
        operators_table(told.shown),
        *modules_tables(told),
        *pairs_tables(told, told.pairs),
    ]


# ---- the claim about windows


def windows_pair(pairs: Sequence[Pair]) -> Pair | None:
    """Windows beside global attention, if the two were compared."""
    windows = (pair for pair in pairs if "style=win" in str(pair.first.case) and pair.printed)
    return next((pair for pair in windows if pair.here), None)


def claim(told: Told) -> str | None:
    """The paper's claim about windows in Mask R-CNN, and what was seen here; None where that was not measured."""
    pair = windows_pair(told.pairs)
    if pair is None or pair.here is None or pair.verdict is None:
        return None
    here, paper = pair.here, pair.printed or 1.0
    seen = f"{here.value:.3f} times"
    if here.low is not None:
        seen += f" ({here.low:.3f} to {here.high:.3f})"
    more, claimed = (f"{100 * (times - 1):.0f} %" for times in (here.value, paper))
    conclusion = {
        Status.SLOWER: f"windows are slower here, by {more} where the paper has {claimed}",
        Status.FASTER: "windows are faster here, and the claim does not hold on this machine",
        Status.SAME: "the two take the same here, within 1 %",
    }.get(pair.verdict.status, "which is faster is undecided here")
    return (
        f"The paper: with windows Mask R-CNN takes {pair.printed:.2f} times as long as with global attention. "
        f"Here it takes {seen}: {conclusion}."
    )


def cards(told: Told) -> list[Card]:
    """The time of windows beside global attention, here and in the paper."""
    pair = windows_pair(told.pairs)
    if pair is None or pair.here is None:
        return []
    words = f"the time of Mask R-CNN with windows beside global attention; the paper: {pair.printed:.2f}×"
    return [Card(f"{pair.here.value:.2f}×", words)]


# ---- the figure of Table 3: MACs by operator beside the time by module, style by style

MACS_LOOKS = {
    **{name: OPERATOR_LOOKS[name] for name in ("conv", "linear", "matmul")},
    "others": OPERATOR_LOOKS["norm"],  # which is nearly all of them
}
MODULE_LOOKS = {
    "backbone": ("#D55E00", ""),
    "fpn": ("#E8C7A4", "///"),
    "rpn": ("#FBE9DA", "..."),
    "heads": ("#BDBDBD", "xxx"),
}


def macs_and_time(told: Told) -> Plot | None:
    """Two panels that share their rows; None where no line is both counted and taken apart."""
    shown = [line for line in told.shown if line.counted and "fvcore" in line.counted.macs and line.by_module]
    if not shown:
        return None
    return for_both("table3_macs_and_time", lambda name, width: _drawn(told, shown, name, width))


def _drawn(told: Told, shown: Sequence[Line], name: str, width: float) -> Plot:
    title, is_wide = _title(told.pairs), width == WIDE
    subtitle = f"Time measured on {told.results.machine}."
    height = 1.75 + 0.42 * len(shown) if is_wide else 3.0 + 0.72 * len(shown)
    with new_figure(width, height, title, subtitle) as figure:
        left, right = figure.subplots(*((1, 2) if is_wide else (2, 1)), sharey=True)
        macs = [
            {name: count / 1e9 for name, count in counted_by_column(line.counted).items()}
            for line in shown
            if line.counted
        ]
        times = [{name: 1e3 * seconds.value for name, seconds in line.by_module.items()} for line in shown]
        there = {name: look for name, look in MODULE_LOOKS.items() if any(name in row for row in times)}
        _bars(left, macs, MACS_LOOKS)
        _bars(right, times, there)
        for axes in (left, right):
            name_rows(axes, [line.title for line in shown])
            axes.locator_params("x", nbins=8 if is_wide else 5)
        left.set_xlabel("GMACs an image, counted")
        right.set_xlabel("ms an image, measured")
        _printed(right, shown)
        _legends(figure, left, right, is_wide)
        alt = f"MACs by operator and time by part of Mask R-CNN in {len(shown)} styles. {title}."
        return finish(figure, name, title, alt)


def _bars(axes: Axes, rows: Sequence[Mapping[str, float]], looks: Mapping[str, tuple[str, str]]) -> None:
    stacked_bars(axes, rows, looks, height=0.66, room=1.18, labels=MODULES)


def printed_ms(line: Line) -> float | None:
    """The paper's time of a style, at the scale on which its global style takes as long as here.

    What lies between a bar and this is the ratio taken in turns beside the printed one, whenever the bars were
    measured. None where the two were not taken in turns.
    """
    base = line.reference
    if not (line.times_printed and line.times_here and line.seconds and base and base.case != line.case):
        return None
    return 1e3 * line.seconds.value * line.times_here / line.times_printed


def _printed(axes: Axes, shown: Sequence[Line]) -> None:
    """Mark the paper's times."""
    labels = ["the paper's V100, scaled to Global"]
    for row, line in enumerate(shown):
        if (milliseconds := printed_ms(line)) is not None:
            axes.plot(
                milliseconds,
                row,
                marker="^",
                markersize=7,
                linestyle="",
                color=MUTED,
                markeredgecolor="white",
                label=labels.pop() if labels else "",
                zorder=5,
            )
            axes.set_xlim(0, max(axes.get_xlim()[1], 1.08 * milliseconds))


def _legends(figure: Figure, left: Axes, right: Axes, is_wide: bool) -> None:
    """Put a legend below each panel, on a phone above it; the right one names the modules before the paper's marks."""
    look: dict[str, Any] = {"frameon": False, "fontsize": 8, "columnspacing": 1.0}
    above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "handlelength": 1.6, **look}
    handles, labels = left.get_legend_handles_labels()
    if is_wide:
        figure.legend(handles, labels, loc="outside lower left", ncols=2, **look)
    else:
        left.legend(handles, labels, ncols=4, **above)
    handles, labels = right.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda place: labels[place] not in MODULES.values())
    handles, labels = [handles[place] for place in order], [labels[place] for place in order]
    if is_wide:
        figure.legend(handles, labels, loc="outside lower right", ncols=3, **look)
    else:
        right.legend(handles, [even_lines(label, 20) for label in labels], ncols=2, **above)


def _title(pairs: Sequence[Pair]) -> str:
    """Windows beside global attention, as the two were compared; where they were not, only what is shown."""
    pair = windows_pair(pairs)
    if pair is None or pair.here is None or not (pair.first.macs() and pair.second.macs()):
        return "MACs and time of Mask R-CNN by style of attention"
    macs = (pair.first.macs() or 0) / (pair.second.macs() or 1)
    return (
        f"Windows: {macs:.2f}× the MACs of global attention in Mask R-CNN, {pair.here.value:.2f}× its time here, "
        f"{pair.printed:.2f}× in the paper"
    )


# ---- columns and layouts


def _with_products(line: Line) -> int | None:
    """MACs with those of the attention products, in the convention that is nearest to the line's."""
    return line.macs(line.convention.removesuffix("-no-attention"))


def _without_products(line: Line) -> int | None:
    """The same MACs without those of the attention products."""
    whole = _with_products(line)
    if whole is None or line.counted is None:
        return None
    return whole - line.counted.by_operator(line.convention.removesuffix("-no-attention")).get("matmul", 0)


# In Table 3 the paper counts the detections of each image in; ours are the same number for every image.
WITH_DETECTIONS: tuple[Column[Line], ...] = (
    Column(
        "paper_macs_with_detections",
        "GMACs paper, its detections",
        lambda line: line.printed.get("macs_with_detections"),
        PRINTED,
    ),
    Column(
        "macs_with_detections",
        f"GMACs ours, {studies.TABLE3_DETECTIONS} detections",
        lambda line: line.macs(),
        GIGA,
    ),
)
PRODUCTS: tuple[Column[Line], ...] = (
    Column("macs_with_products", "GMACs with products", _with_products, GIGA),
    Column("macs_without_products", "GMACs without", _without_products, GIGA),
)

STYLES_COUNTED = (*WHO, *PARAMETERS, "paper_macs_with_detections", "macs_with_detections")
STYLES_TIMED = ("paper_ms", "ms", "half_width", "times_paper", "times_here")
STYLES = Layout(
    (
        *(*STYLES_COUNTED, *STYLES_TIMED, "device_share", "peak_memory_bytes", "millijoules_per_image"),
        *("batch", "dtype", "asked"),
    ),
    (STYLES_COUNTED, ("model", *STYLES_TIMED)),
)
PRODUCT_NAMES = tuple(column.name for column in PRODUCTS)
SPEED = ("paper_throughput", "images_per_s", "half_width", "times_paper", "times_here")
BACKBONES = Layout(
    (
        *COUNTED,
        *PRODUCT_NAMES,
        *SPEED,
        *("gmacs_per_s", "share_of_peak", "device_share", "peak_memory_bytes", "millijoules_per_image"),
        *("batch", "dtype"),
        *("paper_ap_box", "paper_ap_mask", "paper_miou", "asked"),
    ),
    (COUNTED, (*WHO, *PRODUCT_NAMES, *SPEED)),
)

# ---- the chapters

CHAPTERS = (
    Chapter(
        study="table3",
        title="Table 3, Mask R-CNN with global attention and in windows",
        heading="Table 3: windows in Mask R-CNN",
        nav="Table 3",
        text="ResTv2-T under Mask R-CNN with an FPN, one image at a time, over sizes that stand for the first 500 "
        "images of COCO val2017: the paper says 1k, but the mean over these is what it prints. Every image has 1000 "
        f"proposals and {studies.TABLE3_DETECTIONS} detections, so that the styles are compared on equal work. Pasting "
        "the masks into the image is not timed.",
        references=(
            f"restv2_tiny[detections={studies.TABLE3_DETECTIONS},head=mask_rcnn,style=global]@coco500~8",
        ),
        layout=STYLES,
        columns=WITH_DETECTIONS,
        tables=table3_tables,
        figures=(macs_and_time,),
        claim=claim,
        cards=cards,
    ),
    Chapter(
        study="table4",
        title="Table 4, Mask R-CNN by backbone",
        heading="Table 4: Mask R-CNN by backbone",
        nav="Table 4",
        text="Images of 1280 × 800 (in a quick look on a CPU, smaller ones), one at a time, 1000 proposals and 100 "
        "detections each. The paper's FLOPs leave the attention products out here, and not in Tables 3 and 5: both are "
        "shown.",
        references=("restv2_tiny[head=mask_rcnn]@800x1280", "restv2_tiny[head=mask_rcnn]@192x320"),
        layout=BACKBONES,
        columns=PRODUCTS,
        figures=(macs_against_time,),
    ),
    Chapter(
        study="table5",
        title="Table 5, UperNet by backbone",
        heading="Table 5: UperNet by backbone",
        nav="Table 5",
        text="Images of 2048 × 512 (in a quick look on a CPU, smaller ones), one at a time, to the logits of every "
        "pixel. The auxiliary head is among the parameters and does not run.",
        references=("restv2_tiny[head=upernet]@512x2048", "restv2_tiny[head=upernet]@128x512"),
        layout=BACKBONES,
        columns=PRODUCTS,
        figures=(macs_against_time,),
    ),
)
