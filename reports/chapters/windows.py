"""Windows: where their work goes, computed for the sizes of COCO val2017, beside the time of backbones and blocks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from bench import images
from bench.cases import AttentionPart
from bench.stats import Estimate
from bench.traffic import BYTES_OF
from models import cost
from models.config import Size
from models.cost import BlockWork
from models.variants import TABLE3
from reports.chapter import (
    Chapter,
    Told,
    line_notes,
    lines_tables,
    modules_tables,
    pair_notes,
    pairs_tables,
    setting,
)
from reports.columns import COUNT, NUMBER, RATIO_WITH_INTERVAL, SHARE, SIZE, WORDS, Column, Form
from reports.figures import FAINT, Plot, family_look, finish, for_both, label_lines, new_figure
from reports.lines import Line, Pair
from reports.tables import Table, made_of
from reports.text import share, significant

BYTES = BYTES_OF["fp16"]


@cache
def coco_shapes() -> Counter[Size]:
    """The shapes that a detector sees of COCO val2017, each with its number of images."""
    return images.shapes(images.read(images.COCO))


# ---- what a block does, computed


@dataclass(frozen=True)
class StageWork:
    """The work of one block of a stage for one image of COCO val2017, as a mean over the images."""

    stage: int
    global_macs: float
    useful_macs: float
    executed_macs: float
    padded_share: float
    windows: float
    copied_bytes: float
    launches: float


def stage_works() -> list[StageWork]:
    """The work of each stage, in windows beside globally."""
    shapes = coco_shapes()
    images = shapes.total()
    by_style = {
        style: [(number, cost.stage_work(TABLE3, shape, style)) for shape, number in shapes.items()]
        for style in ("win", "global")
    }

    def mean(stage: int, value: Callable[[BlockWork], float], style: str = "win") -> float:
        total = 0.0
        for number, works in by_style[style]:
            (block,) = [work for work in works if work.stage == stage]
            total += number * value(block)
        return total / images

    return [
        StageWork(
            stage,
            global_macs=mean(stage, lambda work: work.executed_macs, "global"),
            useful_macs=mean(stage, lambda work: work.useful_macs),
            executed_macs=mean(stage, lambda work: work.executed_macs),
            padded_share=1
            - mean(stage, lambda work: work.useful_queries) / mean(stage, lambda work: work.executed_queries),
            windows=mean(stage, lambda work: work.windows),
            copied_bytes=mean(stage, lambda work: work.copied_bytes(BYTES)),
            launches=mean(stage, lambda work: work.launches),
        )
        for stage in range(1, 5)
    ]


WORK: tuple[Column[StageWork], ...] = (
    Column("stage", "stage", lambda work: str(work.stage), WORDS),
    Column("windows", "windows", lambda work: work.windows, NUMBER),
    Column("padded_share", "padded tokens", lambda work: work.padded_share, SHARE),
    Column("global_gmacs", "GMACs global", lambda work: work.global_macs / 1e9, NUMBER),
    Column("useful_gmacs", "useful", lambda work: work.useful_macs / 1e9, NUMBER),
    Column("executed_gmacs", "executed", lambda work: work.executed_macs / 1e9, NUMBER),
    Column("copied_mib", "MiB copied", lambda work: work.copied_bytes / 2**20, NUMBER),
    Column("launches", "launches to copy", lambda work: work.launches, NUMBER),
)


def work_table() -> Table:
    """A row a stage: what a block of the style `win` does, beside a global one."""
    return made_of(
        WORK,
        stage_works(),
        "windows_work",
        "What a block does, computed",
        "Of the attention of one block of ResTv2-T for one image of COCO val2017, on average; computed, not measured. "
        "Useful is what windows would cost that ended where the map does. Copies are those of padding, partition and "
        "reverse, read and written, in half precision.",
    )


# ---- one block, timed


@dataclass(frozen=True)
class Block:
    """The attention of one block of a stage, for images of one size: what was measured of it, and what it does."""

    attention: AttentionPart  # its style and part are of no account
    lines: dict[tuple[str, str], Line]  # by style and part
    pair: Pair | None  # in windows beside global

    @property
    def line(self) -> Line:
        """Any of the lines; all have the same size."""
        return next(iter(self.lines.values()))

    def work(self, style: str) -> BlockWork:
        """The block's work in a style; computed, not measured."""
        works = cost.stage_work(self.attention.of, self.line.case.size, style)
        return next(work for work in works if work.stage == self.attention.stage)

    def images_per_s(self, part: tuple[str, str]) -> Estimate | None:
        """The speed of one style and part."""
        line = self.lines.get(part)
        return line.images_per_s if line else None

    @property
    def copied_bytes(self) -> int | None:
        """Bytes that the copies of one image read and write, in the dtype that was timed; None where none was."""
        dtype = next((line.dtype for line in self.lines.values() if line.dtype), None)
        return self.work("win").copied_bytes(BYTES_OF[dtype]) if dtype else None


