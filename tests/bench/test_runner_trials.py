"""`kill -9` of the run and of its worker at random instants, Ctrl-C and SIGTERM: nothing measured is lost.

The run under trial is the product's Runner over tiny models of a user's. It says each row's key once `append`
has returned; whatever it said before it was killed must be in the file afterwards. It pauses after as many rows as
it is told, until its standard input ends: a fast machine would measure everything before the kill arrives.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import record
from bench.machine.provenance import ROOT
from tests.support.sweeps import sweep

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

CASES = 40
PATIENCE_S = 120.0
ROOM = 2  # rows that a run under trial may finish after those that its trial waits for, before it pauses

NETS = """
import time
from pathlib import Path
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


class Slow(Net):
    def forward(self, x):
        if not x.is_meta:  # counted at once, and then measured for ever
            Path("asleep").touch()
            time.sleep(1000)
        return super().forward(x)
"""

RUN = """
import sys
from pathlib import Path
from bench.cases import parse
from bench.runner import Runner
from bench.jobs import job_of
from bench.machine.devices import cpu_device
from bench.screen import Screen
from bench.protocols import Rules

RULES = Rules("trial", 1, 0.0, 0.0, 6, None, 0.02, limit_s=100)


class Announcing(Screen):
    def say(self, text):
        if text:
            print("said", text, flush=True)

    rows_to_pause = int(sys.argv[2])

    def done(self, job, row):
        print("row", row["key"], row["outcome"], row["case"], flush=True)
        super().done(job, row)
        self.rows_to_pause -= 1
        if self.rows_to_pause == 0:
            sys.stdin.read()


