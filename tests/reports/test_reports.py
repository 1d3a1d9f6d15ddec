"""Reports from synthetic rows: what they show comes from rows and the paper's CSV; the page stands alone."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from reports.table import Cell, Table
from rich.console import Console

from bench.cases import parse
from bench.errors import Failure, UsageError
from bench.studies import TABLE1
from reports import __main__ as command
from reports import (
    drawing,
    finding,
    frame,
    labels,
    measured,
    page,
    plots,
    printed,
    render,
    scatter,
    study_tables,
    tables,
)
from reports.lines import shown_lines, study_lines
from reports.printed import Printed
from tests.support import synthetic_rows as synthetic

ROOT = Path(__file__).resolve().parents[2]
RESTV2_T = "restv2_tiny@224:b1:fp32:eager"


def results_of(root, rows):
    synthetic.write(root, rows)
    return measured.load(root, rows[0]["device"]["key"])


def rows_where(rows, harness, start):
    return [row for row in rows if row["harness"] == harness and row["case"].startswith(start)]


def line_of(results, text):
    return next(line for line in study_lines(results, "table1") if line.case == parse(text))


def table1(results):
    return study_tables.tables_of(results, "table1")[0]


def table_names(results):
    return [table.name for table in study_tables.all_tables(results)]


def cell(table, row, header):
    return table.rows[row][table.headers.index(header)].text


def csv_of(results, name="table1.csv"):
    files = command.table_files(results, study_tables.all_tables(results))
    return list(csv.DictReader(io.StringIO(files[name].decode())))


def run(cwd, *arguments, code="", **environment):
    """`python -m reports` in `cwd`, or `code` instead, in a process of its own."""
    start = ["-c", code] if code else ["-m", "reports", *arguments]
    return subprocess.run(
        [sys.executable, *start],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def cpu(tmp_path_factory):
    return results_of(tmp_path_factory.mktemp("cpu"), synthetic.study_rows())


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Table 1 and the sweep, with everything that can go wrong in a row."""
    root = tmp_path_factory.mktemp("swept")
    rows = synthetic.study_rows() + synthetic.study_rows("sweep")
    rows_where(rows, "throughput", "swin_base@384")[0].update(
        outcome="failed", reason="out of memory <script>alert(1)</script>", result=None
    )
    results = results_of(root, rows)
    results.problems.append("run.jsonl line 7: <script>alert(2)</script>")
    return results


@pytest.fixture(scope="module")
def figures(swept):
    return plots.all_plots(swept)


@pytest.fixture(scope="module")
def html(swept, figures):
    return page.render(swept, figures)


# ---- the paper's numbers


def test_the_papers_csv_has_the_printed_table():
    paper = printed.table("table1")
    assert len(paper) == len(printed.rows("table1")) == 24
    assert {tuple(metrics) for metrics in paper.values()} == {
        ("parameters", "macs", "throughput", "top1", "top5")
    }
    spots = {  # copied from the paper's text, not from the CSV
        "regnety_4g@224": ("21", "4.0", "1156", "79.4", "94.7"),
        "focal_small@224": ("51", "9.4", "192", "83.6", "96.2"),
        "restv1_large[stem=pool]@224": ("52", "7.9", "429", "83.6", "96.3"),
        "restv2_tiny@384": ("30", "12.7", "319", "83.7", "96.6"),
        "swin_base@384": ("88", "47.1", "85", "84.5", "97.0"),
        "restv2_large@384": ("87", "42.4", "141", "85.4", "97.1"),
    }
    assert {case: tuple(number.text for number in paper[case].values()) for case in spots} == spots


def test_the_papers_csv_is_the_papers_text():
    """Every row of the extracted text, where it lies beside the checkout."""
    text = ROOT.parent / "shared" / "paper" / "restv2.txt"
    if not text.exists():
        pytest.skip("the paper's text is not there")
    lines = text.read_text(encoding="utf-8").partition("Table 1:")[2].partition("4.3 Ablation")[0]
    rows = re.findall(r"2?(?:224|384)2 (\d+)M ([\d.]+)G (\d+) ([\d.]+) ([\d.]+)$", lines, re.MULTILINE)
    paper = printed.table("table1")
    assert rows == [tuple(number.text for number in metrics.values()) for metrics in paper.values()]