def blocks(lines: Sequence[Line], pairs: Sequence[Pair]) -> list[Block]:
    """The blocks by size and stage, in the order of `lines`; all of them are attentions."""

    def where(line: Line) -> tuple[Size, int]:
        assert line.case.attention
        return line.case.size, line.case.attention.stage

    in_turns = {where(pair.first): pair for pair in pairs}
    by_place: dict[tuple[Size, int], Block] = {}
    for line in lines:
        assert line.case.attention
        new = Block(line.case.attention, {}, in_turns.get(where(line)))
        block = by_place.setdefault(where(line), new)
        block.lines[line.case.attention.style, line.case.attention.part] = line
    return list(by_place.values())


WIN, GLOBAL = ("win", "all"), ("global", "all")
COPIES, INSIDE = ("win", "copies"), ("win", "inside")
# single blocks may take microseconds
MILLISECONDS = Form(lambda ms: significant(ms) if ms >= 0.995 else f"{ms:.3f}")


def _outcome(tried: Line | Pair | None) -> str | None:
    """The word in place of a number: how it failed; None where nobody has tried."""
    return None if tried is None or tried.outcome == "missing" else tried.outcome


def _milliseconds(name: str, header: str, part: tuple[str, str]) -> Column[Block]:
    def milliseconds(block: Block) -> float | None:
        speed = block.images_per_s(part)
        return 1e3 / speed.value if speed else None

    return Column(name, header, milliseconds, MILLISECONDS, lambda block: _outcome(block.lines.get(part)))


def _gmacs(name: str, header: str, style: str, macs: Callable[[BlockWork], int]) -> Column[Block]:
    return Column(name, header, lambda block: macs(block.work(style)) / 1e9, NUMBER)


def _rate(name: str, header: str, part: tuple[str, str], macs: Callable[[BlockWork], int]) -> Column[Block]:
    """GMAC/s: computed MACs of an image over its measured time."""

    def gmacs_per_s(block: Block) -> float | None:
        speed = block.images_per_s(part)
        if part in block.lines and block.lines[part].is_launch_bound:
            return None
        return macs(block.work(part[0])) * speed.value / 1e9 if speed else None

    return Column(name, header, gmacs_per_s, NUMBER)


def _copied_mib(block: Block) -> float | None:
    return None if block.copied_bytes is None else block.copied_bytes / 2**20


def _copied_gb_per_s(block: Block) -> float | None:
    speed, copied = block.images_per_s(COPIES), block.copied_bytes
    if COPIES in block.lines and block.lines[COPIES].is_launch_bound:
        return None
    return copied * speed.value / 1e9 if copied and speed else None


def _win_by_global(block: Block) -> Estimate | None:
    return block.pair.here if block.pair else None


def _executed(work: BlockWork) -> int:
    return work.executed_macs


def _useful(work: BlockWork) -> int:
    return work.useful_macs


WHO: tuple[Column[Block], ...] = (
    Column("size", "Size", lambda block: block.line.case, SIZE),
    Column("stage", "stage", lambda block: block.attention.stage, COUNT),
)
TIMES: tuple[Column[Block], ...] = (
    _milliseconds("global_ms", "global, ms", GLOBAL),
    _milliseconds("win_ms", "win, ms", WIN),
    _milliseconds("copies_ms", "copies, ms", COPIES),
    _milliseconds("inside_ms", "inside, ms", INSIDE),
    Column(
        "win_by_global",
        "win / global",
        _win_by_global,
        RATIO_WITH_INTERVAL,
        lambda block: _outcome(block.pair),
    ),
)
RATES: tuple[Column[Block], ...] = (
    Column("padded_share", "padded tokens", lambda block: block.work("win").padded_share, SHARE),
    _gmacs("global_gmacs", "GMACs global", "global", _executed),
    _gmacs("useful_gmacs", "useful in win", "win", _useful),
    _gmacs("executed_gmacs", "executed in win", "win", _executed),
    _rate("global_gmacs_per_s", "GMAC/s global", GLOBAL, _executed),
    _rate("executed_gmacs_per_s", "win, executed", WIN, _executed),
    _rate("useful_gmacs_per_s", "win, useful", WIN, _useful),
)
MOVES: tuple[Column[Block], ...] = (
    Column("copied_mib", "MiB copied", _copied_mib, NUMBER),
    Column("launches", "launches to copy", lambda block: block.work("win").launches, COUNT),
    Column("copied_gb_per_s", "copies, GB/s", _copied_gb_per_s, NUMBER),
)


