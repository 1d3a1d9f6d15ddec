"""A visit to a case of one revision, in rounds with a matrix product and a copy of the machine. No torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from bench.jobs import Job
from bench.sides import Sides

UNITS = ("case", "product", "copy")  # in this order in every row; the last two are what it is measured by


def visit(sides: Sides, job: Job, digests: Sequence[Any]) -> dict[str, Any]:
    """The rounds of one visit, as a row's result has them: in each the three in an order that is shuffled.

    Args:
        sides: one.
        digests: what earlier visits found its outputs to be; None where there is none.

    Raises:
        CaseFailed: it does not run.
        WorkerLost: the process died.
    """
    rules = job.rules
    (case_s,) = sides.begin(job, digests)
    alone_s = {"case": case_s, **{unit: sides.turn(0, job, 1, of=unit)["s"] for unit in UNITS[1:]}}
    calls = {unit: max(1, round(rules.sample_s / seconds)) for unit, seconds in alone_s.items()}
    seed = random.SystemRandom().randrange(2**32)
    source = random.Random(seed)
    rounds: list[list[float]] = []
    clocks: list[list[int | None]] = []
    while len(rounds) < rules.min_samples:
        core, order = source.randrange(1 << 16), source.sample(UNITS, len(UNITS))
        taken = {unit: sides.turn(0, job, calls[unit], core, unit) for unit in order}
        if sides.discards(list(taken.values())):
            continue
        rounds.append([taken[unit]["s"] for unit in UNITS])
        clocks.append([taken[unit]["mhz"] for unit in UNITS])
    return {
        "rounds": rounds,
        "clocks_mhz": clocks if all(mhz for in_round in clocks for mhz in in_round) else None,
        "calls": calls,
        "seed": seed,
        **sides.end(job),
    }
