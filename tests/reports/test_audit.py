"""The audit: each verdict by hand calculation on a V100, whose datasheet says 15.7 TFLOP/s in fp32 and 900 GB/s."""

import pytest

from bench.traffic import Traffic
from reports import audit
from reports.audit import floor_s, is_same_number, largest_spread, rates_of
from reports.published import Speed
from reports.verdicts import Status
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import results_of


def speed(images_per_s, gmacs=1.0, **more):
    return Speed("Net", "v100", images_per_s, source="a paper", macs=1e9 * gmacs, **more)


def finding(*speeds, kind="speed", results=None, elsewhere=()):
    return [each for each in audit.audit(speeds, results, elsewhere) if each.kind == kind]


# 2 GFLOP an image: 7,850 images/s would be the peak
@pytest.mark.parametrize(
    ("images_per_s", "status"),
    [
        (3925, Status.PLAUSIBLE),
        (7064, Status.PLAUSIBLE),
        (7066, Status.AT_THE_LIMIT),
        (7849, Status.AT_THE_LIMIT),
        (7851, Status.UNDECIDED),  # 3 × 3 convolutions by Winograd may be above
        (17_662, Status.UNDECIDED),
        (17_663, Status.IMPOSSIBLE),  # 2.25 peaks
    ],
)
def test_a_speed_is_held_against_the_peak(images_per_s, status):
    (found,) = finding(speed(images_per_s))
    assert found.verdict.status is status
    assert found.of_peak == pytest.approx(images_per_s / 7850)
    assert found.tflops == pytest.approx(2e-3 * images_per_s)


def test_the_sentence_holds_its_arithmetic():
    (found,) = finding(speed(100, 39.25, size="384"))
    assert found.sentence == (
        "Net at 384, a paper: 100 images/s × 2 × 39.25 GMAC = 7.85 TFLOP/s, 0.50 of the peak of 15.7."
    )


def test_what_the_datasheet_does_not_say_is_not_held_against_anything():
    assert finding(speed(1e9, dtype="bf16")) == []  # V100 has no bf16 units
    assert finding(Speed("Net", "v100", 1e9)) == []  # nobody printed its MACs


# ---- the floor


def test_rates_of_another_board_go_with_the_datasheets():
    """Linear 13.4 TFLOP/s were seen on the PCIe board, of 14; SXM2 has 15.7. Both have 900 GB/s."""
    rates = rates_of("v100", "fp32")
    assert rates["linear"].per_s == pytest.approx(13.4e12 * 15.7 / 14)
    assert rates["norm"].per_s == pytest.approx(549.9e9)
    assert rates_of("v100-pcie", "fp32")["linear"].per_s == 13.4e12
    assert rates_of("v100", "fp16") == rates_of("h200", "fp32") == {}


def test_the_floor_is_products_at_their_best_rates_and_all_else_at_that_of_its_bytes():
    macs = {"linear": 67 * 10**9, "conv": 31_470_000}
    moved = {
        "linear": Traffic(read=10**12),  # is in the time of its products
        "softmax": Traffic(read=10**9, written=10**9, once=10**12),  # weights serve a whole batch
        "copy": Traffic(other_bytes=819 * 10**6),
    }
    expected = 134e9 / 13.4e12 + 62.94e6 / 31.47e12 + 8e9 / 655.3e9 + 819e6 / 819e9
    assert floor_s(macs, moved, "v100-pcie", "fp32") == pytest.approx(expected)
    assert floor_s(macs, {}, "v100-pcie", "fp32") is None  # counted before bytes were
    assert floor_s({"fft": 1}, moved, "v100-pcie", "fp32") is None
    assert floor_s(macs, moved, "h200", "fp32") is None


def counted(tmp_path, gmacs=13.4):
    """ResTv2-T as if it were one linear layer."""
    row = synthetic.count_row("restv2_tiny@224")
    macs = {"linear": round(1e9 * gmacs)}
    row["result"]["conventions"]["core"] = {"macs": macs["linear"], "by_operator": macs}
    row["result"]["traffic"] = {
        "of": "eager",
        "by_operator": {"linear": Traffic(macs=macs["linear"])._asdict()},
    }
    return results_of(tmp_path, row)


RESTV2 = "restv2_tiny@224"


