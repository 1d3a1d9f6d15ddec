"""Watches a device while samples are taken: a GPU's clocks, limits and company, a CPU's load. No torch.

A watch is entered before a visit's warm-up, begins anew with its samples, and lasts as long as they do. Its `state` is
a flat dict for the row, in which None stands for what cannot be told here; `usual.unusual` says what of it a reader
must know.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.machine.provenance import cgroups, load_average, text_of

State = dict[str, Any]
LEAST_S = 0.2  # what others took is counted in ticks of 10 ms: less says nothing
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class CpuWatch:
    """Watches the CPU time, the waiting and the neighbours of this process, from its last beginning to leaving it.

    state:
        kind                  "cpu"
        wall_s                how long it lasted
        threads               threads that were to compute
        cpu_s                 CPU time of this process
        occupancy             cpu_s / (wall_s × threads)
        waited_s              how long threads of this process were ready to run and waited for a core (schedstat)
        waited_share          waited_s / (waited_s + cpu_s)
        quota_held_s          how long the container's quota held the process (cpu.stat)
        others_cores          cores of those that this process may use that others kept busy, on average (/proc/stat);
                              None for less than LEAST_S
        load_average          the host's, over the last minute
        frequency_mhz         median of the cores, when it ended
    """

    def __init__(self, threads: Callable[[], int] = lambda: 1, root: Path = Path("/")) -> None:
        """
        Args:
            threads: the number of threads that compute, asked for when the watch ends.
            root: where /proc and /sys are.
        """
        self._threads, self._root = threads, root
        self._state: State = {"kind": "cpu"}

    def __enter__(self) -> Self:
        self._began = self._look()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def begin_anew(self) -> None:
        """Forget what was seen so far: a warm-up is many times as long as the samples, and would hide their state."""
        self._began = self._look()

    def _end(self) -> None:
        wall, cpu, waited, held, busy = (
            None if now is None or then is None else max(0.0, now - then)
            for now, then in zip(self._look(), self._began, strict=True)
        )
        threads = self._threads()
        others = None if busy is None or cpu is None else max(0.0, busy - cpu)
        self._state |= {
            "wall_s": wall,
            "threads": threads,
            "cpu_s": cpu,
            "occupancy": cpu / (wall * threads) if wall and cpu is not None else None,
            "waited_s": waited,
            "waited_share": waited / (waited + cpu) if waited is not None and cpu else None,
            "quota_held_s": held,
            "others_cores": others / wall if wall and others is not None and wall >= LEAST_S else None,
            "load_average": load_average(),
            "frequency_mhz": _frequency_mhz(self._root),
        }

    def state(self) -> State:
        """The values seen; rounded, because a row is no place for noise."""
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in self._state.items()
        }

    def _look(self) -> tuple[float, float, float | None, float | None, float | None]:
        cpu = time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)
        return time.perf_counter(), cpu, _waited_s(self._root), _quota_held_s(self._root), _busy_s(self._root)


def _waited_s(root: Path) -> float | None:
    """Seconds that threads of this process spent ready to run without a core, since each began."""
    waits = []
    for file in (root / "proc/self/task").glob("*/schedstat"):
        numbers = text_of(file).split()  # ns on a core, ns waiting for one, times run
        if len(numbers) == 3:
            waits.append(int(numbers[1]))
    return sum(waits) / 1e9 if waits else None


def _quota_held_s(root: Path) -> float | None:
    """Seconds that the quota of this process's control group, or of one above it, kept it from running."""
    held = []
    for folder in cgroups(root, ""):
        if found := re.search(r"^throttled_usec (\d+)$", text_of(folder / "cpu.stat"), re.MULTILINE):
            held.append(int(found[1]) / 1e6)
    for folder in cgroups(root, "cpu"):
        if found := re.search(r"^throttled_time (\d+)$", text_of(folder / "cpu.stat"), re.MULTILINE):
            held.append(int(found[1]) / 1e9)
    return max(held, default=None)


def _busy_s(root: Path) -> float | None:
    """Seconds that the cores which this process may use were busy, with whatever it was, since the machine started."""
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    busy = []
    for line in text_of(root / "proc/stat").splitlines():
        if (core := re.match(r"cpu(\d+) ", line)) and (mine is None or int(core[1]) in mine):
            user, nice, system, _, _, irq, softirq, steal = map(int, line.split()[1:9])
            busy.append(user + nice + system + irq + softirq + steal)
    return sum(busy) / TICKS if busy else None


