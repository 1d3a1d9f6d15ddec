"""Shards: together the rows of one run, about equally long, in files of their own, named by any scheduler."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import record, runner, shard, visits
from bench.__main__ import main
from bench.cases import parse
from bench.errors import UsageError
from bench.jobs import Expectations, Job, job_of, jobs_of
from bench.machine.devices import Device, cpu_device
from bench.machine.gpus import profiles
from bench.machine.lock import held
from bench.protocols import PROTOCOLS, Rules
from bench.runner import Runner
from bench.shard import Shard, deal, identity
from bench.studies import STUDIES
from tests.support.runs import Heard
from tests.support.sweeps import swept

CPU = cpu_device()
H100 = Device("cuda", 0, "NVIDIA H100 80GB HBM3", "GPU-1", 79.6, "9.0", "580", profile=profiles()["h100"])
COUNTS = range(1, 8)
RULES = Rules("trial", 1, 0.0, 0.0, 6, None, 0.02, limit_s=100, visits=3)
TIMED = {"samples_s": [0.1] * 6, "batch": 1, "statistic": "median"}
COUNTED = {"parameters": 1, "conventions": {"core": {"macs": 10**9, "by_operator": {}}}}


# --- which share ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "1/2/3", "a/b", "", "1.5/2", "/"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UsageError, match="is no shard: I/N"):
        shard.parse(text)


ARRAY = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "None"),
        ({**ARRAY, "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "3"}, "4/4"),  # --array=0-3
        ({**ARRAY, "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "4"}, "3/4"),  # --array=1-4
        (
            {
                **{"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3"},  # --array=3-7:2
                **{"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "7", "SLURM_ARRAY_TASK_STEP": "2"},
            },
            "3/3",
        ),
        ({"SKYPILOT_JOB_RANK": "0", "SKYPILOT_NUM_JOBS": "5", "SKYPILOT_NODE_RANK": "0"}, "1/5"),
        ({"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2"}, "2/2"),
        ({"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "1"}, "None"),  # any task of SkyPilot's
        ({"JOB_COMPLETION_INDEX": "6", "BENCH_SHARDS": "7"}, "7/7"),
        # a job of one task on four nodes
        (
            {
                **{"SKYPILOT_JOB_RANK": "0", "SKYPILOT_NUM_JOBS": "1"},
                **{"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "4"},
            },
            "2/4",
        ),
    ],
)
def test_a_scheduler_numbers_its_tasks_from_0_or_from_anywhere(environ, expected):
    assert str(shard.of_environment(environ)[0]) == expected


@pytest.mark.parametrize(
    "environ",
    [
        {"JOB_COMPLETION_INDEX": "1"},  # of how many?
        {"JOB_COMPLETION_INDEX": "7", "BENCH_SHARDS": "7"},
        {"JOB_COMPLETION_INDEX": "x", "BENCH_SHARDS": "7"},
        {"SKYPILOT_JOB_RANK": "1"},
        {
            **ARRAY,
            "SLURM_ARRAY_TASK_MIN": "1",
            "SLURM_ARRAY_TASK_MAX": "9",
        },  # --array=1,3,5,9: not all of 1 to 9
        {**ARRAY, "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_MAX": "8"},
        # two that divide it
        {
            **{"SKYPILOT_JOB_RANK": "0", "SKYPILOT_NUM_JOBS": "2"},
            **{"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "4"},
        },
        {"SKYPILOT_JOB_RANK": "9" * 5000, "SKYPILOT_NUM_JOBS": "2"},
    ],
)
def test_what_does_not_say_which_of_how_many_is_refused_and_never_guessed(environ):
    with pytest.raises(UsageError, match="--shard I/N"):
        shard.of_environment(environ)


# --- dealing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [CPU, H100], ids=["cpu", "h100"])
@pytest.mark.parametrize(
    "name", swept(STUDIES, lambda name: name in ("table1", "table7", "figure3", "windows"))
)
def test_shares_of_any_number_are_the_whole_and_about_equally_long(name, device):
    jobs = jobs_of(STUDIES[name], device, PROTOCOLS["default"][device.kind], quick=False)
    held_to_balance(jobs, shard.expectations(device))


def test_the_longest_study_is_balanced_though_its_jobs_differ_by_two_orders_of_magnitude():
    jobs = jobs_of(STUDIES["table1"], H100, PROTOCOLS["default"]["cuda"], quick=False)
    expected = shard.expectations(H100)
    seconds = [expected.of_all_visits(job) for job in jobs]
    assert max(seconds) > 20 * min(seconds)
    assert held_to_balance(jobs, expected) >= 3


@pytest.mark.parametrize("seed", range(20))
def test_shares_of_random_runs(seed, monkeypatch):
    """Seconds from a log-normal: a few jobs of a run take most of its time."""
    chosen = random.Random(seed)
    jobs = [
        *(
            job_of("throughput", CPU, RULES, parse(f"n:Net@{size}"))
            for size in range(8, 8 + chosen.randint(0, 90))
        ),
        *(job_of("compare", CPU, RULES, parse(f"n:Net@{n}"), parse(f"n:Net@{n + 1}")) for n in range(8, 19)),
    ]
    seconds = {identity(job): chosen.lognormvariate(0, 1.5) for job in jobs}
    monkeypatch.setattr(Expectations, "of_all_visits", lambda self, job: seconds[identity(job)])
    chosen.shuffle(jobs)
    held_to_balance(jobs, Expectations([], CPU))


def held_to_balance(jobs: list[Job], expected: Expectations) -> int:
    """Hold the shares of 1 to 7 to being the run; how many of these counts no single job is too long for."""
    seconds = {identity(job): expected.of_all_visits(job) for job in jobs}
    whole, longest = set(seconds), max(seconds.values())
    balanced = 0
    for count in COUNTS:
        shares = deal(jobs, expected, count)
        assert len(shares) == count
        assert sum(map(len, shares)) == len(whole)  # none twice
        assert {identity(job) for share in shares for job in share} == whole
        loads = [sum(seconds[identity(job)] for job in share) for share in shares]
        allowed = 0.15 * sum(loads) / count
        assert max(loads) - min(loads) <= max(allowed, longest) * (1 + 1e-9)
        balanced += longest <= allowed
    return balanced


def test_rows_that_other_shards_measure_meanwhile_do_not_change_a_share(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = bench("run", "--study", "table7", "--gpu", "cpu", "--shard", "2/3", "--dry-run")
    row = {"schema": 1, "key": "k", "harness": "throughput", "case": "restv2_tiny@224:b1:fp32:eager"}
    row |= {"outcome": "ok", "spent": {"all": 9999.0}, "protocol": {"name": "default"}, "result": TIMED}
    Path("results/cpu").mkdir(parents=True)
    Path("results/cpu/table7.1-of-3.jsonl").write_bytes(record.line_of(row))
    after = bench("run", "--study", "table7", "--gpu", "cpu", "--shard", "2/3", "--dry-run")
    assert [line.rsplit("  ", 1)[0] for line in after] == [line.rsplit("  ", 1)[0] for line in before]


def test_two_studies_that_share_cases_are_dealt_as_one_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["run", "--study", "table1", "--study", "table9", "--gpu", "cpu", "--dry-run"]
    whole = {tuple(line.split()[:2]) for line in bench(*asked)[:-1]}
    shares = [
        {tuple(line.split()[:2]) for line in bench(*asked, "--shard", f"{n}/3")[:-1]} for n in (1, 2, 3)
    ]
    assert set.union(*shares) == whole
    assert sum(map(len, shares)) == len(whole)


def bench(*arguments: str) -> list[str]:
    result = CliRunner().invoke(main, arguments, prog_name="python -m bench")
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


# --- running ----------------------------------------------------------------------------------------------


class StandIn:
    """Answers at once; stands for the process that measures."""

    threads, import_s = 1, 0.0

    def __init__(self, device: Device, *harnesses: str) -> None:
        self.modules: set[str] = set()

    def ask(self, job, limit_s, on_phase):
        result = COUNTED if job["harness"] == "macs" else TIMED
        if job["harness"] == "compare":
            result = {"blocks": [[0.1, 0.1]] * 6, "batch": [1, 1], "a": {}, "b": {}}
        return {"result": result, "notes": [], "spent": {"all": 1.0}, "readings": None}

    def kill(self):
        pass


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(runner, "Worker", StandIn)
    monkeypatch.setattr(runner, "check_idle", lambda device: None)
    monkeypatch.setattr(runner, "hashes_of_sources", lambda jobs: ["source"] * len(jobs))  # a second a run


def run_of(device: Device) -> list[Job]:
    texts = [f"restv2_lite@{size}:b1" for size in (32, 64, 96, 128)]
    timed = [job_of("throughput", device, RULES, parse(text), study="s") for text in texts]
    pair = job_of("compare", device, RULES, parse(texts[0]), parse(texts[1]), study="s")
    return [*(job_of("macs", device, RULES, parse(text), study="s") for text in texts), *timed, pair]


def do(folder: Path, device: Device, ours: Shard | None = None) -> runner.Summary:
    jobs = run_of(device)
    ours_of_all = deal(jobs, Expectations([], device), (ours or Shard()).count)[(ours or Shard()).number - 1]
    share = set(map(identity, ours_of_all))
    mine = [job for job in jobs if identity(job) in share]
    return Runner(device, folder, Heard(), ours).run(mine, "s")


@pytest.mark.parametrize("count", COUNTS)
def test_the_rows_of_all_shards_are_those_of_one_run(tmp_path, count):
    do(tmp_path / "whole", H100)
    summaries = [do(tmp_path / "shards", H100, Shard(n, count)) for n in range(1, count + 1)]
    assert [summary.reused for summary in summaries] == [0] * count
    named = [
        {(r["harness"], r["case"], r.get("visit")) for r in rows(tmp_path, part)}
        for part in ("whole", "shards")
    ]
    assert named[0] == named[1]
    assert len(rows(tmp_path, "shards")) == len(named[1]) == 4 + 5 * RULES.visits
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.jsonl"))
    assert files == ([f"s.{n}-of-{count}.jsonl" for n in range(1, count + 1)] if count > 1 else ["s.jsonl"])
    assert {row["shard"] for row in rows(tmp_path, "shards")} <= {f"{n}/{count}" for n in range(1, count + 1)}


def rows(*path: str | Path) -> list[record.Row]:
    return record.read(Path(*path)).rows


def test_what_dead_shards_left_is_done_by_any_number_of_others_on_any_device_of_the_type(tmp_path):
    first = do(tmp_path, H100, Shard(1, 3))
    do(tmp_path, H100, Shard(2, 3))
    file = tmp_path / "s.2-of-3.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:40])  # killed while its fourth row was written
    another = replace(H100, uuid="GPU-2")
    again = [do(tmp_path, another, Shard(n, 4)) for n in (1, 2, 3, 4)]
    whole = 4 + 5 * RULES.visits
    assert sum(summary.reused for summary in again) == first.measured + 3
    assert sum(summary.measured for summary in again) == whole - first.measured - 3
    assert do(tmp_path, another, Shard(2, 3)).measured == 0
    assert do(tmp_path, another).measured == 0  # nor need it be in shards
    found = [row["key"] for row in rows(tmp_path)]
    assert len(found) == len(set(found)) == whole
    for group in visits.groups(rows(tmp_path)):
        joined = visits.join(group)
        mixed = len({row["device"]["uuid"] for row in group}) > 1
        assert any("2 devices of this type" in note for note in joined["notes"]) == mixed


@pytest.mark.parametrize("name", ["table7", "kernels", "sweep"])
def test_the_case_of_every_shard_is_one_whose_time_is_not_that_of_launches(name):
    """ResTv2-T at batch 64 is launch-bound on an H100 (results/reference/h100), and twenty times shorter than this."""
    jobs = jobs_of(STUDIES[name], H100, PROTOCOLS["default"]["cuda"], quick=False)
    expected = shard.expectations(H100)
    ((_, text),) = shard.common(jobs, expected, H100)
    timed = [job for job in jobs if job.harness == "throughput"]
    seconds = {job.text: expected.iteration_s(job.cases[0]) or 0.0 for job in timed}
    assert seconds[text] >= min(shard.BEYOND_LAUNCHES_S, max(seconds.values()))


def test_every_shard_takes_one_short_case_for_its_own_device(tmp_path):
    """The case by which devices of one type are compared stands for no other device, and is measured once on each."""
    jobs = run_of(H100)
    expected = Expectations([], H100)
    own = shard.common(jobs, expected, H100)
    assert len(own) == 1 and {harness for harness, _ in own} == {"throughput"}
    assert not shard.common(jobs, expected, CPU)
    assert [of_shard.own for of_shard in shard.shares(jobs, expected, H100, 1)] == [frozenset()]
    shares = shard.shares(jobs, expected, H100, 2)
    assert sorted(map(len, (of_shard.own for of_shard in shares))) == [0, 1]
    for number, uuid in ((1, "GPU-1"), (2, "GPU-2"), (2, "GPU-2")):
        of_shard = shares[number - 1]
        mine = [job for job in jobs if identity(job) in of_shard.jobs]
        Runner(replace(H100, uuid=uuid), tmp_path, Heard(), Shard(number, 2), of_shard.own).run(mine, "s")
    taken = [row for row in rows(tmp_path) if (row["harness"], row["case"]) in own]
    assert {row["device"]["uuid"] for row in taken} == {"GPU-1", "GPU-2"}
    assert len(taken) == 2 * RULES.visits
    of_a_share = [row for row in taken if "shard" in row]
    assert len(of_a_share) == RULES.visits and len({row["device"]["uuid"] for row in of_a_share}) == 1


def test_a_device_of_another_type_measures_for_itself(tmp_path):
    do(tmp_path, H100, Shard(1, 2))
    other = replace(H100, name="NVIDIA H100 PCIe", uuid="GPU-3")
    summary = do(tmp_path, other, Shard(1, 2))
    assert all(row["harness"] == "macs" for row in summary.rows[: summary.reused])
    assert summary.measured > 0


def test_one_device_measured_without_shards_does_not_stand_for_another(tmp_path):
    do(tmp_path, H100)
    summary = do(tmp_path, replace(H100, uuid="GPU-2"))
    assert summary.measured == 5 * RULES.visits


def test_the_only_shard_of_a_run_is_gone_on_with_on_another_device(tmp_path):
    """A shard that was stopped at a time limit may be given to another node."""
    do(tmp_path, H100, Shard())
    assert do(tmp_path, replace(H100, uuid="GPU-2"), Shard()).measured == 0


def test_a_shard_waits_for_the_device_and_a_whole_run_does_not(tmp_path):
    heard = Heard()
    waiting = threading.Thread(
        target=lambda: Runner(H100, tmp_path, heard, Shard(1, 2)).run(run_of(H100), "s")
    )
    with held(H100):
        waiting.start()
        while not heard.said:
            waiting.join(0.01)
        assert heard.said == [f"another run is measuring on {H100}: waiting for its end"]
        assert rows(tmp_path) == []
        with pytest.raises(Exception, match="wait for it, or end it"):
            do(tmp_path / "whole", H100)
    waiting.join(20)
    assert len(rows(tmp_path)) == 4 + 5 * RULES.visits
