"""The time that a default CPU run spends on itself: all but imports, building models and forward passes."""

import json
import os
import subprocess
import sys

import pytest

from bench.machine.provenance import ROOT


@pytest.mark.trials  # five minutes by itself
@pytest.mark.benchmark(group="a default run on the CPU")
@pytest.mark.timeout(1800)
def test_overhead_of_a_default_run(benchmark, capsys, tmp_path):
    command = [sys.executable, "-m", "bench", "run", "--gpu", "cpu", "--json"]

    def run():
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, check=True)
        (run,) = json.loads(done.stdout)["runs"]
        return {name.removesuffix("_s"): run[name] for name in ("all_s", "imports_s", "build_s", "forward_s")}

    seconds = benchmark.pedantic(run, rounds=1)
    own = seconds["all"] - seconds["imports"] - seconds["build"] - seconds["forward"]
    share = own / (seconds["all"] - seconds["imports"])
    benchmark.extra_info.update(**seconds, share=share)
    with capsys.disabled():
        print(f"\n{seconds['all']:.0f} s, of which {100 * share:.1f} % neither imports nor models")
