"""Reports of every study but Table 1, from synthetic rows: the paper's rows, comparisons, training, what is shown."""

import csv
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markupsafe import escape
from reports.about import ABOUT, about
from reports.pairs import study_pairs
from rich.console import Console

from bench.cases import parse
from bench.errors import UsageError
from bench.studies import STUDIES, Study
from reports import __main__ as command
from reports import frame, measured, page, plots, printed, render, study_tables, switches, tables
from reports.labels import Box
from reports.lines import paper_key, shown_lines, study_lines
from reports.switches import macs_against_time
from tests.reports.test_branch_figures import cka, fourier
from tests.support import synthetic_rows as synthetic

ROOT = Path(__file__).resolve().parents[2]
PRINTED = ("table1", "table2", "table6", "table7", "table9")
MHIM = ("restv2_lite[mhim]@224", "restv2_lite@224")


def results_of(root, *rows, **files):
    """`rows` as one file, and what is in `files` each under its name."""
    for name, content in {"run": list(rows), **files}.items():
        if content:
            synthetic.write(root, content, f"{name}.jsonl")
    return measured.load(root)


def rows_of(study, kind="cpu", **more):
    return synthetic.study_rows(study, kind, **more)


def pick(rows, harness, start):
    return next(row for row in rows if row["harness"] == harness and row["case"].startswith(start))


def table_of(results, name):
    return next(table for table in study_tables.all_tables(results) if table.name == name)


def column(table, header):
    return [row[table.headers.index(header)].text for row in table.rows]


