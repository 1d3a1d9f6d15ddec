"""The paper's sentences that can be checked, as data: each with its place, its own words, and what they ask of a value.

"Much" is taken for a tenth, "similar" and "comparable" for a quarter more or less, a printed ratio of speeds for itself
within a tenth; where a sentence has digits, the value has to round to them.
"""

from __future__ import annotations

from models import cost
from reports.arithmetic import (
    COUNTED,
    Computed,
    Number,
    Operation,
    difference,
    farthest,
    gain,
    least,
    mean,
    most,
    ratio,
    share,
)
from reports.claims import (
    FASTER,
    SLOWER,
    Claim,
    InTurns,
    above,
    as_printed,
    at_least,
    at_most,
    below,
    near,
)

MUCH, SIMILAR, ALIKE = at_least(1.1), near(1, 1.25), 1.1
STYLES = ("win", "cwin", "hwin")  # in windows, of Table 3


def speed(table: str, first: str, second: str) -> Operation:
    """The printed speed of the first beside the second's."""
    return ratio(Number(table, "throughput", first), Number(table, "throughput", second))


def printed(table: str, metric: str, first: str, second: str) -> Operation:
    """A printed number of the first beside that of the second."""
    return ratio(Number(table, metric, first), Number(table, metric, second))


def counted(metric: str, first: str, second: str) -> Operation:
    """A count of the first beside that of the second."""
    return ratio(Number(COUNTED, metric, first), Number(COUNTED, metric, second))


def better(table: str, metric: str, first: str, second: str) -> Operation:
    """Points by which the first is better than the second."""
    return difference(Number(table, metric, first), Number(table, metric, second))


def faster_by(table: str, first: str, second: str) -> Operation:
    """Per cent by which the first is printed to be faster than the second."""
    return gain(Number(table, "throughput", first), Number(table, "throughput", second))


def mask_rcnn(style: str) -> str:
    """A style of Table 3."""
    return f"restv2_tiny[detections=30,head=mask_rcnn,style={style}]@coco500~8"


def printed_matmul_share(style: str) -> Operation:
    """Matrix products in per cent of the FLOPs that Table 3(b) prints of a style."""
    operators = ("conv", "linear", "matmul", "others")
    return share(*(Number("Table 3", name, mask_rcnn(style)) for name in ("matmul", *operators)))


def counted_matmul_share(style: str) -> Operation:
    """Matrix products in per cent of the counted FLOPs of a style."""
    return share(*(Number(COUNTED, name, mask_rcnn(style)) for name in ("fvcore.matmul", "fvcore")))


def padding(step: int) -> int:
    """The most tokens that are added to a side of stage 1's map for whole windows, over maps of multiples of `step`."""
    window = cost.SPAN // 4  # a token of stage 1 spans four pixels
    return max(-side % window for side in range(step, 4 * window + 1, step))


def under(head: str, size: str, *models: str) -> tuple[str, ...]:
    """Models under a head, on images of a size."""
    return tuple(f"{model}[head={head}]@{size}" for model in models)


TINY, SMALL, BASE, LARGE = (f"restv2_{size}@224" for size in ("tiny", "small", "base", "large"))
SWIN_T, SWIN_S, SWIN_B = (f"swin_{size}@224" for size in ("tiny", "small", "base"))
FOCAL_T, FOCAL_S, FOCAL_B = (f"focal_{size}@224" for size in ("tiny", "small", "base"))
CONVNEXT_T, CONVNEXT_S, CONVNEXT_B = (f"convnext_{size}@224" for size in ("tiny", "small", "base"))
RESTV1_B, RESTV1_L = "restv1_base[stem=pool]@224", "restv1_large[stem=pool]@224"
BESIDE_SWIN = ((TINY, SWIN_T), (BASE, SWIN_S), (LARGE, SWIN_B))  # of similar complexity, section 3.3
BESIDE_FOCAL = ((TINY, FOCAL_T), (BASE, FOCAL_S), (LARGE, FOCAL_B))
AT_384 = tuple((f"restv2_{size}@384", f"restv2_{size}@224") for size in ("tiny", "small", "base", "large"))
LITE, LITE_MHIM, LITE_MSA = "restv2_lite@224", "restv2_lite[mhim]@224", "restv2_lite[attention=msa]@224"
TINY_MHIM = "restv2_tiny[mhim]@224"
PVT, PVT_MSA = "pvt_tiny[attention=emsav2]@224", "pvt_tiny[attention=msa]@224"
DETECTORS = under("mask_rcnn", "800x1280", "restv2_tiny", "swin_tiny", "convnext_tiny")
BASE_DETECTORS = under("mask_rcnn", "800x1280", "restv2_base", "swin_small")
SEGMENTERS = under("upernet", "512x2048", "restv2_tiny", "swin_tiny", "convnext_tiny")
BASE_SEGMENTERS = under("upernet", "512x2048", "restv2_base", "swin_small", "convnext_small")


