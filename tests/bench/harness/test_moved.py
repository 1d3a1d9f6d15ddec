"""What calls move, against closed forms by hand; activations against those that timm publishes."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import models
from bench import images
from bench.cases import parse
from bench.harness import macs
from bench.harness.counter import Counter, Counts
from bench.harness.moved import class_of_call
from bench.harness.operators import FREE, HANDLES, SEVERAL
from bench.trace.operators import CLASSES, class_of
from bench.traffic import Traffic, total
from kernels.emsa_upsample import cost
from kernels.mlp import cost as mlp
from models.variants import MODELS

ACTIVATIONS = Path(__file__).parents[2] / "support" / "data" / "timm_activations.csv"


def parameter(*shape: int) -> Tensor:
    return nn.Parameter(torch.empty(*shape, device="meta"), requires_grad=False)


def moved(
    function: Callable[..., Any], *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> dict[str, Traffic]:
    """The traffic of a function of images of these shapes, by class."""
    given = [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]
    counts = Counts(0)
    counter = Counter(counts)
    counter.images.add(given)
    with torch.inference_mode(), counter:
        function(*given)
    return counts.traffic_by(1)


X = (1, 8, 12, 10)  # an image's map
N = 8 * 12 * 10
W = parameter(16, 8, 3, 3)
B8, B16 = parameter(8), parameter(16)

CLOSED: dict[str, tuple[Callable[[Tensor], Any], str, Traffic]] = {
    "a convolution reads map, weight and bias": (
        lambda x: F.conv2d(x, W, B16, stride=2, padding=1),
        "conv",
        Traffic(1, N, 16 * 6 * 5, 16 * 8 * 9 + 16, macs=16 * 6 * 5 * 72),
    ),
    "a linear layer": (
        lambda x: F.linear(x, parameter(7, 10), parameter(7)),
        "linear",
        Traffic(1, N, 8 * 12 * 7, 70 + 7, macs=8 * 12 * 70),
    ),
    "a product of two of the image's": (
        lambda x: x @ x.mT,
        "matmul",
        Traffic(1, 2 * N, 8 * 12 * 12, macs=8 * 12 * 12 * 10),
    ),
    "attention in one call": (
        lambda x: F.scaled_dot_product_attention(x, x[:, :, :6], x[:, :, :6]),
        "attention",
        Traffic(1, N + 2 * 8 * 6 * 10, N, macs=2 * 8 * 12 * 6 * 10),
    ),
    "softmax is one launch": (lambda x: x.softmax(-1), "softmax", Traffic(1, N, N)),
    "layer norm is one launch": (
        lambda x: F.layer_norm(x, (10,), parameter(10), parameter(10)),
        "norm",
        Traffic(1, N, N, 20),
    ),
    "batch norm has four vectors": (
        lambda x: F.batch_norm(x, B8, B8, B8, B8),
        "norm",
        Traffic(1, N, N, 4 * 8),
    ),
    "GELU": (F.gelu, "activation", Traffic(1, N, N)),
    "ReLU in place reads and writes its own": (lambda x: x.relu_(), "activation", Traffic(1, N, N)),
    "pooling": (lambda x: F.max_pool2d(x, 2), "pool", Traffic(1, N, N // 4)),
    "the mean over pixels": (lambda x: x.mean((2, 3)), "reduction", Traffic(1, N, 8)),
    "a sum that is broadcast": (
        lambda x: x + parameter(8, 1, 1),
        "element-wise",
        Traffic(1, N, N, 8),
    ),
    "a sum of what is expanded reads it once": (
        lambda x: x + x[:, :1, :1].expand(X),
        "element-wise",
        Traffic(1, N + 10, N),
    ),
    "a sum in place": (lambda x: x.add_(x[:, :1]), "element-wise", Traffic(1, N + 120, N)),
    "joining": (lambda x: torch.cat([x, x[:, :2]], 1), "copy", Traffic(1, N + 240, N + 240)),
    "a copy into order": (lambda x: x.mT.contiguous(), "copy", Traffic(1, N, N)),
    "reshape where it cannot be a view": (lambda x: x.mT.reshape(8, 120), "copy", Traffic(1, N, N)),
    "flatten where it cannot be a view": (lambda x: x.mT.flatten(2), "copy", Traffic(1, N, N)),
    "roll": (lambda x: x.roll((1, 2), (2, 3)), "copy", Traffic(1, N, N)),
    "padding": (lambda x: F.pad(x, (1, 1)), "copy", Traffic(1, N, 8 * 12 * 12)),
    "a copy over a part does not read what it covers": (
        lambda x: x[:, :2].copy_(x[:, 2:4]),
        "copy",
        Traffic(1, 240, 240),
    ),
    "an embedding reads its rows alone, and whole numbers keep their bytes": (
        lambda x: F.embedding(x.to(torch.int64)[0, 0, 0], parameter(1000, 4)),
        "copy",
        Traffic(2, N + 40, 40, other_bytes=8 * N + 8 * 10),
    ),
    "what is made of weights alone is moved once a call": (
        lambda x: B8 * 2,
        "element-wise",
        Traffic(1, once=16),
    ),
    "windows that overlap are no more than the map": (
        lambda x: x.unfold(3, 3, 1) * 2,
        "element-wise",
        Traffic(1, N, 8 * 12 * 8 * 3),
    ),
    "zeros are only written": (lambda x: torch.zeros_like(x), "copy", Traffic(1, N, N)),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name):
    function, kind, right = CLOSED[name]
    assert moved(function, X) == {kind: right}


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.mT,
        lambda x: x.reshape(8, 120),
        lambda x: x.flatten(1).unflatten(1, (8, 120))[:, 2:].expand(3, -1, -1),
        lambda x: x.contiguous().to(torch.float32),
        lambda x: F.dropout(x, training=False).mT,
        lambda x: [each.squeeze(0) for each in x.split(2, 1)],
        lambda x: torch.empty_like(x),
    ],
)
def test_views_and_allocations_move_nothing(view):
    assert moved(view, X) == {}


def test_attention_by_hand():
    """Eager attention of 6 tokens, 2 heads of 4: products, scale, softmax, and the copy that joins the heads."""
    tokens, heads, width = 6, 2, 4
    channels, scores = heads * width, heads * tokens * tokens

    def attend(x: Tensor) -> Tensor:
        q, k, v = (
            F.linear(x, parameter(3 * channels, channels))
            .unflatten(2, (3, heads, width))
            .permute(2, 0, 3, 1, 4)
        )
        return ((q @ k.mT * 0.5).softmax(-1) @ v).transpose(1, 2).reshape(1, tokens, channels)

    each = tokens * channels
    assert moved(attend, (1, tokens, channels)) == {
        "linear": Traffic(1, each, 3 * each, 3 * channels**2, macs=3 * each * channels),
        "matmul": Traffic(2, 2 * each + scores + each, scores + each, macs=2 * scores * width),
        "element-wise": Traffic(1, scores, scores),
        "softmax": Traffic(1, scores, scores),
        "copy": Traffic(1, each, each),
    }


def test_a_call_that_comes_again_costs_the_same_again():
    once = moved(lambda x: F.gelu(F.linear(x, parameter(10, 10))), X)
    twice = moved(lambda x: [F.gelu(F.linear(x, parameter(10, 10))) for _ in range(2)], X)
    assert twice == {kind: part.times(2) for kind, part in once.items()}


def test_what_is_known_of_a_constant_is_not_taken_for_an_image():
    """The same operator on tensors of the same form, once of weights and once of the image."""
    constant = parameter(*X)
    assert moved(lambda x: (x * 2, constant * 2), X) == {"element-wise": Traffic(2, N, N, 2 * N)}


def test_a_batch_moves_weights_once():
    part = Traffic(read=100, written=50, once=30, other_bytes=8, macs=600)
    assert part.bytes("fp16", 4) == 4 * (150 * 2 + 8) + 30 * 2
    assert part.flop_per_byte("fp32", 2) == 2 * 2 * 600 / (2 * (600 + 8) + 120)
    assert Traffic(launches=1).flop_per_byte("fp32", 1) is None


@pytest.mark.parametrize("text", ["core_tiny[stage=2]@224:fused", "core_large[stage=1]@100x60:fused"])
def test_our_fused_operator_moves_the_least_that_any_could(text):
    case = parse(text)
    config: Any = MODELS[case.model]
    stage = config.shape(case.size, **case.model_options)
    each, once = cost.least_traffic(stage.map_size, stage.dim, stage.reduction)
    (part,) = macs.count(case).traffic_by(1).values()
    assert (part.launches, part.read + part.written, part.once) == (1, each, once)
    assert part.macs == sum(cost.macs(1, stage.map_size, stage.dim, stage.reduction).values())


@pytest.mark.parametrize(
    ("text", "tokens", "channels"),
    [
        ("mlp_tiny[stage=2]@224:fused", 784, 192),
        ("mlp_large[stage=1]@100x60:fused", 25 * 15, 128),
    ],
)
def test_the_fused_feed_forward_moves_the_least_that_any_could(text, tokens, channels):
    counts = macs.count(parse(text))
    each, once = mlp.least_traffic(tokens, channels, 4 * channels)
    ((kind, part),) = counts.traffic_by(1).items()
    assert (kind, part.launches, part.read + part.written, part.once) == ("linear", 1, each, once)
    assert part.macs == mlp.macs(tokens, channels, 4 * channels) == counts.macs("core")
    assert counts.least_traffic == (each, once)
    assert counts.notes == ["bytes and launches are half precision's: in fp32 the MLP is not fused"]
    (check,) = counts.cross_checks
    assert check["macs"] == check["ours"]


@pytest.mark.usefixtures("small_models")
def test_by_module_and_by_class_are_the_same_in_all():
    counts = macs.count(parse("restv2_lite@64"))
    assert total(counts.traffic_by(0).values()) == total(counts.traffic_by(1).values())
    assert sum(part.macs for part in counts.traffic.values()) == counts.macs("core")
    with torch.device("meta"):
        model = models.build("restv2_lite", size=(64, 64))
    held = [*model.parameters(), *(each for each in model.buffers() if each.is_floating_point())]
    assert total(counts.traffic.values()).once == sum(each.numel() for each in held)  # each is read once


def test_a_mix_moves_the_mean_of_its_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sizes.json").write_text(
        json.dumps({"images": [{"id": i, "height": 64, "width": w} for i, w in enumerate((64, 64, 64, 96))]})
    )
    weights = images.shapes(images.read("sizes.json"))
    assert sorted(weights.values()) == [1, 3]
    reads = [
        n * total(macs.count(replace(parse("restv2_lite"), size=size)).traffic.values()).read
        for size, n in weights.items()
    ]
    mean = total(macs.count(parse("restv2_lite@sizes.json")).traffic.values())
    assert mean.read == pytest.approx(sum(reads) / 4, abs=9)  # whole elements in each module and class


def test_classes_are_those_of_profiles():
    """Every operator that is counted or free has a class, and MACs have the same in both tables."""
    for name in (HANDLES.keys() | FREE) - {"scaled_dot_product_attention"}:
        assert class_of(name) in CLASSES, name
    assert {name: class_of(name) for name in SEVERAL} == {
        "restv2::emsa_upsample": "attention",
        "restv2::mhim": "attention",
        "restv2::window_reduce": "conv",
        "restv2::mlp": "linear",
    }
    aten = torch.ops.aten
    for operator, kind in [
        (aten.linear.default, "linear"),
        (aten.scaled_dot_product_attention.default, "attention"),
        (aten.flatten.using_ints, "copy"),
        (aten.transpose_copy.int, "copy"),
        (aten.special_erfcx.default, "element-wise"),
        (aten._cdist_forward.default, "other"),
    ]:
        assert class_of_call(operator) == kind


# ---- activations as timm publishes them: outputs of convolutions, linear layers and products


def published() -> list[dict[str, str]]:
    with ACTIVATIONS.open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def off(row: dict[str, str]) -> float:
    """The relative error of our count of a model's activations."""
    counts = macs.count(parse(row["case"]))
    ours = sum(
        part.written for (_, kind), part in counts.traffic.items() if kind in ("conv", "linear", "matmul")
    )
    return abs(ours / 1e6 / float(row["activations_m"]) - 1)


def test_activations_are_those_that_timm_publishes():
    assert max(off(row) for row in published()[:12]) < 0.002  # what is published has two or three digits


@pytest.mark.trials
@pytest.mark.timeout(300)
def test_activations_of_all_models_are_those_that_timm_publishes():
    errors = [off(row) for row in published()]
    assert len(errors) >= 40
    assert statistics.median(errors) < 0.001
    assert sum(error > 0.002 for error in errors) <= 0.1 * len(errors)
