"""A process that measures a case of one revision between a matrix product and a copy of the machine. No torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from time import sleep
from typing import Any

from bench.errors import Failure
from bench.jobs import Job
from bench.machine.devices import Device, cpu_device
from bench.pair import COOLING_S, MAX_DISCARDS, ON_CPU, CaseFailed, count
from bench.process import Worker, WorkerLost

UNITS = ("case", "product", "copy")  # in this order in every row; the last two are what it is measured by


class Alone:
    """A process that measures what is checked out; and beside a GPU one that counts."""

    def __init__(self, device: Device) -> None:
        own = ON_CPU if device.kind == "cpu" else {}
        self._worker = Worker(device, "turns", "macs", variables=own)
        self._counter = self._worker if device.kind == "cpu" else Worker(cpu_device(), "macs")
        self.is_new = True

    def kill(self) -> None:
        """End it."""
        for worker in (self._worker, self._counter):
            worker.kill()
        self.is_new = True

    def start(self) -> None:
        """Start it."""
        self.is_new = False
        self._worker.begin()

    def count(self, job: Job) -> list[dict[str, int]] | None:
        """Parameters, MACs, launches and bytes; None where it cannot tell."""
        counted = count(self._counter, job)
        return [counted] if counted else None

    def visit(self, job: Job, digests: Sequence[Any]) -> dict[str, Any]:
        """One visit to a case: rounds of turns, of the case, a product and a copy, in an order that is shuffled.

        Args:
            digests: what earlier visits found its outputs to be; None where there is none.

        Raises:
            CaseFailed: it does not run.
            WorkerLost: the process died.
        """
        rules = job.rules
        self._guarded(lambda: self._worker.send({**job.order(), "digests": digests[0]}))
        alone_s = {"case": self._answer(job)["turn"]["s"]}
        for unit in UNITS[1:]:
            alone_s[unit] = self._turn(job, unit, 1, 0)["s"]
        calls = {unit: max(1, round(rules.sample_s / seconds)) for unit, seconds in alone_s.items()}
        seed = random.SystemRandom().randrange(2**32)
        source, discarded = random.Random(seed), 0
        rounds: list[list[float]] = []
        clocks: list[list[int | None]] = []
        while len(rounds) < rules.min_samples:
            core, order = source.randrange(1 << 16), source.sample(UNITS, len(UNITS))
            taken = {unit: self._turn(job, unit, calls[unit], core) for unit in order}
            if any(turn["spoilt"] for turn in taken.values()) and discarded < MAX_DISCARDS:
                discarded += 1
                sleep(COOLING_S)
                continue
            rounds.append([taken[unit]["s"] for unit in UNITS])
            clocks.append([taken[unit]["mhz"] for unit in UNITS])
        self._worker.tell({"calls": 0})
        end = self._answer(job)
        return {
            "rounds": rounds,
            "clocks_mhz": clocks if all(mhz for in_round in clocks for mhz in in_round) else None,
            "calls": calls,
            "seed": seed,
            "discarded": discarded,
            "peak_memory_bytes": [end["result"]["peak_memory_bytes"]],
            "digests": [end["result"]["digests"]],
            "kernels": [end["result"]["kernels"]],
            "during": [end["readings"]["during"]],
            "loaded": [end["loaded"]],
            "notes": end["notes"],
        }

    def _turn(self, job: Job, unit: str, calls: int, core: int) -> dict[str, Any]:
        self._worker.tell({"of": unit, "calls": calls, "core": core})
        turn: dict[str, Any] = self._answer(job)["turn"]
        return turn

    def _answer(self, job: Job) -> dict[str, Any]:
        answer: dict[str, Any] = self._guarded(lambda: self._worker.answer(job.limit_s))
        if "failed" in answer:
            raise CaseFailed(0, answer["failed"], refused=bool(answer.get("refused")))
        return answer

    def _guarded(self, ask: Any) -> Any:
        """Ask the process, whose case fails where it does not even start."""
        try:
            return ask()
        except WorkerLost:
            raise
        except Failure as error:
            self.kill()
            raise CaseFailed(0, str(error), refused=False) from None