@pytest.mark.parametrize(
    ("text", "count", "match"),
    [
        ("4.1", 4_097_000_000, True),
        ("4.1", 4_050_000_000, True),
        ("4.1", 4_049_999_999, False),
        ("4.1", 4_150_000_000, False),
        ("45.0", 45_120_000_000, False),
        ("45.0", 45_049_999_999, True),
        ("4.10", 4_097_000_000, True),
        ("4.10", 4_094_000_000, False),
    ],
)
def test_a_count_matches_to_the_printed_precision(text, count, match):
    assert Printed(text, "G", "core", "").matches(count) is match


def test_parameters_match_in_whole_millions():
    assert Printed("30", "M", "", "").matches(30_434_800)
    assert not Printed("30", "M", "", "").matches(30_500_000)


# ---- Table 1


def test_every_row_is_there_in_the_papers_order(cpu):
    table = table1(cpu)
    assert [row[-1].text for row in table.rows] == list(TABLE1)
    names = [cell(table, i, "Model") for i in (0, 3, 4, 5, 23)]
    assert names == ["RegNetY-4G", "Focal-T", "ResTv1-B", "ResTv2-T", "ResTv2-L"]
    macs = ("GMACs paper", "GMACs ours", "counted as", "GMACs verdict")
    assert [[cell(table, i, header) for header in macs] for i in (3, 4, 5)] == [
        ["4.9", "4.90", "closed-form", "MATCH"],
        ["4.3", "4.27", "paper-no-attention", "MATCH"],
        ["4.1", "4.10", "paper", "MATCH"],
    ]
    parameters = ("M params paper", "M params ours", "params verdict")
    assert [cell(table, 5, header) for header in parameters] == ["30", "30.43", "MATCH"]
    assert cell(table, 5, "Top-1 %, printed") == "82.3"
    assert "Top-1 is the paper's: no accuracy is measured here." in table.caption
    assert "All rows: batch 1, fp32." in table.caption


def test_what_is_known_of_a_printed_number_is_told_though_it_matches(cpu):
    line = line_of(cpu, "restv1_base[stem=pool]@224")
    assert line.verdict("macs") == "MATCH"
    note = printed.table("table1")["restv1_base[stem=pool]@224"]["macs"].note
    assert note and line.remark("macs") == note
    assert f"ResTv1-B, ResTv1-L: {note}" in table1(cpu).notes


def test_a_number_that_no_convention_gives_is_no_match_with_its_reason(cpu):
    line = line_of(cpu, "convnext_base@384")
    assert line.verdict("macs") == "NO MATCH"
    assert line.remark("macs") == "NO MATCH: 45.0 G is printed, counted 45.12 in every convention"
    assert f"ConvNeXt-B at 384: {line.remark('macs')}" in table1(cpu).notes
    assert [each.verdict("macs") for each in study_lines(cpu, "table1")].count("NO MATCH") == 1


def test_a_number_that_another_convention_gives_says_which(tmp_path):
    rows = synthetic.study_rows()
    conventions = rows_where(rows, "macs", "swin_tiny@224")[0]["result"]["conventions"]
    for convention in conventions.values():
        convention["macs"] = 4_400_000_000
    conventions["fvcore"]["macs"] = 4_500_000_000
    line = line_of(results_of(tmp_path, rows), "swin_tiny@224")
    assert line.remark("macs") == "4.5 G is printed, which is `fvcore`, not `core`"


def test_the_speed_is_the_samples_median(tmp_path):
    rows = synthetic.study_rows()
    rows_where(rows, "throughput", "restv2_tiny@224")[0]["result"]["samples_s"] = [0.5, 0.25, 1.0]
    results = results_of(tmp_path, rows)
    assert cell(table1(results), 5, "images/s here") == "2.00"
    assert line_of(results, "restv2_tiny@224").images_per_s.value == 2.0


