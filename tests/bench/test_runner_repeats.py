"""Whole runs again and again: intervals hold what ten of them agree on, and equal cases are never told apart.

A run takes about two minutes, in the default protocol, on this machine. Each that ends is kept in results/trials/, from
where a test that was stopped goes on; removing that folder begins anew.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from bench.machine.provenance import ROOT
from tests.support.neighbour import neighbour

pytestmark = [pytest.mark.trials, pytest.mark.timeout(6 * 3600)]
KEPT = ROOT / "results" / "trials"
RUNS = 10
ALIKE = ("restv2_lite[target=k]@224", "restv2_lite[target=v]@224")  # K and V have the same shapes


def records(
    name: str, cases: Sequence[str], pairs: Sequence[Sequence[str]] = ()
) -> list[list[dict[str, Any]]]:
    """The records of what is timed, of each of RUNS runs of a user's study."""
    folder = KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    study = {"name": name, "question": "Again?", "cases": cases, **({"pairs": pairs} if pairs else {})}
    (folder / "study.toml").write_text(
        "".join(f"{key} = {json.dumps(value)}\n" for key, value in study.items())
    )
    kept = folder / "runs.jsonl"
    found = kept.read_text().splitlines() if kept.exists() else []
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "BENCH_LOCKS": str(folder)}
    command = [
        sys.executable,
        *["-m", "bench", "run", "--study", "study.toml", "--gpu", "cpu", "--fresh", "--json"],
    ]
    while len(found) < RUNS:
        done = subprocess.run(command, cwd=folder, env=environ, stdout=subprocess.PIPE, check=True)
        timed = [each for each in json.loads(done.stdout)["records"] if each["ms"] or each["ratio"]]
        found.append(json.dumps(timed))
        with kept.open("a") as file:
            file.write(f"{found[-1]}\n")
    runs = [json.loads(line) for line in found]
    assert len({tuple(each["row"] for each in run) for run in runs}) == 1, (
        f"of several sources: remove {folder}"
    )
    return runs


def test_at_least_eight_of_ten_intervals_of_a_case_hold_the_median_of_all(capsys):
    of_runs = [run[0] for run in records("repeats", ["restv2_lite@224"])]
    median = statistics.median(each["ms"] for each in of_runs)
    given = [each for each in of_runs if each["ms_low"] is not None]
    held = [each for each in given if each["ms_low"] <= median <= each["ms_high"]]
    with capsys.disabled():
        print(
            f"\nmedian of {RUNS} runs {median:.2f} ms, in the intervals of {len(held)} of {len(given)} that give one"
        )
        for each in of_runs:
            print(f"  {each['ms']:.2f} ms ({each['ms_low']} to {each['ms_high']}; {each['interval']})")
    assert len(held) >= 8


def test_two_equal_cases_are_never_told_apart_beside_a_load_that_comes_and_goes(capsys):
    with neighbour():
        runs = records("alike", ALIKE, [ALIKE])
    compared = [each for run in runs for each in run if each["verdict"]]
    with capsys.disabled():
        print()
        for each in compared:
            print(f"  {each['ratio']:.3f} ({each['ratio_low']} to {each['ratio_high']}): {each['verdict']}")
    assert len(compared) == RUNS
    assert {each["verdict"] for each in compared} <= {"same", "undecided"}
