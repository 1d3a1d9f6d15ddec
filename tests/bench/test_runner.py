"""What the parent decides: which rows are measured, used again or tried again, with a stand-in for the worker."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import jobs as jobs_module
from bench import record, runner
from bench.cases import parse
from bench.errors import UsageError
from bench.jobs import Expectations, job_of
from bench.machine import devices, provenance
from bench.protocols import PROTOCOLS
from bench.runner import Runner
from bench.screen import describe
from tests.support.runs import RULES, Heard, run, throughput


class StandIn:
    """Answers at once with what `answers` makes of a job, and remembers what it was asked. No process."""

    threads, import_s = 1, 0.0

    def __init__(self, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.answer, self.kills = answer, 0
        self.modules: set[str] = set()
        self.asked: list[dict[str, Any]] = []

    def ask(self, job, limit_s, on_phase):
        on_phase("pretending")
        self.asked.append(job)
        return self.answer(job)

    def kill(self):
        self.kills += 1


SAMPLES = {"samples_s": [0.1] * 6, "batch": 2, "batch_requested": 2, "statistic": "median"}
SAMPLES |= {
    "parameters": 1,
    "conventions": {"core": {"macs": 1, "by_operator": {}}},
}  # a job that counts is answered too


@pytest.fixture
def stand_in(monkeypatch) -> StandIn:
    worker = StandIn(lambda job: {"result": SAMPLES, "notes": [], "spent": {"all": 1.0}, "readings": None})
    monkeypatch.setattr(runner, "Worker", lambda device, *harnesses: worker)
    return worker


@pytest.fixture
def changing(tmp_path, monkeypatch) -> Path:
    """A user's module that a test may change, in a package of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    package = tmp_path / "changing_nets"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "net.py").write_text("class Net: ...")
    return package / "net.py"


JOBS = [
    throughput("changing_nets.net:Net@32:b2"),
    job_of("macs", devices.cpu_device(), RULES, parse("changing_nets.net:Net@32")),
]


def test_the_second_run_measures_nothing_and_asks_no_worker(tmp_path, changing, stand_in):
    first, _ = run(tmp_path, JOBS)
    again, heard = run(tmp_path, JOBS)
    assert (again.measured, again.reused, again.failed) == (0, 2, 0)
    assert again.rows == first.rows
    assert len(stand_in.asked) == 2
    assert heard.said == ["2 of 2 rows are there already and are used again"]
    assert len(record.read(tmp_path).rows) == 2


def test_fresh_measures_again_and_the_old_row_stays(tmp_path, changing, stand_in):
    run(tmp_path, JOBS)
    summary, _ = run(tmp_path, JOBS, fresh=True)
    assert (summary.measured, summary.reused) == (2, 0)
    rows = record.read(tmp_path).rows
    assert [row["key"] for row in rows[:2]] == [row["key"] for row in rows[2:]]


def test_a_change_of_the_users_module_is_measured_again_and_going_back_is_not(tmp_path, changing, stand_in):
    before = changing.read_text()
    first, _ = run(tmp_path, JOBS)
    changing.write_text(before + "  # changed")
    second, _ = run(tmp_path, JOBS)
    assert (second.measured, second.reused) == (2, 0)
    for old, new in zip(first.rows, second.rows, strict=True):
        assert old["environment"]["source"]["hash"] != new["environment"]["source"]["hash"]
    changing.write_text(before)
    assert run(tmp_path, JOBS)[0].reused == 2


def test_a_change_of_the_weights_is_measured_again(tmp_path, stand_in):
    (tmp_path / "w.pth").write_bytes(b"old")
    job = throughput(f"restv2_lite[weights={tmp_path / 'w.pth'}]@32:b2")
    run(tmp_path, [job])
    assert run(tmp_path, [job])[0].reused == 1
    (tmp_path / "w.pth").write_bytes(b"new")
    assert run(tmp_path, [job])[0].reused == 0


