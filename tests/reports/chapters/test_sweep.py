"""Batch and resolution."""

from bench.studies import STUDIES
from reports.results import Results
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import all_tables, plot_of, results_of

NO_GAIN = "Achieved MACs a second, step by step"


def test_without_rows_of_the_sweep_there_are_no_figures_of_it(cpu):
    assert [table.name for table in all_tables(cpu)] == ["table1"]
    assert plot_of(cpu, "sweep", "rate_against_batch") is None
    assert plot_of(cpu, "sweep", "rate_against_resolution") is None


def title(results: Results, name: str) -> str:
    plot = plot_of(results, "sweep", name)
    assert plot
    return plot.title


def test_a_gain_is_of_the_ends_taken_in_turns_and_not_of_their_rows(tmp_path):
    rows = synthetic.study_rows("sweep")
    for row in rows:
        if row["harness"] == "compare":  # eight images take four times as long as one
            row["result"]["blocks"] = [[4.0, 1.0, 1.0, 4.0]] * 15
    results = results_of(tmp_path / "turns", rows)
    assert "8 reaches 2.0× the MACs a second" in title(results, "rate_against_batch").replace("ResTv2-T ", "")
    apart = [row for row in rows if row["harness"] != "compare"]
    results = results_of(tmp_path / "apart", apart)
    assert title(results, "rate_against_batch") == title(results, "rate_against_resolution") == NO_GAIN


def test_a_gain_over_launches_is_none(tmp_path):
    rows = synthetic.study_rows("sweep", "cuda")
    for row in rows:
        if row["harness"] == "compare":
            row["result"]["device_share"] = [0.99, 0.3]
    assert title(results_of(tmp_path, rows), "rate_against_batch") == NO_GAIN


def test_the_larger_of_a_pair_comes_first():
    for kind in ("cpu", "cuda"):
        for one, other in STUDIES["sweep"].compared(kind, False):
            images = [(case.batch or 1) * case.size[0] * case.size[1] for case in (one, other)]
            assert images[0] > images[1]
