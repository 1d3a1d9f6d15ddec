"""Tables 2, 6 and 7: what each part of EMSAv2, down- and upsampling, and MHIM cost; and the paper's Figure 1."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from reports import printed
from reports.chapter import Chapter, Told
from reports.figures import INK, WIDE, Plot, bar_look, finish, for_both, grid_behind, label_lines, new_figure
from reports.printed import Printed
from reports.switches import macs_against_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


def figure1(told: Told) -> Plot:
    """Top-1 of attention with and without down- and upsampling, and its speed; every number is the paper's."""
    return for_both("figure1", _figure1)


def _figure1(name: str, width: float) -> Plot:
    table = printed.table("table6")
    models = {model: [table[case] for case in cases] for model, cases in FIGURE1.items()}
    title, is_wide = _figure1_title(models), width == WIDE
    subtitle = "Printed in Table 6 (ImageNet-1k, 100 epochs; V100): accuracy is not measured here."
    with new_figure(width, 3.7 if is_wide else 7.2, title, subtitle) as figure:
        accuracy, speed = (
            figure.subplots(1, 2, sharey=True, width_ratios=(1.2, 1))
            if is_wide
            else figure.subplots(2, 1, sharey=True)
        )
        y, ticks = 0.0, []
        for model, rows in models.items():
            ticks.append((y, model))
            for kind, (colour, marker), row in zip(KINDS, KIND_LOOKS, rows, strict=True):
                y += 1
                ticks.append((y, kind if is_wide else textwrap.fill(kind, 20)))
                top1, rate, macs = row["top1"], row["throughput"], row["macs"]
                accuracy.plot(top1.value, y, marker, color=colour, markersize=8)
                _beside(accuracy, top1.value, y, top1.text, 7)
                speed.barh(y, rate.value, 0.66, **bar_look(colour, ""))
                _beside(speed, rate.value, y, f"{rate.text}, {macs.text} GMACs", 4)
            y += 1
        accuracy.set_yticks(*zip(*ticks, strict=True), color=INK)
        for label in (*accuracy.get_yticklabels(), *speed.get_yticklabels()):
            label.set(fontweight="bold" if label.get_text() in models else "normal", color=INK)
        accuracy.set_ylim(y - 0.4, -0.5)
        top1s = [row["top1"].value for rows in models.values() for row in rows]
        accuracy.set_xlim(min(top1s) - 0.5, max(top1s) + (1.0 if is_wide else 1.7))
        speed.set_xlim(
            0,
            (1.95 if is_wide else 2.3)
            * max(row["throughput"].value for rows in models.values() for row in rows),
        )
        accuracy.set_xlabel("Top-1 accuracy, % (axis cut)")
        speed.set_xlabel(label_lines("images / s, and MACs of an image", width))
        for axes in (accuracy, speed):
            axes.tick_params(axis="y", length=0)
            grid_behind(axes, "x")
        alt = f"Top-1 accuracy and throughput of {len(top1s)} models, as printed. {title}."
        return finish(figure, name, title, alt)


def _beside(axes: Axes, x: float, y: float, text: str, distance: float) -> None:
    """Write `text` right of a point, `distance` points from it."""
    axes.annotate(
        text, (x, y), xytext=(distance, 0), textcoords="offset points", va="center", fontsize=8, color=INK
    )


def _figure1_title(models: dict[str, list[dict[str, Printed]]]) -> str:
    """The figure's title: the Top-1 that downsampling costs, and what EMSAv2 gives back of it."""
    lost, off, faster = [], [], []
    for down, standard, emsav2 in models.values():
        lost.append(f"{standard['top1'].value - down['top1'].value:.2f}")
        off.append(abs(emsav2["top1"].value - standard["top1"].value))
        faster.append(emsav2["throughput"].value / standard["throughput"].value)
    return (
        f"Downsampling costs {' and '.join(lost)} points of Top-1; EMSAv2 is within {max(off):.2f} of standard "
        f"attention, at {' and '.join(f'{times:.2f}' for times in faster)}× its throughput"
    )


# ---- the chapters

CHAPTERS = (
    Chapter(
        study="table2",
        title="Table 2, ResTv2-T switch by switch",
        heading="Table 2: what each part of EMSAv2 costs",
        nav="Table 2",
        text="Each row changes one thing in ResTv2-T: what is upsampled (a), how (b), which branches there are (c), "
        "which positional embedding (d). Several of the paper's rows are the same model; it prints no speed for any.",
        references=("restv2_tiny@224",),
        figures=(macs_against_time,),
    ),
    Chapter(
        study="table6",
        title="Table 6, attention with and without down- and upsampling",
        heading="Table 6: down- and upsampling beside standard attention",
        nav="Table 6",
        text="What the paper calls ResTv1-Lite here has ResTv2's stem and embeddings: with them its numbers come out.",
        references=("pvt_tiny@224", "restv2_lite[attention=emsa,mhim]@224"),
        figures=(figure1, macs_against_time),
    ),
    Chapter(
        study="table7",
        title="Table 7, with and without MHIM",
        heading="Table 7: what MHIM costs",
        nav="Table 7",
        text="MHIM, the multi-head interaction module, is a 1 × 1 convolution across heads before the softmax and an "
        "InstanceNorm after it. The paper prints the same GMACs with and without it, and different speeds.",
        references=("restv2_lite@224", "restv2_tiny@224"),
    ),
)