def test_share_of_peak_and_rate_come_from_core_macs(cpu):
    line = line_of(cpu, "restv2_tiny@224")
    speed = line.images_per_s.value
    assert line.macs_per_s.value == pytest.approx(4.083e9 * speed)
    assert line.share_of_peak == pytest.approx(2 * 4.083e9 * speed / 0.15e12)


def test_relative_speeds_have_restv2_t_at_one(cpu):
    table = table1(cpu)
    assert (cell(table, 5, "paper ×"), cell(table, 5, "here ×")) == ("1.00", "1.00")
    assert cell(table, 0, "paper ×") == f"{1156 / 826:.2f}"
    assert "× is speed as a multiple of that of ResTv2-T at 224." in table.caption


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
    lines = csv_of(results)
    assert [(line["images_per_s"], line["outcome"], line["reason"]) for line in (lines[0], lines[2])] == [
        ("", "missing", "not measured yet"),
        ("", "failed", "no compiler"),
    ]
    assert (lines[1]["macs"], lines[1]["paper_macs"]) == ("", "4500000000")
    reasons = [row[2].text for row in tables.not_measured(results).rows]
    assert sorted(reasons) == ["no compiler", "not measured yet"]


def test_a_halved_batch_a_time_cap_and_another_protocol_are_said(tmp_path):
    rows = synthetic.study_rows(kind="cuda")
    first, second, third = (rows_where(rows, "throughput", text)[0] for text in TABLE1[:3])
    first["result"].update(batch=32, batch_requested=64)
    second["result"]["stopped_by"] = "time cap"
    third["protocol"] = {"name": "paper"}
    third["result"]["statistic"] = "mean"
    third["result"]["samples_s"] = [0.01]
    table = table1(results_of(tmp_path, rows))
    assert cell(table, 0, "batch") == "32"
    assert "RegNetY-4G: batch 32 instead of 64" in table.notes
    assert any(note.startswith("ConvNeXt-T: stopped by the time cap") for note in table.notes)
    assert "Swin-T: measured under protocol paper, not default" in table.notes
    assert "Swin-T: mean of 1 samples, no interval" in table.notes


def test_a_cpu_is_called_one_and_a_gpu_by_its_name(cpu, tmp_path):
    assert "not run on a GPU" in table1(cpu).setting
    gpu = results_of(tmp_path, synthetic.study_rows(kind="cuda"))
    assert "not run on a GPU" not in table1(gpu).setting
    assert "SYNTHETIC H200" in table1(gpu).setting
    assert line_of(gpu, "restv2_tiny@224").share_of_peak is not None


def test_a_mig_slice_has_no_share_of_peak(tmp_path):
    device = {**synthetic.H200, "mig": "1g.18gb", "key": "h200-mig-1g.18gb"}
    results = results_of(tmp_path, synthetic.study_rows(kind="cuda", device=device))
    assert line_of(results, "restv2_tiny@224").share_of_peak is None
    assert "MIG slice 1g.18gb" in table1(results).setting


def test_csv_has_one_row_a_case_with_raw_numbers(cpu):
    lines = csv_of(cpu)
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


# ---- the same for machines


@pytest.fixture
def partial(tmp_path):
    """A GPU on which some was measured, some failed, and nobody has tried or counted the rest."""
    rows = synthetic.study_rows(kind="cuda") + synthetic.study_rows("sweep", kind="cuda")[::3]
    for text in ("regnety_8g@224", "restv2_small@384", "convnext_base@384"):
        rows.remove(rows_where(rows, "throughput", text)[0])
    rows.remove(rows_where(rows, "macs", "swin_small@224")[0])
    failed = {"outcome": "failed", "reason": "out of memory, even at batch 1", "result": None}
    rows_where(rows, "throughput", "swin_base@384")[0].update(failed)
    noisy = rows_where(rows, "throughput", "restv2_large@384")[0]["result"]
    noisy.update(samples_s=[0.001, 0.002, 0.003, 0.01, 10, 20, 30], peak_memory_bytes=150_000_000_000)
    return results_of(tmp_path / "results", rows)


