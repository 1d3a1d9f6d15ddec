"""`measure`, `compare` and `run`, with real workers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import jobs, protocols, record, studies
from bench.machine import provenance
from bench.protocols import Rules
from bench.studies import Study
from tests.support.command_line import bench, record_of
from tests.support.json_schema import SCHEMA, faults
from tests.support.sweeps import sweep, swept

pytestmark = pytest.mark.usefixtures("place", "counted_here")


TINY = Rules("default", 1, 0.0, 0.0, 6, None, 0.02, limit_s=100)


@pytest.fixture
def in_no_time(monkeypatch) -> None:
    """The protocols, but for a second or less."""
    for name in ("default", "quick"):
        monkeypatch.setitem(protocols.PROTOCOLS[name], "cpu", TINY)


def unhurried(line: str) -> str:
    """A row's line without the notes that a busy host adds, which a test cannot foresee."""
    return re.sub(r"; (busy host|a container's quota|\d+ threads? computed)[^;]*", "", line)


def test_measure_prints_macs_throughput_latency_and_memory_and_keeps_the_rows(place, in_no_time):
    said = bench("measure", "nets:Net@8:b2", "--gpu", "cpu")
    counted, rate, memory, delay = said.out.splitlines()
    assert counted.startswith("nets:Net@8:eager: 137 parameters, 3,908 MACs")
    assert rate.startswith("nets:Net@8:b2:fp32:eager: ")
    assert unhurried(rate).endswith(" images/s, back to back")
    assert re.search(r" ms for a batch of 2, each waited for(; p9\d [\d.]+)*$", unhurried(delay))
    assert "peak memory" in memory
    assert "of the largest logit off its own eager" in memory
    assert "nets:Net" not in said.err  # each row is said once
    rows = record.read(place / "results" / "cpu").rows
    assert [row["harness"] for row in rows] == ["macs", "throughput", "latency"]
    assert {row["outcome"] for row in rows} == {"ok"}


LOOKS = [("measure", "nets:Net@8"), ("compare", "nets:Net@8", "nets:Net@9")]


@sweep
@pytest.mark.parametrize("asked", LOOKS)
def test_a_quick_look_is_one_visit_from_which_nothing_is_concluded(place, asked):
    timed = [
        printed
        for printed in bench(*asked, "--gpu", "cpu", "--quick", "--json").json()["records"]
        if printed["harness"] != "macs"
    ]
    assert {(printed["protocol"], printed["visits"]) for printed in timed} == {("quick", 1)}
    assert {printed["interval"] for printed in timed} == {"the spread within one run"}
    assert {printed["verdict"] for printed in timed} <= {None, "undecided"}


def test_compare_prints_a_ratio_with_its_interval_and_as_json_the_same(place, in_no_time):
    printed = record_of("compare", "nets:Net@8", "nets:Net@16:b3")
    assert (printed["harness"], printed["outcome"]) == ("compare", "ok")
    assert printed["case"] == "nets:Net@8:b1:fp32:eager"
    assert printed["other_case"] == "nets:Net@16:b3:fp32:eager"
    assert printed["ratio_low"] <= printed["ratio"] <= printed["ratio_high"]
    (row,) = record.read(place / "results" / "cpu").rows
    assert printed["row"] == row["key"]
    from bench.screen import describe

    line = describe(row)
    assert re.search(
        r" / nets:Net@16:b3:fp32:eager: the first takes [0-9.]+ times as long an image \(.* to ", line
    )


@pytest.fixture
def unchanging_source(monkeypatch) -> None:
    """Somebody may edit the checkout while the tests run; the rows of a moment ago are to count even so."""
    of_now = provenance.source_hash(["bench", "models", "kernels"])
    monkeypatch.setattr(jobs, "source_hash", lambda paths: of_now)


@pytest.mark.parametrize(
    "tried",  # after each that fails, a worker starts anew
    swept([["malicious_zip.pth"], ["malicious_zip.pth", "foreign.pth"]], lambda tried: len(tried) == 1),
)
def test_run_measures_a_study_says_what_failed_and_returns_1_then_reuses_it(
    place, in_no_time, unchanging_source, checkpoints, monkeypatch, tried
):
    good, bad = "nets:Net@8", [f"restv2_lite[weights={name}]@32" for name in tried]
    chosen = [good, *bad]
    study = Study("trial", "Is this a trial?", lambda kind, quick: tuple(chosen))
    monkeypatch.setattr(studies, "STUDIES", {"trial": study})
    said = bench("run", "--study", "trial", "--study", "trial", "--quick", "--json", status=1)
    assert list(faults(said.json(), SCHEMA)) == []
    (summary,) = said.json()["runs"]  # named twice, run once
    assert summary["device"] == "cpu"
    assert (summary["measured"], summary["reused"], summary["failed"]) == (1 + 2 * len(chosen), 0, len(bad))
    assert {"all_s", "imports_s", "build_s", "forward_s"} < set(summary)
    outcomes = [printed["outcome"] for printed in said.json()["records"]]
    assert outcomes.count("ok") == 2 + len(chosen)
    rows = record.read(place / "results" / "cpu").rows
    assert [row["harness"] for row in rows] == [
        "peaks",
        *["macs"] * len(chosen),
        *["throughput"] * len(chosen),
    ]
    for name in tried:
        (row,) = (row for row in rows if f"weights={name}" in row["case"] and row["harness"] == "throughput")
        assert row["outcome"] == "failed"
        assert checkpoints[name] in row["reason"]
        assert f"{row['case']}: failed: {row['reason']}" in said.err.splitlines()
    assert not Path("executed").exists()

    study = Study("trial", "Is this a trial?", lambda kind, quick: (good,))
    monkeypatch.setattr(studies, "STUDIES", {"trial": study})
    again = bench("run", "--study", "trial", "--quick")
    assert again.out == ""
    assert "3 of 3 rows are there already and are used again" in again.err
    assert "0 rows measured, 3 used again, 0 failed" in again.err
    assert len(record.read(place / "results" / "cpu").rows) == len(rows)


@sweep
def test_what_this_device_does_not_run_ends_a_study_well_and_a_single_measurement_badly(
    in_no_time, monkeypatch
):
    graph = "core_lite[graph,stage=4]@32:b1"
    study = Study("trial", "?", lambda kind, quick: (graph, "core_lite[stage=4]@32:b1:sdpa"))
    monkeypatch.setattr(studies, "STUDIES", {"trial": study})
    said = bench("run", "--study", "trial", "--quick", "--json")
    assert f"{graph}:fp32:eager: refused: a CUDA graph needs an NVIDIA GPU" in said.err
    assert "0 failed, 1 not to be had here" in said.err
    assert said.json()["runs"][0]["refused"] == 1
    said = bench("measure", graph, status=1)
    assert "refused: a CUDA graph needs an NVIDIA GPU" in said.out


@pytest.mark.parametrize("command", [["run", "--study", "table1"], ["measure", "nets:Net@8"]], ids=" ".join)
def test_a_results_folder_that_cannot_be_written_is_one_line_and_status_1(place, command):
    (place / "results").write_text("a file where a folder has to be")
    said = bench(*command, "--gpu", "cpu", status=1)
    assert said.out == ""
    line = said.err.splitlines()[-1]
    assert line.startswith("error: cannot write results/cpu/")
    assert len(said.err.splitlines()) <= 2  # what was to be run, and why it is not


def test_a_second_run_into_the_same_file_is_refused(place):
    with record.ResultsFile(Path("results/cpu/measure.jsonl")).locked():
        assert "another run is measuring into" in bench("measure", "nets:Net@8", status=1).err
