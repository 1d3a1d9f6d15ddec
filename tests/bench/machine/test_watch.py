"""What a row must know of the time in which samples were taken; every reading here is synthetic, none was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.machine import state
from bench.machine import watch as watching
from bench.machine.state import NvmlMonitor
from bench.machine.usual import unusual
from bench.machine.watch import CpuWatch
from tests.support.nvml import Gpu, process

OWN = 9
UUID = "GPU-11111111-aaaa"


def watched(nvml, gpu: Gpu, meanwhile: Callable[[Gpu], None] = lambda gpu: None) -> dict:
    """The state of a watch over three samples, in the second of which something happens."""
    nvml(gpu)
    monitor = NvmlMonitor(UUID, OWN)
    with monitor.watch(lambda: 4) as watch:
        for sample in range(3):
            if sample == 1:
                meanwhile(gpu)
            monitor.read()
    return watch.state()


def computing(**parts) -> Gpu:
    """A GPU at its top clock with this process on it, and nothing else."""
    return Gpu(compute=[process(OWN, 2.0)], held_ns={74: 5, 75: 7, 269: 7, 271: 0}, **parts)


@pytest.fixture(autouse=True)
def every_look_is_fresh(monkeypatch):
    monkeypatch.setattr(state, "READ_EVERY_S", -1.0)


def test_a_gpu_that_runs_as_it_should_is_recorded_and_not_noted(nvml):
    def run(gpu: Gpu) -> None:
        gpu.energy_mj, gpu.temperature, gpu.power_mw = 42_000, 60, 650_000

    found = watched(nvml, computing(), run)
    assert unusual(found) == []
    assert found["sm_clock_mhz"] == {"median": 1980, "least": 1980}
    assert found["memory_clock_mhz"] == {"median": 3201, "least": 3201}
    assert found["temperature_c"] == {"median": 60, "most": 60}
    assert found["power_w"] == {"median": 650.0, "most": 650.0}
    assert (found["energy_j"], found["held_ns"], found["throttle"]) == (42.0, {}, [])
    assert (found["top_sm_clock_mhz"], found["power_limit_w"], found["default_power_limit_w"]) == (
        1980,
        700.0,
        700.0,
    )
    assert (found["ecc"], found["persistence"], found["other_processes"]) == (True, True, [])
    assert (found["threads"], found["kind"]) == (4, "cuda")
    assert json.loads(json.dumps(found)) == found


def locked(gpu: Gpu) -> None:
    gpu.clocks = {1: 1200, 2: 3201}


def throttled_inside_a_sample(gpu: Gpu) -> None:
    """The counter advances; whoever looks before and after sees nothing."""
    gpu.held_ns[269] += 3_000_000


DISTURBANCES = {
    "a locked clock": (computing(clocks={1: 1200, 2: 3201}), None, "stood at 1200 of 1980 MHz"),
    "a clock locked in the middle": (computing(), locked, "stood at 1200 of 1980 MHz"),
    "application clocks": (computing(application_clock=1305), None, "application clock is set to 1305 MHz"),
    "the reason of application clocks": (computing(reasons=0x2), None, "somebody locked them"),
    "a foreign process": (
        Gpu(compute=[process(OWN, 2.0), process(7, 1.5)]),
        None,
        "other processes held the GPU: pid 7",
    ),
    "a foreign process for a while": (
        computing(),
        lambda gpu: gpu.compute.append(process(7, 1.5)),
        "other processes held the GPU: pid 7",
    ),
    "a second process, seen from a container": (
        Gpu(compute=[process(1007, 2.0), process(1008, 2.0)]),
        None,
        "2 processes held the GPU, of which one is this run's",
    ),
    "processes that are not told": (Gpu(compute=None, graphics=None), None, "cannot be told here"),
    "a power cap": (
        computing(power_limit_mw=300_000),
        None,
        "power limit is set to 300 W; its default is 700",
    ),
    "heat": (computing(reasons=0x20), None, "heat held the clocks"),
    "heat inside a sample": (computing(), throttled_inside_a_sample, "heat held the clocks"),
    "a power brake inside a sample": (
        computing(),
        lambda gpu: gpu.held_ns.update({271: 9}),
        "the hardware held the clocks",
    ),
}


@pytest.mark.parametrize(("gpu", "meanwhile", "note"), DISTURBANCES.values(), ids=DISTURBANCES)
def test_a_disturbed_gpu_is_noted(nvml, gpu, meanwhile, note):
    found = watched(nvml, gpu, meanwhile or (lambda gpu: None))
    assert any(note in line for line in unusual(found)), unusual(found)


def test_a_throttle_inside_a_sample_spoils_that_one_and_not_the_next(nvml, monkeypatch):
    """Also where the last look is a moment old: the counters are asked every time."""
    gpu = computing()
    nvml(gpu)
    monitor = NvmlMonitor(UUID, OWN)
    monkeypatch.setattr(state, "READ_EVERY_S", 60.0)
    assert not monitor.read().spoils_sample
    throttled_inside_a_sample(gpu)
    assert monitor.read().spoils_sample
    assert not monitor.read().spoils_sample
    # and a look that is old accuses no sample that the counters clear
    gpu.reasons = 0x20
    monkeypatch.setattr(state, "READ_EVERY_S", -1.0)
    assert monitor.read().spoils_sample
    monkeypatch.setattr(state, "READ_EVERY_S", 60.0)
    assert not monitor.read().spoils_sample


def test_in_a_container_our_own_process_is_not_taken_for_anothers(nvml):
    assert unusual(watched(nvml, Gpu(compute=[process(100_007, 2.0)]))) == []


def test_power_at_the_boards_own_limit_is_how_it_is_meant_to_run(nvml):
    found = watched(nvml, computing(reasons=0x4, clocks={1: 1500, 2: 3201}))
    assert unusual(found) == ["the SM clock stood at 1500 of 1980 MHz"]
    assert found["throttle"] == ["power"]


def test_a_desktop_board_names_a_top_clock_that_it_does_not_keep(nvml):
    name = "NVIDIA GeForce RTX 4090"
    assert unusual(watched(nvml, computing(name=name, clocks={1: 1700, 2: 1}))) == []
    assert unusual(watched(nvml, computing(name=name, clocks={1: 1500, 2: 1})))


WITHHELD = (
    "clocks",
    "temperature",
    "power_mw",
    "reasons",
    "top_clock",
    "application_clock",
    "power_limit_mw",
    "ecc",
)


@pytest.mark.parametrize("field", [*WITHHELD, "energy_mj"])
def test_what_nvml_withholds_is_none_and_harms_nothing_else(nvml, field):
    found = watched(nvml, computing(**{field: None}))
    assert json.dumps(found)
    assert unusual(found) == []


def test_a_driver_that_tells_nothing_at_all_says_so(nvml):
    nothing: dict[str, Any] = dict.fromkeys([*WITHHELD, "energy_mj", "compute", "graphics"])
    found = watched(nvml, Gpu(**nothing))
    assert found["sm_clock_mhz"] is found["throttle"] is found["other_processes"] is None
    assert unusual(found) == ["whether others computed on the GPU cannot be told here"]


# --- The CPU ---------------------------------------------------------------------------------------------

CALM = {"kind": "cpu", "wall_s": 10.0, "threads": 2, "cpu_s": 19.0, "occupancy": 0.95, "waited_share": 0.01}
CALM |= {"quota_held_s": 0.0, "others_cores": 0.05, "load_average": 2.0}


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"waited_share": 0.3}, "busy host: threads waited for a core 30 % of the time"),
        ({"others_cores": 1.0}, "busy host: others kept 1.0 cores busy"),
        ({"quota_held_s": 5.0}, "the container's quota held the process 50 % of the time"),
        ({"occupancy": 0.2}, "2 threads computed 20 % of the time"),
        ({"flags_changed": ["set by the model's own code: threads 1, not 2"]}, "threads 1, not 2"),
    ],
)
def test_a_disturbed_cpu_is_noted(change, note):
    assert unusual(CALM) == []
    assert unusual({**CALM, "waited_share": None, "others_cores": None}) == []
    (line,) = unusual({**CALM, **change})
    assert note in line


def test_nothing_watched_is_nothing_noted():
    assert unusual(None) == unusual({}) == []


def test_what_a_warm_up_saw_is_forgotten_but_for_the_energy(nvml):
    gpu = computing()
    nvml(gpu)
    monitor = NvmlMonitor(UUID, OWN)
    with monitor.watch(lambda: 4) as watch:
        gpu.energy_mj, gpu.temperature, gpu.clocks = 10_000, 90, {1: 300, 2: 3201}
        monitor.read()
        watch.begin_anew()
        gpu.energy_mj, gpu.temperature, gpu.clocks = 42_000, 60, {1: 1980, 2: 3201}
        monitor.read()
    found = watch.state()
    assert found["temperature_c"] == {"median": 60, "most": 60}
    assert found["sm_clock_mhz"] == {"median": 1980, "least": 1980}
    assert found["energy_j"] == 42.0


def test_neighbours_of_the_samples_are_not_hidden_by_a_long_warm_up(tmp_path, monkeypatch):
    """Synthetic times: 20 s alone, then half a second beside somebody who keeps both cores busy."""
    now = {"busy": 0.0, "cpu": 0.0, "wall": 0.0}
    monkeypatch.setattr(watching, "_busy_s", lambda root: now["busy"])
    monkeypatch.setattr(time, "clock_gettime", lambda clock: now["cpu"])
    monkeypatch.setattr(time, "perf_counter", lambda: now["wall"])
    with CpuWatch(lambda: 2, tmp_path) as watch:
        now.update(busy=40.0, cpu=40.0, wall=20.0)
        watch.begin_anew()
        now.update(busy=41.0, cpu=40.2, wall=20.5)
    found = watch.state()
    assert found["others_cores"] == pytest.approx(1.6)
    assert any("others kept 1.6 cores busy" in line for line in unusual(found))


def test_a_cpu_by_the_kernels_files(tmp_path, monkeypatch):
    """Synthetic files of /proc and of a control group, before and after."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    now = {"cpu": 1.0, "wall": 0.0}
    monkeypatch.setattr(time, "clock_gettime", lambda clock: now["cpu"])
    monkeypatch.setattr(time, "perf_counter", lambda: now["wall"])

    def write(waited_ns: int, ticks: int, held_us: int) -> None:
        for name, text in {
            "proc/self/task/1/schedstat": f"5 {waited_ns} 1\n",
            "proc/self/task/2/schedstat": f"5 {waited_ns} 1\n",
            "proc/self/task/3/schedstat": "",  # ended meanwhile
            "proc/stat": f"cpu  1 1 1 1 1 1 1 1\ncpu0 {ticks} 0 0 9 9 0 0 0 0 0\ncpu1 {ticks} 0 0 9 9 0 0 0 0 0\n"
            "cpu2 999999999 0 0 9 9 0 0 0 0 0\n",
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.stat": f"usage_usec 1\nthrottled_usec {held_us}\n",
            "proc/cpuinfo": "cpu MHz\t\t: 2000.0\n\ncpu MHz\t\t: 3000.0\n",
        }.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    write(0, 100, 0)
    with CpuWatch(lambda: 2, tmp_path) as watch:
        now.update(cpu=7.0, wall=10.0)
        write(1_000_000_000, 100 + 600, 2_500_000)  # 6 s on each core at 100 ticks a second
    found = watch.state()
    assert (found["wall_s"], found["cpu_s"], found["occupancy"]) == (10.0, 6.0, 0.3)
    assert (found["waited_s"], found["waited_share"]) == (2.0, 0.25)
    assert found["quota_held_s"] == 2.5
    assert found["others_cores"] == pytest.approx(0.6)  # 12 s on our two cores, 6 of which were ours
    assert found["frequency_mhz"] == 2500.0
    assert len(unusual(found)) == 4


def test_a_machine_without_these_files_is_watched_too(tmp_path):
    with CpuWatch(root=tmp_path) as watch:
        sum(range(1000))
    found = watch.state()
    assert (
        found["waited_s"] is found["others_cores"] is found["quota_held_s"] is found["frequency_mhz"] is None
    )
    assert found["wall_s"] >= 0 and found["load_average"] is not None


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel keeps no schedstat")
def test_a_real_hog_on_our_core_is_seen():
    """Two busy processes held to one core: each waits for about half of the time."""
    code = """
import json, os, sys, time
from bench.machine.usual import unusual
from bench.machine.watch import CpuWatch
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
hog = os.fork()
if hog == 0:
    while os.getppid() != 1: pass
    os._exit(0)
time.sleep(0.1)
with CpuWatch() as watch:
    until = time.perf_counter() + 1.0
    while time.perf_counter() < until: pass
os.kill(hog, 9)
print(json.dumps(unusual(watch.state())))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert any("busy host: threads waited for a core" in line for line in json.loads(done.stdout))
