"""Everything that figures share: style, opening and finishing them, bars, ends of lines, SVG fit for a page.

Matplotlib is imported when something is drawn: it takes a second, and the tables do without it.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from html import escape
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from reports.pool import pool
from reports.text import significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDE, NARROW = 7.6, 3.5  # inches: for a desktop and for paper, and for a phone
TITLE_LINE, SUBTITLE_LINE = 0.175, 0.15  # inches
INK, MUTED, FAINT = "#1a1a1a", "#5a5a5a", "#d0d0d0"

# Okabe and Ito's colours, told apart with any colour vision, darkened until a name in them can be read on white (a
# contrast of 4.5); the shape says the same without colour.
FAMILIES = {
    "RegNetY": ("#00795A", "s"),
    "ConvNeXt": ("#0072B2", "^"),
    "Swin": ("#B5548F", "D"),  # their purple
    "Focal": ("#23708F", "P"),  # their sky blue
    "PVT": ("#7A6A00", "*"),  # their yellow
    "ResTv1": ("#8F5F00", "v"),  # their orange
    "ResTv2": ("#BF5300", "o"),
}
OTHER_FAMILY = ("#4d4d4d", "X")

# Colours and hatches of operators in stacked bars, in one order everywhere, those with MACs first: light enough to
# stand apart in grey, with a hatch besides.
OPERATOR_LOOKS = {
    "conv": ("#3B6FA0", ""),
    "linear": ("#F2B34C", "///"),
    "matmul": ("#F7E9A0", "..."),
    "attention": ("#8FA8D6", "|||"),
    "norm": ("#7FC4A8", "xxx"),
    "activation": ("#E8A7C4", "\\\\\\"),
    "pool": ("#BDBDBD", "ooo"),
    "upsample": ("#9AD0EC", "+++"),
    "softmax": ("#E5793A", "---"),
    "element-wise": ("#FBE0CC", "//"),
    "copy": ("#B9A3D6", "\\\\||"),
    "reduction": ("#E9E4F2", "//--"),
    "fused": ("#C2D96B", "--..."),
    "loss": ("#8C8C8C", "||..."),
    "communication": ("#C49A8A", "OO"),
    "view": ("#F2F2F2", "xx..."),
    "compiled": ("#DDE7B5", "---..."),
    "outside": ("#FFFFFF", "///..."),
}
OTHER_OPERATOR = ("#FFFFFF", "***")

STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    # A tick says its whole number, so that nothing stands above an axis but its title, whose place is then known: it
    # would be looked for each time that something is measured.
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-9, 12),
    "axes.titley": 1.0,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a name with dollars in it is a name
    "svg.fonttype": "none",
    "svg.hashsalt": "flops-are-not-speed",  # the same rows give the same file
}
SVG_DPI = 72  # what an SVG is laid out at: one point is one unit


@dataclass(frozen=True)
class Plot:
    """A finished figure. `svg` can stand in a page beside others: its ids carry its name."""

    name: str
    title: str
    alt: str
    svg: str = field(repr=False)
    png: bytes = field(repr=False)  # empty for a phone's, which stands on pages alone
    narrow: Plot | None = field(
        default=None, repr=False
    )  # the same for a phone, where a page that is narrow shows it instead

    def _repr_png_(self) -> bytes:
        """The figure in a notebook."""
        return self.png

    @property
    def svg_file(self) -> bytes:
        """The figure as a document of its own."""
        return f'<?xml version="1.0" encoding="utf-8"?>\n{self.svg}'.encode()


# ---- opening and finishing


def for_both(name: str, draw: Callable[[str, float], Plot]) -> Plot:
    """The figure for a desktop with that for a phone; `draw` takes a name, and a width in inches."""
    return replace(draw(name, WIDE), narrow=draw(f"{name}_narrow", NARROW))


@contextmanager
def new_figure(width: float, height: float, title: str, subtitle: str) -> Iterator[Figure]:
    """A figure in inches in our style, with what is seen as its title and the machine below it.

    It is as high as `height` where each takes one line, and higher by what more lines take.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wrapped = even_lines(title, round(10.8 * width))
    below = even_lines(subtitle, round(13.4 * width))
    more = TITLE_LINE * wrapped.count("\n") + SUBTITLE_LINE * below.count("\n")
    head, height = 0.47 + more, height + more
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, "backend": "agg"}):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        figure.set_layout_engine(
            "constrained", rect=(0, 0, 1, 1 - (head + 0.04) / height), w_pad=0.06, h_pad=0.06
        )
        figure.text(0.012, 1 - 0.08 / height, wrapped, va="top", fontsize=10.5, fontweight="bold", color=INK)
        figure.text(0.012, 1 - head / height, below, va="bottom", fontsize=8.5, color=MUTED)
        yield figure


