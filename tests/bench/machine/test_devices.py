"""Devices, choosing one, and refusing one that is busy, over a synthetic NVML.

The path without a driver is the real one wherever the tests run on a machine that has none.
"""

import json
import os
import sys
from types import SimpleNamespace

import pytest

from bench.errors import Failure, UsageError
from bench.machine import devices, provenance, state
from bench.machine.devices import Device, Listing
from bench.machine.gpus import profiles
from bench.machine.state import NvmlMonitor
from tests.support.nvml import Gpu, answer, process, sliced_h200


def found_devices(environ: dict[str, str] | None = None) -> Listing:
    return devices.devices(environ or {})


def no_pause(seconds: float) -> None:
    pass


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


def test_indices_among_different_gpus_are_read_where_their_order_is_known(nvml):
    """CUDA counts the fastest first unless CUDA_DEVICE_ORDER says otherwise; NVML counts along the bus."""
    nvml(Gpu(name="Tesla T4", uuid="GPU-t4"), Gpu(uuid="GPU-h200"))
    found = found_devices({"CUDA_VISIBLE_DEVICES": "0"})
    assert found.devices == []
    with pytest.raises(UsageError, match=r"counts the fastest GPU first.*CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        devices.choose("auto", found)
    along = found_devices({"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert [device.uuid for device in along.devices] == ["GPU-t4"]
    assert [device.uuid for device in found_devices({"CUDA_VISIBLE_DEVICES": "GPU-h"}).devices] == [
        "GPU-h200"
    ]


def test_a_gpu_that_a_scheduler_denies_is_named_and_never_replaced_by_the_cpu(nvml, monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "NODES", tmp_path)
    for minor in (0, 1):
        (tmp_path / f"nvidia{minor}").touch()
    opened = os.open

    def refuse(path, *rest):
        if str(path) == str(tmp_path / "nvidia0"):
            raise PermissionError(1, "Operation not permitted")  # as a device control group answers
        return opened(path, *rest)

    monkeypatch.setattr(os, "open", refuse)
    nvml(Gpu(minor=0), Gpu(uuid="GPU-2", minor=1))
    assert [device.uuid for device in found_devices().devices] == ["GPU-2"]
    nvml(Gpu(minor=0))
    with pytest.raises(UsageError, match=r"not ours to use.*or type cpu"):
        devices.choose("auto", found_devices())


def test_a_gpu_that_nvml_does_not_hand_out_is_named(nvml, monkeypatch):
    fake = nvml(Gpu())
    monkeypatch.setattr(fake, "nvmlDeviceGetHandleByIndex", lambda index: answer(None))
    with pytest.raises(UsageError, match=r"a GPU \(index 0\): it is not ours to use"):
        devices.choose("auto", found_devices())


@pytest.mark.parametrize("node", ["nvidia0", "nvhost-gpu", "dxg"])
def test_cuda_without_nvml_is_said_and_not_taken_for_a_machine_without_a_gpu(monkeypatch, tmp_path, node):
    def fail():
        raise state.NoNvml("no CUDA driver: its library NVML is not on this machine")

    monkeypatch.setattr(devices, "load_nvml", fail)
    monkeypatch.setattr(devices, "NODES", tmp_path)
    assert devices.choose("auto", found_devices()).kind == "cpu"
    (tmp_path / node).touch()
    with pytest.raises(UsageError, match="CUDA is there, but NVML is not"):
        devices.choose("auto", found_devices())
    assert devices.choose("auto", found_devices({"CUDA_VISIBLE_DEVICES": ""})).kind == "cpu"
    assert devices.choose("cpu", found_devices()).kind == "cpu"


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


def test_half_a_core_and_one_core_are_not_the_same_device(monkeypatch):
    """Rows of one must not stand for the other."""
    machine = provenance.host()
    shares = [(2, None), (2, 0.5), (2, 1.5), (1, None)]
    uuids = []
    for affinity, quota in shares:
        monkeypatch.setattr(
            devices, "host", lambda a=affinity, q=quota: {**machine, "affinity_cores": a, "quota_cores": q}
        )
        uuids.append(devices.cpu_device().uuid)
    assert len(set(uuids)) == len(shares)


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


def test_a_device_is_json(nvml):
    nvml(Gpu())
    device = json.loads(json.dumps(devices.as_dict(found_devices().devices[0])))
    assert (device["profile"], device["key"], device["uuid"]) == ("h200", "h200", "GPU-11111111-aaaa")
    assert json.dumps(devices.as_dict(devices.cpu_device()))
