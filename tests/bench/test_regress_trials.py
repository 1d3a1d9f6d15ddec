"""The gate on real processes: this repository with a copy too many, false alarms of equal revisions, and its power.

The long ones keep each run's verdict in results/trials/ and go on from there; removing that folder begins them anew.
They print what they found with its 95 % bound, and need a machine that is idle but for the neighbour that they start.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from scipy.stats import beta

from bench import regress
from bench.cases import parse
from bench.errors import Undecided
from bench.gate import Plan
from bench.machine.devices import cpu_device
from bench.machine.provenance import OURS, ROOT
from bench.revisions import Repository
from bench.stats import Verdict
from tests.support.revisions import commit, git
from tests.support.runs import Heard

pytestmark = pytest.mark.trials
ATTENTION = "attention_tiny[stage=1,style=global]@224"
KEPT = ROOT / "results" / "trials"
# Three restarts, and three fresh ones: 15 s a run where a process starts in one.
SHORT = Plan(looks=(3, 5))
NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        convs = (nn.Conv2d(32, 32, 3, padding=1) for _ in range({convs}))
        super().__init__(nn.Conv2d(3, 32, 4, 4), *convs, nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""
NEIGHBOUR = """
import time
while True:
    until = time.monotonic() + 3
    while time.monotonic() < until:
        sum(range(1000))
    time.sleep(3)
"""


@pytest.fixture
def clone(tmp_path) -> Path:
    """A shallow clone of this repository."""
    folder = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{ROOT}", str(folder))
    return folder


def of_clone(clone: Path, old: str, new: str) -> regress.Outcome:
    """The outcome of a commit that puts `new` for `old` wherever it stands in the attention."""
    file = clone / "models" / "attention.py"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    commit(clone, f"{new} for {old}")
    repository, results = Repository(clone, OURS), clone.parent / "results"
    return regress.compare(repository, "HEAD~1", [parse(ATTENTION)], cpu_device(), results, Heard())


@pytest.mark.timeout(3600)
def test_one_copy_of_its_input_more_in_attention_is_named_slower(clone):
    outcome = of_clone(
        clone,
        "        if self._fuses(x_BNC):",
        "        x_BNC = x_BNC.clone()\n        if self._fuses(x_BNC):",
    )
    (finding,) = outcome.findings.values()
    (changes,) = outcome.changes.values()
    assert any(change.startswith("launches") for change in changes)
    assert finding.verdict is Verdict.SLOWER, finding


@pytest.mark.timeout(3600)
def test_a_commit_that_only_renames_is_the_same(clone):
    outcome = of_clone(clone, "attended_BNC", "weighted_BNC")
    (finding,) = outcome.findings.values()
    assert outcome.changes == {case: [] for case in outcome.findings}
    assert finding.verdict is Verdict.SAME, finding


@contextmanager
def neighbour() -> Iterator[None]:
    """Somebody whose load comes and goes, three seconds each."""
    with subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) as process:
        try:
            yield
        finally:
            process.kill()


def verdicts(name: str, folder: Path, convs: tuple[int, int], runs: int) -> list[str]:
    """The verdicts of so many runs on two revisions of a user's network, by its convolutions, kept as they come."""
    for number in convs:
        (folder / "her_net.py").write_text(NET.format(convs=number) + f"# {number} {time.time()}\n")
        commit(folder, str(number))
    repository, kept = Repository(folder, ["her_net.py"]), KEPT / f"{name}.jsonl"
    KEPT.mkdir(parents=True, exist_ok=True)
    found = kept.read_text().splitlines() if kept.exists() else []
    case = [parse("her_net:Net@224")]
    with neighbour(), kept.open("a") as file:
        while len(found) < runs:
            began = time.monotonic()
            try:
                outcome = regress.compare(
                    *(repository, "HEAD~1", case, cpu_device(), KEPT / name, Heard()), fresh=True, plan=SHORT
                )
            except Undecided as error:
                pytest.skip(f"{len(found)} of {runs} runs so far: {error}")
            (finding,) = outcome.findings.values()
            line = {
                "verdict": finding.verdict.value,
                "ratio": finding.ratio.value,
                "s": time.monotonic() - began,
            }
            found.append(json.dumps(line))
            file.write(found[-1] + "\n")
            file.flush()
    return [json.loads(line)["verdict"] for line in found]


@pytest.fixture
def hers(tmp_path, monkeypatch) -> Path:
    """Her folder, which we are in: her modules are looked for there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(what: str, found: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[float, float]:
    """The 95 % lower and upper bounds, each one-sided, of the share of runs that are slower; printed."""
    slower, runs = found.count("slower"), len(found)
    low = float(beta.ppf(0.05, slower, runs - slower + 1)) if slower else 0.0
    high = float(beta.ppf(0.95, slower + 1, runs - slower)) if slower < runs else 1.0
    with capsys.disabled():
        print(f"\n{what}: slower in {slower} of {runs} runs, 95 % bounds {low:.1%} and {high:.1%}")
    return low, high


@pytest.mark.timeout(6 * 3600)
def test_equal_revisions_are_called_slower_in_three_runs_of_a_hundred_at_the_most(hers, capsys):
    _, high = said("A/A", verdicts("aa", hers, (12, 12), 200), capsys)
    assert high <= 0.03


@pytest.mark.timeout(6 * 3600)
def test_one_convolution_more_in_twenty_is_found_with_nine_tenths_power(hers, capsys):
    found = verdicts("power", hers, (20, 21), 100)
    said("5 % more", found, capsys)
    assert found.count("slower") >= 90