def test_a_change_of_our_own_source_is_measured_again_by_the_harnesses_that_it_concerns(
    tmp_path, changing, stand_in, monkeypatch
):
    run(tmp_path, JOBS)
    closure = jobs_module.import_closure

    def with_one_more(file: Path) -> list[Path]:
        return [*closure(file), *([Path("bench/runner.py")] if file.stem == "speed" else [])]

    monkeypatch.setattr(jobs_module, "import_closure", with_one_more)
    summary, heard = run(tmp_path, JOBS)
    assert [row["harness"] for row in heard.rows] == ["throughput"]
    assert summary.reused == 1


def test_other_versions_are_measured_again(tmp_path, changing, stand_in, monkeypatch):
    run(tmp_path, JOBS)
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "9.9"})
    assert run(tmp_path, JOBS)[0].measured == 2


def test_another_device_or_protocol_is_timed_again_but_not_counted_again(tmp_path, changing, stand_in):
    run(tmp_path, JOBS)
    impatient = [replace(job, rules=replace(RULES, cap_s=9.0)) for job in JOBS]
    _, heard = run(tmp_path, impatient)
    assert [row["harness"] for row in heard.rows] == ["throughput"]

    other = replace(devices.cpu_device(), uuid="CPU-of-another-kind")
    heard = Heard()
    Runner(other, tmp_path, heard).run(JOBS, "tiny")
    assert [row["harness"] for row in heard.rows] == ["throughput"]


def test_beside_a_gpu_what_no_device_decides_is_counted_where_none_is_seen(monkeypatch):
    """PyTorch and Triton remember the GPU that a count planned for: what was compiled next was for another GPU."""
    places: list[devices.Device] = []

    def made(device):
        places.append(device)
        return object()

    monkeypatch.setattr(runner, "Worker", made)
    workers = runner.Workers(devices.Device("cuda", 0, "NVIDIA H200", "GPU-1", 140.0))
    kinds = {}
    for job in JOBS:
        workers.of(job)
        kinds[job.harness] = places[-1].kind
    assert kinds == {"macs": "cpu", "throughput": "cuda"}
    on_cpu = runner.Workers(devices.cpu_device())
    assert len({id(on_cpu.of(job)) for job in JOBS}) == 1


def test_another_study_or_another_file_reuses_the_row(tmp_path, changing, stand_in):
    run(tmp_path, JOBS)
    (tmp_path / "tiny.jsonl").rename(tmp_path / "earlier.jsonl")
    assert run(tmp_path, [replace(job, study="another") for job in JOBS])[0].reused == 2


@pytest.mark.parametrize(("shared", "noted"), [(True, True), (False, False), (None, False)])
def test_a_row_says_which_job_of_slurms_it_is_of_and_whether_others_run_there(
    tmp_path, changing, stand_in, monkeypatch, shared, noted
):
    job = {"job": "7", "node": "n1", "shared": shared}
    monkeypatch.setattr(provenance, "slurm", lambda: job)
    rows = run(tmp_path, JOBS)[0].rows
    assert [row["environment"]["slurm"] for row in rows] == [job, job]
    told = {row["harness"]: any("other jobs on the node" in note for note in row["notes"]) for row in rows}
    assert told == {"throughput": noted, "macs": False}  # which no neighbour can change


def test_a_job_that_is_listed_twice_is_one_row(tmp_path, changing, stand_in):
    summary, heard = run(tmp_path, [*JOBS, *JOBS])
    assert (summary.measured, summary.reused) == (2, 0)
    assert len(heard.expected) == len(stand_in.asked) == len(record.read(tmp_path).rows) == 2


def test_a_failed_row_is_tried_again_and_the_newest_counts(tmp_path, changing, stand_in):
    good = stand_in.answer
    stand_in.answer = lambda job: {"failed": "a bad day", "fatal": False}
    summary, _ = run(tmp_path, JOBS[:1])
    assert (summary.failed, summary.rows[0]["outcome"], summary.rows[0]["reason"]) == (
        1,
        "failed",
        "a bad day",
    )
    stand_in.answer = good
    summary, _ = run(tmp_path, JOBS[:1])
    assert (summary.measured, summary.failed) == (1, 0)
    (newest,) = record.newest(record.read(tmp_path).rows).values()
    assert newest["outcome"] == "ok"


