"""Mask R-CNN around our backbones: against torchvision's own, in Table 4's counts, and in what it promises."""

from __future__ import annotations

from dataclasses import fields
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN

import models
from bench.cases import parse
from bench.errors import UsageError, Wrong
from bench.harness import macs
from bench.harness.counter import Counter, Counts
from bench.harness.prepare import Prepared, Spent, prepare
from bench.jobs import job_of
from bench.machine.devices import cpu_device
from bench.protocols import PROTOCOLS
from models import detection
from models.config import DETECTOR
from models.detection import MaskRCNN
from models.variants import RESTV2
from tests.support.sweeps import sweep, swept

CPU = torch.device("cpu")
SIZE = (224, 288)


@pytest.fixture(scope="module")
def detector() -> Any:
    return spread_out(models.build("restv2_lite", head="mask_rcnn", detections="12").double())


@pytest.fixture
def small_detector(small_models, narrow_heads) -> Any:
    return spread_out(models.build("restv2_lite", head="mask_rcnn", detections="12").double())


def spread_out(model: Any) -> Any:
    with torch.no_grad():  # or all boxes of a level are alike, and suppression leaves too few
        model.rpn.head.bbox_pred.weight *= 15
        model.heads.box_predictor.bbox_pred.weight *= 10
    return model


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


# --- against torchvision --------------------------------------------------------------------------------------


class Levels(nn.Module):
    """Backbone and pyramid as torchvision's Mask R-CNN takes them."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector, self.out_channels = detector, DETECTOR.pyramid

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.detector.pyramid(images)


def torchvisions(detector: Any) -> nn.Module:
    """torchvision's Mask R-CNN with the weights of `detector`; its background has outputs that ours does not have."""
    theirs = TorchvisionMaskRCNN(
        Levels(detector),
        DETECTOR.classes + 1,
        min_size=SIZE[0],
        max_size=SIZE[1],
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        box_score_thresh=0.0,
        box_detections_per_img=detector.heads.detections,
    )
    theirs.eval().double()
    theirs.rpn.head.load_state_dict(detector.rpn.head.state_dict())
    theirs.roi_heads.box_head.load_state_dict(detector.heads.box_head.state_dict())
    theirs.roi_heads.mask_head.load_state_dict(detector.heads.mask_head.state_dict())
    boxes, masks = theirs.roi_heads.box_predictor, theirs.roi_heads.mask_predictor
    boxes.cls_score.load_state_dict(detector.heads.box_predictor.cls_score.state_dict())
    masks.conv5_mask.load_state_dict(detector.heads.mask_predictor.conv5_mask.state_dict())
    with torch.no_grad():
        for whole, part, first in (
            (boxes.bbox_pred, detector.heads.box_predictor.bbox_pred, 4),
            (masks.mask_fcn_logits, detector.heads.mask_predictor.mask_fcn_logits, 1),
        ):
            whole.weight[first:], whole.bias[first:] = part.weight, part.bias
    return theirs


@sweep
def test_it_finds_what_torchvisions_mask_rcnn_finds(detector, image):
    theirs = torchvisions(detector)
    seen: dict[str, Any] = {}
    theirs.rpn.register_forward_hook(lambda module, given, out: seen.update(proposals=out[0]))
    theirs.roi_heads.register_forward_hook(lambda module, given, out: seen.update(found=dict(out[0][0])))
    with torch.inference_mode():
        theirs([image[0]])
        levels = detector.pyramid(image)
        proposals = detector.rpn(levels, SIZE)
        ours = detector(image)
    assert (
        len(seen["proposals"][0]) == DETECTOR.proposals
    )  # suppression left enough, or this would compare less
    torch.testing.assert_close(proposals[0], seen["proposals"][0])
    found = seen["found"]
    torch.testing.assert_close(ours.boxes_BD4[0], found["boxes"])
    torch.testing.assert_close(ours.scores_BD[0], found["scores"])
    assert (ours.labels_BD[0] + 1).tolist() == found["labels"].tolist()  # theirs counts the background
    torch.testing.assert_close(ours.masks_BDHW[0], found["masks"][:, 0])


