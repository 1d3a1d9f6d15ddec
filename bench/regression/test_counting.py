"""The time of counting: Table 1, by ours on shapes alone and by fvcore on real tensors; and a case, by the command."""

import os
import subprocess
import sys

import pytest

import models.peers  # noqa: F401 (with timm, whose import is no part of a count)
from bench import kept
from bench.cases import parse
from bench.harness import macs
from bench.harness.counter import Seen
from bench.machine.provenance import ROOT
from bench.studies import TABLE1


def _ours():
    macs._seen = Seen()  # or the second round would find all that the first counted
    return [macs.count(parse(text)) for text in TABLE1]


def _fvcore():
    return [macs.fvcore_macs(parse(text)) for text in TABLE1]


@pytest.mark.benchmark(group="count Table 1")
@pytest.mark.parametrize("count", [_ours, _fvcore], ids=["ours, no arithmetic", "fvcore, real tensors"])
@pytest.mark.timeout(600)
def test_counting_table1(benchmark, count):
    assert len(benchmark.pedantic(count, rounds=2)) == len(TABLE1)


@pytest.mark.benchmark(group="python -m bench macs CASE")
@pytest.mark.parametrize("again", [False, True], ids=["counted", "kept"])
@pytest.mark.parametrize("case", ["restv2_tiny", "swin_tiny", "regnety_4g"])
@pytest.mark.timeout(600)
def test_counting_a_case_by_the_command(benchmark, tmp_path, case, again):
    environ = {**os.environ, "PYTHONPATH": str(ROOT), kept.FOLDER: str(tmp_path) if again else ""}

    def command():
        subprocess.run(
            [sys.executable, "-m", "bench", "macs", case], env=environ, check=True, stdout=subprocess.DEVNULL
        )

    benchmark.pedantic(command, rounds=5, warmup_rounds=1)
