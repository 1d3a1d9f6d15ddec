"""Jobs: the table of harnesses, what a row's key depends on, and that a new harness is an entry and a module."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from bench import cases, jobs
from bench.cases import parse
from bench.errors import UsageError
from bench.jobs import HARNESSES, Expectations, Job, hashes_of_sources, job_of, key_of
from bench.machine.devices import Device, cpu_device
from bench.machine.provenance import ROOT, import_closure
from bench.protocols import PROTOCOLS
from tests.support.sweeps import sweep

CPU, RULES = cpu_device(), PROTOCOLS["quick"]["cpu"]
GPU = Device("cuda", 0, "NVIDIA H200", "GPU-1", 140.0, "9.0", "580")


def closure(harness: str) -> set[str]:
    file = ROOT / "bench" / "harness" / f"{HARNESSES[harness].module}.py"
    return {path.as_posix() for path in import_closure(file)}


# --- the table --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HARNESSES)
def test_an_entry_names_a_function_of_a_module_and_rules_that_exist(name):
    entry = HARNESSES[name]
    function = getattr(import_module(f"bench.harness.{entry.module}"), entry.function)
    assert list(inspect.signature(function).parameters) == ["cases", "rules", "say", "spent"]
    assert set(entry.rules) <= cases.RULES.keys()


def test_a_job_goes_through_the_pipe_as_text():
    job = job_of("compare", CPU, RULES, parse("restv2_lite"), parse("swin_tiny@64:b2"))
    order = json.loads(json.dumps(job.order()))
    assert order["cases"] == ["restv2_lite@224:b1:fp32:eager", "swin_tiny@64:b2:fp32:eager"]
    assert tuple(map(parse, order["cases"])) == job.cases
    assert type(RULES)(**order["rules"]) == RULES
    assert job.text == "restv2_lite@224:b1:fp32:eager / swin_tiny@64:b2:fp32:eager"
    assert job_of("peaks", CPU, RULES).text == "cpu"


@pytest.mark.parametrize(
    ("harness", "limit_s"),
    [("throughput", 600), ("macs", 300), ("peaks", 300), ("fourier", 3600), ("cka", 3600)],
)
def test_a_limit_is_the_harnesss_or_the_protocols(harness, limit_s):
    asked = () if harness == "peaks" else (parse("restv2_lite"),)
    assert job_of(harness, CPU, RULES, *asked).limit_s == limit_s


def test_a_case_is_held_to_the_rules_of_its_harness():
    for harness, text, said in (
        ("throughput", "restv2_lite[images=x]", "images=FOLDER is for `branches` to look at"),
        ("compare", "restv2_lite[cold]", "a comparison is of iterations back to back"),
        ("cka", "restv2_lite:train", "in inference: restv2_lite@224:eager:train has 'train'"),
        ("cka", "restv2_lite[head=upernet]", "has a head of another kind"),
        ("latency", "restv2_lite[autocast]", "autocast is for fp16 and bf16, not fp32"),
    ):
        with pytest.raises(UsageError, match=said.replace("[", r"\[")):
            job_of(harness, CPU, RULES, parse(text))


def test_an_inference_beside_a_step_of_training_takes_its_dtype():
    """A GPU's own fp16 is not for training; two dtypes would not be one comparison."""
    rules = PROTOCOLS["default"]["cuda"]
    for capability, dtype in (("9.0", "bf16"), ("7.0", "fp32")):
        gpu = replace(GPU, compute_capability=capability)
        job = job_of("compare", gpu, rules, parse("restv2_tiny@224:train"), parse("restv2_tiny@224"))
        assert [case.dtype for case in job.cases] == [dtype] * 2
        alone = job_of("throughput", gpu, rules, parse("restv2_tiny@224"))
        assert alone.cases[0].dtype == "fp16"


def test_a_job_is_expected_to_take_what_the_same_took_before():
    for harness, number in (("throughput", 1), ("compare", 2)):
        job = job_of(harness, CPU, RULES, *[parse("restv2_lite@64")] * number)
        row = {
            **{"harness": harness, "case": job.text, "protocol": {"name": RULES.name}},
            "spent": {"all": 123.0},
        }
        assert Expectations([row], CPU).seconds(job) == 123.0
        others = ({"harness": "macs"}, {"case": "swin_tiny"}, {"protocol": {"name": "paper"}})
        for other in others:
            assert Expectations([row | other], CPU).seconds(job) != 123.0