# --- equal work --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_models", "narrow_heads")
@pytest.mark.parametrize("size", [(64, 64), (64, 160), SIZE])
@pytest.mark.parametrize("batch", [1, 2])
def test_every_image_has_as_many_boxes_whatever_the_weights_say(size, batch):
    model: Any = models.build("restv2_lite", head="mask_rcnn", detections="7")
    with torch.inference_mode():
        for sure in (False, True):
            if sure:  # all anchors of one mind, all classes too: suppression leaves next to nothing
                for module in (model.rpn.head.bbox_pred, model.heads.box_predictor.bbox_pred):
                    module.weight.zero_()
            images = torch.randn(batch, 3, *size)
            proposals = model.rpn(model.pyramid(images), size)
            assert proposals.shape == (batch, DETECTOR.proposals, 4)
            found = model(images)
            shapes = {field.name: getattr(found, field.name).shape for field in fields(found)}
            assert shapes == {
                "boxes_BD4": (batch, 7, 4),
                "scores_BD": (batch, 7),
                "labels_BD": (batch, 7),
                "masks_BDHW": (batch, 7, 28, 28),
            }
            assert (found.boxes_BD4[..., :2] >= 0).all()
            assert (found.boxes_BD4[..., 2] <= size[1]).all()
            assert (found.boxes_BD4[..., 3] <= size[0]).all()


def test_images_of_a_batch_do_not_know_of_each_other(small_detector, image):
    other = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    with torch.inference_mode():
        both, alone = small_detector(torch.cat([other, image])), small_detector(image)
    for field in fields(alone):
        torch.testing.assert_close(getattr(both, field.name)[1:], getattr(alone, field.name))


@pytest.mark.usefixtures("small_models", "narrow_heads")
def test_boxes_are_not_rounded_to_half_precision():
    """fp16 has steps of one pixel from 1024 on, and bf16 of four from 512 on; boxes have neither."""
    model: Any = models.build("restv2_lite", head="mask_rcnn", detections="5").to(torch.bfloat16)
    proposals: list[Tensor] = []
    model.rpn.register_forward_hook(lambda module, given, boxes: proposals.append(boxes))
    with torch.inference_mode():
        found = model(torch.randn(1, 3, 64, 640, dtype=torch.bfloat16))
    assert found.boxes_BD4.dtype == torch.float32
    assert found.masks_BDHW.dtype == torch.bfloat16
    beyond = proposals[0][proposals[0] > 512]
    assert len(beyond) > 10
    assert (beyond != beyond.bfloat16().float()).any()


def test_too_few_are_filled_up_with_the_best_of_the_suppressed():
    """Five boxes in one place and two elsewhere, one of which is none: suppression leaves two of them."""
    place, aside, none = (0.0, 0.0, 9.0, 9.0), (20.0, 20.0, 29.0, 29.0), (5.0, 5.0, 5.0, 30.0)
    boxes = torch.tensor([[place, place, aside, place, none, place, place]])
    scores = torch.tensor([[0.5, 0.9, 0.3, 0.6, 0.95, 0.8, 0.7]])
    groups = torch.zeros(1, 7, dtype=torch.long)
    for count, chosen in ((2, [1, 2]), (4, [1, 2, 4, 5]), (7, [1, 2, 4, 5, 6, 3, 0])):
        assert detection._chosen(boxes, scores, groups, 0.5, count).tolist() == [chosen]


@pytest.mark.parametrize(
    ("model", "head"),
    swept(
        product(["restv2_lite", "swin_tiny", "convnext_tiny", "resnet50"], ["mask_rcnn", "upernet"]),
        lambda value: "restv2_lite" in value or value == ("swin_tiny", "mask_rcnn"),
    ),
)
def test_maps_are_in_the_order_of_the_images(model, head):
    """Otherwise a head would run channels last on one backbone, and not on another."""
    backbone: Any = models.build(model, size=(64, 96), head=head).backbone
    for order in (torch.contiguous_format, torch.channels_last):
        images = torch.randn(2, 3, 64, 96).contiguous(memory_format=order)
        with torch.inference_mode():
            assert all(each.is_contiguous(memory_format=order) for each in backbone(images))


