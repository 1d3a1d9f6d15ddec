"""The harness of the gate: a case of one revision, timed in turns with another process, which runs the other revision.

It yields what each turn took and is told how many calls the next one has; the other process waits meanwhile. Without
another process, the turns between are a matrix product and a copy, which tell how fast the machine is. On a CPU a turn
is measured in CPU time of this process, which leaves out what others took from it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch

from bench.cases import Case
from bench.harness import timing, training
from bench.harness.device import during, memory, worker_device, worker_monitor
from bench.harness.prepare import precision, prepare
from bench.harness.speed import Answer, board, on_board, peak_alone, repeated
from bench.harness.spent import Say, Spent
from bench.machine.usual import unusual
from bench.protocols import Rules
from kernels import assembler

# What is unusual of a process alone, and here the other revision's turns.
IN_COMPANY: dict[str, Any] = {"occupancy": None, "others_cores": None, "other_processes": []}


# By kind of device: the side of the square matrices of a product, its dtype, and the bytes of a copy, which are more
# than caches hold. Tens of milliseconds at the most.
SIZES = {"cpu": (512, torch.float32, 2**26), "cuda": (4096, torch.float16, 2**28)}


def calibration(of: str, device: torch.device) -> Callable[[], object]:
    """A `product` of two matrices, or a `copy`, on the device."""
    side, dtype, copied = SIZES[device.type]
    if of == "product":
        one, other = torch.ones(2, side, side, dtype=dtype, device=device)
        out = torch.empty_like(one)
        return lambda: torch.mm(one, other, out=out)
    source, target = torch.ones(2, copied, dtype=torch.uint8, device=device)
    return lambda: target.copy_(source)


class CpuTime:
    """Reads the CPU time of this process around the iterations."""

    flush_s = 0.0

    def __call__(self, run: Callable[[], object], iterations: int) -> float:
        """Seconds of so many iterations."""
        start = time.process_time()
        for _ in range(iterations):
            run()
        return time.process_time() - start


def own_cores() -> list[int]:
    """The cores that a single thread may be placed on; none where more threads compute, or it cannot be placed."""
    if worker_device().type != "cpu" or torch.get_num_threads() > 1 or not hasattr(os, "sched_setaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))


def place_on(cores: Sequence[int], chosen: int | None) -> None:
    """Place this thread on the core that a number chooses, or on any of them again."""
    if cores:
        os.sched_setaffinity(0, cores if chosen is None else {cores[chosen % len(cores)]})


def run(
    cases: Sequence[Case], rules: Rules, say: Say, spent: Spent
) -> Generator[dict[str, Any], dict[str, Any], Answer]:
    """Time a case, a turn at a time.

    Yields, once it is warm and after each turn, seconds of an iteration, the SM clock in MHz (None on a CPU), and
    whether heat spoilt it. It is sent the `calls` of the next turn, of which 0 end it; a number that chooses the
    `core`: two processes on cores of their own would measure each one's neighbours; and what the turn is `of`, the
    case where nothing is said, or a `calibration`.
    """
    case, device = cases[0], worker_device()
    assembler.forget()
    if case.mode == "train":
        with spent.on("build"):
            training.load()
    usage = memory(device)
    prepared = prepare(case, 1, device, say, spent)
    clock: timing.Clock = timing.clock(device) if device.type == "cuda" else CpuTime()
    monitor, cores = worker_monitor(), own_cores()
    with spent.on("forward"), on_board(spent), precision():
        peak = peak_alone(case, prepared, usage)
        call, per_call = repeated(case, prepared)
        warm = board().warm_up(call, clock, rules, monitor)
        usage.start()
        with monitor.watch(torch.get_num_threads) as watch:
            turns = {"case": (call, per_call)}
            asked = yield {"s": warm.seconds / per_call}
            while asked["calls"]:
                place_on(cores, asked["core"])
                if (of := asked.get("of", "case")) not in turns:
                    peak = (
                        usage.peak() if peak is None else peak
                    )  # of the case, before what takes memory besides
                    turns[of] = calibration(of, device), 1
                turn, iterations = turns[of]
                turn()  # the turn before has had the caches
                seconds = clock(turn, asked["calls"]) / asked["calls"] / iterations
                reading = monitor.read()
                asked = yield {
                    "s": seconds,
                    "mhz": reading.sm_clock_mhz,
                    "spoilt": reading.spoils_sample,
                }
        place_on(cores, None)
        state = during(watch)
        peak = usage.peak() if peak is None else peak
        notes = prepared.notes + prepared.finish() + unusual({**state, **IN_COMPANY})
    digests = [prepared.digests] if prepared.digests else None
    kernels = assembler.assembled() if device.type == "cuda" and prepared.kernels else {}
    return {"peak_memory_bytes": peak, "digests": digests, "kernels": kernels, "during": state}, notes
