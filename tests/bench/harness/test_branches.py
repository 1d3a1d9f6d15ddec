"""Figures 3 and 4: what the analyses of branches give is held to theory, to loops, and to torchvision."""

from __future__ import annotations

import cmath
import io
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

import models
from bench import images, jobs, process
from bench.__main__ import main
from bench.cases import parse
from bench.errors import UsageError
from bench.harness import branches, inputs
from bench.harness.branches import CKA, Fourier, analyse, log_amplitude, minibatches, watched
from bench.harness.prepare import Spent
from bench.jobs import job_of
from bench.machine import devices, provenance
from bench.protocols import PROTOCOLS
from bench.record import read

RULES = PROTOCOLS["default"]["cpu"]
CPU = devices.cpu_device()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """What runs here is small: two threads would only wait for each other where something else runs besides."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- Fourier ---------------------------------------------------------------------------------------------


def curve(x_BCHW: Tensor) -> Tensor:
    """Log amplitude less that at frequency 0, mean over images and channels: (F,)."""
    mean_F = log_amplitude(x_BCHW).mean((0, 1))
    return mean_F - mean_F[0]


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (1, 1), (4, 10), (11, 6)])
def test_a_constant_map_has_nothing_but_frequency_0_and_the_floor(size):
    values = curve(torch.full((2, 3, *size), -4.2))
    assert len(values) == min(size) // 2 + 1
    assert values[0] == 0
    # rounding of the transform may add to the floor, but not as much as it
    assert ((values[1:] >= math.log(1e-6) - 1e-3) & (values[1:] < math.log(2e-6))).all()


@pytest.mark.parametrize("n", [16, 15, 2])
def test_a_cosine_along_the_diagonal_has_its_peak_where_it_is_and_of_its_height(n):
    y, x = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    for k in range(n // 2 + 1):
        amplitude = log_amplitude(3 * torch.cos(2 * math.pi * k * (y + x) / n)[None, None])[0, 0]
        assert amplitude.argmax() == k
        alone = k in (0, n / 2)  # its own mirror image; any other cosine is two exponentials
        assert amplitude[k].exp().item() == pytest.approx(3 * n * n / (1 if alone else 2), rel=1e-4)
        rest = amplitude[torch.arange(len(amplitude)) != k]
        assert (rest < amplitude[k] - 10).all()


def test_white_noise_is_flat_but_for_its_real_coefficients():
    """The mean of ln|z| is ½ ln 2 larger for a complex normal z than for a real one of the same variance.

    A real map's coefficients are real at 0 and, in a map of even sides, at π.
    """
    values = curve(normal(64, 32, 16, 16))
    sd = math.pi / math.sqrt(8) / math.sqrt(64 * 32)  # of the mean of ln|z|, z real
    assert values[1:-1].sub(math.log(2) / 2).abs().max() < 5 * sd
    assert values[-1].abs() < 5 * math.sqrt(2) * sd


@pytest.mark.parametrize("scale", [2.0**-30, 2.0**20])
def test_the_curve_does_not_depend_on_the_scale_of_features(scale):
    x_BCHW = normal(2, 3, 8, 8) + torch.cos(torch.arange(8.0))
    torch.testing.assert_close(curve(scale * x_BCHW), curve(x_BCHW), atol=1e-5, rtol=0)


def test_a_map_of_zeros_is_flat_and_not_infinite():
    assert curve(torch.zeros(1, 1, 6, 6)).tolist() == [0, 0, 0, 0]


def transform(rows: list[list[float]], u: int, v: int) -> complex:
    """One coefficient of the discrete Fourier transform, by its definition."""
    height, width = len(rows), len(rows[0])
    return sum(
        rows[y][x] * cmath.exp(-2j * cmath.pi * (u * y / height + v * x / width))
        for y in range(height)
        for x in range(width)
    )


@pytest.mark.parametrize(
    ("size", "at"),
    [
        ((6, 6), [(0, 0), (1, 1), (2, 2), (3, 3)]),
        ((5, 5), [(0, 0), (1, 1), (2, 2)]),
        ((5, 8), [(0, 0), (1, 2), (2, 3)]),  # 1/5 of a period a pixel lies nearest 2/8, 2/5 nearest 3/8
        ((8, 5), [(0, 0), (2, 1), (3, 2)]),
        ((4, 12), [(0, 0), (1, 3), (2, 6)]),
    ],
)
def test_amplitudes_are_those_of_the_transform_by_loops(size, at):
    x_HW = normal(*size).double()
    expected = [math.log(abs(transform(x_HW.tolist(), u, v))) for u, v in at]
    assert log_amplitude(x_HW[None, None])[0, 0].tolist() == pytest.approx(expected, abs=1e-4)  # the floor's


def test_frequencies_are_in_units_of_pi_and_true_to_each_map():
    assert branches.frequencies((56, 56)) == [i / 28 for i in range(29)]
    assert branches.frequencies((7, 7)) == pytest.approx([0, 2 / 7, 4 / 7, 6 / 7])
    assert branches.frequencies((25, 42)) == branches.frequencies((25, 25))


def tokens(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.flatten(2).transpose(1, 2)


def test_folding_in_batches_gives_the_mean_over_all_images_and_channels():
    maps = {name: normal(10, 3, 4, 6, seed=i) for i, name in enumerate(branches.WORDS)}
    analysis = Fourier()
    for part in (slice(0, 7), slice(7, 10)):
        analysis.add("a block", {name: tokens(x_BCHW[part]) for name, x_BCHW in maps.items()}, (4, 6))
    result = analysis.result()
    assert result["blocks"] == ["a block"]
    assert result["frequencies"] == [[0, 0.5, 1]]
    for name, x_BCHW in maps.items():
        assert result["log_amplitude"][name] == [pytest.approx(curve(x_BCHW).tolist(), abs=1e-5)]


# --- CKA -------------------------------------------------------------------------------------------------


def products(x_Bp: Tensor) -> list[list[float]]:
    rows = x_Bp.double().tolist()
    return [[math.fsum(a * b for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]


def hsic_by_loops(k: list[list[float]], m: list[list[float]]) -> float:
    """Equation 5 of Song et al., "Feature Selection via Dependence Maximization" (JMLR 2012), sum by sum."""
    n = len(k)
    others = [[j for j in range(n) if j != i] for i in range(n)]
    same = sum(k[i][j] * m[i][j] for i in range(n) for j in others[i])
    all_k = sum(k[i][j] for i in range(n) for j in others[i])
    all_m = sum(m[i][j] for i in range(n) for j in others[i])
    chained = sum(k[i][j] * m[i][q] for i in range(n) for j in others[i] for q in others[i])
    return (same + all_k * all_m / ((n - 1) * (n - 2)) - 2 * chained / (n - 2)) / (n * (n - 3))


def cka(*batches: dict[str, Tensor]) -> dict[str, float]:
    """By pair, of batches of (B, N, C); a branch that is not given is noise of its own."""
    analysis = CKA()
    for number, given in enumerate(batches):
        shape = next(iter(given.values())).shape
        noise = {name: normal(*shape, seed=100 * number + i) for i, name in enumerate(branches.WORDS)}
        analysis.add("a block", {**noise, **given}, (1, shape[1]))
    return {pair: values[0] for pair, values in analysis.result()["cka"].items()}


def test_cka_is_that_of_loops_over_images_also_where_minibatches_differ_in_size():
    mixed = [normal(n, 3, 2, seed=n) for n in (6, 4)]
    batches = [
        {"attn": x, "up": x.pow(2) + 1, "com": x + normal(*x.shape, seed=9)}
        for x in mixed
    ]  # fmt: skip
    grams = [{name: products(x.flatten(1)) for name, x in batch.items()} for batch in batches]

    def summed(a: str, b: str) -> float:
        return sum(hsic_by_loops(gram[a], gram[b]) for gram in grams)

    expected = {f"{a}_{b}": summed(a, b) / math.sqrt(summed(a, a) * summed(b, b)) for a, b in branches.PAIRS}
    assert cka(*batches) == pytest.approx(expected, abs=1e-6)  # features are fp32


def orthogonal(size: int) -> Tensor:
    return torch.linalg.qr(normal(size, size).double())[0]


def test_cka_is_1_for_the_same_features_turned_scaled_and_moved():
    x_BNC = normal(8, 4, 3)
    turned = (5 * x_BNC.flatten(1).double() @ orthogonal(12)).view(8, 4, 3) - 70
    found = cka({"com": x_BNC, "up": x_BNC, "attn": turned})
    assert found == pytest.approx(dict.fromkeys(("attn_com", "up_com", "up_attn"), 1), abs=1e-6)


def test_cka_does_not_change_when_one_side_is_turned_scaled_and_moved():
    x_BNC = normal(9, 2, 5, seed=3)
    y_BNC = x_BNC + 2 * normal(9, 2, 5, seed=4)
    turned = (0.01 * x_BNC.flatten(1).double() @ orthogonal(10)).view(9, 2, 5) + 3
    before, after = cka({"attn": x_BNC, "up": y_BNC}), cka({"attn": turned, "up": y_BNC})
    assert 0.05 < before["up_attn"] < 0.95
    assert after["up_attn"] == pytest.approx(before["up_attn"], abs=1e-6)


@pytest.mark.parametrize("parts", [[64], [16] * 16], ids=["at once", "in minibatches"])
def test_cka_of_independent_features_is_near_0_though_they_outnumber_the_images(parts):
    """The biased estimator gives 0.77 and 0.94 here. This one is a mean over about 1,600 pairs or more: ±0.025."""
    found = cka(*({"attn": normal(n, 20, 10, seed=1000 + i)} for i, n in enumerate(parts)))
    assert max(map(abs, found.values())) < 0.12


@pytest.mark.parametrize("value", [0.0, 1e4])
def test_cka_of_a_branch_that_is_the_same_for_each_image_is_refused(value):
    with pytest.raises(ValueError, match=r"^a block: its attention branch is the same for each image"):
        cka({"attn": (value + normal(1, 3, 2)).expand(5, 3, 2)})


# --- Over a model ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite() -> nn.Module:
    torch.manual_seed(0)
    return models.build("restv2_lite", size=(64, 64))


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [("restv2_lite", {}, (64, 64)), ("pvt_tiny", {"attention": "emsav2"}, (64, 96))],
)
def test_what_is_folded_is_what_the_model_projects(name, options, size):
    """proj(com) is the output of the attention, and com is the sum of the two; of a class token nothing is seen."""
    model = models.build(name, size=size, **options)
    outputs: list[tuple[nn.Module, Tensor]] = []
    folded: list[tuple[str, dict[str, Tensor], tuple[int, int]]] = []
    for module in branches.attentions(model).values():
        module.register_forward_hook(lambda module, _, output: outputs.append((module, output)))
    with torch.inference_mode():
        with watched(model, lambda *given: folded.append(given)):
            model(normal(2, 3, *size))
        projected = [
            module.proj(features["com"])
            for (_, features, _), (module, _) in zip(folded, outputs, strict=True)
        ]
    assert len(folded) == 8
    for number, (block, features, (height, width)) in enumerate(folded):
        stage = number // 2
        assert block in (f"stage{stage + 1}.{number % 2}", f"block{stage + 1}.{number % 2}")
        assert (height, width) == (size[0] // 4 // 2**stage, size[1] // 4 // 2**stage)
        torch.testing.assert_close(features["com"], features["attn"] + features["up"])
        torch.testing.assert_close(projected[number], outputs[number][1][:, -height * width :])


def test_the_model_is_as_it_was_also_after_an_error(lite):
    x_BCHW = normal(1, 3, 64, 64)
    with torch.inference_mode():
        before = lite(x_BCHW)
        with watched(lite, lambda *given: None):
            assert lite(x_BCHW).equal(before)
        with pytest.raises(ZeroDivisionError), watched(lite, lambda *given: 1 / 0):
            lite(x_BCHW)
        assert lite(x_BCHW).equal(before)


def test_curves_do_not_depend_on_the_batch(lite):
    images = inputs.Synthetic((64, 64), 8)
    with torch.inference_mode():
        one, other = (analyse(lite, images, Fourier(), batch=batch) for batch in (16, 4))
    assert one["blocks"] == [f"stage{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert [len(at) for at in one["frequencies"]] == [9, 9, 5, 5, 3, 3, 2, 2]
    for name in branches.WORDS:
        for a, b in zip(one["log_amplitude"][name], other["log_amplitude"][name], strict=True):
            assert a == pytest.approx(b, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"target": "none"}, "stage1.0 has no upsample branch"),
        ({"branches": "convnet"}, "stage1.0 has no attention branch"),
    ],
)
def test_a_model_with_one_branch_is_refused(options, reason):
    model = models.build("restv2_lite", size=(32, 32), **options)
    with torch.inference_mode(), pytest.raises(ValueError, match=reason):
        analyse(model, inputs.Synthetic((32, 32)), Fourier(), batch=16)


def test_a_model_without_branches_is_refused_also_if_a_part_of_it_is_called_so():
    model = nn.Module()
    model.branches = nn.ModuleList([nn.Conv2d(3, 3, 1)])
    with pytest.raises(ValueError, match="has no attention with an upsample branch"):
        analyse(model, inputs.Synthetic((32, 32)), Fourier(), batch=16)


def test_features_that_are_not_finite_are_refused_with_their_place(lite):
    images = inputs.Synthetic((32, 32))
    broken = models.build("restv2_lite", size=(32, 32))
    with torch.no_grad():
        broken.stage2[1].attn.up_norm.bias[3] = math.nan
    with torch.inference_mode(), pytest.raises(ValueError, match=r"^stage2.1: its .* is not finite"):
        analyse(broken, images, Fourier(), batch=16)


def test_too_few_images_for_cka_are_refused(lite):
    with pytest.raises(ValueError, match="CKA needs 4 images or more, and here is 3"):
        analyse(lite, inputs.Synthetic((32, 32), 3), CKA(), batch=16)


@pytest.mark.parametrize(
    ("count", "batch"), [(1, 16), (4, 1), (5, 4), (16, 16), (17, 16), (256, 16), (50, 7)]
)
def test_minibatches_deal_out_every_image_once_and_never_too_few(count, batch):
    parts = minibatches(count, batch)
    assert sorted(number for part in parts for number in part) == list(range(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) <= max(batch, 7)
    assert min(sizes) >= min(4, count)
    for part in parts:  # spread over the whole folder
        assert {b - a for a, b in itertools.pairwise(part)} <= {len(parts)}


# --- Images ----------------------------------------------------------------------------------------------


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth in one direction, noise in the other; `size` is height, width."""
    height, width = size
    noise = torch.randint(0, 256, (height, 1, 3), generator=torch.Generator().manual_seed(seed))
    ramp = torch.linspace(0, 1, width)[None, :, None]
    return Image.fromarray((noise * ramp).to(torch.uint8).numpy())


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


