"""The closed forms: windows against loops and what PyTorch does, EMSAv2 against counts of the module, Focal."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from bench.cases import parse
from bench.harness import macs
from bench.images import read, shapes
from models.attention import Attention
from models.config import Size
from models.cost import (
    CORE,
    attention_macs,
    focal_macs,
    needs_padding,
    padded_share,
    padded_windows,
    smaller_than_window,
    stage_work,
)
from models.switches import STYLES
from models.variants import FOCAL, RESTV1, RESTV2
from tests.support.detector_macs import backbone

TINY, BASE = RESTV2["restv2_tiny"], RESTV2["restv2_base"]
COCO_SHAPES = list(shapes(read("coco")))
SHAPES = [*COCO_SHAPES, (32, 32), (256, 256), (512, 768), (32, 2048), (288, 256), (224, 1024)]


def core_macs(module: Callable[..., Any], *arguments: Any) -> int:
    """Convolutions and products, as PyTorch counts them while it runs."""
    # no_grad, because in inference mode torch 2.5 counts nothing
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*arguments)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("dim", "reduction", "window"), [(96, 8, 64), (192, 4, 32), (64, 2, 16), (768, 1, 8)]
)
@pytest.mark.parametrize("ends", [(0, 0), (0, 3), (5, 7)])
def test_attention_in_windows_is_what_the_module_runs_on_a_batch_of_them(dim, reduction, window, ends):
    size = (window - ends[0], window - ends[1])
    with torch.device("meta"):
        module = Attention(dim, 2, reduction)
        tokens_BNC = torch.empty(6, size[0] * size[1], dim)
    found = attention_macs({size: 6}, dim, reduction)
    assert sum(found[name] for name in ("conv", "linear", "matmul")) == core_macs(module, tokens_BNC, size)


@pytest.mark.parametrize(("size", "number"), [((64, 64), 1), ((65, 64), 2), ((200, 304), 20), ((8, 272), 5)])
def test_windows_cover_the_map(size, number):
    assert padded_windows(size, 64) == {(64, 64): number}


def real_windows(size: Size, window: int) -> list[Size]:
    """Rows and columns of the map in each window, found token by token."""
    found: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for y in range(size[0]):
        for x in range(size[1]):
            found.setdefault((y // window, x // window), set()).add((y, x))
    return [(len({y for y, _ in tokens}), len({x for _, x in tokens})) for tokens in found.values()]


@pytest.mark.parametrize("shape", [*random.Random(0).sample(SHAPES, 6), (32, 32), (512, 768), (288, 256)])
def test_useful_work_is_that_of_the_real_tokens_of_each_window(shape):
    for work in stage_work(TINY, shape, "win"):
        window, reduction = TINY.windows[work.stage - 1], TINY.reductions[work.stage - 1]
        real = real_windows(work.size, window)
        assert work.windows == len(real)
        assert work.useful_queries == prod(work.size) == sum(map(prod, real))
        assert work.executed_queries == len(real) * window**2
        one_by_one = [attention_macs({size: 1}, work.channels, reduction) for size in real]
        assert work.useful_macs == sum(each[name] for each in one_by_one for name in CORE)
        whole = attention_macs({(window, window): len(real)}, work.channels, reduction)
        assert work.executed_macs == sum(whole[name] for name in CORE)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_stage_is_padded_by_the_same_share(shape):
    works = stage_work(TINY, shape, "win")
    assert {work.padded_share for work in works} == {padded_share(shape)}
    assert needs_padding(shape) == (padded_share(shape) > 0)
    assert all((work.useful_macs < work.executed_macs) == needs_padding(shape) for work in works)
    # the paper's limit is 63; shapes that are multiples of 32 stay 56 tokens below
    first = works[0]
    assert all(-side % 64 <= 56 for side in first.size)


def test_multiples_of_256_need_no_padding_and_nothing_else_does_without():
    sides = range(32, 1345, 32)
    assert [side for side in sides if not needs_padding((side, 512))] == [256, 512, 768, 1024, 1280]
    assert [side for side in sides if not needs_padding((512, side))] == [256, 512, 768, 1024, 1280]


def test_an_image_smaller_than_a_window_is_said_to_be_with_its_padding():
    """64 × 96 pixels are 384 of the 64 × 64 tokens of stage 1's one window; 800 × 224 need four of them."""
    says = "an image of {} is smaller than a window, which spans 256 pixels"
    assert smaller_than_window([(64, 96), (256, 256), (800, 224), (64, 96)]) == [
        f"{says.format('64x96')}: {100 * (1 - 384 / 64**2):.0f} % of the tokens are padding",
        f"{says.format('800x224')}: {100 * (1 - 200 * 56 / (4 * 64**2)):.0f} % of the tokens are padding",
    ]
    # where maps are rounded up, each stage is padded by another share
    assert smaller_than_window([(255, 256)]) == [says.format("255x256")]
    assert smaller_than_window([(256, 257), (800, 1344)]) == []


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("config", [TINY, BASE], ids=["tiny", "base"])
def test_all_blocks_are_there_and_add_up_to_the_backbone(config, style):
    shape = (800, 1216)
    works, all_global = (stage_work(config, shape, each) for each in (style, "global"))
    for stage, depth in enumerate(config.depths, start=1):
        here = [(work.windowed, work.blocks) for work in works if work.stage == stage]
        expected = {
            "global": [(False, depth)],
            "win": [(True, depth)],
            "cwin": [(True, depth)],
            "hwin": [(True, depth - 1), (False, 1)] if depth > 1 else [(False, 1)],
        }
        assert here == expected[style]
    more = [sum(work.blocks * work.executed_macs for work in each) for each in (works, all_global)]
    core = [sum(backbone(config, shape, each)[name] for name in CORE) for each in (style, "global")]
    joined = sum(49 * work.channels * prod(work.size) for work in all_global) if style == "cwin" else 0
    assert more[0] - more[1] == core[0] - core[1] - joined


