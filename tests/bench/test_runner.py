"""Running jobs: every case becomes one row, whatever its model does to the process that measures it.

The models are a user's, given as `module:Class`. One worker start costs seconds, so what needs real workers
shares two runs; what only the parent decides is driven through a stand-in for the worker.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import jobs as jobs_module
from bench import process, record, runner
from bench.cases import parse
from bench.errors import UsageError
from bench.jobs import Job, job_of
from bench.machine import devices, provenance
from bench.protocols import Rules
from bench.record import Row
from bench.runner import Runner, Summary
from bench.screen import Screen, describe

RULES = Rules("tiny", 1, 0.0, 0.0, 6, None, 1.0, 0.02, limit_s=120)

NETS = '''
import ctypes, os, signal, sys, time
from pathlib import Path
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


class Raises(Net):
    def forward(self, x):
        raise RuntimeError("a shape went wrong\\nand this is the rest of the story")


class Refuses(Net):
    def forward(self, x):
        raise ValueError("only for moons")


class Wordless(Net):
    def forward(self, x):
        raise ValueError


class Exits(Net):
    def forward(self, x):
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)


class Segfaults(Net):
    def forward(self, x):
        ctypes.string_at(0)


class Killed(Net):
    """Dies, and leaves a process behind that holds everything it had open."""

    def forward(self, x):
        if os.fork() == 0:
            Path("left-behind").write_text(str(os.getpid()))
            time.sleep(1000)
        while not Path("left-behind").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs(Net):
    def forward(self, x):
        Path("hangs-in").write_text(str(os.getpid()))
        time.sleep(1000)


class Chatty(Net):
    def forward(self, x):
        print('{"result": 1}\\n{"failed": "not so"}')
        os.write(1, b"\\xff\\xfe\\x00 garbage\\n")
        os.write(2, bytes(range(256)) * 4096)
        return super().forward(x)


class NaN(Net):
    def forward(self, x):
        return super().forward(x) * float("nan")


class Tuple(Net):
    def forward(self, x):
        return (super().forward(x),)


class Scalar(Net):
    def forward(self, x):
        return super().forward(x).sum()


class OneRow(Net):
    def forward(self, x):
        return super().forward(x)[:1]


class Greedy(Net):
    """No room for more than four images, says the GPU's allocator."""

    def forward(self, x):
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().forward(x)


class GreedyOnCpu(Net):
    """Asks for a petabyte beyond four images: what torch says then is torch's own."""

    def forward(self, x):
        if len(x) > 4:
            torch.empty(2**50, dtype=torch.uint8)
        return super().forward(x)


class Insatiable(Net):
    def forward(self, x):
        raise torch.OutOfMemoryError("CUDA out of memory.")


class Moody(Net):
    def forward(self, x):
        if not Path("calm").exists():
            raise ValueError("not in the mood")
        return super().forward(x)


class NeedsArguments(Net):
    def __init__(self, width):
        super().__init__()


def not_a_model():
    return "a string"
