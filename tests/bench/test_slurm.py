"""Jobs for a cluster: what is printed is what is submitted, only what is missing is, and nothing unknown is queued.

Slurm is a stand-in that writes down what it is given; `test_slurm_trials.py` has a real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench import jobs, progress, record, shard, slurm, studies
from bench.__main__ import main
from bench.errors import UsageError
from bench.machine import provenance
from bench.machine.devices import Device
from bench.machine.gpus import profiles
from bench.protocols import PROTOCOLS
from bench.shard import Shard

SBATCH = f"""#!{sys.executable}
import json, os, sys
slurm = sorted(name for name in os.environ if name.startswith("SLURM_"))
with open("calls", "a") as file:
    file.write(json.dumps({{"arguments": sys.argv[1:], "script": sys.stdin.read(), "slurm": slurm}}) + "\\n")
if "--gres=gpu:a100:1" in sys.argv:
    sys.exit("sbatch: error: Invalid generic resource (gres) specification")
if "--test-only" not in sys.argv:
    print(len(open("calls").readlines()), "cluster", sep=";")
"""
STUDY = 'name = "mine"\nquestion = "?"\ncases = ["restv2_tiny@{size}"]\n[lists]\nsize = [64, 96, 128, 160, 192, 224]\n'


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A user's folder, and a stand-in for sbatch."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "set_ups", lambda found: [])
    for module in (jobs, slurm):  # which takes seconds
        monkeypatch.setattr(module, "hashes_of_sources", lambda asked: ["source"] * len(asked))
    Path("mine.toml").write_text(STUDY)
    return tmp_path / "work"


def bench(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["slurm", *arguments], prog_name="python -m bench")
    assert result.exit_code == status, result.output
    return result


def calls() -> list[dict[str, object]]:
    if not Path("calls").exists():
        return []
    return [json.loads(line) for line in Path("calls").read_text().splitlines()]


def queued() -> list[dict[str, object]]:
    return [call for call in calls() if "--test-only" not in str(call["arguments"])]


TWO = ("--gpu", "h100", "--gpu", "v100", "--study", "mine.toml", "--shards", "3")


def test_an_array_a_type_with_its_stack_and_a_report_after_all(place):
    out = bench(*TWO, "--submit").stdout.split("\n")
    h100, v100, report = queued()
    assert out[:3] == ["bench-h100: job 4", "bench-v100: job 5", "bench-report: job 6"]
    for call, gpu, venv in ((h100, "h100", ".venv"), (v100, "v100", ".venv-cuda12")):
        arguments, script = list(map(str, call["arguments"])), str(call["script"])  # type: ignore[call-overload]
        for expected in (
            "--exclusive",
            "--no-requeue",
            "--array=1-3",
            "--signal=B:TERM@30",
            f"--gres=gpu:{gpu}:1",
        ):
            assert expected in arguments
        (minutes,) = (int(word.partition("=")[2]) for word in arguments if word.startswith("--time="))
        assert 10 < minutes < 120
        assert f"exec {provenance.ROOT}/{venv}/bin/python -m bench run" in script
        assert f"--study mine.toml --gpu {gpu} --shard $SLURM_ARRAY_TASK_ID/3" in script
    assert "--dependency=afterany:4:5" in str(report["arguments"])
    assert "--gres" not in str(report["arguments"])
    assert "-m reports --gpu h100" in str(report["script"])
    assert "--shards 3 --submit" in str(report["script"])


def test_what_is_printed_is_a_script_that_submits_the_same(place):
    printed = bench(*TWO).stdout
    assert calls() == []
    bench(*TWO, "--submit")
    submitted = queued()
    Path("calls").unlink()
    subprocess.run(["sh", "-e"], input=printed, text=True, check=True, cwd=place)
    by_script = queued()
    assert [call["script"] for call in by_script] == [call["script"] for call in submitted]
    assert [call["arguments"][:-1] for call in by_script] == [call["arguments"][:-1] for call in submitted]  # type: ignore[index]
    assert "--dependency=afterany:1:2" in str(by_script[-1])


@pytest.mark.parametrize("submit", [[], ["--submit"]], ids=["printed", "submitted"])
def test_an_unknown_type_is_refused_before_anything_is_queued(submit):
    said = bench("--gpu", "h100", "--gpu", "h1000", *submit, status=2)
    assert "unknown GPU 'h1000'" in said.stderr
    assert "did you mean 'h100'" in said.stderr
    assert calls() == []


def test_a_type_that_the_cluster_has_not_is_refused_before_anything_is_queued():
    said = bench("--gpu", "h100", "--gpu", "a100", "--study", "mine.toml", "--submit", status=2)
    assert "Slurm refuses bench-a100, so nothing was queued" in said.stderr
    assert "Invalid generic resource" in said.stderr
    assert queued() == []


def test_without_slurm_nothing_is_submitted(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin-absent")
    assert "there is no sbatch here" in bench(*TWO, "--submit", status=2).stderr


def test_a_site_says_what_it_asks_for():
    Path("slurm.toml").write_text(
        '[all]\naccount = "lab"\n[h100]\ngres = "gpu:sxm:1"\nconstraint = "fast&new"\nexclusive = false\n'
        '[report]\npartition = "cpu"\n[fast-ones]\ngpu = "v100"\ntime = 7\n'
    )
    bench("--gpu", "h100", "--gpu", "fast-ones", "--study", "mine.toml", "--submit")
    h100, fast, report = (set(call["arguments"]) for call in queued())  # type: ignore[call-overload]
    assert h100 >= {"--account=lab", "--gres=gpu:sxm:1", "--constraint=fast&new"}
    assert fast >= {"--account=lab", "--gres=gpu:v100:1", "--time=7", "--exclusive"}
    assert report >= {"--account=lab", "--partition=cpu"}
    assert "--exclusive" not in h100 | report
    assert "--gpu fast-ones" in str(queued()[-1]["script"])  # the report's job asks for the same again
    assert "run --study mine.toml --gpu v100" in str(queued()[1]["script"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[h100]\narray = '1'", "'array' is not yours to set"),
        ("[h100]\nGres = 'x'", "is no long option of sbatch's"),
        ("[h100]\ngres = ['x']", "is no long option of sbatch's"),
        ("h100 = 1", "is no table"),
        ("[h100", "cannot be read"),
        ("[own]\ngpu = 'h101'", "neither cpu nor in gpus.toml"),
        ("[h10]\ngres = 'x'", r"\[h10\] is not in gpus.toml"),
        ("[all]\ngpu = 'h100'", "gpu is for the table of a type"),
        ("[h100]\nhelp = true", "'help' is not yours to set"),
        ("[h100]\ncomment = 'a\\u000ab'".replace("'", '"'), "is no long option of sbatch's"),
        ('["a b"]\ngpu = "h100"', "is no name for a type"),
        ("a = " + "[" * 5000, "cannot be read"),
    ],
)
def test_a_site_file_that_says_something_else_is_refused(text, why):
    Path("slurm.toml").write_text(text)
    with pytest.raises(UsageError, match=why):
        slurm.kinds(["own" if "own" in text else "h100"])


@pytest.mark.parametrize(
    "name", ["br${HOME}; touch pwned", "$(touch pwned)", "it's `touch pwned`", "two  spaces"]
)
def test_what_is_printed_runs_nothing_of_a_folders_name(place, monkeypatch, name):
    folder = place / name
    folder.mkdir()
    (folder / "mine.toml").write_text((place / "mine.toml").read_text())
    (folder / "slurm.toml").write_text('[all]\ncomment = "for ${USER}; touch pwned"\n')
    monkeypatch.chdir(folder)
    printed = bench(*TWO).stdout
    subprocess.run(["sh"], input=printed, text=True, check=True)
    assert len(queued()) == 3
    for call in queued():
        arguments = list(map(str, call["arguments"]))  # type: ignore[call-overload]
        assert f"--chdir={folder}" in arguments and "--comment=for ${USER}; touch pwned" in arguments
    assert not list(place.rglob("pwned"))


def test_a_folder_whose_name_cannot_stand_in_a_script_is_refused(place, monkeypatch):
    folder = place / "a\nEND\ntouch pwned"
    folder.mkdir()
    (folder / "mine.toml").write_text((place / "mine.toml").read_text())
    monkeypatch.chdir(folder)
    assert "cannot stand in a job's script" in bench(*TWO, status=2).stderr


def test_a_type_is_found_by_its_name_in_capitals_too():
    assert [kind.name for kind in slurm.kinds(["H100"])] == ["h100"]


def test_two_names_for_one_gpu_are_refused():
    Path("slurm.toml").write_text('[fast-ones]\ngpu = "h100"\n')
    assert "their shards would be the same" in bench("--gpu", "h100", "--gpu", "fast-ones", status=2).stderr


# --- again, from rows -------------------------------------------------------------------------------------

# As it will be on the node, which knows more of it than the place of submission does.
H100 = Device("cuda", 0, "NVIDIA H100 80GB HBM3", "GPU-1", 79.6, "9.0", "580", profile=profiles()["h100"])


def ran(number: int, *, rows: int | None = None, device: Device = H100, ended: bool = True) -> None:
    """A shard of three ran on a node, and left so many rows, all by default."""
    folder, rules = Path("results/h100"), PROTOCOLS["default"]["cuda"]
    study = studies.find("mine.toml")
    whole = jobs.jobs_of(study, device, rules, quick=False)
    expected = shard.expectations(device)
    share, _ = shard.shares(whole, expected, device, 3)[number - 1]
    mine = list(dict.fromkeys(job for job in whole if shard.identity(job) in share))
    sources = jobs.hashes_of_sources(mine)
    keys = [f"{number}-{place}" for place in range(len(mine))]
    results = record.ResultsFile(folder / f"{Shard(number, 3).file_of('mine')}.jsonl")
    announcement = progress.Announcement(
        *(results.path, "mine", Shard(number, 3), progress.digest(zip(mine, sources, strict=True))),
        *({key: (key, 9.0) for key in keys}, 600.0),
    )
    with results.locked(), announcement.made():
        for key in keys[:rows]:
            results.append({"schema": 1, "key": key, "harness": "macs", "case": key, "outcome": "ok"})
        if not ended:
            content = (folder / "progress" / f"mine.{number}-of-3.json").read_bytes()
    if not ended:
        (folder / "progress" / f"mine.{number}-of-3.json").write_bytes(content)


def arrays_of(*more: str) -> list[str]:
    """The arrays that are submitted."""
    Path("calls").unlink(missing_ok=True)
    bench("--gpu", "h100", "--study", "mine.toml", "--shards", "3", "--submit", *more)
    return [word for call in queued() for word in call["arguments"] if word.startswith("--array")]  # type: ignore[attr-defined]


def test_only_shards_that_have_rows_missing_are_submitted_again():
    assert arrays_of() == ["--array=1-3"]
    ran(2)
    assert arrays_of() == ["--array=1,3"]
    ran(1, rows=1)
    assert arrays_of() == ["--array=1,3"]
    ran(1)
    ran(3)
    assert arrays_of() == []
    assert arrays_of("--quick") == ["--array=1-3"]  # which is another run


def test_what_other_code_measured_is_missing(monkeypatch):
    for number in (1, 2, 3):
        ran(number)
    for module in (jobs, slurm):
        monkeypatch.setattr(module, "hashes_of_sources", lambda asked: ["other"] * len(asked))
    assert arrays_of() == ["--array=1-3"]


def test_a_shard_that_runs_is_left_alone_but_by_the_report_which_waited_for_all(monkeypatch):
    for number in (1, 2, 3):
        ran(number, rows=None if number > 1 else 1, ended=number > 1)
    assert arrays_of() == []
    monkeypatch.setenv(slurm.DONE_BEFORE, "0")
    assert arrays_of() == ["--array=1"]


def test_where_nothing_more_is_measured_nothing_more_is_submitted(monkeypatch):
    ran(1, rows=2)
    monkeypatch.setenv(slurm.DONE_BEFORE, "2")
    said = bench("--gpu", "h100", "--study", "mine.toml", "--shards", "3", "--submit", status=1)
    assert "nothing was measured since the last submission" in said.stderr
    assert calls() == []
    monkeypatch.setenv(slurm.DONE_BEFORE, "1")
    assert arrays_of() == ["--array=1-3"]
    assert f"export {slurm.DONE_BEFORE}=2" in str(queued()[-1]["script"])


def test_a_job_that_submits_hands_on_nothing_of_its_own(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_MEM_PER_NODE", "SLURM_CONF"):
        monkeypatch.setenv(name, "1")
    arrays_of()
    assert {tuple(call["slurm"]) for call in calls()} == {("SLURM_CONF",)}  # type: ignore[arg-type]


def test_a_node_deals_as_the_place_of_submission_did():
    (here,) = slurm.kinds(["h100"])
    assert here.device.key == H100.key == "h100"
    study = studies.find("table1")
    dealt = [
        shard.deal(
            jobs.jobs_of(study, device, PROTOCOLS["default"]["cuda"], quick=False),
            shard.expectations(device),
            5,
        )
        for device in (here.device, replace(H100, uuid="GPU-2"))
    ]
    assert dealt[0] == dealt[1]
