"""Static bounds of a call: the fewest clocks of one SM, by what it keeps busy. No time: nothing here has run.

Each unit of an SM is taken by itself, always busy and never waiting; the slowest of them bounds the call. Instructions
come from `kernels.sass`, bank conflicts from `kernels.banks`, rates from `kernels.gpus`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kernels.gpus import RATES, Gpu
from kernels.launches import Call
from kernels.sass import WARP, Counts


@dataclass(frozen=True)
class Bound:
    """The clocks of one SM for one result, by unit: "issue", "tensor", "l1", "dram", and those of `Rates.units`."""

    clocks: Mapping[str, float]
    roof_clocks: float  # of DRAM moving inputs and outputs once, or matrix units the products: the longer

    @property
    def pipe(self) -> str:
        """The unit that takes longest."""
        return max(self.clocks, key=lambda unit: self.clocks[unit])

    @property
    def most(self) -> float:
        """The clocks of that unit."""
        return self.clocks[self.pipe]

    @property
    def share_of_roof(self) -> float:
        """The share of the roof that it allows: 1 where memory or the matrix units themselves bind."""
        return min(1.0, self.roof_clocks / self.most)


def bound(gpu: Gpu, call: Call, counts: Counts, conflicts: float = 0.0) -> Bound:
    """The bound of a call on a GPU.

    Args:
        conflicts: wavefronts that shared memory loses to bank conflicts, for one result: a clock of L1 each.
        counts: warp instructions for one result. Where tcgen05 multiplies, their names do not tell its MACs, and those
            without padding are taken.
    """
    rates = RATES[gpu.capability]
    macs_a_clock = rates.macs.get(call.precision)
    nominal = call.macs / call.results
    clocks = {"issue": counts.issued / rates.issued, "l1": counts.l1_bytes / rates.l1_bytes + conflicts}
    for unit, pipes in rates.units.items():
        clocks[unit] = sum(counts.by_pipe.get(pipe, 0.0) * WARP / rates.lanes[pipe] for pipe in pipes)
    if macs_a_clock:
        clocks["tensor"] = max(nominal, counts.macs or 0.0) / macs_a_clock
    clocks["dram"] = call.moved_bytes / call.results / gpu.bytes_a_clock
    # fp32 has no matrix units: its products are FFMA, a warp's 32 MACs each
    products = nominal / (macs_a_clock or rates.lanes["fma"])
    return Bound(clocks, max(call.least_bytes / call.results / gpu.bytes_a_clock, products))


def seconds(gpu: Gpu, call: Call, clocks: float) -> float:
    """The seconds in which all SMs at the datasheet's clock could do a call at the least."""
    return clocks * call.results / gpu.sms / (gpu.clock_ghz * 1e9)