def test_a_refused_row_is_no_failure_and_is_asked_for_again(tmp_path, changing, stand_in):
    stand_in.answer = lambda job: {"failed": "needs another GPU", "refused": True, "fatal": False}
    for _ in range(2):
        summary, _ = run(tmp_path, JOBS[:1])
        assert (summary.measured, summary.reused, summary.failed, summary.refused) == (1, 0, 0, 1)
        (row,) = summary.rows
        assert (row["outcome"], row["reason"]) == ("refused", "needs another GPU")
        assert describe(row).endswith(": refused: needs another GPU")


def test_a_fatal_failure_costs_the_worker_and_a_harmless_one_does_not(tmp_path, changing, stand_in):
    for fatal in (True, False):
        stand_in.answer, stand_in.kills = lambda job, fatal=fatal: {"failed": "x", "fatal": fatal}, 0
        run(tmp_path, JOBS)
        at_the_end = 1
        assert stand_in.kills == at_the_end + (len(JOBS) if fatal else 0)


def test_notes_are_kept(tmp_path, changing, stand_in):
    stand_in.answer = lambda job: {"result": SAMPLES, "notes": ["mind the gap"]}
    assert run(tmp_path, JOBS[:1])[0].rows[0]["notes"] == ["mind the gap"]
    assert record.read(tmp_path).rows[0]["notes"] == ["mind the gap"]


def test_a_failure_in_the_middle_keeps_what_was_measured_and_ends_the_worker(tmp_path, changing, stand_in):
    good = stand_in.answer

    def interrupted(job: dict[str, Any]) -> dict[str, Any]:
        if len(stand_in.asked) == 2:
            raise KeyboardInterrupt
        return good(job)

    stand_in.answer = interrupted
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, JOBS)
    assert stand_in.kills == 1
    assert len(record.read(tmp_path).rows) == 1
    stand_in.answer = good
    assert run(tmp_path, JOBS)[0].reused == 1


def test_broken_lines_and_torn_ones_are_said_and_the_rest_is_used(tmp_path, changing, stand_in):
    run(tmp_path, JOBS)
    file = tmp_path / "tiny.jsonl"
    file.write_bytes(b"junk\n" + file.read_bytes() + b'{"schema":1,')
    summary, heard = run(tmp_path, JOBS)
    assert summary.reused == 2
    assert heard.said[:2] == [
        "tiny.jsonl ended in half a line (a run was killed there); moved to tiny.torn",
        "tiny.jsonl line 1: not JSON, passed over",
    ]


def test_it_expects_a_case_to_take_what_it_took_before(tmp_path, changing, stand_in):
    stand_in.answer = lambda job: {"result": SAMPLES, "notes": [], "spent": {"all": 123.0}}
    _, heard = run(tmp_path, JOBS[:1])
    assert heard.expected[0] < 30
    changing.write_text("changed")
    _, heard = run(tmp_path, JOBS[:1])
    assert heard.expected == [123.0 + runner.START_S]


def test_a_case_that_the_defaults_make_impossible_is_wrong_usage_and_measures_nothing(tmp_path, stand_in):
    with pytest.raises(UsageError, match="autocast is for fp16 and bf16, not fp32"):
        run(tmp_path, [throughput("restv2_lite[autocast]@32")])
    assert stand_in.asked == []


def test_the_cpus_defaults_are_one_image_in_fp32():
    assert throughput("restv2_tiny").text == "restv2_tiny@224:b1:fp32:eager"


