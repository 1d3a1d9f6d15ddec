"""GPUs as data: occupancy by hand, and the rates of the datasheets that bench/machine/gpus.toml cites."""

import pytest

from bench.machine.gpus import profiles
from kernels.gpus import GPUS, RATES, SMS, STACKS, most_shared, occupancy, shares


@pytest.mark.parametrize(
    ("capability", "registers", "num_warps", "shared", "expected"),
    [
        (90, 32, 4, 0, 1.0),
        (90, 255, 4, 0, 8 / 64),  # 65536 registers, 256 · 32 a warp: 8 warps
        (90, 168, 4, 21504, 12 / 64),
        (90, 32, 4, 100 * 1024, 8 / 64),  # two programs of 101 KB in 228
        (75, 64, 4, 0, 1.0),  # half the warps of the others
        (120, 128, 4, 50 * 1024, 4 / 48),  # 51 KB with the system's, of 100
    ],
)
def test_occupancy(capability, registers, num_warps, shared, expected):
    assert occupancy(capability, registers, num_warps, shared) == expected


def test_the_most_shared_memory_of_a_program():
    """CUDA C++ Programming Guide, maximum amount of shared memory per thread block: 13.0; sm_70 and sm_75, 12.4."""
    printed = {70: 96, 75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
    assert {capability: most_shared(capability) / 1024 for capability in SMS} == printed


@pytest.mark.parametrize(
    ("tiles", "others", "turns", "parts"),
    [
        (49, 64, 13, 4),  # 264 programs: four of 13, 13, 13 and 10 beside 64 others
        (49, 1000, 49, 1),  # full as it is
        (3, 1, 1, 3),  # no more programs than tiles
    ],
)
def test_tiles_are_shared_out_until_a_gpu_is_full(tiles, others, turns, parts):
    assert shares(tiles, others, 2, 132) == (turns, parts)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_a_gpu_is_that_of_its_profile(gpu):
    profile = profiles()[gpu.profile]
    assert profile.bandwidth_gb_s == gpu.bandwidth_gb_s
    assert profile.compute_capability == f"{gpu.capability // 10}.{gpu.capability % 10}"
    assert gpu.capability in STACKS[profile.stack]
    for precision, macs in RATES[gpu.capability].macs.items():
        reached = 2 * macs * gpu.sms * gpu.clock_ghz / 1e3  # TFLOP/s
        if precision in profile.peak_tflops:
            # datasheets print two or three figures
            assert reached == pytest.approx(profile.peak_tflops[precision], rel=0.025)
    # non-matrix units run at a higher clock on Hopper and Blackwell, by a tenth at most
    fp32 = 2 * RATES[gpu.capability].lanes["fma"] * gpu.sms * gpu.clock_ghz / 1e3
    assert 0.9 <= fp32 / profile.peak_tflops["fp32"] <= 1.02


def test_every_gpu_of_a_stack_has_its_resources_and_most_a_rate():
    compiled = {capability for stack in STACKS.values() for capability in stack}
    assert compiled <= SMS.keys()
    assert {gpu.capability for gpu in GPUS} == RATES.keys() == compiled - {120}


def test_every_pipe_of_a_unit_has_lanes():
    for rates in RATES.values():
        pipes = [pipe for unit in rates.units.values() for pipe in unit]
        assert sorted(pipes) == sorted(rates.lanes)