cpu = cpu_device()
jobs = []
for size in range(8, 8 + int(sys.argv[1]) // 2):
    case = parse(f"nets:Net@{size}")
    jobs += [job_of("throughput", cpu, RULES, case), job_of("macs", cpu, RULES, case)]
summary = Runner(cpu, Path("results/cpu"), Announcing()).run(jobs, "trial")
print("done", summary.measured, summary.reused, summary.failed, flush=True)
"""


class Workplace:
    """A user's folder in which runs are started, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "nets.py").write_text(NETS)
        # a copy of the product: somebody may edit the checkout during the minutes that the trials take
        self.product = folder / "product"
        for package in ("bench", "kernels", "models"):
            shutil.copytree(
                ROOT / package, self.product / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        self.announced: list[tuple[str, str]] = []  # key and outcome of each row, by any run
        self.said: list[str] = []

    def start(self, rows_to_pause: int = 0) -> subprocess.Popen[str]:
        """A run that pauses after so many rows; 0 is never."""
        return self._start("-c", RUN, str(CASES), str(rows_to_pause))

    def bench(self, *arguments: str) -> subprocess.Popen[str]:
        """The real command line."""
        return self._start("-m", "bench", *arguments)

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.product)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def hear(self, line: str) -> str:
        """Take note of a line of the run's."""
        what, _, rest = line.strip().partition(" ")
        if what == "row":
            key, outcome, *_ = rest.split(" ")
            self.announced.append((key, outcome))
        elif what == "said":
            self.said.append(rest)
        return line

    def to_the_end(self) -> str:
        """Run without disturbance; its last line."""
        process = self.start()
        out, err = process.communicate(timeout=PATIENCE_S)
        for line in out.splitlines():
            self.hear(line)
        assert process.returncode == 0, err
        return out.splitlines()[-1]

    def rows(self) -> list[record.Row]:
        return record.read(self.folder / "results" / "cpu").rows

    def assert_nothing_was_lost(self) -> None:
        written = Counter((row["key"], row["outcome"]) for row in self.rows())
        assert [row for row in self.announced if row not in written] == []
        twice = {key for (key, outcome), times in written.items() if outcome == "ok" and times > 1}
        assert twice == set()

    def assert_all_is_measured(self) -> None:
        newest = record.newest(self.rows())
        assert len(newest) == CASES
        assert {row["outcome"] for row in newest.values()} == {"ok"}
        assert record.read(self.folder / "results" / "cpu").problems == []


@pytest.fixture
def workplace(tmp_path) -> Workplace:
    return Workplace(tmp_path)


def processes() -> Iterator[tuple[int, int, str]]:
    """Pid, parent and command of every process there is, zombies left out."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                state, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if state != "Z":
                    yield int(folder.name), int(parent), command


def worker_of(run: subprocess.Popen[str]) -> int:
    """The pid of the run's worker, waited for."""
    found: list[int] = []

    def look() -> bool:
        assert run.poll() is None, f"the run ended without one: {run.communicate()}"
        found[:] = [
            pid
            for pid, parent, command in processes()
            if parent == run.pid and "bench.harness.worker" in command
        ]
        return bool(found)

    wait_until(look, "the run started a worker")
    return found[0]


def workers_in(folder: Path) -> list[int]:
    """Workers that measure for this folder, whoever is their parent by now."""
    found = []
    for pid, _, command in processes():
        with contextlib.suppress(OSError):
            if "bench.harness.worker" in command and Path(f"/proc/{pid}/cwd").resolve() == folder.resolve():
                found.append(pid)
    return found


def wait_until(happened: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    until = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < until, f"waited {patience_s:.0f} s in vain: {what}"
        time.sleep(0.01)


def assert_no_worker_is_left(folder: Path) -> None:
    # one that was still importing torch when its run was killed notices at the end of that
    wait_until(lambda: not workers_in(folder), "no worker is left behind", 30)


def rows_to_wait_for(source: random.Random) -> int:
    """None: somewhere in the start-up."""
    return source.choice([0, 1, 1, 2, 3])


def at_a_random_instant(
    source: random.Random, rows: int, run: subprocess.Popen[str], place: Workplace
) -> None:
    """Wait for `rows` rows, then for a part of what the next one takes."""
    assert run.stdout
    seen = 0
    while seen < rows:
        line = place.hear(run.stdout.readline())
        assert line, f"the run ended before it could be killed: {run.communicate()}"
        seen += line.startswith("row")
    time.sleep(source.uniform(0, 0.12) if rows else source.uniform(0, 4.0))


def kill_the_run(place: Workplace, source: random.Random) -> None:
    rows = rows_to_wait_for(source)
    run = place.start(rows_to_pause=rows + ROOM)
    at_a_random_instant(source, rows, run, place)
    run.kill()
    out, _ = run.communicate(timeout=PATIENCE_S)
    for line in out.splitlines(keepends=True):
        if line.endswith("\n"):  # a line that was cut off announced nothing
            place.hear(line)
    assert run.returncode == -signal.SIGKILL
    place.assert_nothing_was_lost()
    assert_no_worker_is_left(place.folder)


def kill_the_worker(place: Workplace, source: random.Random) -> None:
    """Kill one, and let the run go on to its end: one case may fail for it, and no other."""
    failed_before = sum(row["outcome"] == "failed" for row in place.rows())
    rows = rows_to_wait_for(source)
    run = place.start(rows_to_pause=rows + ROOM)
    worker = worker_of(run)
    at_a_random_instant(source, rows, run, place)
    os.kill(worker, signal.SIGKILL)  # it is there: the run has rows to measure yet
    out, err = run.communicate(timeout=PATIENCE_S)  # ends its standard input, and so the pause
    for line in out.splitlines():
        place.hear(line)
    failed = [row for row in place.rows() if row["outcome"] == "failed"][failed_before:]
    assert run.returncode == 0, err  # also where it had not even started: it is started again
    assert len(failed) <= 1
    assert all("killed by SIGKILL" in row["reason"] for row in failed)
    place.assert_nothing_was_lost()
    assert_no_worker_is_left(place.folder)


def tear_the_last_line(place: Workplace) -> bytes:
    """Leave half a row at the end, as a power cut may: a kill alone never does, for a row is one write."""
    file = place.folder / "results" / "cpu" / "trial.jsonl"
    torn = (file.read_bytes().splitlines() or [b'{"schema":1,"key":"'])[-1][:40]
    with file.open("ab") as end:
        end.write(torn)
    return torn


# --- kill -9 ---------------------------------------------------------------------------------------------


@sweep
def test_a_killed_run_goes_on_where_it_was_and_so_does_one_whose_worker_is_killed(workplace):
    source = random.Random(0)  # both in the middle of measuring
    kill_the_run(workplace, source)
    torn = tear_the_last_line(workplace)
    before = len(workplace.rows())

    kill_the_worker(workplace, source)
    torn_line = "trial.jsonl ended in half a line (a run was killed there); moved to trial.torn"
    assert workplace.said.count(torn_line) == 1
    assert (workplace.folder / "results" / "cpu" / "trial.torn").read_bytes() == torn + b"\n"
    assert len(workplace.rows()) > before

    workplace.to_the_end()
    workplace.assert_nothing_was_lost()
    workplace.assert_all_is_measured()
    assert workplace.to_the_end() == f"done 0 {CASES} 0"


@pytest.mark.trials
@pytest.mark.parametrize("seed", range(2))
def test_five_kills_of_the_run_at_random_instants(workplace, seed):
    source = random.Random(100 + seed)
    for _ in range(5):
        kill_the_run(workplace, source)
        if source.random() < 0.5 and (workplace.folder / "results" / "cpu" / "trial.jsonl").exists():
            tear_the_last_line(workplace)
    workplace.to_the_end()
    workplace.assert_nothing_was_lost()
    workplace.assert_all_is_measured()


@pytest.mark.trials
@pytest.mark.parametrize("seed", range(16))
def test_a_kill_of_the_worker_at_a_random_instant(workplace, seed):
    kill_the_worker(workplace, random.Random(200 + seed))
    workplace.to_the_end()
    workplace.assert_nothing_was_lost()
    workplace.assert_all_is_measured()


# --- Ctrl-C and SIGTERM, on the real command line --------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status", "expected"),
    [
        (
            signal.SIGINT,
            130,
            ["stopped; every finished row is kept, and the same command measures all of them again"],
        ),
        pytest.param(signal.SIGTERM, 143, [], marks=sweep),
        # the worker, in a forward pass that never ends, must notice
        pytest.param(signal.SIGKILL, -signal.SIGKILL, [], marks=sweep),
    ],
    ids=["Ctrl-C", "SIGTERM", "SIGKILL"],
)
def test_a_stopped_command_keeps_its_rows_says_one_line_and_leaves_no_worker(
    workplace, sent, status, expected
):
    run = workplace.bench("measure", "nets:Slow@8", "--gpu", "cpu", "--json")
    wait_until((workplace.folder / "asleep").exists, "the MACs are counted, and the model runs")
    (worker,) = workers_in(workplace.folder)
    assert worker == worker_of(run)
    run.send_signal(sent)
    out, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == status
    assert err.startswith("9 rows to measure, about ")  # the MACs, and four visits to each of two
    assert err.splitlines()[1:] == expected
    assert out == ""
    (row,) = workplace.rows()
    assert (row["harness"], row["outcome"]) == ("macs", "ok")
    assert_no_worker_is_left(workplace.folder)


def test_ctrl_c_in_the_first_second_is_one_line(workplace, monkeypatch):
    """While modules are imported there is nobody yet to catch it but the first lines of the program."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # each import is a line on standard error
    for pause_s in (0.0, 0.3):
        run = workplace.bench("run", "--study", "table1", "--gpu", "cpu")
        assert run.stderr
        while "bench.errors" not in run.stderr.readline():  # what is imported next after those lines
            assert run.poll() is None
        time.sleep(pause_s)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 130
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("stopped")
