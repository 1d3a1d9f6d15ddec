"""The images that an analysis looks at: read, cut and normalised as a classifier gets them."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from bench import images
from bench.harness import inputs
from bench.harness.branches import Fourier, analyse
from tests.support.pictures import picture


def of_torchvision(image: Image.Image) -> Tensor:
    """As the authors' fourier_analysis.py shows ImageNet to their model."""
    steps = [v2.Resize(256), v2.CenterCrop(224), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([*steps, v2.Normalize(inputs.MEAN, inputs.STD)])(image)


def loaded(folder: Path, size: tuple[int, int] = (224, 224)) -> Tensor:
    images = inputs.pictures(str(folder), size)
    return images.load(range(len(images)))


@pytest.mark.parametrize(
    ("size", "bound"),
    [((512, 640), 1e-5), ((256, 256), 1e-5), ((768, 512), 1e-5), ((375, 500), 0.1), ((240, 320), 0.1)],
)
def test_images_are_prepared_as_by_torchvision(tmp_path, size, bound):
    """To rounding where the shorter side is a multiple of 256; else its 256 are rounded, and half a pixel apart."""
    image = picture(size)
    image.save(tmp_path / "a.png")
    difference = (loaded(tmp_path)[0] - of_torchvision(image)).abs()
    assert difference.max() < bound if bound < 0.01 else difference.mean() < bound


def test_of_an_oblong_image_the_middle_is_taken_to_its_own_proportions(tmp_path):
    """A white band of 200 × 400 in a black image; asked for 1 to 2, all is white; asked for a square, its middle."""
    image = Image.new("RGB", (1000, 400))
    image.paste((255, 255, 255), (300, 0, 700, 400))
    image.save(tmp_path / "a.png")
    low, high = ((value - inputs.MEAN[0]) / inputs.STD[0] for value in (0, 1))
    square = loaded(tmp_path, (64, 64))[0, 0]
    assert square.unique().tolist() == pytest.approx([high])
    wide = loaded(tmp_path, (32, 128))[0, 0]
    ends = wide[16, [0, 127]]
    assert ends.tolist() == pytest.approx([low, low])
    # 400 pixels of 1000 / (256/224) in 128
    assert (wide[16] > (low + high) / 2).sum().item() == pytest.approx(400 / (1000 * 224 / 256) * 128, abs=2)


def test_a_panorama_takes_no_more_memory_than_what_is_kept(tmp_path):
    Image.new("RGB", (20000, 2), (9, 9, 9)).save(tmp_path / "a.png")  # to 256 rows it would be 2 GB
    assert loaded(tmp_path).shape == (1, 3, 224, 224)


@pytest.mark.parametrize(
    ("mode", "colour", "file", "expected"),
    [
        ("L", 128, "a.png", (128, 128, 128)),
        ("LA", (128, 7), "a.png", (128, 128, 128)),
        ("1", 1, "a.bmp", (255, 255, 255)),
        ("RGBA", (10, 200, 30, 0), "a.webp", None),
        ("RGBA", (10, 200, 30, 99), "a.png", (10, 200, 30)),
        ("P", 3, "a.png", None),
        ("I;16", 128 * 257, "a.png", (128, 128, 128)),
        ("CMYK", (0, 255, 255, 0), "a.jpg", (254, 0, 0)),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_any_mode_becomes_rgb(tmp_path, mode, colour, file, expected):
    Image.new(mode, (40, 30), colour).save(tmp_path / file)
    x_3HW = loaded(tmp_path, (32, 32))[0]
    assert x_3HW.shape == (3, 32, 32)
    if expected:
        for channel, value, mean, std in zip(x_3HW, expected, inputs.MEAN, inputs.STD, strict=True):
            assert channel.mean().item() * std * 255 + mean * 255 == pytest.approx(value, abs=1.01)


def png() -> bytes:
    file = io.BytesIO()
    picture((64, 64)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not an image"),
        (b"not an image at all", "is not an image"),
        (png()[:40], "is not an image|is a corrupt image"),
        (png()[: len(png()) // 2], "is a corrupt image: image file is truncated"),
        (png()[:60] + bytes(40) + png()[100:], "is a corrupt image"),
    ],
    ids=["empty", "text", "head", "half", "zeros"],
)
def test_a_corrupt_image_stops_the_analysis_and_is_named(tmp_path, lite, content, reason):
    for name in "abcde":
        picture((40, 40)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(content)
    images = inputs.pictures(str(tmp_path), (32, 32))
    with torch.inference_mode(), pytest.raises(ValueError, match=f"c.png ({reason})") as error:
        analyse(lite, images, Fourier(), batch=16)
    assert "\n" not in str(error.value)


def test_an_image_that_went_away_is_named(tmp_path):
    picture((40, 40)).save(tmp_path / "a.png")
    images = inputs.pictures(str(tmp_path), (32, 32))
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"^cannot read .*a.png: No such file"):
        images.load([0])


def test_a_folder_is_searched_to_its_depth_and_in_order_but_for_what_is_hidden(tmp_path):
    listed = ("B.JPG", "a.png", "b/c/d.webp", "b/x.jpeg", "z.bmp")
    for name in (*listed, "notes.txt", "._a.png", ".cache/e.png", "b/.f.jpg", "clip.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = images.find(tmp_path)
    assert tuple(file.relative_to(tmp_path).as_posix() for file in found.files) == listed
    assert found.found == len(listed)


def test_of_too_many_images_as_many_as_allowed_are_taken_at_even_distances(tmp_path):
    for number in range(900):
        (tmp_path / f"{number:03}.png").touch()
    found = images.find(tmp_path)
    numbers = [int(file.stem) for file in found.files]
    assert (found.found, len(numbers), numbers[0]) == (900, 256, 0)
    assert {b - a for a, b in itertools.pairwise(numbers)} == {3, 4}
    assert numbers[-1] >= 896


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: None, "there is no such folder"),
        (lambda folder: folder.touch(), "there is no such folder"),
        (lambda folder: folder.mkdir(), "no image in that folder"),
        (lambda folder: folder.mkdir() or (folder / "a.gif").touch(), "known are bmp, jpeg, jpg, png, webp"),
    ],
    ids=["missing", "file", "empty", "gif"],
)
def test_a_folder_without_images_is_named(tmp_path, make, reason):
    folder = tmp_path / "photos"
    make(folder)
    with pytest.raises(ValueError, match=f"images=.*photos: .*{reason}"):
        images.find(folder)


def test_a_row_says_how_many_of_how_many_and_what_was_in_them(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "LIMIT", 2)

    def about(folder: Path, seeds: tuple[int, ...]) -> dict[str, object]:
        folder.mkdir()
        for seed in seeds:
            picture((40, 40), seed).save(folder / f"{seed}.png")
        images = inputs.pictures(str(folder), (32, 32))
        images.load([1])  # in whatever order
        images.load([0])
        return images.about()

    one = about(tmp_path / "one", (1, 2, 3))
    assert one == {"source": "folder", "used": 2, "found": 3, "hash": one["hash"], "folder": "one"}
    assert about(tmp_path / "copy", (1, 2, 3))["hash"] == one["hash"]
    assert about(tmp_path / "other", (1, 4, 3))["hash"] != one["hash"]


def test_synthetic_images_have_the_amplitudes_of_nature_and_are_the_same_each_time():
    images = inputs.pictures(None, (128, 96))
    x_BCHW = images.load(range(len(images)))
    assert x_BCHW.shape == (16, 3, 128, 96)
    assert x_BCHW.mean((1, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(x_BCHW.square().mean((1, 2, 3)), torch.ones(16))
    assert images.load([5])[0].equal(x_BCHW[5])
    assert not x_BCHW[5].equal(x_BCHW[6])
    # rows and columns alike fall as 1/f: from 4 to 16 periods a side to a quarter
    amplitude_HW = torch.fft.fft2(x_BCHW).abs().square().mean((0, 1)).sqrt()
    assert (amplitude_HW[16, 0] / amplitude_HW[4, 0]).item() == pytest.approx(1 / 4, rel=0.3)
    f = torch.fft.fftfreq(128)[:, None].hypot(torch.fft.fftfreq(96))
    inside = (f > 0.03) & (f < 0.5)
    x, y = f[inside].log(), amplitude_HW[inside].log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert slope.item() == pytest.approx(-1, abs=0.05)
