"""Lines and pairs: verdicts on counts, speeds, references, and which comparison is meant."""

import math
import statistics

import pytest

from bench.cases import parse
from reports import printed
from reports.results import load
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import (
    by_hand,
    cell,
    lines_of,
    pairs_of,
    remark,
    results_of,
    row_where,
    rows_where,
    table_of,
    tables_of,
    word,
)

RESTV2_T = "restv2_tiny@224:b1:fp32:eager"


def line_of(results, text):
    return next(line for line in lines_of(results, "table1") if line.case == parse(text))


def table1(results):
    return tables_of(results, "table1")[0]


def test_what_is_known_of_a_printed_number_is_told_though_it_matches(cpu):
    line = line_of(cpu, "restv1_base[stem=pool]@224")
    assert word(line, "macs") == "MATCH"
    note = printed.table("table1")["restv1_base[stem=pool]@224"]["macs"].note
    assert note and remark(line, "macs") == note
    assert f"ResTv1-B, ResTv1-L: {note}" in table1(cpu).notes


def test_a_number_that_no_convention_gives_is_no_match_with_its_reason(cpu):
    line = line_of(cpu, "convnext_base@384")
    assert word(line, "macs") == "NO MATCH"
    assert remark(line, "macs") == "NO MATCH: 45.0 G is printed, counted 45.12 in every convention"
    assert f"ConvNeXt-B at 384: {remark(line, 'macs')}" in table1(cpu).notes
    assert [word(line, "macs") for line in lines_of(cpu, "table1")].count("NO MATCH") == 1


def test_a_number_that_another_convention_gives_says_which(tmp_path):
    rows = synthetic.study_rows()
    conventions = rows_where(rows, "macs", "swin_tiny@224")[0]["result"]["conventions"]
    for convention in conventions.values():
        convention["macs"] = 4_400_000_000
    conventions["fvcore"]["macs"] = 4_500_000_000
    line = line_of(results_of(tmp_path, rows), "swin_tiny@224")
    assert remark(line, "macs") == "4.5 G is printed, which is `fvcore`, not `core`"


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


def test_a_mig_slice_has_no_share_of_peak(tmp_path):
    device = {**synthetic.H200, "mig": "1g.18gb", "key": "h200-mig-1g.18gb"}
    results = results_of(tmp_path, synthetic.study_rows(kind="cuda", device=device))
    assert line_of(results, "restv2_tiny@224").share_of_peak is None
    assert "MIG slice 1g.18gb" in table1(results).setting


MHIM = ("restv2_lite[mhim]@224", "restv2_lite@224")


def test_what_is_not_counted_is_not_judged(tmp_path):
    rows = synthetic.study_rows("table2")
    rows.remove(row_where(rows, "macs", "restv2_tiny[branches=convnetv3]"))
    results = results_of(tmp_path, *rows)
    line = next(line for line in lines_of(results, "table2") if line.title == "ConvNetv3")
    assert (word(line, "macs"), remark(line, "macs"), remark(line, "parameters")) == ("", None, None)


def test_rows_above_the_reference_are_compared_with_it_too(everything):
    line = lines_of(everything, "table2")[0]
    assert line.title == "w/o"
    assert line.reference
    assert line.reference.title == "V"


def compared(tmp_path, *rows):
    """The comparison of ResTv2-Lite in Table 7."""
    return pairs_of(results_of(tmp_path, *synthetic.study_rows("table7")[:-3], *rows), "table7")[0]


@pytest.mark.parametrize(
    ("ratio", "n", "verdict"),
    [
        (1.2, 15, "slower"),
        (0.8, 15, "faster"),
        (1.0, 15, "same"),
        (1.2, 3, "undecided"),  # one visit
    ],
)
def test_the_verdict_is_the_intervals(tmp_path, ratio, n, verdict):
    pair = compared(tmp_path, synthetic.compare_row(*MHIM, ratio, n=n, study="table7"))
    assert pair.verdict.word == verdict
    assert pair.here.value == pytest.approx(ratio, rel=0.02)


