"""Grouped convolutions of float64, tap by tap: those of PyTorch, outputs and gradients, and for these alone."""

import pytest
import torch
from torch import nn

from models.exact import QuickDoubles


@pytest.mark.parametrize(
    ("channels", "out", "kernel", "options"),
    [
        (8, 8, 3, {"groups": 8, "padding": 1}),
        (8, 16, 3, {"groups": 4, "stride": 2}),
        (3, 12, 3, {"groups": 3, "padding": 1, "bias": False}),
        (6, 9, (3, 5), {"groups": 3, "stride": (1, 2), "padding": (1, 2), "dilation": (2, 1)}),
        (8, 32, 1, {"groups": 8}),
        (4, 4, (13, 11), {"groups": 2}),
    ],
    ids=str,
)
@pytest.mark.parametrize("images", [0, 2])
def test_outputs_and_gradients_are_pytorchs(channels, out, kernel, options, images):
    conv = nn.Conv2d(channels, out, kernel, **options).double()
    image = torch.randn(images, channels, 13, 11, dtype=torch.float64, requires_grad=True)
    right = conv(image)
    with QuickDoubles():
        found = conv(image)
        found.square().sum().backward()
    gradients = [tensor.grad for tensor in (image, *conv.parameters())]
    torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
    for gradient, truth in zip(
        gradients, torch.autograd.grad(right.square().sum(), (image, *conv.parameters())), strict=True
    ):
        torch.testing.assert_close(gradient, truth, rtol=1e-11, atol=1e-11)


def test_the_groups_are_convolved_at_once_and_all_else_is_left_to_pytorch():
    def convolutions(conv: nn.Module, image: torch.Tensor) -> int:
        with QuickDoubles(), torch.profiler.profile() as profiled:
            conv(image)
        return sum(event.count for event in profiled.key_averages() if event.key == "aten::conv2d")

    grouped = nn.Conv2d(4, 4, 3, groups=4)
    same = nn.Conv2d(4, 4, 3, groups=4, padding="same")
    whole = nn.Conv2d(4, 4, 3)
    image = torch.randn(1, 4, 8, 8)
    assert convolutions(grouped, image) == 1
    assert convolutions(whole.double(), image.double()) == 1
    assert convolutions(same.double(), image.double()) == 1
    assert convolutions(grouped.double(), image.double()) == 0