def test_the_frame_has_whole_numbers_real_numbers_and_text(partial):
    data = frame.frame(partial, "table1")
    assert list(data["title"]) == [line.title for line in study_lines(partial, "table1")]
    kinds = {str(kind): sorted(data.columns[data.dtypes == kind]) for kind in set(data.dtypes)}
    assert set(kinds) == {"Int64", "float64", "object"}
    assert kinds["float64"] == [
        *("backbone_s", "decoder_s", "fpn_s", "heads_s"),
        *("images_per_s", "images_per_s_high", "images_per_s_low"),
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
    assert list(rates) == [
        line.macs_per_s.value for line in study_lines(partial, "table1") if line.macs_per_s
    ]


def test_the_csv_is_the_frame_to_the_last_digit(partial):
    data = frame.frame(partial, "table1")
    rows = csv_of(partial)
    assert list(rows[0]) == list(data.columns) == list(frame.COLUMNS)
    for row, line in zip(rows, study_lines(partial, "table1"), strict=True):
        values = {name: value(line) for name, (_, value) in frame.COLUMNS.items()}
        assert row == {name: "" if value is None else str(value) for name, value in values.items()}
    assert rows[-1]["peak_memory_bytes"] == "150000000000"  # beside rows that have none


def test_the_frame_of_the_sweep_has_its_gaps_and_the_csv_leaves_them_out(partial):
    data = frame.frame(partial, "sweep")
    assert len(data) == len(study_lines(partial, "sweep")) > len(shown_lines(partial, "sweep")) > 0
    tried = list(data[data["outcome"] != "missing"]["case"])
    assert [row["case"] for row in csv_of(partial, "sweep.csv")] == tried
    assert len(tried) == len(shown_lines(partial, "sweep"))


def test_a_frame_without_a_single_number_keeps_its_types(tmp_path):
    data = frame.frame(results_of(tmp_path, [synthetic.count_row("restv2_tiny@224")]), "table1")
    assert len(data) == 24
    assert {name: str(data[name].dtype) for name in data} == {
        name: dtype for name, (dtype, _) in frame.COLUMNS.items()
    }


def test_a_frame_of_no_study_is_wrong_usage(cpu):
    with pytest.raises(UsageError, match="did you mean 'table1'"):
        frame.frame(cpu, "tabel1")
    with pytest.raises(UsageError, match="figure3 times nothing"):
        frame.frame(cpu, "figure3")


# ---- which row is meant


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
    assert [row[0].text for row in tables.elsewhere(results).rows] == [RESTV2_T]


def test_counts_serve_every_implementation_and_options_are_kept_apart(tmp_path):
    rows = synthetic.study_rows()
    results = results_of(tmp_path, rows)
    assert results.counted(parse("restv2_tiny@224:sdpa")).parameters == 30_434_800
    assert results.counted(parse("restv2_tiny[channels_last]@224")).parameters == 30_434_800
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
    results = measured.load(tmp_path)
    assert len(results.problems) == 6
    assert any("did you mean" in problem for problem in results.problems)
    assert table1(results).rows


def test_the_folder_of_the_last_run_is_shown_though_its_rows_are_older(tmp_path):
    cpu = synthetic.write(tmp_path, synthetic.study_rows())
    h200 = synthetic.write(tmp_path, synthetic.study_rows(kind="cuda", when="2026-11-23T00:00:00+00:00"))
    synthetic.write(tmp_path, synthetic.study_rows(), name="an_older_run.jsonl")
    for at, file in enumerate((cpu / "an_older_run.jsonl", h200 / "run.jsonl", cpu / "run.jsonl")):
        os.utime(file, ns=(at, at))
    assert measured.load(tmp_path).key == "cpu"
    os.utime(h200 / "run.jsonl")  # as a run does that reused all its rows
    assert measured.load(tmp_path).key == "h200"
    (cpu / "report").mkdir()
    (cpu / "run.torn").touch()  # neither is a measurement
    assert measured.load(tmp_path).key == "h200"
    synthetic.write(tmp_path, [{"device": {"key": "not-a-row"}}])
    assert measured.load(tmp_path).key == "h200"


def test_a_reference_is_shown_if_asked_for_or_if_there_is_nothing_else(tmp_path):
    reference = synthetic.study_rows(kind="cuda", when="2030-01-01T00:00:00+00:00")
    synthetic.write(tmp_path / "reference", reference)
    assert measured.load(tmp_path).key == "reference/h200"
    own = synthetic.write(tmp_path, synthetic.study_rows(kind="cuda"))
    os.utime(own / "run.jsonl", ns=(0, 0))
    assert measured.load(tmp_path).key == "h200"
    assert measured.load(tmp_path, "reference/h200").when.startswith("2030")
    with pytest.raises(UsageError, match="did you mean 'h200'"):
        measured.load(tmp_path, "h20")


# ---- findings


def test_the_headline_is_the_largest_inversion(tmp_path):
    rows = synthetic.study_rows()
    rows_where(rows, "throughput", "convnext_tiny@224")[0]["result"]["samples_s"] = [1.0] * 9
    rows_where(rows, "throughput", "swin_base@224")[0]["result"]["samples_s"] = [0.1] * 9
    lines = study_lines(results_of(tmp_path, rows), "table1")
    inversion = finding.largest_inversion(lines)
    assert inversion
    assert (inversion.more.title, inversion.less.title) == ("Swin-B", "ConvNeXt-T")
    assert (inversion.macs_ratio, inversion.speed_ratio) == (pytest.approx(15.44 / 4.46), pytest.approx(10))
    assert finding.headline(lines) == "Swin-B needs 3.46× the MACs of ConvNeXt-T and runs 10.00× as fast"


def test_where_macs_are_speed_no_inversion_is_claimed(tmp_path):
    rows = synthetic.study_rows()
    for row in rows:
        if row["harness"] == "throughput":
            row["result"]["samples_s"] = [synthetic.gmacs(parse(row["case"]))] * 9
    lines = study_lines(results_of(tmp_path, rows), "table1")
    assert finding.largest_inversion(lines) is None
    assert finding.rank_correlation(lines) == pytest.approx(1)
    assert finding.headline(lines).startswith("The same MAC takes 1.0×")


def test_nothing_is_concluded_from_speeds_that_may_be_equal_or_are_hardly_known(tmp_path):
    rows = synthetic.study_rows()
    for text in TABLE1:
        samples = rows_where(rows, "throughput", text)[0]["result"]
        samples["samples_s"] = [synthetic.gmacs(parse(text))] * 9
    noisy = rows_where(rows, "throughput", "swin_base@224")[0]["result"]
    noisy["samples_s"] = [0.001, 0.002, 0.003, 0.01, 10, 20, 30]
    results = results_of(tmp_path, rows)
    assert finding.largest_inversion(study_lines(results, "table1")) is None
    assert any(note.startswith("Swin-B: an interval wider") for note in table1(results).notes)


def test_too_few_rows_give_a_headline_that_says_so(tmp_path):
    results = results_of(tmp_path, [synthetic.throughput_row("restv2_tiny@224")])
    lines = study_lines(results, "table1")
    assert "Too little" in finding.headline(lines)
    assert finding.rank_correlation(lines) is None
    assert plots.all_plots(results) == []
    assert "Too little" in page.render(results, [])


# ---- in the terminal and as Markdown


@pytest.mark.parametrize("width", [80, 100])
def test_the_terminals_tables_fit_and_cut_nothing(cpu, width):
    out = io.StringIO()
    console = Console(file=out, width=width)
    table = table1(cpu)
    console.print(render.to_terminal(table))
    text = out.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for row in table.rows:
        for headers in table.narrow:
            shown = [row[table.headers.index(header)].text for header in headers]
            pattern = r"\s+".join(re.escape(cell) for cell in shown)
            assert re.search(rf"^{pattern}\s*$", text, re.MULTILINE), shown


def test_a_terminal_of_80_columns_shows_what_is_there_and_what_is_not(partial):
    done = run(partial.folder.parents[1], "tables", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines[: lines.index(next(x for x in lines if x.startswith("Written")))])) <= 80
    table = table1(partial)
    assert {cell(table, i, "images/s here") for i in range(24)} > {"missing", "failed"}
    assert {*table.narrow[0], *table.narrow[1]} == {*table.headers} - {
        "GMAC/s here",
        "peak memory, MiB",
        "case",
    }
    for headers in table.narrow:
        for row in table.part(headers).rows:
            pattern = r"\s+".join(re.escape(each.text) for each in row)
            assert any(re.fullmatch(rf"{pattern}\s*", line) for line in lines), [each.text for each in row]
    headings = " ".join(lines).split()
    assert all(word in headings for headers in table.narrow for header in headers for word in header.split())
    assert "not counted yet" in done.stdout and "out of memory, even at batch 1" in done.stdout


