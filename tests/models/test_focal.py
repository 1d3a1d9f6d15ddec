"""The Focal Transformer against its definition written out in loops, and against its authors' counts."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from itertools import product
from math import ceil, erf

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import models
from bench.cases import parse
from bench.conventions import BY_CALL
from bench.harness import macs
from models import focal
from models.config import FocalConfig
from models.cost import focal_macs
from models.focal import Block, Focal, keys_of
from models.variants import FOCAL
from tests.support.sweeps import sweep

TINY = FocalConfig("Focal of two by two", 8, (1, 1, 1, 1), (1, 2, 2, 4))
# windows of 3, and surroundings in stage 4 too: 96×96 divides into whole windows all the way down
THREES = replace(TINY, window=3, focal_windows=(5, 3, 3, 1), expand_sizes=(1, 1, 1, 1), mlp_ratio=2)
DEEPER = replace(TINY, depths=(1, 2, 1, 2))


def build(config: FocalConfig, impl: str = "eager", classes: int = 5) -> nn.Module:
    """A model in float64, every parameter random: the authors start position biases of the window at zero."""
    torch.manual_seed(0)
    model = Focal(config, impl=impl, num_classes=classes).double().eval()
    for name, parameter in model.named_parameters():
        spread = 1 / parameter[0].numel() ** 0.5 if name.endswith("weight") and parameter.ndim > 1 else 0.5
        nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=spread)
        if name.endswith("_bias"):
            nn.init.normal_(parameter)
    return model


def photos(size: tuple[int, int], images: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size[0])
    return torch.randn(images, 3, *size, dtype=torch.float64, generator=generator)


# ---- the definition, one window, one query and one head at a time, in NumPy


class ByHand:
    """The logits of one image. Tokens are addressed by row and column; there is no padding, only what is not there."""

    def __init__(self, model: nn.Module, config: FocalConfig) -> None:
        self.config = config
        self.state = {name: value.numpy() for name, value in model.state_dict().items()}

    def logits(self, image: np.ndarray) -> np.ndarray:
        x = image.transpose(1, 2, 0)
        for stage, depth in enumerate(self.config.depths):
            x = self.norm(f"embeds.{stage}.norm", self.patches(x, f"embeds.{stage}.proj", 2 if stage else 4))
            for block in range(depth):
                name = f"stages.{stage}.{block}"
                x = x + self.attention(self.norm(f"{name}.norm1", x), f"{name}.attn", stage)
                hidden = self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.norm2", x))
                x = x + self.linear(f"{name}.mlp.fc2", hidden * (1 + np.vectorize(erf)(hidden / 2**0.5)) / 2)
        return self.linear("head", self.norm("norm", x).mean((0, 1)))

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def patches(self, x: np.ndarray, name: str, side: int) -> np.ndarray:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        rows, columns = ceil(x.shape[0] / side), ceil(x.shape[1] / side)
        out = np.tile(bias, (rows, columns, 1))
        for row, column in product(range(rows), range(columns)):
            patch = x[row * side : (row + 1) * side, column * side : (column + 1) * side]
            out[row, column] += np.einsum(
                "oiyx,yxi->o", weight[:, :, : patch.shape[0], : patch.shape[1]], patch
            )
        return out

    def attention(self, x: np.ndarray, name: str, stage: int) -> np.ndarray:
        (height, width, channels), window = x.shape, self.config.window
        heads, focal = self.config.heads[stage], self.config.focal_windows[stage]
        # a map no longer than a window has no surroundings
        expand = self.config.expand_sizes[stage] if min(height, width) > window else 0
        rows, columns = ceil(height / window), ceil(width / window)
        own, pooled_bias = self.state[f"{name}.own_bias"], self.state[f"{name}.pooled_bias"]
        fine = self.linear(f"{name}.qkv", x).reshape(height, width, 3, heads, -1)
        coarse = {}
        pool = self.state[f"{name}.pool.weight"].reshape(window, window)
        for gy, gx in product(range(rows), range(columns)):
            mean = np.full(channels, self.state[f"{name}.pool.bias"])
            for i, j in product(range(window), range(window)):
                if (y := gy * window + i) < height and (x_ := gx * window + j) < width:
                    mean += pool[i, j] * x[y, x_]
            coarse[gy, gx] = self.linear(f"{name}.qkv", mean).reshape(3, heads, -1)

        out = np.empty_like(x)
        for gy, gx in product(range(rows), range(columns)):
            keys, inside, beside, far = [], [], [], []  # k and v; where the bias of each is
            for i, j in product(range(window), range(window)):
                if (y := gy * window + i) < height and (x_ := gx * window + j) < width:
                    keys.append(fine[y, x_, 1:])
                    inside.append((i, j))
            slot = 0
            for down, right in product((expand, -expand), repeat=2) if expand else ():
                for i, j in product(range(window), range(window)):
                    if 0 <= i + down < window and 0 <= j + right < window:
                        continue  # still in the window itself
                    # beyond the border the opposite side begins
                    y = (gy * window + i + down) % (rows * window)
                    x_ = (gx * window + j + right) % (columns * window)
                    if y < height and x_ < width:
                        keys.append(fine[y, x_, 1:])
                        beside.append(slot)
                    slot += 1
            for i, j in product(range(focal), range(focal)):
                if (there := (gy + i - focal // 2, gx + j - focal // 2)) in coarse:
                    keys.append(coarse[there][1:])
                    far.append((i, j))
            k, v = np.stack(keys, 2)
            (iy, ix), (fy, fx) = np.array(inside).T, np.array(far).T
            for qy, qx in inside:
                y, x_ = gy * window + qy, gx * window + qx
                for head in range(heads):
                    score = k[head] @ fine[y, x_, 0, head] / (channels // heads) ** 0.5
                    bias = [own[head, qy - iy + window - 1, qx - ix + window - 1]]
                    if expand:
                        bias.append(self.state[f"{name}.surrounding_bias"][head, qy * window + qx, beside])
                    bias.append(pooled_bias[head, qy - fy + focal - 1, qx - fx + focal - 1])
                    weight = np.exp(score + np.concatenate(bias))
                    of_head = slice(head * channels // heads, (head + 1) * channels // heads)
                    out[y, x_, of_head] = weight @ v[head] / weight.sum()
        return self.linear(f"{name}.proj", out)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (TINY, (224, 224)),  # the authors' own case: whole windows in every stage, one in the last
        (TINY, (33, 47)),
        (TINY, (64, 104)),
        (TINY, (112, 224)),  # stage 3 is one window high
        (THREES, (96, 96)),
        (THREES, (96, 144)),
        (THREES, (100, 140)),
        (DEEPER, (40, 72)),
    ],
)
def test_against_the_definition(config, size):
    model, photo = build(config), photos(size)
    with torch.inference_mode():
        out = model(photo)[0].numpy()
    expected = ByHand(model, config).logits(photo[0].numpy())
    assert np.abs(out - expected).max() < 1e-10


# ---- counts: parameters and MACs as the authors and fvcore have them


@pytest.mark.parametrize(
    ("name", "printed"), [("focal_tiny", "4.9"), ("focal_small", "9.4"), ("focal_base", "16.4")]
)
def test_the_closed_form_is_what_the_authors_print(name, printed):
    """What is counted of the same models is in tests/bench/harness/test_macs.py."""
    assert f"{focal_macs(FOCAL[name], (224, 224)) / 1e9:.1f}" == printed


def test_keys_per_window(monkeypatch):
    """The products get the keys that the paper says, in each block of Focal-T at 224."""
    seen = []

    def spy(q, k, v, bias):
        seen.append((tuple(q.shape), tuple(k.shape), tuple(v.shape)))
        return q

    monkeypatch.setitem(focal.ATTEND, "eager", spy)
    with torch.device("meta"):
        models.build("focal_tiny")(torch.empty(2, 3, 224, 224))
    heads_and_windows, keys = (3 * 64, 6 * 16, 12 * 4, 24 * 1), (230, 206, 190, 50)
    assert seen == [
        ((2, heads_and_windows[stage], 49, 32), *[(2, heads_and_windows[stage], keys[stage], 32)] * 2)
        for stage, depth in enumerate((2, 2, 6, 2))
        for _ in range(depth)
    ]


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("impl", ["sdpa", pytest.param("compile", marks=pytest.mark.trials)])
@pytest.mark.parametrize("text", ["focal_tiny@255", "focal_tiny@33x47"])
def test_every_implementation_counts_alike(text, impl):
    eager, other = macs.count(parse(text)), macs.count(parse(f"{text}:{impl}"))
    assert eager.uncounted == other.uncounted == {}
    assert other.parameters == eager.parameters
    for convention in BY_CALL:
        assert other.by_operator(convention) == eager.by_operator(convention)
        assert other.by_module(convention) == eager.by_module(convention)


@pytest.mark.trials  # seconds of tracing
@pytest.mark.parametrize("impl", ["eager", "sdpa"])
def test_fvcore_agrees(impl):
    case = parse(f"focal_tiny@64x96:{impl}")
    counts = macs.count(case)
    assert macs.fvcore_check(case, counts)["macs"] == counts.macs("fvcore")


# ---- implementations, sizes, dtypes


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (224, 224), (255, 255)])
def test_sdpa_gives_what_eager_gives(size):
    images = photos(size, 2)
    with torch.inference_mode():
        eager, sdpa = (build(TINY, impl)(images) for impl in ("eager", "sdpa"))
    assert eager.shape == (2, 5)
    assert eager.isfinite().all()
    assert (sdpa - eager).abs().max() < 1e-10


@pytest.mark.parametrize("size", [(33, 47), pytest.param((224, 224), marks=sweep)])
def test_the_captured_graph_gives_what_eager_gives(size):
    """The graph that torch.compile captures; a break in it would raise."""
    torch.compiler.reset()
    eager = build(TINY)
    captured = models.compiled(eager, backend="eager")
    with torch.inference_mode():
        assert (captured(photos(size, 2)) - eager(photos(size, 2))).abs().max() < 1e-10


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
@pytest.mark.parametrize("size", [(33, 47), (224, 224)])
def test_single_precision_in_either_memory_format(size, impl):
    model, images = build(TINY, impl), photos(size, 2)
    with torch.inference_mode():
        truth = model(images)
        plain = model.float()(images.float())
        images = images.float().contiguous(memory_format=torch.channels_last)
        last = model.to(memory_format=torch.channels_last)(images)
    assert (plain - truth).abs().max() < 1e-4 * truth.abs().max()
    assert (last - truth).abs().max() < 1e-4 * truth.abs().max()


def test_fused_attention_is_what_sdpa_runs(monkeypatch):
    calls, fused = [], torch.nn.functional.scaled_dot_product_attention

    def spy(*args, **kwargs):
        calls.append(kwargs)
        return fused(*args, **kwargs)

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", spy)
    with torch.inference_mode():
        build(TINY)(photos((32, 32)))
        assert calls == []
        build(TINY, "sdpa")(photos((32, 32)))
    assert len(calls) == sum(TINY.depths)


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
def test_autocast(impl):
    model, images = build(TINY, impl).float(), photos((64, 96), 2).float()
    with torch.inference_mode():
        plain = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(images)
    assert out.dtype == torch.bfloat16
    # bfloat16 has 8 bits
    assert 0 < (out - plain).abs().max() < 2**-4 * plain.abs().max()


def test_one_model_takes_one_size_after_the_other():
    """Nothing of an earlier forward is left over: not its size, dtype or inference mode."""
    model, sizes = build(TINY), [(64, 96), (96, 64), (64, 96)]
    with torch.inference_mode():
        first = [model(photos(size)) for size in sizes]
    copied = copy.deepcopy(model)
    for size, expected in zip(sizes, first, strict=True):
        out = copied(photos(size))
        out.sum().backward()
        assert (out - expected).abs().max() < 1e-12
    assert (copied.float()(photos((64, 96)).float()) - first[0]).abs().max() < 1e-4 * first[0].abs().max()


def test_sdpa_has_eagers_gradients():
    gradients = []
    for impl in ("eager", "sdpa"):
        model = build(THREES, impl)
        model(photos((48, 40))).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    eager, sdpa = gradients
    for name, gradient in eager.items():
        # where surroundings are left out, in maps no longer than a window, there is no gradient
        assert (gradient is None) == (sdpa[name] is None), name
        if gradient is not None:
            assert (gradient - sdpa[name]).abs().max() < 1e-10 * (1 + gradient.abs().max()), name
    assert all(
        eager[f"stages.0.0.attn.{bias}_bias"].abs().max() > 0 for bias in ("own", "surrounding", "pooled")
    )


@pytest.mark.parametrize("size", [(6, 6), (4, 7), (3, 2)])
def test_gradients_against_differences(size):
    torch.manual_seed(1)
    block = Block(4, 2, 3, 3, 1, mlp_ratio=1).double()
    tokens = torch.randn(2, size[0] * size[1], 4, dtype=torch.float64, requires_grad=True)
    keys = keys_of(size, 3, 3, 1, like=tokens)
    used = {name: value for name, value in block.named_parameters() if keys.surrounded or "surr" not in name}

    def run(tokens, *values):
        return functional_call(block, dict(zip(used, values, strict=True)), (tokens, keys))

    assert torch.autograd.gradcheck(run, (tokens, *used.values()), fast_mode=True)


@pytest.mark.parametrize("size", [(56, 56), (40, 72)])
def test_images_of_a_batch_do_not_meet(size):
    model, images = build(TINY), photos(size, 2)
    other = torch.stack([images[0], -images[1]])
    with torch.inference_mode():
        before, after = model(images), model(other)
        assert (before[0] - after[0]).abs().max() < 1e-12
        assert (before[0] - model(images[:1])[0]).abs().max() < 1e-12
        assert (before[1] - after[1]).abs().max() > 1e-2


def test_feature_maps_are_a_4th_to_a_32nd_of_the_image_rounded_up():
    with torch.device("meta"):
        maps = models.build("focal_tiny").features(torch.empty(2, 3, 797, 1333))
    assert [tuple(each.shape) for each in maps] == [
        (2, 96, 200, 334),
        (2, 192, 100, 167),
        (2, 384, 50, 84),
        (2, 768, 25, 42),
    ]


@pytest.mark.parametrize("size", [(31, 224), (224, 31)])
def test_too_small_an_image_is_refused(size):
    with pytest.raises(ValueError, match=f"a {size[0]}x{size[1]} image is smaller than 32x32"):
        build(TINY)(torch.zeros(1, 3, *size))


def test_the_state_is_parameters_and_they_start_as_the_authors_do():
    torch.manual_seed(0)
    model = Focal(TINY, num_classes=5)
    parameters = dict(model.named_parameters())
    assert set(model.state_dict()) == set(parameters)
    assert list(model.buffers()) == []
    for name, value in parameters.items():
        if name.endswith("own_bias") or ("proj" not in name and name.endswith(".bias")):
            assert not value.any(), name
        elif name.endswith(("surrounding_bias", "pooled_bias")):
            assert 0.01 < value.std() < 0.03, name
    assert [block.drop_path.rate for stage in model.stages for block in stage] == pytest.approx(
        [0, 0.2 / 3, 0.4 / 3, 0.2]
    )


def test_stochastic_depth_leaves_branches_out():
    block = Block(8, 2, 3, 3, 1, drop_path=0.5)
    tokens = torch.randn(64, 36, 8)
    keys = keys_of((6, 6), 3, 3, 1, like=tokens)
    torch.manual_seed(2)
    with torch.inference_mode():
        untouched = (block.train()(tokens, keys) == tokens).all(-1).all(-1).sum()
        assert 0 < untouched < 64  # a quarter, were it exact: both branches
        assert not (block.eval()(tokens, keys) == tokens).all(-1).all(-1).any()


needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="inductor needs a C++ compiler"
)


@pytest.mark.trials  # half a minute a block
@needs_compiler
def test_inductor_gives_what_eager_gives_on_an_odd_map():
    torch.compiler.reset()
    block, tokens = Block(16, 2, 7, 5, 3).eval(), torch.randn(2, 9 * 17, 16)

    def run(tokens):
        return block(tokens, keys_of((9, 17), 7, 5, 3, like=tokens))

    with torch.inference_mode():
        out, plain = torch.compile(run, dynamic=False, fullgraph=True)(tokens), run(tokens)
        block.double()
        truth = run(tokens.double())
    assert (out - truth).abs().max() <= 2 * (plain - truth).abs().max() + 1e-5


@pytest.mark.trials  # minutes
@pytest.mark.timeout(1800)
@needs_compiler
def test_inductor_gives_what_eager_gives():
    torch.compiler.reset()
    eager, image = models.build("focal_tiny"), photos((224, 224)).float()
    with torch.inference_mode():
        out, plain = models.compiled(eager)(image), eager(image)
        truth = eager.double()(image.double())
    assert (out - truth).abs().max() <= 2 * (plain - truth).abs().max() + 1e-5 * truth.abs().max()