def test_a_ratio_above_1_is_not_slower_while_its_interval_reaches_1(tmp_path):
    row = synthetic.compare_row(*MHIM, 1.0, study="table7")
    row["result"]["blocks"] = [[a, 1, 1, a] for a in (0.98, 1.01, 1.05, 1.00, 1.06)]  # a visit each
    pair = compared(tmp_path, row)
    logs = [math.log(a) for a in (0.98, 1.01, 1.05, 1.00, 1.06)]
    half = (
        2.776 * statistics.stdev(logs) / math.sqrt(5)
    )  # the printed quantile of t with 4 degrees of freedom
    middle = statistics.fmean(logs)
    expected = [math.exp(middle + off) for off in (-half, 0, half)]
    assert [pair.here.low, pair.here.value, pair.here.high] == pytest.approx(expected, rel=1e-4)
    assert pair.here.value > 1.01
    assert pair.verdict.word == "undecided"


def test_the_ratio_is_for_an_image_and_from_the_blocks(tmp_path):
    row = synthetic.compare_row(*MHIM, 1.0, study="table7")
    # (3 + 3) seconds of 2 images against (1 + 1) of 1
    row["result"].update(blocks=[[3, 1, 1, 3]] * 7, batch=[2, 1])
    pair = compared(tmp_path, row)
    assert (pair.here.value, pair.here.low, pair.here.high, pair.here.blocks) == pytest.approx(
        (1.5, 1.5, 1.5, 7)
    )


def test_a_comparison_at_another_batch_or_of_others_does_not_answer(tmp_path):
    own = synthetic.compare_row(*MHIM, 1.3, study="table7")
    other_batch = synthetic.compare_row(*MHIM, 0.5, batch=8)
    turned = synthetic.compare_row(MHIM[1], MHIM[0], 0.6)
    another = synthetic.compare_row(MHIM[0], "restv2_tiny@224", 0.2)
    for row in (other_batch, turned, another):
        row.update(study=None, when="2026-11-23T00:00:00+00:00")
    pair = compared(tmp_path, own, other_batch, turned, another)
    assert pair.here.value == pytest.approx(1.3, rel=0.02)
    results = load(tmp_path)
    assert by_hand(results) == [
        [
            "restv2_lite[mhim]@224:b8:fp32:eager / restv2_lite@224:b8:fp32:eager",
            "restv2_lite@224:b1:fp32:eager / restv2_lite[mhim]@224:b1:fp32:eager",
            "restv2_lite[mhim]@224:b1:fp32:eager / restv2_tiny@224:b1:fp32:eager",
        ]
    ]


def test_a_broken_comparison_is_a_problem_not_a_crash(tmp_path):
    row = synthetic.compare_row(*MHIM, 1.0, study="table7")
    row["result"]["blocks"] = [[1, 1]]
    results = results_of(tmp_path, *synthetic.study_rows("table7")[:-3], row)
    assert len(results.problems) == 1
    assert pairs_of(results, "table7")[0].comparison is None


@pytest.mark.parametrize(
    ("change", "times"),
    [
        ({}, [pytest.approx(1.5, rel=0.01)]),
        ({"device": {**synthetic.CPU, "uuid": "CPU-another"}}, [None]),
        ({"outcome": "failed", "reason": "none"}, [None]),
    ],
    ids=["same", "device", "failed"],
)
def test_training_is_compared_with_inference_as_the_two_were_taken_in_turns(tmp_path, change, times):
    """Rows of both that were taken apart say nothing."""
    rows = [row for row in synthetic.study_rows("table8") if row["harness"] != "compare"]
    rows.append(synthetic.throughput_row("restv2_tiny@224", study=None))
    older = {"study": "table8", "when": "2026-11-22T11:00:00+00:00", **change}
    in_turns = synthetic.compare_row("restv2_tiny@224:train", "restv2_tiny@224", 1.5, **older)
    results = results_of(tmp_path, in_turns, *rows)
    assert [line.times_inference for line in lines_of(results, "table8")[1:]] == times
    if times == [None]:
        assert "× inference" not in table_of(results, "table8").headers


def test_a_step_of_training_never_stands_for_inference(tmp_path):
    """Where nothing else was measured, and where it is the newest."""
    training = synthetic.study_rows("table8", when="2026-11-23T00:00:00+00:00")
    alone = results_of(tmp_path / "alone", *training)
    assert [line.outcome for line in lines_of(alone, "table1")] == ["missing"] * 24
    both = results_of(tmp_path / "both", *synthetic.study_rows("table1"), *training)
    of_table1 = [line.timing.case.mode for line in lines_of(both, "table1") if line.timing]
    assert of_table1 == ["infer"] * 24
    # nor does inference for a step
    modes = [line.timing.case.mode for line in lines_of(both, "table8") if line.timing]
    assert modes == ["train", "train"]
