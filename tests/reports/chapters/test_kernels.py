"""The study of kernels, from synthetic rows: nothing here was measured."""

import io

import pytest
from rich.console import Console

from bench.cases import parse
from reports.chapters import kernels
from reports.tables import to_terminal
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import (
    page_of,
    plot_of,
    results_of,
    tables_of,
    told_of,
)
from tests.support.sweeps import swept

FUSED = "core_tiny[graph,stage=1]@224:b64:fused"


BANDWIDTH, PEAK = 4800e9, 989.5e12  # of an H200 in fp16, as bench/machine/gpus.toml has them


@pytest.fixture(scope="module")
def rows():
    return synthetic.study_rows("kernels", "cuda")


@pytest.fixture(scope="module")
def of_one(rows):
    """Of one problem, in every way; of the others counts alone."""
    return [row for row in rows if row["harness"] == "macs" or "stage=1]@224:b64" in row["case"]]


@pytest.fixture(scope="module")
def results(rows, tmp_path_factory):
    return results_of(tmp_path_factory.mktemp("kernels"), rows)


def problems_of(results):
    return kernels.problems(told_of(results, "kernels"))


def the(problems, name, batch, size=(224, 224)):
    (problem,) = [
        problem
        for problem in problems
        if (problem.name, problem.batch, problem.case.size) == (name, batch, size)
    ]
    return problem


def floor_of(name, batch, size=(224, 224)):
    def find(results):
        return the(problems_of(results), name, batch, size).floor_s

    return find


def test_the_floor_of_few_keys_is_memorys(results):
    """64 images: q and out of 3136 queries, k and v of 49 keys, 96 channels; 64 filters a channel and the norm."""
    elements = 64 * 96 * (2 * 3136 + 2 * 49) + 96 * (10 * 64 + 2)
    assert floor_of("ResTv2-T, stage 1", 64)(results) == pytest.approx(2 * elements / BANDWIDTH)


def test_the_floor_of_many_keys_is_arithmetics(tmp_path):
    """800 × 1344 has two products of 67200 queries with 1050 keys; synthetic counts are ours to set."""
    text = "core_tiny[stage=1]@800x1344"
    count = synthetic.count_row(text, study="kernels", device=synthetic.H200)
    products = 2 * 67200 * 1050 * 96
    count["result"]["conventions"]["core"]["by_operator"]["matmul"] = products
    timing = synthetic.throughput_row(
        "core_tiny[graph,stage=1]@800x1344:b8:fused", 8, "fp16", study="kernels", device=synthetic.H200
    )
    results = results_of(tmp_path, [count, timing])
    floor = floor_of("ResTv2-T, stage 1", 8, (800, 1344))(results)
    assert floor == pytest.approx(8 * 2 * products / PEAK)


def test_the_floor_of_a_feed_forward_is_arithmetics(results):
    """Two products of 64 × 3136 tokens with 96 × 384 weights take longer than 96 channels in and out."""
    macs = 64 * 3136 * 2 * 96 * 384
    assert floor_of("MLP of ResTv2-T, stage 1", 64)(results) == pytest.approx(2 * macs / PEAK, rel=1e-3)


def test_share_of_the_roof_is_the_floor_over_the_time_of_a_cold_call(results):
    """Memory's floor says nothing of a call that finds its tensors in a cache."""
    problem = the(problems_of(results), "ResTv2-T, stage 1", 64)
    cold = problem.lines["fused cold"].seconds.value
    assert problem.share_of_roof("fused") == pytest.approx(problem.floor_s / cold)
    assert problem.lines["fused"].seconds.value < cold
    # no word on which of SDPA's kernels is fastest: they were measured apart
    assert {"sdpa=flash, µs", "sdpa=math, µs"} <= set(
        kernels.all_tables(told_of(results, "kernels"))[0].headers
    )


def test_where_no_cold_call_was_measured_there_is_no_share_of_the_roof(of_one, tmp_path):
    problems = problems_of(results_of(tmp_path, [row for row in of_one if "cold" not in str(row["case"])]))
    problem = the(problems, "ResTv2-T, stage 1", 64)
    assert problem.seconds("fused") and problem.floor_s and problem.share_of_roof("fused") is None


def test_a_call_faster_than_the_floor_is_noted(of_one, tmp_path):
    """At batch 64 it is 16 µs."""
    warm = FUSED.replace("b64", "b64:fp16")
    chosen = (warm, warm.replace("[", "[cold,"))
    changed = [
        {**row, "result": {**row["result"], "samples_s": [1e-6 for _ in row["result"]["samples_s"]]}}
        if row["harness"] == "throughput" and parse(row["case"]) in map(parse, chosen)
        else row
        for row in of_one
        if row["harness"] != "compare"
    ]
    notes = tables_of(results_of(tmp_path, changed), "kernels")[0].notes
    where = "ResTv2-T, stage 1 at 224, batch 64, fused"
    why = "the peaks of the device are too low"
    assert f"{where}: faster than the floor: tensors stayed in a cache, or {why}" in notes
    assert f"{where} cold: faster than the floor: {why}" in notes