def test_a_number_too_wide_for_the_terminal_is_not_cut(tmp_path):
    rows = synthetic.study_rows()
    noisy = rows_where(rows, "throughput", "swin_base@224")[0]["result"]
    noisy["samples_s"] = [0.0001, 0.0002, 0.001, 0.01, 10, 20, 30]
    results_of(tmp_path / "results", rows)
    done = run(tmp_path, "tables", COLUMNS="80")
    line = next(line for line in done.stdout.splitlines() if "5000 %" in line)
    assert line.split()[-3:] == ["2059", "%", "83.5"]


def test_brackets_and_markup_survive_the_terminal():
    case = Cell("restv2_tiny[mhim]@224 [bold]x[/bold]")
    out = io.StringIO()
    table = Table("t", "A [red]title", "", ["case [x]"], [[case]], [False], ["note [mhim]"])
    Console(file=out, width=80).print(render.to_terminal(table))
    assert all(part in out.getvalue() for part in (case.text, "A [red]title", "case [x]", "note [mhim]"))


def test_markdown_keeps_bars_and_tags_as_text():
    cells = [[Cell("a|b <script>"), Cell("1", 1.0)]]
    text = render.to_markdown(Table("t", "T", "", ["x", "y"], cells, [False, True]))
    assert "| a\\|b \\<script\\> | 1 |" in text
    assert "| --- | ---: |" in text


