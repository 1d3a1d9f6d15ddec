"""The worker's device: its monitor, the peak memory of what runs there, and running out of it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.machine.provenance import host
from bench.machine.state import DeviceMonitor, NoMonitor, NvmlMonitor
from bench.machine.watch import CpuWatch


def worker_device() -> torch.device:
    """The one device that the parent left visible to this process."""
    return torch.device("cpu" if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else "cuda:0")


def worker_monitor() -> DeviceMonitor:
    """The monitor of the worker's device."""
    if worker_device().type == "cpu":
        return NoMonitor()
    return NvmlMonitor(os.environ["CUDA_VISIBLE_DEVICES"], os.getpid())


def flags() -> dict[str, Any]:
    """Settings of torch's that change a time, as they stand now; None where torch does not tell."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    return {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomaly_detection": torch.is_anomaly_enabled(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "cudnn": cudnn.enabled,
        "cudnn_deterministic": cudnn.deterministic,
        "fp16_reduction": _told(lambda: cuda.matmul.allow_fp16_reduced_precision_reduction),
        "flush_denormal": _told(
            lambda: bool(torch.tensor([1e-310], dtype=torch.float64).mul(1.0).item() == 0)
        ),
    }


def _told(read: Callable[[], Any]) -> Any:
    with contextlib.suppress(RuntimeError, AttributeError):
        return read()
    return None


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The settings that are not as before, in words for a note."""
    return [
        f"set by the model's own code: {name.replace('_', ' ')} {now[name]}, not {value}"
        for name, value in before.items()
        if now[name] != value
    ]


USUAL_FLAGS: dict[str, Any] = {}  # as the worker starts; it fills them in


def during(watch: CpuWatch) -> dict[str, Any]:
    """The state of a watch that has ended, with torch's settings as they are, for the readings of a row."""
    now = flags()
    return {**watch.state(), "flags": now, "flags_changed": changed(USUAL_FLAGS or now, now)}


_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class CudaMemory:
    """The most that PyTorch's allocator handed out, weights included, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def start(self) -> None:
        """Forget the peak so far."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int | None:
        """The most since `start`."""
        return torch.cuda.max_memory_allocated(self.device)


class CpuMemory:
    """The most resident memory of the process, less what it had when this was made, in bytes.

    Linux only; elsewhere, and where the kernel does not let the mark be reset, it is None. Make it before the model,
    so that weights are included as on a GPU.
    """

    def __init__(self) -> None:
        _return_free_memory()  # or what the case before left in the heap would hide what this one takes
        self.before = _field("VmRSS")

    def start(self) -> None:
        """Forget the peak so far, where the kernel allows it."""
        _return_free_memory()  # and what building and checking took
        try:
            _CLEAR.write_text("5")  # "5" resets the high-water mark: proc(5)
        except OSError:
            self.before = None

    def peak(self) -> int | None:
        """The most since `start`; None where it cannot be told."""
        high = _field("VmHWM")
        return None if high is None or self.before is None else max(0, high - self.before)


def _return_free_memory() -> None:
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # glibc has it; others do without
            ctypes.CDLL(None).malloc_trim(0)


def _field(name: str) -> int | None:
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


def memory(device: torch.device) -> CudaMemory | CpuMemory:
    """The peak memory of a device."""
    return CudaMemory(device) if device.type == "cuda" else CpuMemory()


def limit_memory() -> None:
    """Make a too large batch an error that can be caught, before the kernel kills somebody for it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return
    limit = int(0.9 * min(int(available.split()[1]) * 1024, (host()["memory_gib"] or 1e6) * 2**30))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def free() -> None:
    """Give back what the last case held, before the next."""
    if "torch._dynamo" in sys.modules:  # importing it only to reset it would take seconds
        torch.compiler.reset()
    gc.collect()
    gc.freeze()  # what is left are imports and caches: looking through them after each case costs seconds a run
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
