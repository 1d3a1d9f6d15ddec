"""The state that a GPU is in: clocks, heat, throttling, and who else computes there. No torch.

NVML (pynvml) is imported only when a GPU is asked about. Its answers are optional one by one: what a virtual GPU, a
MIG slice, a laptop or a missing permission withholds becomes None, and never a crash.
"""

import functools
import importlib
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from bench.errors import Failure
from bench.machine.provenance import GIB, load_average, text_of
from bench.machine.watch import CpuWatch, GpuWatch


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


def busy_with(uuid: str, pause: Callable[[float], None] = time.sleep) -> str | None:
    """The work of others on the GPU of this UUID, in words; None if it is idle, or if the GPU does not tell.

    Call it while nothing of ours runs there. The median of a few samples decides, so that the last moments of a
    process that just ended do not count. A process that only holds memory is not busy. A MIG slice and a virtual GPU
    report no utilisation: there, `Reading.other_processes` is all that can be known.
    """
    nvml = load_nvml()
    handle = ask(nvml, "nvmlDeviceGetHandleByUUID", uuid)
    samples = []
    for number in range(BUSY_SAMPLES):
        if number:
            pause(BUSY_PAUSE_S)
        rates = ask(nvml, "nvmlDeviceGetUtilizationRates", handle)
        if rates is None:
            return None
        samples.append(rates.gpu)
    if (load := statistics.median(samples)) <= BUSY_PERCENT:
        return None
    others = _processes(nvml, handle, os.getpid()) or ()
    by = ", ".join(map(str, others)) or "a process that cannot be seen from here"
    return f"{load:.0f} % busy with {by}"


def _processes(nvml: Any, handle: Any, own_pid: int) -> tuple[Process, ...] | None:
    """Processes that hold the GPU, except our own, by pid; None if NVML does not list them.

    In a container NVML may list the host's pids, or none: our own process can then appear as another.
    """
    lists = [
        ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle),
        ask(nvml, "nvmlDeviceGetGraphicsRunningProcesses", handle),
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
    command = ask(nvml, "nvmlSystemGetProcessName", pid) or text_of(Path(f"/proc/{pid}/comm"))
    return Path(command.split()[0]).name if command.strip() else None


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
# NVML's counters of how long each reason has held the clocks, in ns since the driver was loaded: names of fields.
# Which of them a GPU has depends on its generation; the newer ones tell software from hardware.
HELD = {
    "NVML_FI_DEV_PERF_POLICY_POWER": "power",  # also the newer ..._REASON_SW_POWER_CAP
    "NVML_FI_DEV_PERF_POLICY_THERMAL": "thermal",
    "NVML_FI_DEV_PERF_POLICY_SYNC_BOOST": "sync_boost",
    "NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT": "board_limit",
    "NVML_FI_DEV_PERF_POLICY_RELIABILITY": "reliability",
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN": "thermal",
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN": "thermal",
    "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN": "hardware",
}
READ_EVERY_S = 0.1
SPOILING = frozenset({"thermal", "hardware"})


@dataclass(frozen=True)
class Reading:
    """One look at a device. None stands for what it does not support.

    `throttle` names what held the clocks at that moment, in the words of THROTTLE. `load_average` is the host's over
    the last minute.
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
        """Whether heat or the hardware held the clocks: the sample is then discarded and taken again.

        A power cap is how the GPU is meant to run; it is recorded and not fought.
        """
        return bool(SPOILING.intersection(self.throttle or ()))


class Monitor(Protocol):
    """A reader of a device's state, to be asked between samples and not inside one."""

    def read(self) -> Reading:
        """The state now."""
        ...


class DeviceMonitor(Monitor, Protocol):
    """The monitor of a device, which can be watched too."""

    def watch(self, threads: Callable[[], int] = lambda: 1) -> CpuWatch:
        """A watch over the samples of a visit, to be entered before the first and left after the last."""
        ...


