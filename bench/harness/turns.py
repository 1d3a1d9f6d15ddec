"""The harness of the gate: a case of one revision, timed in turns with another process, which runs the other revision.

It yields what each turn took and is told how many calls the next one has; the other process waits meanwhile. On a CPU
a turn is measured in CPU time of this process, which leaves out what others took from it.
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

# What is unusual of a process alone, and here the other revision's turns.
IN_COMPANY: dict[str, Any] = {"occupancy": None, "others_cores": None, "other_processes": []}


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
    whether heat spoilt it. It is sent the `calls` of the next turn, of which 0 end it, and a number that chooses the
    `core`: two processes on cores of their own would measure each one's neighbours.
    """
    case, device = cases[0], worker_device()
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
            asked = yield {"s": warm.seconds / per_call}
            while asked["calls"]:
                place_on(cores, asked["core"])
                call()  # the other process has had the caches
                seconds = clock(call, asked["calls"]) / asked["calls"] / per_call
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
    return {"peak_memory_bytes": peak, "digests": digests, "during": state}, notes