@pytest.mark.usefixtures("small_models", "narrow_heads")
@pytest.mark.parametrize("size", [(65, 67), (64, 64), (224, 96)])
def test_levels_are_pooled_at_their_own_scale_whatever_the_first_image_was(size):
    model: Any = models.build("restv2_lite", head="mask_rcnn", detections="2")
    with torch.inference_mode():
        model(torch.randn(1, 3, *size))
    for pool in (model.heads.box_pool, model.heads.mask_pool):
        assert pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def test_what_has_no_maps_takes_no_head():
    for name in ("timm:resnet18", "torch.nn:Identity"):
        with pytest.raises(ValueError, match="takes no option head"):
            models.build(name, head="upernet")
        with pytest.raises(ValueError, match="takes no option detections"):
            models.build(name, detections="5")


# --- counted -----------------------------------------------------------------------------------------------------


def test_a_detection_costs_its_masks_and_nothing_else():
    few, more = (
        macs.count(parse(f"restv2_tiny[head=mask_rcnn,detections={n}]@128")).by_operator("fvcore")
        for n in (3, 8)
    )
    assert (more.pop("conv") - few.pop("conv")) / 5 == pytest.approx(0.52986e9, abs=5e3)  # Table 3's slope
    assert more == few


def test_what_is_counted_without_values_is_what_runs(small_detector, image):
    """The branches for meta tensors, that know no values, against a count of a run on numbers."""
    with torch.device("meta"):
        shapes_only: Any = models.build("restv2_lite", head="mask_rcnn", detections="12").double()
    counted = []
    for model, given in ((shapes_only, image.to("meta")), (small_detector, image)):
        counts = Counts(0)
        counter = Counter(counts)
        with torch.inference_mode(), counter:
            model(given)
        counted.append(counts.by_operator("paper"))
    assert counted[0] == counted[1]


# --- as a case ---------------------------------------------------------------------------------------------------


OURS = [
    "restv2_lite[head=mask_rcnn,style=win]@64x96:b2:fp32",
    "restv2_lite[head=mask_rcnn]@64x96:b1:fp32:sdpa",
    "restv2_lite[head=mask_rcnn]@64x96:b1:bf16",
    "restv2_lite[autocast,channels_last,head=mask_rcnn]@64x96:b1:bf16",
    "restv1_lite[head=mask_rcnn]@64x96:b1:fp32",
]


def checked(text: str) -> Prepared:
    return prepare(parse(text), 1, CPU, lambda phase: None, Spent())


@pytest.mark.usefixtures("small_models", "narrow_heads")
@pytest.mark.parametrize("text", swept(OURS, lambda text: "sdpa" in text or "style" in text))
def test_a_detector_of_ours_is_checked_part_by_part_in_float64(text):
    within_bounds(checked(text))


def within_bounds(it: Prepared) -> None:
    assert "eager in fp64" in it.check["against"]
    assert it.check["of"].startswith("the largest of ")
    assert 0 < it.check["error"] <= it.check["bound"]
    it.run()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("restv2_lite[detections=3,head=mask_rcnn]@64:b1:fp32:sdpa", marks=sweep),
        # a CPU takes minutes for the box head of a thousand proposals in bf16
        *(pytest.param(text, marks=pytest.mark.trials) for text in OURS),
    ],
)
def test_the_bounds_hold_for_a_detector_of_full_width(text):
    within_bounds(checked(text))


@pytest.mark.usefixtures("small_models", "narrow_heads")
@pytest.mark.parametrize(
    "part",
    swept(
        ["backbone.body.stage4.1.mlp", "fpn", "rpn.head.conv", "heads.box_head", "heads.mask_head"],
        lambda part: part in ("backbone.body.stage4.1.mlp", "heads.mask_head"),
    ),
)
def test_an_error_in_any_part_is_seen(monkeypatch, part):
    build = models.build

    def wrongly(name: str, **options: Any) -> nn.Module:
        model = build(name, **options)
        if options["impl"] == "sdpa":
            module = model.get_submodule(part)
            module.register_forward_hook(
                lambda module, given, out: (
                    {key: 1.01 * each for key, each in out.items()} if isinstance(out, dict) else 1.01 * out
                )
            )
        return model

    monkeypatch.setattr(models, "build", lambda name, impl="eager", **rest: wrongly(name, impl=impl, **rest))
    with pytest.raises(Wrong, match=r"the output differs from eager in fp64 by .* of the largest of"):
        checked("restv2_lite[head=mask_rcnn]@64:b1:fp32:sdpa")


PEERS = ["resnet50", "convnext_tiny", "swin_tiny", "regnety_4g"]


