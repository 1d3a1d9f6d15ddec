"""Figures 1, 3 and 4 of the paper: what upsampling gives back, which frequencies it carries, how alike branches are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.figure import Figure

from reports import printed
from reports.branch_rows import BranchRow, Similarity, Spectra
from reports.drawing import FAINT, INK, MUTED, Plot, finish, new_figure, settle
from reports.labels import label_line_ends
from reports.measured import Results
from reports.printed import Printed

# ---- figure 1: accuracy, as printed

KINDS = ("downsampled", "standard (MSA)", "down- and upsampled (EMSAv2)")
# The rows of Table 6, each model's in the order of KINDS. What it calls ResTv1-Lite has ResTv2's stem.
FIGURE1 = {
    "PVT-Tiny": ("pvt_tiny@224", "pvt_tiny[attention=msa]@224", "pvt_tiny[attention=emsav2]@224"),
    "ResT-Lite": (
        "restv2_lite[attention=emsa,mhim]@224",
        "restv2_lite[attention=msa]@224",
        "restv2_lite[mhim]@224",
    ),
}
KIND_LOOKS = (("#8C8C8C", "v"), ("#0072B2", "s"), ("#D55E00", "o"))


def figure1() -> Plot:
    """Top-1 of attention with and without down- and upsampling, and its speed; every number is the paper's."""
    table = printed.table("table6")
    models = {name: [table[case] for case in cases] for name, cases in FIGURE1.items()}
    title = _figure1_title(models)
    subtitle = "Printed in Table 6 (ImageNet-1k, 100 epochs; V100): accuracy is not measured here."
    with new_figure(7.6, 3.9, title, subtitle) as figure:
        accuracy, speed = figure.subplots(1, 2, sharey=True, width_ratios=(1.2, 1))
        y, ticks = 0.0, []
        for name, rows in models.items():
            ticks.append((y, name))
            for kind, (colour, marker), row in zip(KINDS, KIND_LOOKS, rows, strict=True):
                y += 1
                ticks.append((y, kind))
                top1, rate, macs = row["top1"], row["throughput"], row["macs"]
                accuracy.plot(top1.value, y, marker, color=colour, markersize=8)
                _beside(accuracy, top1.value, y, top1.text, 7)
                speed.barh(y, rate.value, 0.66, color=colour, edgecolor=INK, linewidth=0.5)
                _beside(speed, rate.value, y, f"{rate.text}, {macs.text} GMACs", 4)
            y += 1
        accuracy.set_yticks(*zip(*ticks, strict=True), color=INK)
        for label in accuracy.get_yticklabels():
            label.set_fontweight("bold" if label.get_text() in models else "normal")
        accuracy.set_ylim(y - 0.4, -0.5)
        top1s = [row["top1"].value for rows in models.values() for row in rows]
        accuracy.set_xlim(min(top1s) - 0.5, max(top1s) + 1.0)
        speed.set_xlim(0, 1.95 * max(row["throughput"].value for rows in models.values() for row in rows))
        accuracy.set_xlabel("Top-1 accuracy, % (axis cut)")
        speed.set_xlabel("images / s, and MACs of an image")
        for axes in (accuracy, speed):
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", color=FAINT, linewidth=0.6)
            axes.set_axisbelow(True)
        alt = f"Top-1 accuracy and throughput of {len(top1s)} models, as printed. {title}."
        return finish(figure, "figure1", title, alt)


def _beside(axes: Axes, x: float, y: float, text: str, distance: float) -> None:
    axes.annotate(
        text, (x, y), xytext=(distance, 0), textcoords="offset points", va="center", fontsize=8, color=INK
    )


def _figure1_title(models: dict[str, list[dict[str, Printed]]]) -> str:
    lost, off, faster = [], [], []
    for down, standard, emsav2 in models.values():
        lost.append(f"{standard['top1'].value - down['top1'].value:.2f}")
        off.append(abs(emsav2["top1"].value - standard["top1"].value))
        faster.append(emsav2["throughput"].value / standard["throughput"].value)
    return (
        f"Downsampling costs {' and '.join(lost)} points of Top-1; EMSAv2 is within {max(off):.2f} of standard "
        f"attention, at {' and '.join(f'{times:.2f}' for times in faster)}× its throughput"
    )


# ---- figures 3 and 4: the branches of each block

PANELS = {"com": "EMSAv2: their sum", "attn": "attention branch", "up": "upsample branch"}
HIGH = 0.5  # in units of π: the middle of the paper's axis
# Dark to light, so that depth can be read without colour; viridis's lightest end would not stand on white.
DEPTH = ListedColormap([matplotlib.colormaps["viridis"](i / 255 * 0.88) for i in range(256)])

# As in the paper: red and purple. Dashes and markers say the same.
PAIR_LOOKS = {
    "attn_com": ("#7B2D8E", "s", (0, (5, 2))),
    "up_com": ("#0072B2", "^", (0, (1, 1.2))),
    "up_attn": ("#D1242F", "o", "-"),
}
Read = TypeVar("Read", bound=BranchRow)


