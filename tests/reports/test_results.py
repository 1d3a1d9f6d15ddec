"""A results folder: which folder, which row, which study is meant, and what is passed over."""

import json
import os
from typing import Any

import pytest

from bench.cases import parse
from bench.errors import UsageError
from reports.chapters import classifiers
from reports.measurements import Timing
from reports.results import load
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import by_hand, files_of, lines_of, page_of, results_of, rows_where, tables_of

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
    stray = synthetic.throughput_row(
        "restv2_tiny@224", 1, "fp32", device=synthetic.H200, study=None, when="2026-11-24T00:00:00+00:00"
    )
    results = results_of(tmp_path, [*rows, again, stray])
    line = line_of(results, "restv2_tiny@224")
    assert (line.batch, line.dtype) == (64, "fp16")
    assert line.images_per_s.value == pytest.approx(5000)
    assert by_hand(results) == [[RESTV2_T]]


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
    assert load(tmp_path, "reference/h200").rows[-1]["when"].startswith("2030")
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
    assert results.ran == ["table1"]
    (tmp_path / "h200" / "table9.jsonl").touch()
    results = load(tmp_path)
    assert results.ran == ["table1", "table9"]
    assert [(line.batch, line.dtype) for line in lines_of(results, "table9")] == [(64, "fp16")] * 4
    assert files_of(results).keys() == {
        *("table1.md", "table1.csv", "table1_pairs.md", "table1_pairs.csv", "table9.md", "table9.csv"),
        *("claims.csv", "audit.csv", "measured.md", "measured.csv"),
    }


def test_a_clock_that_was_set_back_makes_no_later_row_older(tmp_path):
    """In a file the order of the lines decides."""
    first = synthetic.throughput_row("restv2_tiny@224", when="2026-11-24T12:00:00+00:00", **QUICK)
    again = synthetic.throughput_row(
        "restv2_tiny@224", when="2026-11-20T12:00:00+00:00", key="of newer code", **QUICK
    )
    again["result"]["samples_s"] = [2.0] * 10
    results = results_of(tmp_path, first, again)
    assert results.rows == [first, again]
    assert line_of(results, "restv2_tiny@224").images_per_s.value == again["result"]["batch"] / 2.0
    same = {**again, "key": first["key"]}
    assert results_of(tmp_path / "same", first, same).rows == [same]


# ---- code, versions and machines are not mixed in silence


def timed(text="restv2_tiny@224", images_per_s=10.0, **more):
    """A row of that speed under a key of its own; `torch` and `code` say what measured it."""
    torch, code = more.pop("torch", "2.11.0"), more.pop("code", "feedface")
    outcome = more.pop("outcome", "ok")
    row = synthetic.throughput_row(text, **more)
    row.update(outcome=outcome, result=row["result"] if outcome == "ok" else None)
    row["environment"]["versions"]["torch"] = torch
    row["environment"]["source"] |= {"hash": code, "commit": f"{code}00000000"}
    row["key"] = f"{row['key']} {torch} {code} {images_per_s}"
    if row["result"]:
        row["result"]["samples_s"] = [1 / images_per_s] * 10
    return row


QUICK: dict[str, Any] = {"protocol": {"name": "quick"}}


@pytest.mark.parametrize(
    ("older", "newer", "right"),
    [
        ({"code": "0ldc0de0"}, QUICK, 17.19),
        ({"torch": "2.5.1"}, QUICK, 17.19),
        ({"outcome": "failed"}, QUICK, 17.19),
        ({}, QUICK, 171.9),  # a look does not displace a result of the same code
        (
            {},
            {"when": "2020-01-01T00:00:00+00:00"},
            17.19,
        ),  # the clock was set back: the file's order decides
    ],
    ids=["other code", "other torch", "failed", "same code", "clock set back"],
)
def test_the_row_shown_is_the_one_of_the_newest_code_and_versions(tmp_path, older, newer, right):
    rows = [timed(images_per_s=171.9, **older), timed(images_per_s=17.19, **newer)]
    assert line_of(results_of(tmp_path, rows), "restv2_tiny@224").images_per_s.value == pytest.approx(right)


def test_of_rows_with_one_key_the_last_in_the_file_counts_whatever_the_clock_said(tmp_path):
    rows = [
        timed(images_per_s=speed, when=f"20{year}-01-01T00:00:00+00:00") for speed, year in ((1, 30), (2, 20))
    ]
    for row in rows:
        row["key"] = "the same"
    assert line_of(results_of(tmp_path, rows), "restv2_tiny@224").images_per_s.value == pytest.approx(2)


def test_a_damaged_row_does_not_hide_the_good_one_that_it_was_measured_again_for(tmp_path):
    good, damaged = timed(), timed()
    damaged["result"]["samples_s"] = ["fast"]
    results = results_of(tmp_path, [good, damaged])
    assert line_of(results, "restv2_tiny@224").images_per_s.value == pytest.approx(10)
    assert len(results.problems) == 1


def test_rows_of_another_machine_are_left_out_of_this_ones_table_and_counted(tmp_path):
    rows = synthetic.study_rows()
    other = {**synthetic.CPU, "name": "ANOTHER CPU", "uuid": "CPU-another"}
    for row in [row for row in rows if row["harness"] == "throughput"][:13]:
        row["device"] = other
    results = results_of(tmp_path, rows)
    assert sum(line.outcome == "ok" for line in lines_of(results, "table1")) == 24 - 13
    assert results.problems == [
        "13 rows were measured on another device, ANOTHER CPU (CPU-another): left out"
    ]
    assert "ANOTHER CPU (CPU-another): left out" in page_of(results, drawn=False)


def test_what_shards_measured_on_devices_of_one_type_is_one_table(tmp_path):
    rows = synthetic.study_rows(kind="cuda")
    timed_rows = [row for row in rows if row["harness"] == "throughput"]
    for number, row in enumerate(timed_rows):
        row["device"] = {**row["device"], "uuid": f"GPU-{number % 3}"}
        row["shard"] = f"{number % 3 + 1}/3"
    assert results_of(tmp_path / "shards", rows).problems == []
    timed_rows[0]["device"]["memory_gib"] = 70.0  # of another type
    (problem,) = results_of(tmp_path / "types", rows).problems
    assert problem == "1 row was measured on another device, SYNTHETIC H200 (GPU-0): left out"


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"torch": "2.5.1"}, "measured with torch 2.5.1, not 2.11.0"),
        ({"code": "0ldc0de0"}, "measured by other code (commit 0ldc0de00000)"),
    ],
    ids=["versions", "code"],
)
def test_rows_of_other_code_or_versions_are_named_and_no_claim_rests_on_them(tmp_path, change, note):
    rows = synthetic.study_rows()
    old = timed("restv2_tiny@224", 1000.0, **change)  # so fast that the headline would be about it
    rows = [old, *(row for row in rows if row["case"] != old["case"] or row["harness"] == "macs")]
    results = results_of(tmp_path, rows)
    assert f"ResTv2-T: {note}" in table1(results).notes
    assert not [other for other in table1(results).notes if note in other and "ResTv2-T:" not in other]
    assert "ResTv2-T " not in f"{classifiers.title_of(lines_of(results, 'table1'))} "


def test_a_users_own_files_are_no_other_code():
    rows = [timed(code="0wn00001"), timed()]
    rows[0]["case"] = "nets:Net@224:b1:fp32:eager"
    for row in rows:
        row["environment"]["source"]["commit"] = "0123456789ab"
    one, other = (Timing(parse(row["case"]), row) for row in rows)
    assert one.unlike(other) == []