CLAIMS = (
    # ---- speed beside FLOPs
    Claim(
        "flops-are-not-speed",
        "section 6",
        "the theoretical FLOPs is not a good reflection of actual speed, particularly running on GPUs",
        speed("Table 1", BASE, RESTV1_L),
        MUCH,
        "Two models of Table 1 with the same 7.9 G of FLOPs differ much in speed.",
    ),
    Claim(
        "focal-speed",
        "section 3.2",
        "the actual inference throughput of Focal-T is only 0.42 times of Swin-T (319 vs. 755 images/s)",
        speed("Table 1", FOCAL_T, SWIN_T),
        as_printed("0.42"),
    ),
    Claim(
        "focal-speed-here",
        "section 3.2",
        "the actual inference throughput of Focal-T is only 0.42 times of Swin-T (319 vs. 755 images/s)",
        InTurns(FOCAL_T, SWIN_T),
        near(0.42, ALIKE),
    ),
    Claim(
        "focal-flops",
        "section 3.2",
        "the multi-path Focal-T [41] and the single-path Swin-T [23] have comparable theoretical FLOPs (4.9G vs. 4.5G)",
        counted("core", FOCAL_T, SWIN_T),
        SIMILAR,
    ),
    Claim(
        "similar-to-swin",
        "section 3.3",
        "ResTv2-T/B/L, to be of similar complexities to Swin-T/S/B",
        farthest(*(counted("core", ours, theirs) for ours, theirs in BESIDE_SWIN)),
        SIMILAR,
    ),
    Claim(
        "faster-than-swin",
        "section 4.2",
        "ResTv2 also enjoys improved accuracy and throughput compared with similar-sized Swin Transformers",
        least(*(speed("Table 1", ours, theirs) for ours, theirs in BESIDE_SWIN)),
        above(1),
    ),
    *(
        Claim(
            f"faster-than-swin-{name}",
            "section 4.2",
            "ResTv2 also enjoys improved accuracy and throughput compared with similar-sized Swin Transformers",
            InTurns(ours, theirs),
            FASTER,
        )
        for name, (ours, theirs) in zip("tsb", BESIDE_SWIN, strict=True)
    ),
    Claim(
        "faster-than-convnext-t",
        "Table 1",
        "ConvNeXt-T … 775 … ResTv2-T … 826",
        InTurns(TINY, CONVNEXT_T),
        FASTER,
    ),
    Claim(
        "large-throughput",
        "section 1",
        "much higher throughput (415 vs. 278 vs. 292 images/s)",
        least(speed("Table 1", LARGE, SWIN_B), speed("Table 1", LARGE, CONVNEXT_B)),
        MUCH,
    ),
    Claim(
        "large-throughput-here",
        "section 1",
        "much higher throughput (415 vs. 278 vs. 292 images/s)",
        InTurns(LARGE, CONVNEXT_B),
        MUCH,
        "Of ResTv2-L beside ConvNeXt-B.",
    ),
    Claim(
        "large-parameters",
        "section 1",
        "ResTv2-L has fewer parameters (87M vs. 88M vs. 89M)",
        most(counted("parameters", LARGE, SWIN_B), counted("parameters", LARGE, CONVNEXT_B)),
        below(1),
    ),
    Claim(
        "focal-average",
        "section 4.2",
        "ResTv2 outperforms the Focal counterparts with an average ×1.8 inference throughput acceleration",
        mean(*(speed("Table 1", ours, theirs) for ours, theirs in BESIDE_FOCAL)),
        as_printed("1.8"),
        "The mean of the ratios of speed; what is gained above 1 would be 1.88.",
    ),
    Claim(
        "focal-similar-flops",
        "section 4.2",
        "although both of them share similar FLOPs",
        farthest(*(counted("core", ours, theirs) for ours, theirs in BESIDE_FOCAL)),
        SIMILAR,
    ),
    Claim(
        "base-beside-focal",
        "section 4.2",
        "+203% higher inference throughput (582 vs. 192 images/s)",
        faster_by("Table 1", BASE, FOCAL_S),
        as_printed("203"),
    ),
    Claim(
        "base-beside-focal-here",
        "section 4.2",
        "+203% higher inference throughput (582 vs. 192 images/s)",
        InTurns(BASE, FOCAL_S),
        near(3.03, ALIKE),
    ),
    Claim(
        "similar-to-restv1",
        "section 4.2",
        "ResTv2 outperforms ResTv1 of similar complexities across the board",
        farthest(counted("core", RESTV1_B, TINY), counted("core", RESTV1_L, BASE)),
        SIMILAR,
    ),
    # ---- accuracy, as far as the tables bear the sentences out
    Claim(
        "accuracy-beside-restv1",
        "section 4.2",
        "+0.7% (82.3% vs. 81.6%) in terms of Top-1 accuracy for ResTv2-T",
        better("Table 1", "top1", TINY, RESTV1_B),
        as_printed("0.7"),
    ),
    Claim(
        "accuracy-beside-swin",
        "section 4.2",
        "the Top-1 accuracy improvement is +1.0% and (82.3% vs. 81.3%)",
        better("Table 1", "top1", TINY, SWIN_T),
        as_printed("1.0"),
    ),
    Claim(
        "accuracy-at-384",
        "section 4.2",
        "An average +1.4% Top-1 accuracy is achieved",
        mean(*(better("Table 1", "top1", large, small) for large, small in AT_384)),
        as_printed("1.4"),
        "Of ResTv2-T, S, B and L from 224 to 384 pixels.",
    ),
    # ---- resolution
    Claim(
        "resolution-density",
        "section 4.2",
        "the proposed ResTv2 also possesses the ability to scale up capacity and resolution",
        least(
            *(
                ratio(speed("Table 1", large, small), printed("Table 1", "macs", small, large))
                for large, small in AT_384
            )
        ),
        above(1),
        "From 224 to 384 pixels speed falls by less than FLOPs grow.",
    ),
    Claim(
        "resolution-here",
        "Table 1",
        "ResTv2-T 224² … 826 … 384² … 319",
        InTurns(*AT_384[0]),
        near(319 / 826, ALIKE),
    ),
    # ---- what parts cost
    Claim(
        "pixel-shuffle",
        "section 4.3",
        "pixel-shuffle operation obtains much stronger feature extraction capabilities with a few parameters and FLOPs "
        "increase",
        most(
            counted("parameters", TINY, "restv2_tiny[target=none]@224"),
            counted("paper", TINY, "restv2_tiny[target=none]@224"),
        ),
        at_most(1.01),
    ),
    Claim(
        "downsampling",
        "section 3.2",
        "downsample operation in EMSA can significantly reduce the computation cost",
        most(
            counted("core", "pvt_tiny@224", PVT_MSA),
            counted("core", "restv2_lite[attention=emsa,mhim]@224", LITE_MSA),
        ),
        at_most(1 / 1.1),
    ),
    Claim(
        "beside-msa",
        "appendix A",
        "with much higher inference throughput",
        least(speed("Table 6", PVT, PVT_MSA), speed("Table 6", LITE_MHIM, LITE_MSA)),
        MUCH,
    ),
    Claim(
        "pvt-beside-msa-here",
        "appendix A",
        "with much higher inference throughput",
        InTurns(PVT, PVT_MSA),
        MUCH,
    ),
    Claim(
        "lite-beside-msa-here",
        "appendix A",
        "with much higher inference throughput",
        InTurns(LITE_MHIM, LITE_MSA),
        MUCH,
    ),
    Claim(
        "mhim-cost",
        "section 3.2",
        "the multi-head interaction module of the self-attention branch in EMSAv2 will decrease the actual inference "
        "speed",
        most(speed("Table 7", LITE_MHIM, LITE), speed("Table 7", TINY_MHIM, TINY)),
        SLOWER,
    ),
    *(
        Claim(
            f"mhim-cost-{width}-here",
            "section 3.2",
            "the multi-head interaction module of the self-attention branch in EMSAv2 will decrease the actual "
            "inference speed",
            InTurns(with_mhim, without),
            SLOWER,
            f"With heads of {width} channels.",
        )
        for width, with_mhim, without in ((64, LITE_MHIM, LITE), (96, TINY_MHIM, TINY))
    ),
    Claim(
        "mhim-cost-by-width",
        "appendix B",
        "with the cost of decreased inference throughput when the channel dimension of each head dk is smaller",
        ratio(speed("Table 7", LITE_MHIM, LITE), speed("Table 7", TINY_MHIM, TINY)),
        below(1),
        "It slows heads of 64 channels more than those of 96.",
    ),
    Claim(
        "mhim-gain-by-width",
        "section 3.2",
        "the performance improvements will be decreased as the channel dimension for each head increases",
        difference(better("Table 7", "top1", LITE_MHIM, LITE), better("Table 7", "top1", TINY_MHIM, TINY)),
        above(0),
    ),
    Claim(
        "mhim-flops",
        "Table 7",
        "ResTv2-Lite … 1.45G … +MHIM … 1.45G",
        most(counted("paper", LITE_MHIM, LITE), counted("paper", TINY_MHIM, TINY)),
        at_most(1.01),
        "It adds no FLOPs to speak of.",
    ),
    # ---- windows
    Claim(
        "windows-flops",
        "section 5.1",
        "restricted EMSAv2 into fixed windows can effectively reduce theoretical FLOPs",
        most(
            *(
                printed("Table 3", "macs_with_detections", mask_rcnn(style), mask_rcnn("global"))
                for style in STYLES
            )
        ),
        below(1),
    ),
    Claim(
        "windows-time",
        "section 5.1",
        "the actual inference speed is almost double the global style",
        mean(*(printed("Table 3", "ms", mask_rcnn(style), mask_rcnn("global")) for style in STYLES)),
        as_printed("2"),
        "Twice the time: what is printed are milliseconds.",
    ),
    Claim(
        "windows-slower-here",
        "section 5.1",
        "the actual inference speed is almost double the global style",
        InTurns(mask_rcnn("win"), mask_rcnn("global")),
        SLOWER,
        "That windows are slower at all.",
    ),
    Claim(
        "windows-time-here",
        "section 5.1",
        "the actual inference speed is almost double the global style",
        InTurns(mask_rcnn("win"), mask_rcnn("global")),
        near(79.9 / 149.6, ALIKE),
    ),
    Claim(
        "windows-matmul",
        "section 5.1",
        "window-based fine-tune methods can effectively reduce the “Matmul” (short of matrix multiply) FLOPs",
        most(*(counted("fvcore.matmul", mask_rcnn(style), mask_rcnn("global")) for style in STYLES)),
        at_most(1 / 1.1),
    ),
    Claim(
        "windows-linear",
        "section 5.1",
        "with the cost of introducing extra “Linear” FLOPs",
        least(*(counted("fvcore.linear", mask_rcnn(style), mask_rcnn("global")) for style in STYLES)),
        above(1),
    ),
    Claim(
        "matmul-share",
        "section 5.1",
        "the “Matmul” operation is not the most time-consuming part of the four settings (≤ 16%)",
        most(*(printed_matmul_share(style) for style in (*STYLES, "global"))),
        at_most(16),
        "Of the FLOPs: what is printed is no time.",
    ),
    Claim(
        "matmul-share-counted",
        "section 5.1",
        "the “Matmul” operation is not the most time-consuming part of the four settings (≤ 16%)",
        most(*(counted_matmul_share(style) for style in (*STYLES, "global"))),
        at_most(16),
        "Of the FLOPs, with 30 detections an image.",
    ),
    Claim(
        "padding-limit",
        "section 5.1",
        "the theoretical upper limit of padding in the first stage is 63 × 63",
        Computed(lambda: padding(1), "the most that is added to a side, over all sides of a map"),
        as_printed("63"),
    ),
    Claim(
        "padding-limit-detector",
        "section 5.1",
        "the theoretical upper limit of padding in the first stage is 63 × 63",
        Computed(lambda: padding(8), "the most that is added to a side, over multiples of 8 tokens"),
        as_printed("63"),
        "In a detector, which pads its images to multiples of 32 pixels.",
    ),
    # ---- detection and segmentation
    Claim(
        "detection-speed",
        "section 5.1",
        "ResTv2 outperforms Swin Transformer and ConvNeXt with higher mAP and inference FPS",
        least(
            speed("Table 4", DETECTORS[0], DETECTORS[1]),
            speed("Table 4", DETECTORS[0], DETECTORS[2]),
            speed("Table 4", *BASE_DETECTORS),
        ),
        above(1),
    ),
    *(
        Claim(
            f"detection-{name}-here",
            "section 5.1",
            "ResTv2 outperforms Swin Transformer and ConvNeXt with higher mAP and inference FPS",
            InTurns(DETECTORS[0], other),
            FASTER,
        )
        for name, other in zip(("swin", "convnext"), DETECTORS[1:], strict=True)
    ),
    Claim(
        "detection-flops",
        "Table 4",
        "Swin-T … 264G … ResTv2-T … 253G",
        counted("core+norm", DETECTORS[0], DETECTORS[1]),
        below(1),
        "With the attention products, which the table leaves out.",
    ),
    Claim(
        "detection-accuracy",
        "section 5.1",
        "the improvements are +1.4 box AP (47.6 vs. 46.2)",
        better("Table 4", "ap_box", DETECTORS[0], DETECTORS[2]),
        as_printed("1.4"),
    ),
    Claim(
        "upernet-accuracy",
        "section 5.2",
        "ResTv2-T outperforms Swin-T and ConvNeXt-T with +1.5 and +0.7 mIoU improvements, respectively (47.3 vs. 45.8 "
        "vs. 46.7)",
        better("Table 5", "miou", SEGMENTERS[0], SEGMENTERS[2]),
        as_printed("0.7"),
        "Beside ConvNeXt-T.",
    ),
    Claim(
        "upernet-speed",
        "section 5.2",
        "with much higher FPS (22.4 vs. 21.1 vs. 19.9 images/s)",
        least(*(speed("Table 5", SEGMENTERS[0], other) for other in SEGMENTERS[1:])),
        MUCH,
    ),
    *(
        Claim(
            f"upernet-{name}-here",
            "section 5.2",
            "with much higher FPS (22.4 vs. 21.1 vs. 19.9 images/s)",
            InTurns(SEGMENTERS[0], other),
            FASTER,
            "That it is faster at all.",
        )
        for name, other in zip(("swin", "convnext"), SEGMENTERS[1:], strict=True)
    ),
    *(
        Claim(
            f"upernet-gain-{name}",
            "section 5.2",
            "The inference speed improvements are +30.6% and +25.5% (19.2 vs. 14.7 vs. 15.3 images/s)",
            faster_by("Table 5", BASE_SEGMENTERS[0], other),
            as_printed(gained),
        )
        for name, other, gained in zip(
            ("swin", "convnext"), BASE_SEGMENTERS[1:], ("30.6", "25.5"), strict=True
        )
    ),
)
