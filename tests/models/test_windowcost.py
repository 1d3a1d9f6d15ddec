"""The closed form of windowed ResTv2 in Mask R-CNN: against Table 3, and against a count of the models as they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import windowcost
from bench.cases import parse
from bench.harness import macs
from bench.images import read, shapes
from bench.windowcost import (
    OTHERS,
    STYLES,
    attention,
    average,
    backbone,
    counts,
    detection_macs,
    padded_windows,
)
from models.attention import Attention
from models.config import RESTV1, RESTV2

TINY = RESTV2["restv2_tiny"]
COCO = read("coco")


# --- Table 3 ---------------------------------------------------------------------------------------------

# Table 3(b), GMACs: conv, linear, matmul, others. In its conv are the detections of weights that are not public.
PRINTED = {
    "global": (116.95, 75.70, 36.66, 0.42),
    "win": (119.09, 82.00, 3.69, 0.47),
    "cwin": (126.29, 82.00, 3.69, 0.47),
    "hwin": (118.57, 79.71, 20.17, 0.45),
}
# Its conv without any, from a count of the built models, and the detections that the rest comes to.
CONV = {"global": (102.60, 27.1), "win": (102.68, 31.0), "cwin": (103.19, 43.6), "hwin": (102.64, 30.1)}


@pytest.mark.parametrize("style", STYLES)
def test_the_first_500_images_give_table_3(style):
    found = average(TINY, style, shapes(COCO[:500]))
    linear, matmul, others = found["linear"], found["matmul"], sum(found[name] for name in OTHERS)
    assert tuple(round(each / 1e9, 2) for each in (linear, matmul, others)) == PRINTED[style][1:]
    without, detections = CONV[style]
    assert round(found["conv"] / 1e9, 2) == without
    assert (PRINTED[style][0] * 1e9 - found["conv"]) / detection_macs() == pytest.approx(detections, abs=0.05)


def test_the_others_are_not_left_over():
    """What Table 3(b) has four columns for is all that there is."""
    assert set(counts(TINY, (800, 1216), "cwin")) == {"conv", "linear", "matmul", *OTHERS}


def test_detections_add_convolutions_alone():
    none, some = (counts(TINY, (800, 1216), "win", detections) for detections in (0, 7))
    assert some - none == {"conv": 7 * detection_macs()}
    mix = shapes(COCO[:40])
    mean, more = (average(TINY, "win", mix, detections) for detections in (0, 2.5))
    assert more == mean | {"conv": mean["conv"] + 2.5 * detection_macs()}
    assert round(detection_macs() / 1e9, 5) == 0.52986


@pytest.mark.parametrize("style", STYLES)
def test_an_average_is_the_mean_over_the_images(style):
    mix = shapes(COCO[:7])
    one_by_one = [counts(TINY, shape, style) for shape in mix.elements()]
    for operator, mean in average(TINY, style, mix).items():
        assert mean == pytest.approx(sum(each[operator] for each in one_by_one) / 7)


# --- against what counts a model as it runs -----------------------------------------------------------------


@pytest.mark.parametrize("size", ["32", "64x96", "256x320", "800x1216"])
@pytest.mark.parametrize("model", ["restv2_tiny", "restv2_base", "restv2_large", "restv2_lite"])
def test_the_global_backbone_is_the_classifier_less_its_head(model, size):
    case = parse(f"{model}@{size}")
    found = macs.count(case).by_operator("fvcore")
    channels, tokens = 8 * RESTV2[model].width, case.size[0] * case.size[1] // 32**2
    del found["pool"]
    found["norm"] -= 5 * tokens * channels
    found["linear"] -= 1000 * channels
    assert backbone(RESTV2[model], case.size, "global") == found


def core_macs(module: Callable[..., Any], *arguments: Any) -> int:
    """Convolutions and products, as PyTorch counts them while it runs."""
    # no_grad, because in inference mode torch 2.5 counts nothing
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*arguments)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("dim", "reduction", "window"), [(96, 8, 64), (192, 4, 32), (64, 2, 16), (768, 1, 8)]
)
@pytest.mark.parametrize("ends", [(0, 0), (0, 3), (5, 7)])
def test_attention_in_windows_is_what_the_module_runs_on_a_batch_of_them(dim, reduction, window, ends):
    size = (window - ends[0], window - ends[1])
    with torch.device("meta"):
        module = Attention(dim, 2, reduction)
        tokens_BNC = torch.empty(6, size[0] * size[1], dim)
    found = attention({size: 6}, dim, reduction)
    assert sum(found[name] for name in ("conv", "linear", "matmul")) == core_macs(module, tokens_BNC, size)


@pytest.mark.parametrize(("size", "number"), [((64, 64), 1), ((65, 64), 2), ((200, 304), 20), ((8, 272), 5)])
def test_windows_cover_the_map(size, number):
    assert padded_windows(size, 64) == {(64, 64): number}


TRACED = sorted(shapes(COCO))[::6]


@pytest.mark.parametrize("style", STYLES)
def test_the_whole_detector_is_what_our_counter_sees_run(style):
    """Every operator to the MAC, on ten of the shapes that COCO's images have."""
    assert len(TRACED) == 10
    for shape in TRACED:
        case = f"restv2_tiny[detections=3,head=mask_rcnn,style={style}]@{shape[0]}x{shape[1]}"
        assert counts(TINY, shape, style, 3) == macs.count(parse(case)).by_operator("fvcore"), shape


def test_all_images_and_styles_are_counted_by_a_few_shapes(monkeypatch):
    """What makes it quick: not one count for an image, but one for each shape that there is."""
    counted = []

    def counts(config, shape, style, detections=0):
        counted.append(shape)
        return Counter(conv=1)

    monkeypatch.setattr(windowcost, "counts", counts)
    for style in STYLES:
        average(TINY, style, shapes(COCO))
    assert len(counted) == len(STYLES) * len(set(counted)) == len(STYLES) * len(shapes(COCO))


# --- what does not fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "shape", "style", "reason"),
    [
        (TINY, (800, 1216), "swin", "there is no style 'swin'; there are global, win, cwin, hwin"),
        (TINY, (800, 1199), "win", "a detector sees multiples of 32, not 800x1199"),
        (TINY, (0, 32), "win", "a detector sees multiples of 32, not 0x32"),
        (RESTV1["restv1_small"], (800, 1216), "win", "ResTv1-S has other parts than ResTv2's"),
    ],
)
def test_what_the_formulas_do_not_hold_for_is_refused(config, shape, style, reason):
    with pytest.raises(ValueError, match=reason):
        counts(config, shape, style)
