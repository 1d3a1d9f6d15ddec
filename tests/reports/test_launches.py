"""Times of the CPU's launches are known as such, and no rate of computing is made of them; the rows are synthetic."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import answers, describe, visits
from bench.cases import parse
from reports.chapters import classifiers
from reports.chapters.kernels import problems
from reports.results import Results
from reports.switches import Switch, switches
from tests.support import synthetic_rows as synthetic
from tests.support.json_schema import SCHEMA, faults
from tests.support.reporting import lines_of, pairs_of, plot_of, results_of, rows_where, table_of, told_of

CASE = "regnety_8g@224"


def timed(rows: list[dict[str, Any]], text: str) -> dict[str, Any]:
    (row,) = rows_where(rows, "throughput", text)
    return row


def with_share(rows: list[dict[str, Any]], share: float | None, text: str = CASE) -> list[dict[str, Any]]:
    timed(rows, text)["result"]["device_share"] = share
    return rows


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    rows = synthetic.study_rows("table1", "cuda")
    for row in rows:
        if row["harness"] == "throughput":
            row["result"]["device_share"] = 0.98
    return rows


def test_the_note_says_how_much_was_waited_for_and_what_to_do():
    row = with_share([synthetic.throughput_row(CASE, 64, "fp16")], 0.62)[0]
    (note,) = visits.notes(row)
    assert note == (
        "launch-bound: the GPU computed 62 % of the time, and waited for the CPU's launches for the rest; with [graph] "
        "or a larger batch it waits less"
    )
    assert note in describe.throughput(row)
    record = answers.record_of(row)
    assert record["notes"] == [note] and record["device_share"] == 0.62
    document = json.loads(json.dumps(answers.document("measure", [record])))
    assert list(faults(document, SCHEMA)) == []


@pytest.mark.parametrize("share", [0.9, 1.0, None])
def test_a_gpu_that_computed_all_the_time_is_not_noted(share):
    assert visits.notes(with_share([synthetic.throughput_row(CASE)], share)[0]) == []


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("restv2_tiny@224:b8:fp32:train", "; a larger batch waits less"),
        ("restv2_tiny[head=mask_rcnn]@800x1280:b1:fp16", "; a larger batch waits less"),
        ("restv2_tiny[graph]@224:b1:fp16", "launches for the rest"),
    ],
)
def test_a_graph_is_not_advised_where_there_is_none(text, advice):
    row = synthetic.throughput_row(text)
    row["result"]["device_share"] = 0.5
    assert visits.notes(row)[0].endswith(advice)


def test_visits_have_one_share_and_one_note(tmp_path, rows):
    whole = timed(with_share(rows, 0.5), CASE)
    parts = synthetic.visits_of(whole)
    for part, share in zip(parts, (0.5, 0.6, 0.7, 0.8, 0.95), strict=True):
        part["result"] = {**part["result"], "device_share": share, "joules_per_image": 2 * share}
    joined = visits.join(parts)
    assert joined["result"]["device_share"] == 0.7
    assert joined["result"]["joules_per_image"] == 1.4
    assert sum("launch-bound" in note for note in visits.notes(joined)) == 1


def test_no_rate_of_computing_is_given(tmp_path, rows):
    results = results_of(tmp_path, with_share(rows, 0.62))
    line = next(line for line in lines_of(results, "table1") if line.case == parse(CASE))
    assert line.images_per_s and line.device_share == 0.62
    assert line.macs_per_s is None and line.share_of_peak is None
    table = table_of(results, "table1")
    place = [row[0].text for row in table.rows].index("RegNetY-8G")
    shown = dict(zip(table.headers, (cell.text for cell in table.rows[place]), strict=True))
    assert shown["GMAC/s here"] == shown["share of peak"] == "launch-bound"
    assert shown["GPU computed"] == "62 %"
    assert any(note.startswith("RegNetY-8G: launch-bound: the GPU computed 62 %") for note in table.notes)
    lines = lines_of(results, "table1")
    assert line not in classifiers.compared(lines)
    assert len(classifiers.compared(lines)) == len(lines) - 1
    plot = plot_of(results, "table1", "throughput_against_macs")
    assert plot and f"of {len(lines) - 1} models" in plot.alt


def test_a_cpu_has_no_such_column(cpu):
    assert not {"GPU computed", "mJ / image"} & set(table_of(cpu, "table1").headers)


def test_the_headline_leaves_a_pair_out_of_whose_time_launches_are(tmp_path, rows):
    (compared,) = [row for row in rows if "regnety_8g" in row["case"] and "/ restv2_small" in row["case"]]
    compared["result"]["blocks"] = [[0.5 + 0.001 * n, 1.0, 1.0, 0.5] for n in range(15)]
    pairs = pairs_of(results_of(tmp_path / "all", rows), "table1")
    first = classifiers.largest_inversion(pairs)
    assert first and (first.more.name, first.less.name) == ("RegNetY-8G", "ResTv2-S")
    compared["result"]["device_share"] = [0.97, 0.41]
    pairs = pairs_of(results_of(tmp_path / "bound", rows), "table1")
    then = classifiers.largest_inversion(pairs)
    assert then is None or then.more.name != "RegNetY-8G"
    (bound,) = [pair.comparison for pair in pairs if pair.comparison and pair.is_launch_bound]
    assert f"{bound.other}: launch-bound: the GPU computed 41 %" in "".join(bound.notes)


def bilinear(results: Results) -> Switch:
    """The switch of Table 2 that upsamples bilinearly."""
    shown = switches(lines_of(results, "table2"))
    return next(switch for switch in shown if "bilinear" in str(switch.line.case))


def test_a_switch_says_nothing_of_time_and_macs_where_launches_were_timed(tmp_path):
    rows = synthetic.study_rows("table2", "cuda")
    assert bilinear(results_of(tmp_path / "1", rows)).beyond_macs(12) > 1.1
    (compared,) = [row for row in rows if row["harness"] == "compare" and "bilinear" in row["case"]]
    compared["result"]["device_share"] = [0.7, 0.7]
    assert bilinear(results_of(tmp_path / "2", rows)).beyond_macs(12) == 1.0


def test_a_core_has_no_share_of_the_roof(tmp_path):
    text = "core_tiny[graph,stage=1]@224:b8:fp16:fused"
    rows = [
        row
        for row in synthetic.study_rows("kernels", "cuda")
        if "stage=1]@224:b8" in row["case"] or row["harness"] == "macs"
    ]
    with_share(rows, 0.3, text)
    told = told_of(results_of(tmp_path, rows), "kernels")
    (problem,) = [problem for problem in problems(told) if problem.case == parse("core_tiny[stage=1]@224:b8")]
    assert problem.seconds("fused") and problem.share_of_roof("fused") is None
    assert problem.share_of_roof("eager")


@pytest.mark.parametrize("share", [-0.1, 1.5, "half", [0.5, 0.5], True])
def test_a_share_that_is_none_is_a_problem_and_no_crash(tmp_path, rows, share):
    results = results_of(tmp_path, with_share(rows, share))
    assert results.problems
    assert [line.outcome for line in lines_of(results, "table1")].count("missing") == 1


def test_a_share_above_the_peak_is_said_with_its_reason(tmp_path, rows):
    row = timed(rows, "regnety_16g@224")
    row["result"]["samples_s"] = [seconds / 300 for seconds in row["result"]["samples_s"]]
    results = results_of(tmp_path, rows)
    line = next(line for line in lines_of(results, "table1") if line.case == parse("regnety_16g@224"))
    assert line.share_of_peak and line.share_of_peak > 1
    (note,) = [note for note in table_of(results, "table1").notes if "of the peak" in note]
    assert note.startswith("RegNetY-16G: ") and note.endswith("fewer products than are counted (Winograd)")


def test_joules_are_a_column_where_they_are_known(tmp_path, rows):
    timed(rows, CASE)["result"]["joules_per_image"] = 0.4567
    table = table_of(results_of(tmp_path, rows), "table1")
    place = table.headers.index("mJ / image")
    cells = {row[0].text: row[place].text for row in table.rows}
    assert cells["RegNetY-8G"] == "457" and cells["ResTv2-T"] == "–"
    assert "mJ / image is what the whole board took" in table.caption
