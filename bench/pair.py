"""Two processes that measure one case in turns, each the code of one revision; and what both count. No torch."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

from bench import traffic
from bench.cases import Case
from bench.errors import Failure
from bench.jobs import Job, job_of
from bench.machine.devices import Device, cpu_device
from bench.process import Worker, WorkerLost

BLOCK = ((0, 1, 1, 0), (1, 0, 0, 1))  # A B B A, or B A A B
MAX_DISCARDS, COOLING_S = 20, 2.0  # blocks that heat spoilt; the pause after each
# On a CPU one thread, because threads that wait for a core measure the neighbours. And glibc gives no memory back to
# the kernel: whether what was freed lies at the end of the heap, is given back there, and is faulted in again at each
# iteration, is an accident of the process, and took half as long again.
ON_CPU = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # the most that glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}


class CaseFailed(Exception):
    """A case does not run in one of the revisions: which, and why."""

    def __init__(self, side: int, why: str, *, refused: bool) -> None:
        super().__init__(why)
        self.side, self.refused = side, refused


class Pair:
    """Two processes that measure, one a revision; and beside a GPU two that count."""

    def __init__(self, device: Device, folders: Sequence[Path]) -> None:
        own = ON_CPU if device.kind == "cpu" else {}
        self._workers = [Worker(device, "turns", "macs", folder=folder, variables=own) for folder in folders]
        self._counters = (
            self._workers
            if device.kind == "cpu"
            else [Worker(cpu_device(), "macs", folder=folder) for folder in folders]
        )
        self.is_new = True

    def kill(self) -> None:
        """End them."""
        for worker in (*self._workers, *self._counters):
            worker.kill()
        self.is_new = True

    def start(self) -> None:
        """Start both at once, as they import for seconds."""
        self.is_new = False
        for worker in self._workers:
            worker.begin()

    def count(self, job: Job) -> list[dict[str, int]] | None:
        """Parameters, MACs, launches and bytes of both; None where one of them cannot tell."""
        counted = [count(worker, job) for worker in self._counters]
        return None if None in counted else [of_side for of_side in counted if of_side]

    def visit(self, job: Job, digests: Sequence[Any]) -> dict[str, Any]:
        """One visit to a case: blocks of turns, as a row's result has them.

        Args:
            digests: what earlier visits found its outputs to be, by side; None where there is none.

        Raises:
            CaseFailed: one of the revisions does not run it.
            WorkerLost: a process died.
        """
        rules, order = job.rules, job.order()
        for side, worker in enumerate(self._workers):
            known = {**order, "digests": digests[side]}
            self._guarded(side, partial(worker.send, known))
        ready = [self._turn(side, job) for side in (0, 1)]
        calls = max(1, round(rules.sample_s / max(turn["s"] for turn in ready)))
        seed = random.SystemRandom().randrange(2**32)
        coin, coins, discarded = random.Random(seed), "", 0
        blocks: list[list[float]] = []
        clocks: list[list[int | None]] = []
        while len(blocks) < rules.min_samples:
            flip, core = coin.randrange(2), coin.randrange(1 << 16)
            taken: tuple[list[Any], list[Any]] = ([], [])
            for side in BLOCK[flip]:
                self._workers[side].tell({"calls": calls, "core": core})
                taken[side].append(self._turn(side, job))
            if any(turn["spoilt"] for turn in (*taken[0], *taken[1])) and discarded < MAX_DISCARDS:
                discarded += 1
                sleep(COOLING_S)
                continue
            (a1, a2), (b1, b2) = taken
            blocks.append([turn["s"] for turn in (a1, b1, b2, a2)])
            clocks.append([turn["mhz"] for turn in (a1, b1, b2, a2)])
            coins += "AB"[flip]
        ends = []
        for side, worker in enumerate(self._workers):
            worker.tell({"calls": 0})
            ends.append(self._answer(side, job))
        results = [end["result"] for end in ends]
        return {
            "blocks": blocks,
            "clocks_mhz": clocks if all(mhz for block in clocks for mhz in block) else None,
            "calls": calls,
            "seed": seed,
            "coins": coins,
            "discarded": discarded,
            "peak_memory_bytes": [result["peak_memory_bytes"] for result in results],
            "digests": [result["digests"] for result in results],
            "kernels": [result.get("kernels") or {} for result in results],
            "during": [end["readings"]["during"] for end in ends],
            "loaded": [end["loaded"] for end in ends],
            "notes": list(dict.fromkeys(note for end in ends for note in end["notes"])),
        }

    def _turn(self, side: int, job: Job) -> dict[str, Any]:
        turn: dict[str, Any] = self._answer(side, job)["turn"]
        return turn

    def _answer(self, side: int, job: Job) -> dict[str, Any]:
        answer: dict[str, Any] = self._guarded(side, partial(self._workers[side].answer, job.limit_s))
        if "failed" in answer:
            self.kill()  # the other one still waits for its turn
            raise CaseFailed(side, answer["failed"], refused=bool(answer.get("refused")))
        return answer

    def _guarded(self, side: int, ask: Callable[[], Any]) -> Any:
        """Ask a process, whose case fails where it does not even start."""
        try:
            return ask()
        except WorkerLost:
            raise
        except Failure as error:
            self.kill()
            raise CaseFailed(side, str(error), refused=False) from None


def count(worker: Worker, job: Job) -> dict[str, int] | None:
    """Parameters, MACs, launches and bytes of a job's case, by a worker on the CPU; None where it cannot tell."""
    counted = job_of("macs", cpu_device(), job.rules, *job.cases)
    answer = worker.ask(counted.order(), counted.limit_s, lambda _: None)
    return None if "failed" in answer else _counts(answer["result"], job.cases[0])


def _counts(result: Mapping[str, Any], case: Case) -> dict[str, int]:
    """The quantities of a count that are compared exactly, by name."""
    counts = {"parameters": result["parameters"], "MACs": result["conventions"]["core"]["macs"]}
    if parts := traffic.of_row(result.get("traffic")):
        whole = traffic.total(parts.values())
        counts |= {"launches": whole.launches, "bytes": whole.bytes(case.dtype or "fp32", case.batch or 1)}
    return counts
