"""The progress of runs from files alone: what is done, what failed, what is left, and who is gone without a word."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import progress, record
from bench.errors import Failure
from bench.progress import Announcement
from bench.shard import Shard

TURNS = {"a0": ("a", 10.0), "a1": ("a", 20.0), "b0": ("b", 30.0), "b1": ("b", 40.0), "c": ("c", 50.0)}


def announced(folder: Path, ours: Shard, study: str = "s") -> Announcement:
    return Announcement(folder / f"{ours.file_of(study)}.jsonl", study, ours, "digest", TURNS, 600.0)


def write(folder: Path, *rows: tuple[str, str, str]) -> None:
    """Rows of a key, a group and an outcome."""
    with (folder / "rows.jsonl").open("ab") as file:
        for key, group, outcome in rows:
            row = {
                "schema": 1,
                "key": key,
                "group": group,
                "harness": "throughput",
                "case": key,
                "outcome": outcome,
            }
            file.write(record.line_of(row))


def edited(folder: Path, name: str, **values: Any) -> None:
    path = folder / "progress" / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def states(found: Sequence[progress.Progress]) -> list[str]:
    return [f"{one.shard} {one.state}" for one in found]


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "h100"
    place.mkdir()
    return place


def test_a_run_is_followed_from_its_start_to_its_end(tmp_path, folder):
    with announced(folder, Shard()).made():
        (one,) = progress.find(tmp_path)
        assert (one.state, one.done, one.left, one.left_s, one.asked) == ("running", 0, 5, 150.0, "digest")
        write(folder, ("a0", "a", "ok"), ("b0", "b", "failed"))
        (one,) = progress.find(tmp_path)
        assert (one.state, one.done, one.failed, one.left, one.left_s) == (
            "running",
            1,
            2,
            2,
            70.0,
        )  # b1 is skipped
        write(folder, ("a1", "a", "failed"), ("c", "c", "refused"))
    (one,) = progress.find(tmp_path)
    assert (one.state, one.done, one.failed, one.refused, one.left) == ("done", 1, 3, 1, 0)
    assert list(progress.lines([one])) == ["h100  s: done, 1 of 5 rows done, 3 failed, 1 not to be had here"]


def test_what_failed_and_is_measured_again_counts_once(tmp_path, folder):
    with announced(folder, Shard()).made():
        write(folder, ("c", "c", "failed"), ("c", "c", "ok"))
        (one,) = progress.find(tmp_path)
    assert (one.done, one.failed) == (1, 0)


def test_a_shard_that_was_stopped_or_has_not_begun_is_told_from_one_that_runs(tmp_path, folder):
    with pytest.raises(KeyboardInterrupt), announced(folder, Shard(3, 4)).made():
        raise KeyboardInterrupt
    with announced(folder, Shard(1, 4)).made():
        found = progress.find(tmp_path)
        assert states(found) == ["1/4 running", "2/4 not begun", "3/4 stopped", "4/4 not begun"]
        assert [one.left_s for one in found] == [150.0] * 4  # of what has not begun: as long as the others
        assert "of 4 shards 1 running, 2 not begun, 1 stopped" in list(progress.lines(found))[-1]


def test_a_run_that_was_killed_is_found_out(tmp_path, folder):
    for count in (1, 2):
        with announced(folder, Shard(count, 2)).made():
            pass
        edited(folder, f"s.{count}-of-2.json", ended=False)  # no word of its end
    assert states(progress.find(tmp_path)) == ["1/2 running", "2/2 running"]
    path = folder / "progress" / "s.1-of-2.json"
    edited(folder, path.name, process=2**22 + 1)  # no such process on this machine
    edited(folder, "s.2-of-2.json", host="another")
    assert states(progress.find(tmp_path)) == ["1/2 stopped", "2/2 running"]
    silent = path.stat().st_mtime - 600 - progress.PATIENCE_S - 1  # for longer than any row may take
    os.utime(folder / "progress" / "s.2-of-2.json", (silent, silent))
    assert states(progress.find(tmp_path)) == ["1/2 stopped", "2/2 stopped"]


def test_a_process_that_was_killed_and_that_nobody_waited_for_is_gone(tmp_path, folder):
    with announced(folder, Shard()).made():
        pass
    killed = subprocess.Popen(["sleep", "100"])
    edited(folder, "s.json", ended=False, process=killed.pid)
    assert states(progress.find(tmp_path)) == ["1/1 running"]
    killed.kill()
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays in the table
    assert states(progress.find(tmp_path)) == ["1/1 stopped"]
    killed.wait()


def test_of_a_study_that_was_run_in_more_shards_before_the_last_run_is_told(tmp_path, folder):
    for ours in (Shard(1, 3), Shard(1, 2)):
        with announced(folder, ours).made():
            pass
    os.utime(folder / "progress" / "s.1-of-3.json", (1, 1))
    assert states(progress.find(tmp_path)) == ["1/2 stopped", "2/2 not begun"]


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"study": "s", "shard": "9/2"}', '{"turns": {"a": [1]}}', "\xff", "[" * 100_000],
)
def test_a_damaged_file_is_passed_over(tmp_path, folder, content):
    (folder / "progress").mkdir()
    (folder / "progress" / "s.json").write_text(content, encoding="latin-1")
    assert progress.find(tmp_path) == []


@pytest.mark.parametrize(
    "values",
    [
        *({"shard": shard} for shard in (5, None, "1/1000000000", "1/" + "9" * 5000)),
        *({"study": ["s"]}, {"silent_s": "x"}, {"ended": None}, {"process": "\0"}, {"turns": []}),
        {"turns": {"a0": ["a", float("nan")]}},
    ],
)
def test_a_file_of_other_types_is_passed_over(tmp_path, folder, values):
    with announced(folder, Shard()).made():
        edited(folder, "s.json", **values)
        assert progress.find(tmp_path) == []


def test_a_row_with_an_outcome_of_another_version_is_not_done(tmp_path, folder):
    write(folder, ("a0", "a", "skipped"))
    with announced(folder, Shard()).made():
        (one,) = progress.find(tmp_path)
    assert (one.done, one.left) == (0, 5)


def test_a_file_in_place_of_the_results_is_told(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(Failure, match="results is no folder"):
        progress.find(tmp_path / "results")


def test_a_sign_of_life_is_a_touch_and_a_folder_that_was_cleared_away_is_no_reason_to_stop(tmp_path, folder):
    announcement = announced(folder, Shard())
    path = folder / "progress" / "s.json"
    with announcement.made():
        os.utime(path, (1, 1))
        announcement.touch()
        assert path.stat().st_mtime > 1
        path.unlink()
        announcement.touch()
        path.parent.rmdir()
    assert json.loads(path.read_text())["host"] == socket.gethostname()
