"""What a measurement ran on: the devices there are, the state they are in, the host, versions and source.

Runs in the parent, before any CUDA context exists, and in the worker. It imports no torch, and NVML (pynvml)
only when a GPU is asked about. NVML's answers are optional one by one: what a virtual GPU, a MIG slice, a
laptop or a missing permission withholds becomes None, and never a crash.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol

from bench.errors import Failure, UsageError
from bench.gpus import GpuProfile, profile_for, profiles

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30


# --- Devices ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """One thing to measure on: the CPU, a whole GPU, or one MIG slice of a GPU.

    ``index`` is NVML's (the order of the PCI bus), the card's own for a slice. ``name`` is the card's, also
    for a slice; ``mig`` is the slice's profile, such as "1g.18gb". ``profile`` is None for the CPU, for a
    GPU that no profile is exactly, and for a slice: a whole GPU's peaks are not a slice's.
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
        """Name of its folder under results/, and what to type to choose it.

        "cpu", "h200", "h200-mig-1g.18gb", "nvidia-geforce-rtx-3090" (no profile is exactly that one).
        """
        if self.kind == "cpu":
            return "cpu"
        card = profile_for(self.name)
        return (card.name if card else _slug(self.name)) + (f"-mig-{self.mig}" if self.mig else "")

    def __str__(self) -> str:
        where = "" if self.index is None else f" (index {self.index})"
        return f"{self.name}{f' MIG {self.mig}' if self.mig else ''}{where}"


@dataclass(frozen=True)
class Found:
    """The GPUs that can be used; where there are none, ``reason`` says why.

    ``unusable``: cards that are there but cannot be measured, each with its reason.
    """

    devices: list[Device]
    reason: str | None = None
    unusable: list[tuple[Device, str]] = field(default_factory=list)


def devices(environ: Mapping[str, str] = os.environ) -> Found:
    """The GPUs and MIG slices that NVML lists and CUDA_VISIBLE_DEVICES leaves visible, in its order.

    Indices in that variable are taken in the order of the PCI bus, as the worker is told to (``visible``).
    """
    try:
        nvml = _load_nvml()
    except _NoNvml as error:
        return Found([], str(error))
    usable: list[Device] = []
    unusable: list[tuple[Device, str]] = []
    for index in range(_ask(nvml, "nvmlDeviceGetCount") or 0):
        handle = _ask(nvml, "nvmlDeviceGetHandleByIndex", index)
        if handle is None:  # on the machine, but not ours to use
            continue
        card = _card(nvml, index, handle)
        if not card.uuid:
            unusable.append((card, "the driver has lost it; see nvidia-smi"))
        elif not _in_mig_mode(nvml, handle):
            usable.append(card)
        elif slices := list(_slices(nvml, card, handle)):
            usable += slices
        else:
            unusable.append((card, "in MIG mode without instances; make one with 'nvidia-smi mig -cgi'"))
    if not usable and not unusable:
        return Found([], "the NVIDIA driver is there, but lists no GPU")
    mask = environ.get("CUDA_VISIBLE_DEVICES")
    if mask is None:
        return Found(usable, None if usable else _why(unusable), unusable)
    shown = _visible_among(mask, usable + [card for card, _ in unusable])
    usable, unusable = [d for d in shown if d in usable], [(d, why) for d, why in unusable if d in shown]
    hidden = f"CUDA_VISIBLE_DEVICES='{mask}' leaves no GPU visible"
    return Found(usable, None if usable else _why(unusable) or hidden, unusable)


def cpu_device() -> Device:
    """The CPU as a device. Its ``uuid`` names the kind of machine, not the machine.

    The uuid is a hash of model, usable cores and memory: a container changes its host name at every start,
    and rows should outlive that.
    """
    about = host()
    kind = f"{about['cpu']}|{about['available_cores']}|{round(about['memory_gib'] or 0)}"
    uuid = f"CPU-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"
    return Device("cpu", None, about["cpu"], uuid, about["memory_gib"])


