"""GPU profiles: the file as shipped, the names NVML reports, and what a user's mistake in the file says."""

from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.machine.gpus import GpuProfile, profile_for, profiles

PROFILES = list(profiles().values())

# Names as NVML and torch report them, and the profile that is exactly that GPU.
NAMES = {
    "Tesla V100-SXM2-16GB": "v100",
    "Tesla V100-SXM2-32GB": "v100",
    "Tesla V100-PCIE-16GB": "v100-pcie",
    "Tesla V100S-PCIE-32GB": "v100s",
    "Tesla V100-DGXS-32GB": "v100-dgxs",
    "Tesla V100-SXM3-32GB": None,  # the DGX-2's: higher clocks
    "Tesla T4": "t4",
    "NVIDIA T400": None,
    "NVIDIA T4G": None,
    "A100-SXM4-40GB": "a100-40gb",  # older drivers leave the vendor out
    "NVIDIA A100-SXM4-40GB": "a100-40gb",
    "NVIDIA A100-SXM4-80GB": "a100",
    "NVIDIA A100 80GB PCIe": "a100-pcie",
    "NVIDIA A100-PCIE-40GB": "a100-pcie-40gb",
    "NVIDIA A100-SXM-64GB": None,
    "NVIDIA A100-SXM4-80GB MIG 1g.10gb": None,
    "NVIDIA A10": None,
    "NVIDIA A10G": None,
    "GRID A100D-80C": None,  # a virtual GPU
    "NVIDIA L4": "l4",
    "NVIDIA L40": None,
    "NVIDIA L40S": None,
    "NVIDIA GeForce RTX 3090": "rtx3090",
    "NVIDIA GeForce RTX 3090 Ti": None,
    "NVIDIA GeForce RTX 4090": "rtx4090",
    "NVIDIA GeForce RTX 4090 D": None,
    "NVIDIA GeForce RTX 4090 Laptop GPU": None,
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H100 NVL": "h100-nvl",
    "NVIDIA H100 80GB HBM3 MIG 1g.10gb": None,
    "NVIDIA H200": "h200",
    "NVIDIA H200 NVL": "h200-nvl",
    "NVIDIA H200 MIG 1g.18gb": None,
    "NVIDIA GH200 480GB": None,
    "NVIDIA H20": None,
    "NVIDIA B200": "b200",
    "NVIDIA GB200": None,
    "NVIDIA B300 SXM6 AC": None,
}


@pytest.mark.parametrize(("device_name", "expected"), NAMES.items())
def test_a_name_finds_its_profile_and_no_other(device_name, expected):
    found = profile_for(device_name)
    assert (found and found.name) == expected


def test_the_named_gpus_are_there():
    assert {"v100", "t4", "a100", "l4", "rtx4090", "h100", "h200", "b200"} <= profiles().keys()


def test_case_and_surrounding_space_of_a_name_do_not_matter():
    assert profile_for(" nvidia h200 ") is profiles()["h200"]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_rates_fit_the_hardware(profile):
    """Relations that hold on every NVIDIA GPU; a sparse rate taken for a dense one breaks the last."""
    peak = profile.peak_tflops
    major = int(profile.compute_capability.split(".")[0])
    assert profile.bandwidth_gb_s and peak.keys() >= {"fp32", "fp16"}
    assert ("bf16" in peak) == ("tf32" in peak) == (major >= 8), "bf16 and TF32 came with Ampere"
    assert peak["fp16"] == peak.get("bf16", peak["fp16"])
    if "tf32" in peak:
        assert peak["fp16"] / peak["tf32"] == pytest.approx(2, rel=0.03)


# Dense fp16 with fp32 accumulation is SMs x FLOP per SM and clock x boost clock, all three as in NVIDIA's
# architecture whitepapers: a second way to the datasheets' numbers, which a sparse rate cannot pass.
@pytest.mark.parametrize(
    ("name", "sms", "flop_per_sm_clock", "clock_mhz"),
    [
        ("v100", 80, 1024, 1530),
        ("v100-dgxs", 80, 1024, 1530),
        ("a100", 108, 2048, 1410),
        ("h100", 132, 4096, 1830),
        ("rtx3090", 82, 512, 1695),
        ("rtx4090", 128, 512, 2520),
    ],
)
def test_fp16_peaks_agree_with_sms_and_clock(name, sms, flop_per_sm_clock, clock_mhz):
    computed = sms * flop_per_sm_clock * clock_mhz * 1e6 / 1e12
    assert profiles()[name].peak_tflops["fp16"] == pytest.approx(computed, rel=0.01)


