"""The inputs of a model: seeded tensors, the same in every run; images where an analysis looks at features."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

import models
from bench import images as files
from bench.cases import Case, format_size
from bench.errors import out_of_memory
from models import cost
from models.config import Shape, Size
from models.variants import MODELS, input_shapes, own_size

Example: TypeAlias = Shape | Tensor  # of one image: the shape of a tensor that is made, or a tensor as it is

SEED = 20220415
DISTINCT = 8  # images of a batch that differ; a larger batch repeats them

# Mean and spread of ImageNet's photographs, in RGB: every model here was trained with them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MARGIN = 256 / 224  # an image is made so much larger than what is cut from its middle


def sizes_of(case: Case) -> list[Size]:
    """The sizes that a case runs in turn: its one size, or those that stand for its mix, the smallest first.

    Raises:
        ValueError: the images of the mix cannot be read.
    """
    if case.mix is None:
        return [case.size]
    sizes = files.representatives(files.read(case.mix.source), case.mix.shapes)
    return sorted(sizes, key=lambda size: (size[0] * size[1], size))


def notes_on_sizes(case: Case) -> list[str]:
    """Lines that a reader must see of a case's sizes: inputs of the class's own, images smaller than windows."""
    if case.is_users and not case.has("inputs") and _stated(case) is not None:
        return [f"called with {_written(examples(case, case.size))} an image, as the class says"]
    return cost.smaller_than_window(sizes_of(case)) if case.windowed else []


def examples(case: Case, size: Size) -> tuple[Example, ...]:
    """The arguments of the case's model for one image of `size`, as shapes or tensors.

    As `inputs=…` says, else the class attribute INPUTS of a user's class; else an image, or a stage's tokens.

    Raises:
        ValueError: INPUTS is no list of shapes and tensors, leaves nothing to tell one input from another by, or says
            otherwise than the sizes of a mix; or the class cannot be imported.
    """
    stated = None if case.has("inputs") else _stated(case)
    if stated is not None and case.mix:
        raise ValueError(f"{case.model} is called with its INPUTS alone, and not with the sizes of a mix")
    return input_shapes(case.model, size, **case.model_options) if stated is None else stated


def _stated(case: Case) -> tuple[Example, ...] | None:
    """The INPUTS of a user's class; None where it has none, or another's model."""
    stated = getattr(models.users_class(case.model), "INPUTS", None) if case.is_users else None
    if stated is None:
        return None
    if isinstance(stated, dict):
        stated = list(stated.values())  # a model is built so that it takes by position what the keys name
    if isinstance(stated, Tensor) or (isinstance(stated, tuple) and _is_shape(stated)):
        stated = [stated]  # of a single input
    if isinstance(stated, list | tuple) and stated:
        found = tuple(each if isinstance(each, Tensor) else tuple(each) for each in map(_listed, stated))
        if all(isinstance(each, Tensor) and _is_constant(each) for each in found):
            raise ValueError(
                f"INPUTS of {case.model} are whole numbers that are all the same: give some that differ, "
                "or no check could tell an output that depends on them from one that does not"
            )
        if all(isinstance(each, Tensor) or _is_shape(each) for each in found):
            return found
    raise ValueError(
        f"INPUTS of {case.model} has to list, or name, a shape or a tensor for each input of one image, "
        f"as [(3, 224, 224), (10,)], and is {stated!r}"[:300]
    )


def _is_constant(each: Tensor) -> bool:
    """Whether a tensor of whole numbers is the same in whatever order it is read."""
    return not each.is_floating_point() and bool((each == each.flatten()[:1]).all())


def _listed(each: Any) -> Any:
    return each if isinstance(each, list | tuple | Tensor) else ()


def _is_shape(each: Sequence[Any]) -> bool:
    return bool(each) and all(type(side) is int and side > 0 for side in each)


def _written(given: Sequence[Example]) -> str:
    shapes = [
        ("x".join(map(str, each.shape)) + f" {str(each.dtype).removeprefix('torch.')}")
        if isinstance(each, Tensor)
        else "x".join(map(str, each))
        for each in given
    ]
    return " and ".join(shapes)


TELLING = (TypeError, AssertionError, RuntimeError, ValueError, IndexError)  # what wrong inputs end in


@contextmanager
def explained(case: Case) -> Iterator[None]:
    """Adds to an error of a foreign model what it is called with, and how to call it with something else."""
    try:
        yield
    except TELLING as error:
        if type(error) not in TELLING or case.model in MODELS or out_of_memory(error):
            raise
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
        raise type(error)(f"{first[:140]}; {how_called(case)}") from error


def how_called(case: Case) -> str:
    """A line on what a foreign model is called with, and how to have it called with something else."""
    called = f"it is called with {_written(examples(case, case.size))} an image"
    if case.is_users:
        if case.has("inputs"):
            return called
        return f"{called}, and [inputs=1x28x28+10], or INPUTS = [(1, 28, 28), (10,)] in the class, says with what else"
    own = format_size(own_size(case.model))
    if case.mix:
        said = "; [dynamic_img_size] fits some models to each" if not case.has("dynamic_img_size") else ""
        return f"it is called with images of many sizes, and timm means it for {own}{said}"
    return f"{called}; timm means it for {own}: write @{own}" if format_size(case.size) != own else called


def about_mix(case: Case) -> dict[str, Any] | None:
    """A mix for its row: the shapes that stand for how many images, and how well; None for a case of one size."""
    if case.mix is None:
        return None
    sizes, chosen = files.read(case.mix.source), sizes_of(case)
    likeness = files.likeness(sizes, chosen)
    return {
        "shapes": chosen,
        "images": len(sizes),
        "area_ratio": likeness.area_ratio,
        "share": likeness.share,
    }


def calls(case: Case, batch: int, device: torch.device, **form: Any) -> list[tuple[Tensor, ...]]:
    """The arguments that a case's model is called with in turn, (batch, …) each: images, or tokens for a part of a
    model.

    Sizes that come again are the same tensors again.

    Args:
        form: the dtype and memory format that they are converted to.
    """
    made: dict[Size, tuple[Tensor, ...]] = {}
    for size in sizes_of(case):
        if size not in made:
            tensors = _normal(examples(case, size), batch, device)
            made[size] = tuple(formed(tensor, **form) for tensor in tensors)
    return [made[size] for size in sizes_of(case)]


def formed(tensor: Tensor, dtype: torch.dtype | None = None, memory_format: Any = None) -> Tensor:
    """A tensor in a dtype and memory format: only floating-point ones have the one, only images the other."""
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    if memory_format is None or (memory_format == torch.channels_last and tensor.ndim != 4):
        return tensor
    return tensor.contiguous(memory_format=memory_format)


def unlike(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Arguments of the same form with other values."""
    generator = torch.Generator().manual_seed(SEED + 1)
    return tuple(
        torch.empty_like(tensor).copy_(torch.randn(tensor.shape, generator=generator))
        if tensor.is_floating_point()
        else tensor.flip(-1)
        for tensor in given
    )


