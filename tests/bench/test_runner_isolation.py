"""Every case becomes one row, whatever its model does to the process that measures it.

The models are a user's, given as `module:Class`. One worker start costs seconds, so all of it shares two runs.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import jobs as jobs_module
from bench import process, record
from bench.cases import parse
from bench.describe import digits
from bench.jobs import Job, job_of
from bench.machine import devices, provenance, variables
from bench.protocols import Rules
from bench.record import Row
from bench.runner import Summary
from bench.screen import describe
from tests.support.runs import RULES, Heard, run, throughput
from tests.support.sweeps import sweep

pytestmark = [sweep, pytest.mark.timeout(900)]  # a dozen processes import torch

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


class Flood(Net):
    """Prints more than a parent should keep."""

    def forward(self, x):
        if not x.is_meta:
            os.write(1, b"x" * 2**23)
        return super().forward(x)


class ReadsTheJobs(Net):
    """Wants what stands on its standard input."""

    def forward(self, x):
        assert sys.stdin.read() == "" and os.read(0, 1) == b""
        return super().forward(x)


class Forks(Net):
    """Forks once, and lets the copy go on as if nothing had happened: two processes would answer."""

    def forward(self, x):
        if not x.is_meta and not Path("forked").exists():
            Path("forked").touch()
            os.fork()
        return super().forward(x)


class SetsThreads(Net):
    def forward(self, x):
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.use_deterministic_algorithms(True)
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

# Models that are wrong, but harm nothing: the same worker goes on. Other names that are none are in test_main.py.
HARMLESS = {
    "nets:Refuses": "only for moons",
    "nets:Wordless": "ValueError",
    "nets:NaN": "the output is not finite",
    "nets:OneRow": "the output is (1, 5) for 2 images",
    "nets:NeedsArguments": "cannot make nets:NeedsArguments: TypeError: ",
    "nets:not_a_model": "nets:not_a_model gives str, not a torch.nn.Module",
    "nets:Absent": "cannot make nets:Absent: AttributeError: module 'nets' has no attribute 'Absent'",
    "absent_module:Net": "cannot make absent_module:Net: ModuleNotFoundError: No module named ",
}

UNUSUAL = (
    "nets:Tuple",
    "nets:Scalar",
)  # outputs of another form than a tensor of the batch, which is no fault


class Trial(SimpleNamespace):
    """A finished run and all that was seen of it."""

    summary: Summary
    heard: Heard
    starts: int
    most_kept: int  # bytes of what the models printed
    rows: dict[str, Row]  # by the case's text up to the batch
    folder: Path


@pytest.fixture(scope="module")
def bad_run(workplace, same_source) -> Trial:
    jobs = [job_of("macs", devices.cpu_device(), RULES, parse("nets:Net@32")), throughput("nets:Net@32:b2")]
    jobs += [job_of("latency", devices.cpu_device(), RULES, parse("nets:Net@32:b2"))]
    pair = (parse("nets:Net@32:b2"), parse("nets:Chatty@32:b2"))
    jobs += [job_of("compare", devices.cpu_device(), RULES, *pair)]
    jobs += [job_of("macs", devices.cpu_device(), RULES, parse("nets:Refuses"))]
    jobs += [throughput(f"{model}@32:b2") for model in (*HARMLESS, *UNUSUAL)]
    jobs += [throughput("nets:Chatty@32:b2")]
    jobs += [throughput("nets:ReadsTheJobs@32:b2"), throughput("nets:Flood@32:b2")]
    jobs += [throughput("nets:Forks@32:b2"), throughput("nets:Net@20:b2")]
    jobs += [throughput("nets:SetsThreads@32:b2"), throughput("nets:Net@21:b2")]
    jobs += [throughput(f"nets:{model}@32:b11") for model in ("Greedy", "GreedyOnCpu")]
    for size, model in enumerate(LETHAL, 33):
        jobs += [
            throughput(f"nets:{model}@32:b2", SMALL_LIMIT if model == "Hangs" else RULES),
            throughput(GOOD.format(size)),
        ]
    jobs += [throughput("nets:Moody@32:b2"), throughput("nets:Insatiable@32:b8")]
    jobs += [throughput("nets_elsewhere.small:Net@32:b2")]
    starts: list[int] = []
    kept: list[int] = []
    folder = workplace / "results"
    with pytest.MonkeyPatch.context() as patch:
        start = process.Worker._start

        def counted_start(worker: process.Worker) -> None:
            starts.append(1)
            start(worker)

        hear = process.Worker._hear

        def measured_hear(worker: process.Worker) -> None:
            hear(worker)
            kept.append(len(worker._printed))

        patch.setattr(process.Worker, "_start", counted_start)
        patch.setattr(process.Worker, "_hear", measured_hear)
        summary, heard = run_with_same_source(same_source, folder, jobs)
    rows = {row["case"].split(":b")[0]: row for row in summary.rows if row["harness"] == "throughput"}
    return Trial(
        summary=summary,
        heard=heard,
        starts=len(starts),
        rows=rows,
        folder=folder,
        jobs=jobs,
        most_kept=max(kept),
    )


def test_every_job_becomes_one_row_in_order_and_all_are_in_the_file(bad_run):
    assert [row["case"] for row in bad_run.summary.rows] == [job.text for job in bad_run.jobs]
    kept = record.read(bad_run.folder)
    assert kept.problems == []
    assert kept.rows == bad_run.heard.rows
    assert {row["key"]: row for row in kept.rows} == {row["key"]: row for row in bad_run.summary.rows}
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


@pytest.mark.parametrize("model", UNUSUAL)
def test_a_model_with_an_unusual_output_is_measured(bad_run, model):
    assert bad_run.rows[f"{model}@32"]["outcome"] == "ok"


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
    other_modules, settings = ("absent_module", "nets, again", "nets_elsewhere"), ("SetsThreads",)
    assert bad_run.starts == 1 + len(LETHAL) + len(other_modules) + len(settings)


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
    assert ": ValueError: only for moons; it is called with " in refused["reason"]


@pytest.mark.parametrize("model", ["Greedy", "GreedyOnCpu"])
def test_out_of_memory_halves_the_batch_and_says_so(bad_run, model):
    row = bad_run.rows[f"nets:{model}@32"]
    assert row["outcome"] == "ok"
    assert row["notes"][0] == "out of memory at batch 11: measured at 2"  # 11, 5, 2
    assert (row["result"]["batch_requested"], row["result"]["batch"]) == (11, 2)
    assert ":b11:" in row["case"]
    assert row["notes"][0] in describe(row)
    rate = 2 / statistics.median(row["result"]["samples_s"])  # of the 2 images that ran, not of 11
    assert f": {digits(rate)} (" in describe(row)


def test_out_of_memory_at_a_single_image_is_a_failed_row(bad_run):
    row = bad_run.rows["nets:Insatiable@32"]
    assert row["outcome"] == "failed"
    assert row["reason"] == "OutOfMemoryError: CUDA out of memory."


def test_a_model_that_forks_answers_for_itself_alone(bad_run):
    forked, after = bad_run.rows["nets:Forks@32"], bad_run.rows["nets:Net@20"]
    for row in (forked, after):
        assert row["outcome"] == "ok", row["reason"]
    assert after["result"]["samples_s"] != forked["result"]["samples_s"]


def test_a_model_cannot_read_the_jobs(bad_run):
    assert bad_run.rows["nets:ReadsTheJobs@32"]["outcome"] == "ok", bad_run.rows["nets:ReadsTheJobs@32"][
        "reason"
    ]


def test_a_flood_of_printing_is_not_kept(bad_run):
    assert bad_run.rows["nets:Flood@32"]["outcome"] == "ok", bad_run.rows["nets:Flood@32"]["reason"]
    assert bad_run.most_kept <= process.LAST_WORDS


def test_what_a_model_sets_is_noted_and_does_not_reach_the_next_case(bad_run):
    row, after = bad_run.rows["nets:SetsThreads@32"], bad_run.rows["nets:Net@21"]
    assert any(note.startswith("set by the model's own code: threads ") for note in row["notes"])
    assert any("deterministic True, not False" in note for note in row["notes"])
    assert row["readings"]["during"]["threads"] > row["environment"]["threads"]
    assert after["readings"]["during"]["flags_changed"] == []
    assert after["readings"]["during"]["threads"] == after["environment"]["threads"]


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


def test_every_row_has_the_fields_of_the_schema_and_no_others(bad_run):
    documented = {line.split()[0] for line in (record.__doc__ or "").splitlines() if line.startswith("    ")}
    documented = {word for word in documented if word.isidentifier()}
    for row in bad_run.summary.rows:
        assert set(row) == documented - {
            "visit",
            "group",
            "turn",
            "shard",
        }  # those of one visit of several, or of a shard


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
        assert row["environment"]["threads"] == provenance.threads()
        assert row["environment"]["variables"] == variables.recorded()
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
    during = row["readings"]["during"]
    assert during["kind"] == "cpu" and during["wall_s"] > 0 and during["cpu_s"] > 0
    assert during["threads"] == during["flags"]["threads"] == row["environment"]["threads"]
    assert during["flags_changed"] == []
    result = row["result"]
    assert len(result["samples_s"]) >= RULES.min_samples
    assert all(seconds > 0 for seconds in result["samples_s"])
    assert result["stopped_by"] == "time"
    assert (result["batch_requested"], result["batch"]) == (2, 2)
    assert (result["warmup_iterations"], result["iterations_per_sample"]) == (1, 1)
    assert (result["discarded"], result["throttled"], result["power_capped"]) == (0, False, False)
    assert result["statistic"] == "median"
    assert result["check"]["against"] == "its own eager"
    assert any("conv" in operator for operator in result["operators"])
    assert result["peak_memory_bytes"] >= 0
    assert 0 < row["spent"]["forward"] < row["spent"]["all"]


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
