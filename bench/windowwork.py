"""Where a window's time goes, on paper: padding, copies and launches, stage by stage. No torch.

The windows of 64, 32, 16 and 8 tokens a side are 256 pixels of the image in every stage, so that a shape is padded by
the same share in all four. What is multiplied is `bench.windowcost`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from bench.images import Size
from bench.windowcost import attention, ceil_div, checked, padded_windows, stage_map
from models.config import ResTv2Config

SPAN = 256  # pixels of the image that a window spans, in every stage
CORE = ("conv", "linear", "matmul")


@dataclass(frozen=True)
class BlockWork:
    """What the attention part of one block does for one image, run plainly; `blocks` of a stage are alike.

    `executed` is in padded windows, as the style has it. `useful` is what the same windows would cost if those at
    the edges ended where the map does: only real tokens are queries, and only cells with a real token are keys.
    (In the paper's model a padded key is attended to like any other: to leave it out is another function.)
    A global block has one window, its map. MACs are `core`: conv, linear and matmul.

    Copies are those that PyTorch makes for one image's (1, H, W, C) tokens, each a launch. Padding fills the larger map
    and copies the smaller one into it; partition and reverse each copy the larger map; the cut copies the smaller
    one where columns go, while rows go by a view. Nothing is copied where there is nothing to pad, to cut, or to
    rearrange: windows that lie below each other are in order already. What eager copies within the attention, to split
    the heads of several windows, is not among them.
    """

    stage: int  # 1 to 4
    blocks: int
    windowed: bool
    size: Size  # of the map, tokens
    channels: int
    windows: int
    useful_queries: int
    executed_queries: int
    useful_macs: int
    executed_macs: int
    in_elements: int  # read and written by padding and partition
    out_elements: int  # read and written by reverse and cut
    launches: int  # of these four

    @property
    def padded_share(self) -> float:
        """Of the queries that are executed, the share that is padding."""
        return 1 - self.useful_queries / self.executed_queries

    def copied_bytes(self, bytes_per_element: int) -> int:
        """Read and written by the copies of one block."""
        return (self.in_elements + self.out_elements) * bytes_per_element


def stage_work(config: ResTv2Config, shape: Size, style: str) -> list[BlockWork]:
    """By stage, in each the windowed blocks before a global one; no entry where there are none of a kind.

    Raises:
        ValueError: as `bench.windowcost.counts`.
    """
    how, works = checked(config, shape, style), []
    for stage, depth in enumerate(config.depths):
        windowed = how.windowed_blocks(depth)
        if windowed:
            works.append(_block_work(config, shape, stage, windowed, config.windows[stage]))
        if windowed < depth:
            works.append(_block_work(config, shape, stage, depth - windowed, None))
    return works


def _block_work(config: ResTv2Config, shape: Size, stage: int, blocks: int, window: int | None) -> BlockWork:
    channels, size = stage_map(config, shape, stage)
    useful = _ragged_windows(size, window) if window else Counter([size])
    executed = padded_windows(size, window) if window else useful
    small, large = channels * _tokens(useful), channels * _tokens(executed)
    pads = small < large
    cuts = window is not None and size[1] % window > 0
    moves = window is not None and size[1] > window
    return BlockWork(
        stage=stage + 1,
        blocks=blocks,
        windowed=window is not None,
        size=size,
        channels=channels,
        windows=executed.total(),
        useful_queries=_tokens(useful),
        executed_queries=_tokens(executed),
        useful_macs=_core(attention(useful, channels, config.reductions[stage])),
        executed_macs=_core(attention(executed, channels, config.reductions[stage])),
        in_elements=pads * (large + 2 * small) + moves * 2 * large,
        out_elements=moves * 2 * large + cuts * 2 * small,
        launches=2 * pads + 2 * moves + cuts,
    )


def padded_share(shape: Size) -> float:
    """Of the tokens in the windows of an image of `shape`, the share that is padding: the same in every stage.

    For sides that are multiples of 32, which leave every stage a map of whole tokens.
    """
    return 1 - prod(shape) / (SPAN**2 * prod(ceil_div(shape, SPAN)))


def smaller_than_window(shapes: Iterable[Size]) -> list[str]:
    """A line for each of `shapes` that has a side below a window's, which a reader of its time must know."""
    found = []
    for height, width in dict.fromkeys(shapes):
        if min(height, width) >= SPAN:
            continue
        line = f"an image of {height}x{width} is smaller than a window, which spans {SPAN} pixels"
        if not (height % 32 or width % 32):  # else each stage rounds its map up, to another share
            line += f": {100 * padded_share((height, width)):.0f} % of the tokens are padding"
        found.append(line)
    return found


def needs_padding(shape: Size) -> bool:
    """Whether windows reach over the edge of an image of `shape`: in every stage, or in none."""
    return shape[0] % SPAN > 0 or shape[1] % SPAN > 0


def _ragged_windows(size: Size, window: int) -> Counter[Size]:
    """The windows of a map, those at the lower and right edges cut off where it ends."""
    rows, columns = (Counter({window: side // window, side % window: 1}) for side in size)
    return Counter({(h, w): rows[h] * columns[w] for h in rows for w in columns if h and w})


def _tokens(windows: Mapping[Size, int]) -> int:
    return sum(prod(size) * number for size, number in windows.items())


def _core(found: Mapping[str, int]) -> int:
    return sum(found[operator] for operator in CORE)