def rolled(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same images, each a place later in the batch, in the same memory format."""
    return tuple(torch.empty_like(tensor).copy_(tensor.roll(1, 0)) for tensor in given)


def images(batch: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Tensors in place of normalised photographs: (batch, 3, H, W)."""
    return _normal(((3, *size),), batch, device)[0]


def _normal(given: Sequence[Example], batch: int, device: torch.device) -> tuple[Tensor, ...]:
    """Normal tensors, seeded, in fp32, or what stands for one image rolled; a few repeat where the batch is large.

    The first of them do not depend on the batch, so a case halved by lack of memory sees the same ones.
    """
    generator = torch.Generator().manual_seed(SEED)
    tensors = []
    for one in given:
        count = min(batch, DISTINCT)
        if isinstance(one, Tensor):
            distinct = torch.stack([one.roll(i, -1) if one.ndim else one for i in range(count)]).to(device)
            shape = tuple(one.shape)
        else:
            shape = one
            distinct = torch.randn(count, *shape, generator=generator).to(device)
        times = -(-batch // len(distinct))
        tensors.append(distinct.repeat(times, *[1] * len(shape))[:batch].contiguous())
    return tuple(tensors)


# ---- images to look at: what is in them matters, as it does not for a time


class Pictures(Protocol):
    """A numbered set of images, made or read as they are asked for."""

    def __len__(self) -> int: ...

    def load(self, numbers: Sequence[int]) -> Tensor:
        """(len(numbers), 3, H, W) in fp32 on the CPU, normalised."""
        ...

    def about(self) -> dict[str, Any]:
        """The images for a row, once they are loaded: source, used, found, hash, folder."""
        ...


def pictures(folder: str | None, size: tuple[int, int]) -> Pictures:
    """The photographs of a folder, or synthetic images where there is none.

    Raises:
        ValueError: no such folder, or no image in it; `load` raises it for a file that is no image.
    """
    return Photographs(files.find(Path(folder)), size) if folder else Synthetic(size)


class Synthetic:
    """Seeded noise whose amplitude falls with frequency f as 1/f, as that of photographs does on average.

    White noise would be of no use here: its spectrum is flat, and that of every natural image is not (Field 1987,
    "Relations between the statistics of natural images and the response properties of cortical cells"). There are
    neither edges nor objects in it, so it shows what a network does to amplitudes and nothing about what it has learnt
    to see.
    """

    def __init__(self, size: tuple[int, int], count: int = files.SYNTHETIC) -> None:
        self._size, self._count = size, count

    def __len__(self) -> int:
        return self._count

    def load(self, numbers: Sequence[int]) -> Tensor:
        """(len(numbers), 3, H, W) in fp32 on the CPU."""
        return torch.stack([self._one(number) for number in numbers])

    def _one(self, number: int) -> Tensor:
        """One image, (3, H, W) of mean 0 and variance 1; the colours have most in common, as in a photograph."""
        generator = torch.Generator().manual_seed(SEED + number)
        noise = torch.randn(1, *self._size, generator=generator)
        noise = noise + torch.randn(3, *self._size, generator=generator) / 2
        height, width = self._size
        frequency = torch.fft.fftfreq(height)[:, None].hypot(torch.fft.rfftfreq(width))
        frequency[0, 0] = math.inf  # the mean is 0
        image = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, self._size)
        return image / image.square().mean().sqrt()

    def about(self) -> dict[str, Any]:
        """The images for a row."""
        return {
            "source": "synthetic",
            "used": len(self),
            "found": len(self),
            "hash": None,
            "folder": None,
            "amplitude": "1/f",
            "seed": SEED,
        }


class Photographs:
    """The images of a folder as a classifier gets ImageNet's: RGB, resized, the middle cut out, normalised."""

    def __init__(self, found: files.Photos, size: tuple[int, int]) -> None:
        self._found, self._size = found, size
        self._hashes: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._found.files)

    def load(self, numbers: Sequence[int]) -> Tensor:
        """(len(numbers), 3, H, W) in fp32 on the CPU, normalised.

        Raises:
            ValueError: a file cannot be read as an image.
        """
        return torch.stack([self._one(number) for number in numbers])

    def _one(self, number: int) -> Tensor:
        file = self._found.files[number]
        try:
            content = file.read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read {file}: {error.strerror}") from None
        self._hashes[number] = hashlib.sha256(content).hexdigest()
        mean, std = (torch.tensor(channels)[:, None, None] for channels in (MEAN, STD))
        return (_decoded(content, file, self._size) / 255 - mean) / std

    def about(self) -> dict[str, Any]:
        """The images for a row, without the way to their folder."""
        hashes = "".join(self._hashes[number] for number in sorted(self._hashes))
        return {
            "source": "folder",
            "used": len(self),
            "found": self._found.found,
            "hash": hashlib.sha256(hashes.encode()).hexdigest(),
            "folder": self._found.folder.name,  # where that is, is nobody's business in a results file
        }


