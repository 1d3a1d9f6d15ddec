"""Speeds of others and of our own, read as they are."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from bench import speeds
from bench.counted import counted
from bench.errors import UsageError
from tests.support import synthetic_rows as synthetic
from tests.support.published import FOLDER, needs_folder

HARNESSES = ("throughput", "macs")
ROOT = Path(__file__).resolve().parents[2]
# The columns of a file of timm's, as it is published
INFER = ",".join(
    f"infer_{name}" for name in ["samples_per_sec", "step_time", "batch_size", "img_size", "gmacs", "macts"]
)
TIMM = f"""model,{INFER},param_count
resnet18,9000.5,113.8,1024,224,1.82,2.48,11.69
no_such_net,9000.5,113.8,1024,224,1.82,2.48,11.69
resnet50,,,1024,224,4.11,11.11,25.56
"""
NAME = "benchmark-infer-amp-nhwc-pt240-cu124-rtx3090.csv"


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_file_of_timms_is_read_as_it_is_with_what_its_name_says(tmp_path, ending):
    path = tmp_path / (NAME + ending)
    path.write_bytes(gzip.compress(TIMM.encode()) if ending else TIMM.encode())
    (campaign,) = speeds.read(path)
    assert (campaign.device, campaign.dtype, campaign.way) == ("rtx3090", "fp16", "eager")
    assert campaign.about == "amp nhwc torch 2.4"
    (row,) = campaign.rows
    assert (row.name, row.family, row.seconds) == ("resnet18@224", "resnet", 1 / 9000.5)
    assert row.work == counted()["timm:resnet18@224"].work("fp16", 1024, is_autocast=True)
    assert dict(campaign.left) == {
        "no_such_net@224": "not in counted.csv",
        "resnet50": "no speed, batch or size",
    }


@pytest.mark.parametrize(
    ("name", "device", "dtype", "way", "about"),
    [
        (
            "benchmark-infer-amp-nchw-pt240-cu124-rtx4090-dynamo.csv",
            "rtx4090",
            "fp16",
            "compile",
            "amp nchw torch 2.4",
        ),
        (
            "benchmark-infer-fp32-nchw-pt221-cpu-i9_10940x-dynamo.csv",
            "i9_10940x",
            "fp32",
            "compile",
            "nchw torch 2.2",
        ),
        ("my-own.csv", "unknown", "fp32", "eager", ""),
    ],
)
def test_the_name_of_a_file_says_on_what_and_how(tmp_path, name, device, dtype, way, about):
    (tmp_path / name).write_text(TIMM)
    (campaign,) = speeds.read(tmp_path / name)
    assert (campaign.device, campaign.dtype, campaign.way, campaign.about) == (device, dtype, way, about)


def test_the_papers_table_is_of_a_v100_in_fp32_at_batch_64():
    (campaign,) = speeds.read(ROOT / "reports" / "paper" / "table1.csv")
    assert (campaign.device, campaign.dtype, len(campaign.rows), campaign.left) == ("v100", "fp32", 24, [])
    swin = next(row for row in campaign.rows if row.name == "swin_tiny@224")
    assert (swin.seconds, swin.family) == (1 / 755, "Swin")
    assert swin.work.calls == 1 / 64


def test_our_own_rows_are_joined_with_the_counts_beside_them():
    rows = synthetic.study_rows("table7")
    campaigns = speeds.of_rows(rows)
    timed = [row for row in rows if row["harness"] == "throughput"]
    (campaign,) = campaigns
    assert {row.name for row in campaign.rows} <= {row["case"] for row in timed}
    assert len(campaign.rows) + len(campaign.left) == len({row["case"] for row in timed})
    for row in campaign.rows:
        assert row.family in ("ResTv2", "ResTv1") and row.work.macs > 1e9 and row.work.bytes > 1e6


def visits_to(text: str, *seconds: float, share: float | None = None, n: int = 15) -> list[dict]:
    """A row a visit, each of which took so long."""
    protocol = {"name": "default" if len(seconds) > 1 else "quick", "visits": len(seconds)}
    rows = []
    for visit, each in enumerate(seconds):
        result = {**synthetic.timing_result(each, n=n), "device_share": share}
        row = {**synthetic.throughput_row(text), "result": result}
        rows.append({**row, "key": f"{text}-{visit}", "group": text, "visit": visit, "protocol": protocol})
    return rows


def test_a_row_without_an_interval_is_left_out_and_what_makes_others_uncertain_is_counted():
    """The paper's tables and timm's have no intervals at all: of those nothing is counted."""
    sound, wide, unsteady, quick, few, launched = ["tiny", "small", "base", "large", "lite", "tiny[mhim]"]
    rows = [
        *visits_to(f"restv2_{sound}@224", 1.0, 1.01, 0.99, 1.0),
        *visits_to(f"restv2_{wide}@224", 1.0, 1.3, 0.9, 1.1),
        *visits_to(f"restv2_{unsteady}@224", 1.0, 1.5, 2.0, 2.5),  # each slower than the one before
        *visits_to(f"restv2_{quick}@224", 1.0),
        *visits_to(f"restv2_{few}@224", 1.0, n=3),
        *visits_to(f"restv2_{launched}@224", 1.0, 1.01, 0.99, 1.0, share=0.5),
    ]
    (campaign,) = speeds.of_rows(rows)
    assert {row.name.split("@")[0].removeprefix("restv2_"): row.doubts for row in campaign.rows} == {
        sound: (),
        wide: ("with an interval wider than ± 10 %",),
        quick: ("of one visit",),
        launched: ("launch-bound",),
    }
    assert {name.split("@")[0]: why for name, why in campaign.left} == {
        f"restv2_{name}": "without an interval" for name in (unsteady, few)
    }
    assert campaign.doubts == "1 of one visit, 1 with an interval wider than ± 10 %, 1 launch-bound"


def test_a_row_without_an_interval_takes_the_place_of_no_other():
    sound, unsteady = (1.0, 1.01, 0.99, 1.0), (1.0, 1.5, 2.0, 2.5)
    for seconds, expected in (
        ([sound, unsteady], 1.0),
        ([unsteady, sound], 1.0),
        ([(3.0,), unsteady], 3.0),  # of one visit
        ([(3.0,), sound, (4.0,)], 1.0),
    ):
        rows = []
        for number, of_visits in enumerate(seconds):
            group = f"group {number}"
            taken = visits_to("restv2_tiny@224", *of_visits)
            rows += [{**row, "group": group, "key": f"{group}-{row['visit']}"} for row in taken]
        (campaign,) = speeds.of_rows(rows)
        (row,) = campaign.rows
        assert row.seconds == pytest.approx(expected, rel=0.02) and campaign.left == []


def test_of_a_case_measured_twice_the_newest_row_counts_and_a_quick_look_only_alone():
    rows = [row for row in synthetic.study_rows(kind="cuda") if row["harness"] == "throughput"][:2]
    times = []
    for number, (row, name) in enumerate([(rows[0], "default"), (rows[0], "quick"), (rows[1], "quick")], 1):
        result = {**row["result"], "samples_s": [float(number)] * 6}
        times.append({**row, "result": result, "protocol": {**row["protocol"], "name": name, "visits": 1}})
    (campaign,) = speeds.of_joined([*times, {**times[0], "outcome": "failed", "result": None}])
    assert sorted(timed.seconds * rows[0]["result"]["batch"] for timed in campaign.rows) == [1.0, 3.0]


def test_a_row_whose_case_is_known_no_more_is_passed_over():
    rows = synthetic.study_rows("table7")
    timed = next(row for row in rows if row["harness"] == "throughput")
    renamed = [{**timed, "key": harness, "harness": harness, "case": "old_name@224"} for harness in HARNESSES]
    assert speeds.of_rows([*rows, *renamed]) == speeds.of_rows(rows)


def test_a_line_of_timms_with_more_fields_than_columns_or_fewer_stops_nothing(tmp_path):
    (tmp_path / NAME).write_text(f"{TIMM}resnet34,5000,1,1024,224,1,1,1,more,fields\nresnet26,5000\n")
    (campaign,) = speeds.read(tmp_path / NAME)
    assert [row.name for row in campaign.rows] == ["resnet18@224"]  # of whose values each has a column
    assert [why for name, why in campaign.left if name in ("resnet34", "resnet26")] == 2 * [
        "no speed, batch or size"
    ]


def test_a_table_of_inference_and_training_has_a_campaign_of_each(tmp_path):
    path = tmp_path / "benchmark-amp-nhwc-rtx3090.csv"
    path.write_text(
        f"model,{INFER},{INFER.replace('infer_', 'train_')}\n"
        "resnet18,9000,1,256,224,1.8,2.5,3000,1,128,224,1.8,2.5\nresnet50,4000,1,256,224,4.1,11,,,,,,\n"
    )
    inference, training = speeds.read(path)
    assert [(row.name, round(1 / row.seconds)) for row in inference.rows] == [
        ("resnet18@224", 9000),
        ("resnet50@224", 4000),
    ]
    assert [(row.name, round(1 / row.seconds)) for row in training.rows] == [("resnet18@224", 3000)]
    assert "training" in training.name and "training" not in inference.name


@pytest.mark.parametrize(
    ("speed", "batch"), [("inf", 1), ("1e300", 1), ("1e-320", 1), ("9", "inf"), ("9", "0.5"), ("9", "nan")]
)
def test_a_number_that_is_none_is_left_out(tmp_path, speed, batch):
    (tmp_path / NAME).write_text(f"model,{INFER}\nresnet18,{speed},1,{batch},224,1,1\n")
    (campaign,) = speeds.read(tmp_path / NAME)
    assert (campaign.rows, campaign.left) == ([], [("resnet18", "no speed, batch or size")])


def test_a_mark_at_the_start_is_no_part_of_a_columns_name(tmp_path):
    (tmp_path / NAME).write_text(TIMM, encoding="utf-8-sig")
    (campaign,) = speeds.read(tmp_path / NAME)
    assert len(campaign.rows) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TIMM.replace("param_count", "infer_step_time").encode(), "column 'infer_step_time' is there twice"),
        (TIMM.encode() + b'resnet34,"50', "is no CSV file: unexpected end"),
        (gzip.compress(TIMM.encode())[:-9], "damaged or cut off"),
    ],
)
def test_a_file_that_would_be_read_as_another_is_refused(tmp_path, content, said):
    path = tmp_path / (NAME + ".gz" * content.startswith(b"\x1f"))
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        speeds.read(path)


@pytest.mark.parametrize(
    "damage",
    [{"result": None}, {"result": {"samples_s": [None]}}, {"visit": []}, {"group": 3}, {"protocol": 3}],
)
def test_a_damaged_row_of_other_hands_is_passed_over(damage):
    rows = synthetic.study_rows("table7")
    timed = next(row for row in rows if row["harness"] == "throughput")
    assert speeds.of_rows([*rows, {**timed, "key": "other", **damage}]) == speeds.of_rows(rows)


@pytest.mark.parametrize("value", ["", "abc", "0", "-1", "inf", "nan"])
def test_a_printed_speed_that_is_none_is_left_out(value):
    lines = [{"case": "swin_tiny@224", "metric": "throughput", "value": value}]
    (campaign,) = speeds.of_paper(lines, "table.csv")
    assert (campaign.rows, campaign.left) == ([], [("swin_tiny@224", "no speed")])


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "model,param_count\nresnet18,11\n"])
def test_what_holds_no_speed_is_wrong_usage(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UsageError, match="no speeds in it"):
        speeds.read(tmp_path / "x.csv")


def test_no_file_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        speeds.read(tmp_path / "x.csv")


@needs_folder
def test_every_published_row_but_a_few_has_its_counts():
    campaigns = speeds.read(FOLDER / "timm_published.csv.gz")
    assert len(campaigns) == 7
    assert sum(len(campaign.rows) + len(campaign.left) for campaign in campaigns) >= 9690
    assert sum(len(campaign.left) for campaign in campaigns) < 10
