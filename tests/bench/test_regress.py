"""Two revisions compared: what is kept, refused and named. Processes are made up; test_pair.py has real ones."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from bench import answers, describe, gate, record, regress, taking
from bench.cases import parse
from bench.errors import Failure, Undecided, UsageError
from bench.machine.devices import Device, cpu_device
from bench.revisions import Repository
from bench.sides import CaseFailed
from bench.stats import Verdict
from tests.support.json_schema import SCHEMA, faults
from tests.support.revisions import commit, git
from tests.support.runs import Heard

CASES = [parse("hers:Net@32"), parse("hers:Other@32")]
TEXTS = [str(case.resolve(1, "fp32")) for case in CASES]
GPU = Device("cuda", 0, "NVIDIA H200", "GPU-1", 140.0, "9.0", "580")


class MadeUp:
    """A pair of processes whose times its folders' hers.py says: `times = 1.1`."""

    visits: ClassVar[list[str]] = []  # of all pairs, by case
    starts = 0
    stops_after = 10**9  # visits, at which somebody presses Ctrl-C
    source = random.Random(1)

    def __init__(self, device: Device, folders: Any) -> None:
        self.is_new = True
        self.said = [dict[str, Any]() for _ in folders]
        for folder, said in zip(folders, self.said, strict=True):
            exec((folder / "hers.py").read_text(), said)

    def start(self) -> None:
        self.is_new = False
        MadeUp.starts += 1

    def kill(self) -> None:
        self.is_new = True

    def close(self) -> None:
        self.kill()

    def count(self, job: Any) -> list[dict[str, int]]:
        return [{"MACs": said.get("macs", 100), "launches": 7} for said in self.said]

    def visit(self, job: Any, digests: Any) -> dict[str, Any]:
        if len(self.visits) >= MadeUp.stops_after:
            raise KeyboardInterrupt
        for side, said in enumerate(self.said):
            if "broken" in said:
                raise CaseFailed(side, said["broken"], refused=said["broken"] == "no GPU")
        self.visits.append(job.text)
        levels = [exp(self.source.gauss(0, 0.001)) for _ in range(6)]
        new, old = (said["times"] for said in self.said)
        return {
            "blocks": [[level * new, old, old, level * new] for level in levels],
            "clocks_mhz": None,
            "peak_memory_bytes": [None, None],
            "digests": [None, None],
            "loaded": [{"torch": "2"}, {"torch": self.said[1].get("torch", "2")}],
            "notes": [],
        }


@pytest.fixture
def hers(tmp_path, monkeypatch) -> Path:
    """Her repository, with hers.py, and made-up processes on an idle machine."""
    random.seed(1)  # by which cases are shuffled
    monkeypatch.setattr(taking, "Sides", MadeUp)
    monkeypatch.setattr(regress, "TURNS", replace(taking.TURNS, visit=cast(Any, MadeUp.visit)))
    monkeypatch.setattr(regress.provenance, "load_average", lambda: 0.1)
    for name, value in (("visits", []), ("starts", 0), ("stops_after", 10**9), ("source", random.Random(1))):
        monkeypatch.setattr(MadeUp, name, value)
    folder = tmp_path / "hers"
    folder.mkdir()
    (folder / "hers.py").write_text("times = 1.0")
    commit(folder, "first")
    return folder


def changed(folder: Path, text: str) -> None:
    (folder / "hers.py").write_text(text)
    commit(folder, text)


def compared(folder: Path, base: str = "HEAD~1", **more: Any) -> tuple[regress.Outcome, Heard]:
    heard = Heard()
    device = more.pop("device", cpu_device())
    repository = Repository(folder, ["hers.py"])
    return regress.compare(repository, base, CASES, device, folder.parent / "results", heard, **more), heard


@pytest.mark.parametrize(
    ("times", "verdict", "status"),
    [(1.1, Verdict.SLOWER, 1), (0.9, Verdict.FASTER, 0), (1.0, Verdict.SAME, 0)],
)
def test_a_revision_is_slower_faster_or_the_same(hers, times, verdict, status):
    changed(hers, f"times = {times}  # now")
    outcome, _ = compared(hers)
    assert {case: finding.verdict for case, finding in outcome.findings.items()} == dict.fromkeys(
        TEXTS, verdict
    )
    assert outcome.exit_status == status
    assert outcome.findings[TEXTS[0]].ratio.value == pytest.approx(times, rel=0.005)
    assert git(hers, "worktree", "list").count("\n") == 0


