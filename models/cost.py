"""Closed forms on paper: EMSAv2 in windows with its padding and copies, a detection's masks, Focal. No torch.

1 MAC = 2 FLOPs. Operators are those of the `fvcore` convention of `bench`: norms count too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from kernels.emsa_upsample import cost as emsa_upsample
from kernels.emsa_upsample.cost import ceil_div
from models.config import (
    DETECTOR,
    Detector,
    FocalConfig,
    ResTv2Config,
    Size,
    StageShape,
    doubled,
    map_sizes,
    stage_shapes,
)
from models.switches import EMSAV2, STYLES, Style

CORE = ("conv", "linear", "matmul")
OTHERS = ("norm", "upsample")  # Table 3(b)'s last column; the first three are CORE
SPAN = 256  # pixels of the image that a window spans in every stage: 64, 32, 16 and 8 tokens a side


def conv_macs(outputs: Size, inputs_per_group: int, channels: int, kernel: int) -> int:
    """MACs of a convolution that makes a map of `outputs`; depthwise is one input per group."""
    return prod(outputs) * channels * inputs_per_group * kernel**2


# ---- attention in windows, section 5.1


def attention_macs(windows: Mapping[Size, int], channels: int, reduction: int) -> Counter[str]:
    """MACs by operator of EMSAv2, from the queries to the projection, in so many windows of each size.

    The whole of it runs in a window as if that were an image: the reduction and its norm, keys and values, the
    products, the upsample branch and its norm.
    """
    macs = Counter[str]()
    for size, number in windows.items():
        queries, keys = number * prod(size), number * prod(ceil_div(size, reduction))
        branches = emsa_upsample.macs(number, size, channels, reduction)
        reduces = reduction > 1
        macs += Counter(
            conv=reduces * keys * channels * (reduction + 1) ** 2 + branches["up"],
            linear=(queries + keys) * 2 * channels**2,  # q and proj, k and v
            matmul=branches["attend"],
            norm=5 * channels * (queries + reduces * keys),  # up_norm, sr_norm
        )
    return macs


def padded_windows(size: Size, window: int) -> Counter[Size]:
    """The windows of a map that is padded to whole ones."""
    return Counter({(window, window): prod(ceil_div(size, window))})


def _cut_windows(size: Size, window: int) -> Counter[Size]:
    """The windows of a map, those at the lower and right edges cut off where it ends."""
    rows, columns = (Counter({window: side // window, side % window: 1}) for side in size)
    return Counter({(h, w): rows[h] * columns[w] for h in rows for w in columns if h and w})


def _tokens(windows: Mapping[Size, int]) -> int:
    return sum(prod(size) * number for size, number in windows.items())


@dataclass(frozen=True)
class BlockWork:
    """Work of the attention in one block for one image; `blocks` of a stage are alike.

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
        """Share of the executed queries that is padding."""
        return 1 - self.useful_queries / self.executed_queries

    def copied_bytes(self, bytes_per_element: int) -> int:
        """Bytes read and written by the copies of one block."""
        return (self.in_elements + self.out_elements) * bytes_per_element


def stage_work(config: ResTv2Config, size: Size, style: str) -> list[BlockWork]:
    """Work of the blocks by stage for an image: in each the windowed ones before a global one, if there are any.

    Raises:
        ValueError: the formulas do not hold, as `checked` says.
    """
    windows, works = checked(config, size, style), []
    for stage, (shape, depth) in enumerate(
        zip(stage_shapes(config, size), config.depths, strict=True), start=1
    ):
        windowed = windows.windowed_blocks(depth)
        if windowed:
            works.append(_block_work(stage, windowed, shape, shape.window))
        if windowed < depth:
            works.append(_block_work(stage, depth - windowed, shape, None))
    return works


def checked(config: ResTv2Config, size: Size, style: str) -> Style:
    """The style of that name, for a model and an image that the closed forms hold for.

    Raises:
        ValueError: an unknown style, sides that are no multiples of 32, or a model that is no ResTv2 with EMSAv2.
    """
    if style not in STYLES:
        raise ValueError(f"there is no style {style!r}; there are {', '.join(STYLES)}")
    if min(size) < 32 or size[0] % 32 or size[1] % 32:
        raise ValueError(f"a detector sees multiples of 32, not {size[0]}x{size[1]}")
    if config.switches != EMSAV2:
        raise ValueError(f"{config.title} has other parts than ResTv2's, which these formulas are of")
    return STYLES[style]


