"""Tables 1, 8 and 9: their rows, the headline, training beside inference."""

import pytest

from bench.cases import parse
from bench.studies import TABLE1
from reports import figures, frame, labels, printed
from reports.chapters import classifiers
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import (
    cell,
    column,
    lines_of,
    page_of,
    pairs_of,
    plot_of,
    plots_of,
    results_of,
    rows_where,
    table_of,
    tables_of,
)


def line_of(results, text):
    return next(line for line in lines_of(results, "table1") if line.case == parse(text))


def table1(results):
    return tables_of(results, "table1")[0]


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


def test_a_multiple_here_is_of_pairs_taken_in_turns_and_else_not_shown(cpu, tmp_path):
    table = table1(cpu)  # a CPU has no pairs of Table 1
    assert cell(table, 5, "paper ×") == "1.00"
    assert "here ×" not in table.headers
    assert cell(table, 0, "paper ×") == f"{1156 / 826:.2f}"
    assert "× is speed as a multiple of that of ResTv2-T at 224." in table.caption
    gpu = table1(results_of(tmp_path, synthetic.study_rows(kind="cuda")))
    here = dict(zip(column(gpu, "case"), column(gpu, "here ×"), strict=True))
    assert here["restv2_tiny@224"] == "1.00"
    assert here["restv2_large@384"] == "–"
    (pair,) = [
        pair for pair in pairs_of(results_of(tmp_path), "table1") if "swin_tiny" in str(pair.first.case)
    ]
    assert pair.here
    assert here["swin_tiny@224"] == f"{1 / pair.here.value:.2f}"


def with_pair(tmp_path, name: str, ratio: float, spread: float = 0.002):
    """Table 1 on a synthetic GPU: all pairs the same but for one, whose first takes `ratio` times as long."""
    rows = synthetic.study_rows(kind="cuda")
    for row in rows:
        if row["harness"] == "compare":
            is_it = row["case"].startswith(name)
            value, wide = (ratio, spread) if is_it else (1.0, 0.002)
            offs = [wide * off for off in (-1, 0.4, 1, -0.4, 0.2)] * 3
            row["result"]["blocks"] = [[value * (1 + off), 1, 1, value * (1 + off)] for off in offs]
    return results_of(tmp_path, rows)


def test_the_headline_is_the_largest_inversion_among_pairs(tmp_path):
    results = with_pair(tmp_path, "convnext_base", 0.5)
    pairs = pairs_of(results, "table1")
    inversion = classifiers.largest_inversion(pairs)
    assert inversion
    assert inversion.macs_ratio == pytest.approx(15.36 / 13.801)
    assert inversion.speed_ratio == pytest.approx(2, rel=0.01)
    words = classifiers.title_of(lines_of(results, "table1"), pairs)
    assert words == "ConvNeXt-B needs 1.11× the MACs of ResTv2-L and runs 2.00× as fast"


def test_an_inversion_is_one_whichever_of_the_two_comes_first(tmp_path):
    """RegNetY-4G has fewer MACs than ResTv2-T, and stands first in their pair."""
    pairs = pairs_of(with_pair(tmp_path, "regnety_4g@", 1.3), "table1")
    inversion = classifiers.largest_inversion(pairs)
    assert inversion
    assert (inversion.more.name, inversion.less.name) == ("ResTv2-T", "RegNetY-4G")
    assert inversion.macs_ratio > 1
    assert inversion.speed_ratio == pytest.approx(1.3, rel=0.01)


def test_rows_taken_apart_make_no_inversion(tmp_path):
    """Three pages of the same machine once gave three headlines, each the most extreme of 168 such pairs."""
    rows = synthetic.study_rows()
    rows_where(rows, "throughput", "convnext_tiny@224")[0]["result"]["samples_s"] = [1.0] * 10
    rows_where(rows, "throughput", "swin_base@224")[0]["result"]["samples_s"] = [0.1] * 10
    results = results_of(tmp_path, rows)
    lines = lines_of(results, "table1")
    rank = classifiers.rank_correlation(lines)
    said = f"MACs order 24 models by time with a rank correlation of {rank:.2f}"
    assert classifiers.title_of(lines, pairs_of(results, "table1")) == said


def test_convnets_stand_in_both_memory_formats_taken_in_turns(tmp_path):
    """NCHW alone would say more of cuDNN's transpositions than of the model."""
    pairs = pairs_of(results_of(tmp_path, synthetic.study_rows(kind="cuda")), "table1")
    both = [pair for pair in pairs if pair.first.case.has("channels_last")]
    assert len(both) == 6
    for pair in both:
        assert pair.first_name == f"{pair.second_name} [channels_last]"
        assert (pair.outcome, pair.printed) == ("ok", None)


def test_a_headline_over_few_of_the_models_says_over_how_many(tmp_path):
    rows = synthetic.study_rows()
    for row in [row for row in rows if row["harness"] == "throughput"][:17]:
        row["result"]["samples_s"] = [1.0, 2.0, 3.0, 4.0, 5.0] * 2
    lines = lines_of(results_of(tmp_path, rows), "table1")
    rank = classifiers.rank_correlation(lines)
    said = (
        f"MACs order the 7 of 24 models with a narrow interval by time with a rank correlation of {rank:.2f}"
    )
    assert classifiers.title_of(lines) == said