class NvmlMonitor:
    """Reads a GPU through NVML.

    A MIG slice shares clocks, heat and power with its card: those are the card's, the processes the slice's own.
    """

    def __init__(self, uuid: str, own_pid: int) -> None:
        """
        Args:
            own_pid: the process that is left out of the other processes.

        Raises:
            Failure: NVML or the GPU is not there.
        """
        try:
            self._nvml = load_nvml()
        except NoNvml as error:
            raise Failure(str(error)) from error
        self._own_pid = own_pid
        self._last: Reading | None = None
        self._held: dict[str, int] = {}
        self._watch: GpuWatch | None = None
        self._looked = 0.0
        self._handle = ask(self._nvml, "nvmlDeviceGetHandleByUUID", uuid)
        if self._handle is None:
            raise Failure(f"the GPU {uuid} is not there")
        self._card = self._handle
        if ask(self._nvml, "nvmlDeviceIsMigDeviceHandle", self._handle):
            self._card = ask(self._nvml, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", self._handle)

    def read(self) -> Reading:
        """The state now.

        Most of it may be READ_EVERY_S old: a look takes milliseconds, which short samples must not pay. What held the
        clocks since the last reading is of now, by NVML's counters, where the GPU has them.
        """
        stale = self._last is not None and time.monotonic() - self._looked <= READ_EVERY_S
        if self._last is None or not stale:
            self._last, self._looked = self._look(), time.monotonic()
        reading, held = self._last, self.counters()
        reasons = list(reading.throttle or ())
        if stale and "thermal" in held:  # the counter knows, and the look is of an earlier sample
            reasons = [reason for reason in reasons if reason != "thermal"]
        reasons += [reason for reason, ns in held.items() if ns > self._held.get(reason, ns)]
        if reasons != list(reading.throttle or ()):
            reading = replace(reading, throttle=tuple(dict.fromkeys(reasons)))
        self._held = held
        if self._watch is not None:
            self._watch.readings.append(reading)
        return reading

    def watch(self, threads: Callable[[], int] = lambda: 1) -> GpuWatch:
        """A watch over the samples of a visit: it keeps what `read` sees while it lasts."""
        self._held = self.counters()  # what was before is not this visit's
        self._watch = GpuWatch(
            self._look, self.counters, self._energy_mj, self._settings, self._own_is_listed, threads
        )
        return self._watch

    def counters(self) -> dict[str, int]:
        """Nanoseconds for which each reason of HELD has held the clocks, where this GPU counts them."""
        nvml = self._nvml
        fields = {getattr(nvml, name): word for name, word in HELD.items() if hasattr(nvml, name)}
        held: dict[str, int] = {}
        for value in ask(nvml, "nvmlDeviceGetFieldValues", self._card, list(fields)) or ():
            if value.nvmlReturn == 0:
                word = fields[value.fieldId]
                held[word] = held.get(word, 0) + value.value.ullVal
        return held

    def _energy_mj(self) -> int | None:
        """Millijoules since the driver was loaded, of the whole card; None before Volta."""
        energy: int | None = ask(self._nvml, "nvmlDeviceGetTotalEnergyConsumption", self._card)
        return energy

    def _settings(self) -> dict[str, Any]:
        """Limits and modes of the card, as a watch's state has them."""
        nvml, card = self._nvml, self._card
        limit = ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", card)
        default = ask(nvml, "nvmlDeviceGetPowerManagementDefaultLimit", card)
        ecc = ask(nvml, "nvmlDeviceGetEccMode", card)  # (current, pending)
        persistence = ask(nvml, "nvmlDeviceGetPersistenceMode", card)
        return {
            "name": ask(nvml, "nvmlDeviceGetName", card),
            "top_sm_clock_mhz": ask(nvml, "nvmlDeviceGetMaxClockInfo", card, nvml.NVML_CLOCK_SM),
            "application_clock_mhz": ask(nvml, "nvmlDeviceGetApplicationsClock", card, nvml.NVML_CLOCK_SM),
            "default_application_clock_mhz": ask(
                nvml, "nvmlDeviceGetDefaultApplicationsClock", card, nvml.NVML_CLOCK_SM
            ),
            "power_limit_w": None if limit is None else limit / 1000,
            "default_power_limit_w": None if default is None else default / 1000,
            "ecc": bool(ecc[0]) if ecc else None,
            "persistence": None if persistence is None else bool(persistence),
        }

    def _own_is_listed(self) -> bool | None:
        """Whether NVML lists this process by the number that it has here; None if it lists none."""
        listed = ask(self._nvml, "nvmlDeviceGetComputeRunningProcesses", self._handle)
        return None if listed is None else any(entry.pid == self._own_pid for entry in listed)

    def _look(self) -> Reading:
        nvml, card = self._nvml, self._card
        power_mw = ask(nvml, "nvmlDeviceGetPowerUsage", card)
        return Reading(
            sm_clock_mhz=ask(nvml, "nvmlDeviceGetClockInfo", card, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=ask(nvml, "nvmlDeviceGetClockInfo", card, nvml.NVML_CLOCK_MEM),
            temperature_c=ask(nvml, "nvmlDeviceGetTemperature", card, nvml.NVML_TEMPERATURE_GPU),
            power_w=None if power_mw is None else power_mw / 1000,
            throttle=_throttle(nvml, card),
            other_processes=_processes(nvml, self._handle, self._own_pid),
            load_average=load_average(),
        )


class NoMonitor:
    """Reads the host's load, which is all that there is to read of a CPU."""

    def read(self) -> Reading:
        """The host's load now."""
        return Reading(load_average=load_average())

    def watch(self, threads: Callable[[], int] = lambda: 1) -> CpuWatch:
        """A watch over the samples of a visit."""
        return CpuWatch(threads)


def throttle_names(bits: int) -> tuple[str, ...]:
    """Names of NVML's clock event bits, each once, lowest bit first; an unknown bit goes by its number."""
    set_bits = [1 << place for place in range(bits.bit_length()) if bits >> place & 1]
    return tuple(dict.fromkeys(THROTTLE.get(bit, f"unknown_{bit:#x}") for bit in set_bits))


def _throttle(nvml: Any, handle: Any) -> tuple[str, ...] | None:
    bits = ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if bits is None:  # older drivers know only the old name
        bits = ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    return None if bits is None else throttle_names(bits)


class NoNvml(Failure):
    """NVML cannot be used; the text says why, for the user."""


@functools.cache
def load_nvml() -> Any:
    """The pynvml module, initialised once a process.

    Raises:
        NoNvml: the package, the library or the driver is not there, or does not answer.
    """
    try:
        pynvml: Any = importlib.import_module("pynvml")  # by name: it has no types
    except ImportError as error:
        raise NoNvml("no GPU can be looked for: the Python package nvidia-ml-py is not installed") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        reasons = {
            pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no CUDA driver: its library NVML is not on this machine",
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "no CUDA driver: it is installed but not loaded",
            pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the CUDA driver was updated and needs a reboot",
            pynvml.NVML_ERROR_NO_PERMISSION: "no permission to use the CUDA driver",
        }
        raise NoNvml(reasons.get(error.value, f"the CUDA driver does not answer: {error}")) from error
    return pynvml


def ask(nvml: Any, function: str, *arguments: Any) -> Any:
    """NVML's answer, or None if this driver, GPU or permission gives none."""
    try:
        return getattr(nvml, function)(*arguments)
    except (nvml.NVMLError, AttributeError, UnicodeDecodeError):
        # AttributeError: older bindings lack the function; UnicodeDecodeError: a name that is not UTF-8
        return None