def figure3(results: Results) -> Plot | None:
    """Relative log amplitude over frequency, a line a block; None where nothing was analysed.

    Of several rows that with weights from a file, then that of photographs, then the newest.
    """
    spectra = _best(results, "fourier", Spectra)
    if spectra is None:
        return None
    title = _figure3_title(spectra)
    with new_figure(7.6, 4.4, title, spectra.subtitle) as figure:
        panels = figure.subplots(1, 3, sharex=True, sharey=True)
        colours, norm = _colours(len(spectra.blocks))
        for axes, (branch, name) in zip(panels, PANELS.items(), strict=True):
            axes.set_title(name)
            axes.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
            lines = zip(spectra.frequencies, spectra.curves[branch], strict=True)
            for block, (at, values) in enumerate(lines):
                axes.plot(at, values, color=colours(norm(block)), linewidth=1.5, marker=".", markersize=3.5)
            axes.set_xlim(-0.02, 1.02)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5π", "1.0π"])
            axes.grid(axis="y", color=FAINT, linewidth=0.6)
            axes.set_axisbelow(True)
        panels[0].set_ylabel("Δ log amplitude (ln, less that at 0.0π)")
        panels[1].set_xlabel("frequency along the diagonal")
        _depth_bar(figure, panels, spectra.blocks, colours, norm)
        _footnote(figure, results)
        alt = (
            f"Relative log amplitudes of {len(spectra.blocks)} blocks, by branch. {title}. {spectra.subtitle}"
        )
        return finish(figure, "figure3", title, alt)


def _colours(blocks: int) -> tuple[Colormap, BoundaryNorm]:
    return DEPTH, BoundaryNorm([i - 0.5 for i in range(max(blocks, 2) + 1)], DEPTH.N)


def _depth_bar(
    figure: Figure, panels: Sequence[Axes], blocks: Sequence[str], colours: Colormap, norm: BoundaryNorm
) -> None:
    """A bar of a field a block, named where a stage begins, and at the last."""
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
    """In how many blocks the upsample branch has more of the high frequencies, each beside its own low ones."""
    more = total = 0
    for at, attn, up in zip(spectra.frequencies, spectra.curves["attn"], spectra.curves["up"], strict=True):
        high = [i for i, frequency in enumerate(at) if frequency >= HIGH]
        if high:
            total += 1
            more += sum(up[i] for i in high) > sum(attn[i] for i in high)
    if not total:
        return "The maps are too small for high frequencies"
    return f"From {HIGH}π up, the upsample branch carries relatively more than attention in {more} of {total} blocks"


def figure4(results: Results) -> Plot | None:
    """Linear CKA of the branches over the blocks; None where nothing was analysed. Chooses a row as `figure3` does."""
    similarity = _best(results, "cka", Similarity)
    if similarity is None:
        return None
    title = _figure4_title(similarity)
    blocks = range(len(similarity.blocks))
    with new_figure(7.6, 4.2, title, similarity.subtitle) as figure:
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
        _stages(axes, similarity.blocks)
        lowest = min(min(values) for values in similarity.cka.values())
        axes.set_ylim(min(0.0, lowest) - 0.03, 1.05)
        axes.set_ylabel("linear CKA")
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        _footnote(figure, results, "attn: attention branch. up: upsample branch. com: EMSAv2, their sum.\n")
        # the names stand right of the axes; the layout leaves room for them
        room = axes.annotate(
            "attn_com",
            (1, 0.5),
            xycoords="axes fraction",
            xytext=(10, 0),
            textcoords="offset points",
            weight="bold",
        )
        settle(figure)
        room.remove()
        ends = [
            (float(blocks[-1]), values[-1], pair, PAIR_LOOKS[pair][0])
            for pair, values in similarity.cka.items()
        ]
        label_line_ends(axes, ends)
        alt = f"Linear CKA of the branches over {len(blocks)} blocks. {title}. {similarity.subtitle}"
        return finish(figure, "figure4", title, alt)


def _stages(axes: Axes, blocks: Sequence[str]) -> None:
    """Ticks named 1.0, 1.1, 2.0 …, and a line where a stage ends."""
    axes.set_xticks(range(len(blocks)), [re.sub(r"^[a-z_]+", "", block) or block for block in blocks])
    axes.tick_params(axis="x", labelrotation=90 if len(blocks) > 16 else 0)
    axes.set_xlim(-0.4, len(blocks) - 0.6)
    axes.set_xlabel("block, as stage.number")
    stages = [block.rpartition(".")[0] for block in blocks]
    for i in range(1, len(blocks)):
        if stages[i] != stages[i - 1]:
            axes.axvline(i - 0.5, color=FAINT, linewidth=0.8, zorder=0)


def _figure4_title(similarity: Similarity) -> str:
    alike = dict(zip(similarity.blocks, similarity.cka["up_attn"], strict=True))
    least, most = min(alike, key=alike.__getitem__), max(alike, key=alike.__getitem__)
    if least == most:
        return f"Upsample and attention branch of {least} have a CKA of {_two(alike[least])}"
    return (
        f"Upsample and attention branch are least alike in {least} (CKA {_two(alike[least])}), "
        f"most in {most} ({_two(alike[most])})"
    )


def _two(value: float) -> str:
    """Two places, with a minus sign where it is below 0 by as much."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _best(results: Results, harness: str, reader: type[Read]) -> Read | None:
    found = [reader(row) for row in results.others if row["harness"] == harness and row["outcome"] == "ok"]
    return max(found, key=lambda each: each.rank, default=None)


def _footnote(figure: Figure, results: Results, legend: str = "") -> None:
    text = f"{legend}Computed on {results.machine}."
    figure.supxlabel(text, x=0.012, ha="left", fontsize=8, color=MUTED)