@pytest.mark.parametrize("spent", [float("nan"), float("inf"), -500.0, 1e308])
def test_a_damaged_time_is_expected_of_nothing(spent):
    job = job_of("throughput", CPU, RULES, parse("restv2_lite@64"))
    row = {
        "harness": "throughput",
        "case": job.text,
        "protocol": {"name": RULES.name},
        "spent": {"all": spent},
    }
    assert Expectations([row], CPU).seconds(job) == Expectations([], CPU).seconds(job)
    named = {**row, "protocol": {"name": [1]}}
    assert Expectations([named], CPU).seconds(job) == Expectations([], CPU).seconds(job)


# --- what a row depends on --------------------------------------------------------------------------------


def test_a_count_depends_on_models_and_kernels_and_on_nothing_that_times():
    found = closure("macs")
    assert {"bench/harness/macs.py", "bench/cases.py", "bench/images.py", "bench/conventions.py"} <= found
    assert {"models/__init__.py", "models/attention.py", "models/peers.py", "models/detection.py"} <= found
    assert "kernels/emsa_upsample/cost.py" in found
    timing = ("speed", "timing", "prepare", "verify", "training", "device", "branches", "worker")
    assert not found & {f"bench/harness/{name}.py" for name in timing}
    assert not found & {"bench/stats.py", "bench/protocols.py", "bench/machine/state.py"}


def test_a_time_depends_on_all_that_builds_checks_and_times():
    found = closure("throughput")
    names = ("speed", "timing", "prepare", "verify", "training", "device", "inputs")
    assert {f"bench/harness/{name}.py" for name in names} <= found
    assert {"bench/stats.py", "bench/protocols.py", "bench/machine/state.py", "models/rest.py"} <= found
    assert "kernels/emsa_upsample/op.py" in found
    assert "bench/harness/macs.py" not in found


@pytest.mark.parametrize("harness", HARNESSES)
def test_no_row_depends_on_reports_studies_or_the_run_around_it(harness):
    found = closure(harness)
    assert not any(name.startswith(("reports/", "tests/")) for name in found)
    around = ("studies", "study", "jobs", "runner", "process", "screen", "record", "describe", "__main__")
    assert not found & {f"bench/{name}.py" for name in around}
    # what a GPU is known to reach is in the row, and decides no time; a profile's lines stand beside it
    assert ("bench/machine/gpus.py" in found) == (harness == "profile")


