"""The state of a GPU, read through a synthetic NVML; every reading here is invented."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.errors import Failure
from bench.machine import devices, state
from bench.machine.state import NoMonitor, NvmlMonitor, Process, Reading
from tests.support.nvml import Gpu, Nvml, process, sliced_h200

# --- Readings (synthetic) ---------------------------------------------------------------


def test_a_reading(nvml):
    nvml(
        Gpu(
            reasons=0x4,
            compute=[process(7, 1.5), process(9, 2.0), process(8, None)],
            graphics=[process(7, 1.5)],
        ),
        names={7: "/usr/bin/Xorg", 8: "python"},
    )
    reading = NvmlMonitor("GPU-11111111-aaaa", own_pid=9).read()
    assert reading.sm_clock_mhz == 1980 and reading.memory_clock_mhz == 3201
    assert reading.temperature_c == 41 and reading.power_w == 78.5
    assert reading.throttle == ("power",) and not reading.spoils_sample
    assert reading.other_processes == (Process(7, "Xorg", 1.5), Process(8, "python", None))
    assert reading.load_average is not None


@pytest.mark.parametrize(
    ("bits", "names", "spoils"),
    [
        (0x000, (), False),
        (0x001, ("idle",), False),
        (0x002, ("application_clocks",), False),
        (0x004, ("power",), False),
        (0x008, ("hardware",), True),
        (0x010, ("sync_boost",), False),
        (0x020, ("thermal",), True),
        (0x040, ("thermal",), True),
        (0x080, ("hardware",), True),
        (0x100, ("display_clocks",), False),
        (0x200, ("board_limit",), False),
        (0x400, ("reliability",), False),
        (0x0EC, ("power", "hardware", "thermal"), True),
        (0x1000, ("unknown_0x1000",), False),
    ],
)
def test_what_held_the_clocks(bits, names, spoils):
    assert state.throttle_names(bits) == names
    assert Reading(throttle=names).spoils_sample == spoils


def test_the_bits_are_nvmls():
    """Our table against the constants of the installed binding."""
    pynvml = pytest.importorskip("pynvml")
    expected = {
        "GpuIdle": "idle",
        "ApplicationsClocksSetting": "application_clocks",
        "SwPowerCap": "power",
        "HwSlowdown": "hardware",
        "SyncBoost": "sync_boost",
        "SwThermalSlowdown": "thermal",
        "HwThermalSlowdown": "thermal",
        "HwPowerBrakeSlowdown": "hardware",
        "DisplayClockSetting": "display_clocks",
    }
    for reason, name in expected.items():
        assert state.throttle_names(getattr(pynvml, f"nvmlClocksThrottleReason{reason}")) == (name,)


def test_every_nvml_function_asked_for_exists():
    """`ask` takes a missing function for "not supported", so a misspelt one would never be noticed."""
    pynvml = pytest.importorskip("pynvml")
    asked = set(
        re.findall(
            r'"(nvml[A-Z]\w+)"',
            "".join(Path(str(module.__file__)).read_text(encoding="utf-8") for module in (devices, state)),
        )
    )
    assert len(asked) > 15 and not {name for name in asked if not hasattr(pynvml, name)}


def test_an_older_driver_is_asked_by_the_older_name(nvml):
    nvml(Gpu(reasons=None, old_reasons=0x40))
    assert NvmlMonitor("GPU-11111111-aaaa", 1).read().throttle == ("thermal",)


def test_nothing_supported_is_a_reading_of_nones(nvml):
    nvml(Gpu(clocks=None, temperature=None, power_mw=None, reasons=None, compute=None, graphics=None))
    reading = NvmlMonitor("GPU-11111111-aaaa", 1).read()
    assert reading == Reading(load_average=reading.load_average)
    assert not reading.spoils_sample


def test_a_binding_without_a_function_is_a_reading_without_it(nvml, monkeypatch):
    nvml(Gpu())
    monkeypatch.delattr(Nvml, "nvmlDeviceGetPowerUsage")
    assert NvmlMonitor("GPU-11111111-aaaa", 1).read().power_w is None


def test_a_slice_has_its_cards_clocks_and_its_own_processes(nvml):
    card = sliced_h200()
    card.reasons, card.compute = 0x20, [process(1, 1.0)]
    card.slices[0].clocks = card.slices[0].power_mw = card.slices[0].reasons = None
    card.slices[0].compute = [process(2, 1.0)]
    nvml(card, names={2: "python"})
    reading = NvmlMonitor("MIG-aaaa", 3).read()
    assert (reading.sm_clock_mhz, reading.throttle) == (1980, ("thermal",))
    assert reading.other_processes == (Process(2, "python", 1.0),)


def test_a_gpu_that_is_gone_is_a_failure(nvml):
    nvml()
    with pytest.raises(Failure, match="the GPU GPU-1 is not there"):
        NvmlMonitor("GPU-1", 1)


def test_the_cpus_monitor_reads_the_hosts_load_only():
    reading = NoMonitor().read()
    assert reading.load_average is not None and reading == Reading(load_average=reading.load_average)


def test_a_reading_is_json(nvml):
    nvml(Gpu(compute=[process(7, 1.5)], reasons=0x24), names={7: "x"})
    reading = json.loads(json.dumps(asdict(NvmlMonitor("GPU-11111111-aaaa", 1).read())))
    assert reading["throttle"] == ["power", "thermal"]
    assert reading["other_processes"] == [{"pid": 7, "name": "x", "memory_gib": 1.5}]