@pytest.mark.parametrize("name", regress.TIMES)
def test_revisions_that_are_timed_in_different_ways_are_not_compared(name, hers):
    """Each side runs its own clock; which revision is the faster cannot be told then."""
    file = hers / name
    file.parent.mkdir(parents=True)
    file.write_text("mean")
    changed(hers, "times = 1.0  # with a clock")
    file.write_text("fastest")
    changed(hers, "times = 1.0  # with another")
    with pytest.raises(Undecided, match=f"timed in different ways: {name} is not the same in both"):
        compared(hers)
    assert not MadeUp.visits
    changed(hers, "times = 1.0  # with the same")
    assert compared(hers)[0].exit_status == 0


def test_noise_is_measured_once_and_again_when_the_environment_changes(hers, monkeypatch):
    changed(hers, "times = 1.0  # same")
    _, heard = compared(hers)
    assert any("the noise of this machine is not known yet" in line for line in heard.said)
    first = len(MadeUp.visits)
    changed(hers, "times = 1.0  # still the same")
    _, heard = compared(hers)
    assert not any("noise" in line for line in heard.said)
    assert len(MadeUp.visits) - first == first - 2 * gate.AA_RESTARTS
    monkeypatch.setenv("OMP_PROC_BIND", "close")
    _, heard = compared(hers)
    assert any(
        "changed since the noise was last measured: OMP_PROC_BIND not set → close" in line
        for line in heard.said
    )


def test_a_run_that_was_stopped_goes_on_and_nothing_is_measured_twice(hers):
    changed(hers, "times = 1.0  # same")
    MadeUp.stops_after = 17
    with pytest.raises(KeyboardInterrupt):
        compared(hers)
    assert git(hers, "worktree", "list").count("\n") == 0
    MadeUp.stops_after = 10**9
    outcome, _ = compared(hers)
    assert outcome.exit_status == 0
    kept = record.read(hers.parent / "results" / regress.FOLDER).sealed
    assert len(kept) == len(MadeUp.visits) == len({row["key"] for row in kept}) == 2 * (6 + 4)
    assert not outcome.warnings
    outcome, _ = compared(hers)
    assert len(MadeUp.visits) == len(kept)
    assert any("--fresh takes them anew" in line for line in outcome.warnings)
    outcome, _ = compared(hers, fresh=True)
    assert not outcome.warnings
    assert len(MadeUp.visits) == len(kept) + 2 * 4  # but not the noise


def test_a_noise_that_was_measured_in_a_bad_hour_is_measured_again(hers, monkeypatch):
    changed(hers, "times = 1.0  # same")
    monkeypatch.setattr(regress.gate, "LOUD", 0.0)
    compared(hers)
    first = len(MadeUp.visits)
    compared(hers)
    assert len(MadeUp.visits) == first  # the hour is not over
    monkeypatch.setattr(regress, "BAD_HOUR_S", -1.0)
    compared(hers)
    assert len(MadeUp.visits) == first + 2 * gate.AA_RESTARTS


def test_each_restart_has_a_pair_of_its_own(hers):
    changed(hers, "times = 1.0  # same")
    compared(hers)
    assert MadeUp.starts == 6 + 4


def test_what_is_counted_is_compared_exactly_and_decides_nothing(hers):
    changed(hers, "times = 1.0; macs = 101")
    outcome, _ = compared(hers)
    assert outcome.changes == {text: ["MACs 100 → 101"] for text in TEXTS}
    assert outcome.exit_status == 0
    assert any(line.endswith("; MACs 100 → 101") for line in describe.outcome(outcome))


