"""The paper's Figures 3 and 4: which frequencies the branches of each block carry, and how alike they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from reports.branch_rows import BranchRow, Similarity, Spectra
from reports.chapter import Chapter, Told, no_tables
from reports.figures import (
    FAINT,
    INK,
    WIDE,
    Plot,
    finish,
    footnote,
    for_both,
    grid_behind,
    label_line_ends,
    new_figure,
)
from reports.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import BoundaryNorm, Colormap
    from matplotlib.figure import Figure

PANELS = {"com": "EMSAv2: their sum", "attn": "attention branch", "up": "upsample branch"}
HIGH = 0.5  # in units of π: the middle of the paper's axis
SHADES = (
    0.3,
    0.8,
)  # of viridis: its dark end would not stand on a page that is read in the dark, the other on white

# As in the paper: red and purple. Dashes and markers say the same.
PAIR_LOOKS = {
    "attn_com": ("#7B2D8E", "s", (0, (5, 2))),
    "up_com": ("#0072B2", "^", (0, (1, 1.2))),
    "up_attn": ("#D1242F", "o", "-"),
}
Read = TypeVar("Read", bound=BranchRow)


def figure3(told: Told) -> Plot | None:
    """Relative log amplitude over frequency, a line a block; None where nothing was analysed.

    Of several rows it draws that with weights from a file, then that of photographs, then the newest.
    """
    spectra = _best(told.results, "fourier", Spectra)
    if spectra is None:
        return None
    return for_both("figure3", lambda name, width: _figure3(told.results, spectra, name, width))


def _figure3(results: Results, spectra: Spectra, name: str, width: float) -> Plot:
    title, is_wide = _figure3_title(spectra), width == WIDE
    with new_figure(width, 4.4 if is_wide else 7.4, title, spectra.subtitle) as figure:
        panels = figure.subplots(*((1, 3) if is_wide else (3, 1)), sharex=True, sharey=True)
        colours, norm = _colours(len(spectra.blocks))
        for axes, (branch, words) in zip(panels, PANELS.items(), strict=True):
            axes.set_title(words)
            axes.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
            curves = zip(spectra.frequencies, spectra.curves[branch], strict=True)
            for block, (frequencies, values) in enumerate(curves):
                axes.plot(
                    frequencies, values, color=colours(norm(block)), linewidth=1.5, marker=".", markersize=3.5
                )
            axes.set_xlim(-0.02, 1.02)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5π", "1.0π"])
            grid_behind(axes, "y")
        panels[0 if is_wide else 1].set_ylabel("Δ log amplitude (ln, less that at 0.0π)")
        panels[1 if is_wide else 2].set_xlabel("frequency along the diagonal")
        _depth_bar(figure, panels, spectra.blocks, colours, norm)
        footnote(figure, f"Computed on {results.machine}.")
        alt = (
            f"Relative log amplitudes of {len(spectra.blocks)} blocks, by branch. {title}. {spectra.subtitle}"
        )
        return finish(figure, name, title, alt)


def _colours(blocks: int) -> tuple[Colormap, BoundaryNorm]:
    """Colours from dark to light, so that depth can be read without colour, and how blocks are numbered for them."""
    import matplotlib
    from matplotlib.colors import BoundaryNorm, ListedColormap

    viridis = matplotlib.colormaps["viridis"]
    darkest, lightest = SHADES
    depth = ListedColormap([viridis(darkest + i / 255 * (lightest - darkest)) for i in range(256)])
    return depth, BoundaryNorm([i - 0.5 for i in range(max(blocks, 2) + 1)], depth.N)


def _depth_bar(
    figure: Figure, panels: Sequence[Axes], blocks: Sequence[str], colours: Colormap, norm: BoundaryNorm
) -> None:
    """Put a bar beside the panels, a field a block, named where a stage begins, and at the last."""
    from matplotlib.cm import ScalarMappable

    stages = [block.rpartition(".")[0] for block in blocks]
    named = [i for i in range(len(blocks)) if i in (0, len(blocks) - 1) or stages[i] != stages[i - 1]]
    bar = figure.colorbar(
        ScalarMappable(norm, colours), ax=panels, fraction=0.05, pad=0.02, aspect=28, drawedges=True
    )
    bar.set_ticks(named, labels=[blocks[i] for i in named])
    bar.minorticks_off()
    bar.dividers.set_linewidth(0.5)
    bar.dividers.set_color("white")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, labelsize=8)
    bar.ax.invert_yaxis()  # as an image goes through them
    bar.ax.set_title("block", fontsize=8.5, loc="left", color=INK)


def _figure3_title(spectra: Spectra) -> str:
    """The figure's title: in how many blocks the upsample branch has more of the high frequencies than attention.

    Each branch's are measured beside its own low ones.
    """
    more = total = 0
    curves = zip(spectra.frequencies, spectra.curves["attn"], spectra.curves["up"], strict=True)
    for frequencies, attn, up in curves:
        high = [i for i, frequency in enumerate(frequencies) if frequency >= HIGH]
        if high:
            total += 1
            more += sum(up[i] for i in high) > sum(attn[i] for i in high)
    if not total:
        return "The maps are too small for high frequencies"
    return f"From {HIGH}π up, the upsample branch carries relatively more than attention in {more} of {total} blocks"


def figure4(told: Told) -> Plot | None:
    """Linear CKA of the branches over the blocks; None where nothing was analysed. Chooses a row as `figure3` does."""
    similarity = _best(told.results, "cka", Similarity)
    if similarity is None:
        return None
    return for_both("figure4", lambda name, width: _figure4(told.results, similarity, name, width))


def _figure4(results: Results, similarity: Similarity, name: str, width: float) -> Plot:
    title = _figure4_title(similarity)
    blocks = range(len(similarity.blocks))
    with new_figure(width, 4.2, title, similarity.subtitle) as figure:
        axes = figure.subplots()
        for pair, values in similarity.cka.items():
            colour, marker, dashes = PAIR_LOOKS[pair]
            axes.plot(
                blocks,
                values,
                color=colour,
                marker=marker,
                markersize=6,
                linestyle=dashes,
                linewidth=1.8,
                markeredgecolor="white",
                markeredgewidth=0.6,
            )
        _stages(axes, similarity.blocks, width)
        lowest = min(min(values) for values in similarity.cka.values())
        axes.set_ylim(min(0.0, lowest) - 0.03, 1.05)
        axes.set_ylabel("linear CKA")
        grid_behind(axes, "y")
        footnote(
            figure,
            "attn: attention branch. up: upsample branch. com: EMSAv2, their sum.",
            f"Computed on {results.machine}.",
        )
        ends = [
            (float(blocks[-1]), values[-1], pair, PAIR_LOOKS[pair][0])
            for pair, values in similarity.cka.items()
        ]
        label_line_ends(figure, axes, ends, widest="attn_com")
        alt = f"Linear CKA of the branches over {len(blocks)} blocks. {title}. {similarity.subtitle}"
        return finish(figure, name, title, alt)


def _stages(axes: Axes, blocks: Sequence[str], width: float) -> None:
    """Name the ticks 1.0, 1.1, 2.0 …, and draw a line where a stage ends."""
    axes.set_xticks(range(len(blocks)), [re.sub(r"^[a-z_]+", "", block) or block for block in blocks])
    axes.tick_params(axis="x", labelrotation=90 if len(blocks) > 2.1 * width else 0)
    axes.set_xlim(-0.4, len(blocks) - 0.6)
    axes.set_xlabel("block, as stage.number")
    stages = [block.rpartition(".")[0] for block in blocks]
    for i in range(1, len(blocks)):
        if stages[i] != stages[i - 1]:
            axes.axvline(i - 0.5, color=FAINT, linewidth=0.8, zorder=0)


def _figure4_title(similarity: Similarity) -> str:
    """The figure's title: the blocks in which the branches are least and most alike, if there are images enough."""
    if not similarity.is_told:
        return "How alike the branches are: of too few images to tell blocks apart"
    alike = dict(zip(similarity.blocks, similarity.cka["up_attn"], strict=True))
    least, most = min(alike, key=alike.__getitem__), max(alike, key=alike.__getitem__)
    if least == most:
        return f"Upsample and attention branch of {least} have a CKA of {_two(alike[least])}"
    return (
        f"Upsample and attention branch are least alike in {least} (CKA {_two(alike[least])}), "
        f"most in {most} ({_two(alike[most])})"
    )


def _two(value: float) -> str:
    """A CKA with two places, and a minus sign where it is below 0 by as much."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _best(results: Results, harness: str, reader: type[Read]) -> Read | None:
    """The row of a harness that says most, of those that are fit for a figure."""
    rows = [reader(row) for row in results.others if row["harness"] == harness and row["outcome"] == "ok"]
    return max(
        (analysed for analysed in rows if analysed.is_shown), key=lambda analysed: analysed.rank, default=None
    )


# The two analyses have figures and no table, and share a section.
CHAPTERS = (
    Chapter(
        heading="What the two branches do",
        nav="Branches",
        text="Of every block's attention branch, upsample branch and their sum: the frequencies that each carries, "
        "and how alike they are (the paper's Figures 3 and 4).",
        analyses=("figure3", "figure4"),
        figures=(figure3, figure4),
        tables=no_tables,
        own_anchor="branches",
    ),
)