def _block_work(stage: int, blocks: int, shape: StageShape, window: int | None) -> BlockWork:
    size, channels = shape.map_size, shape.dim
    useful = _cut_windows(size, window) if window else Counter([size])
    executed = padded_windows(size, window) if window else useful
    useful_macs, executed_macs = (
        sum(map(attention_macs(windows, channels, shape.reduction).__getitem__, CORE))
        for windows in (useful, executed)
    )
    small, large = channels * _tokens(useful), channels * _tokens(executed)
    pads = small < large
    cuts = window is not None and size[1] % window > 0
    moves = window is not None and size[1] > window
    return BlockWork(
        stage=stage,
        blocks=blocks,
        windowed=window is not None,
        size=size,
        channels=channels,
        windows=executed.total(),
        useful_queries=_tokens(useful),
        executed_queries=_tokens(executed),
        useful_macs=useful_macs,
        executed_macs=executed_macs,
        in_elements=pads * (large + 2 * small) + moves * 2 * large,
        out_elements=moves * 2 * large + cuts * 2 * small,
        launches=2 * pads + 2 * moves + cuts,
    )


def padded_share(size: Size) -> float:
    """Share of padding among the tokens in the windows of an image of `size`: the same in every stage.

    It holds for sides that are multiples of 32, which leave every stage a map of whole tokens.
    """
    return 1 - prod(size) / (SPAN**2 * prod(ceil_div(size, SPAN)))


def smaller_than_window(sizes: Iterable[Size]) -> list[str]:
    """A line for each of `sizes` that has a side below a window's, which a reader of its time must know."""
    lines = []
    for height, width in dict.fromkeys(sizes):
        if min(height, width) >= SPAN:
            continue
        line = f"an image of {height}x{width} is smaller than a window, which spans {SPAN} pixels"
        if not (height % 32 or width % 32):  # else each stage rounds its map up, to another share
            line += f": {100 * padded_share((height, width)):.0f} % of the tokens are padding"
        lines.append(line)
    return lines


def needs_padding(size: Size) -> bool:
    """Whether windows reach over the edge of an image of `size`: in every stage, or in none."""
    return size[0] % SPAN > 0 or size[1] % SPAN > 0


# ---- detections of Mask R-CNN


def detection_macs(config: Detector = DETECTOR) -> int:
    """MACs of the mask head for one detection, all of them convolutions: four on 14×14, one to 28×28, the masks."""
    small, large = (config.mask_pool,) * 2, (2 * config.mask_pool,) * 2
    body = 4 * conv_macs(small, config.pyramid, config.pyramid, 3)
    # each pixel of the transposed convolution's input meets 2×2 taps; its output takes those of a 1×1 convolution
    return (
        body
        + conv_macs(small, config.pyramid, config.pyramid, 2)
        + conv_macs(large, config.pyramid, config.classes, 1)
    )


# ---- Focal


def focal_macs(config: FocalConfig, size: Size) -> int:
    """MACs of one image of `size` as the `flops` methods of Focal's authors add them up; Table 1 prints these.

    Rounded to a decimal they are the printed 4.9, 9.4 and 16.4 G of Focal-T, S and B; cut off, Focal-B's 16.37
    would be 16.3.

    Counted, for a stage of N = H·W tokens, C channels, windows of w×w, expand size e, f×f pooled windows:
        embedding   N·C·(patch area)·(channels before it), and N·C for its LayerNorm
        norms       2·N·C a block: one MAC an element
        qkv         3·N·C², and 3·(N/w²)·C² for the pooled tokens, queries that nobody uses included
        pooling     N·C
        products    2·N·C·(w² + (w+2e)² − w² + f²): QKᵀ and PV with every key counted once
        proj, MLP   N·C², 2·(MLP ratio)·N·C²
        last        LayerNorm over a 16th of stage 1's tokens, where stage 4 has a 64th; the classifier

    Left out: neighbours that two of the four shifted maps hold are keys twice, and counted once (4·e·(w−2e), at
    w = 7 and e = 3 12 of the 132); biases, also those of position; the softmax, GELU, the mask, the average pooling,
    and all but one operation an element of the LayerNorms.

    Raises:
        ValueError: a size whose maps do not divide into windows, for which the authors' code gives a fraction.
    """
    window, multiple = config.window, 32 * config.window
    if size[0] % multiple or size[1] % multiple:
        raise ValueError(f"the closed form is for multiples of {multiple}, not {size[0]}x{size[1]}")
    maps = [prod(map_size) for map_size in map_sizes(size)]
    columns = (maps, doubled(config.width), config.depths, config.expand_sizes, config.focal_windows)
    macs, channels_before, patch = 0, 3, 4 * 4
    for tokens, channels, depth, expand, focal in zip(*columns, strict=True):
        pooled = tokens // window**2
        macs += tokens * channels * (patch * channels_before + 1)
        norms = 2 * tokens * channels
        qkv = 3 * (tokens + pooled) * channels**2
        pooling = tokens * channels
        keys = (window + 2 * expand) ** 2 + focal**2
        products = 2 * tokens * keys * channels
        proj = tokens * channels**2
        mlp = 2 * config.mlp_ratio * tokens * channels**2
        macs += depth * (norms + qkv + pooling + products + proj + mlp)
        channels_before, patch = channels, 2 * 2
    last = channels * maps[0] // 16
    return macs + last + channels * 1000
