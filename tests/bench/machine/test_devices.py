"""Devices, their choice and their state, host, versions and source.

NVML is a synthetic stand-in here: its GPUs and readings are invented, none was captured on hardware. The path
without a driver is the real one wherever the tests run on a machine that has none.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.errors import Failure, UsageError
from bench.machine import devices, provenance, state
from bench.machine.devices import Device, Listing
from bench.machine.gpus import profiles
from bench.machine.state import NoMonitor, NvmlMonitor, Process, Reading

GIB = 2**30


# --- A synthetic NVML -------------------------------------------------------------------


class NvmlError(Exception):
    """Stands for pynvml.NVMLError."""


@dataclass
class Gpu:
    """A synthetic GPU or MIG slice. An answer that is None is "not supported"."""

    name: str = "NVIDIA H200"
    uuid: str | None = "GPU-11111111-aaaa"
    memory: int | None = 140 * GIB
    mig_mode: int | None = 0
    slices: list["Gpu"] = field(default_factory=list)
    card: "Gpu | None" = None
    load: list[int] | None = field(default_factory=lambda: [0])
    clocks: dict[int, int] | None = field(default_factory=lambda: {1: 1980, 2: 3201})
    temperature: int | None = 41
    power_mw: int | None = 78_500
    reasons: int | None = 0
    old_reasons: int | None = None
    compute: list[SimpleNamespace] | None = field(default_factory=list)
    graphics: list[SimpleNamespace] | None = field(default_factory=list)
    shape: SimpleNamespace | None = None


def process(pid: int, gib: float | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=None if gib is None else int(gib * GIB))


def answer(value):
    if value is None:
        raise NvmlError("Not Supported")
    return value


class Nvml:
    """The functions of pynvml that environment.py calls, over synthetic GPUs."""

    NVMLError = NvmlError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, *gpus: Gpu, names: dict[int, str] | None = None):
        self.gpus, self.names = gpus, names or {}
        for gpu in gpus:
            for instance in gpu.slices:
                instance.card = gpu

    def nvmlDeviceGetCount(self):
        return len(self.gpus)

    def nvmlSystemGetDriverVersion(self):
        return "580.00.00"

    def nvmlSystemGetProcessName(self, pid):
        return answer(self.names.get(pid))

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        every = [device for gpu in self.gpus for device in (gpu, *gpu.slices)]
        return answer(next((device for device in every if device.uuid == uuid), None))

    def nvmlDeviceGetName(self, gpu):
        return answer(gpu.name)

    def nvmlDeviceGetUUID(self, gpu):
        return answer(gpu.uuid)

    def nvmlDeviceGetMemoryInfo(self, gpu):
        return SimpleNamespace(total=answer(gpu.memory))

    def nvmlDeviceGetCudaComputeCapability(self, gpu):
        return (9, 0)

    def nvmlDeviceGetMigMode(self, gpu):
        return [answer(gpu.mig_mode), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu, number):
        return answer(gpu.slices[number] if number < len(gpu.slices) else None)

    def nvmlDeviceIsMigDeviceHandle(self, gpu):
        return int(gpu.card is not None)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, gpu):
        return answer(gpu.card)

    def nvmlDeviceGetAttributes_v2(self, gpu):
        return answer(gpu.shape)

    def nvmlDeviceGetUtilizationRates(self, gpu):
        loads = answer(gpu.load)
        return SimpleNamespace(gpu=loads.pop(0) if len(loads) > 1 else loads[0])

    def nvmlDeviceGetClockInfo(self, gpu, clock):
        return answer(gpu.clocks)[clock]

    def nvmlDeviceGetTemperature(self, gpu, sensor):
        return answer(gpu.temperature)

    def nvmlDeviceGetPowerUsage(self, gpu):
        return answer(gpu.power_mw)

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu):
        return answer(gpu.reasons)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu):
        return answer(gpu.old_reasons)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu):
        return answer(gpu.compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu):
        return answer(gpu.graphics)


@pytest.fixture
def nvml(monkeypatch):
    """Puts synthetic GPUs in the machine."""

    def install(*gpus: Gpu, names: dict[int, str] | None = None) -> Nvml:
        fake = Nvml(*gpus, names=names)
        monkeypatch.setattr(state, "load_nvml", lambda: fake)
        return fake

    return install


def found_devices(environ: dict[str, str] | None = None) -> Listing:
    return devices.devices(environ or {})


def no_pause(seconds: float) -> None:
    pass


def sliced_h200() -> Gpu:
    return Gpu(
        mig_mode=1,
        load=None,
        slices=[
            Gpu(name="NVIDIA H200 MIG 1g.18gb", uuid="MIG-aaaa", memory=16 * GIB, load=None),
            Gpu(name="NVIDIA H200 MIG 2g.35gb", uuid="MIG-bbbb", memory=33 * GIB, load=None),
        ],
    )


# --- Devices ----------------------------------------------------------------------------


def test_a_whole_gpu(nvml):
    nvml(Gpu())
    found = found_devices()
    assert found == Listing(
        [
            Device(
                kind="cuda",
                index=0,
                name="NVIDIA H200",
                uuid="GPU-11111111-aaaa",
                memory_gib=140.0,
                compute_capability="9.0",
                driver="580.00.00",
                profile=profiles()["h200"],
            )
        ]
    )
    assert found.devices[0].key == "h200"


def test_a_gpu_without_a_profile_has_its_own_key_and_no_peaks(nvml):
    nvml(Gpu(name="NVIDIA GH200 480GB"), Gpu(name="Tesla V100-SXM3-32GB", uuid="GPU-2"))
    grace, dgx2 = found_devices().devices
    assert (grace.profile, grace.key) == (None, "nvidia-gh200-480gb")
    assert (dgx2.profile, dgx2.key) == (None, "nvidia-tesla-v100-sxm3-32gb")


def test_mig_slices_are_devices_of_their_own(nvml):
    nvml(sliced_h200(), Gpu(uuid="GPU-2"))
    small, large, whole = found_devices().devices
    assert [device.key for device in (small, large, whole)] == [
        "h200-mig-1g.18gb",
        "h200-mig-2g.35gb",
        "h200",
    ]
    assert (small.uuid, small.index, small.memory_gib, small.mig) == ("MIG-aaaa", 0, 16.0, "1g.18gb")
    assert small.profile is None, "a slice must not have the whole GPU's peaks"


def test_a_slice_whose_name_does_not_tell_is_named_by_its_attributes(nvml):
    shape = SimpleNamespace(gpuInstanceSliceCount=3, memorySizeMB=71 * 1024 - 300)
    nvml(Gpu(mig_mode=1, slices=[Gpu(uuid="MIG-a", shape=shape), Gpu(uuid="MIG-b")]))
    assert [device.mig for device in found_devices().devices] == ["3g.71gb", "unknown"]


def test_a_gpu_in_mig_mode_without_instances_is_refused(nvml):
    nvml(Gpu(mig_mode=1))
    found = found_devices()
    assert not found.devices and "MIG mode without instances" in (found.reason or "")
    for text in ("auto", "h200", "0"):
        with pytest.raises(UsageError, match="MIG mode without instances"):
            devices.choose(text, found)
    assert devices.choose("cpu", found).kind == "cpu"


def test_a_lost_gpu_is_named_and_not_used(nvml):
    nvml(Gpu(uuid=None), Gpu(uuid="GPU-2"))
    found = found_devices()
    assert [device.uuid for device in found.devices] == ["GPU-2"]
    with pytest.raises(
        UsageError, match=r"NVIDIA H200 \(index 0\) cannot be measured: the driver has lost it"
    ):
        devices.choose("0", found)


def test_answers_that_nvml_withholds_are_none(nvml):
    nvml(Gpu(memory=None, mig_mode=None))
    assert found_devices().devices[0].memory_gib is None


def test_a_driver_without_gpus_says_so(nvml):
    nvml()
    assert found_devices() == Listing([], "the NVIDIA driver is there, but lists no GPU")


FOUR = ("GPU-0aa", "GPU-0bb", "GPU-2", "GPU-3")


@pytest.mark.parametrize(
    ("mask", "shown"),
    [
        ("2,0", ["GPU-2", "GPU-0aa"]),
        (" 1 , 3 ", ["GPU-0bb", "GPU-3"]),
        ("GPU-3", ["GPU-3"]),
        ("GPU-0b,2", ["GPU-0bb", "GPU-2"]),
        ("0,9,1", ["GPU-0aa"]),  # stops at the first that is not there
        ("0,-1,1", ["GPU-0aa"]),
        ("1,1", []),  # a repeated entry hides all
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices(nvml, mask, shown):
    nvml(*(Gpu(uuid=uuid) for uuid in FOUR))
    found = found_devices({"CUDA_VISIBLE_DEVICES": mask})
    assert [device.uuid for device in found.devices] == shown
    assert found.reason == (None if shown else f"CUDA_VISIBLE_DEVICES='{mask}' leaves no GPU visible")
    if not shown:
        assert devices.choose("auto", found).kind == "cpu"
        with pytest.raises(UsageError, match="leaves no GPU visible"):
            devices.choose("h200", found)


@pytest.mark.parametrize(
    ("mask", "shown"),
    [("MIG-bbbb", ["MIG-bbbb"]), ("MIG-b,1", ["MIG-bbbb", "GPU-2"]), ("0", ["MIG-aaaa", "MIG-bbbb"])],
)
def test_cuda_visible_devices_with_slices(nvml, mask, shown):
    nvml(sliced_h200(), Gpu(uuid="GPU-2"))
    assert [device.uuid for device in found_devices({"CUDA_VISIBLE_DEVICES": mask}).devices] == shown


def test_the_worker_sees_its_device_and_no_other():
    assert devices.visible(gpu(uuid="MIG-aaaa")) == {
        "CUDA_VISIBLE_DEVICES": "MIG-aaaa",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert devices.visible(devices.cpu_device())["CUDA_VISIBLE_DEVICES"] == ""


def test_the_cpu_is_a_device():
    cpu = devices.cpu_device()
    assert cpu == devices.cpu_device()
    assert (cpu.kind, cpu.key, cpu.profile, cpu.index) == ("cpu", "cpu", None, None)
    assert cpu.name and cpu.uuid.startswith("CPU-")


# --- Without a driver: the real path ----------------------------------------------------


def driver_is_here() -> bool:
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def test_no_driver_is_said_and_never_hidden():
    if driver_is_here():
        pytest.skip("this machine has a CUDA driver")
    found = devices.devices()
    assert not found.devices and "CUDA driver" in (found.reason or "")
    assert devices.choose("auto", found).kind == "cpu"
    for text in ("h100", "0", "h100:0", "GPU-1"):
        with pytest.raises(UsageError, match=rf"GPU '{text}' is not here: .*CUDA driver.*type cpu or auto"):
            devices.choose(text, found)
    with pytest.raises(Failure, match="CUDA driver"):
        NvmlMonitor("GPU-1", os.getpid())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (12, "no CUDA driver: its library NVML is not on this machine"),
        (9, "no CUDA driver: it is installed but not loaded"),
        (18, "the CUDA driver was updated and needs a reboot"),
        (4, "no permission to use the CUDA driver"),
        (999, "the CUDA driver does not answer: Unknown Error"),
    ],
)
def test_why_nvml_cannot_be_used(monkeypatch, code, said):
    pynvml = pytest.importorskip("pynvml")

    def fail():
        raise pynvml.NVMLError(code)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    state.load_nvml.cache_clear()
    assert devices.devices() == Listing([], said)


def test_without_the_python_package_the_reason_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    state.load_nvml.cache_clear()
    assert "nvidia-ml-py is not installed" in (devices.devices().reason or "")


# --- Choosing ---------------------------------------------------------------------------


def gpu(name: str = "NVIDIA H200", index: int = 0, uuid: str | None = None, mig: str | None = None) -> Device:
    return Device("cuda", index, name, uuid or f"GPU-{index}", 140.0, mig=mig)


TWO_H200_AND_A_4090 = Listing([gpu(), gpu(index=1), gpu("NVIDIA GeForce RTX 4090", 2)])


def idle(device: Device) -> None:
    return None


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("auto", 0),
        ("AUTO", 0),
        ("h200", 0),
        ("h200:1", 1),
        ("1", 1),
        (" rtx4090 ", 2),
        ("RTX4090", 2),
        ("GPU-2", 2),
    ],
)
def test_choosing(text, index):
    assert devices.choose(text, TWO_H200_AND_A_4090, idle).index == index


@pytest.mark.parametrize(("text", "index"), [("auto", 1), ("h200", 1)])
def test_a_busy_gpu_is_passed_over_for_one_that_fits_as_well(text, index):
    def busy(device):
        return "98 % busy with pid 7" if device.index == 0 else None

    assert devices.choose(text, TWO_H200_AND_A_4090, busy).index == index


@pytest.mark.parametrize("text", ["auto", "h200"])
def test_if_all_are_busy_nothing_is_chosen(text):
    with pytest.raises(Failure, match=r"no GPU is free .*index 0\): busy; .*index 1\): busy") as caught:
        devices.choose(text, TWO_H200_AND_A_4090, lambda device: "busy")
    assert caught.value.status == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "h100",
            r"GPU 'h100' is not here: found NVIDIA H200 \(index 0\) = h200, .*; type h200 or rtx4090 or cpu",
        ),
        ("h200:2", r"GPU 'h200:2' is not here: found"),
        ("h200:", r"GPU 'h200:' is not here: found"),
        ("7", r"GPU '7' is not here: found"),
        ("GPU-9", r"GPU 'GPU-9' is not here: found"),
        ("h20", r"unknown GPU 'h20'; did you mean h200\?"),
        ("4090", r"GPU '4090' is not here"),
        ("rtx-4090", r"unknown GPU 'rtx-4090'; did you mean rtx4090\?"),
        ("", r"unknown GPU ''; known are auto, cpu, v100"),
        ("cpu:0", r"GPU 'cpu:0' is not here"),
    ],
)
def test_what_is_not_there_is_an_error_that_says_what_is(text, said):
    with pytest.raises(UsageError, match=said) as caught:
        devices.choose(text, TWO_H200_AND_A_4090, idle)
    assert caught.value.status == 2 and "\n" not in str(caught.value)


def test_a_whole_gpus_name_does_not_choose_a_slice():
    found = Listing([gpu(uuid="MIG-aaaa", mig="1g.18gb")])
    assert devices.choose("h200-mig-1g.18gb", found).uuid == "MIG-aaaa"
    assert devices.choose("0", found).uuid == "MIG-aaaa"
    with pytest.raises(UsageError, match=r"type h200-mig-1g\.18gb or cpu"):
        devices.choose("h200", found)


def test_a_variant_does_not_pass_for_another():
    with pytest.raises(UsageError, match=r"found NVIDIA A100-SXM4-40GB .* type a100-40gb"):
        devices.choose("a100", Listing([gpu("NVIDIA A100-SXM4-40GB")]))


# --- Busy or idle -----------------------------------------------------------------------


def test_a_gpu_that_computes_for_others_is_refused(nvml):
    nvml(
        Gpu(load=[97, 98, 100, 99, 98], compute=[process(4242, 12.3)]),
        names={4242: "/usr/bin/python3 train.py"},
    )
    with pytest.raises(Failure, match=r"98 % busy with pid 4242 \(python3, 12\.3 GiB\)"):
        devices.check_idle(gpu(uuid="GPU-11111111-aaaa"), no_pause)


def test_a_process_that_only_holds_memory_is_no_reason(nvml):
    nvml(Gpu(load=[0, 3, 10, 2, 1], compute=[process(4242, 12.3)]))
    devices.check_idle(gpu(uuid="GPU-11111111-aaaa"), no_pause)


def test_the_end_of_a_process_is_not_taken_for_work(nvml):
    nvml(Gpu(load=[100, 60, 0, 0, 0]))
    devices.check_idle(gpu(uuid="GPU-11111111-aaaa"), no_pause)


def test_work_of_a_process_that_cannot_be_seen_counts(nvml):
    nvml(Gpu(load=[80], compute=None, graphics=None))
    with pytest.raises(Failure, match="80 % busy with a process that cannot be seen from here"):
        devices.check_idle(gpu(uuid="GPU-11111111-aaaa"), no_pause)


def test_a_slice_and_the_cpu_are_not_refused_for_what_they_cannot_tell(nvml):
    nvml(sliced_h200())
    devices.check_idle(gpu(uuid="MIG-aaaa"), no_pause)
    devices.check_idle(devices.cpu_device(), no_pause)


def test_auto_looks_at_the_real_load_by_default(nvml, monkeypatch):
    monkeypatch.setattr(state, "BUSY_PAUSE_S", 0)
    nvml(Gpu(load=[90]), Gpu(uuid="GPU-2"))
    assert devices.choose("auto", found_devices()).uuid == "GPU-2"


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
    """`_ask` takes a missing function for "not supported", so a misspelt one would never be noticed."""
    pynvml = pytest.importorskip("pynvml")
    asked = set(re.findall(r'"(nvml[A-Z]\w+)"', Path(state.__file__).read_text(encoding="utf-8")))
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


def test_devices_and_readings_are_json(nvml):
    nvml(Gpu(compute=[process(7, 1.5)], reasons=0x24), names={7: "x"})
    device = json.loads(json.dumps(devices.as_dict(found_devices().devices[0])))
    assert (device["profile"], device["key"], device["uuid"]) == ("h200", "h200", "GPU-11111111-aaaa")
    reading = json.loads(json.dumps(devices.as_dict(NvmlMonitor("GPU-11111111-aaaa", 1).read())))
    assert reading["throttle"] == ["power", "thermal"]
    assert reading["other_processes"] == [{"pid": 7, "name": "x", "memory_gib": 1.5}]
    assert json.dumps(devices.as_dict(devices.cpu_device()))


# --- Host, versions, source -------------------------------------------------------------


def test_this_host():
    about = provenance.host()
    assert about["cpu"] and about["kernel"] and about["memory_gib"] > 0
    assert 1 <= about["available_cores"] <= os.cpu_count()
    assert json.dumps(about)


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_host_by_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(54)), raising=False)
    threads = "\n\n".join(
        f"processor : {n}\nmodel name\t: Some CPU @ 2 GHz\nphysical id\t: {n % 2}\ncore id\t\t: {n // 4}"
        for n in range(8)
    )
    about = provenance.host(
        machine(
            tmp_path,
            {
                "proc/cpuinfo": threads + "\n",
                "proc/meminfo": "MemTotal:       33554432 kB\n",
                "etc/os-release": 'NAME="Some"\nPRETTY_NAME="Some Linux 12"\n',
            },
        )
    )
    assert about["cpu"] == "Some CPU @ 2 GHz"
    assert (about["physical_cores"], about["available_cores"], about["memory_gib"]) == (4, 54, 32.0)
    assert about["system"] == "Some Linux 12"


@pytest.mark.parametrize(
    ("files", "cores", "memory_gib"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 54, 32.0),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/cpu.max": "250000 100000\n",
                "sys/fs/cgroup/memory.max": f"{8 * GIB}\n",
            },
            2,
            8.0,
        ),
        # the tightest of the group and those above it
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            },
            3,
            32.0,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1, 32.0),
        # version 1, in a container whose path is the host's
        (
            {
                "proc/self/cgroup": "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
            },
            4,
            4.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            54,
            32.0,
        ),
    ],
)
def test_a_containers_limits(tmp_path, monkeypatch, files, cores, memory_gib):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(54)), raising=False)
    about = provenance.host(machine(tmp_path, {"proc/meminfo": "MemTotal: 33554432 kB\n", **files}))
    assert (about["available_cores"], about["memory_gib"]) == (cores, memory_gib)


def test_versions_are_those_of_torch_without_importing_it():
    """In a process of its own: importing the module and asking for versions must not import torch or NVML."""
    code = (
        "import json, sys; from bench.machine import provenance; versions = provenance.versions();"
        "print(json.dumps([versions, 'torch' in sys.modules, 'pynvml' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=provenance.ROOT, check=True
    )
    versions, torch_imported, pynvml_imported = json.loads(done.stdout)
    assert not torch_imported and not pynvml_imported
    torch = pytest.importorskip("torch")
    assert versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert versions["cuda"] == torch.version.cuda
    assert versions["python"] == sys.version.split()[0]
    assert versions == provenance.versions(), "the same with torch imported"


def test_a_package_that_is_absent_has_no_version(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    monkeypatch.setattr(provenance.importlib.util, "find_spec", lambda name: None)
    versions = provenance.versions()
    assert versions["no-such-package"] is versions["cuda"] is versions["cudnn"] is None


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_source_names_the_commit_and_notices_changes(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert provenance.source(checkout) == {"commit": commit, "dirty": False}
    (checkout / "b.py").write_text("")
    assert provenance.source(checkout) == {"commit": commit, "dirty": True}


def test_source_without_a_commit_a_checkout_or_git(tmp_path, monkeypatch):
    unknown = {"commit": None, "dirty": None}
    assert provenance.source(tmp_path) == unknown
    git(tmp_path, "init", "-q")
    assert provenance.source(tmp_path) == {"commit": None, "dirty": False}
    (tmp_path / "inside").mkdir()
    assert provenance.source(tmp_path / "inside") == unknown, "another project's commit is not ours"
    monkeypatch.setenv("PATH", "")
    assert provenance.source(tmp_path) == unknown


def test_source_hash(tmp_path):
    def project(name: str) -> Path:
        return machine(
            tmp_path / name,
            {"bench/a.py": "a", "bench/sub/b.py": "b", "bench/notes.md": "", "gpus.toml": "t"},
        )

    here, there = project("here"), project("there")
    paths = ["bench", "gpus.toml"]
    first = provenance.source_hash(paths, here)
    assert len(first) == 64 and first == provenance.source_hash(reversed(paths), there), (
        "the place does not matter"
    )
    (there / "bench/notes.md").write_text("changed")
    (there / "bench/.cache").mkdir()
    (there / "bench/.cache/c.py").write_text("c")
    assert provenance.source_hash(paths, there) == first, "only .py files, and no hidden folders"

    for change in (
        lambda root: (root / "bench/sub/b.py").write_text("c"),
        lambda root: (root / "bench/a.py").rename(root / "bench/z.py"),
        lambda root: (root / "gpus.toml").write_text("u"),
        lambda root: (root / "bench/new.py").write_text(""),
    ):
        change(there)
        assert provenance.source_hash(paths, there) != first
        first = provenance.source_hash(paths, there)


def test_source_hash_outside_the_repository_and_of_nothing(tmp_path):
    root = machine(tmp_path / "project", {"a.py": "a"})
    one, two = machine(tmp_path / "one", {"nets.py": "1"}), machine(tmp_path / "two", {"nets.py": "1"})
    same = provenance.source_hash(["a.py", one / "nets.py"], root)
    assert (
        same
        == provenance.source_hash(["a.py", two / "nets.py"], root)
        != provenance.source_hash(["a.py"], root)
    )
    (two / "nets.py").write_text("2")
    both = provenance.source_hash([one / "nets.py", two / "nets.py"], root)
    assert both != provenance.source_hash([one / "nets.py"], root), "files of one name count each"
    with pytest.raises(FileNotFoundError, match="nothing is not there"):
        provenance.source_hash(["nothing"], root)
