"""The devices to measure on: GPUs, MIG slices, the CPU; and how one of them is chosen. No torch.

NVML's answers are optional one by one: what a driver withholds becomes None.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from bench.errors import Failure, UsageError
from bench.machine.gpus import GpuProfile, profile_for, profiles
from bench.machine.provenance import GIB, host
from bench.machine.state import NoNvml, ask, busy_with, load_nvml


@dataclass(frozen=True)
class Device:
    """One thing to measure on: the CPU, a whole GPU, or one MIG slice of a GPU.

    `index` is NVML's, in the order of the PCI bus; a slice has its card's. `name` is the card's, also for a slice;
    `mig` is the slice's profile, such as "1g.18gb". `profile` is None for the CPU, for a GPU that no profile fits
    exactly, and for a slice: a whole GPU's peaks are not a slice's.
    """

    kind: Literal["cpu", "cuda"]
    index: int | None
    name: str
    uuid: str
    memory_gib: float | None
    compute_capability: str | None = None
    driver: str | None = None
    mig: str | None = None
    profile: GpuProfile | None = None

    @property
    def key(self) -> str:
        """The folder of its results under results/, and the name to type to choose it.

        "cpu", "h200", "h200-mig-1g.18gb", "nvidia-geforce-rtx-3080" (a GPU without a profile).
        """
        if self.kind == "cpu":
            return "cpu"
        card = self.profile or profile_for(self.name)  # a slice has none
        return (card.name if card else _slug(self.name)) + (f"-mig-{self.mig}" if self.mig else "")

    @property
    def type(self) -> str:
        """The name that devices share which may stand for each other in the shards of a run; a CPU's uuid is one."""
        if self.kind == "cpu":
            return self.uuid
        return "|".join(map(str, (self.name, self.mig, self.memory_gib, self.compute_capability)))

    def __str__(self) -> str:
        where = "" if self.index is None else f" (index {self.index})"
        return f"{self.name}{f' MIG {self.mig}' if self.mig else ''}{where}"


@dataclass(frozen=True)
class Listing:
    """The GPUs of this machine that can be used; where there are none, `reason` says why.

    `unusable` holds cards that are there but cannot be measured, each with its reason.
    """

    devices: list[Device]
    reason: str | None = None
    unusable: list[tuple[Device, str]] = field(default_factory=list)


def devices(environ: Mapping[str, str] = os.environ) -> Listing:
    """The GPUs and MIG slices that NVML lists and CUDA_VISIBLE_DEVICES leaves visible, in its order.

    Indices in that variable count as CUDA counts them: in the order of the PCI bus where CUDA_DEVICE_ORDER says so,
    else the fastest first, which is the same among equal GPUs, and among others known to CUDA alone: none is taken.
    """
    try:
        nvml = load_nvml()
    except NoNvml as error:
        return _without_nvml(str(error), environ)
    usable: list[Device] = []
    unusable: list[tuple[Device, str]] = []
    for index in range(ask(nvml, "nvmlDeviceGetCount") or 0):
        handle = ask(nvml, "nvmlDeviceGetHandleByIndex", index)
        if handle is None:
            card = Device("cuda", index, "a GPU", "", None)
            unusable.append((card, "it is not ours to use (a scheduler's or a container's control group)"))
            continue
        card = _card(nvml, index, handle)
        if _is_denied(ask(nvml, "nvmlDeviceGetMinorNumber", handle)):
            unusable.append((card, "it is not ours to use (a scheduler's or a container's control group)"))
        elif not card.uuid:
            unusable.append((card, "the driver has lost it; see nvidia-smi"))
        elif not _in_mig_mode(nvml, handle):
            usable.append(card)
        elif slices := list(_slices(nvml, card, handle)):
            usable += slices
        else:
            unusable.append((card, "in MIG mode without instances; make one with 'nvidia-smi mig -cgi'"))
    if not usable and not unusable:
        return Listing([], "the NVIDIA driver is there, but lists no GPU")
    mask = environ.get("CUDA_VISIBLE_DEVICES")
    if mask is None:
        return Listing(usable, None if usable else _why(unusable), unusable)
    if why := _ambiguous(mask, environ.get("CUDA_DEVICE_ORDER"), usable + [card for card, _ in unusable]):
        return Listing([], why, [(device, why) for device in usable])
    shown = _visible_among(mask, usable + [card for card, _ in unusable])
    usable, unusable = [d for d in shown if d in usable], [(d, why) for d, why in unusable if d in shown]
    hidden = f"CUDA_VISIBLE_DEVICES='{mask}' leaves no GPU visible"
    return Listing(usable, None if usable else _why(unusable) or hidden, unusable)


