"""Synthetic noise: machines on which the product's own timing loop runs, with a clock that is made up. No time is real.

Each machine has a true time of an iteration and one way to be noisy. It lives through a run: visits in processes of
their own, with the imports and the other cases of a round between them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import asdict

from bench import visits
from bench.harness import timing
from bench.machine.state import Reading
from bench.protocols import Rules
from bench.runner import SHORT_ROUND_S
from bench.stats import Estimate

IMPORT_S = 6.0
TOP_MHZ = 1980
Noise = Callable[["Machine", float], float]


class Machine:
    """A clock whose readings are `true_s` times what its noise says, and time that goes on."""

    flush_s = 0.0

    def __init__(self, noise: Noise, seed: int, true_s: float, kind: str = "cpu") -> None:
        """
        Args:
            kind: "cuda" or "cpu". Imports leave a GPU idle; on a CPU they run on some of the cores.
        """
        self.is_cpu = kind == "cpu"
        self.load_of_imports = 0.5 if self.is_cpu else 0.0
        self.noise, self.true_s, self.random = noise, true_s, random.Random(seed)
        self.now, self.heat, self.state, self.level = 0.0, 0.0, 0.0, 0.0
        self.calls = 0
        self.new_process()

    def new_process(self) -> None:
        """Another process: its own level, and nothing left of what the noise was."""
        self.level = self.random.gauss(0, 1)
        self.state = self.random.gauss(0, 1)
        self.calls = 0

    def spend(self, seconds: float, *, busy: float) -> None:
        """Let time go by; `tau` is the seconds in which the board follows its load."""
        self.now += seconds
        tau = getattr(self.noise, "tau", None)
        if tau:
            self.heat = busy + (self.heat - busy) * math.exp(-seconds / tau)

    def read(self) -> Reading:
        """The reading that NVML would give of a GPU: its SM clock, in steps of 15 MHz; an empty one of a CPU."""
        if self.is_cpu:
            return Reading()
        fast = getattr(self.noise, "share", 0.0) * (1 - self.heat)
        return Reading(sm_clock_mhz=15 * round(TOP_MHZ / (1 - fast) / 15))

    def __call__(self, run: Callable[[], object], iterations: int) -> float:
        self.calls += 1
        factor = self.noise(self, 2.0 if run is second else 1.0)
        elapsed = iterations * self.true_s * factor * (2.0 if run is second else 1.0)
        self.spend(elapsed, busy=1.0)
        return elapsed


def first() -> None:
    """A; the clock never calls it."""


def second() -> None:
    """B, which takes twice as long."""


# ---- kinds of noise, each a factor on the time of a sample


def independent(machine: Machine, side: float) -> float:
    """1 %, independent from sample to sample."""
    return 1 + 0.01 * machine.random.gauss(0, 1)


def exponential(machine: Machine, side: float) -> float:
    """Independent and skewed: never faster than a floor, with a tail. Its median is 1."""
    return 0.98 + 0.02 / math.log(2) * machine.random.expovariate(1)


def correlated(rho: float) -> Noise:
    """AR(1) of 1 %: each sample is like the one before."""

    def noise(machine: Machine, side: float) -> float:
        machine.state = rho * machine.state + math.sqrt(1 - rho * rho) * machine.random.gauss(0, 1)
        return 1 + 0.01 * machine.state

    return noise


def of_process(machine: Machine, side: float) -> float:
    """A level of its own for each process, 1 %, beside little noise: of each side where two are compared."""
    level = machine.level if side == 1.0 else 0.0
    return 1 + 0.01 * level + 0.002 * machine.random.gauss(0, 1)


def sticky(rare: float) -> Noise:
    """Two modes 3 % apart that are kept for some samples; the slower has this share of the time."""

    def noise(machine: Machine, side: float) -> float:
        if machine.calls == 1 or machine.random.random() < 0.15:
            machine.state = float(machine.random.random() < rare)
        return 1 + 0.03 * machine.state + 0.003 * machine.random.gauss(0, 1)

    return noise


def settling(share: float, tau: float) -> Noise:
    """A clock that starts fast by a share and settles under load, 0.5 % of noise beside it."""

    def noise(machine: Machine, side: float) -> float:
        return (1 - share * (1 - machine.heat)) * (1 + 0.005 * machine.random.gauss(0, 1))

    noise.tau, noise.share = tau, share  # type: ignore[attr-defined]
    return noise


def bursts(machine: Machine, side: float) -> float:
    """One sample in twenty takes half as long again: somebody else's work."""
    burst = 0.5 if machine.random.random() < 0.05 else 0.0
    return 1 + burst + 0.01 * machine.random.gauss(0, 1)


def periodic(machine: Machine, side: float) -> float:
    """Every fourth sample is 2 % slower: a disturbance with the period of a block."""
    return 1 + (0.02 if machine.calls % 4 == 1 else 0.0) + 0.005 * machine.random.gauss(0, 1)


# ---- a run


Visit = Callable[[timing.Board, Rules], dict]


def _rounds(machine: Machine, rules: Rules, others_s: float, visit: Visit) -> dict:
    """A row of each visit, joined as for a report: imports, other cases before and after, and the visit.

    The first case of each process warms the board up; where there are other cases, it is one of those.
    """
    rows, took_s = [], 0.0
    for number in range(rules.visits):
        if number:
            machine.spend(IMPORT_S, busy=machine.load_of_imports)
        machine.new_process()
        board = timing.Board(lambda: machine.now)
        in_round = rules.in_round(number, short=others_s < SHORT_ROUND_S, took_s=took_s)
        before = machine.random.uniform(0, others_s)
        if others_s:
            board.warm_up(first, machine, in_round, machine)
            machine.spend(before, busy=1.0)
        result = visit(board, in_round)
        took_s = took_s or board.spent_s
        machine.spend(others_s - before, busy=1.0)
        rows.append(
            {
                **{"key": str(number), "visit": number, "group": "g", "outcome": "ok", "notes": []},
                **{"protocol": rules.as_dict(), "result": result},
            }
        )
    return visits.join(rows)


def throughput(machine: Machine, rules: Rules, others_s: float) -> Estimate:
    """Seconds of an iteration, by the product's own loop and estimate."""

    def visit(board: timing.Board, in_round: Rules) -> dict:
        taken = timing.sample(first, machine, machine, in_round, board=board)
        return {**asdict(taken), "statistic": "median", "batch": 1}

    return visits.seconds(_rounds(machine, rules, others_s, visit))


def comparison(machine: Machine, rules: Rules, others_s: float) -> Estimate:
    """The time of A as a multiple of B's, by the product's own loop and estimate."""

    def visit(board: timing.Board, in_round: Rules) -> dict:
        seed = machine.random.randrange(2**32)
        taken = timing.interleave(first, second, machine, machine, in_round, board=board, seed=seed)
        return {"blocks": taken.blocks, "batch": [1, 1]}

    return visits.ratio(_rounds(machine, rules, others_s, visit))