def test_of_few_models_that_are_known_well_no_order_is_told(tmp_path):
    rows = synthetic.study_rows()
    for row in [row for row in rows if row["harness"] == "throughput"][:18]:
        row["result"]["samples_s"] = [1.0, 2.0, 3.0, 4.0, 5.0] * 2
    lines = lines_of(results_of(tmp_path, rows), "table1")
    assert len(classifiers.compared(lines)) == 6
    assert classifiers.rank_correlation(lines) is None
    said = "The speeds of 24 models are too uncertain to be compared with their MACs"
    assert classifiers.title_of(lines) == said


def test_the_largest_of_several_pairs_needs_an_interval_for_all_of_them(tmp_path):
    """Significant alone, and not as the most extreme of all that were looked at."""
    results = with_pair(tmp_path, "convnext_base", 0.95, spread=0.05)
    pairs = pairs_of(results, "table1")
    (pair,) = [pair for pair in pairs if str(pair.first.case).startswith("convnext_base@")]
    alone, among = pair.verdict, pair.verdict_among(len(pairs))
    assert alone and alone.word == "faster"
    assert among and among.word == "undecided"
    assert classifiers.largest_inversion(pairs) is None


def test_a_wide_interval_is_said_and_left_out(tmp_path):
    rows = synthetic.study_rows()
    noisy = rows_where(rows, "throughput", "swin_base@224")[0]["result"]
    noisy["samples_s"] = [1.0, 2.0, 1.5, 3.0, 1.2] * 3
    results = results_of(tmp_path, rows)
    assert len(classifiers.compared(lines_of(results, "table1"))) == 23
    assert any(note.startswith("Swin-B: an interval wider") for note in table1(results).notes)


def test_too_few_rows_give_a_headline_that_says_so(tmp_path):
    results = results_of(tmp_path, [synthetic.throughput_row("restv2_tiny@224")])
    lines = lines_of(results, "table1")
    assert "Too little" in classifiers.title_of(lines)
    assert classifiers.rank_correlation(lines) is None
    assert plots_of(results) == []
    assert "Too few models were measured here" in page_of(results, drawn=False)


def test_no_two_labels_of_the_scatter_overlap(cpu):
    boxes = []
    original = figures.finish

    def look(figure, *rest):
        for axes in figure.axes:
            texts = [text for text in axes.texts if text.get_text()]
            boxes.append([labels.Box.of(text) for text in texts if not text.get_rotation()])
        return original(figure, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifiers, "finish", look)
        plot_of(cpu, "table1", "throughput_against_macs")
    assert [len(panel) for panel in boxes] == [24] * 4  # two panels, for a desktop and for a phone
    for panel in boxes:
        for i, box in enumerate(panel):
            assert all(box.overlap(other) == 0 for other in panel[i + 1 :])


def test_table_9_has_what_the_paper_prints_of_it_and_nothing_else(everything):
    table = table_of(everything, "table9")
    assert column(table, "GMACs paper") == ["4.0", "5.8", "7.7", "13.5"]
    assert set(column(table, "counted as")) == {"paper-no-attention"}
    assert set(column(table, "GMACs verdict")) == {"MATCH"}
    gone = {"M params paper", "params verdict", "images/s paper", "paper ×", "Top-1 %, printed"}
    assert not gone & set(table.headers)
    note = printed.rows("table9")[0].numbers["macs"].note
    assert table.notes == [f"all: {note}"]


def test_training_stands_beside_inference_of_the_same_kind(tmp_path):
    rows = [*synthetic.study_rows("table8"), *synthetic.study_rows("table1")]
    rows = [row for row in rows if not (row["harness"] == "compare" and "restv2_lite" in row["case"])]
    (compared,) = [row for row in rows if row["harness"] == "compare" and ":train / " in row["case"]]
    compared["result"]["blocks"] = [[3.5, 1.0, 1.0, 3.5]] * 10
    for case, seconds in (
        ("restv2_tiny@224:b1:fp32:eager:train", 3.0),
        ("restv2_tiny@224:b1:fp32:eager", 2.0),
    ):
        next(row for row in rows if row["case"] == case)["result"]["samples_s"] = [seconds] * 8
    table = table_of(results_of(tmp_path, *rows), "table8")
    assert column(table, "Model") == ["ResTv2-Lite", "ResTv2-T"]
    assert column(table, "images/s here")[1] == "0.33"
    assert column(table, "ms/step")[1] == "3000"
    # as the two were taken in turns, and not 1.50 as their rows have it; ResTv2-Lite's were not
    assert column(table, "× inference") == ["–", "3.50"]
    assert column(table, "GMACs forward")[1] == "4.08"
    assert column(table, "case")[1] == "restv2_tiny@224:train"
    assert "GMACs are those of the forward pass alone (core)." in table.caption
    assert not {"GMAC/s here", "share of peak", "here ×", "GMACs paper"} & set(table.headers)


def test_training_has_no_rate_because_its_macs_are_not_counted(everything):
    lines = lines_of(everything, "table8")
    assert [line.macs("core") for line in lines] == [1_436_000_000, 4_083_000_000]
    assert [(line.macs_per_s, line.share_of_peak) for line in lines] == [(None, None)] * 2
    data = frame.frame(everything, "table8")
    assert data["share_of_peak"].isna().all()
    assert list(data["times_inference"]) == pytest.approx([3.1, 3.1], rel=0.02)
