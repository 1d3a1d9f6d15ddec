"""Predictions: which rates they take, one factor between devices, and intervals on a GPU that they have not seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import prediction, speeds
from bench.cases import parse
from bench.costmodel import Interval, Timed, Work
from bench.errors import UsageError
from bench.machine.gpus import profiles
from bench.prediction import Rates, predict
from bench.speeds import Campaign
from tests.support.published import FOLDER, needs_folder

CASE = parse("restv2_tiny:b8:fp16")
WORK = Work(4e9, 1e8)
ENDS = Interval(0.8, 1.25)
# an A100: 312 TFLOP/s of fp16, 2039 GB/s; a T4: 65 and 320
A100, T4 = profiles()["a100"], profiles()["t4"]
KNOWN = [Rates("a100", "fp16", "eager", "", 156.0, 2039 / 2, ENDS)]


def seconds(tflops: float, gb_per_s: float) -> float:
    """The seconds that WORK takes at two rates."""
    return 2 * WORK.macs / (tflops * 1e12) + WORK.bytes / (gb_per_s * 1e9)


def test_a_gpu_that_somebody_published_has_its_own_rates():
    made = predict(CASE, WORK, A100, [], KNOWN)
    assert (made.basis, made.interval) == ("published", ENDS)
    assert made.seconds == pytest.approx(seconds(156, 2039 / 2))
    assert "uncertain" not in made.why
    looked_at = [KNOWN[0]._replace(rows=20, uncertain=19)]
    assert "(19 of 20 rows uncertain)" in predict(CASE, WORK, A100, [], looked_at).why
    assert "as a100 (19 of 20 rows uncertain) reach" in predict(CASE, WORK, T4, [], looked_at).why


def test_another_reaches_the_same_shares_of_its_datasheet():
    made = predict(CASE, WORK, T4, [], KNOWN)
    assert made.basis == "scaled"
    assert "50 % of the datasheet's TFLOP/s and 50 % of its GB/s, as a100" in made.why
    assert made.interval == pytest.approx((0.8 / 1.3, 1.25 * 1.3))  # GPUs are apart
    assert made.seconds == pytest.approx(seconds(65 / 2, 320 / 2))


def test_no_gpu_is_predicted_to_exceed_its_peak():
    beyond = [Rates("a100", "fp16", "eager", "", 400.0, 2039 / 2, ENDS)]
    made = predict(CASE, WORK, T4, [], beyond)
    assert "100 % of the datasheet's TFLOP/s" in made.why
    assert made.seconds == pytest.approx(seconds(65, 320 / 2))


def test_the_interval_of_scaled_rates_is_wider_by_what_lies_between_two_gpus():
    known = [*KNOWN, Rates("h100", "fp16", "eager", "", 989.4 / 2, 3350 / 4, ENDS)]
    made = predict(CASE, WORK, T4, [], known)
    assert made.interval == pytest.approx((0.8 / 2, 1.25 * 2), rel=0.01)  # a half of the GB/s, and a quarter
    assert made.model.rates["bytes"] == pytest.approx(320 / 8**0.5, rel=0.01)


def test_a_case_that_was_measured_on_another_gpu_is_carried_over_by_one_factor():
    # where the T4's rates say 4, 6 and 5 times as long as was measured, the factor is 5
    slow = seconds(65 / 2, 320 / 2)
    rows = [Timed(name, "net", WORK, slow / times) for name, times in (("a", 4), ("b", 6), (str(CASE), 5))]
    made = predict(CASE, WORK, T4, [Campaign("h200", "fp16", rows=rows)], KNOWN)
    assert made.basis == "carried" and "measured on h200 here, times 5.000" in made.why
    assert made.seconds == pytest.approx(5 * slow / 5)
    rows[2] = Timed(str(CASE), "net", WORK, slow / 10)  # twice as fast as the rates say, and so it stays
    made = predict(CASE, WORK, T4, [Campaign("h200", "fp16", rows=rows)], KNOWN)
    assert made.seconds == pytest.approx(6 * slow / 10)
    rows[2] = Timed(str(CASE), "net", WORK, slow / 5, ("of one visit",))
    made = predict(CASE, WORK, T4, [Campaign("h200", "fp16", rows=rows)], KNOWN)
    assert "measured on h200 here (of one visit), times" in made.why
    assert "the median of 3 cases (1 of one visit), of which" in made.why


def test_ones_own_rows_of_the_gpu_come_first():
    rows = [Timed(f"{n}", f"{n % 4}", Work(1e9 * (1 + n % 5), 1e8 * (1 + n % 3)), 0.0) for n in range(12)]
    rows = [
        Timed(r.name, r.family, r.work, r.work.macs / 10e12 + r.work.bytes / 100e9) for r in rows
    ]  # 20 TFLOP/s
    made = predict(CASE, WORK, A100, [Campaign("a100", "fp16", rows=rows)], KNOWN)
    assert made.basis == "measured" and made.why == "12 rows that were measured on it here"
    assert made.seconds == pytest.approx(seconds(20, 100), rel=0.01)
    rows[:2] = [replace(row, doubts=("launch-bound",)) for row in rows[:2]]
    made = predict(CASE, WORK, A100, [Campaign("a100", "fp16", rows=rows)], KNOWN)
    assert made.why == "12 rows that were measured on it here (2 launch-bound)"


def test_a_cpu_carries_nothing_over():
    rows = [Timed(str(CASE), "net", WORK, 1.0)]
    assert predict(CASE, WORK, T4, [Campaign("cpu", "fp16", rows=rows)], KNOWN).basis == "scaled"


@pytest.mark.parametrize(
    ("case", "why"),
    [("restv2_tiny:b8:bf16", "says no bf16"), ("restv2_tiny:b8:fp32", "no speeds in fp32, eager, nchw")],
)
def test_what_nothing_is_known_of_is_wrong_usage(case, why):
    with pytest.raises(UsageError, match=why):
        predict(parse(case), WORK, profiles()["v100"], [], KNOWN)


@pytest.mark.parametrize("gpu", ["a100", "h100"])  # published, and scaled
def test_bf16_is_predicted_from_fp16_and_says_so(gpu):
    made = predict(parse("restv2_tiny:b8:bf16").resolve(8, "bf16"), WORK, profiles()[gpu], [], KNOWN)
    assert made.why.endswith("; the rates are those of fp16: rates.csv is read for none of bf16")
    assert "the rates are those" not in predict(CASE, WORK, profiles()[gpu], [], KNOWN).why


def test_a_small_batch_is_told_of_its_launches():
    work = WORK._replace(launches=255)
    made = predict(CASE, work, A100, [], KNOWN)
    text = "\n".join(prediction.lines(CASE, work, A100, made))
    assert "predicted" in text.splitlines()[0] and "2,040 launches at about 5 µs each" in text


def test_a_rate_without_bound_is_no_number_in_a_record():
    # the more MACs the faster: of one's own rows of such a GPU the bytes alone tell
    works = [Work(1e9 * (n % 3), 1e8 * (1 + n % 4)) for n in range(12)]
    rows = [
        Timed(f"{n}", f"{n % 4}", work, work.bytes / 100e9 - work.macs * 1e-14)
        for n, work in enumerate(works)
    ]
    made = predict(CASE, WORK, A100, [Campaign("a100", "fp16", rows=rows)], KNOWN)
    assert made.seconds == pytest.approx(WORK.bytes / 100e9, rel=0.05)
    record = prediction.record(CASE, WORK, A100, made)
    assert record["tflops"] is None and record["gb_per_s"] == pytest.approx(100, rel=0.05)
    assert "no time for macs" in "\n".join(prediction.lines(CASE, WORK, A100, made))


@needs_folder
@pytest.mark.parametrize("device", ["rtx3090", "rtx4090"])
def test_a_gpu_is_predicted_from_the_rates_of_the_other(device):
    """The interval has nine in ten of timm's rows for a GPU of which no speed was used; the factor is 5 to 7 % off."""
    campaigns = speeds.read(FOLDER / "timm_published.csv.gz")
    here, other = (
        next(
            each
            for each in campaigns
            if (each.device, each.way, each.about) == (name, "eager", "amp nchw torch 2.4")
        )
        for name in (device, {"rtx3090": "rtx4090", "rtx4090": "rtx3090"}[device])
    )
    known = [rates for rates in prediction.published() if rates.device != device]
    case = parse("timm:resnet50@224:b64:fp16")
    held = [
        made.interval.holds(row.seconds / made.seconds)
        for row in here.rows
        for made in [predict(case, row.work, profiles()[device], [], known)]
    ]
    assert sum(held) / len(held) >= 0.85
    before = {row.name: row.seconds for row in other.rows}
    ratios = sorted(row.seconds / before[row.name] for row in here.rows if row.name in before)
    factor = ratios[len(ratios) // 2]
    off = sorted(abs(factor / ratio - 1) for ratio in ratios)
    assert off[len(off) // 2] < 0.07
