"""A visit to a case of two revisions, in blocks of turns. No torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from bench.jobs import Job
from bench.sides import Sides

BLOCK = ((0, 1, 1, 0), (1, 0, 0, 1))  # A B B A, or B A A B


def visit(sides: Sides, job: Job, digests: Sequence[Any]) -> dict[str, Any]:
    """The blocks of one visit, as a row's result has them: chance says which half of them either side begins and ends.

    Args:
        sides: two.
        digests: what earlier visits found its outputs to be, by side; None where there is none.

    Raises:
        CaseFailed: one of the revisions does not run it.
        WorkerLost: a process died.
    """
    rules = job.rules
    calls = max(1, round(rules.sample_s / max(sides.begin(job, digests))))
    seed = random.SystemRandom().randrange(2**32)
    coin, coins = random.Random(seed), ""
    # as many of either: what a turn owes to the one before is then as often one side's as the other's
    flips = [number % 2 for number in range(rules.min_samples)]
    coin.shuffle(flips)
    blocks: list[list[float]] = []
    clocks: list[list[int | None]] = []
    while len(blocks) < rules.min_samples:
        flip, core = flips[len(blocks)], coin.randrange(1 << 16)
        taken: tuple[list[Any], list[Any]] = ([], [])
        for side in BLOCK[flip]:
            taken[side].append(sides.turn(side, job, calls, core))
        (a1, a2), (b1, b2) = taken
        block = (a1, b1, b2, a2)
        if sides.discards(block):
            continue
        blocks.append([turn["s"] for turn in block])
        clocks.append([turn["mhz"] for turn in block])
        coins += "AB"[flip]
    return {
        "blocks": blocks,
        "clocks_mhz": clocks if all(mhz for block in clocks for mhz in block) else None,
        "calls": calls,
        "seed": seed,
        "coins": coins,
        **sides.end(job),
    }
