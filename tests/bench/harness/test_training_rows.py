"""Training cases as jobs and rows: their dtype, their counts, their times and their memory."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.cases import parse
from bench.jobs import job_of
from bench.machine import devices
from bench.machine.devices import Device
from bench.machine.gpus import profiles
from bench.protocols import PROTOCOLS
from bench.runner import Runner
from bench.screen import Screen, describe
from tests.support.runs import count_here
from tests.support.sweeps import sweep
from tests.support.trained_nets import RULES

pytestmark = pytest.mark.usefixtures("nets")


@pytest.mark.parametrize(
    ("gpu", "capability", "text", "expected"),
    [
        ("v100", "7.0", "restv2_tiny:train", "fp32"),
        ("t4", "7.5", "restv2_tiny:train", "fp32"),
        ("a100", "8.0", "restv2_tiny:train", "bf16"),
        ("b200", "10.0", "restv2_tiny:train", "bf16"),
        ("h200", None, "restv2_tiny:train", "fp32"),
        ("v100", "7.0", "restv2_tiny[autocast]:train", "fp16"),
        ("h200", "9.0", "restv2_tiny[autocast]:train", "fp16"),
        ("h200", "9.0", "restv2_tiny:fp32:train", "fp32"),
        ("h200", "9.0", "restv2_tiny", "fp16"),
        ("v100", "7.0", "restv2_tiny", "fp16"),
    ],
)
def test_an_open_dtype_becomes_one_that_trains(gpu, capability, text, expected):
    device = Device("cuda", 0, gpu, "GPU-1", 16.0, capability, profile=replace(profiles()[gpu], dtype="fp16"))
    (case,) = job_of("throughput", device, RULES, parse(text)).cases
    assert case.dtype == expected
    assert parse(str(case)) == case
    if text == "restv2_tiny:train":
        (case,) = job_of("throughput", device, PROTOCOLS["paper"]["cuda"], parse(text)).cases
        assert case.dtype == "fp32"


def test_on_a_cpu_it_is_fp32_and_one_image():
    job = job_of("throughput", devices.cpu_device(), RULES, parse("restv2_tiny:train"))
    assert job.text == "restv2_tiny@224:b1:fp32:eager:train"


def test_a_count_is_shared_with_inference():
    trained, inferred = (
        job_of("macs", devices.cpu_device(), RULES, parse(f"restv2_lite@64:b2:{rest}"))
        for rest in ("bf16:train", "fp32")
    )
    assert trained == inferred
    assert trained.text == "restv2_lite@64:eager"


def test_the_macs_of_a_training_case_are_the_forwards_and_say_so(monkeypatch):
    count_here(monkeypatch)
    trained = CliRunner().invoke(main, ["macs", "trained_nets:Net@8:train"]).stdout.splitlines()
    inferred = CliRunner().invoke(main, ["macs", "trained_nets:Net@8"]).stdout.splitlines()
    assert trained[0] == (
        "trained_nets:Net@8:eager:train: 20 parameters, 15 MACs as `paper` counts, of the forward alone"
    )
    assert trained[1:] == inferred[1:]
    as_json = CliRunner().invoke(main, ["macs", "trained_nets:Net@8:train", "--json"]).stdout
    assert '"case": "trained_nets:Net@8:eager:train"' in as_json


@contextmanager
def on_one_core() -> Iterator[None]:
    """For the workers that are started in it: one thread each, for the reason that there is `one_thread`."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {random.choice(sorted(cores))})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def rows(nets, tmp_path_factory) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows by harness and case as written here; one worker for all."""
    device, texts = devices.cpu_device(), ["trained_nets:Wide@32:b2:fp32", "trained_nets:Net@8:b2:train"]
    texts += ["trained_nets:Wide@32:b2:fp32:train", "restv2_lite@32:b2:train"]
    asked = {
        (harness, text): harness
        for text in texts
        for harness in ("throughput", "latency")
        if harness == "latency" or ":Net@" in text
    }
    jobs = [job_of(harness, device, RULES, parse(text)) for harness, text in asked]
    net = parse("trained_nets:Net@8:b2:fp32:eager")
    jobs.append(job_of("compare", device, RULES, replace(net, mode="train"), net))
    jobs.append(job_of("latency", device, RULES, parse("trained_nets:NaNLater@8:b2:train")))
    names = [*asked, ("compare", ""), ("latency", "NaNLater")]
    with on_one_core(), pytest.MonkeyPatch.context() as patch:
        # by itself glibc keeps some of a step's large tensors for the next: none, one or two, from run to run
        patch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**20))
        summary = Runner(device, tmp_path_factory.mktemp("results"), Screen(announce=False)).run(jobs, "tiny")
    return dict(zip(names, summary.rows, strict=True))


@sweep
@pytest.mark.parametrize(
    ("text", "harness"),
    [
        ("trained_nets:Net@8:b2:train", "throughput"),
        ("trained_nets:Net@8:b2:train", "latency"),
        ("restv2_lite@32:b2:train", "latency"),
    ],
)
def test_a_row_of_training(rows, text, harness):
    row = rows[harness, text]
    assert row["outcome"] == "ok", row["reason"]
    assert row["case"] == f"{text.removesuffix(':train')}:fp32:eager:train"
    result = row["result"]
    assert len(result["samples_s"]) >= RULES.min_samples
    assert min(result["samples_s"]) > 0
    assert result["batch"] == 2
    assert "notes" not in result
    ours = text.startswith("restv2")
    assert result["check"]["against"] == ("eager in fp64" if ours else "finite loss and gradients")
    assert any("ackward" in operator for operator in result["operators"]) or not ours
    assert not any(operator.startswith("Optimizer") for operator in result["operators"])
    assert (" images/s" if harness == "throughput" else " ms") in describe(row)


@sweep
def test_a_comparison_of_a_step_with_a_forward(rows):
    row = rows["compare", ""]
    assert row["outcome"] == "ok", row["reason"]
    assert row["case"] == "trained_nets:Net@8:b2:fp32:eager:train / trained_nets:Net@8:b2:fp32:eager"
    assert [check["against"] for check in row["result"]["checks"]] == [
        "finite loss and gradients",
        "its own eager",
    ]


@sweep
def test_a_loss_that_is_not_finite_after_timing_is_a_failed_row(rows):
    row = rows["latency", "NaNLater"]
    assert row["outcome"] == "failed"
    assert row["reason"].startswith("the loss is nan after ")
    assert row["result"] is None


@sweep
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory of a process is read from /proc")
def test_memory_includes_gradients_and_the_optimizers_state(rows):
    weights = 4 * (3 * 32 * 32 * 2048 + 2048 + 2048 * 4 + 4)  # 24 MiB
    inferred, trained = (
        rows["latency", f"trained_nets:Wide@32:b2:fp32{mode}"]["result"]["peak_memory_bytes"]
        for mode in ("", ":train")
    )
    assert 0.9 * weights < inferred < 2 * weights
    # weights, gradients, two moments, and the two that AdamW of one tensor after the other makes for a moment
    assert 5.9 * weights < trained < 7 * weights
