"""Where the windows' work goes: computed for the sizes of COCO val2017, and the time of single blocks beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import sizes, windowcost, windowwork
from bench.cases import AttentionPart
from bench.windowwork import BlockWork
from reports.lines import BYTES_OF, Line
from reports.pairs import Pair
from reports.table import Cell, Table, number, ratio, size, text
from reports.text import share, significant

BYTES = BYTES_OF["fp16"]


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


# ---- one block, timed


@dataclass(frozen=True)
class Block:
    """The attention of one block of a stage, for images of one size: what was measured of it, and what it does."""

    of: AttentionPart  # its style and part are of no account
    lines: dict[tuple[str, str], Line]  # by style and part
    pair: Pair | None  # in windows beside global

    def work(self, style: str) -> BlockWork:
        """Computed, not measured."""
        shape = next(iter(self.lines.values())).case.size
        return next(it for it in windowwork.stage_work(self.of.of, shape, style) if it.stage == self.of.stage)


def _blocks(lines: Sequence[Line], pairs: Sequence[Pair]) -> list[Block]:
    """By size and stage, in the order of `lines`; all of them of attentions."""

    def where(line: Line) -> tuple[windowcost.Size, int]:
        assert line.case.attention
        return line.case.size, line.case.attention.stage

    in_turns = {where(pair.first): pair for pair in pairs}
    found: dict[tuple[windowcost.Size, int], Block] = {}
    for line in lines:
        assert line.case.attention
        it = found.setdefault(where(line), Block(line.case.attention, {}, in_turns.get(where(line))))
        it.lines[line.case.attention.style, line.case.attention.part] = line
    return list(found.values())


WIN, GLOBAL = ("win", "all"), ("global", "all")
COPIES, INSIDE = ("win", "copies"), ("win", "inside")
Column = tuple[bool, Callable[[Block], Cell]]  # whether it holds numbers, and what stands in it


def _outcome(of: Line | Pair | None) -> Cell:
    """What stands in place of a number: how it failed, or a dash where nobody has tried."""
    return text(None if of is None or of.outcome == "missing" else of.outcome)


def _milliseconds(part: tuple[str, str]) -> Column:
    def cell(it: Block) -> Cell:
        line = it.lines.get(part)
        if line is None or line.images_per_s is None:
            return _outcome(line)
        # single blocks may take microseconds
        return number(
            1e3 / line.images_per_s.value, lambda ms: significant(ms) if ms >= 0.995 else f"{ms:.3f}"
        )

    return True, cell


def _gmacs(style: str, of: Callable[[BlockWork], int]) -> Column:
    return True, lambda it: number(of(it.work(style)) / 1e9, significant)


def _rate(part: tuple[str, str], of: Callable[[BlockWork], int]) -> Column:
    """GMAC/s: computed MACs of an image over its measured time."""

    def cell(it: Block) -> Cell:
        line = it.lines.get(part)
        speed = line.images_per_s if line else None
        return number(of(it.work(part[0])) * speed.value / 1e9 if speed else None, significant)

    return True, cell


def _win_beside_global(it: Block) -> Cell:
    return ratio(it.pair.here) if it.pair and it.pair.here else _outcome(it.pair)


def _executed(work: BlockWork) -> int:
    return work.executed_macs


def _useful(work: BlockWork) -> int:
    return work.useful_macs


WHO: dict[str, Column] = {
    "Size": (True, lambda it: size(next(iter(it.lines.values())).case)),
    "stage": (True, lambda it: number(it.of.stage, str)),
}
TIMES: dict[str, Column] = {
    "global, ms": _milliseconds(GLOBAL),
    "win, ms": _milliseconds(WIN),
    "copies, ms": _milliseconds(COPIES),
    "inside, ms": _milliseconds(INSIDE),
    "win / global": (True, _win_beside_global),
}
RATES: dict[str, Column] = {
    "padded tokens": (True, lambda it: number(it.work("win").padded_share, share)),
    "GMACs global": _gmacs("global", _executed),
    "useful in win": _gmacs("win", _useful),
    "executed in win": _gmacs("win", _executed),
    "GMAC/s global": _rate(GLOBAL, _executed),
    "win, executed": _rate(WIN, _executed),
    "win, useful": _rate(WIN, _useful),
}


def _copied(it: Block) -> int | None:
    """Bytes that the copies of one image read and write, in the dtype that was timed; None where none was."""
    line = next((line for line in it.lines.values() if line.dtype), None)
    return it.work("win").copied_bytes(BYTES_OF[line.dtype or ""]) if line else None


def _copy_rate(it: Block) -> Cell:
    line, copied = it.lines.get(COPIES), _copied(it)
    speed = line.images_per_s if line else None
    return number(copied * speed.value / 1e9 if copied and speed else None, significant)


MOVES: dict[str, Column] = {
    "MiB copied": (
        True,
        lambda it: number(copied / 2**20 if (copied := _copied(it)) is not None else None, significant),
    ),
    "launches to copy": (True, lambda it: number(it.work("win").launches, str)),
    "copies, GB/s": (True, _copy_rate),
}


def attention_table(lines: Sequence[Line], pairs: Sequence[Pair], setting: str, notes: list[str]) -> Table:
    """A row a size and stage, of `lines` and `pairs` of single blocks' attention, tried or not."""
    columns, blocks = {**WHO, **TIMES, **RATES, **MOVES}, _blocks(lines, pairs)
    return Table(
        "windows_attention",
        "Where a window's time goes, stage by stage",
        "The attention of one block of ResTv2-T alone, with its projections. ms are of one image. Copies are padding, "
        "partition and reverse with nothing between; inside is the attention on windows that were partitioned before, "
        "without these copies; that eager copies several windows once more to split heads is in inside. win / global "
        "is how many times as long the first takes, with a 95 % interval, measured in turns (A B B A). On a GPU each "
        "is replayed from a CUDA graph, so that no launch is waited for. Padded tokens and GMACs are computed: "
        "executed is what windows multiply, padding included, useful what they would cost if they ended where the map "
        "does. GMAC/s are these over the measured time. MiB copied and launches are computed too: what the copies of "
        "an image read and write, and in how many calls.",
        list(columns),
        [[cell(it) for _, cell in columns.values()] for it in blocks],
        [numeric for numeric, _ in columns.values()],
        notes,
        setting=setting,
        narrow=[[*WHO, *TIMES], [*WHO, *RATES], [*WHO, *MOVES]],
    )
