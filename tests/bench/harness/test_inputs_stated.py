"""Inputs other than one image of three channels: as an option or the class says; and what is said where they fail."""

from __future__ import annotations

import pytest
import torch

from bench.cases import parse
from bench.errors import Refused
from bench.harness import inputs, macs
from bench.harness.prepare import Spent, prepare

CPU = torch.device("cpu")
SOURCE = '''
import torch
from torch import nn


class Grey(nn.Sequential):
    """Images of one channel; nothing says so."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


class Stated(Grey):
    INPUTS = (1, 12, 12)


class Video(nn.Sequential):
    INPUTS = [(3, 4, 16, 16)]

    def __init__(self):
        super().__init__(nn.Conv3d(3, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 5))


class Both(nn.Module):
    """An image and a vector."""

    INPUTS = [(3, 8, 8), (10,)]

    def __init__(self):
        super().__init__()
        self.of_image, self.of_vector = nn.Linear(192, 5), nn.Linear(10, 5)

    def forward(self, image, vector):
        return self.of_image(image.flatten(1)) + self.of_vector(vector)


class Words(nn.Module):
    """Whole numbers beside an image."""

    INPUTS = [(3, 8, 8), torch.arange(6)]

    def __init__(self):
        super().__init__()
        self.of_image, self.table = nn.Linear(192, 5), nn.Embedding(6, 5)

    def forward(self, image, words):
        assert words.dtype == torch.int64
        return self.of_image(image.flatten(1)) + (self.table(words) * torch.arange(6.0)[:, None]).sum(1)


class Named(Both):
    """Takes both by name alone, and one more that has a default."""

    INPUTS = {"vector": (10,), "image": (3, 8, 8)}

    def forward(self, *, image, vector=None, scale=1.0):
        return super().forward(image, vector) * scale


KEPT = Named()


def kept():
    return KEPT


kept.INPUTS = Named.INPUTS


class Wrong(Grey):
    INPUTS = ["3x224x224"]


class Alike(Grey):
    INPUTS = [torch.zeros(128, dtype=torch.long)]


class Broken(nn.Module):
    def forward(self, x):
        raise KeyError("x")
'''


@pytest.fixture(autouse=True)
def classes(write_module):
    write_module("stated_nets", SOURCE)


def made(text: str):
    return prepare(parse(text).resolve(2, "fp32"), 1, CPU, lambda phase: None, Spent())


# MACs by hand: a convolution's outputs times its kernel and channels, then the linear layers
COUNTED = {
    "Grey[inputs=1x28x28]": 26 * 26 * 4 * 9 + 20,
    "Stated": 10 * 10 * 4 * 9 + 20,
    "Stated[inputs=1x28x28]": 26 * 26 * 4 * 9 + 20,
    "Video": 2 * 14 * 14 * 4 * 81 + 20,
    "Both": 192 * 5 + 10 * 5,
    "Words": 192 * 5,
    "Named": 192 * 5 + 10 * 5,
}


@pytest.mark.parametrize(("text", "right"), COUNTED.items())
def test_a_model_is_counted_and_prepared_with_its_own_inputs(text, right):
    assert macs.count(parse(f"stated_nets:{text}")).macs("core") == right
    prepared = made(f"stated_nets:{text}")
    assert prepared.run().shape == (2, 5)
    assert prepared.finish() == []


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp64"])
def test_whole_numbers_stay_whole_in_every_dtype(dtype):
    case = parse(f"stated_nets:Words:b3:{dtype}")
    ((image, words),) = inputs.calls(case, 3, CPU, dtype=torch.bfloat16)
    assert (image.dtype, words.dtype) == (torch.bfloat16, torch.int64)
    assert words.tolist() == [[0, 1, 2, 3, 4, 5], [5, 0, 1, 2, 3, 4], [4, 5, 0, 1, 2, 3]]


def test_memory_order_is_of_images_alone():
    ((image, vector),) = inputs.calls(
        parse("stated_nets:Both"), 2, CPU, memory_format=torch.channels_last, dtype=torch.float32
    )
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert vector.shape == (2, 10)
    assert made("stated_nets:Both[channels_last]").run().shape == (2, 5)


def test_what_goes_by_name_keeps_the_names_of_its_weights():
    prepared = made("stated_nets:Named")
    assert prepared.notes[0] == "called with 10 and 3x8x8 an image, as the class says"
    counts = macs.count(parse("stated_nets:Named"))
    assert counts.by_module("core") == {"of_image": 192 * 5, "of_vector": 10 * 5}
    assert counts.parameters_by_module == {"of_image": 193 * 5, "of_vector": 11 * 5}


def test_a_model_that_is_kept_by_its_maker_is_called_by_name_however_often_it_is_built():
    for _ in range(2):
        assert macs.count(parse("stated_nets:kept")).macs("core") == COUNTED["Named"]


def test_what_the_class_says_is_noted():
    assert "called with 3x8x8 and 10 an image, as the class says" in made("stated_nets:Both").notes
    assert made("stated_nets:Grey[inputs=1x28x28]").notes == []


def test_training_takes_one_input():
    assert made("stated_nets:Stated:train").run().isfinite()
    with pytest.raises(Refused, match="a step of training is of one input, and stated_nets:Both has 2"):
        made("stated_nets:Both:train")


@pytest.mark.parametrize("make", [made, lambda text: macs.count(parse(text))])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "stated_nets:Grey@16",
            r"called with 3x16x16 an image, and \[inputs=1x28x28\+10\], or INPUTS = .* says",
        ),
        (
            "stated_nets:Both[inputs=3x8x8]",
            "missing 1 required positional argument: 'vector'; it is called with 3x8x8",
        ),
        (
            "stated_nets:Wrong",
            "INPUTS of stated_nets:Wrong has to list, or name, a shape or a tensor for each input",
        ),
        (
            "stated_nets:Alike",
            "INPUTS of stated_nets:Alike are whole numbers that are all the same: give some that",
        ),
        ("stated_nets:Named[inputs=10+3x8x8+5]", "3 inputs for the 2 that INPUTS names; it is called with"),
        (
            "stated_nets:Stated@coco10",
            "stated_nets:Stated is called with its INPUTS alone, and not with the sizes of",
        ),
    ],
)
def test_a_forward_that_fails_says_what_it_was_called_with_and_how_to_change_that(make, text, words):
    with pytest.raises((ValueError, RuntimeError, TypeError), match=words) as caught:
        make(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_error_that_inputs_do_not_explain_is_left_as_it_is():
    with pytest.raises(KeyError, match=r"^'x'$"):
        made("stated_nets:Broken")
