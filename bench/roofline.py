"""Upper bounds: a machine's peaks, and how much of them a case gets. Numbers in, numbers out; no torch.

Peaks are in FLOP/s as datasheets print them, work is in MACs as the paper counts it: 1 MAC = 2 FLOP, and the two meet
only here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.conventions import FLOPS_PER_MAC
from bench.machine.gpus import GpuProfile, profiles


@dataclass(frozen=True)
class Peaks:
    """A machine's upper bounds; what is unknown is left out (or None), never guessed.

    `tflops` holds 1e12 FLOP/s by dtype, `bandwidth_gb_s` 1e9 bytes/s from memory, `source` who says so.
    """

    tflops: Mapping[str, float] = field(default_factory=dict)
    bandwidth_gb_s: float | None = None
    source: str = "unknown"

    def share(self, macs: int, images_per_s: float, dtype: str) -> float | None:
        """The part of the peak that `macs` an image at `images_per_s` come to (1: all); None where it is unknown.

        `macs` are `core` MACs: norms and activations do not run on the units whose peak this is.
        """
        tflops = self.tflops.get(dtype)
        return FLOPS_PER_MAC * macs_per_s(macs, images_per_s) / (tflops * 1e12) if tflops else None

    def floor_s(self, product_macs: int, bytes_moved: int, dtype: str) -> float | None:
        """Seconds below which it cannot be done: the longer of memory alone and matrix products alone; None where
        unknown.

        Other arithmetic is left out: it does not run on the units whose peak this is.
        """
        tflops = self.tflops.get(dtype)
        if not tflops or not self.bandwidth_gb_s:
            return None
        return max(bytes_moved / (self.bandwidth_gb_s * 1e9), FLOPS_PER_MAC * product_macs / (tflops * 1e12))


def macs_per_s(macs: int, images_per_s: float) -> float:
    """Multiply-accumulates a second, from those of one image."""
    return macs * images_per_s


def peaks_of(
    device: Mapping[str, Any],
    measured: Mapping[str, Any] | None,
    known: Mapping[str, GpuProfile] | None = None,
) -> Peaks:
    """The peaks of the device of a row.

    A CPU's are measured on the spot, a GPU's are those of its profile. A MIG slice has none: it is a part of a GPU,
    and no datasheet says which.

    Args:
        measured: the result of a `peaks` row, for a CPU.
        known: the profiles to look in; default: all.
    """
    if device.get("kind") == "cpu":
        if not measured:
            return Peaks(source="not measured")
        return Peaks(measured["tflops"], measured.get("bandwidth_gb_s"), "measured on this machine")
    if device.get("mig"):
        return Peaks(source="unknown for a MIG slice")
    profile = (profiles() if known is None else known).get(device.get("profile") or "")
    if profile is None:
        return Peaks(source="unknown: the GPU has no profile")
    return Peaks(profile.peak_tflops, profile.bandwidth_gb_s, profile.source)