@pytest.mark.usefixtures("narrow_heads")
@pytest.mark.parametrize("model", swept(PEERS, lambda model: model == "resnet50"))
def test_a_peer_is_a_backbone_too(model):
    it = checked(f"{model}[detections=3,head=mask_rcnn]@64x96:b1:fp32")
    assert it.check["against"] == "its own eager"
    assert isinstance(it.stamped, MaskRCNN)


def test_weights_of_the_classifier_go_into_the_backbone(tmp_path):
    torch.manual_seed(8)
    classifier: Any = models.build("restv2_lite")
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    loaded: Any = models.build("restv2_lite", head="mask_rcnn", weights=str(tmp_path / "weights.pth"))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for ours, expected in zip(loaded.backbone(images), classifier.features(images), strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("restv2_tiny[detections=5]", "detections=N is for head=mask_rcnn"),
        ("swin_tiny[detections=5,head=upernet]", "detections=N is for head=mask_rcnn"),
        ("swin_tiny[detections=0,head=mask_rcnn]", "detections=0: it takes a number from 1 to 1000"),
        ("resnet50[detections=1001,head=mask_rcnn]", "detections=1001: it takes a number from 1 to 1000"),
        ("resnet50[detections=1e2,head=mask_rcnn]", "detections=1e2: it takes a number from 1 to 1000"),
        ("restv2_tiny[head=mask_rcnn]:compile", "is no single graph to run as 'compile'"),
        ("restv2_tiny[head=mask_rcnn]:fused+compile", "is no single graph to run as 'fused+compile'"),
        ("restv2_tiny[head=mask_rcnn]@32", "Mask R-CNN takes 64 pixels a side or more"),
        ("restv2_tiny[head=mask_rcnn]:train", "a step of training under a head needs boxes or masks"),
        ("restv2_tiny[graph,head=mask_rcnn]", "Mask R-CNN chooses boxes by their values"),
        ("restv2_tiny[head=fcn]", "unknown value 'fcn' of head"),
        ("pvt_tiny[head=mask_rcnn]", "unknown option 'head' of pvt_tiny"),
        ("resnet50[head=mask_rcnn]:sdpa", "ResNet-50 has no attention"),
        ("resnet50[head=mask_rcnn]:fused", "ResNet-50 has no EMSAv2"),
    ],
)
def test_what_makes_no_sense_is_one_line(text, why):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_classifier_is_a_head_too(image):
    torch.manual_seed(4)
    named = models.build("restv2_lite", head="classifier").double()
    torch.manual_seed(4)
    plain = models.build("restv2_lite").double()
    with torch.inference_mode():
        assert torch.equal(named(image), plain(image))
    assert parse("swin_tiny[head=classifier]:train").head == parse("swin_tiny:train").head == "classifier"
    assert macs.count(parse("resnet50[head=classifier]")).calls == macs.count(parse("resnet50")).calls


def test_branches_are_looked_at_in_the_classifier_alone():
    with pytest.raises(UsageError, match="are looked at in a whole model"):
        job_of("cka", cpu_device(), PROTOCOLS["quick"]["cpu"], parse("attention_tiny"))
    with pytest.raises(UsageError, match="has a head of another kind"):
        job_of("cka", cpu_device(), PROTOCOLS["quick"]["cpu"], parse("restv2_tiny[head=upernet]"))


@pytest.mark.usefixtures("small_models", "narrow_heads")
def test_a_mix_with_an_image_too_small_is_one_line():
    model: Any = models.build("restv2_lite", head="mask_rcnn")
    with pytest.raises(ValueError, match=r"\d+ boxes are there, and 1000 are wanted: the image is too small"):
        model(torch.randn(1, 3, 32, 64))


@pytest.mark.usefixtures("small_models", "narrow_heads")
def test_every_style_of_windows_goes_under_a_head():
    images = torch.randn(1, 3, 64, 320)
    for style in ("global", "win", "cwin", "hwin"):
        model: Any = models.build("restv2_lite", head="mask_rcnn", detections="2", style=style)
        assert model.backbone.channels == [RESTV2["restv2_lite"].width * 2**stage for stage in range(4)]
        with torch.inference_mode():
            assert model(images).masks_BDHW.shape == (1, 2, 28, 28)
