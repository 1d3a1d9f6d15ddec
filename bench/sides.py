"""Processes that take turns at one case, each the code of one revision; and what they count. No torch."""

from __future__ import annotations

import sys
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
from bench.nursery import Nursery
from bench.process import Worker, WorkerLost, environ_of

MAX_DISCARDS, COOLING_S = 20, 2.0  # rounds that heat spoilt; the pause after each
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


class Sides:
    """Processes that measure, a revision each; and beside a GPU as many that count.

    Args:
        folders: where the revisions are checked out; None is what runs here.
    """

    def __init__(self, device: Device, folders: Sequence[Path | None]) -> None:
        on_cpu = device.kind == "cpu"
        own = ON_CPU if on_cpu else {}
        # One side has nothing to share with another, a GPU's processes warm it for longer than they import, and
        # elsewhere than on Linux no fork of torch's is safe.
        forks = on_cpu and len(folders) > 1 and sys.platform == "linux"
        self._nursery = Nursery(environ_of(device, own)) if forks else None
        self._workers = [
            Worker(device, "turns", "macs", folder=folder, variables=own, nursery=self._nursery)
            for folder in folders
        ]
        self._counters = (
            self._workers if on_cpu else [Worker(cpu_device(), "macs", folder=folder) for folder in folders]
        )
        self.is_new = True
        self.discarded = 0  # rounds of this visit

    def kill(self) -> None:
        """End them."""
        for worker in (*self._workers, *self._counters):
            worker.kill()
        self.is_new = True

    def close(self) -> None:
        """End them, and what forks them."""
        self.kill()
        if self._nursery:
            self._nursery.end()

    def start(self) -> None:
        """Start all at once, as they import for seconds."""
        self.is_new = False
        for worker in self._workers:
            worker.begin()

    def count(self, job: Job) -> list[dict[str, int]] | None:
        """Parameters, MACs, launches and bytes of each; None where one of them cannot tell."""
        counted = [_count(worker, job) for worker in self._counters]
        return None if None in counted else [of_side for of_side in counted if of_side]

    def begin(self, job: Job, digests: Sequence[Any]) -> list[float]:
        """Have all of them build the case; seconds of each one's first turn.

        Args:
            digests: what earlier visits found its outputs to be, by side; None where there is none.

        Raises:
            CaseFailed: one of the revisions does not run it.
            WorkerLost: a process died.
        """
        self.discarded = 0
        order = job.order()
        for side, worker in enumerate(self._workers):
            self._guarded(side, partial(worker.send, {**order, "digests": digests[side]}))
        return [self._answer(side, job)["turn"]["s"] for side in range(len(self._workers))]

    def turn(self, side: int, job: Job, calls: int, core: int = 0, of: str = "case") -> dict[str, Any]:
        """One turn of a side: so many calls of the case, or of a product or copy, on one core of the CPU's."""
        self._workers[side].tell({"of": of, "calls": calls, "core": core})
        turn: dict[str, Any] = self._answer(side, job)["turn"]
        return turn

    def discards(self, turns: Sequence[Mapping[str, Any]]) -> bool:
        """Says whether heat spoilt a turn of a round, which is then not kept; counts it then, and lets it cool."""
        if self.discarded == MAX_DISCARDS or not any(turn["spoilt"] for turn in turns):
            return False
        self.discarded += 1
        sleep(COOLING_S)
        return True

    def end(self, job: Job) -> dict[str, Any]:
        """The part of a row on the visit beside its times, of each side."""
        for worker in self._workers:
            worker.tell({"calls": 0})
        ends = [self._answer(side, job) for side in range(len(self._workers))]
        results = [end["result"] for end in ends]
        return {
            "discarded": self.discarded,
            "peak_memory_bytes": [result["peak_memory_bytes"] for result in results],
            "digests": [result["digests"] for result in results],
            "kernels": [result.get("kernels") or {} for result in results],
            "during": [end["readings"]["during"] for end in ends],
            "loaded": [end["loaded"] for end in ends],
            "notes": list(dict.fromkeys(note for end in ends for note in end["notes"])),
        }

    def _answer(self, side: int, job: Job) -> dict[str, Any]:
        answer: dict[str, Any] = self._guarded(side, partial(self._workers[side].answer, job.limit_s))
        if "failed" in answer:
            if len(self._workers) > 1:
                self.kill()  # the others still wait for their turn
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


def _count(worker: Worker, job: Job) -> dict[str, int] | None:
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