def _frequency_mhz(root: Path) -> float | None:
    clocks = [
        float(clock) for clock in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text_of(root / "proc/cpuinfo"), re.M)
    ]
    return statistics.median(clocks) if clocks else None


class GpuWatch(CpuWatch):
    """Watches a GPU from its last beginning to leaving it, and the process that launches its kernels.

    The readings are those that its monitor takes between samples while it lasts; the counters are NVML's own, which
    miss nothing in between.

    state: that of a CpuWatch, and
        kind                       "cuda"
        sm_clock_mhz, memory_clock_mhz
                                   {"median": …, "least": …} of the readings
        temperature_c, power_w     {"median": …, "most": …} of the readings
        throttle                   everything that held the clocks in a reading, or by a counter
        held_ns                    how long each reason held the clocks, by NVML's counters, at the most: two of them
                                   may count the same; those that stood still are left out
        energy_j, energy_s         what the board took, by its own counter, and in how long: since the watch was
                                   entered, because the counter's steps are too long for the samples alone
        other_processes            processes of others that held the GPU in a reading, as text
        own_is_listed              whether NVML lists this process: in a container it may go by the host's number
        top_sm_clock_mhz, application_clock_mhz, default_application_clock_mhz,
        power_limit_w, default_power_limit_w, ecc, persistence
                                   settings of the board
        name                       the board's, which says what clocks are usual
    """

    def __init__(
        self,
        read: Callable[[], Any],
        counters: Callable[[], dict[str, int]],
        energy_mj: Callable[[], int | None],
        settings: Callable[[], State],
        own_is_listed: Callable[[], bool | None],
        threads: Callable[[], int] = lambda: 1,
    ) -> None:
        """
        Args:
            read: a reading of the state now, as the monitor takes it.
            counters: nanoseconds for which each reason has held the clocks since the driver was loaded.
            energy_mj: millijoules since then.
        """
        super().__init__(threads)
        self._read, self._counters, self._energy = read, counters, energy_mj
        self._settings, self._own_is_listed = settings, own_is_listed
        self.readings: list[Any] = []  # the monitor adds its own

    def __enter__(self) -> Self:
        super().__enter__()
        self._held, self._mj, self._entered = self._counters(), self._energy(), time.perf_counter()
        return self

    def begin_anew(self) -> None:
        """Forget what was seen so far, but for the energy."""
        super().begin_anew()
        self._held = self._counters()
        self.readings.clear()

    def _end(self) -> None:
        super()._end()
        held = {name: ns - self._held.get(name, ns) for name, ns in self._counters().items()}
        held = {name: ns for name, ns in held.items() if ns > 0}
        energy = self._energy()
        if not self.readings:
            self.readings.append(self._read())
        reasons = [reason for reading in self.readings for reason in reading.throttle or ()]
        told = any(reading.throttle is not None for reading in self.readings)
        listed = [reading.other_processes for reading in self.readings if reading.other_processes is not None]
        others = dict.fromkeys(str(process) for processes in listed for process in processes)
        self._state |= {
            "kind": "cuda",
            "sm_clock_mhz": _span(self._each("sm_clock_mhz"), "least", min),
            "memory_clock_mhz": _span(self._each("memory_clock_mhz"), "least", min),
            "temperature_c": _span(self._each("temperature_c"), "most", max),
            "power_w": _span(self._each("power_w"), "most", max),
            # idle: the moment after a sample in which it was looked
            "throttle": sorted({*reasons, *held} - {"idle"}) if told or held else None,
            "held_ns": held,
            "energy_j": None if energy is None or self._mj is None else (energy - self._mj) / 1000,
            "energy_s": time.perf_counter() - self._entered,
            "other_processes": list(others) if listed else None,
            "own_is_listed": self._own_is_listed(),
            **self._settings(),
        }

    def _each(self, name: str) -> Iterator[float]:
        return (value for reading in self.readings if (value := getattr(reading, name)) is not None)


def _span(values: Iterator[float], name: str, end: Callable[[list[float]], float]) -> dict[str, float] | None:
    listed = list(values)
    return {"median": statistics.median(listed), name: end(listed)} if listed else None