def csv_of(results, name):
    files = command.table_files(results, study_tables.all_tables(results))
    return list(csv.DictReader(io.StringIO(files[name].decode())))


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Each study run on a CPU, into the file that its run leaves."""
    root = tmp_path_factory.mktemp("everything")
    files = {name: rows_of(name) for name, study in STUDIES.items() if study.is_timed}
    return results_of(root, **files, figure3=[fourier(study="figure3")], figure4=[cka(study="figure4")])


# ---- what is printed


@pytest.mark.parametrize("name", PRINTED)
def test_the_printed_rows_are_the_cases_of_the_study(name):
    rows = printed.rows(name)
    assert {row.case for row in rows} == set(STUDIES[name].cases("cuda", False))
    assert all(str(parse(row.case)) == f"{row.case}:eager" for row in rows)  # as a case prints its options
    assert set(ABOUT[name].references) <= {row.case for row in rows}


def test_every_convention_in_which_something_is_printed_is_explained():
    used = {
        row.numbers["macs"].convention
        for name in PRINTED
        for row in printed.rows(name)
        if "macs" in row.numbers
    }
    assert used == {"core", "paper", "paper-no-attention", "closed-form"}
    assert used < set(page.CONVENTIONS)


def test_table_2_has_its_four_parts_in_the_papers_order():
    rows = [(row.part, row.name) for row in printed.rows("table2")]
    assert rows == [
        *(("(a)", name) for name in ("w/o", "x′", "K", "V")),
        *(("(b)", name) for name in ("w/o", "nearest", "bilinear", "pixel-shuffle")),
        *(("(c)", name) for name in ("EMSA", "ConvNet", "ConvNetv2", "ConvNetv3", "EMSAv2")),
        *(("(d)", name) for name in ("w/o", "APE", "RPE", "PEG", "PA")),
    ]


PATTERNS = {  # of a row in the paper's text, and the metrics that it holds
    "table2": (
        r"^(?:[\w/′-]+)(?: \[\d+\])?(?: ([\d.]+)M)?(?: ([\d.]+)G)? (\d\d\.\d\d)(?: (\d\d\.\d\d))?$",
        ("parameters", "macs", "top1", "top5"),
    ),
    "table6": (
        r"^[\w-]+(?:\[\d+\])?[∗†]? ([\d.]+)M ([\d.]+)G (\d+) ([\d.]+)$",
        ("parameters", "macs", "throughput", "top1"),
    ),
    "table7": (
        r"^(?:ResTv2-\w+|\+MHIM) \d\d ([\d.]+) ?M ([\d.]+)G (\d+)(?:\(-\d+\))? ([\d.]+)",
        ("parameters", "macs", "throughput", "top1"),
    ),
}
SPANS = {
    "table2": ("Table 2: Ablation", "provide information not captured"),
    "table6": ("Table 6: Results", "B Results of Multi-head"),
    "table7": ("Table 7: Results", "C Experimental Settings"),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_the_csv_is_the_papers_text(name):
    """Where the extracted text lies beside the checkout."""
    path = ROOT.parent / "shared" / "paper" / "restv2.txt"
    if not path.exists():
        pytest.skip("the paper's text is not there")
    start, end = SPANS[name]
    text = path.read_text(encoding="utf-8").partition(start)[2].partition(end)[0]
    pattern, metrics = PATTERNS[name]
    numbers = [
        tuple(row.numbers[metric].text if metric in row.numbers else "" for metric in metrics)
        for row in printed.rows(name)
    ]
    assert re.findall(pattern, text, re.MULTILINE) == numbers


def test_a_case_is_named_by_its_model_its_options_and_its_size():
    texts = {
        "restv2_tiny": "restv2_tiny@224",
        "restv2_tiny@384:b64:fp16:sdpa": "restv2_tiny@384",
        "restv2_lite[mhim,attention=emsa]": "restv2_lite[attention=emsa,mhim]@224",
        "restv2_tiny[channels_last,target=k]:compile": "restv2_tiny[target=k]@224",
        "restv2_tiny[autocast]:fp16:train": "restv2_tiny@224",
    }
    assert {text: paper_key(parse(text)) for text in texts} == texts


# ---- tables with printed rows


def test_table_2_shows_each_printed_row_with_its_part_and_its_case(everything):
    table = table_of(everything, "table2")
    assert column(table, "Model")[:5] == ["(a) w/o", "(a) x′", "(a) K", "(a) V", "(b) w/o"]
    assert column(table, "case")[3:8:4] == ["restv2_tiny@224", "restv2_tiny@224"]
    assert column(table, "M params paper")[3:5] == ["–", "30.26"]
    assert column(table, "GMACs paper")[-6:] == ["4.10", *"–––––"]
    # where the paper prints no MACs, ours are in the study's convention
    assert set(column(table, "counted as")) == {"paper"}
    assert column(table, "GMACs ours")[2] == "4.10"
    assert column(table, "Top-1 %, printed")[0] == "79.04"
    assert not {"images/s paper", "paper ×", "Size", "batch", "dtype"} & set(table.headers)
    assert "All rows: batch 1, fp32, images of 224 × 224 pixels." in table.caption


def test_a_printed_number_without_a_match_is_seen_with_what_is_known_of_it(everything):
    table = table_of(everything, "table2")
    rows = dict(zip(column(table, "Model"), table.rows, strict=True))
    verdicts = {
        name: (
            cells[table.headers.index("params verdict")].text,
            cells[table.headers.index("GMACs verdict")].text,
        )
        for name, cells in rows.items()
    }
    assert {name for name, (parameters, _) in verdicts.items() if parameters == "NO MATCH"} == {
        *("(b) w/o", "(b) nearest", "(b) bilinear", "(c) EMSA", "(c) ConvNetv3")
    }
    assert {name for name, (_, macs) in verdicts.items() if macs == "NO MATCH"} == {"(c) ConvNetv3"}
    numbers = next(row.numbers for row in printed.rows("table2") if row.name == "ConvNetv3")
    assert (
        f"(c) ConvNetv3: NO MATCH: 4.54 G is printed, 4.38 G counted: {numbers['macs'].note}" in table.notes
    )
    note = numbers["parameters"].note
    assert f"(c) ConvNetv3: NO MATCH: 30.43 M parameters are printed, 32.59 M counted: {note}" in table.notes
    assert any(
        note.startswith("(b) w/o, (b) nearest, (b) bilinear, (c) EMSA: NO MATCH: ") for note in table.notes
    )


def test_a_parameter_count_without_a_match_and_without_a_note_is_told_too(tmp_path):
    rows = rows_of("table7")
    pick(rows, "macs", "restv2_lite@224")["result"]["parameters"] = 10_675_000
    table = table_of(results_of(tmp_path, *rows), "table7")
    assert column(table, "params verdict")[0] == "NO MATCH"
    assert "ResTv2-Lite: NO MATCH: 10.66 M parameters are printed, 10.68 M counted" in table.notes


def test_what_is_not_counted_is_not_judged(tmp_path):
    rows = rows_of("table2")
    rows.remove(pick(rows, "macs", "restv2_tiny[branches=convnetv3]"))
    results = results_of(tmp_path, *rows)
    line = next(line for line in study_lines(results, "table2") if line.title == "ConvNetv3")
    assert (line.verdict("macs"), line.remark("macs"), line.remark("parameters")) == ("", None, None)


def test_in_table_6_each_group_has_its_own_reference(everything):
    table = table_of(everything, "table6")
    speeds = [f"{times:.2f}" for times in (1, 617 / 1144, 947 / 1144, 1, 625 / 1091, 926 / 1091)]
    assert column(table, "paper ×") == speeds == ["1.00", "0.54", "0.83", "1.00", "0.57", "0.85"]
    here = [line.images_per_s.value for line in study_lines(everything, "table6") if line.images_per_s]
    assert column(table, "here ×") == [
        f"{value / base:.2f}" for value, base in zip(here, [here[0]] * 3 + [here[3]] * 3, strict=True)
    ]
    assert "a multiple of that of PVT-Tiny, from ResTv1-Lite on of that of ResTv1-Lite." in table.caption


def test_rows_above_the_reference_are_compared_with_it_too(everything):
    line = study_lines(everything, "table2")[0]
    assert line.title == "w/o"
    assert line.reference
    assert line.reference.title == "V"


def test_table_9_has_what_the_paper_prints_of_it_and_nothing_else(everything):
    table = table_of(everything, "table9")
    assert column(table, "GMACs paper") == ["4.0", "5.8", "7.7", "13.5"]
    assert set(column(table, "counted as")) == {"paper-no-attention"}
    assert set(column(table, "GMACs verdict")) == {"MATCH"}
    gone = {"M params paper", "params verdict", "images/s paper", "paper ×", "Top-1 %, printed"}
    assert not gone & set(table.headers)
    note = printed.rows("table9")[0].numbers["macs"].note
    assert table.notes == [f"all: {note}"]


def test_the_frame_has_every_printed_row(everything):
    data = frame.frame(everything, "table2")
    assert list(data["source"].unique()) == [f"Table 2({part})" for part in "abcd"]
    assert list(data["title"]) == [row.name for row in printed.rows("table2")]
    assert data["paper_top1"][0] == 79.04
    assert data["paper_macs"].isna().sum() == 9  # parts (a) and (d)
    remarks = data["parameters_remark"].dropna()
    assert len(remarks) == 5 and remarks.str.startswith("NO MATCH: ").all()
    ratio = data["times_here"] * data["images_per_s"][3]
    assert list(ratio) == pytest.approx(list(data["images_per_s"]))


# ---- comparisons


def compared(tmp_path, *rows):
    """The comparison of ResTv2-Lite in Table 7."""
    return study_pairs(results_of(tmp_path, *rows_of("table7")[:-3], *rows), "table7")[0]


def test_what_the_paper_prints_is_compared_as_time(everything):
    """945 / 926 and 826 / 792, of Table 7."""
    table = table_of(everything, "table7_pairs")
    assert column(table, "time × paper") == ["1.021", "1.043"]
    assert column(table, "first") == ["ResTv2-Lite + MHIM", "ResTv2-Tiny + MHIM"]
    assert column(table, "second") == ["ResTv2-Lite", "ResTv2-Tiny"]


@pytest.mark.parametrize(
    ("ratio", "n", "verdict"),
    [
        (1.2, 12, "slower"),
        (0.8, 12, "faster"),
        (1.0, 12, "no difference seen"),
        (1.2, 3, "too few blocks to say"),
    ],
)
def test_the_verdict_is_the_intervals(tmp_path, ratio, n, verdict):
    pair = compared(tmp_path, synthetic.compare_row(*MHIM, ratio, n=n, study="table7"))
    assert pair.verdict == verdict
    assert pair.here.value == pytest.approx(ratio, rel=0.02)


def test_a_ratio_above_1_is_not_slower_while_its_interval_reaches_1(tmp_path):
    row = synthetic.compare_row(*MHIM, 1.0, study="table7")
    # of seven blocks the interval is from the first to the last
    row["result"]["blocks"] = [[a, 1, 1, a] for a in (0.98, 0.99, 1.01, 1.02, 1.03, 1.04, 1.05)]
    pair = compared(tmp_path, row)
    assert (pair.here.low, pair.here.value, pair.here.high) == pytest.approx((0.98, 1.02, 1.05))
    assert pair.verdict == "no difference seen"


def test_the_ratio_is_for_an_image_and_from_the_blocks(tmp_path):
    row = synthetic.compare_row(*MHIM, 1.0, study="table7")
    # (3 + 3) seconds of 2 images against (1 + 1) of 1
    row["result"].update(blocks=[[3, 1, 1, 3]] * 7, batch=[2, 1])
    pair = compared(tmp_path, row)
    assert (pair.here.value, pair.here.low, pair.here.high, pair.here.n) == pytest.approx((1.5, 1.5, 1.5, 7))


def test_failed_and_missing_comparisons_are_told(tmp_path):
    failed = synthetic.compare_row(*MHIM, 1.0, study="table7")
    failed.update(outcome="failed", reason="out of memory", result=None)
    results = results_of(tmp_path, *rows_of("table7")[:-3], failed)
    table = table_of(results, "table7_pairs")
    assert column(table, "time × here") == ["failed", "missing"]
    assert table.notes == [
        "ResTv2-Lite + MHIM beside ResTv2-Lite: failed: out of memory",
        "ResTv2-Tiny + MHIM beside ResTv2-Tiny: not measured yet",
    ]
    reasons = {row[0].text: row[2].text for row in tables.not_measured(results).rows}
    assert reasons == {
        "restv2_lite[mhim]@224:b1:fp32:eager / restv2_lite@224:b1:fp32:eager": "out of memory",
        "restv2_tiny[mhim]@224:eager / restv2_tiny@224:eager": "not measured yet",
    }
    data = frame.pairs_frame(results, "table7")
    assert list(data["outcome"]) == ["failed", "missing"]
    assert data["ratio"].isna().all()
    assert list(data["paper_ratio"]) == pytest.approx([945 / 926, 826 / 792])


def test_a_comparison_at_another_batch_or_of_others_does_not_answer(tmp_path):
    own = synthetic.compare_row(*MHIM, 1.3, study="table7")
    other_batch = synthetic.compare_row(*MHIM, 0.5, batch=8)
    turned = synthetic.compare_row(MHIM[1], MHIM[0], 0.6)
    another = synthetic.compare_row(MHIM[0], "restv2_tiny@224", 0.2)
    for row in (other_batch, turned, another):
        row.update(study=None, when="2026-11-23T00:00:00+00:00")
    pair = compared(tmp_path, own, other_batch, turned, another)
    assert pair.here.value == pytest.approx(1.3, rel=0.02)
    results = measured.load(tmp_path)
    by_hand = [row[0].text for row in tables.elsewhere(results).rows]
    assert by_hand == [
        "restv2_lite[mhim]@224:b8:fp32:eager against restv2_lite@224:b8:fp32:eager",
        "restv2_lite@224:b1:fp32:eager against restv2_lite[mhim]@224:b1:fp32:eager",
        "restv2_lite[mhim]@224:b1:fp32:eager against restv2_tiny@224:b1:fp32:eager",
    ]


def test_a_broken_comparison_is_a_problem_not_a_crash(tmp_path):
    row = synthetic.compare_row(*MHIM, 1.0, study="table7")
    row["result"]["blocks"] = [[1, 1]]
    results = results_of(tmp_path, *rows_of("table7")[:-3], row)
    assert len(results.problems) == 1
    assert study_pairs(results, "table7")[0].comparison is None


def test_the_csv_of_comparisons_has_raw_numbers(everything):
    rows = csv_of(everything, "table7_pairs.csv")
    assert [row["first"] for row in rows] == [
        "restv2_lite[mhim]@224:b1:fp32:eager",
        "restv2_tiny[mhim]@224:b1:fp32:eager",
    ]
    assert all(float(row["ratio_low"]) < float(row["ratio"]) < float(row["ratio_high"]) for row in rows)
    assert [row["verdict"] for row in rows] == ["slower", "slower"]


@pytest.mark.parametrize(
    "name",
    [
        "table2",
        "table6",
        "table7",
        "table7_pairs",
        *("table3", "table3_operators", "table3_parts", "table3_pairs"),
        *("table4", "table4_parts", "table5", "table5_parts"),
        "table8",
        "table9",
        "sweep",
        "kernels",
        "windows",
        "windows_work",
        "windows_attention",
    ],
)
def test_tables_fit_a_terminal_of_80_columns(everything, name):
    out = io.StringIO()
    table = table_of(everything, name)
    Console(file=out, width=80).print(render.to_terminal(table))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for headers in table.narrow or [table.headers]:
        for row in table.part(headers).rows:
            pattern = r"\s+".join(re.escape(cell.text) for cell in row)
            assert any(re.fullmatch(rf"{pattern}\s*", line) for line in lines), [cell.text for cell in row]


# ---- training


def test_training_stands_beside_inference_of_the_same_kind(tmp_path):
    rows = [*rows_of("table8"), *rows_of("table1")]
    for case, seconds in (
        ("restv2_tiny@224:b1:fp32:eager:train", 3.0),
        ("restv2_tiny@224:b1:fp32:eager", 2.0),
    ):
        next(row for row in rows if row["case"] == case)["result"]["samples_s"] = [seconds] * 8
    table = table_of(results_of(tmp_path, *rows), "table8")
    assert column(table, "Model") == ["ResTv2-Lite", "ResTv2-T"]
    assert column(table, "images/s here")[1] == "0.33"
    assert column(table, "ms/step")[1] == "3000"
    assert column(table, "× inference") == ["–", "1.50"]  # ResTv2-Lite is not in Table 1
    assert column(table, "GMACs forward")[1] == "4.08"
    assert column(table, "case")[1] == "restv2_tiny@224:train"
    assert "GMACs are those of the forward pass alone (core)." in table.caption
    assert not {"GMAC/s here", "share of peak", "here ×", "GMACs paper"} & set(table.headers)


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 2},
        {"dtype": "fp64"},
        {"device": {**synthetic.CPU, "uuid": "CPU-another"}},
        {"outcome": "failed", "reason": "none"},
    ],
    ids=["batch", "dtype", "device", "failed"],
)
def test_inference_of_another_kind_is_not_what_training_is_compared_with(tmp_path, change):
    rows = rows_of("table8")
    wanted = synthetic.throughput_row("restv2_tiny@224", study=None)
    same = results_of(tmp_path / "same", *rows, wanted)
    assert "× inference" in table_of(same, "table8").headers
    other = synthetic.throughput_row(
        "restv2_tiny@224", study=None, when="2026-11-22T11:00:00+00:00", **change
    )
    results = results_of(tmp_path / "other", *rows, other)
    assert [line.times_inference for line in study_lines(results, "table8")] == [None, None]


@pytest.mark.parametrize(("ran", "times"), [(4, None), (2, pytest.approx(1.5))])
def test_where_memory_ran_out_the_batches_that_ran_are_compared(tmp_path, ran, times):
    training = synthetic.throughput_row("restv2_tiny@224:train", 4, study="table8")
    training["result"].update(samples_s=[3.0] * 8, batch=2)
    inference = synthetic.throughput_row("restv2_tiny@224", 4, study="table1")
    inference["result"].update(samples_s=[ran / 2 * 2.0] * 8, batch=ran)
    results = results_of(tmp_path, training, inference)
    assert study_lines(results, "table8")[1].times_inference == times


def test_a_step_of_training_never_stands_for_inference(tmp_path):
    """Where nothing else was measured, and where it is the newest."""
    training = rows_of("table8", when="2026-11-23T00:00:00+00:00")
    alone = results_of(tmp_path / "alone", *training)
    assert [line.outcome for line in study_lines(alone, "table1")] == ["missing"] * 24
    both = results_of(tmp_path / "both", *rows_of("table1"), *training)
    of_table1 = [line.timing.case.mode for line in study_lines(both, "table1") if line.timing]
    assert of_table1 == ["infer"] * 24
    # nor does inference for a step
    modes = [line.timing.case.mode for line in study_lines(both, "table8") if line.timing]
    assert modes == ["train", "train"]


def test_training_has_no_rate_because_its_macs_are_not_counted(everything):
    lines = study_lines(everything, "table8")
    assert [line.macs("core") for line in lines] == [1_436_000_000, 4_083_000_000]
    assert [(line.macs_per_s, line.share_of_peak) for line in lines] == [(None, None)] * 2
    data = frame.frame(everything, "table8")
    assert data["share_of_peak"].isna().all()
    assert list(data["times_inference"]) == pytest.approx([3.1, 3.1], rel=0.02)


def test_a_count_made_for_training_is_that_of_the_model(tmp_path):
    """The forward is the same mathematics."""
    row = synthetic.count_row("restv2_tiny@224:train", study="table8")
    results = results_of(tmp_path, row)
    assert results.counted(parse("restv2_tiny@224")).parameters == 30_434_800
    assert results.counted(parse("restv2_tiny[pe=ape]@224")) is None


# ---- which row is meant, which study was run


def test_a_study_whose_rows_were_all_there_is_shown_and_at_their_batch(tmp_path):
    """As after `make bench STUDY="table1 table9"`: the second run leaves an empty file."""
    table1 = rows_of("table1", kind="cuda")
    stray = synthetic.throughput_row(
        "restv2_small@224", 1, "fp32", device=synthetic.H200, study=None, when="2026-11-24T00:00:00+00:00"
    )
    results = results_of(tmp_path, table1=[*table1, stray])
    assert results.studies == ["table1"]
    (tmp_path / "h200" / "table9.jsonl").touch()
    results = measured.load(tmp_path)
    assert results.studies == ["table1", "table9"]
    assert [(line.batch, line.dtype) for line in study_lines(results, "table9")] == [(64, "fp16")] * 4
    assert command.table_files(results, study_tables.all_tables(results)).keys() == {
        *("table1.md", "table1.csv", "table9.md", "table9.csv")
    }


@pytest.mark.parametrize("name", [name for name, study in STUDIES.items() if study.is_timed])
def test_a_study_alone_is_shown_alone(tmp_path, name):
    results = results_of(tmp_path, *rows_of(name))
    pairs = [f"{name}_pairs"] if STUDIES[name].pairs("cpu", False) else []
    more = {
        "kernels": ["kernels_models"],
        "windows": ["windows_work", "windows_attention"],
        "table3": ["table3_operators", "table3_parts"],
        "table4": ["table4_parts"],
        "table5": ["table5_parts"],
    }.get(name, [])
    assert [table.name for table in study_tables.all_tables(results)] == [name, *more, *pairs]
    figures = plots.all_plots(results)
    html = page.render(results, figures)
    assert re.findall(r'<section id="study-(\w+)"', html) == [name]
    assert f"<h2>{escape(ABOUT[name].heading)}</h2>" in html
    assert f"STUDY={name}" in html
    # every figure that was made is shown
    assert [figure.name for figure in figures if f'<svg id="{figure.name}"' not in html] == []
    assert "Too little" not in html
    assert tables.not_measured(results).rows == []


def test_the_page_has_a_section_for_each_study_and_its_figures_in_it(everything):
    figures = plots.all_plots(everything)
    html = page.render(everything, figures)
    found = dict(
        re.findall(r'<section id="((?:study-\w+|branches|counting))">(.*?)\n</section>', html, re.DOTALL)
    )
    names = [name for name, study in STUDIES.items() if study.is_timed]
    assert list(found) == [*(f"study-{name}" for name in names), "branches", "counting"]
    shown = {anchor: re.findall(r'<svg id="(\w+)"', text) for anchor, text in found.items()}
    assert {anchor: of for anchor, of in shown.items() if of} == {
        "study-table1": ["throughput_against_macs"],
        "study-table2": ["table2_switches"],
        "study-table3": ["table3_macs_and_time"],
        "study-table4": ["table4_switches"],
        "study-table5": ["table5_switches"],
        "study-table6": ["figure1", "table6_switches"],
        "study-sweep": ["sweep_batch", "sweep_resolution"],
        "study-kernels": ["kernels_roof"],
        "study-windows": ["window_padding"],
        "branches": ["figure3", "figure4"],
        "counting": ["macs_by_operator"],
    }
    assert 'id="table7_pairs"' in found["study-table7"]
    # the machine is told once, where it changes
    assert "".join(found.values()).count("Protocol default.") == 1
    for figure in figures:
        ElementTree.fromstring(figure.svg_file)


def test_rows_of_branches_alone_give_a_page_without_tables(tmp_path):
    results = results_of(tmp_path, fourier(study=None))
    assert results.studies == []
    figures = plots.all_plots(results)
    assert [figure.name for figure in figures] == ["figure3"]
    html = page.render(results, figures)
    assert f"<h1>{figures[0].title}</h1>" in html
    assert 'id="branches"' in html
    assert "study-" not in html


def test_a_quick_table_and_its_csv_leave_what_was_not_run_missing(tmp_path):
    rows = [row for row in rows_of("table2") if "pe=" not in row["case"]]
    results = results_of(tmp_path, *rows)
    assert [row["outcome"] for row in csv_of(results, "table2.csv")] == [
        *["ok"] * 13,
        *["missing"] * 4,
        "ok",
    ]
    missing = [row[0].text for row in tables.not_measured(results).rows]
    assert missing == [f"restv2_tiny[pe={pe}]@224:eager" for pe in ("none", "ape", "rpe", "peg")]


def test_a_case_that_failed_and_was_then_measured_is_not_called_a_failure(tmp_path):
    rows = rows_of("table7")
    early = json.loads(json.dumps(pick(rows, "throughput", "restv2_lite@224")))
    early.update(
        outcome="failed", reason="too hot", result=None, key="early", when="2026-11-21T00:00:00+00:00"
    )
    late = json.loads(json.dumps(pick(rows, "throughput", "restv2_tiny@224")))
    late.update(outcome="failed", reason="crashed", result=None, key="late", when="2026-11-23T00:00:00+00:00")
    results = results_of(tmp_path, *rows, early, late)
    assert [row[2].text for row in tables.not_measured(results).rows] == ["crashed"]


# ---- the figure of the switches


def test_a_switch_is_its_change_in_macs_and_in_time(tmp_path):
    rows = rows_of("table2")
    for text, seconds in (("restv2_tiny@224", 2.0), ("restv2_tiny[target=none]@224", 1.0)):
        pick(rows, "throughput", text)["result"]["samples_s"] = [seconds] * 9
    shown = switches.switches(study_lines(results_of(tmp_path, *rows), "table2"))
    assert len(shown) == 12  # thirteen cases, without the reference
    assert shown[0].label == "w/o (a, b), EMSA (c)"
    assert shown[0].reference == "ResTv2-T"
    assert shown[0].macs == pytest.approx(4.066 / 4.083)
    assert shown[0].time == pytest.approx((0.5, 0.5, 0.5))
    assert shown[0].beyond_macs == pytest.approx(4.066 / 4.083 / 0.5)


def test_the_ends_of_a_change_are_the_widest_that_both_intervals_allow(tmp_path):
    rows = rows_of("table7")
    # of six samples the interval is from the first to the last
    samples = {"restv2_lite@224": [1.0, 2, 2, 2, 2, 4], "restv2_lite[mhim]@224": [3.0, 6, 6, 6, 6, 12]}
    for text, seconds in samples.items():
        pick(rows, "throughput", text)["result"]["samples_s"] = seconds
    results = results_of(tmp_path, *rows)
    with_mhim = study_lines(results, "table7")[1]
    assert switches.Switch([with_mhim]).time == pytest.approx((6 / 2, 3 / 4, 12 / 1))


def test_the_figure_says_which_switch_changes_time_most_beyond_its_macs(tmp_path):
    rows = rows_of("table6")
    times = {
        "pvt_tiny@224": 1.0,
        "pvt_tiny[attention=msa]@224": 2.0,
        "pvt_tiny[attention=emsav2]@224": 4.0,
        "restv2_lite[attention=emsa,mhim]@224": 1.0,
        "restv2_lite[attention=msa]@224": 2.0,
        "restv2_lite[mhim]@224": 1.0,
    }
    for text, seconds in times.items():
        pick(rows, "throughput", text)["result"]["samples_s"] = [seconds] * 9
    results = results_of(tmp_path, *rows)
    plot = macs_against_time("table6", shown_lines(results, "table6"), results.machine)
    assert plot
    assert plot.title == f"PVT-EMSAv2-Tiny: {1.934 / 1.925:.2f}× the MACs of PVT-Tiny, 4.00× its time"
    drawn = re.findall(r">([^<>]+)</text>", plot.svg)
    # 4.80 / 1.925 and 4.36 / 1.43 of the MACs; twice the time
    for text in ("PVT-MSA-Tiny", "2.5×", "3.0×", "2.0×", "+0.5 %", "±0 %", "Beside ResTv1-Lite"):
        assert text in drawn, text
    assert any("as printed" in text for text in drawn)


def test_of_speeds_that_may_be_as_the_macs_nothing_is_claimed(tmp_path):
    rows = rows_of("table2")
    for row in rows:
        if row["harness"] == "throughput":
            seconds = synthetic.gmacs(parse(row["case"]))
            row["result"]["samples_s"] = [seconds * (1 + 0.01 * i) for i in range(-4, 5)]
    results = results_of(tmp_path, *rows)
    plot = macs_against_time("table2", shown_lines(results, "table2"), results.machine)
    assert plot
    assert plot.title == "Of no switch the time is known to change otherwise than the MACs"
    assert "as printed" not in plot.svg


def test_without_its_reference_a_switch_is_not_drawn(tmp_path):
    rows = rows_of("table6")
    rows.remove(pick(rows, "throughput", "pvt_tiny@224"))
    results = results_of(tmp_path / "one", *rows)
    shown = switches.switches(study_lines(results, "table6"))
    assert {switch.reference for switch in shown} == {"ResTv1-Lite"}
    rows.remove(pick(rows, "throughput", "restv2_lite[attention=emsa,mhim]"))
    results = results_of(tmp_path / "none", *rows)
    assert macs_against_time("table6", shown_lines(results, "table6"), results.machine) is None


def test_no_text_of_the_figure_covers_another(everything):
    """Names at the left, numbers at the right, legend below: none may run into another."""
    boxes = []

    def look(figure, *rest):
        figure.draw_without_rendering()
        texts = [text for axes in figure.axes for text in (*axes.texts, *axes.get_yticklabels())]
        texts += [axes._left_title for axes in figure.axes]
        texts += [*figure.legends[0].get_texts(), *figure.texts]
        boxes.append([(text.get_text(), Box.of(text)) for text in texts if text.get_text()])
        return original(figure, *rest)

    original = switches.finish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(switches, "finish", look)
        for name in ("table2", "table6"):
            macs_against_time(name, shown_lines(everything, name), everything.machine)
    assert len(boxes) == 2
    for each in boxes:
        assert len(each) > 15
        for i, (text, box) in enumerate(each):
            covered = [other for other, place in each[i + 1 :] if place.overlap(box)]
            assert not covered, (text, covered)


def test_a_study_without_words_of_its_own_is_shown_all_the_same(tmp_path, monkeypatch):
    mine = Study("mine", "How fast is ResTv2-Lite?", lambda kind, quick: ("restv2_lite@224",))
    monkeypatch.setitem(STUDIES, "mine", mine)
    results = results_of(tmp_path, *rows_of("mine"))
    html = page.render(results, plots.all_plots(results))
    assert "Study mine" in html
    assert "How fast is ResTv2-Lite?" in html
    with pytest.raises(UsageError, match="unknown study 'nobodys'"):
        about("nobodys")
