"""The gate on real processes: this repository with a copy too many, false alarms of equal revisions, and its power.

The long ones keep each run's verdict in results/trials/ and go on from there, as long as the gate is as it was. They
print what they found with its 95 % bounds, also where they are stopped. They run beside any load, which the gate itself
would refuse: that is the harder trial.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest
from scipy.stats import beta

from bench import regress
from bench.cases import parse
from bench.gate import Plan
from bench.machine.devices import cpu_device
from bench.machine.provenance import OURS, ROOT, load_average, source_hash
from bench.revisions import Repository
from bench.stats import Verdict
from tests.support.neighbour import neighbour
from tests.support.revisions import commit, git
from tests.support.runs import Heard

pytestmark = pytest.mark.trials
ATTENTION = "attention_tiny[stage=1,style=global]@224"
KEPT = ROOT / "results" / "trials"
GATE = [
    f"bench/{name}.py"
    for name in (
        *("gate", "stats", "suite", "regress", "taking", "pair", "sides", "process", "nursery"),
        *("harness/nursery", "harness/turns"),
    )
]
SHORT = Plan(looks=(3, 5))  # for 15 s a run, in which what is slower takes six restarts
NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        convs = (nn.Conv2d({width}, {width}, 3, padding=1) for _ in range({convs}))
        super().__init__(nn.Conv2d(3, {width}, 4, 4), *convs, nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


class Planted(NamedTuple):
    """A network of 10 ms on one core, and how many convolutions it has in the old and in the new revision."""

    width: int
    old: int
    new: int


EQUAL, TWENTIETH, THIRTIETH = Planted(24, 20, 20), Planted(24, 20, 21), Planted(16, 33, 34)


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


def verdicts(what: str, name: str, folder: Path, planted: Planted, runs: int, capsys: Any) -> list[str]:
    """The verdicts of so many runs on two revisions of a user's network, kept as they come."""
    for place, convs in enumerate(planted[1:]):
        text = NET.format(width=planted.width, convs=convs)
        # what nobody uses, so that the new revision's data lie elsewhere; a commit has to change something
        (folder / "her_net.py").write_text(f"{text}\nUNUSED = list(map(str, range({5000 * place})))\n")
        commit(folder, str(convs))
    KEPT.mkdir(parents=True, exist_ok=True)
    kept = KEPT / f"{name}-{source_hash(GATE)[:8]}.jsonl"
    found = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    ask = (
        Repository(folder, ["her_net.py"]),
        "HEAD~1",
        [parse("her_net:Net@224")],
        cpu_device(),
        KEPT / name,
    )
    try:
        with neighbour(), kept.open("a") as file:
            while len(found) < runs:
                began = time.monotonic()
                (finding,) = regress.compare(*ask, Heard(), fresh=True, plan=SHORT).findings.values()
                found.append(
                    {
                        "verdict": finding.verdict.value,
                        "ratio": finding.ratio.value,
                        "restarts": finding.restarts,
                        "s": time.monotonic() - began,
                        "load": load_average(),
                    }
                )
                file.write(json.dumps(found[-1]) + "\n")
                file.flush()
    finally:
        said(what, found, capsys)
    return [line["verdict"] for line in found]


def said(what: str, found: Sequence[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    """Print the share of runs that are slower, with its bounds, and the seconds of a run beside its load."""
    if not found:
        return
    low, high = bounds([line["verdict"] for line in found])
    slower = sum(line["verdict"] == "slower" for line in found)
    seconds, load = (median(line[name] for line in found) for name in ("s", "load"))
    with capsys.disabled():
        print(
            f"\n{what}: slower in {slower} of {len(found)} runs, 95 % bounds {low:.1%} and {high:.1%}; "
            f"{seconds:.0f} s a run at a load of {load:.1f}"
        )


def bounds(found: Sequence[str]) -> tuple[float, float]:
    """The 95 % lower and upper bounds, each one-sided, of the share of runs that are slower (Clopper and Pearson)."""
    slower, runs = found.count("slower"), len(found)
    low = float(beta.ppf(0.05, slower, runs - slower + 1)) if slower else 0.0
    high = float(beta.ppf(0.95, slower + 1, runs - slower)) if slower < runs else 1.0
    return low, high


@pytest.fixture
def hers(tmp_path, monkeypatch) -> Path:
    """Her folder, which we are in: her modules are looked for there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(regress, "check_load", lambda: None)
    return tmp_path


@pytest.mark.timeout(12 * 3600)
def test_equal_revisions_are_called_slower_in_three_runs_of_a_hundred_at_the_most(hers, capsys):
    _, high = bounds(verdicts("A/A", "aa", hers, EQUAL, 200, capsys))
    assert high <= 0.03


@pytest.mark.timeout(12 * 3600)
@pytest.mark.parametrize(
    "planted", [TWENTIETH, THIRTIETH], ids=lambda planted: f"{planted.old}_{planted.new}"
)
def test_one_convolution_more_is_found_with_nine_tenths_power(planted, hers, capsys):
    more = f"{planted.new / planted.old - 1:.0%} more"
    found = verdicts(more, f"power-{planted.old}", hers, planted, 100, capsys)
    assert found.count("slower") >= 90
