"""The closed form of ResTv2 in Mask R-CNN: against Table 3, and against a count of the models as they run."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.cases import parse
from bench.harness import macs
from bench.images import read, shapes
from models.cost import OTHERS, detection_macs
from models.switches import DETECTIONS, STYLES
from models.variants import RESTV2
from tests.support import detector_macs
from tests.support.detector_macs import average, backbone, counts
from tests.support.sweeps import swept

TINY = RESTV2["restv2_tiny"]
COCO = read("coco")

# Table 3(b), GMACs: conv, linear, matmul, others. In its conv are the detections of weights that are not public.
PRINTED = {
    "global": (116.95, 75.70, 36.66, 0.42),
    "win": (119.09, 82.00, 3.69, 0.47),
    "cwin": (126.29, 82.00, 3.69, 0.47),
    "hwin": (118.57, 79.71, 20.17, 0.45),
}


@pytest.mark.parametrize("style", STYLES)
def test_the_first_500_images_give_table_3(style):
    found = average(TINY, style, shapes(COCO[:500]))
    linear, matmul, others = found["linear"], found["matmul"], sum(found[name] for name in OTHERS)
    assert tuple(round(each / 1e9, 2) for each in (linear, matmul, others)) == PRINTED[style][1:]
    detections = (PRINTED[style][0] * 1e9 - found["conv"]) / detection_macs()
    assert 0 < detections < DETECTIONS  # as many as an image may have


def test_the_others_are_not_left_over():
    """The operators of Table 3(b)'s four columns are all that there are."""
    assert set(counts(TINY, (800, 1216), "cwin")) == {"conv", "linear", "matmul", *OTHERS}


def test_detections_add_convolutions_alone():
    none, some = (counts(TINY, (800, 1216), "win", detections) for detections in (0, 7))
    assert some - none == {"conv": 7 * detection_macs()}
    mix = shapes(COCO[:40])
    mean, more = (average(TINY, "win", mix, detections) for detections in (0, 2.5))
    assert more == mean | {"conv": mean["conv"] + 2.5 * detection_macs()}
    # arXiv 1703.06870, figure 4: four 3×3 convolutions on 14×14, a transposed 2×2 one to 28×28, 80 masks
    assert detection_macs() == 256**2 * 14**2 * (4 * 9 + 4) + 256 * 80 * 28**2


@pytest.mark.parametrize("style", STYLES)
def test_an_average_is_the_mean_over_the_images(style):
    mix = shapes(COCO[:7])
    one_by_one = [counts(TINY, shape, style) for shape in mix.elements()]
    for operator, mean in average(TINY, style, mix).items():
        assert mean == pytest.approx(sum(each[operator] for each in one_by_one) / 7)


@pytest.mark.parametrize("size", swept(["32", "64x96", "256x320", "800x1216"], lambda size: size == "64x96"))
@pytest.mark.parametrize("model", ["restv2_tiny", "restv2_base", "restv2_large", "restv2_lite"])
def test_the_global_backbone_is_the_classifier_less_its_head(model, size):
    case = parse(f"{model}@{size}")
    found = macs.count(case).by_operator("fvcore")
    channels, tokens = 8 * RESTV2[model].width, case.size[0] * case.size[1] // 32**2
    del found["pool"]
    found["norm"] -= 5 * tokens * channels
    found["linear"] -= 1000 * channels
    assert backbone(RESTV2[model], case.size, "global") == found


TRACED = [f"{height}x{width}" for height, width in sorted(shapes(COCO))[::6]]


@pytest.mark.parametrize("shape", swept(TRACED, lambda shape: shape == "800x1120"))
@pytest.mark.parametrize("style", swept(STYLES, lambda style: style == "hwin"))
def test_the_whole_detector_is_what_our_counter_sees_run(style, shape):
    """Every operator to the MAC, on ten of the shapes that COCO's images have."""
    assert len(TRACED) == 10
    case = parse(f"restv2_tiny[detections=3,head=mask_rcnn,style={style}]@{shape}")
    assert counts(TINY, case.size, style, 3) == macs.count(case).by_operator("fvcore")


def test_all_images_and_styles_are_counted_by_a_few_shapes(monkeypatch):
    """One count for each shape that there is, not for each image: that makes it quick."""
    counted = []

    def counts(config, shape, style, detections=0):
        counted.append(shape)
        return Counter(conv=1)

    monkeypatch.setattr(detector_macs, "counts", counts)
    for style in STYLES:
        average(TINY, style, shapes(COCO))
    assert len(counted) == len(STYLES) * len(set(counted)) == len(STYLES) * len(shapes(COCO))