def even_lines(text: str, width: int) -> str:
    """Text in as few lines of at most `width` characters as it needs, of about one length: none is a last word."""
    text = text.replace(" %", "\xa0%")  # which stays with its number
    lines = textwrap.wrap(text, width)
    least = len(text) // (len(lines) + 1) + 1  # with fewer it takes more lines
    evener = (textwrap.wrap(text, narrower, break_long_words=False) for narrower in range(least, width))
    fits = (even for even in evener if len(even) == len(lines) and max(map(len, even), default=0) <= width)
    return "\n".join(next(fits, lines)).replace("\xa0", " ")


def label_lines(text: str, width: float) -> str:
    """The label of an axis in as many lines as it needs in a figure of that `width` in inches."""
    return even_lines(text, round(8.5 * width))


def footnote(figure: Figure, *texts: str) -> None:
    """Write `texts` below everything else, each on lines of its own."""
    lines = "\n".join(even_lines(text, round(14 * figure.get_figwidth())) for text in texts)
    figure.supxlabel(lines, x=0.012, ha="left", fontsize=8, color=MUTED)


def settle(figure: Figure) -> None:
    """Lay the figure out and keep it so: labels of axes come before, whatever is placed by measuring after."""
    engine = figure.get_layout_engine()
    if engine is not None:
        for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
            if not axis.get_label_text():
                axis.set_label_coords(0, 0)  # or all of its ticks are measured, each time, to place no text
        engine.execute(figure)
        figure.set_layout_engine(None)


def finish(figure: Figure, name: str, title: str, alt: str) -> Plot:
    """The figure under `name`, as SVG and, but for a phone's, as PNG of the same layout."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    if figure.get_layout_engine() is not None:
        # laid out once, as an SVG measures text: saving would lay it out for each format, and draw it to do so
        dpi, figure.dpi = figure.dpi, SVG_DPI
        FigureCanvasSVG(figure)
        settle(figure)
        figure.dpi = dpi
    svg, png = io.StringIO(), io.BytesIO()
    # no date and no creator: the same rows give the same file
    figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    # packing harder takes longer than drawing, and saves little of so few colours
    if figure.get_figwidth() > NARROW:
        figure.savefig(
            png, format="png", dpi=150, metadata={"Software": None}, pil_kwargs={"compress_level": 3}
        )
    return Plot(name, title, alt.strip(), _own(svg.getvalue(), name, alt.strip()), png.getvalue())


def _own(svg: str, name: str, alt: str) -> str:
    """The SVG made fit to stand in a page: ids of its own, a name for screen readers, no document head.

    Matplotlib gives clip paths and markers the same ids in every figure, and a page resolves an id to the
    first element that has it: the second figure would be cut to the first one's frame.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = svg.replace("*{", f"#{name} *{{", 1)
    svg = svg.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    head = f'<svg id="{name}" role="img" aria-labelledby="{name}-alt"'
    return svg.replace("<svg", head, 1).replace(">", f'>\n <title id="{name}-alt">{escape(alt)}</title>', 1)


# ---- many of them

_jobs: list[Callable[[], Plot | None]] = []  # that a forked process finds here, because rows are slow to send


@contextmanager
def drawing(jobs: Sequence[Callable[[], Plot | None]]) -> Iterator[Iterator[Plot | None]]:
    """The figures of `jobs`, in their order, drawn in as many processes as there are cores.

    They are started in that order too, and drawn while the caller does something else; where there is one core, when
    they are asked for.
    """
    # imported before the processes fork, so that they have it
    from matplotlib.backends import backend_agg, backend_svg  # noqa: F401

    workers = pool(len(jobs))
    if workers is None:
        yield (job() for job in jobs)
        return
    _jobs[:] = jobs
    try:
        yield workers.map(_drawn, range(len(jobs)))
    finally:
        workers.shutdown(cancel_futures=True)


