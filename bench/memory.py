"""Peak memory of what runs between `start` and `peak`."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class CudaMemory:
    """What PyTorch's allocator handed out at the most, weights included, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def start(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int | None:
        return torch.cuda.max_memory_allocated(self.device)


class CpuMemory:
    """The most resident memory of the process, less what it had when this was made, in bytes.

    Linux only; elsewhere, and where the kernel does not let the mark be reset, None. Make it before the model,
    so that weights are included as on a GPU.
    """

    def __init__(self) -> None:
        _return_free_memory()  # or what the case before left in the heap would hide what this one takes
        self.before = _field("VmRSS")

    def start(self) -> None:
        _return_free_memory()  # and what building and checking took
        try:
            _CLEAR.write_text("5")  # "5" resets the high-water mark: proc(5)
        except OSError:
            self.before = None

    def peak(self) -> int | None:
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
    return CudaMemory(device) if device.type == "cuda" else CpuMemory()