'''


class Heard(Screen):
    """Says nothing, remembers what was said and done."""

    def __init__(self) -> None:
        super().__init__(announce=False)
        self.said: list[str] = []
        self.rows: list[Row] = []
        self.expected: list[float] = []

    def say(self, text: str | None) -> None:
        if text:
            self.said.append(text)

    def live(self, expected_s):
        self.expected = list(expected_s)
        return super().live(self.expected)

    def done(self, job, row):
        self.rows.append(row)
        super().done(job, row)


def throughput(text: str, rules: Rules = RULES) -> Job:
    return job_of("throughput", devices.cpu_device(), rules, parse(text), study="a study")


def run(folder: Path, jobs: list[Job], *, fresh: bool = False) -> tuple[Summary, Heard]:
    heard = Heard()
    return Runner(devices.cpu_device(), folder, heard).run(jobs, "tiny", fresh=fresh), heard


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Iterator[Path]:
    """A folder of a user's with nets.py in it, as the current one; another user module is on PYTHONPATH."""
    folder, elsewhere = tmp_path_factory.mktemp("user"), tmp_path_factory.mktemp("elsewhere")
    (folder / "nets.py").write_text(NETS)
    (elsewhere / "nets_elsewhere").mkdir()
    (elsewhere / "nets_elsewhere" / "__init__.py").touch()
    (elsewhere / "nets_elsewhere" / "small.py").write_text(NETS)
    path = os.pathsep.join([str(provenance.ROOT), str(elsewhere)])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", path)
        patch.setattr(sys, "path", [str(folder), str(elsewhere), *sys.path])
        yield folder


@pytest.fixture(scope="module")
def same_source() -> str:
    return provenance.source_hash(["bench", "models", "kernels"])


def run_with_same_source(source: str, folder: Path, jobs: list[Job]) -> tuple[Summary, Heard]:
    """Somebody may edit the checkout while the tests run: two runs that take a while are to agree even so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs_module, "source_hash", lambda paths: source)
        return run(folder, jobs)


# --- Every kind of bad model, in one run -----------------------------------------------------------------

GOOD = "nets:Net@{}:b2"  # a good case of its own size after each bad one
HANG_LIMIT_S = 2.0
SMALL_LIMIT = replace(RULES, name="impatient", limit_s=HANG_LIMIT_S)

# Models after which the worker must be a new one, and the reason that the row must give.
LETHAL = {
    "Hangs": f"hung: not done after its limit of {HANG_LIMIT_S:.0f} s",  # first: imports are done by then
    "Raises": "RuntimeError: a shape went wrong",
    "Exits": "crashed with exit status 3: last words",
    "Segfaults": "killed by SIGSEGV",
    "Killed": "killed by SIGKILL (by someone, or by the kernel for want of memory)",
}
# Models that are wrong, but harm nothing: the same worker goes on.
HARMLESS = {
    "nets:Refuses": "only for moons",
    "nets:Wordless": "ValueError",
    "nets:NaN": "the output is not finite",
    "nets:Tuple": "the output is tuple for 2 images",
    "nets:Scalar": "the output is () for 2 images",
    "nets:OneRow": "the output is (1, 5) for 2 images",
    "nets:NeedsArguments": "cannot make nets:NeedsArguments: TypeError: ",
    "nets:not_a_model": "nets:not_a_model gives str, not a torch.nn.Module",
    "nets:Absent": "cannot make nets:Absent: AttributeError: module 'nets' has no attribute 'Absent'",
    "absent_module:Net": "cannot make absent_module:Net: ModuleNotFoundError: No module named ",
    "a..b:Net": "cannot make a..b:Net: ModuleNotFoundError",
    "timm:no_such_model": "timm has no model 'no_such_model'",
}


class Trial(SimpleNamespace):
    """A finished run and all that was seen of it."""

    summary: Summary
    heard: Heard
    starts: int
    rows: dict[str, Row]  # by the case's text up to the batch
    folder: Path


@pytest.fixture(scope="module")
def bad_run(workplace, same_source) -> Trial:
    jobs = [job_of("macs", devices.cpu_device(), RULES, parse("nets:Net@32")), throughput("nets:Net@32:b2")]
    jobs += [job_of("latency", devices.cpu_device(), RULES, parse("nets:Net@32:b2"))]
    pair = (parse("nets:Net@32:b2"), parse("nets:Chatty@32:b2"))
    jobs += [job_of("compare", devices.cpu_device(), RULES, *pair)]
    jobs += [job_of("macs", devices.cpu_device(), RULES, parse("nets:Refuses"))]
    jobs += [throughput(f"{model}@32:b2") for model in HARMLESS]
    jobs += [throughput("nets:Chatty@32:b2"), throughput("nets_elsewhere.small:Net@32:b2")]
    jobs += [throughput(f"nets:{model}@32:b11") for model in ("Greedy", "GreedyOnCpu")]
    for size, model in enumerate(LETHAL, 33):
        jobs += [
            throughput(f"nets:{model}@32:b2", SMALL_LIMIT if model == "Hangs" else RULES),
            throughput(GOOD.format(size)),
        ]
    jobs += [throughput("nets:Moody@32:b2"), throughput("nets:Insatiable@32:b8")]
    starts: list[int] = []
    folder = workplace / "results"
    with pytest.MonkeyPatch.context() as patch:
        start = process.Worker._start

        def counted_start(worker: process.Worker) -> None:
            starts.append(1)
            start(worker)

        patch.setattr(process.Worker, "_start", counted_start)
        summary, heard = run_with_same_source(same_source, folder, jobs)
    rows = {row["case"].split(":b")[0]: row for row in summary.rows if row["harness"] == "throughput"}
    return Trial(summary=summary, heard=heard, starts=len(starts), rows=rows, folder=folder, jobs=jobs)


def test_every_job_becomes_one_row_in_order_and_all_are_in_the_file(bad_run):
    assert [row["case"] for row in bad_run.summary.rows] == [job.text for job in bad_run.jobs]
    assert record.read(bad_run.folder) == record.Rows(bad_run.summary.rows, [])
    assert bad_run.heard.rows == bad_run.summary.rows
    assert len(bad_run.heard.expected) == len(bad_run.jobs)
    keys = [row["key"] for row in bad_run.summary.rows]
    assert len(set(keys)) == len(keys)


def test_the_summary_counts_what_happened(bad_run):
    failed = [row for row in bad_run.summary.rows if row["outcome"] == "failed"]
    assert bad_run.summary.failed == len(failed) == len(LETHAL) + len(HARMLESS) + 3
    assert (bad_run.summary.measured, bad_run.summary.reused) == (len(bad_run.jobs), 0)
    seconds = bad_run.summary.seconds
    assert 0 < seconds["forward"] < seconds["all"]
    assert 0 < seconds["imports"] < seconds["all"]


@pytest.mark.parametrize(("model", "reason"), HARMLESS.items())
def test_a_wrong_model_is_a_failed_row_with_its_reason(bad_run, model, reason):
    row = bad_run.rows[f"{model}@32"]
    assert row["outcome"] == "failed"
    assert row["reason"].startswith(reason)
    assert row["result"] is None


@pytest.mark.parametrize(("model", "reason"), LETHAL.items())
def test_a_model_that_ends_its_process_is_a_failed_row_with_its_reason(bad_run, model, reason):
    row = bad_run.rows[f"nets:{model}@32"]
    assert row["outcome"] == "failed"
    assert row["reason"].startswith(reason)
    assert row["reason"].isprintable()  # one line


def test_after_each_of_them_the_next_case_is_measured_by_a_fresh_worker(bad_run):
    for size in range(33, 33 + len(LETHAL)):
        assert bad_run.rows[f"nets:Net@{size}"]["outcome"] == "ok"
    assert bad_run.starts == 1 + len(LETHAL)


def test_what_a_dead_worker_left_behind_is_ended_too(bad_run, workplace):
    for left in ("left-behind", "hangs-in"):
        pid = int((workplace / left).read_text())
        assert not alive(pid), f"{left} still runs as {pid}"


def alive(pid: int, patience_s: float = 5.0) -> bool:
    """Whether the process goes on running; a killed one may take a moment, and be a zombie after that."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.05)
    return True


def test_a_counting_job_does_not_run_the_model_and_fails_where_it_must(bad_run):
    counted, refused = (row for row in bad_run.summary.rows if row["harness"] == "macs")
    # 3·4·9 products for each of 30² pixels, and the linear layer's 4·5
    assert counted["result"]["conventions"]["core"]["macs"] == 3 * 4 * 9 * 30**2 + 20
    assert counted["case"] == "nets:Net@32:eager"  # neither batch nor dtype changes a count
    assert refused["outcome"] == "failed"
    assert refused["reason"].endswith(": ValueError: only for moons")


@pytest.mark.parametrize("model", ["Greedy", "GreedyOnCpu"])
def test_out_of_memory_halves_the_batch_and_says_so(bad_run, model):
    row = bad_run.rows[f"nets:{model}@32"]
    assert row["outcome"] == "ok"
    assert row["notes"] == ["out of memory at batch 11: measured at 2"]  # 11, 5, 2
    assert (row["result"]["batch_requested"], row["result"]["batch"]) == (11, 2)
    assert ":b11:" in row["case"]
    assert row["notes"][0] in describe(row)
    rate = 2 / statistics.median(row["result"]["samples_s"])  # of the 2 images that ran, not of 11
    assert f": {rate:.4g} (" in describe(row)


def test_out_of_memory_at_a_single_image_is_a_failed_row(bad_run):
    row = bad_run.rows["nets:Insatiable@32"]
    assert row["outcome"] == "failed"
    assert row["reason"] == "OutOfMemoryError: CUDA out of memory."


def test_what_a_model_prints_disturbs_nothing(bad_run, capfd):
    assert bad_run.rows["nets:Chatty@32"]["outcome"] == "ok"
    assert capfd.readouterr() == ("", "")


def test_a_module_on_pythonpath_is_found_by_the_worker_too(bad_run):
    assert bad_run.rows["nets_elsewhere.small:Net@32"]["outcome"] == "ok"


def test_a_comparison_is_one_row_of_blocks(bad_run):
    (row,) = (row for row in bad_run.summary.rows if row["harness"] == "compare")
    assert row["outcome"] == "ok"
    assert row["case"] == "nets:Net@32:b2:fp32:eager / nets:Chatty@32:b2:fp32:eager"
    assert (row["result"]["a"], row["result"]["b"]) == tuple(row["case"].split(" / "))
    assert all(len(block) == 4 for block in row["result"]["blocks"])
    assert len(row["result"]["blocks"]) >= RULES.min_samples
    assert len(row["result"]["checks"]) == 2
    assert "the first takes" in describe(row)


# --- What a row carries ----------------------------------------------------------------------------------


def test_every_row_has_the_fields_of_the_schema_and_no_others(bad_run):
    documented = {line.split()[0] for line in (record.__doc__ or "").splitlines() if line.startswith("    ")}
    documented = {word for word in documented if word.isidentifier()}
    for row in bad_run.summary.rows:
        assert set(row) == documented


def test_every_row_is_strict_json_and_is_read_back_equal(bad_run):
    for row in bad_run.summary.rows:
        assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_every_row_says_what_it_ran_on_failed_or_not(bad_run):
    here = devices.cpu_device()
    for row in bad_run.summary.rows:
        assert row["device"]["name"] == here.name
        assert row["device"]["uuid"] == here.uuid
        assert row["device"].keys() >= {
            "kind",
            "index",
            "mig",
            "driver",
            "memory_gib",
            "compute_capability",
            "profile",
        }
        assert row["environment"]["host"].keys() >= {
            "cpu",
            "available_cores",
            "load_average",
            "system",
            "kernel",
        }
        assert row["environment"]["versions"].keys() >= {
            "python",
            "torch",
            "triton",
            "cuda",
            "cudnn",
            "timm",
            "numpy",
        }
        assert row["environment"]["versions"]["torch"]
        assert row["environment"]["source"].keys() == {"commit", "dirty", "hash"}
        assert len(row["environment"]["source"]["hash"]) == 64
        assert row["environment"]["threads"] == row["environment"]["host"]["available_cores"]
        assert Rules(**row["protocol"]) in (RULES, SMALL_LIMIT)
        assert datetime.fromisoformat(row["when"]).utcoffset() is not None
        assert (row["reason"] is None) == (row["outcome"] == "ok")


def test_a_row_carries_its_study_or_none(bad_run):
    assert {row["study"] for row in bad_run.summary.rows} == {"a study", None}


@pytest.mark.parametrize("harness", ["throughput", "latency"])
def test_a_timed_row_carries_what_is_needed_to_believe_it(bad_run, harness):
    row = next(row for row in bad_run.summary.rows if row["harness"] == harness)
    for reading in (row["readings"]["before"], row["readings"]["after"]):
        assert reading.keys() >= {"sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w", "throttle"}
        assert reading.keys() >= {"other_processes", "load_average"}
        assert reading["load_average"] is not None
    result = row["result"]
    assert len(result["samples_s"]) >= RULES.min_samples
    assert all(seconds > 0 for seconds in result["samples_s"])
    assert result["stopped_by"] in ("interval", "time cap")
    assert (result["batch_requested"], result["batch"]) == (2, 2)
    assert (result["warmup_iterations"], result["iterations_per_sample"]) == (1, 1)
    assert (result["discarded"], result["throttled"], result["power_capped"]) == (0, False, False)
    assert result["statistic"] == "median"
    assert result["check"] == {"against": "finite and of the right shape"}
    assert any("conv" in operator for operator in result["operators"])
    assert result["peak_memory_bytes"] >= 0
    assert 0 < row["spent"]["forward"] < row["spent"]["all"]


# --- The next run ----------------------------------------------------------------------------------------


def test_the_next_run_reuses_the_good_rows_and_tries_the_failed_ones_again(bad_run, workplace, same_source):
    chosen = [job for job in bad_run.jobs if job.text.startswith(("nets:Net@32", "nets:Moody"))]
    assert len(chosen) == 5
    (workplace / "calm").touch()
    summary, heard = run_with_same_source(same_source, bad_run.folder, chosen)
    assert (summary.measured, summary.reused, summary.failed) == (1, 4, 0)
    assert [(row["case"], row["outcome"]) for row in heard.rows] == [("nets:Moody@32:b2:fp32:eager", "ok")]
    assert "4 of 5 rows are there already and are used again" in heard.said
    assert [row for row in summary.rows if row["harness"] != "throughput"] == [
        row
        for row in bad_run.summary.rows
        if row["case"].startswith("nets:Net@32") and row["harness"] != "throughput"
    ]


# --- What the parent decides, with a stand-in for the worker ---------------------------------------------


class StandIn:
    """Answers at once with what `answers` makes of a job, and remembers what it was asked. No process."""

    threads, import_s = 1, 0.0

    def __init__(self, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.answer, self.kills = answer, 0
        self.asked: list[dict[str, Any]] = []

    def ask(self, job, limit_s, on_phase):
        on_phase("pretending")
        self.asked.append(job)
        return self.answer(job)

    def kill(self):
        self.kills += 1


SAMPLES = {"samples_s": [0.1] * 6, "batch": 2, "batch_requested": 2, "statistic": "median"}


@pytest.fixture
def stand_in(monkeypatch) -> StandIn:
    worker = StandIn(lambda job: {"result": SAMPLES, "notes": [], "spent": {"all": 1.0}, "readings": None})
    monkeypatch.setattr(runner, "Worker", lambda device: worker)
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


def test_another_study_or_another_file_reuses_the_row(tmp_path, changing, stand_in):
    run(tmp_path, JOBS)
    (tmp_path / "tiny.jsonl").rename(tmp_path / "earlier.jsonl")
    assert run(tmp_path, [replace(job, study="another") for job in JOBS])[0].reused == 2


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
    assert heard.expected == [123.0]


def test_a_case_that_the_defaults_make_impossible_is_wrong_usage_and_measures_nothing(tmp_path, stand_in):
    with pytest.raises(UsageError, match="autocast is for fp16 and bf16, not fp32"):
        run(tmp_path, [throughput("restv2_lite[autocast]@32")])
    assert stand_in.asked == []


# --- Batch and dtype where the case leaves them open -----------------------------------------------------


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
