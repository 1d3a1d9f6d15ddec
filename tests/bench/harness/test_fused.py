"""The rule for fused bytes, on networks that are counted by hand; and the committed table, some of it counted again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.cases import parse
from bench.counted import counted
from bench.harness import fused
from bench.harness.fused import Fusing
from bench.harness.macs import Counts
from bench.traffic import Traffic, total


def fusing(model: nn.Module, *shape: int) -> tuple[Traffic, Traffic]:
    """What a model moves in eager, and fused."""
    counts, model = Counts(0), model.to("meta").eval()
    counter, given = Fusing(counts), torch.empty(*shape, device="meta")
    counter.images.add([given])
    with torch.inference_mode(), torch.device("meta"), counter:
        model(given)
    return total(counts.traffic.values()), counter.traffic()


def test_calls_between_two_convolutions_are_one_kernel():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False)
    )
    eager, whole = fusing(net, 1, 3, 8, 8)
    # an image of 192 elements, maps of 256: each of the four calls reads and writes its own
    assert (eager.launches, eager.read, eager.written) == (4, 192 + 3 * 256, 4 * 256)
    assert (whole.launches, whole.read, whole.written) == (3, 192 + 2 * 256, 3 * 256)
    assert whole.once == eager.once == 12 + 4 * 4 + 16  # weights, and four numbers a channel of the norm
    assert whole.macs == eager.macs == 64 * (12 + 16)


class Residual(nn.Module):
    """relu(x) is read by a convolution and by the sum behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = (x * 2).relu()
        return (y + self.conv(y)).relu()


def test_what_somebody_else_reads_is_written_and_no_kernel_spans_a_convolution():
    eager, whole = fusing(Residual(), 1, 4, 8, 8)
    assert (eager.launches, eager.read, eager.written) == (5, 6 * 256, 5 * 256)
    # x to y; the convolution; y and what it made to the end
    assert (whole.launches, whole.read, whole.written) == (3, (1 + 1 + 2) * 256, 3 * 256)


def test_a_tensor_that_is_read_twice_is_loaded_once():
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.sigmoid() + x

    _, whole = fusing(Twice(), 1, 4, 8, 8)
    assert (whole.launches, whole.read, whole.written) == (1, 256, 256)


@pytest.mark.parametrize(
    "case", ["timm:resnet18@224:auto", "timm:vit_tiny_patch16_224@224:auto", "restv2_lite@224:eager"]
)
def test_the_committed_table_is_what_is_counted(case):
    asked = parse(case)
    assert fused.line_of(asked) == counted()[asked.paper_name]
