"""How each study is shown: its words, and the rows that others are compared with. Data."""

from __future__ import annotations

from dataclasses import dataclass

from bench import studies


@dataclass(frozen=True)
class About:
    """What the reports say of a study beside its numbers; the texts claim nothing that rows could refute."""

    title: str  # of its table
    heading: str  # of its section of the page
    nav: str  # that, in a word or two
    text: str = ""  # what to know before reading the table
    # Rows whose speed is 1.00 ×, each for itself and for those below it; for those above, the first. Where some are of
    # a row's own size, only those are meant.
    references: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()  # by name, those that stand above its table
    is_long: bool = False  # a run may leave most of it out: only what was tried is shown


ABOUT = {
    "table1": About(
        "Table 1, measured",
        "Table 1: the paper's numbers beside those of this machine",
        "Table 1",
        references=("restv2_tiny@224",),
        figures=("throughput_against_macs",),
    ),
    "table2": About(
        "Table 2, ResTv2-T switch by switch",
        "Table 2: what each part of EMSAv2 costs",
        "Table 2",
        "Each row changes one thing in ResTv2-T: what is upsampled (a), how (b), which branches there are (c), which "
        "positional embedding (d). Several of the paper's rows are the same model; it prints no speed for any.",
        references=("restv2_tiny@224",),
        figures=("table2_switches",),
    ),
    "table3": About(
        "Table 3, Mask R-CNN with global attention and in windows",
        "Table 3: windows in Mask R-CNN",
        "Table 3",
        "ResTv2-T under Mask R-CNN with an FPN, one image at a time, over sizes that stand for the first 500 images of "
        "COCO val2017: the paper says 1k, but the mean over these is what it prints. Every image has 1000 proposals "
        f"and {studies.TABLE3_DETECTIONS} detections, so that the styles are compared on equal work. Pasting the "
        "masks into the image is not timed.",
        references=(
            f"restv2_tiny[detections={studies.TABLE3_DETECTIONS},head=mask_rcnn,style=global]@coco500~8",
        ),
        figures=("table3_macs_and_time",),
    ),
    "table4": About(
        "Table 4, Mask R-CNN by backbone",
        "Table 4: Mask R-CNN by backbone",
        "Table 4",
        "Images of 1280 × 800 (in a quick look on a CPU, smaller ones), one at a time, 1000 proposals and 100 "
        "detections each. The paper's FLOPs leave the attention products out here, and not in Tables 3 and 5: both are "
        "shown.",
        references=("restv2_tiny[head=mask_rcnn]@800x1280", "restv2_tiny[head=mask_rcnn]@192x320"),
        figures=("table4_switches",),
    ),
    "table5": About(
        "Table 5, UperNet by backbone",
        "Table 5: UperNet by backbone",
        "Table 5",
        "Images of 2048 × 512 (in a quick look on a CPU, smaller ones), one at a time, to the logits of every pixel. "
        "The auxiliary head is among the parameters and does not run.",
        references=("restv2_tiny[head=upernet]@512x2048", "restv2_tiny[head=upernet]@128x512"),
        figures=("table5_switches",),
    ),
    "table6": About(
        "Table 6, attention with and without down- and upsampling",
        "Table 6: down- and upsampling beside standard attention",
        "Table 6",
        "What the paper calls ResTv1-Lite here has ResTv2's stem and embeddings: with them its numbers come out.",
        references=("pvt_tiny@224", "restv2_lite[attention=emsa,mhim]@224"),
        figures=("figure1", "table6_switches"),
    ),
    "table7": About(
        "Table 7, with and without MHIM",
        "Table 7: what MHIM costs",
        "Table 7",
        "MHIM, the multi-head interaction module, is a 1 × 1 convolution across heads before the softmax and an "
        "InstanceNorm after it. The paper prints the same GMACs with and without it, and different speeds.",
        references=("restv2_lite@224", "restv2_tiny@224"),
    ),
    "table8": About(
        "Table 8, steps of training",
        "Table 8: what a step of training costs",
        "Training",
        "The paper's Table 8 has the settings of training, and no speed. A step here is forward, loss, backward, "
        "gradient clipping and AdamW with those settings; augmentation, the schedule and EMA are left out. Stochastic "
        "depth is each model's own: timm's ConvNeXt-T has none.",
    ),
    "table9": About(
        "Table 9, FLOPs counted another way",
        "Table 9: the same models with fewer FLOPs",
        "Table 9",
        "Table 9 prints fewer GMACs than Table 1 for the same models at the same size.",
        references=("restv2_tiny@224",),
    ),
    "sweep": About(
        "Batch and resolution",
        "Batch and resolution: what density buys",
        "Batch and resolution",
        "The same arithmetic in larger pieces. A machine on which FLOPs were speed would draw level lines.",
        figures=("sweep_batch", "sweep_resolution"),
        is_long=True,
    ),
    "kernels": About(
        "EMSAv2 alone, by implementation",
        "The fused kernel beside eager, SDPA and torch.compile",
        "Kernels",
        "What lies between the projections of EMSAv2, softmax(q kᵀ / √d) v + LayerNorm(PixelShuffle(DWConv(v))), for "
        "each stage. The floor is the time in which the device could move q, k, v, the parameters and the output once, "
        "or do the two matrix products at its peak, whichever is longer; it is computed, not measured.",
        figures=("kernels_roof",),
        is_long=True,
    ),
    "windows": About(
        "ResTv2-T with global attention and in windows",
        "Windows: fewer MACs, and how much time",
        "Windows",
        "The backbone alone, one image at a time. coco~N are N shapes that stand for those of COCO val2017, resized "
        "and padded as for a detector; their GMACs are the mean over all 5,000 images. At 768 × 1280 windows need no "
        "padding; at 3840 × 256, as many pixels, they are in order in memory already, and nothing is copied either. "
        "The paper gives padding and grouping as the reasons for its Mask R-CNN taking 1.87 times as long with windows "
        "(149.6 and 79.9 ms, Table 3).",
        references=("restv2_tiny[style=global]@coco~8",),
        figures=("window_padding",),
    ),
}

# The analyses of branches have figures and no table, and share a section.
BRANCHES = About(
    "",
    "What the two branches do",
    "Branches",
    "Of every block's attention branch, upsample branch and their sum: the frequencies that each carries, and how "
    "alike they are (the paper's Figures 3 and 4).",
    figures=("figure3", "figure4"),
)


def about(study: str) -> About:
    """Its own words, or the least that can be said of a study that has none here.

    Raises:
        UsageError: no such study.
    """
    return ABOUT.get(study) or About(f"Study {study}", studies.find(study).question, study)