# --- Jobs, keys and rows ---------------------------------------------------------------------------------


def test_a_job_fills_in_what_the_case_leaves_open_and_ignores_the_protocol(tmp_path):
    job = job_of("cka", CPU, RULES, parse("restv2_lite"), study="figure4")
    assert (job.text, job.study) == ("restv2_lite@224:b16:fp32:eager", "figure4")
    assert job_of("cka", CPU, RULES, parse("restv2_lite:b8:fp64:sdpa")).text.endswith(":b8:fp64:sdpa")
    quick, other = replace(job, rules=PROTOCOLS["quick"]["cpu"]), replace(job, harness="fourier")
    key, *keys = (jobs.key_of(each, "source", {}, CPU) for each in (job, quick, other))
    assert key == keys[0] != keys[1]
    assert key != jobs.key_of(job, "another source", {}, CPU)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("restv2_lite[images=nowhere]", "images=nowhere: there is no such folder"),
        ("restv2_lite:compile", "branches are looked at in eager or sdpa"),
    ],
)
def test_what_cannot_be_looked_at_is_wrong_usage_before_anything_starts(tmp_path, monkeypatch, text, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=reason):
        job_of("fourier", CPU, RULES, parse(text))


def test_a_time_of_given_images_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="images=FOLDER is for `branches` to look at"):
        job_of("throughput", CPU, RULES, parse(f"restv2_lite[images={tmp_path}]"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five photographs."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for seed in range(5):
        picture((50 + seed, 60), seed).save(folder / ("below" if seed % 2 else "") / f"{seed}.png")
    return folder


def test_a_row_stands_for_these_images_and_weights_and_for_no_others(tmp_path, folder):
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"one")

    def key() -> str:
        case = parse(f"restv2_lite[images={folder},weights={weights}]")
        job = job_of("cka", CPU, RULES, case)
        (source,) = jobs.hashes_of_sources([job])
        return jobs.key_of(job, source, {}, CPU)

    keys = [key()]
    assert key() == keys[0]
    (folder / "notes.txt").write_text("none of its images")
    assert key() == keys[0]
    os.utime(folder / "0.png", (1, 1))
    keys.append(key())
    (folder / "2.png").rename(folder / "9.png")
    keys.append(key())
    picture((50, 50)).save(folder / "below" / "new.jpg")
    keys.append(key())
    weights.write_bytes(b"two")
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_jobs_that_look_at_no_images_keep_the_keys_that_their_rows_have():
    assert jobs.stamps(job_of("throughput", CPU, RULES, parse("restv2_lite"))) == {}
    assert jobs.stamps(job_of("peaks", CPU, RULES)) == {}


def test_too_little_memory_is_a_line_that_says_what_to_do(monkeypatch):
    def greedy(*arguments, **named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(branches, "analyse", greedy)
    job = job_of("fourier", CPU, RULES, parse("restv2_lite@32"))
    with pytest.raises(
        ValueError, match="out of memory with 16 images at a time: ask for fewer, as :b4 does"
    ):
        branches.fourier(job.cases, RULES, lambda phase: None, Spent())


def test_weights_are_told_apart_by_where_they_come_from(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"abc")
    given = branches.origin(parse(f"restv2_lite[weights={tmp_path / 'w.pth'}]"))
    # SHA-256 of "abc", FIPS 180-2
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert given == {"source": "file", "file": "w.pth", "hash": digest}
    assert branches.origin(parse("restv2_lite"))["source"] == "initial"
    assert branches.origin(parse("timm:vit_tiny_patch16_224"))["source"] == "initial"
    assert branches.origin(parse("my.nets:Net"))["source"] == "module"


def test_the_command_looks_at_a_checkpoint_and_a_folder_prints_its_blocks_and_uses_its_rows_again(
    tmp_path, folder, monkeypatch, lite
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "devices", lambda: devices.Listing([], "no driver"))
    of_now = provenance.source_hash(["bench", "models", "kernels"])  # somebody may edit them meanwhile
    monkeypatch.setattr(jobs, "source_hash", lambda paths: of_now)
    torch.save(lite.state_dict(), "lite.pth")
    text = "restv2_lite[images=photos,weights=lite.pth]@32"
    said = CliRunner().invoke(main, ["branches", text, "--gpu", "cpu"])
    assert said.exit_code == 0, said.output
    lines = said.stdout.splitlines()
    assert lines[0].endswith("fourier of 8 blocks, lite.pth, 5 images (folder)")
    assert lines[1].split() == ["up", "to", "Δ", "com", "Δ", "attn", "Δ", "up"]
    assert lines[10].endswith("cka of 8 blocks, lite.pth, 5 images (folder)")
    assert lines[11].split() == ["attn_com", "up_com", "up_attn"]
    assert [line.split()[0] for line in lines[2:10]] == [line.split()[0] for line in lines[12:]]

    rows = read(tmp_path / "results" / "cpu").rows
    assert [row["harness"] for row in rows] == ["fourier", "cka"]
    with torch.inference_mode():
        images = inputs.pictures("photos", (32, 32))
        expected = analyse(lite, images, CKA(), batch=16)["cka"]
    for pair, values in expected.items():
        assert rows[1]["result"]["cka"][pair] == pytest.approx(values, abs=1e-4)
    shown = float(lines[12].split()[3])
    assert shown == pytest.approx(expected["up_attn"][0], abs=6e-4)
    for row in rows:
        assert row["result"]["images"] == images.about()
        assert row["result"]["weights"] == branches.origin(parse(text))

    monkeypatch.setattr(process.Worker, "_start", lambda worker: pytest.fail("a row was not used again"))
    again = CliRunner().invoke(main, ["branches", text, "--gpu", "cpu"])
    assert again.stdout == said.stdout
    assert len(read(tmp_path / "results" / "cpu").rows) == 2
