"""What the branches carry: spectra and CKA against loops by hand, and over models that have branches."""

from __future__ import annotations

import cmath
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

import models
from bench.harness import branches, inputs
from bench.harness.branches import CKA, Fourier, analyse, log_amplitude, minibatches, watched
from bench.machine import devices

CPU = devices.cpu_device()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