def test_a_global_block_is_one_window_without_copies():
    for work in stage_work(TINY, (800, 1216), "global"):
        assert (work.windows, work.padded_share, work.copied_bytes(4), work.launches) == (1, 0, 0, 0)
        assert work.useful_macs == work.executed_macs


def partitioned(x_BHWC: Tensor, window: int) -> Tensor:
    """(1, H, W, C) → (windows, w·w, C), padded."""
    height, width = x_BHWC.shape[1:3]
    if height % window or width % window:
        x_BHWC = F.pad(x_BHWC, (0, 0, 0, -width % window, 0, -height % window))
    rows, columns = (side // window for side in x_BHWC.shape[1:3])
    x = x_BHWC.reshape(rows, window, columns, window, -1).transpose(1, 2)
    return x.reshape(rows * columns, window**2, -1)


def put_together(x_BNC: Tensor, window: int, size: Size) -> Tensor:
    """(windows, w·w, C) → (1, H·W, C), cut to the map."""
    rows, columns = (-(-side // window) for side in size)
    x = x_BNC.reshape(rows, columns, window, window, -1).transpose(1, 2)
    x = x.reshape(1, rows * window, columns * window, -1)
    return x[:, : size[0], : size[1]].reshape(1, size[0] * size[1], -1)


def traffic(function: Callable[..., Tensor], *arguments: Any) -> tuple[Tensor, int, int]:
    """The result, elements read and written, and launches, of what PyTorch fills and copies."""
    with torch.inference_mode(), profile(record_shapes=True) as run:
        out = function(*arguments)
    elements, launches = 0, 0
    for event in run.function_events:
        if event.name in ("aten::fill_", "aten::copy_"):
            elements += prod(event.input_shapes[0]) * (2 if event.name == "aten::copy_" else 1)
            launches += 1
    return out, elements, launches


@pytest.mark.parametrize(
    "shape",
    [
        *(
            (512, 768),
            (256, 256),
            (1024, 256),
            (256, 1024),
        ),  # nothing to pad, in one or more rows and columns
        *((800, 1216), (800, 1024), (768, 1216), (800, 256), (800, 224), (256, 224), (224, 256)),
    ],
)
def test_copies_are_those_that_pytorch_makes(shape):
    for work in stage_work(TINY, shape, "win")[2:]:  # stages 3 and 4: the maps are small, the cases the same
        window = TINY.windows[work.stage - 1]
        x_BHWC = torch.arange(prod(work.size) * work.channels, dtype=torch.float32)
        x_BHWC = x_BHWC.view(1, *work.size, work.channels)
        inside, entering, launches_in = traffic(partitioned, x_BHWC, window)
        assert inside.shape == (work.windows, window**2, work.channels)
        out, leaving, launches_out = traffic(put_together, inside, window, work.size)
        assert torch.equal(out.view_as(x_BHWC), x_BHWC)
        assert (work.in_elements, work.out_elements) == (entering, leaving)
        assert work.launches == launches_in + launches_out
        assert work.copied_bytes(2) == 2 * (entering + leaving)


@pytest.mark.parametrize(
    ("config", "shape", "style", "reason"),
    [
        (TINY, (800, 1216), "swin", "there is no style 'swin'; there are global, win, cwin, hwin"),
        (TINY, (800, 1199), "win", "a detector sees multiples of 32, not 800x1199"),
        (TINY, (0, 32), "win", "a detector sees multiples of 32, not 0x32"),
        (RESTV1["restv1_small"], (800, 1216), "win", "ResTv1-S has other parts than ResTv2's"),
    ],
)
def test_what_the_formulas_do_not_hold_for_is_refused(config, shape, style, reason):
    with pytest.raises(ValueError, match=reason):
        stage_work(config, shape, style)


@pytest.mark.parametrize("size", [(224, 224), (448, 224)])
def test_the_closed_form_leaves_out_what_it_says(size):
    """Corrected for its own conventions, the form is the count of the model, to the last MAC."""
    config, side = FOCAL["focal_tiny"], 4
    expected = focal_macs(config, size)
    for stage, depth in enumerate(config.depths):
        elements = (size[0] // side) * (size[1] // side) * config.width * 2**stage
        expected -= elements * (1 + 2 * depth)  # LayerNorms, of the embedding and of the blocks
        if stage < 3:
            expected += depth * 2 * elements * 12  # neighbours that are keys twice
        side *= 2
    expected -= (
        8 * config.width * (size[0] // 16) * (size[1] // 16)
    )  # the last LayerNorm, of four times its tokens
    assert macs.count(parse(f"focal_tiny@{size[0]}x{size[1]}")).macs("core") == expected


def test_the_closed_form_is_for_whole_windows():
    with pytest.raises(ValueError, match="multiples of 224, not 256x224"):
        focal_macs(FOCAL["focal_tiny"], (256, 224))