@pytest.mark.parametrize(
    ("images_per_s", "status"),
    [
        (449, Status.PLAUSIBLE),
        (451, Status.AT_THE_LIMIT),
        (549, Status.AT_THE_LIMIT),  # above what the rates allow by less than the two sources differ
        (551, Status.IMPOSSIBLE),
    ],
)
def test_a_counted_model_is_held_against_the_floor(tmp_path, images_per_s, status):
    """26.8 GFLOP at 13.4 TFLOP/s are 2 ms: 500 images/s. Sources differ by a tenth."""
    elsewhere = [
        Speed("Other", "v100-pcie", value, case="swin_tiny@224", source=f"{value}") for value in (100, 110)
    ]
    asked = Speed("Net", "v100-pcie", images_per_s, source="a paper", case=RESTV2)
    (found,) = finding(asked, results=counted(tmp_path), elsewhere=elsewhere)
    assert found.verdict.status is status
    assert found.of_floor == pytest.approx(images_per_s / 500)
    assert "at the best rates of its operators an image takes 2 ms" in found.sentence


# ---- steps


def family(*speeds):
    return [speed(images_per_s, gmacs, family="Net", size="224") for images_per_s, gmacs in speeds]


def test_a_step_is_the_work_that_is_added_in_the_time_that_is_added():
    """From 2 ms to 3 ms an image, and from 1 to 4.925 GMAC: 7.85 TFLOP/s, half of the peak."""
    (found,) = finding(*family((1000 / 3, 4.925), (500, 1)), kind="step")
    assert found.of_peak == pytest.approx(0.5)
    assert found.verdict.status is Status.PLAUSIBLE
    assert "3.92 GMAC more in 1/333.333 − 1/500 s = 1 ms: 7.85 TFLOP/s, 0.50 of the peak" in found.sentence


def test_more_work_in_less_time_is_undecided():
    (found,) = finding(*family((500, 1), (501, 2)), kind="step")
    assert found.verdict.status is Status.UNDECIDED


def test_there_is_no_step_between_families_sizes_sources_and_models_of_the_same_macs():
    one, other = family((500, 1), (400, 2))
    for apart in ({"family": "Other"}, {"size": "384"}, {"source": "another paper"}, {"family": ""}):
        assert finding(one, Speed(**{**vars(other), **apart}), kind="step") == []
    assert finding(*family((500, 1), (400, 1)), kind="step") == []


# ---- sources


def elsewhere(images_per_s, case=RESTV2, **more):
    return Speed("Net", "v100", images_per_s, case=case, source="a README: batch 64", **more)


def test_the_spread_is_the_largest_between_sources_of_one_model_gpu_and_dtype():
    """ResNet-50 in fp32 on a V100: 1123 and 1200."""
    assert largest_spread([elsewhere(1123), elsewhere(1200)]) == pytest.approx(1200 / 1123 - 1)
    assert largest_spread([elsewhere(1123), elsewhere(1200, "restv2_tiny@384")]) == 0
    assert largest_spread([elsewhere(1123), elsewhere(1200, dtype="fp16")]) == 0
    assert largest_spread([]) == 0


def test_sources_that_differ_are_told_with_their_ratio():
    (found,) = finding(speed(1200, case=RESTV2), elsewhere=[elsewhere(1123)], kind="sources")
    assert found.sentence == "Net: 1200 images/s in a paper, 1123 in a README: 1200 / 1123 = 1.069."
    assert "within 6.9 %" in found.verdict.reason


def test_a_number_of_another_source_is_of_another_campaign_also_where_it_ran_otherwise():
    (found,) = finding(speed(755, case=RESTV2), elsewhere=[elsewhere(755.2)], kind="sources")
    assert (
        found.sentence == "Net: 755 images/s in a paper is the number of a README: it is of another campaign."
    )
    other = elsewhere(755.2, "restv2_tiny@384", dtype="fp16")
    (found,) = finding(speed(755, case=RESTV2), elsewhere=[other], kind="sources")
    assert "for images of 384 where here they have 224, in fp16" in found.sentence
    assert finding(speed(700, case=RESTV2), elsewhere=[other], kind="sources") == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [(755, 755.2, True), (20.3, 20.34, True), (20.3, 20.36, False), (755, 756, False), (15.3, 15.18, False)],
)
def test_numbers_are_the_same_to_the_digits_of_the_shorter_one(one, other, same):
    assert is_same_number(elsewhere(one), elsewhere(other)) is same
    assert is_same_number(elsewhere(other), elsewhere(one)) is same
