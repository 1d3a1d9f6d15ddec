"""The cases of the gate's suite under pytest-benchmark, on the device that GPU names: one iteration, waited for."""

import os

import pytest
import torch

from bench.cases import parse
from bench.errors import Refused
from bench.harness.device import worker_device
from bench.harness.prepare import precision, prepare
from bench.harness.speed import repeated
from bench.harness.spent import Spent
from bench.jobs import job_of
from bench.machine.devices import choose, devices, visible
from bench.machine.provenance import threads
from bench.suite import RULES, SUITE

DEVICE = choose(os.environ.get("GPU") or "auto", devices())


@pytest.fixture(autouse=True)
def on_the_device(monkeypatch):
    """This process sees the device alone, as a worker does."""
    for name, value in visible(DEVICE).items():
        monkeypatch.setenv(name, value)
    torch.set_num_threads(threads())


@pytest.mark.benchmark(group="suite")
@pytest.mark.parametrize("text", SUITE[DEVICE.kind])
@pytest.mark.timeout(600)
def test_case(benchmark, text):
    (case,) = job_of("turns", DEVICE, RULES[DEVICE.kind], parse(text)).cases
    try:
        prepared = prepare(case, 1, worker_device(), lambda phase: None, Spent())
    except Refused as reason:
        pytest.skip(str(reason))
    with precision():
        call, per_call = repeated(case, prepared)

        def run():
            call()
            if DEVICE.kind == "cuda":
                torch.cuda.synchronize()

        benchmark.extra_info.update(case=str(case), device=DEVICE.key, iterations=per_call)
        benchmark(run)
        prepared.finish()