@pytest.fixture
def copy(tmp_path) -> Path:
    """The repository's packages, to be edited."""
    for package in ("bench", "kernels", "models"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_an_edit_changes_the_hashes_of_those_that_import_the_file_and_of_no_others(copy, monkeypatch):
    asked = [
        job_of("macs", CPU, RULES, parse("restv2_lite")),
        job_of("throughput", CPU, RULES, parse("restv2_lite")),
        job_of("cka", CPU, RULES, parse("restv2_lite")),
    ]
    monkeypatch.setattr(jobs, "ROOT", copy)
    monkeypatch.setattr(jobs, "import_closure", lambda file: import_closure(file, copy))
    source_hash = jobs.source_hash
    monkeypatch.setattr(jobs, "source_hash", lambda paths: source_hash(paths, copy))
    before = hashes_of_sources(asked)
    assert before == hashes_of_sources(asked)
    assert len({*before}) == 3
    for file, changed in (
        ("bench/harness/macs.py", [True, False, False]),
        ("bench/harness/timing.py", [False, True, False]),
        ("bench/harness/branches.py", [False, False, True]),
        ("bench/harness/prepare.py", [False, True, True]),
        ("models/attention.py", [True, True, True]),
        ("bench/cases.py", [True, True, True]),
        ("bench/studies.py", [False, False, False]),
        ("bench/runner.py", [False, False, False]),
    ):
        with (copy / file).open("a") as source:
            source.write("\n# edited\n")
        after = hashes_of_sources(asked)
        assert [one != other for one, other in zip(before, after, strict=True)] == changed, file
        before = after


def test_a_key_holds_device_and_protocol_for_those_that_depend_on_them():
    def key(job: Job, device: Device = CPU) -> str:
        return key_of(job, "source", {"torch": "1"}, device)

    other_rules = replace(RULES, cap_s=9.0)
    for harness, by_device, by_protocol in (
        ("throughput", True, True),
        ("latency", True, True),
        ("cka", True, False),
        ("macs", False, False),
    ):
        job = job_of(harness, CPU, RULES, parse("restv2_lite@64:b1:fp32"))
        assert (key(job) != key(job, GPU)) == by_device
        assert (key(job) != key(replace(job, rules=other_rules))) == by_protocol
        assert key(job) != key_of(job, "another", {"torch": "1"}, CPU)
        assert key(job) != key_of(job, "source", {"torch": "2"}, CPU)
        assert key(job) == key(replace(job, study="another"))


# --- a new harness ----------------------------------------------------------------------------------------

MODULE = '''"""The answer: a harness for this test."""


def run(cases, rules, say, spent):
    """Say the answer."""
    say("thinking")
    return {"answer": 42, "model": cases[0].model}, ["a note"]
'''


CHAPTER = """


def answers(told):
    rows = [row for row in told.results.others if row["harness"] == "toy"]
    columns = (
        columns_of.Column("case", "Case", lambda row: row["case"]),
        columns_of.Column("answer", "the answer", lambda row: row["result"]["answer"], columns_of.COUNT),
    )
    return [made_of(columns, rows, "answers", "Answers", "Thought about.")]


CHAPTERS = (*CHAPTERS, Chapter(heading="What is it?", nav="Answer", tables=answers, own_anchor="answer"))
"""
IMPORTS = "from reports import columns as columns_of\nfrom reports.tables import made_of\n"


@sweep
def test_a_new_harness_is_an_entry_a_module_and_a_chapter(copy):
    """Three files of the project; and a user's study that asks for it."""
    table = copy / "bench" / "jobs.py"
    start = "HARNESSES: dict[str, Harness] = {\n"
    assert start in table.read_text()
    table.write_text(table.read_text().replace(start, f'{start}    "toy": Harness("toy"),\n'))
    (copy / "bench" / "harness" / "toy.py").write_text(MODULE)
    (copy / "mine.toml").write_text(
        'name = "mine"\nquestion = "What is the answer?"\nharness = "toy"\ncases = ["restv2_lite@32"]\n'
    )
    command = [sys.executable, "-m", "bench", "run", "--study", "mine.toml", "--gpu", "cpu", "--quick"]
    environ = {**os.environ, "PYTHONPATH": str(copy)}
    said = subprocess.run(
        command, cwd=copy, env=environ, capture_output=True, text=True, timeout=200, check=False
    )
    assert said.returncode == 0, said.stderr
    assert "restv2_lite@32:b1:fp32:eager: toy measured; a note" in said.stderr
    (row,) = map(json.loads, (copy / "results/cpu/mine.jsonl").read_text().splitlines())
    assert (row["harness"], row["outcome"], row["study"]) == ("toy", "ok", "mine")
    assert row["result"] == {"answer": 42, "model": "restv2_lite"}
    again = subprocess.run(
        command, cwd=copy, env=environ, capture_output=True, text=True, timeout=200, check=False
    )
    assert "1 of 1 rows are there already" in again.stderr
    shutil.copytree(ROOT / "reports", copy / "reports", ignore=shutil.ignore_patterns("__pycache__"))
    chapter = copy / "reports" / "chapters" / "branches.py"
    text = chapter.read_text()
    chapter.write_text(text.replace("import re\n", f"import re\n{IMPORTS}", 1) + CHAPTER)
    reported = subprocess.run(
        [sys.executable, "-m", "reports"],
        cwd=copy,
        env=environ,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert reported.returncode == 0, reported.stderr
    written = copy / "results" / "cpu" / "report"
    assert "| restv2_lite@32:b1:fp32:eager | 42 |" in (written / "answers.md").read_text()
    assert '<section id="answer">' in (written / "index.html").read_text()