def cpu_device() -> Device:
    """The CPU as a device. Its `uuid` names the kind of machine, not the machine.

    The uuid is a hash of what the CPU is, how much of it is ours, and memory: a container changes its host name at
    every start, and rows should outlive that. Half a core is another device than a whole one.
    """
    machine = host()
    parts = ("cpu", "cpu_id", "physical_cores", "affinity_cores", "quota_cores")
    kind = "|".join(map(str, [*(machine[name] for name in parts), round(machine["memory_gib"] or 0)]))
    uuid = f"CPU-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"
    return Device("cpu", None, machine["cpu"], uuid, machine["memory_gib"])


def visible(device: Device) -> dict[str, str]:
    """Environment variables that give a new process this device and no other; the CPU means no GPU at all."""
    return {
        "CUDA_VISIBLE_DEVICES": device.uuid if device.kind == "cuda" else "",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


NODES = Path("/dev")


def _is_denied(minor: int | None) -> bool:
    """Whether a control group keeps this process from the GPU, which NVML may list even so."""
    node = NODES / f"nvidia{minor}"
    if minor is None or not node.exists():  # WSL2 and some containers have no such file
        return False
    try:
        os.close(os.open(node, os.O_RDWR))
    except PermissionError:
        return True
    except OSError:  # whatever else it is, CUDA will say
        return False
    return False


def _without_nvml(reason: str, environ: Mapping[str, str]) -> Listing:
    """No GPU to measure; where CUDA is there all the same, as on Jetson or in some containers, that is said."""
    nodes = ("nvidia0", "nvhost-gpu", "nvgpu", "dxg", "nvmap")
    if not any((NODES / name).exists() for name in nodes) or environ.get("CUDA_VISIBLE_DEVICES") in (
        "",
        "-1",
    ):
        return Listing([], reason)
    why = "CUDA is there, but NVML is not: without it nothing is known of clocks, heat and other processes"
    return Listing([], f"{why} ({reason})", [(Device("cuda", None, "a GPU", "", None), why)])


def _ambiguous(mask: str, order: str | None, there: list[Device]) -> str | None:
    """Why the indices of a CUDA_VISIBLE_DEVICES cannot be read here; None if they can."""
    numeric = any(entry.strip().isdecimal() for entry in mask.split(","))
    if not numeric or order == "PCI_BUS_ID" or len({device.name for device in there}) < 2:
        return None
    return (
        f"CUDA_VISIBLE_DEVICES='{mask}' counts the fastest GPU first, and the GPUs here differ: set "
        "CUDA_DEVICE_ORDER=PCI_BUS_ID, or name UUIDs"
    )


def _card(nvml: Any, index: int, handle: Any) -> Device:
    name = ask(nvml, "nvmlDeviceGetName", handle) or "unnamed GPU"
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    capability = ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    return Device(
        kind="cuda",
        index=index,
        name=name,
        uuid=ask(nvml, "nvmlDeviceGetUUID", handle) or "",
        memory_gib=round(memory.total / GIB, 2) if memory else None,
        compute_capability=".".join(map(str, capability)) if capability else None,
        driver=ask(nvml, "nvmlSystemGetDriverVersion"),
        profile=profile_for(name),
    )


def _in_mig_mode(nvml: Any, handle: Any) -> bool:
    mode = ask(nvml, "nvmlDeviceGetMigMode", handle)  # (current, pending); not supported by most GPUs
    return bool(mode and mode[0])


def _slices(nvml: Any, card: Device, handle: Any) -> Iterator[Device]:
    for number in range(ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        instance = ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
        uuid = ask(nvml, "nvmlDeviceGetUUID", instance) if instance is not None else None
        if uuid is None:
            continue
        memory = ask(nvml, "nvmlDeviceGetMemoryInfo", instance)
        yield Device(
            kind="cuda",
            index=card.index,
            name=card.name,
            uuid=uuid,
            memory_gib=round(memory.total / GIB, 2) if memory else None,
            compute_capability=card.compute_capability,
            driver=card.driver,
            mig=_slice_profile(nvml, instance),
        )


def _slice_profile(nvml: Any, instance: Any) -> str:
    """The profile of a slice, from a name like "NVIDIA H200 MIG 1g.18gb", else from its attributes."""
    name = ask(nvml, "nvmlDeviceGetName", instance) or ""
    if named := re.search(r" MIG (\S+)$", name):
        return named[1]
    shape = ask(nvml, "nvmlDeviceGetAttributes_v2", instance)
    return f"{shape.gpuInstanceSliceCount}g.{round(shape.memorySizeMB / 1024)}gb" if shape else "unknown"


def _visible_among(mask: str, there: list[Device]) -> list[Device]:
    """The devices that a CUDA_VISIBLE_DEVICES leaves, read as CUDA reads it.

    It counts up to the first entry that names no GPU, and leaves nothing at all if one is repeated.
    """
    entries = [entry.strip() for entry in mask.split(",")]
    shown: list[Device] = []
    for entry in entries:
        named = [device for device in there if _is_entry(entry, device)]
        if not named:
            break
        if any(device in shown for device in named):
            return []
        shown += named
    return shown


def _is_entry(entry: str, device: Device) -> bool:
    if entry.startswith(("GPU-", "MIG-")):  # CUDA takes any beginning of a UUID
        return device.uuid.startswith(entry)
    return entry.isdecimal() and int(entry) == device.index  # a card in MIG mode: every slice of it


def _slug(name: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return words if words.startswith("nvidia-") else f"nvidia-{words}"


def _why(unusable: list[tuple[Device, str]]) -> str | None:
    return "; ".join(f"{card}: {why}" for card, why in unusable) or None


def choose(text: str, listing: Listing, busy: Callable[[Device], str | None] | None = None) -> Device:
    """The device that a text asks for, and never another one in its place.

    Where several devices fit, the first that is not busy is taken. A single one is returned without looking:
    `check_idle` looks.

    Args:
        text: "auto" (the first GPU that is not busy; the CPU if there is no GPU), "cpu", a key (`Device.key`), an
            index, "KEY:INDEX", or the beginning of a UUID.
        busy: says what another process does on a device, or None; default: NVML's utilisation.

    Raises:
        UsageError: no such name, or the device is not there; the line says what is.
        Failure: every device that fits is busy.
    """
    look = busy or (lambda device: busy_with(device.uuid))
    text = text.strip()
    if text.lower() == "cpu":
        return cpu_device()
    if text.lower() == "auto":
        if listing.unusable and not listing.devices:
            raise UsageError(f"{listing.reason}; or type cpu")
        return _first_idle(listing.devices, look) if listing.devices else cpu_device()
    fitting = [device for device in listing.devices if _fits(text, device)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        return _first_idle(fitting, look)
    raise UsageError(_not_there(text, listing))


def _fits(text: str, device: Device) -> bool:
    name, _, index = text.partition(":")
    if name.startswith(("GPU-", "MIG-")):
        return device.uuid.startswith(name)
    if name.isdecimal():
        return not index and int(name) == device.index
    return name.lower() == device.key and (":" not in text or index == str(device.index))


def _first_idle(candidates: list[Device], busy: Callable[[Device], str | None]) -> Device:
    refusals = []
    for device in candidates:
        activity = busy(device)
        if activity is None:
            return device
        refusals.append(f"{device}: {activity}")
    raise Failure(f"no GPU is free to measure on: {'; '.join(refusals)}; wait, or type cpu")


def _not_there(text: str, listing: Listing) -> str:
    for card, why in listing.unusable:
        if _fits(text, card):
            return f"{card} cannot be measured: {why}"
    name = text.partition(":")[0].lower()
    known = ["auto", "cpu", *profiles(), *(device.key for device in listing.devices)]
    if name not in known and not name.isdecimal() and not name.startswith(("gpu-", "mig-")):
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(dict.fromkeys(known))}"
        return f"unknown GPU '{text}'; {hint}"
    if not listing.devices:
        return f"GPU '{text}' is not here: {listing.reason}; type cpu or auto instead"
    there = ", ".join(f"{device} = {device.key}" for device in listing.devices)
    instead = " or ".join(dict.fromkeys([*(device.key for device in listing.devices), "cpu"]))
    return f"GPU '{text}' is not here: found {there}; type {instead} instead"


def check_idle(device: Device, pause: Callable[[float], None] = time.sleep) -> None:
    """Look whether others compute on a device.

    Raises:
        Failure: they do; the line names the processes.
    """
    if device.kind == "cuda" and (activity := busy_with(device.uuid, pause)):
        raise Failure(f"{device} is {activity}; a time taken now is worthless: wait, or choose another")


def as_dict(device: Device) -> dict[str, Any]:
    """A device as a row holds it: its fields, its key, and its profile by name."""
    profile = device.profile.name if device.profile else None
    return {**asdict(device), "profile": profile, "key": device.key}