def visible(device: Device) -> dict[str, str]:
    """Environment variables that give a new process this device and no other; for the CPU, no GPU at all."""
    return {
        "CUDA_VISIBLE_DEVICES": device.uuid if device.kind == "cuda" else "",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def _card(nvml: Any, index: int, handle: Any) -> Device:
    name = _ask(nvml, "nvmlDeviceGetName", handle) or "unnamed GPU"
    memory = _ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    capability = _ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    return Device(
        kind="cuda",
        index=index,
        name=name,
        uuid=_ask(nvml, "nvmlDeviceGetUUID", handle) or "",
        memory_gib=round(memory.total / GIB, 2) if memory else None,
        compute_capability=".".join(map(str, capability)) if capability else None,
        driver=_ask(nvml, "nvmlSystemGetDriverVersion"),
        profile=profile_for(name),
    )


def _in_mig_mode(nvml: Any, handle: Any) -> bool:
    mode = _ask(nvml, "nvmlDeviceGetMigMode", handle)  # (current, pending); not supported by most GPUs
    return bool(mode and mode[0])


def _slices(nvml: Any, card: Device, handle: Any) -> Iterator[Device]:
    for number in range(_ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        instance = _ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
        uuid = _ask(nvml, "nvmlDeviceGetUUID", instance) if instance is not None else None
        if uuid is None:
            continue
        memory = _ask(nvml, "nvmlDeviceGetMemoryInfo", instance)
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
    """From a name like "NVIDIA H200 MIG 1g.18gb", else from the slice's attributes."""
    name = _ask(nvml, "nvmlDeviceGetName", instance) or ""
    if named := re.search(r" MIG (\S+)$", name):
        return named[1]
    shape = _ask(nvml, "nvmlDeviceGetAttributes_v2", instance)
    return f"{shape.gpuInstanceSliceCount}g.{round(shape.memorySizeMB / 1024)}gb" if shape else "unknown"


def _visible_among(mask: str, there: list[Device]) -> list[Device]:
    """As CUDA reads it: up to the first entry that names no GPU, and nothing at all if one is repeated."""
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


# --- Choosing one -----------------------------------------------------------------------


def choose(text: str, found: Found, busy: Callable[[Device], str | None] | None = None) -> Device:
    """The device that ``text`` asks for: never another one in its place.

    ``text`` is "auto" (the first GPU that is not busy; the CPU if there is none to use), "cpu", a key (a
    profile's name, or what ``Device.key`` gives), an index, "KEY:INDEX", or the beginning of a UUID. Where
    several devices fit, the first that is not busy is taken; a single one is returned without looking
    (``check_idle`` looks). ``busy`` says what another process does on a device, or None; by default
    ``busy_with``.

    Raises UsageError for a name that does not exist or a device that is not there, saying what is; Failure if
    every device that fits is busy.
    """
    look = busy or busy_with
    text = text.strip()
    if text.lower() == "cpu":
        return cpu_device()
    if text.lower() == "auto":
        if found.unusable and not found.devices:
            raise UsageError(f"{found.reason}; or type cpu")
        return _first_idle(found.devices, look) if found.devices else cpu_device()
    fitting = [device for device in found.devices if _fits(text, device)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        return _first_idle(fitting, look)
    raise UsageError(_not_there(text, found))


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


def _not_there(text: str, found: Found) -> str:
    for card, why in found.unusable:
        if _fits(text, card):
            return f"{card} cannot be measured: {why}"
    name = text.partition(":")[0].lower()
    known = ["auto", "cpu", *profiles(), *(device.key for device in found.devices)]
    if name not in known and not name.isdecimal() and not name.startswith(("gpu-", "mig-")):
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(dict.fromkeys(known))}"
        return f"unknown GPU '{text}'; {hint}"
    if not found.devices:
        return f"GPU '{text}' is not here: {found.reason}; type cpu or auto instead"
    there = ", ".join(f"{device} = {device.key}" for device in found.devices)
    instead = " or ".join(dict.fromkeys([*(device.key for device in found.devices), "cpu"]))
    return f"GPU '{text}' is not here: found {there}; type {instead} instead"


# --- Is it free? ------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """A process on a GPU that is not ours; what NVML withholds is None."""

    pid: int
    name: str | None
    memory_gib: float | None

    def __str__(self) -> str:
        memory = "memory unknown" if self.memory_gib is None else f"{self.memory_gib:.1f} GiB"
        return f"pid {self.pid} ({self.name or 'name unknown'}, {memory})"


BUSY_PERCENT = 10  # a desktop that redraws stays below it, a kernel that runs does not
BUSY_SAMPLES = 5
BUSY_PAUSE_S = 0.2  # NVML averages over up to a second: five looks span one


def busy_with(device: Device, pause: Callable[[float], None] = time.sleep) -> str | None:
    """What others compute on this GPU, in words; None if it is idle, or if the GPU does not tell.

    Call it while nothing of ours runs there. The median of a few samples decides, so that the last moments
    of a process that just ended do not count. A process that only holds memory is not busy. A MIG slice and
    a virtual GPU report no utilisation: there, ``Reading.other_processes`` is all that can be known.
    """
    if device.kind == "cpu":
        return None
    nvml = _load_nvml()
    handle = _ask(nvml, "nvmlDeviceGetHandleByUUID", device.uuid)
    samples = []
    for number in range(BUSY_SAMPLES):
        if number:
            pause(BUSY_PAUSE_S)
        rates = _ask(nvml, "nvmlDeviceGetUtilizationRates", handle)
        if rates is None:
            return None
        samples.append(rates.gpu)
    if (load := statistics.median(samples)) <= BUSY_PERCENT:
        return None
    others = _processes(nvml, handle, os.getpid()) or ()
    by = ", ".join(map(str, others)) or "a process that cannot be seen from here"
    return f"{load:.0f} % busy with {by}"


def check_idle(device: Device, pause: Callable[[float], None] = time.sleep) -> None:
    """Raises Failure, naming the processes, if others compute on ``device``."""
    if activity := busy_with(device, pause):
        raise Failure(f"{device} is {activity}; a time taken now is worthless: wait, or choose another")


def _processes(nvml: Any, handle: Any, own_pid: int) -> tuple[Process, ...] | None:
    """Processes that hold the GPU, except ``own_pid``, by pid; None if NVML does not list them.

    In a container NVML may list the host's pids, or none: then our own process can appear as another.
    """
    lists = [
        _ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle),
        _ask(nvml, "nvmlDeviceGetGraphicsRunningProcesses", handle),
    ]
    if lists == [None, None]:
        return None
    by_pid = {entry.pid: entry for entries in lists if entries for entry in entries if entry.pid != own_pid}
    return tuple(
        Process(pid, _process_name(nvml, pid), round(memory / GIB, 3) if memory is not None else None)
        for pid, memory in ((pid, by_pid[pid].usedGpuMemory) for pid in sorted(by_pid))
    )


def _process_name(nvml: Any, pid: int) -> str | None:
    """The program's file name: its folder and arguments are nobody's business in a results file."""
    command = _ask(nvml, "nvmlSystemGetProcessName", pid) or _text(Path(f"/proc/{pid}/comm"))
    return Path(command.split()[0]).name if command.strip() else None


# --- The state it is in -----------------------------------------------------------------

# NVML's clock event reasons (nvmlClocksEventReason..., formerly nvmlClocksThrottleReason...), by bit.
THROTTLE = {
    0x001: "idle",  # GpuIdle
    0x002: "application_clocks",  # ApplicationsClocksSetting: somebody locked the clocks
    0x004: "power",  # SwPowerCap
    0x008: "hardware",  # HwSlowdown: clocks halved or worse
    0x010: "sync_boost",  # SyncBoost
    0x020: "thermal",  # SwThermalSlowdown
    0x040: "thermal",  # HwThermalSlowdown
    0x080: "hardware",  # HwPowerBrakeSlowdown: the power supply asked for it
    0x100: "display_clocks",  # DisplayClockSetting
    0x200: "board_limit",  # BoardLimit
    0x400: "reliability",  # Reliability
}
READ_EVERY_S = 0.1
SPOILING = frozenset({"thermal", "hardware"})


@dataclass(frozen=True)
class Reading:
    """One look at a device. None: not supported there.

    ``throttle`` holds the names in ``THROTTLE`` of what held the clocks at that moment. ``load_average`` is
    the host's over the last minute.
    """

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    throttle: tuple[str, ...] | None = None
    other_processes: tuple[Process, ...] | None = None
    load_average: float | None = None

    @property
    def spoils_sample(self) -> bool:
        """Heat or the hardware held the clocks: the sample is to be discarded and taken again.

        A power cap is how the GPU is meant to run; it is recorded and not fought.
        """
        return bool(SPOILING.intersection(self.throttle or ()))


class Monitor(Protocol):
    """Reads a device's state; to be called between samples, not inside one."""

    def read(self) -> Reading: ...


class NvmlMonitor:
    """Reads a GPU through NVML; ``own_pid`` is left out of the other processes.

    A MIG slice shares clocks, heat and power with its card: those are the card's, the processes the slice's
    own. Raises Failure if NVML or the GPU is not there.
    """

    def __init__(self, uuid: str, own_pid: int) -> None:
        try:
            self._nvml = _load_nvml()
        except _NoNvml as error:
            raise Failure(str(error)) from error
        self._own_pid = own_pid
        self._last: Reading | None = None
        self._looked = 0.0
        self._handle = _ask(self._nvml, "nvmlDeviceGetHandleByUUID", uuid)
        if self._handle is None:
            raise Failure(f"the GPU {uuid} is not there")
        self._card = self._handle
        if _ask(self._nvml, "nvmlDeviceIsMigDeviceHandle", self._handle):
            self._card = _ask(self._nvml, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", self._handle)

    def read(self) -> Reading:
        """The state now, or up to READ_EVERY_S ago: a look takes milliseconds, which short samples must not pay."""
        if self._last is None or time.monotonic() - self._looked > READ_EVERY_S:
            self._last, self._looked = self._look(), time.monotonic()
        return self._last

    def _look(self) -> Reading:
        nvml, card = self._nvml, self._card
        power_mw = _ask(nvml, "nvmlDeviceGetPowerUsage", card)
        return Reading(
            sm_clock_mhz=_ask(nvml, "nvmlDeviceGetClockInfo", card, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=_ask(nvml, "nvmlDeviceGetClockInfo", card, nvml.NVML_CLOCK_MEM),
            temperature_c=_ask(nvml, "nvmlDeviceGetTemperature", card, nvml.NVML_TEMPERATURE_GPU),
            power_w=None if power_mw is None else power_mw / 1000,
            throttle=_throttle(nvml, card),
            other_processes=_processes(nvml, self._handle, self._own_pid),
            load_average=_load_average(),
        )


class NoMonitor:
    """For the CPU: there is nothing to read but the host's load."""

    def read(self) -> Reading:
        return Reading(load_average=_load_average())


def monitor(device: Device, own_pid: int) -> Monitor:
    """The monitor that fits the device."""
    return NvmlMonitor(device.uuid, own_pid) if device.kind == "cuda" else NoMonitor()


def throttle_names(bits: int) -> tuple[str, ...]:
    """Names of NVML's clock event bits, each once, lowest bit first; a bit we do not know by its number."""
    set_bits = [1 << place for place in range(bits.bit_length()) if bits >> place & 1]
    return tuple(dict.fromkeys(THROTTLE.get(bit, f"unknown_{bit:#x}") for bit in set_bits))


def _throttle(nvml: Any, handle: Any) -> tuple[str, ...] | None:
    bits = _ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if bits is None:  # older drivers know only the old name
        bits = _ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    return None if bits is None else throttle_names(bits)


def _load_average() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


# --- NVML -------------------------------------------------------------------------------


class _NoNvml(Failure):
    """NVML cannot be used; the text says why, for the user."""


@functools.cache
def _load_nvml() -> Any:
    """The pynvml module, initialised once a process. Raises _NoNvml."""
    try:
        pynvml: Any = importlib.import_module("pynvml")  # by name: it has no types
    except ImportError as error:
        raise _NoNvml("no GPU can be looked for: the Python package nvidia-ml-py is not installed") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        reasons = {
            pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no CUDA driver: its library NVML is not on this machine",
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "no CUDA driver: it is installed but not loaded",
            pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the CUDA driver was updated and needs a reboot",
            pynvml.NVML_ERROR_NO_PERMISSION: "no permission to use the CUDA driver",
        }
        raise _NoNvml(reasons.get(error.value, f"the CUDA driver does not answer: {error}")) from error
    return pynvml


def _ask(nvml: Any, function: str, *arguments: Any) -> Any:
    """NVML's answer, or None if this driver, GPU or permission gives none."""
    try:
        return getattr(nvml, function)(*arguments)
    except (nvml.NVMLError, AttributeError, UnicodeDecodeError):
        # AttributeError: older bindings lack the function; UnicodeDecodeError: a name that is not UTF-8
        return None


# --- Host, versions, source -------------------------------------------------------------

PACKAGES = ("torch", "triton", "torchvision", "timm", "numpy")


def host(root: Path = Path("/")) -> dict[str, Any]:
    """CPU, cores, memory in GiB, load over 1 minute, system. ``root`` is where /proc and /sys are.

    ``physical_cores`` is the machine's (None if it does not tell); ``available_cores`` what this process may
    use, by affinity and the container's quota; ``memory_gib`` the smaller of the machine's and the
    container's.
    """
    cpuinfo = _text(root / "proc/cpuinfo")
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    release = re.search(r'^PRETTY_NAME="?([^"\n]+)', _text(root / "etc/os-release"), re.MULTILINE)
    return {
        "cpu": model[1].strip() if model else platform.processor() or platform.machine(),
        "physical_cores": _physical_cores(cpuinfo),
        "available_cores": _available_cores(root),
        "memory_gib": _memory_gib(root),
        "load_average": _load_average(),
        "system": release[1] if release else platform.system(),
        "kernel": platform.release(),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python, of the packages that decide a time, and of torch's CUDA and cuDNN; None if absent.

    Read from the packages' metadata and never from an imported torch, so that parent and worker say the same.
    """
    cuda = _torch_cuda()
    cudnn = f"nvidia-cudnn-cu{cuda.partition('.')[0]}" if cuda else None
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "cuda": cuda,
        "cudnn": _version(cudnn) if cudnn else None,
    }


def source(root: Path = ROOT) -> dict[str, Any]:
    """``commit``, and whether the tree is ``dirty`` (untracked files count).

    Both None without git, outside a checkout, or where ``root`` lies inside another project's repository.
    """
    unknown = {"commit": None, "dirty": None}
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top.strip()).resolve() != root.resolve():
        return unknown
    status = _git(root, "status", "--porcelain=v2", "--branch")
    if status is None:
        return unknown
    lines = status.splitlines()
    commit = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), None)
    dirty = any(not line.startswith("#") for line in lines)
    return {"commit": None if commit == "(initial)" else commit, "dirty": dirty}


def source_hash(paths: Iterable[str | Path], root: Path = ROOT) -> str:
    """SHA-256, in hex, of names and contents: of the given files, and of all .py files in given folders.

    Paths are relative to the repository or absolute; names count relative to it (or, outside it, to the
    folder the given path is in), so a copy elsewhere has the same hash. Hidden folders are left out.
    Raises FileNotFoundError for a path that is not there.
    """
    root = root.resolve()
    files = {source for path in paths for source in _sources((root / path).resolve(), root)}
    digest = hashlib.sha256()
    for name, file in sorted(files):
        content = file.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _sources(path: Path, root: Path) -> Iterator[tuple[str, Path]]:
    base = root if path.is_relative_to(root) else path.parent
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there to be hashed")
    for file in path.rglob("*.py") if path.is_dir() else [path]:
        inside = file.relative_to(path).parts
        if not any(part.startswith(".") for part in inside):
            yield file.relative_to(base).as_posix(), file


def _physical_cores(cpuinfo: str) -> int | None:
    cores = set()
    for processor in cpuinfo.split("\n\n"):
        ids = re.findall(r"^(?:physical id|core id)\s*:\s*(\d+)$", processor, re.MULTILINE)
        if len(ids) == 2:
            cores.add(tuple(ids))
    return len(cores) or None


def _available_cores(root: Path) -> int:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [affinity, *_cgroup_cores(root)]
    return max(1, int(min(quotas)))


def _cgroup_cores(root: Path) -> Iterator[float]:
    """CPU quotas, in cores, of this process's control group and those above it, version 2 and version 1."""
    for folder in _cgroups(root, ""):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdecimal():
            yield int(quota) / int(period)
    for folder in _cgroups(root, "cpu"):
        quota, period = (_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal():  # -1: no quota
            yield int(quota) / int(period)


def _memory_gib(root: Path) -> float | None:
    total = re.search(r"^MemTotal:\s*(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    limits = [int(total[1]) * 1024] if total else []
    for controller, name in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
        for folder in _cgroups(root, controller):
            limit = _text(folder / name).strip()
            if limit.isdecimal():  # "max": none; version 1 writes a number beyond any machine
                limits.append(int(limit))
    return round(min(limits) / GIB, 2) if limits else None


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control group and its ancestors; controller "" is version 2.

    Inside a container /proc/self/cgroup may name the path on the host, which is not there: the mount's top
    is then the container's own group, and is always among the answers.
    """
    mounted = root / "sys/fs/cgroup" / controller
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            group = mounted / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mounted))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_cuda() -> str | None:
    """The CUDA version that torch was built with, from its version.py, without importing torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    about = _text(Path(spec.origin).with_name("version.py"))
    line = re.search(r"^cuda\b.*=\s*'([\d.]+)'", about, re.MULTILINE)
    return line[1] if line else None


def _git(root: Path, *arguments: str) -> str | None:
    # no optional locks: a status in the background must not stand in the way of the user's own git
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# --- As JSON ----------------------------------------------------------------------------


def as_dict(value: Device | Reading) -> dict[str, Any]:
    """What a row holds of it, ready for JSON; of a device's profile the name, and its key added."""
    fields = asdict(value)
    if isinstance(value, Device):
        fields |= {"profile": value.profile.name if value.profile else None, "key": value.key}
    return fields
