"""What was measured by hand: whole, first on the page, and nothing else listed as missing."""

import re

import pytest

from bench.cases import parse
from reports import chapters
from reports.results import load
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import by_hand, cell, csv_of, not_measured, page_of, results_of, table_of

TINY, SWIN = "restv2_tiny@224", "swin_tiny@224"


def measured(text: str, *, latency_s: float = 0.01) -> list[dict]:
    """What `measure` leaves: a count, a throughput and a latency."""
    timed = synthetic.throughput_row(text, study=None)
    late = synthetic.throughput_row(text, study=None)
    late.update(harness="latency", key=f"latency {text}")
    late["result"]["samples_s"] = [latency_s] * len(late["result"]["samples_s"])
    return [synthetic.count_row(text, study=None), timed, late]


def test_a_case_has_macs_parameters_memory_share_of_peak_and_a_file(tmp_path):
    rows = measured(TINY)
    rows[1]["result"]["peak_memory_bytes"] = 3 * 2**20
    results = results_of(tmp_path, *rows)
    table = table_of(results, "measured")
    assert len(table.rows) == 1
    assert cell(table, 0, "latency, ms") == "10.0"
    assert cell(table, 0, "GMACs") == f"{synthetic.gmacs(parse(TINY)):.2f}"
    assert cell(table, 0, "M parameters") == "30.43"
    assert cell(table, 0, "peak memory, MiB") == "3"
    (record,) = csv_of(results, "measured.csv")
    assert float(record["latency_ms"]) == pytest.approx(10)
    assert {
        "core_macs",
        "parameters",
        "share_of_peak",
        "peak_memory_bytes",
        "when",
        "protocol",
    } <= record.keys()


def test_it_comes_first_and_nothing_that_nobody_asked_for_is_missing(tmp_path):
    results = results_of(tmp_path, *measured(TINY), synthetic.compare_row(TINY, SWIN, 1.2, study=None))
    assert by_hand(results) == [[f"{TINY}:b1:fp32:eager"], [f"{TINY}:b1:fp32:eager / {SWIN}:b1:fp32:eager"]]
    html = page_of(results, drawn=False)
    sections = re.findall(r'<section id="([\w-]+)"', html)
    assert sections[0] == "by-hand"
    assert not any(name.startswith("study-") for name in sections)
    assert not_measured(results).rows == []
    assert "not measured yet" not in html and ">missing<" not in html


def test_an_own_study_comes_before_the_answer_and_a_built_in_one_after_it(tmp_path):
    results_of(tmp_path, table7=synthetic.study_rows("table7"))
    (tmp_path / "cpu" / "mine.toml").write_text(f'name = "mine"\nquestion = "Mine?"\ncases = ["{TINY}"]\n')
    synthetic.write(tmp_path, [synthetic.throughput_row(TINY, study="mine")], "mine.jsonl")
    anchors = [told.chapter.anchor for told in chapters.tell(load(tmp_path))]
    places = [anchors.index(name) for name in ("study-mine", "sentences", "study-table7", "gaps")]
    assert places == sorted(places)


def test_a_quick_look_lists_as_missing_only_what_it_asks_for(tmp_path):
    """Its pairs are none, and the whole run's are not held against it."""
    rows = [
        row
        for row in synthetic.study_rows("table6", protocol={"name": "quick", "visits": 1})
        if row["harness"] != "compare"
    ]
    results = results_of(tmp_path / "quick", table6=rows)
    assert not_measured(results).rows == []
    whole = [row for row in synthetic.study_rows("table6") if row["harness"] != "compare"]
    assert {row[1].text for row in not_measured(results_of(tmp_path / "whole", table6=whole)).rows} == {
        "compare"
    }