# ---- the figures


def test_every_figure_is_well_formed_and_keeps_its_text(figures):
    assert [figure.name for figure in figures] == [
        "throughput_against_macs",
        "macs_by_operator",
        "sweep_batch",
        "sweep_resolution",
    ]
    for figure in figures:
        ElementTree.fromstring(figure.svg_file)
        assert "ResTv2-T" in re.sub("<title.*?</title>", "", figure.svg)
        assert figure.png.startswith(b"\x89PNG")
    families = "RegNetY|ConvNeXt|Swin|Focal|ResTv1|ResTv2"
    measured_names = Counter(re.findall(rf">((?:{families})-\w+)</text>", figures[0].svg))
    # here without the failed one, and on the paper's V100
    assert sum(measured_names.values()) == 23 + 24


def test_no_two_labels_of_the_scatter_overlap(cpu):
    boxes = []
    original = drawing.finish

    def look(figure, *rest):
        for axes in figure.axes:
            texts = [text for text in axes.texts if text.get_text()]
            boxes.append([labels.Box.of(text) for text in texts if not text.get_rotation()])
        return original(figure, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scatter, "finish", look)
        scatter.throughput_against_macs(study_lines(cpu, "table1"), cpu.machine)
    assert [len(each) for each in boxes] == [24, 24]
    for panel in boxes:
        for i, box in enumerate(panel):
            assert all(box.overlap(other) == 0 for other in panel[i + 1 :])