def test_a_gpus_defaults_are_its_profiles():
    from bench.machine.gpus import profiles

    h200 = profiles()["h200"]
    known = devices.Device("cuda", 0, "NVIDIA H200", "GPU-1", 140.0, profile=h200)
    unknown = replace(known, name="NVIDIA H20", profile=None)
    case = parse("restv2_tiny")
    assert f":b{h200.batch}:{h200.dtype}:" in job_of("throughput", known, RULES, case).text
    assert ":b64:fp16:" in job_of("throughput", unknown, RULES, case).text


def test_the_protocol_goes_before_the_device_and_the_case_before_both():
    paper = replace(RULES, batch=64, dtype="fp32")
    h20 = devices.Device("cuda", 0, "NVIDIA H20", "GPU-1", 140.0)
    assert job_of("latency", h20, paper, parse("restv2_tiny")).text == "restv2_tiny@224:b64:fp32:eager"
    assert job_of("latency", h20, paper, parse("restv2_tiny:b2:bf16")).text == "restv2_tiny@224:b2:bf16:eager"


def test_a_worker_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    from bench.errors import Failure

    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import sys\nif 'bench.harness.worker' in ' '.join(sys.orig_argv): sys.exit('no room for torch')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(Failure, match=r"the measuring process does not start: .*no room for torch"):
        run(tmp_path, [throughput("nets:Net@32:b2")])
    assert record.read(tmp_path).rows == []


@pytest.mark.parametrize(
    "damage", [{}, {"spent": None}, {"spent": {}, "protocol": {}}, {"spent": 3, "protocol": 4}]
)
def test_a_row_that_somebody_damaged_is_neither_used_nor_in_the_way(damage):
    rules = PROTOCOLS["default"]["cpu"]
    job = job_of("throughput", devices.cpu_device(), rules, parse("restv2_lite"))
    row = {"harness": job.harness, "case": job.text, "outcome": "ok", **damage}
    assert not runner._whole(row)
    assert Expectations([row], devices.cpu_device()).seconds(job) > 0


def test_a_row_that_was_edited_or_holds_another_rows_result_is_measured_again(tmp_path, changing, stand_in):
    """Whatever was damaged is no dead end: it is said, and measured anew."""
    run(tmp_path, JOBS)
    file = tmp_path / "tiny.jsonl"
    whole = file.read_text()
    file.write_text(whole.replace('"samples_s":[0.1', '"samples_s":[0.2', 1))
    summary, heard = run(tmp_path, JOBS)
    assert (summary.measured, summary.reused) == (1, 1)
    assert any("its sum is not that of its content" in said for said in heard.said)

    first, second = record.read(tmp_path).sealed[:2]
    shapes: list[record.Row] = [{"result": {}}, {"spent": None}]
    shapes += [{"case": second["case"]}, {"harness": second["harness"]}]
    for damage in shapes:
        file.write_bytes(record.line_of({**first, **damage}) + record.line_of(second))
        assert run(tmp_path, JOBS)[0].measured == 1, damage
    file.write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")  # by other hands: no sum
    assert run(tmp_path, JOBS)[0].measured == 2


def test_an_answer_that_is_no_result_is_a_failed_row(tmp_path, changing, stand_in):
    stand_in.answer = lambda job: {"result": {**SAMPLES, "samples_s": [math.nan]}, "notes": []}
    (row,) = run(tmp_path, JOBS[:1])[0].rows
    assert (row["outcome"], row["result"]) == ("failed", None)
    assert "a number that is not finite" in row["reason"]


def test_a_change_of_what_the_users_module_imports_is_measured_again(tmp_path, changing, stand_in):
    """Wherever it is found, and however deep."""
    for name, text in {"helper_a.py": "import helper_b, torch, json", "helper_b.py": "width = 1"}.items():
        (tmp_path / name).write_text(text)
    changing.write_text(changing.read_text() + "\ndef later():\n    from helper_a import nothing\n")
    run(tmp_path, JOBS)
    assert run(tmp_path, JOBS)[0].reused == 2
    (tmp_path / "helper_b.py").write_text("width = 2")
    assert run(tmp_path, JOBS)[0].reused == 0
