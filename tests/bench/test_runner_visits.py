"""Visits: a row each, in shuffled rounds and fresh processes, resumed one by one, and joined for whoever reads them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench import record, runner, visits
from bench.jobs import Expectations
from bench.machine import devices
from tests.support.runs import RULES, run, throughput

VISITED = replace(RULES, visits=5)
JOBS = [throughput(f"restv2_lite@{size}:b1", VISITED) for size in (32, 64, 96, 128)]


class StandIn:
    """Answers at once, and remembers what it was asked and when it was ended. No process."""

    threads, import_s = 1, 0.0

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.modules: set[str] = set()
        self.fails = False

    def ask(self, job: dict[str, Any], limit_s: float, on_phase: Any) -> dict[str, Any]:
        self.log.append(job)
        if self.fails:
            return {"failed": "a bad day", "fatal": False}
        result = {"samples_s": [0.1, 0.11], "batch": 1, "batch_requested": 1, "statistic": "median"}
        return {"result": {**result, "digests": [["d"]]}, "notes": [], "spent": {"all": 1.0}}

    def kill(self) -> None:
        self.log.append("kill")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    worker = StandIn()
    monkeypatch.setattr(runner, "Worker", lambda device, *harnesses: worker)
    return worker


def rounds_of(log: list[Any]) -> list[list[dict[str, Any]]]:
    rounds: list[list[dict[str, Any]]] = [[]]
    for entry in log:
        if entry == "kill":
            rounds.append([])
        else:
            rounds[-1].append(entry)
    return [each for each in rounds if each]


def test_each_round_has_a_process_of_its_own_and_every_case_once_in_another_order(tmp_path, stand_in):
    summary, _ = run(tmp_path, JOBS)
    rounds = rounds_of(stand_in.log)
    assert len(rounds) == 5
    orders = [tuple(job["cases"][0] for job in each) for each in rounds]
    assert all(sorted(order) == sorted(job.text for job in JOBS) for order in orders)
    assert len(set(orders)) > 1
    rows = record.read(tmp_path).rows
    assert len(rows) == len({row["key"] for row in rows}) == 20
    assert len({row["group"] for row in rows}) == 4
    assert all({"visit", "group", "turn"} <= set(row) for row in rows)
    assert len({row["turn"]["seed"] for row in rows}) == 1
    assert [len(row["result"]["visits_s"]) for row in summary.rows] == [5] * 4
    assert visits.seconds(summary.rows[0]).low is not None


def test_later_visits_are_told_what_the_first_computed(tmp_path, stand_in):
    run(tmp_path, JOBS[:1])
    assert [job["digests"] for job in stand_in.log if job != "kill"] == [None, *[[["d"]]] * 4]


def test_what_was_lost_is_done_again_and_nothing_else_and_until_then_there_is_no_interval(tmp_path, stand_in):
    run(tmp_path, JOBS[:1])
    file = tmp_path / "tiny.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    (joined,) = map(visits.join, visits.groups(record.read(tmp_path).rows))
    estimate = visits.seconds(joined)
    assert (estimate.low, estimate.why) == (None, "2 of 5 visits")
    summary, _ = run(tmp_path, JOBS[:1])
    assert (summary.measured, summary.reused) == (3, 2)
    assert visits.seconds(summary.rows[0]).n == 5


def test_what_fails_at_the_first_visit_is_not_tried_at_the_others(tmp_path, stand_in):
    stand_in.fails = True
    summary, _ = run(tmp_path, JOBS[:1])
    assert (summary.measured, summary.failed) == (1, 1)


def test_a_visit_at_another_batch_is_left_out_and_not_the_others_for_it():
    def visit(number, batch):
        result = {"samples_s": [0.1], "batch": batch, "statistic": "median"}
        return {
            **{"key": str(number), "visit": number, "group": "g", "outcome": "ok", "notes": []},
            **{"protocol": VISITED.as_dict(), "result": result},
        }

    joined = visits.join([*(visit(number, 64) for number in range(4)), visit(4, 32)])
    assert joined["result"]["batch"] == 64
    assert len(joined["result"]["visits_s"]) == 4
    assert joined["notes"] == ["some visits ran at another batch and are left out"]


def test_what_is_expected_has_the_start_and_the_warm_up_of_each_round(tmp_path, stand_in):
    rules = replace(VISITED, board_least_s=20.0, board_most_s=20.0)
    jobs = [throughput(f"restv2_lite@{size}:b1", rules) for size in (32, 64)]
    _, heard = run(tmp_path, jobs)
    expected = Expectations([], devices.cpu_device())
    without = sum(map(expected.of_all_visits, jobs))
    assert sum(heard.expected) == pytest.approx(without + 5 * (20 + runner.START_S))


def test_a_row_is_remembered_without_the_warm_up_of_its_round():
    job = JOBS[0]
    row = {"harness": "throughput", "case": job.text, "outcome": "ok", "protocol": {"name": job.rules.name}}
    row["spent"] = {"all": 30.0, "board": 20.0}
    assert Expectations([row], devices.cpu_device()).seconds(job) == 10.0