def test_families_and_operators_differ_without_colour():
    markers = [marker for _, marker in drawing.FAMILIES.values()]
    hatches = [hatch for _, hatch in plots.OPERATORS.values()]
    assert len(set(markers)) == len(markers)
    assert set(markers) | {drawing.OTHER_FAMILY[1]} == set(scatter.SIZE_ON_PAPER)
    assert len(set(hatches)) == len(hatches)


def test_without_rows_of_the_sweep_there_are_no_figures_of_it(cpu):
    assert table_names(cpu) == ["table1"]
    assert plots.rate_against_batch(shown_lines(cpu, "sweep"), cpu.machine) is None
    assert plots.rate_against_resolution(shown_lines(cpu, "sweep"), cpu.machine) is None


# ---- the page


class Tags(HTMLParser):
    """Ids, addresses that would be loaded, and whether every tag is closed."""

    VOID = ("meta", "link", "br", "hr", "img", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.loads = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.loads += [
            found[name] for name in ("src", "href", "xlink:href", "srcset", "data") if found.get(name)
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(html):
    tags = Tags(html)
    assert tags.open == []
    assert all(address.startswith(("#", "data:")) for address in tags.loads)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", html)


def test_ids_are_unique_and_every_reference_has_its_own(html):
    tags = Tags(html)
    assert [name for name, count in Counter(tags.ids).items() if count > 1] == []
    wanted = set(re.findall(r"url\(#([^)]+)\)", html)) | set(re.findall(r'href="#([^"]+)"', html))
    assert wanted
    assert wanted <= set(tags.ids)


def test_what_rows_say_is_text_on_the_page(html):
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "&lt;script&gt;alert(2)" in html
    assert html.count("<script>") == 1


def test_the_page_says_what_it_is(html, swept):
    assert finding.headline(study_lines(swept, "table1")) in html
    assert "not run on a GPU" in html
    for text in (
        "0123456789abcdef",
        "make bench GPU=cpu STUDY=&#39;table1 sweep&#39;",
        "torch FlopCounterMode",
        "-0.20 %",
    ):
        assert text in html
    assert html.count('class="sortable"') == 4
    assert "aria-sort" in html
    shown = (
        *study_tables.all_tables(swept),
        tables.cross_checks(swept),
        tables.not_measured(swept),
    )
    assert html.count("<button") == sum(len(table.headers) for table in shown)


def test_uncommitted_changes_are_said(tmp_path):
    rows = [synthetic.throughput_row("restv2_tiny@224")]
    rows[0]["environment"]["source"]["dirty"] = True
    results = results_of(tmp_path, rows)
    assert "uncommitted changes" in page.render(results, [])


def test_the_same_rows_give_the_same_files(swept, figures, html):
    files = command.page_files(swept)
    assert files["index.html"] == html.encode()
    assert [files[f"{figure.name}.png"] for figure in figures] == [figure.png for figure in figures]
    assert [files[f"{figure.name}.svg"] for figure in figures] == [figure.svg_file for figure in figures]


def test_the_script_sorts_in_a_browser(html, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail("REQUIRE_BROWSER=1, but there is no chromium")
        pytest.skip("no chromium to open the page in")
    (tmp_path / "index.html").write_text(html, encoding="utf-8")
    column = html[html.index('id="table1"') :].split("<button")[1:]
    speed = next(i for i, button in enumerate(column) if "images/s paper<" in button)
    quiet = ["gpu", "quic", "background-networking", "component-update", "sync"]
    done = subprocess.run(
        [
            *(
                browser,
                "--headless",
                "--no-sandbox",
                "--no-first-run",
                f"--user-data-dir={tmp_path / 'profile'}",
            ),
            *(f"--disable-{name}" for name in quiet),
            *("--dump-dom", f"{(tmp_path / 'index.html').as_uri()}#sort=table1,{speed},ascending"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    dom = done.stdout
    assert 'data-ready="true"' in dom, done.stderr[-500:]
    table = dom[dom.index('id="table1"') :].partition("</table>")[0]
    assert re.search(r'aria-sort="ascending"><button[^>]*>images/s paper<', table)
    order = [
        re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in table.partition("<tbody>")[2].split("<tr>")[1:]
    ]
    speeds = [int(cells[speed]) for cells in order]
    assert len(speeds) == 24
    assert speeds == sorted(speeds)


# ---- the command


@pytest.fixture
def folder(tmp_path):
    """A working directory with results in it."""
    synthetic.write(tmp_path / "results", synthetic.study_rows())
    return tmp_path


def test_the_command_writes_everything_without_torch(folder):
    with (folder / "results/cpu/run.jsonl").open("a") as file:
        file.write("not a row\n")
    code = """if True:
        import sys
        class NoTorch:
            def find_spec(self, name, *_):
                if name.partition(".")[0] in ("torch", "torchvision", "timm", "triton"):
                    raise ImportError(f"{name} is blocked")
        sys.meta_path.insert(0, NoTorch())
        from reports.__main__ import main
        main(prog_name="python -m reports", args=[])"""
    done = run(folder, code=code, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "not JSON, passed over" in done.stderr
    report = folder / "results/cpu/report"
    named = done.stdout.strip().splitlines()[-1].partition(": ")[2].split(", ")
    assert sorted(named) == sorted(path.name for path in report.iterdir())
    assert {
        "table1.md",
        "table1.csv",
        "index.html",
        "throughput_against_macs.svg",
        "macs_by_operator.png",
    } <= set(named)
    assert "ResTv2-L" in done.stdout


@pytest.mark.parametrize(
    ("part", "unneeded", "written"),
    [("tables", "matplotlib", "table1.csv"), ("page", "pandas", "index.html"), ("--help", "pandas", None)],
)
def test_each_part_does_without_the_others_slow_imports(folder, part, unneeded, written):
    code = f"""if True:
        import sys
        sys.modules["{unneeded}"] = None
        from reports.__main__ import main
        main(args=["{part}"])"""
    done = run(folder, code=code)
    assert done.returncode == 0, done.stderr
    report = folder / "results/cpu/report"
    assert (report / written).exists() if written else not report.exists()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--gpu", "cpo"], 2, "did you mean 'cpu'?"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_wrong_usage_is_told_in_a_line(folder, arguments, status, said):
    done = run(folder, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_no_rows_is_one_clear_line(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: no measurements under results/; `make bench` or `python -m bench run` makes some"
    ]


def test_an_unwritable_folder_is_one_clear_line(folder):
    (folder / "results/cpu/report").write_text("a file where the folder should be")
    done = run(folder, "tables")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"error: cannot write results/cpu/report: {os.strerror(17)}"]


def test_a_disk_that_fills_up_leaves_the_old_files_whole(tmp_path, monkeypatch):
    command.write(tmp_path, {"a": b"old", "b": b"old"})
    real, opened = os.fdopen, []

    def full_at_the_second(handle, mode):
        opened.append(handle)
        if len(opened) == 2:
            os.close(handle)
            raise OSError(28, os.strerror(28))
        return real(handle, mode)

    monkeypatch.setattr(os, "fdopen", full_at_the_second)
    with pytest.raises(Failure, match="No space left"):
        command.write(tmp_path, {"a": b"new", "b": b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old", "b": b"old"}


def test_the_terminal_shows_the_studies_that_were_run(tmp_path):
    synthetic.write(tmp_path / "results", synthetic.study_rows("sweep"))
    only_sweep = run(tmp_path, "tables").stdout
    assert "Batch and resolution" in only_sweep
    assert "Table 1, measured" not in only_sweep
    synthetic.write(tmp_path / "results", synthetic.study_rows("table1"), "table1.jsonl")
    assert "Table 1, measured" in run(tmp_path, "tables").stdout


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


def test_a_full_output_is_one_clear_line(tmp_path):
    synthetic.write(tmp_path / "results", synthetic.study_rows())
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "reports", "tables"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "error: output: No space left on device\n")
