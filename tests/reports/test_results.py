"""A results folder: which folder, which row, which study is meant, and what is passed over."""

import json
import os

import pytest

from bench.cases import parse
from bench.errors import UsageError
from reports.results import load
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import elsewhere, files_of, lines_of, results_of, rows_where, tables_of

RESTV2_T = "restv2_tiny@224:b1:fp32:eager"


def line_of(results, text):
    return next(line for line in lines_of(results, "table1") if line.case == parse(text))


def table1(results):
    return tables_of(results, "table1")[0]


def test_the_newest_row_counts_and_a_stray_batch_does_not(tmp_path):
    rows = synthetic.study_rows(kind="cuda")
    again = json.loads(json.dumps(rows_where(rows, "throughput", "restv2_tiny@224")[0]))
    again.update(key="another", when="2026-11-23T00:00:00+00:00")
    again["result"]["samples_s"] = [64 / 5000] * 8
    by_hand = synthetic.throughput_row(
        "restv2_tiny@224", 1, "fp32", device=synthetic.H200, study=None, when="2026-11-24T00:00:00+00:00"
    )
    results = results_of(tmp_path, [*rows, again, by_hand])
    line = line_of(results, "restv2_tiny@224")
    assert (line.batch, line.dtype) == (64, "fp16")
    assert line.images_per_s.value == pytest.approx(5000)
    assert [row[0].text for row in elsewhere(results).rows] == [RESTV2_T]


def test_counts_serve_every_implementation_and_options_are_kept_apart(tmp_path):
    rows = synthetic.study_rows()
    results = results_of(tmp_path, rows)
    assert (counts := results.counted(parse("restv2_tiny@224:sdpa"))) and counts.parameters == 30_434_800
    assert (
        counts := results.counted(parse("restv2_tiny[channels_last]@224"))
    ) and counts.parameters == 30_434_800
    assert results.counted(parse("restv2_tiny[mhim]@224")) is None


def test_broken_and_foreign_rows_are_problems_not_crashes(tmp_path):
    rows = synthetic.study_rows()
    rows_where(rows, "throughput", "swin_tiny@224")[0]["result"] = {}
    rows_where(rows, "throughput", "swin_small@224")[0]["case"] = "swim_small@224"
    rows_where(rows, "macs", "swin_base@224")[0]["result"] = None
    del rows_where(rows, "macs", "restv2_base@224")[0]["result"]["cross_checks"][0]["ours"]
    rows[-1]["result"] = {"tflops": None}
    folder = synthetic.write(tmp_path, rows)
    with (folder / "run.jsonl").open("a") as file:
        file.write('{"half a li\n')
    results = load(tmp_path)
    assert len(results.problems) == 6
    assert any("did you mean" in problem for problem in results.problems)
    assert table1(results).rows


def test_the_folder_of_the_last_run_is_shown_though_its_rows_are_older(tmp_path):
    cpu = synthetic.write(tmp_path, synthetic.study_rows())
    h200 = synthetic.write(tmp_path, synthetic.study_rows(kind="cuda", when="2026-11-23T00:00:00+00:00"))
    synthetic.write(tmp_path, synthetic.study_rows(), name="an_older_run.jsonl")
    for at, file in enumerate((cpu / "an_older_run.jsonl", h200 / "run.jsonl", cpu / "run.jsonl")):
        os.utime(file, ns=(at, at))
    assert load(tmp_path).key == "cpu"
    os.utime(h200 / "run.jsonl")  # as a run does that reused all its rows
    assert load(tmp_path).key == "h200"
    (cpu / "report").mkdir()
    (cpu / "run.torn").touch()  # neither is a measurement
    assert load(tmp_path).key == "h200"
    synthetic.write(tmp_path, [{"device": {"key": "not-a-row"}}])
    assert load(tmp_path).key == "h200"


def test_a_reference_is_shown_if_asked_for_or_if_there_is_nothing_else(tmp_path):
    reference = synthetic.study_rows(kind="cuda", when="2030-01-01T00:00:00+00:00")
    synthetic.write(tmp_path / "reference", reference)
    assert load(tmp_path).key == "reference/h200"
    own = synthetic.write(tmp_path, synthetic.study_rows(kind="cuda"))
    os.utime(own / "run.jsonl", ns=(0, 0))
    assert load(tmp_path).key == "h200"
    assert load(tmp_path, "reference/h200").when.startswith("2030")
    with pytest.raises(UsageError, match="did you mean 'h200'"):
        load(tmp_path, "h20")


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": {"name": "quick"}, "key": "quick"},
        {"device": {**synthetic.CPU, "uuid": "CPU-another"}, "key": "another"},
    ],
    ids=["quick", "another device"],
)
def test_a_newer_quick_look_or_another_device_does_not_displace_a_result(tmp_path, change):
    rows = synthetic.study_rows()
    intruder = synthetic.throughput_row("restv2_tiny@224", when="2026-11-22T12:00:01+00:00", **change)
    intruder["result"]["samples_s"] = [1.0] * 10
    # the newest row of all is the device's own
    last = synthetic.count_row("swin_tiny@224", when="2026-11-22T12:00:02+00:00")
    results = results_of(tmp_path, [*rows, intruder, last])
    assert line_of(results, "restv2_tiny@224").images_per_s.value != 1.0


def test_a_count_made_for_training_is_that_of_the_model(tmp_path):
    """The forward is the same mathematics."""
    row = synthetic.count_row("restv2_tiny@224:train", study="table8")
    results = results_of(tmp_path, row)
    assert (counts := results.counted(parse("restv2_tiny@224"))) and counts.parameters == 30_434_800
    assert results.counted(parse("restv2_tiny[pe=ape]@224")) is None


def test_a_study_whose_rows_were_all_there_is_shown_and_at_their_batch(tmp_path):
    """After `make bench STUDY="table1 table9"` the second run leaves an empty file."""
    table1 = synthetic.study_rows("table1", kind="cuda")
    stray = synthetic.throughput_row(
        "restv2_small@224", 1, "fp32", device=synthetic.H200, study=None, when="2026-11-24T00:00:00+00:00"
    )
    results = results_of(tmp_path, table1=[*table1, stray])
    assert results.shown == ["table1"]
    (tmp_path / "h200" / "table9.jsonl").touch()
    results = load(tmp_path)
    assert results.shown == ["table1", "table9"]
    assert [(line.batch, line.dtype) for line in lines_of(results, "table9")] == [(64, "fp16")] * 4
    assert files_of(results).keys() == {
        *("table1.md", "table1.csv", "table1_pairs.md", "table1_pairs.csv", "table9.md", "table9.csv")
    }