def attention_tables(told: Told) -> list[Table]:
    """The table of single blocks' attention, a row a size and stage; none where none was tried.

    Its dashes say what was not.
    """
    lines = [line for line in told.shown if line.case.attention]
    pairs = [pair for pair in told.pairs if pair.first.case.attention]
    tried = [line for line in lines if line.timing]
    if not tried:
        return []
    notes = line_notes(tried, "cases")
    notes += pair_notes([pair for pair in pairs if pair.comparison], "comparisons")
    return [
        made_of(
            [*WHO, *TIMES, *RATES, *MOVES],
            blocks(lines, pairs),
            "windows_attention",
            "Where a window's time goes, stage by stage",
            "The attention of one block of ResTv2-T alone, with its projections. ms are of one image. Copies are "
            "padding, partition and reverse with nothing between; inside is the attention on windows that were "
            "partitioned before, without these copies; that eager copies several windows once more to split heads is "
            "in inside. win / global is how many times as long the first takes, with a 95 % interval, measured in "
            "turns (A B B A). On a GPU each is replayed from a CUDA graph, so that no launch is waited for. Padded "
            "tokens and GMACs are computed: executed is what windows multiply, padding included, useful what they "
            "would cost if they ended where the map does. GMAC/s are these over the measured time. MiB copied and "
            "launches are computed too: what the copies of an image read and write, and in how many calls.",
            notes=notes,
            setting=setting(told.results, tried),
            narrow=[[*WHO, *TIMES], [*WHO, *RATES], [*WHO, *MOVES]],
        )
    ]


def all_tables(told: Told) -> list[Table]:
    """The backbones' table, what a block does, the blocks' table, and the backbones in turns."""
    backbones = [line for line in told.shown if not line.case.attention]
    in_turns = [pair for pair in told.pairs if not pair.first.case.attention]
    return [
        *lines_tables(told, backbones),
        work_table(),
        *attention_tables(told),
        *modules_tables(told),
        *pairs_tables(told, in_turns),
    ]


# ---- the figure: what share of the tokens is padding, by size of image


def padding(told: Told) -> Plot:
    """Share of padded tokens against the size of the image, a dot a shape; computed, not measured."""
    return for_both("window_padding", _padding)


def _padding(name: str, width: float) -> Plot:
    weights = coco_shapes()
    shares = {shape: cost.padded_share(shape) for shape in weights}
    mean = sum(number * shares[shape] for shape, number in weights.items()) / weights.total()
    unpadded = sum(number for shape, number in weights.items() if not cost.needs_padding(shape))
    title = f"In windows, {share(mean)} of the tokens of an image of COCO are padding, on average"
    subtitle = (
        f"{weights.total():,} images, resized for a detector, in {len(weights)} shapes (a dot's area: how many); "
        f"{unpadded} need no padding. Computed, not measured."
    )
    colour, _ = family_look("ResTv2")
    with new_figure(width, 3.6, title, subtitle) as figure:
        axes = figure.subplots()
        areas = [math.prod(shape) / 1e6 for shape in weights]
        axes.scatter(
            areas,
            [100 * shares[shape] for shape in weights],
            s=[8 + images / 3 for images in weights.values()],
            color=colour,
            alpha=0.6,
            linewidths=0,
        )
        axes.axhline(100 * mean, color=colour, linewidth=1)
        axes.annotate(
            "mean",
            (0, 100 * mean),
            xycoords=("axes fraction", "data"),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=8.5,
        )
        axes.set_ylim(0, 125 * max(shares.values()))
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_xlabel(label_lines("megapixels of the image as the detector sees it", width))
        axes.set_ylabel("padded tokens, %")
        return finish(figure, name, title, f"Share of padded tokens by size of image. {title}.")


CHAPTERS = (
    Chapter(
        study="windows",
        title="ResTv2-T with global attention and in windows",
        heading="Windows: fewer MACs, and how much time",
        nav="Windows",
        text="The backbone alone, one image at a time. coco~N are N shapes that stand for those of COCO val2017, "
        "resized and padded as for a detector; their GMACs are the mean over all 5,000 images. At 768 × 1280 windows "
        "need no padding; at 3840 × 256, as many pixels, they are in order in memory already, and nothing is copied "
        "either. The paper gives padding and grouping as the reasons for its Mask R-CNN taking 1.87 times as long "
        "with windows (149.6 and 79.9 ms, Table 3).",
        references=("restv2_tiny[style=global]@coco~8",),
        tables=all_tables,
        figures=(padding,),
    ),
)
