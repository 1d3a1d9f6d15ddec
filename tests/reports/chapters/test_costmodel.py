"""The chapter of the cost model: sentences, tables and figure from rows; and from print alone, where there are none."""

from __future__ import annotations

import re

import pytest

from bench.costmodel import errors
from reports.chapter import Told
from reports.chapters import costmodel
from reports.results import Results
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import ROOT, results_of

REFERENCE = ROOT / "results"


@pytest.fixture(scope="module")
def committed() -> Told:
    from reports.results import load

    return told(load(REFERENCE, "reference/cpu"))


def told(results: Results) -> Told:
    (chapter,) = costmodel.CHAPTERS
    return Told(chapter, results)


def test_the_sentences_have_the_errors_of_both_models(committed):
    (fit,) = committed.context["here"]
    first, of_print = committed.context["sentences"]
    for judged in (fit.alone, fit.best):
        assert (
            f"within {errors(judged.held).median:.1f} % and" in first
            or f"within {errors(judged.held).median:.2f} % and" in first
        )
    assert first.startswith("Cpu, fp32, eager") and of_print.startswith("The paper's Table 1, printed")


def test_the_tables_hold_each_model_and_each_family(committed):
    models, families = committed.context["models"], committed.context["families"]
    assert [row[1].text for row in models.rows][:2] == ["MACs", "MACs and bytes"]
    names = [row[1].text for row in families.rows]
    assert {"ResTv1", "ResTv2", "Swin", "ConvNeXt", "RegNetY", "Focal"} <= set(names)
    assert "PVT" in names and len(names) == 7 + 6  # measured here, and printed
    published = committed.context["published"]
    assert {row[0].text for row in published.rows} == {"rtx3090", "rtx4090", "v100", "h100"}


def test_the_figure_has_a_form_for_a_phone_and_says_what_it_shows(committed):
    (plot,) = committed.plots
    assert plot.narrow and plot.narrow.name == "predicted_against_measured_narrow"
    assert re.match(r"MACs alone are [\d.]+ % off on families that they were not fitted to", plot.title)
    assert all(
        text in form.svg
        for form in (plot, plot.narrow)
        for text in ("MACs alone: median", "Cost model: median")
    )


def test_without_enough_rows_there_are_the_printed_ones_and_no_figure(tmp_path):
    few = told(results_of(tmp_path, synthetic.study_rows("table7")))
    assert few.context["here"] == [] and few.plots == []
    assert len(few.context["sentences"]) == 1


def test_without_enough_rows_the_answer_has_the_numbers_of_the_terms_that_it_names(tmp_path):
    """Those of MACs and bytes, as the README's table has them, and not of the best terms that there are."""
    words = costmodel.answer(told(results_of(tmp_path, [synthetic.throughput_row("restv2_tiny@224")])))
    (row,) = re.findall(
        r"RTX 4090, fp16, eager \| 1444 \| (\S+) % \| (\S+) %", (ROOT / "README.md").read_text()
    )
    assert re.findall(r"(\S+) %", words.replace("\xa0", " ")) == [row[1], row[0]]
    assert "MACs and bytes are the better guide" in words


def test_a_quick_look_at_a_case_that_was_measured_in_full_is_none_of_the_fits_rows(tmp_path):
    """The rows are those of `make bench` and of a quick Table 9, which asks for cases of Table 1 too."""
    quick = {"name": "quick", "visits": 1}
    looks = [row for row in synthetic.study_rows("table9", protocol=quick) if row["harness"] == "throughput"]
    both = costmodel.answer(told(results_of(tmp_path, table1=synthetic.study_rows(), table9=looks)))
    assert "models measured here (cpu, fp32, eager)" in both


def test_the_answer_says_which_rows_say_less_than_they_seem_to(committed):
    """The H100's are of one visit each; of ResTv2-T, S and B and Swin-B the GPU computed in less than 90 % of it."""
    from reports.results import load

    of_h100 = costmodel.answer(told(load(REFERENCE, "reference/h100")))
    assert "(h100, fp16, eager; 20 of one visit, 4 launch-bound)" in of_h100
    assert "visit" not in costmodel.answer(committed)


def test_what_is_told_of_a_fit_says_how_many_of_its_rows_are_uncertain(tmp_path):
    """In the sentence, the figure and the table of devices; and a row without an interval is none of its rows."""
    timed = [row for row in synthetic.study_rows() if row["harness"] == "throughput"]
    wide, none = ({**timed[place], "result": synthetic.timing_result(1.0)} for place in (0, 1))
    wide["result"]["samples_s"] = 3 * [1.0, 1.3, 0.9, 1.1, 1.0]
    none["result"]["samples_s"] = 3 * [1.0, 1.5, 2.0, 2.5, 3.0]
    results = results_of(tmp_path, [*timed[2:], wide, none])
    (fit,) = told(results).context["here"]
    assert len(fit.campaign.rows) == len(timed) - 1
    assert fit.campaign.left == [(none["case"], "without an interval")]
    of_one = "1 with an interval wider than ± 10 %"
    about = f"{of_one}, 1 more without an interval left out"
    assert f"(cpu, fp32, eager; {about})" in costmodel.answer(told(results)).replace("\xa0", " ")
    assert told(results).context["sentences"][0].startswith(f"Cpu, fp32, eager (23 rows: {about}): ")
    (plot,) = told(results).plots
    assert f"({of_one})" in re.sub(r"\s+", " ", re.sub("<[^>]+>", "", plot.svg))
