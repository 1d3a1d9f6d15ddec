"""What every figure shares: style, opening and finishing it, log ticks, SVG that can stand in a page."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from itertools import product
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: there need not be a display

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

INK, MUTED, FAINT = "#1a1a1a", "#5a5a5a", "#d0d0d0"

# Okabe and Ito's colours, told apart with any colour vision; the shape says the same without colour.
FAMILIES = {
    "RegNetY": ("#009E73", "s"),
    "ConvNeXt": ("#0072B2", "^"),
    "Swin": ("#B5548F", "D"),  # their purple, darkened: it must stand on white
    "Focal": ("#2E86AB", "P"),  # their sky blue, darkened likewise
    "PVT": ("#7A6A00", "*"),  # their yellow
    "ResTv1": ("#A86F00", "v"),  # their orange
    "ResTv2": ("#D55E00", "o"),
}
OTHER_FAMILY = ("#4d4d4d", "X")

# Light enough to stand apart in grey, with a hatch besides.
OPERATORS = {
    "conv": ("#3B6FA0", ""),
    "linear": ("#F2B34C", "///"),
    "matmul": ("#F7E9A0", "..."),
    "norm": ("#7FC4A8", "xxx"),
    "activation": ("#E8A7C4", "\\\\\\"),
    "pool": ("#BDBDBD", "ooo"),
    "upsample": ("#9AD0EC", "+++"),
}

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
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "flops-are-not-speed",  # the same rows give the same file
}


@dataclass(frozen=True)
class Plot:
    """A finished figure. `svg` can stand in a page beside others: its ids carry its name."""

    name: str
    title: str
    alt: str
    svg: str
    png: bytes

    @property
    def svg_file(self) -> bytes:
        """The figure as a document of its own."""
        return f'<?xml version="1.0" encoding="utf-8"?>\n{self.svg}'.encode()


def family_look(family: str) -> tuple[str, str]:
    """Colour and marker of a family of models."""
    return FAMILIES.get(family, OTHER_FAMILY)


@contextmanager
def new_figure(width: float, height: float, title: str, subtitle: str) -> Iterator[Figure]:
    """A figure in inches in our style, with what is seen as its title and the machine below it."""
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, "backend": "agg"}):
        figure = plt.figure(figsize=(width, height))
        wrapped = "\n".join(textwrap.wrap(title, 82))
        head = 0.22 * (wrapped.count("\n") + 1) + 0.25
        figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - head / height), w_pad=0.06, h_pad=0.06)
        figure.text(0.012, 1 - 0.08 / height, wrapped, va="top", fontsize=10.5, fontweight="bold", color=INK)
        figure.text(0.012, 1 - head / height, subtitle, va="bottom", fontsize=8.5, color=MUTED)
        try:
            yield figure
        finally:
            plt.close(figure)


def settle(figure: Figure) -> None:
    """Lay the figure out and keep it so: whatever is placed by measuring comes after."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def finish(figure: Figure, name: str, title: str, alt: str) -> Plot:
    """Save `figure`, closed afterwards by `new_figure`, under `name`."""
    svg, png = io.StringIO(), io.BytesIO()
    # no date and no creator: the same rows give the same file
    figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
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


def plain_log_ticks(axes: Axes) -> None:
    """1, 2, 5, 10 … written out: nobody reads 6 × 10⁰."""
    for axis, ends in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        axis.set_ticks(round_numbers(*ends))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def round_numbers(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 … from `low` to `high`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = [digit * 10.0**decade for decade, digit in product(decades, (1, 2, 5))]
    return [number for number in numbers if low <= number <= high]
