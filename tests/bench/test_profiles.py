"""Profiles as a reader has them: visits joined, peaks beside them, and what the command prints of a case or a trace."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from bench import cases, profiles, screen, stats, visits
from bench.__main__ import main
from bench.cli import CaseOrTrace
from bench.machine import provenance
from bench.roofline import Peaks
from bench.runner import Runner, Summary
from bench.trace import iterations
from bench.trace.joined import OUTSIDE
from bench.trace.operators import BY
from tests.support import synthetic_rows as synthetic
from tests.support.json_schema import faults
from tests.support.traces import annotation, launched, operator, written

SCHEMA = json.loads((provenance.ROOT / "bench" / "answers.schema.json").read_text())
SQUARE = [[64, 64], [64, 64]]
MACS, MOVED = 64**3, 3 * 4 * 64**2
CASE = "restv2_tiny@224:b1:fp32:eager"
VISITS = {"name": "default", "visits": 4}


def result_of(folder: Path, seconds: float, product_us: float = 60) -> dict[str, Any]:
    """A result of an iteration of so many seconds; profiled, a product and a sum take 90 of 100 µs."""
    events = [
        annotation("ProfilerStep#1", 0, 100),
        operator("aten::mm", 5, product_us, SQUARE),
        operator("aten::sum", 5 + product_us, 90 - product_us, [[64, 64]]),
    ]
    told = iterations.read(written(folder / "it.json", events, device=None), seconds)
    return {
        **synthetic.timing_result(seconds, spread=0),
        "profiled_s": [100e-6],
        "perturbation": 100e-6 / seconds,
        **told,
    }


@pytest.fixture
def visited(tmp_path) -> dict[str, Any]:
    """A row of four visits, of 1 ms, 1.1 ms, 0.9 ms and 1.05 ms."""
    rows = [
        synthetic.row(
            "profile",
            CASE,
            result_of(tmp_path, seconds),
            **{
                "key": f"it-{visit}",
                "group": "it",
                "visit": visit,
                "protocol": VISITS,
                "spent": {"all": 1.0},
            },
        )
        for visit, seconds in enumerate((1e-3, 1.1e-3, 0.9e-3, 1.05e-3))
    ]
    return visits.join(rows)


@pytest.fixture
def single(tmp_path) -> dict[str, Any]:
    protocol = {"name": "quick", "visits": 1}
    return synthetic.row("profile", CASE, result_of(tmp_path, 1e-3), protocol=protocol)


def of_name(row: dict[str, Any], name: str, **more: Any) -> profiles.Part:
    return next(part for part in profiles.parts(row, **more) if part.line.name == name)


def test_milliseconds_have_an_interval_over_the_visits(visited):
    part = of_name(visited, "matmul")
    times = [0.6 * seconds for seconds in (1, 1.1, 0.9, 1.05)]
    assert part.line.ms == part.ms.value == pytest.approx(statistics.geometric_mean(times), rel=1e-4)
    expected = stats.over_visits([[time] for time in times], 4)
    assert (part.ms.low, part.ms.high) == pytest.approx((expected.low, expected.high), rel=1e-4)
    assert part.record()["interval"] == "95 % over visits"
    assert part.share.value == pytest.approx(0.6)
    work = 2 * MACS / statistics.fmean(times) * 1e3 / 1e12
    assert part.line.tflops == pytest.approx(work, rel=1e-4)


def test_the_parts_of_all_visits_add_up_to_the_iteration(visited, tmp_path):
    visited["result"]["visits_lines"][0] = result_of(tmp_path, 1e-3, product_us=20)[
        "lines"
    ]  # quite other shares
    for by in BY:
        found = profiles.parts(visited, by)
        assert sum(part.line.ms for part in found) == pytest.approx(
            1e3 * visits.seconds(visited).value, rel=1e-4
        )
        assert sum(part.line.share for part in found) == pytest.approx(1)
    part = of_name(visited, "matmul")
    assert part.line.share == pytest.approx((0.2 + 3 * 0.6) / 4)
    assert part.ms.low is not None and part.ms.high is not None
    assert part.ms.low < part.ms.value < part.ms.high


def test_reasons_of_all_visits_have_their_mean_share(visited):
    (reason,) = visited["result"]["unattributed"]
    assert reason == {"why": OUTSIDE, "share": pytest.approx(0.1), "names": [OUTSIDE]}
    rows = [{**row, "result": {**row["result"]}} for row in visited["visits"]]
    rows[0]["result"]["unjoined"] = [{"why": "no table", "share": 0.4, "names": ["mine::op"]}]
    (reason,) = visits.join(rows)["result"]["unjoined"]
    assert reason == {"why": "no table", "share": pytest.approx(0.1), "names": ["mine::op"]}


def test_a_line_that_a_visit_does_not_have_has_no_interval(visited):
    of_first = visited["result"]["visits_lines"][0]
    of_first["operator"] = [line for line in of_first["operator"] if line["name"] != "reduction"]
    part = of_name(visited, "reduction")
    assert part.ms.low is None and part.record()["interval"] == "none: 3 of 4 visits"


def test_of_one_visit_the_ends_are_those_of_its_steps_and_are_called_so(single):
    part = of_name(single, "matmul")
    assert (part.ms.low, part.ms.high) == (0.6, 0.6)
    assert part.record()["interval"] == "the spread of the profiled steps"
    assert part.record()["share_low"] is None


def test_lines_come_by_phase_and_the_longest_first(single):
    assert [part.line.name for part in profiles.parts(single)] == ["matmul", "reduction", "outside"]


def test_lines_stand_beside_the_peaks_of_the_machine(single):
    rate = 2 * MACS / 0.6e-3 / 1e12
    line = of_name(single, "matmul", peaks=Peaks({"fp32": 10 * rate}, 100.0)).line
    assert line.share_of_peak == pytest.approx(0.1)
    assert line.share_of_bandwidth == pytest.approx(MOVED / 0.6e-3 / 100e9)
    assert line.ms_at_roof == pytest.approx(0.06)
    assert line.share_of_attainable == pytest.approx(0.1)
    slow_memory = of_name(single, "matmul", peaks=Peaks({"fp32": 10 * rate}, 0.1)).line
    assert slow_memory.ms_at_roof == pytest.approx(1e3 * MOVED / 0.1e9)
    assert of_name(single, "matmul").line.share_of_peak is None
    assert of_name(single, "reduction", peaks=Peaks({"fp32": 1.0}, 0.1)).line.share_of_peak is None


def test_a_class_beyond_the_peaks_that_were_measured_has_a_remark(single):
    rate = 2 * MACS / 0.6e-3 / 1e12
    beyond = of_name(single, "matmul", peaks=Peaks({"fp32": rate / 2}, MOVED / 0.6e-3 / 1e9 / 4)).line
    of_peak, of_memory = beyond.remarks
    assert of_peak.startswith("200 % of the peak that was measured: ")
    assert of_memory.startswith("400 % of the memory's rate that was measured: ")
    assert of_name(single, "matmul", peaks=Peaks({"fp32": 2 * rate}, 1e6)).line.remarks == ()


def test_a_line_on_the_screen_has_the_mean_shares_of_all_visits(visited, tmp_path):
    visited["result"]["visits_lines"][0] = visited["result"]["lines"] = result_of(
        tmp_path, 1e-3, product_us=20
    )["lines"]
    assert "ms: matmul 50 %, reduction 40 %, outside 10 %; MACs" in screen.describe(visited)


def test_a_table_for_people_says_what_is_missing_and_what_its_ends_are(single, visited):
    said = list(profiles.lines(single, "operator"))
    assert "0.10 times as long as without; 10.0 % of the iteration lies outside of operators" in said[0]
    assert said[2] == "all phases: 1.000 ms, 100.0 %"
    assert said[4].split()[:4] == ["matmul", "1", "0.6000", "0.6000–0.6000"]
    assert "10.0 % of the time belongs to no operator, outside of operators" in said
    assert said[-2].endswith("the spread of the profiled steps")
    assert list(profiles.lines(visited, "call"))[-2].endswith("95 % over visits")


# ---- the command


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


Asked = list[Any]


@pytest.fixture
def answer(place, monkeypatch) -> Callable[[dict[str, Any]], Asked]:
    """Has runs answer with a row, and remembers the jobs, and the variable that names a file for the trace."""

    def give(row: dict[str, Any]) -> Asked:
        asked: Asked = []

        def run(self: Runner, jobs: Any, name: str, *, fresh: bool) -> Summary:
            asked.append(([job.harness for job in jobs], name, os.environ.get(iterations.KEPT)))
            peaks = synthetic.row("peaks", "cpu", {"tflops": {"fp32": 1.0}, "bandwidth_gb_s": 10.0})
            return Summary([peaks, row], 2, 0, int(row["outcome"] == "failed"), 0, {})

        monkeypatch.setattr(sys.modules["bench.__main__"].Runner, "run", run)
        return asked

    return give


def bench(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(main, ["profile", *arguments], prog_name="python -m bench")
    assert done.exit_code == status, done.output
    return done


def test_a_case_is_measured_and_its_document_is_as_the_schema_has_it(answer, visited):
    asked = answer(visited)
    for by in BY:
        document = json.loads(bench("restv2_tiny", "--gpu", "cpu", "--by", by, "--json").stdout)
        assert list(faults(document, SCHEMA)) == []
        assert document["command"] == "profile"
        assert document["row"]["case"] == CASE
        assert document["profile"]["outside_share"] == pytest.approx(0.1)
        assert sum(record["share"] for record in document["records"]) == pytest.approx(1)
    assert asked == [(["peaks", "profile"], "measure", None)] * len(BY)
    table = bench("restv2_tiny", "--gpu", "cpu").stdout
    assert table.startswith(f"{CASE}: ") and "of roof" in table


def test_the_file_of_a_trace_that_is_kept_is_made_known_to_the_worker(answer, single, place):
    asked = answer(single)
    bench("restv2_tiny", "--gpu", "cpu", "--quick", "--keep-trace", "kept.json")
    assert asked[0][2] == str(place / "kept.json")
    assert iterations.KEPT not in os.environ
    assert (
        "cannot write absent/kept.json"
        in bench(*("restv2_tiny", "--gpu", "cpu", "--keep-trace", "absent/kept.json"), status=2).output
    )


def test_a_case_that_failed_is_told_and_is_status_1(answer, single):
    answer({**single, "outcome": "failed", "reason": "killed by SIGSEGV", "result": None})
    assert "failed: killed by SIGSEGV" in bench("restv2_tiny", "--gpu", "cpu", status=1).output
    document = json.loads(bench("restv2_tiny", "--gpu", "cpu", "--json", status=1).stdout)
    assert list(faults(document, SCHEMA)) == []
    assert (document["records"], document["profile"]) == ([], None)
    assert document["row"]["reason"] == "killed by SIGSEGV"


TAKEN = {
    "restv2_tiny": "case",
    "swin_tiny@224:b8": "case",
    "restv2_tiny@images/~4:b1": "case",
    "restv2_tiny@sizes.json": "case",
    "absent.json": "trace",
    "folder/absent.json.gz": "trace",
    "there": "trace",
    "./there": "trace",
}


@pytest.mark.parametrize("text", TAKEN)
def test_a_file_or_a_name_like_one_is_a_trace_and_anything_else_a_case(place, text):
    written(place / "there", launched("aten::mm", 0, 10, SQUARE))
    (place / "restv2_tiny").mkdir()  # a folder is no trace
    taken = CaseOrTrace().convert(text, None, None)
    assert isinstance(taken, Path if TAKEN[text] == "trace" else cases.Case)


def test_what_is_wrong_says_which_it_was_taken_for(place):
    assert (
        "absent.json: there is no such file; it is taken for a trace" in bench("absent.json", status=2).output
    )
    line = bench("restv2_tyni", status=2).output
    assert "did you mean 'restv2_tiny'?; taken for a case, as no such file is there" in line
    written(place / "it.json", launched("aten::mm", 0, 10, SQUARE))
    for option in (["--quick"], ["--gpu", "cpu"], ["--keep-trace", "x.json"]):
        assert (
            "are for a case, and it.json is taken for a trace" in bench("it.json", *option, status=2).output
        )
    assert (
        "a profile is of iterations back to back"
        in bench("restv2_tiny[cold]", "--gpu", "cpu", status=2).output
    )


def test_a_word_is_completed_to_models_else_to_files():
    complete = CaseOrTrace().shell_complete
    context: Any = click.Context(main)
    assert [item.value for item in complete(context, None, "restv2_l")] == ["restv2_large", "restv2_lite"]
    assert [item.type for item in complete(context, None, "traces/")] == ["file"]