def test_a_batch_that_memory_halved_has_its_own_floor(of_one, tmp_path):
    changed = [row for row in of_one if row["harness"] == "macs"]
    for row in of_one:
        if row["harness"] == "throughput" and "core_tiny[graph,stage=1]@224:b64:fp16:eager" in row["case"]:
            row = {**row, "result": {**row["result"], "batch": 32}}
        changed.append(row)
    problem = the(problems_of(results_of(tmp_path, changed)), "ResTv2-T, stage 1", 64)
    assert problem.floors_s["eager"] < problem.floors_s["fused"] == problem.floor_s


def test_every_problem_is_a_row_and_every_way_a_column(results):
    tables = {table.name: table for table in tables_of(results, "kernels")}
    assert tables.keys() == {"kernels", "kernels_attention", "kernels_mlp", "kernels_models", "kernels_pairs"}
    cores = tables["kernels"]
    assert len(cores.rows) == 2 * 4 * 3 * 4
    for impl in ("eager", "sdpa", "compile", "fused"):
        assert {f"{impl}, µs", f"{impl} cold, µs"} <= {*cores.headers}
    mlps = tables["kernels_mlp"]
    assert len(mlps.rows) == 2 * 2 * 2 * 2
    assert {"floor, µs", "eager, µs", "compile cold, µs", "fused, share of roof"} <= {*mlps.headers}
    assert not any("sdpa" in header for header in mlps.headers)
    assert [row[0].text for row in tables["kernels_models"].rows] == [
        "ResTv2-T [mhim]",
        "ResTv2-T",
        "ResTv2-L",
    ]
    assert "fused+compile, images/s" in tables["kernels_models"].headers
    ratios = tables["kernels_pairs"]
    assert {"eager / fused", "sdpa / fused", "compile / fused", "compile / fused+compile"} <= {
        *ratios.headers
    }
    cell = ratios.rows[0][ratios.headers.index("eager / fused")]
    assert cell.sort == pytest.approx(3.5, rel=0.02)  # as the synthetic rows have it
    low, high = cell.text.partition("(")[2].rstrip(")").split(" to ")
    assert isinstance(cell.sort, float)
    assert float(low) < cell.sort < float(high)


def test_what_was_refused_says_so_and_is_no_number(of_one, tmp_path):
    refused = [
        {**row, "outcome": "refused", "reason": "use the cuda12 stack", "result": None}
        if row["harness"] == "throughput" and row["case"].endswith(":fused")
        else row
        for row in of_one
        if row["harness"] != "compare"
    ]
    results = results_of(tmp_path, refused)
    table = tables_of(results, "kernels")[0]
    assert {row[table.headers.index("fused, µs")].text for row in table.rows} == {"refused"}
    assert "fused, share of roof" not in table.headers
    assert any("refused: use the cuda12 stack" in note for note in table.notes)


def test_only_what_was_tried_is_shown(rows, tmp_path):
    tried = [
        row for row in rows if "core_tiny[graph,stage=1]@224:b64" in row["case"] or row["harness"] == "macs"
    ]
    results = results_of(tmp_path, tried)
    tables = tables_of(results, "kernels")
    assert [(table.name, len(table.rows)) for table in tables] == [("kernels", 1), ("kernels_pairs", 1)]


@pytest.mark.parametrize("kind", swept(["cpu", "cuda"], lambda kind: kind == "cpu"))
def test_the_figure_has_a_panel_for_each_stage_and_map(kind, tmp_path):
    results = results_of(tmp_path, synthetic.study_rows("kernels", kind))
    plot = plot_of(results, "kernels", "roof")
    assert plot
    for text in ("stage 1", "stage 4", "ResTv2-T at 224", "share of roof", "eager"):
        assert text in plot.svg
    assert ("fused" in plot.svg) == (kind == "cuda")
    assert plot.title.startswith("The nearest to the roof is ")
    assert f'<svg id="{plot.name}"' in page_of(results)


def test_without_peaks_there_is_no_roof(of_one, tmp_path):
    unknown = {**synthetic.H200, "profile": None}
    results = results_of(tmp_path, [{**row, "device": unknown} for row in of_one])
    assert plot_of(results, "kernels", "roof") is None
    table = tables_of(results, "kernels")[0]
    assert "floor, µs" not in table.headers and "fused, µs" in table.headers


def test_the_tables_of_a_whole_run_fit_a_terminal(results):
    for table in tables_of(results, "kernels"):
        out = io.StringIO()
        Console(file=out, width=100).print(to_terminal(table))
        assert max(map(len, out.getvalue().splitlines())) <= 100
