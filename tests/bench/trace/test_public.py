"""Traces and operator times that others measured and published, where PUBLIC_GPU_DATA names their folder.

Its README says what each file is: ResNet-50 training on a V100 (pytorch/kineto, commit 041e7ce9), ViT-B/16 and
TimeSformer on an H100 (AMD-AGI/TraceLens @171dd747), AlexNet on an A100 (facebookresearch/HolisticTraceAnalysis).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest

from bench.trace import joined as join
from bench.trace import tables, told
from bench.trace.joined import Call, Joined
from tests.support.published import FOLDER, RESNET50, lines_of, needs_folder, table_of

pytestmark = needs_folder
STEPS, IMAGES = 6, 32


@pytest.fixture(scope="module")
def resnet50() -> Joined:
    return told.read(RESNET50)


def share(parts: Iterable[float], whole: Iterable[float]) -> int:
    """In whole percent."""
    return round(100 * sum(parts) / sum(whole))


def convolutions(joined: Joined) -> list[Call]:
    """The forward ones, in the order of time."""
    found = [call for call in joined.calls if call.kind == "conv" and call.phase == "forward"]
    return sorted(found, key=lambda call: call.works[0].at.start if call.works[0].at else 0)


def test_every_kernel_of_the_v100_belongs_to_an_operator(resnet50):
    about = told.summary(resnet50)
    assert (about["device"], about["attributed"], about["known"]) == ("Tesla V100-DGXS-32GB", 1, 1)
    assert about["unjoined"] == []
    assert (about["launches"], about["steps"]) == (9096, STEPS)
    assert about["peak_tflops"]["fp32"] == 15.7


def test_the_convolutions_of_the_v100_have_the_macs_of_resnet50(resnet50):
    """4,087,136,256 an image is what torchvision's ResNet-50 has by fvcore as well, without its classifier."""
    forward = convolutions(resnet50)
    assert len(forward) == 53 * STEPS
    assert sum(call.macs or 0 for call in forward) == 4_087_136_256 * STEPS * IMAGES
    # the first convolution's input needs no gradient: 118,013,952 MACs less than twice the forward's
    backward = [call for call in resnet50.calls if call.kind == "conv" and call.phase == "backward"]
    assert sum(call.macs or 0 for call in backward) == (2 * 4_087_136_256 - 118_013_952) * STEPS * IMAGES
    linear = [call for call in resnet50.calls if call.kind == "linear"]
    assert sum(call.macs or 0 for call in linear) == 3 * 2048 * 1000 * STEPS * IMAGES


def test_each_convolution_is_the_one_that_was_published(resnet50):
    published = lines_of("v100_resnet50_conv_fwd.csv.gz")
    assert [(call.step, call.macs, call.took, len(call.works)) for call in convolutions(resnet50)] == [
        (row["step"], int(row["macs_batch32"]), float(row["gpu_us"]), int(row["n_kernels"]))
        for row in published
    ]


def test_1x1_have_half_of_the_macs_and_two_thirds_of_the_time(resnet50):
    forward = convolutions(resnet50)
    by_filter = {
        size: [call for call in forward if call.label == f"conv2d {size}×{size}"] for size in (1, 3, 7)
    }
    assert sum(map(len, by_filter.values())) == len(forward)
    for size, macs, took in ((1, 52, 68), (3, 45, 29)):
        assert (
            share((call.macs or 0 for call in by_filter[size]), (call.macs or 0 for call in forward)) == macs
        )
        assert share((call.took for call in by_filter[size]), (call.took for call in forward)) == took


def test_convolutions_take_two_thirds_of_a_step(resnet50):
    (conv,) = (line for line in tables.lines(resnet50) if (line.phase, line.name) == ("all", "conv"))
    assert round(100 * conv.share) == 66
    assert round(100 * (conv.ms_per_step or 0) / (told.summary(resnet50)["ms_per_step"])) == 66


def test_single_3x3_are_beyond_the_fp32_peak_and_said_to_be_so(resnet50):
    rows = {line.name: line for line in tables.lines(resnet50, "call") if line.phase == "forward"}
    three, one = rows["conv2d 3×3"], rows["conv2d 1×1"]
    assert three.tflops == pytest.approx(19.4, abs=0.1) and one.tflops == pytest.approx(9.4, abs=0.1)
    assert (three.fastest_share_of_peak or 0) > 1.6 and (one.fastest_share_of_peak or 0) < 1
    (remark,) = three.remarks
    assert "beyond fp32's 15.7 TFLOP/s" in remark and "Winograd multiplies less" in remark
    assert one.remarks == ()


def test_operators_of_the_v100_add_up_to_the_published_table(resnet50):
    published: dict[str, float] = defaultdict(float)
    for row in lines_of("operator_times.csv.gz"):
        if row["trace"].startswith("kineto."):
            published[row["op"]] += float(row["gpu_us"])
    found: dict[str, float] = defaultdict(float)
    for call in resnet50.calls:
        for work in call.works:
            found[work.span.name if work.span else ""] += work.took
    assert found == pytest.approx(published)


def test_a_trace_without_shapes_lists_what_cannot_be_joined():
    joined = told.read(FOLDER / "alexnet.trace.json.gz")
    about = told.summary(joined)
    assert (about["device"], about["attributed"], about["launches"]) == ("NVIDIA A100-PG509-200", 1, 98)
    (reason,) = about["unjoined"]
    assert (reason["why"], sorted(reason["names"])) == (join.NO_SHAPES, ["conv2d", "linear"])
    assert about["known"] == pytest.approx(1 - reason["share"])
    assert about["peak_tflops"] == {}  # no profile is of this board
    assert Counter(call.kind for call in joined.calls)["conv"] == 10


# ---- operator times of the H100, through the same join


def test_timesformers_time_goes_where_its_macs_do_not():
    joined = table_of("timesformer")
    rows = {line.name: line for line in tables.lines(joined)}
    calls = {line.name: line for line in tables.lines(joined, "call")}
    no_macs = [calls["_softmax"], calls["mul"], calls["copy_"]]
    assert sum(line.macs or 0 for line in no_macs) == 0
    assert round(100 * sum(line.share for line in no_macs)) == 60
    assert round(100 * (rows["linear"].macs_share or 0)) == 67
    assert round(100 * rows["linear"].share) == 5
    assert told.summary(joined)["known"] == 1
    assert sum(line.ms for line in rows.values()) == pytest.approx(158.433174)


def test_a_vits_macs_are_those_of_its_closed_form():
    """12 blocks of width 768 at 197 tokens, the patches before and a pooler behind; batch 4."""
    joined = table_of("nsfw")
    tokens, width = 197, 768
    block = tokens * 12 * width**2
    rows = {line.name: line for line in tables.lines(joined)}
    assert rows["conv"].macs == 4 * 196 * width * 3 * 16 * 16
    assert rows["attention"].macs == 4 * 12 * 2 * tokens**2 * width
    assert rows["linear"].macs == 4 * (12 * block + width * width)
    assert all((line.share_of_attainable or 0) < 1 for line in rows.values())
