"""The common parts of chapters: captions, settings, notes, the table of pairs, gaps in tables and CSV files."""

import pytest

from bench.cases import parse
from bench.studies import TABLE1
from reports import frame
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import (
    all_tables,
    cell,
    column,
    csv_of,
    lines_of,
    not_measured,
    results_of,
    row_where,
    rows_where,
    table_of,
    tables_of,
)


def line_of(results, text):
    return next(line for line in lines_of(results, "table1") if line.case == parse(text))


def table1(results):
    return tables_of(results, "table1")[0]


def table_names(results):
    return [table.name for table in all_tables(results)]


def test_failed_and_missing_rows_have_no_speed_but_a_reason(tmp_path):
    rows = synthetic.study_rows()
    rows_where(rows, "throughput", "swin_tiny@224")[0].update(
        outcome="failed", reason="no compiler", result=None
    )
    rows.remove(rows_where(rows, "throughput", "regnety_4g@224")[0])
    rows.remove(rows_where(rows, "macs", "convnext_tiny@224")[0])
    results = results_of(tmp_path, rows)
    table = table1(results)
    assert [cell(table, i, "images/s here") for i in (0, 2)] == ["missing", "failed"]
    assert "Swin-T: failed: no compiler" in table.notes
    assert "RegNetY-4G: not measured yet" in table.notes
    assert "ConvNeXt-T: not counted yet" in table.notes
    lines = csv_of(results, "table1.csv")
    assert [(line["images_per_s"], line["outcome"], line["reason"]) for line in (lines[0], lines[2])] == [
        ("", "missing", "not measured yet"),
        ("", "failed", "no compiler"),
    ]
    assert (lines[1]["macs"], lines[1]["paper_macs"]) == ("", "4500000000")
    reasons = [row[2].text for row in not_measured(results).rows]
    assert sorted(reasons) == ["no compiler", "not measured yet"]


def test_a_halved_batch_discarded_samples_and_another_protocol_are_said(tmp_path):
    rows = synthetic.study_rows(kind="cuda")
    first, second, third = (rows_where(rows, "throughput", text)[0] for text in TABLE1[:3])
    first["result"].update(batch=32, batch_requested=64)
    second["result"]["discarded"] = 3
    third["protocol"] = {"name": "paper"}
    third["result"]["statistic"] = "mean"
    third["result"]["samples_s"] = [0.01]
    table = table1(results_of(tmp_path, rows))
    assert cell(table, 0, "batch") == "32"
    assert "RegNetY-4G: batch 32 instead of 64" in table.notes
    assert any(note.startswith("ConvNeXt-T: some samples were discarded") for note in table.notes)
    assert "Swin-T: measured under protocol paper, not default" in table.notes
    assert "Swin-T: no interval: mean of 1 samples" in table.notes


def test_a_cpu_is_called_one_and_a_gpu_by_its_name(cpu, tmp_path):
    assert "not run on a GPU" in table1(cpu).setting
    gpu = results_of(tmp_path, synthetic.study_rows(kind="cuda"))
    assert "not run on a GPU" not in table1(gpu).setting
    assert "SYNTHETIC H200" in table1(gpu).setting
    assert line_of(gpu, "restv2_tiny@224").share_of_peak is not None


MHIM = ("restv2_lite[mhim]@224", "restv2_lite@224")


def test_a_parameter_count_without_a_match_and_without_a_note_is_told_too(tmp_path):
    rows = synthetic.study_rows("table7")
    row_where(rows, "macs", "restv2_lite@224")["result"]["parameters"] = 10_675_000
    table = table_of(results_of(tmp_path, *rows), "table7")
    assert column(table, "params verdict")[0] == "NO MATCH"
    assert "ResTv2-Lite: NO MATCH: 10.66 M parameters are printed, 10.68 M counted" in table.notes


def test_what_the_paper_prints_is_compared_as_time(everything):
    """945 / 926 and 826 / 792, of Table 7."""
    table = table_of(everything, "table7_pairs")
    assert column(table, "time × paper") == ["1.021", "1.043"]
    assert column(table, "first") == ["ResTv2-Lite + MHIM", "ResTv2-Tiny + MHIM"]
    assert column(table, "second") == ["ResTv2-Lite", "ResTv2-Tiny"]


def test_failed_and_missing_comparisons_are_told(tmp_path):
    failed = synthetic.compare_row(*MHIM, 1.0, study="table7")
    failed.update(outcome="failed", reason="out of memory", result=None)
    results = results_of(tmp_path, *synthetic.study_rows("table7")[:-3], failed)
    table = table_of(results, "table7_pairs")
    assert column(table, "time × here") == ["failed", "missing"]
    assert table.notes == [
        "ResTv2-Lite + MHIM beside ResTv2-Lite: failed: out of memory",
        "ResTv2-Tiny + MHIM beside ResTv2-Tiny: not measured yet",
    ]
    reasons = {row[0].text: row[2].text for row in not_measured(results).rows}
    assert reasons == {
        "restv2_lite[mhim]@224:b1:fp32:eager / restv2_lite@224:b1:fp32:eager": "out of memory",
        "restv2_tiny[mhim]@224:eager / restv2_tiny@224:eager": "not measured yet",
    }
    data = frame.pairs_frame(results, "table7")
    assert list(data["outcome"]) == ["failed", "missing"]
    assert data["ratio"].isna().all()
    assert list(data["paper_ratio"]) == pytest.approx([945 / 926, 826 / 792])


def test_the_csv_of_comparisons_has_raw_numbers(everything):
    rows = csv_of(everything, "table7_pairs.csv")
    assert [row["first"] for row in rows] == [
        "restv2_lite[mhim]@224:b1:fp32:eager",
        "restv2_tiny[mhim]@224:b1:fp32:eager",
    ]
    assert all(float(row["ratio_low"]) < float(row["ratio"]) < float(row["ratio_high"]) for row in rows)
    assert [row["verdict"] for row in rows] == ["slower", "slower"]


def test_a_quick_table_and_its_csv_leave_what_was_not_run_missing(tmp_path):
    rows = [row for row in synthetic.study_rows("table2") if "pe=" not in row["case"]]
    results = results_of(tmp_path, *rows)
    assert [row["outcome"] for row in csv_of(results, "table2.csv")] == [
        *["ok"] * 13,
        *["missing"] * 4,
        "ok",
    ]
    missing = [row[0].text for row in not_measured(results).rows]
    cases = [f"restv2_tiny[pe={pe}]@224:eager" for pe in ("none", "ape", "rpe", "peg")]
    assert missing == [*cases, *(f"{case} / restv2_tiny@224:eager" for case in cases)]
