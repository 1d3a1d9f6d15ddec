"""The arithmetic between MACs and peaks; the peaks are synthetic but for the V100's."""

import pytest

from bench.machine.gpus import GpuProfile
from bench.roofline import Peaks, macs_per_s, peaks_of

SYNTHETIC = GpuProfile(
    name="made-up",
    title="a GPU that does not exist",
    match=("made up",),
    compute_capability="9.0",
    memory_gb=80,
    stack="cuda13",
    dtype="fp16",
    batch=64,
    source="synthetic",
    bandwidth_gb_s=2000,
    peak_tflops={"fp16": 100},
)
KNOWN = {"made-up": SYNTHETIC}


def test_share_of_peak_counts_two_flops_a_mac():
    peaks = Peaks({"fp32": 10.0}, 100.0)
    assert macs_per_s(5_000_000_000, 200) == 1e12
    assert peaks.share(5_000_000_000, 200, "fp32") == pytest.approx(0.2)


def test_the_papers_v100_gives_its_known_shares():
    """From the paper's own numbers: 2 x 42.4 G x 141 images/s of 15.7 TFLOP/s is 11.96 of 15.7."""
    peaks = peaks_of({"kind": "cuda", "mig": None, "profile": "v100"}, None)
    assert peaks.tflops["fp32"] == 15.7
    assert peaks.share(42_400_000_000, 141, "fp32") == pytest.approx(0.7616, abs=1e-3)


def test_memory_and_arithmetic_bound_alike_at_the_ridge():
    """At 100e12 FLOP/s over 2000e9 bytes/s, 50 FLOP a byte; below it memory is the bound, above it arithmetic."""
    peaks = Peaks({"fp16": 100.0}, 2000.0)
    at, below, above = (peaks.floor_s(macs, 10**9, "fp16") for macs in (25 * 10**9, 24 * 10**9, 50 * 10**9))
    assert at == below == pytest.approx(10**9 / 2000e9)
    assert above == pytest.approx(2 * 10**9 / 2000e9)


@pytest.mark.parametrize("peaks", [Peaks(), Peaks({"fp16": 100.0}), Peaks({"fp32": 10.0}, 2000.0)])
def test_an_unknown_peak_gives_no_floor(peaks):
    assert peaks.floor_s(1, 1, "fp16") is None


def test_an_unknown_dtype_gives_no_share():
    assert Peaks({"fp16": 100.0}, 2000.0).share(1, 1, "bf16") is None


def test_a_cpu_has_what_was_measured_on_it():
    measured = {"tflops": {"fp32": 0.15}, "bandwidth_gb_s": 12.3}
    peaks = peaks_of({"kind": "cpu"}, measured)
    assert (peaks.tflops, peaks.bandwidth_gb_s) == ({"fp32": 0.15}, 12.3)
    assert "measured" in peaks.source


def test_a_cpu_without_a_measurement_has_no_peak():
    assert peaks_of({"kind": "cpu"}, None).tflops == {}


def test_a_gpu_has_its_profiles_peaks_and_source():
    peaks = peaks_of({"kind": "cuda", "mig": None, "profile": "made-up"}, None, KNOWN)
    assert (peaks.share(10**9, 1000, "fp16"), peaks.source) == (pytest.approx(0.02), "synthetic")


@pytest.mark.parametrize(
    "device",
    [
        {"kind": "cuda", "mig": "1g.18gb", "profile": "made-up"},  # a part of a GPU has none of its peaks
        {"kind": "cuda", "mig": None, "profile": None},
        {"kind": "cuda", "mig": None, "profile": "another"},
        {},
    ],
)
def test_what_is_not_exactly_a_known_gpu_has_no_peaks(device):
    peaks = peaks_of(device, {"tflops": {"fp16": 1.0}}, KNOWN)
    assert (peaks.tflops, peaks.bandwidth_gb_s) == ({}, None)
    assert "unknown" in peaks.source