def test_a_difference_between_the_sides_environments_is_named(hers):
    (hers / "hers.py").write_text("times = 1.0; torch = '1'")
    (hers / "pyproject.toml").write_text("[project]")
    commit(hers, "an old torch")
    (hers / "pyproject.toml").write_text("[tool]")
    changed(hers, "times = 1.0")
    outcome, heard = compared(hers)
    assert "torch is 2 in the new and 1 in the old" in outcome.warnings
    assert any("the two ask for other versions of packages" in line for line in heard.said[:2])
    assert describe.outcome(outcome)[0].startswith("note: ")


@pytest.mark.parametrize(
    ("old", "new", "error", "line"),
    [
        (
            "broken = 'ImportError: no such name'",
            "times = 1.0  # runs",
            UsageError,
            r"the base \w{12} cannot be measured",
        ),
        (
            "times = 1.0  # runs",
            "broken = 'ZeroDivisionError'",
            Failure,
            r"hers:Net@32:.* does not run in \w{12}: ZeroDiv",
        ),
        (
            "broken = 'no GPU'",
            "broken = 'no GPU'  # still",
            UsageError,
            "no case can be compared with HEAD~1: no GPU",
        ),
    ],
)
def test_a_revision_that_does_not_run_is_one_clear_line(hers, old, new, error, line):
    changed(hers, old)
    changed(hers, new)
    with pytest.raises(error, match=line) as raised:
        compared(hers)
    assert raised.value.status == (1 if error is Failure else 2)
    assert git(hers, "worktree", "list").count("\n") == 0


def test_no_such_base_and_a_dirty_tree_are_wrong_usage_and_leave_nothing(hers):
    with pytest.raises(UsageError, match="no commit 'nowhere'"):
        compared(hers, "nowhere")
    (hers / "hers.py").write_text("times = 2")
    with pytest.raises(UsageError, match="changes that no commit has"):
        compared(hers, "HEAD")
    assert not (hers.parent / "results").exists()


def test_what_the_new_revision_refuses_and_the_base_ran_is_no_pass(hers):
    changed(hers, "times = 1.0  # runs")
    changed(hers, "broken = 'no GPU'")
    with pytest.raises(Failure, match=r"does not run in \w{12}: no GPU"):
        compared(hers)


def test_a_module_that_both_revisions_would_share_is_refused(hers, monkeypatch):
    monkeypatch.chdir(hers)
    with pytest.raises(UsageError, match="no module 'nowhere' in this folder"):
        regress.repository_of([parse("nowhere:Net@32")])
    (hers / "lib").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(hers / "lib"))
    with pytest.raises(UsageError, match=r"PYTHONPATH names .*/lib, which both revisions would import from"):
        regress.repository_of([parse("hers:Net@32")])


def test_a_node_that_slurm_shares_is_refused(hers, monkeypatch):
    monkeypatch.setattr(regress.provenance, "load_average", lambda: 0.0)
    job: dict[str, object] = {"node": "n1"}
    monkeypatch.setattr(regress.provenance, "slurm", lambda: job)
    for job["shared"] in (False, None):
        regress.check_load()
    job["shared"] = True
    with pytest.raises(Undecided, match="other jobs on node n1: ask it for the node with --exclusive"):
        compared(hers, "HEAD")


def test_a_loaded_host_is_refused_above_the_stated_load(hers, monkeypatch):
    monkeypatch.setattr(regress.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(regress.provenance, "load_average", lambda: 6.0)
    regress.check_load()
    monkeypatch.setattr(regress.provenance, "load_average", lambda: 6.1)
    with pytest.raises(Undecided, match=r"a load of 6.1 on 4 cores, where 1.5 each is the most") as raised:
        compared(hers, "HEAD")
    assert raised.value.status == 3
    assert not (hers.parent / "results").exists()


def test_an_outcome_is_printed_as_the_schema_has_it(hers):
    changed(hers, "times = 1.1")
    outcome, _ = compared(hers)
    outcome.left_out["core_tiny[stage=1]"] = "no GPU"
    document = answers.document("regress", answers.records_of_outcome(outcome))
    assert list(faults(json.loads(json.dumps(document)), SCHEMA)) == []
    assert [found["verdict"] for found in document["records"]] == ["slower", "slower", None]
    assert "slower, 1.10" in describe.outcome(outcome)[0]
    assert describe.outcome(outcome)[-1] == "2 slower"
