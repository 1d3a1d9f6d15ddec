"""A real Slurm runs a study in two shards, and is hurt while it does: no finished row is lost, and none is taken twice.

Debian's slurmctld, slurmd and munge: two nodes on this machine. The GPUs are made up, and `slurm.toml` has the runs
measure on the CPU: what is under trial is which rows there are, and no time among them means anything. The two nodes
would be two machines, so no lock of this one stands between them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import record
from bench.machine.provenance import ROOT
from bench.record import Row
from tests.support import slurm_box
from tests.support.slurm_box import Box

pytestmark = [
    pytest.mark.trials,
    pytest.mark.skipif(slurm_box.missing() is not None, reason=str(slurm_box.missing())),
]

NETS = """
import time
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

    def forward(self, x):
        if not x.is_meta:
            time.sleep(0.2)
        return super().forward(x)


class Broken(Net):
    def forward(self, x):
        if not x.is_meta:
            raise RuntimeError("broken on purpose")
        return super().forward(x)
"""
STUDY = """
name = "trial"
question = "Which rows are there?"
cases = ["nets:Net@{size}:b1", "nets:Broken@8:b1"]
[lists]
size = [SIZES]
"""
SITE = """
[all]
exclusive = false
[h100]
gpu = "cpu"
gres = "gpu:h100:1"
"""


class Place:
    """A user's folder on the cluster's shared disk."""

    def __init__(self, folder: Path, box: Box, product: Path, sizes: int = 12, site: str = SITE) -> None:
        self.folder, self.box, self.product = folder, box, product
        folder.mkdir()
        (folder / "nets.py").write_text(NETS)
        (folder / "trial.toml").write_text(STUDY.replace("SIZES", ", ".join(map(str, range(8, 8 + sizes)))))
        (folder / "slurm.toml").write_text(site)
        self.rows_of_a_run = 1 + 2 * (sizes + 1)  # peaks, then a count and a time of each case

    def bench(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {**self.box.environ, "PYTHONPATH": str(self.product), "OMP_NUM_THREADS": "1"}
        environ["BENCH_LOCKS"] = str(self.folder / "absent")
        command = [sys.executable, "-m", "bench", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=environ, capture_output=True, text=True, check=False
        )

    def submit(self, shards: int) -> None:
        done = self.bench(
            *(
                "slurm",
                "--gpu",
                "h100",
                "--study",
                "trial.toml",
                "--quick",
                "--shards",
                str(shards),
                "--submit",
            )
        )
        assert done.returncode == 0, done.stderr

    @property
    def rows(self) -> list[Row]:
        folder = self.folder / "results" / "cpu"
        return record.read(folder).rows if folder.is_dir() else []

    def announced(self, shard: int) -> dict[str, Any]:
        """What a shard's run says of itself."""
        (path,) = (self.folder / "results" / "cpu" / "progress").glob(f"trial.{shard}-of-*.json")
        return dict(json.loads(path.read_text()))

    def timed_by(self, shard: str) -> list[Row]:
        return [row for row in self.rows if row.get("shard") == shard and row["harness"] == "throughput"]

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in (self.folder / "results" / "slurm").glob("*.log"))

    def hold(self, finished: list[Row]) -> None:
        """Hold the rows to those of one run, each once, taken in several submissions, and no earlier one to be gone."""
        good = [row for row in self.rows if row["outcome"] == "ok"]
        assert max(Counter(row["key"] for row in good).values()) == 1
        assert len({row["key"] for row in self.rows}) == self.rows_of_a_run, self.logs()
        assert len(good) == self.rows_of_a_run - 1
        (failed,) = {row["case"] for row in self.rows if row["outcome"] != "ok"}
        assert failed == "nets:Broken@8:b1:fp32:eager"
        assert all(row in self.rows for row in finished)
        assert (self.folder / "results" / "cpu" / "report" / "index.html").is_file()
        reports = list((self.folder / "results" / "slurm").glob("bench-report-*.log"))
        assert len(reports) >= 2, self.logs()
        assert "nothing is missing" in max(reports, key=lambda path: path.stat().st_mtime).read_text()


@pytest.fixture(scope="module")
def product(tmp_path_factory) -> Path:
    """A copy of the checkout, which somebody may edit during the minutes that the trials take."""
    folder = tmp_path_factory.mktemp("product")
    for package in ("bench", "kernels", "models", "reports"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".venv").symlink_to(Path(sys.prefix).resolve())
    return folder


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Iterator[Box]:
    made = Box(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_what_the_cluster_does_not_have_is_refused_before_anything_is_queued(tmp_path, box, product):
    place = Place(tmp_path / "user", box, product)
    asked = ["slurm", "--gpu", "h100", "--study", "trial.toml", "--quick", "--submit"]
    for name, why in (
        ("a100", "Slurm refuses bench-a100, so nothing was queued"),
        ("h1000", "did you mean 'h100'"),
    ):
        said = place.bench(*asked, "--gpu", name)
        assert (said.returncode, box.queue()) == (2, [])
        assert why in said.stderr


def test_a_cluster_that_is_hurt_loses_no_finished_row_and_takes_none_twice(tmp_path, box, product):
    """At once: a time limit in one run; a dead node and scancel in the other; and a new controller under both."""
    limited = Place(tmp_path / "limited", box, product, sizes=60, site=SITE + "time = 3\n")
    limited.submit(1)
    box.wait_for(lambda: len(limited.rows) >= 2, "rows of the shard with a limit")
    hurt = Place(tmp_path / "hurt", box, product)
    hurt.submit(2)

    box.wait_for(lambda: hurt.timed_by("2/2"), "rows of the shard that is to be cancelled")
    job = hurt.timed_by("2/2")[0]["environment"]["slurm"]
    box.say("scancel", f"{job['array']}_{job['task']}")
    box.wait_for(lambda: hurt.announced(2)["ended"], "end of the cancelled shard")
    box.wait_for(lambda: hurt.timed_by("1/2"), "rows of the shard whose node is to die")
    finished = [limited.rows, hurt.rows]
    node = str(hurt.timed_by("1/2")[0]["environment"]["slurm"]["node"])
    assert node in slurm_box.NODES
    box.kill_node(node, hurt.announced(1)["process"])
    box.kill("slurmctld")
    box.start_controller()
    box.start_node(node)
    said = hurt.bench("status").stdout
    assert "of 2 shards 2 stopped" in said, said
    box.wait_for(lambda: "PARTITION" in box.say("squeue") and not box.queue(), "end", 400)

    limited.hold(finished[0])
    hurt.hold(finished[1])
    for row in hurt.rows:
        about = row["environment"]["slurm"]
        assert (about["partition"], about["cluster"], about["shared"]) == ("main", "box", True)
    assert any("Slurm may run other jobs" in note for note in hurt.timed_by("1/2")[0]["notes"])
    said = hurt.bench("status").stdout
    assert f"of 2 shards 2 done; {hurt.rows_of_a_run - 1} rows done, 1 failed, 0 s left" in said, said