def _drawn(number: int) -> Plot | None:
    return _jobs[number]()


# ---- looks


def family_look(family: str) -> tuple[str, str]:
    """The colour and the marker of a family of models."""
    return FAMILIES.get(family, OTHER_FAMILY)


def bar_look(colour: str, hatch: str) -> dict[str, Any]:
    """The look of a stacked bar, or of its patch in a legend, as Matplotlib's arguments."""
    return {"facecolor": colour, "hatch": hatch, "edgecolor": INK, "linewidth": 0.5}


def readable_on(colour: Any) -> str:
    """Near black on a light ground and near white on a dark one, which a page that is read in the dark leaves so."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return "#111111" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.45 else "#fefefe"


# ---- axes


def plain_log_ticks(axes: Axes) -> None:
    """Write the ticks of both axes out as 1, 2, 5, 10 …: nobody reads 6 × 10⁰."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for axis, ends in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        axis.set_ticks(round_numbers(*ends))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def no_minor_ticks(axis: Axis) -> None:
    """Take an axis's minor ticks and their labels away."""
    from matplotlib.ticker import NullFormatter, NullLocator

    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def grid_behind(axes: Axes, along: Literal["x", "y"]) -> None:
    """Draw a faint grid behind everything else, along x or y."""
    axes.grid(axis=along, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def apart(numbers: Sequence[float], room: float) -> list[float]:
    """Those of some positive numbers whose logarithms lie further apart than `room`; the first come first."""
    kept: list[float] = []
    for number in numbers:
        if all(abs(math.log(number / other)) > room for other in kept):
            kept.append(number)
    return kept


def round_numbers(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 … from `low` to `high`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = [digit * 10.0**decade for decade, digit in product(decades, (1, 2, 5))]
    return [number for number in numbers if low <= number <= high]


# ---- bars


def stacked_bars(
    axes: Axes,
    rows: Sequence[Mapping[str, float]],
    looks: Mapping[str, tuple[str, str]],
    *,
    height: float,
    room: float,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Draw a bar a row, made of the parts that `looks` names, in that order, with the whole beside its end.

    `room` is how far the axis reaches, as a multiple of the longest bar. `labels` name the parts in a legend.
    """
    ends = [0.0] * len(rows)
    for name, look in looks.items():
        widths = [row.get(name, 0.0) for row in rows]
        look_and_label = bar_look(*look) | ({"label": labels.get(name, name)} if labels is not None else {})
        axes.barh(range(len(rows)), widths, left=ends, height=height, **look_and_label)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for row, end in enumerate(ends):
        axes.annotate(
            significant(end), (end, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, room * max(ends))
    axes.spines["left"].set_visible(False)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows at the left, the table's first row on top."""
    axes.set_yticks(range(len(names)), list(names), color=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)


# ---- names at the ends of lines


def label_line_ends(
    figure: Figure, axes: Axes, ends: Sequence[tuple[float, float, str, str]], widest: str
) -> None:
    """Write each (x, y, text, colour) to the right of its point, pushed up where two lie close.

    The layout leaves room for the `widest` of them right of the axes; it is settled here.
    """
    room = axes.annotate(
        widest,
        (1, 0.5),
        xycoords="axes fraction",
        xytext=(10, 0),
        textcoords="offset points",
        weight="bold",
    )
    settle(figure)
    room.remove()
    scale = 72 / axes.figure.dpi
    heights = [scale * axes.transData.transform((x, y))[1] for x, y, _, _ in ends]
    lowest = -math.inf
    for height, (x, y, text, colour) in sorted(zip(heights, ends, strict=True), key=lambda end: end[0]):
        lowest = max(height, lowest + 11)
        axes.annotate(
            text,
            (x, y),
            xytext=(10, lowest - height),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold",
            fontsize=8.5,
            annotation_clip=False,
        )