def _decoded(content: bytes, file: Path, size: tuple[int, int]) -> Tensor:
    """The pixels of an image, (3, H, W) of 0 to 255: torchvision's Resize(256) and CenterCrop(224), at any size.

    Both happen in one step, so that of a panorama no more is made than is kept. Alpha is dropped and a turned camera
    is not turned back, as torchvision's loader does; 16 bits are made 8.

    Raises:
        ValueError: it is no image, or a corrupt one; the line names the file.
    """
    from PIL import Image, UnidentifiedImageError  # late, because nothing that is timed needs it

    height, width = size
    try:
        with Image.open(io.BytesIO(content), formats=files.FORMATS) as image:
            if image.width * image.height > files.MAX_PIXELS:
                raise ValueError(f"of {image.width}x{image.height} pixels, more than {files.MAX_PIXELS:,}")
            deep = image.mode.startswith("I")  # 16 bits, which `convert` alone would cut off at 255
            grey = (
                image.convert("I").point(lambda value: value * (255 / 65535)).convert("L") if deep else image
            )
            rgb = grey.convert("RGB")
        pixels = min(rgb.width / width, rgb.height / height) / MARGIN  # the file's, for one of ours
        left, top = (rgb.width - width * pixels) / 2, (rgb.height - height * pixels) / 2
        box = (left, top, left + width * pixels, top + height * pixels)
        cut = rgb.resize((width, height), Image.Resampling.BILINEAR, box)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise ValueError(f"{file} is not an image") from None
    except Exception as error:  # what a corrupt file does to the decoders has no end
        raise ValueError(f"{file} is a corrupt image: {error or type(error).__name__}") from None
    data = torch.frombuffer(bytearray(cut.tobytes()), dtype=torch.uint8)
    return data.view(height, width, 3).permute(2, 0, 1).float()
