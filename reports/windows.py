"""Where the windows' work goes, computed for the sizes of COCO val2017. Nothing here is timed."""

from __future__ import annotations

from collections.abc import Callable

from bench import sizes, windowcost, windowwork
from bench.windowwork import BlockWork
from reports.table import Table, number, text
from reports.text import share, significant

BYTES = 2  # an element in half precision


def _mean(stage: int, of: Callable[[BlockWork], float], style: str = "win") -> float:
    """Over the images of COCO: of one block of the stage."""
    weights = sizes.shapes(sizes.read(sizes.COCO).sizes)
    total = 0.0
    for shape, images in weights.items():
        (block,) = [
            each for each in windowwork.stage_work(windowcost.TABLE3, shape, style) if each.stage == stage
        ]
        total += images * of(block)
    return total / weights.total()


def work_table() -> Table:
    """A row a stage: what a block of the style `win` does, beside a global one."""
    rows = []
    for stage in range(1, 5):
        useful = _mean(stage, lambda it: it.useful_macs)
        executed = _mean(stage, lambda it: it.executed_macs)
        padded = 1 - _mean(stage, lambda it: it.useful_queries) / _mean(stage, lambda it: it.executed_queries)
        rows.append(
            [
                text(str(stage)),
                number(_mean(stage, lambda it: it.windows), significant),
                number(padded, share),
                number(_mean(stage, lambda it: it.executed_macs, "global") / 1e9, significant),
                number(useful / 1e9, significant),
                number(executed / 1e9, significant),
                number(_mean(stage, lambda it: it.copied_bytes(BYTES)) / 2**20, significant),
                number(_mean(stage, lambda it: it.launches), significant),
            ]
        )
    return Table(
        "windows_work",
        "What a block does, computed",
        "Of the attention of one block of ResTv2-T for one image of COCO val2017, on average; computed, not measured. "
        "Useful is what windows would cost that ended where the map does. Copies are those of padding, partition and "
        "reverse, read and written, in half precision.",
        [
            "stage",
            "windows",
            "padded tokens",
            "GMACs global",
            "useful",
            "executed",
            "MiB copied",
            "launches to copy",
        ],
        rows,
        [False, *[True] * 7],
    )