def test_old_gpus_run_the_old_stack():
    assert {profile.name for profile in PROFILES if profile.stack == "cuda12"} == {
        profile.name for profile in PROFILES if profile.compute_capability in ("7.0", "7.5")
    }


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_profile_cites_its_vendor(profile):
    assert "NVIDIA" in profile.source and "https://" in profile.source


# --- A user's own file ------------------------------------------------------------------

MINE = """
[mine]
title = "My GPU"
match = ['nvidia mine']
compute_capability = "8.6"
memory_gb = 8
stack = "cuda13"
dtype = "fp16"
batch = 32
source = "measured by nobody"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "gpus.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_profile_without_peaks_is_welcome(tmp_path):
    path = write(tmp_path, MINE)
    assert profiles(path) == {
        "mine": GpuProfile(
            name="mine",
            title="My GPU",
            match=("nvidia mine",),
            compute_capability="8.6",
            memory_gb=8.0,
            stack="cuda13",
            dtype="fp16",
            batch=32,
            source="measured by nobody",
        )
    }
    found = profile_for("NVIDIA Mine", path)
    assert found and found.bandwidth_gb_s is None and found.peak_tflops == {}


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "batch = 32",
            "batch = 32\nbatsch = 3",
            r"\[mine\]: unknown key 'batsch'; the keys are title, match",
        ),
        ("batch = 32", "", r"\[mine\]: key 'batch' is missing"),
        ("batch = 32", "batch = 3.5", r"\[mine\]: key 'batch': expected a whole number above 0, found 3.5"),
        ("batch = 32", "batch = true", r"key 'batch': expected a whole number"),
        ("memory_gb = 8", 'memory_gb = "8"', r"key 'memory_gb': expected a number above 0, found '8'"),
        ("memory_gb = 8", "memory_gb = inf", r"key 'memory_gb': expected a number above 0, found inf"),
        ("memory_gb = 8", "memory_gb = nan", r"key 'memory_gb': expected a number above 0, found nan"),
        ('"cuda13"', '"cuda14"', r"key 'stack': expected one of cuda12, cuda13, found 'cuda14'"),
        ('"fp16"', '"half"', r"key 'dtype': expected one of fp64, fp32, fp16, bf16, found 'half'"),
        ('"8.6"', "8.6", r"key 'compute_capability': expected text, found 8.6"),
        ('"8.6"', '"sm_86"', r"key 'compute_capability': expected text such as \"9.0\", found 'sm_86'"),
        ("['nvidia mine']", "'nvidia mine'", r"key 'match': expected a list of regular expressions"),
        ("['nvidia mine']", "['nvidia (mine']", r"key 'match': 'nvidia \(mine' is not a regular expression"),
        ("['nvidia mine']", "[3]", r"key 'match': expected text, found 3"),
        ('"measured by nobody"', '" "', r"key 'source': expected text, found ' '"),
        ("[mine]", "peaks = 3\n[mine]", r"'peaks' is not a table"),
        ("[mine]", "[Mine]", r"\[Mine\]: not a usable name"),
        ("[mine]", "[cpu]", r"\[cpu\]: not a usable name"),
        ("[mine]", "[nvidia-mine]", r"\[nvidia-mine\]: not a usable name"),
        ("[mine]", "[mine", r"cannot be read as GPU profiles: Expected"),
        (
            "batch = 32",
            "batch = 32\npeak_tflops = {fp16 = 1, fp8 = 2}",
            r"key 'peak_tflops': unknown dtype 'fp8'; they are fp64, fp32, tf32, fp16, bf16",
        ),
        (
            "batch = 32",
            "batch = 32\npeak_tflops = {fp16 = 0}",
            r"key 'peak_tflops': expected a number above 0",
        ),
        (
            "batch = 32",
            "batch = 32\npeak_tflops = 1",
            r"key 'peak_tflops': expected a table of rates by dtype",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path, old, new, complaint):
    assert old in MINE
    path = write(tmp_path, MINE.replace(old, new))
    with pytest.raises(UsageError, match=complaint) as caught:
        profiles(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be read as GPU profiles: .*No such file"):
        profiles(tmp_path / "absent.toml")


def test_two_profiles_for_one_name_are_refused(tmp_path):
    path = write(tmp_path, MINE + MINE.replace("[mine]", "[other]").replace("nvidia mine", "nvidia .*"))
    assert profile_for("NVIDIA Else", path) is profiles(path)["other"]
    with pytest.raises(UsageError, match=r"\[mine\] and \[other\] both match 'NVIDIA Mine'"):
        profile_for("NVIDIA Mine", path)
