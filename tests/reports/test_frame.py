"""Frames and CSV files: types, gaps, and that both hold the same digits."""

import pytest

from bench.errors import UsageError
from reports import columns, frame, printed
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import csv_of, lines_of, results_of, shown_of, tables_of

RESTV2_T = "restv2_tiny@224:b1:fp32:eager"


def table1(results):
    return tables_of(results, "table1")[0]


def test_csv_has_one_row_a_case_with_raw_numbers(cpu):
    lines = csv_of(cpu, "table1.csv")
    wanted = """case title source family height width parameters macs convention paper_macs paper_parameters
        images_per_s images_per_s_low images_per_s_high paper_images_per_s batch dtype impl peak_memory_bytes
        outcome reason"""
    assert set(wanted.split()) <= set(lines[0])
    tiny = next(line for line in lines if line["case"] == RESTV2_T)
    assert (tiny["parameters"], tiny["paper_macs"], tiny["paper_images_per_s"]) == (
        "30434800",
        "4100000000",
        "826.0",
    )
    assert float(tiny["images_per_s_low"]) < float(tiny["images_per_s"]) < float(tiny["images_per_s_high"])


def test_the_frame_has_whole_numbers_real_numbers_and_text(partial):
    data = frame.frame(partial, "table1")
    assert list(data["title"]) == [line.title for line in lines_of(partial, "table1")]
    kinds = {str(kind): sorted(data.columns[data.dtypes == kind]) for kind in set(data.dtypes)}
    assert set(kinds) == {"Int64", "float64", "object"}
    assert kinds["float64"] == [
        *("backbone_s", "decoder_s", "device_share", "fpn_s", "heads_s"),
        *("images_per_s", "images_per_s_high", "images_per_s_low", "joules_per_image"),
        *("paper_ap_box", "paper_ap_mask", "paper_images_per_s", "paper_miou", "paper_top1"),
        *("rpn_s", "seconds", "share_of_peak", "times_here", "times_inference", "times_paper"),
    ]
    assert {"parameters", "macs", "core_macs", "paper_macs", "batch", "peak_memory_bytes"} < set(
        kinds["Int64"]
    )
    untried = data[data["outcome"] == "missing"]
    assert len(untried) == 3
    assert untried["images_per_s"].isna().all() and untried["when"].isna().all()
    uncounted = data[data["case"].str.startswith("swin_small@224")]
    assert uncounted["macs"].isna().all() and list(uncounted["macs_verdict"]) == [None]
    known = data.dropna(subset=["images_per_s", "core_macs"])
    rates = known["core_macs"] * known["images_per_s"]
    assert list(rates) == [line.macs_per_s.value for line in lines_of(partial, "table1") if line.macs_per_s]


def test_the_csv_is_the_frame_to_the_last_digit(partial):
    data = frame.frame(partial, "table1")
    rows = csv_of(partial, "table1.csv")
    assert list(rows[0]) == list(data.columns) == list(columns.CSV)
    for row, line in zip(rows, lines_of(partial, "table1"), strict=True):
        values = {name: columns.COLUMNS[name].raw(line) for name in columns.CSV}
        assert row == {name: "" if value is None else str(value) for name, value in values.items()}
    assert rows[-1]["peak_memory_bytes"] == "150000000000"  # beside rows that have none


def test_the_frame_of_the_sweep_has_its_gaps_and_the_csv_leaves_them_out(partial):
    data = frame.frame(partial, "sweep")
    assert len(data) == len(lines_of(partial, "sweep")) > len(shown_of(partial, "sweep")) > 0
    tried = list(data[data["outcome"] != "missing"]["case"])
    assert [row["case"] for row in csv_of(partial, "sweep.csv")] == tried
    assert len(tried) == len(shown_of(partial, "sweep"))


def test_a_frame_without_a_single_number_keeps_its_types(tmp_path):
    data = frame.frame(results_of(tmp_path, [synthetic.count_row("restv2_tiny@224")]), "table1")
    assert len(data) == 24
    assert {name: str(data[name].dtype) for name in data} == {
        name: columns.COLUMNS[name].form.dtype for name in columns.CSV
    }


def test_a_frame_of_no_study_is_wrong_usage(cpu):
    with pytest.raises(UsageError, match="did you mean 'table1'"):
        frame.frame(cpu, "tabel1")
    with pytest.raises(UsageError, match="figure3 times nothing"):
        frame.frame(cpu, "figure3")


def test_the_frame_has_every_printed_row(everything):
    data = frame.frame(everything, "table2")
    assert list(data["source"].unique()) == [f"Table 2({part})" for part in "abcd"]
    assert list(data["title"]) == [row.name for row in printed.rows("table2")]
    assert data["paper_top1"][0] == 79.04
    assert data["paper_macs"].isna().sum() == 9  # parts (a) and (d)
    remarks = data["parameters_remark"].dropna()
    assert len(remarks) == 5 and remarks.str.startswith("NO MATCH: ").all()
    # synthetic pairs have the ratios of the synthetic times
    ratio = data["times_here"] * data["images_per_s"][3]
    assert list(ratio) == pytest.approx(list(data["images_per_s"]), rel=0.03)
