"""The ablation switches: each variant against loops over the formulas, its gradients against finite differences."""

import math
import shutil
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

import models
from models import config
from models.attention import Attention
from models.config import HEADS, PVT_OPTIONS, RESTV1_OPTIONS, RESTV2, RESTV2_OPTIONS, Parts
from models.layers import (
    AbsolutePosition,
    DropPath,
    PixelAttention,
    PositionalEncodingGenerator,
    drop_path_rates,
)
from models.pvt import PyramidVisionTransformer
from models.rest import Block
from models.restv1 import STEMS, ResTv1
from models.restv2 import ResTv2
from models.windows import WindowAttention, windows_of

# ResTv2-T with a sixth of its channels.
SMALL = replace(RESTV2["restv2_tiny"], width=16)
SMALL_V1 = replace(config.RESTV1["restv1_lite"], width=16)
SMALL_PVT = replace(config.PVT["pvt_tiny"], dims=(8, 16, 20, 32), heads=(1, 2, 5, 8), mlp_ratios=(2, 2, 2, 2))


def combinations(options):
    """Every choice of values, flags and absences of `options`, apart from files."""
    choices = {
        name: [None, *(option.values or [True])] for name, option in options.items() if not option.takes
    }
    for chosen in product(*choices.values()):
        yield {name: value for name, value in zip(choices, chosen, strict=True) if value is not None}


def single(options):
    """Each value of each option alone, and none."""
    return [
        {},
        *({name: value} for each in combinations(options) for name, value in each.items() if len(each) == 1),
    ]


VARIANTS = [
    *single(RESTV2_OPTIONS),
    {"target": "k", "mhim": True},
    {"target": "x", "upsample": "bilinear", "pe": "rpe"},
    {"attention": "msa", "mhim": True},
    {"attention": "sra", "pe": "rpe"},
    {"branches": "convnet", "target": "x", "upsample": "nearest"},
]


def words(options):
    return (
        ",".join(name if value is True else f"{name}={value}" for name, value in options.items()) or "default"
    )


@pytest.fixture(autouse=True)
def _one_thread():
    """For tensors as small as these, a second one only waits, and on a busy machine for long."""
    torch.manual_seed(0)
    torch.compiler.reset()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomised(module):
    """Weights of a size at which every part matters, norms and biases too; in fp64."""
    module = module.double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


# ---- what each part computes


def by_loops(attention, x, size):
    """Appendix E and equations 1, 2 and 4, a query, a key and a channel at a time, from the module's parameters."""
    parts, r, heads = attention.parts, attention.reduction, attention.heads
    weights = dict(attention.named_parameters())
    (height, width), channels, dim = size, x.shape[-1], x.shape[-1] // heads
    rows, columns = math.ceil(height / r), math.ceil(width / r)

    def linear(name, tokens):
        return torch.stack([weights[f"{name}.weight"] @ token + weights[f"{name}.bias"] for token in tokens])

    def layer_norm(name, token):
        centred = token - token.mean()
        scaled = centred / (centred.square().mean() + 1e-6).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def pixel(tokens, y, x_):
        return (
            tokens[y * width + x_] if 0 <= y < height and 0 <= x_ < width else torch.zeros(channels).double()
        )

    def reduce(tokens):
        if r == 1:
            return tokens
        kernel, first = (r, 0) if parts.reduction == "dense" else (r + 1, -(r // 2))
        reduced = []
        for y, x_ in product(range(rows), range(columns)):
            total = weights["sr.bias"].clone()
            for i, j in product(range(kernel), repeat=2):
                here, tap = (
                    pixel(tokens, y * r + first + i, x_ * r + first + j),
                    weights["sr.weight"][:, :, i, j],
                )
                total += tap @ here if parts.reduction == "dense" else tap[:, 0] * here
            reduced.append(layer_norm("sr_norm", total))
        return torch.stack(reduced)

    def attend(q, k, v):
        scores = torch.empty(heads, len(q), len(k)).double()
        for head, query, key in product(range(heads), range(len(q)), range(len(k))):
            own = slice(head * dim, (head + 1) * dim)
            kept = k[key][own]
            if parts.pe == "rpe":
                kept = (
                    kept
                    + weights["rpe_h"][head, key // columns, 0]
                    + weights["rpe_w"][head, 0, key % columns]
                )
            scores[head, query, key] = q[query][own] @ kept / math.sqrt(dim)
        if parts.mhim and heads > 1:
            mix = weights["transform_conv.weight"][:, :, 0, 0]
            scores = torch.stack(
                [
                    sum(mix[out, head] * scores[head] for head in range(heads))
                    + weights["transform_conv.bias"][out]
                    for out in range(heads)
                ]
            )
        maps = scores.exp() / scores.exp().sum(-1, keepdim=True)
        if parts.mhim and heads > 1:
            maps = torch.stack(
                [(each - each.mean()) / (each.var(correction=0) + 1e-5).sqrt() for each in maps]
            )
        return torch.cat([maps[head] @ v[:, head * dim : (head + 1) * dim] for head in range(heads)], 1)

    def upsample(target):
        grid = target.reshape(rows, columns, channels)
        out = []
        for y, x_ in product(range(height), range(width)):
            if parts.upsample == "nearest":
                out.append(grid[y // r, x_ // r])
            elif parts.upsample == "bilinear":
                near = []
                for at, last in ((y, rows - 1), (x_, columns - 1)):  # pixel centres, clamped at the border
                    where = max((at + 0.5) / r - 0.5, 0.0)
                    low = min(int(where), last)
                    near.append((low, min(low + 1, last), where - low if low < last else 0.0))
                (top, bottom, down), (left, right, along) = near
                upper = grid[top, left] * (1 - along) + grid[top, right] * along
                lower = grid[bottom, left] * (1 - along) + grid[bottom, right] * along
                out.append(upper * (1 - down) + lower * down)
            else:
                phase = (y % r) * r + x_ % r
                filters = torch.arange(channels) * r * r + phase
                total = (
                    weights["up.0.bias"][filters].clone() if parts.up_bias else torch.zeros(channels).double()
                )
                for i, j in product(range(3), repeat=2):
                    v_y, v_x = y // r + i - 1, x_ // r + j - 1
                    if 0 <= v_y < rows and 0 <= v_x < columns:
                        total += weights["up.0.weight"][filters, 0, i, j] * grid[v_y, v_x]
                out.append(layer_norm("up_norm", total))
        return torch.stack(out)

    outs = []
    for tokens in x:
        reduced = reduce(tokens)
        total = torch.zeros_like(tokens)
        targets = {"x": reduced}
        if parts.attends:
            q = linear("q", tokens)
            targets["k"], targets["v"] = linear("kv", reduced).split(channels, 1)
            total = total + attend(q, targets["k"], targets["v"])
        else:
            targets["v"] = linear("v", reduced)
        if parts.target:
            beside = len(tokens) - height * width  # a class token is in no map
            total[beside:] += upsample(targets[parts.target][beside:])
        outs.append(linear("proj", total))
    return torch.stack(outs)


def in_windows(attend, x, size, window):
    """`attend(tokens, size)` on one zero-padded window of one image at a time, a pixel at a time in and out."""
    (height, width), rows = size, []
    for tokens in x:
        out = [None] * len(tokens)
        for top, left in product(range(0, height, window), range(0, width, window)):
            inside = {
                (y, x_): (top + y) * width + left + x_
                for y, x_ in product(range(window), repeat=2)
                if top + y < height and left + x_ < width
            }
            nothing = torch.zeros_like(tokens[0])
            padded = [
                tokens[inside[place]] if place in inside else nothing
                for place in product(range(window), repeat=2)
            ]
            done = attend(torch.stack(padded)[None], (window, window))[0]
            for (y, x_), token in inside.items():
                out[token] = done[y * window + x_]
        rows.append(torch.stack(out))
    return torch.stack(rows)


WINDOW = 4


def window_of(parts):
    return windows_of(parts.style, WINDOW, 2)[0]


@pytest.mark.parametrize(("size", "reduction"), [((5, 7), 2), ((4, 4), 4), ((3, 2), 1)])
@pytest.mark.parametrize("options", VARIANTS, ids=words)
def test_every_variant_against_loops(options, size, reduction):
    parts = SMALL.assemble(**options)
    window = window_of(parts)
    kind, more = (Attention, {}) if window is None else (WindowAttention, {"window": window})
    attention = randomised(kind(6, 2, reduction, parts=parts, size=size, **more))
    x = torch.randn(2, size[0] * size[1], 6, dtype=torch.float64)
    with torch.inference_mode():
        if window is None:
            expected = by_loops(attention, x, size)
        else:
            expected = in_windows(partial(by_loops, attention), x, size, window)
        assert (attention(x, size) - expected).abs().max() < 1e-10


def pvt_by_loops(model, image):
    """A patch, a token and a class token at a time: (3, H, W) → logits."""
    weights = dict(model.named_parameters())

    def linear(name, token):
        return weights[f"{name}.weight"] @ token + weights[f"{name}.bias"]

    def layer_norm(name, token):
        centred = token - token.mean()
        scaled = centred / (centred.square().mean() + 1e-6).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    grid = image
    for stage in range(1, 5):
        patch, name = 4 if stage == 1 else 2, f"patch_embed{stage}"
        rows, columns = math.ceil(grid.shape[1] / patch), math.ceil(grid.shape[2] / patch)
        padded = torch.zeros(len(grid), rows * patch, columns * patch).double()
        padded[:, : grid.shape[1], : grid.shape[2]] = grid
        tokens = [weights[f"{name}.cls"][0, 0]] if stage == 4 else []
        for y, x in product(range(rows), range(columns)):
            cut = padded[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            kernel = weights[f"{name}.proj.weight"].flatten(1)
            tokens.append(layer_norm(f"{name}.norm", kernel @ cut.flatten() + weights[f"{name}.proj.bias"]))
        stream = torch.stack(tokens) + weights[f"{name}.pos"][0]
        for index, block in enumerate(getattr(model, f"block{stage}")):
            own = f"block{stage}.{index}"
            normed = torch.stack([layer_norm(f"{own}.norm1", token) for token in stream])
            stream = stream + by_loops(block.attn, normed[None], (rows, columns))[0]
            hidden = [linear(f"{own}.mlp.fc1", layer_norm(f"{own}.norm2", token)) for token in stream]
            gelu = [each * (1 + torch.erf(each / math.sqrt(2))) / 2 for each in hidden]
            stream = stream + torch.stack([linear(f"{own}.mlp.fc2", each) for each in gelu])
        grid = stream.T.reshape(-1, rows, columns) if stage < 4 else None
    return linear("head", layer_norm("norm", stream[0]))


@pytest.mark.parametrize("options", single(PVT_OPTIONS), ids=words)
@pytest.mark.parametrize("size", [(32, 32), (36, 40)])  # the second is padded in three stages
def test_pvt_against_loops(options, size):
    small = replace(SMALL_PVT, dims=(4, 6, 10, 8), heads=(1, 2, 5, 2), depths=(1, 1, 1, 2))
    model = randomised(PyramidVisionTransformer(small, size=size, num_classes=3, **options))
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        expected = torch.stack([pvt_by_loops(model, image) for image in images])
        assert (model(images) - expected).abs().max() < 1e-9 * expected.abs().max()


def test_tokens_beside_the_map_attend_and_are_not_upsampled():
    """PVT's class token: equation 2 for the others; for itself the attention alone."""
    attention = randomised(Attention(6, 2, 1, parts=Parts()))
    tokens = torch.randn(1, 7, 6, dtype=torch.float64)
    attended, up = attention.branches(tokens, (2, 3))
    assert up[:, 0].abs().max() == 0
    alone, up_of_map = attention.branches(tokens[:, 1:], (2, 3))
    assert (up[:, 1:] - up_of_map).abs().max() < 1e-12
    assert (attended[:, 1:] - alone).abs().max() > 1e-3  # the map's tokens do see it


def test_positional_embeddings_against_their_formulas():
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    pa, peg, ape = (
        randomised(module)
        for module in (PixelAttention(4), PositionalEncodingGenerator(4), AbsolutePosition(4, (5, 6)))
    )
    for module, conv in ((pa, pa.pa_conv), (peg, peg.conv)):
        padded = F.pad(x, (1, 1, 1, 1))
        taps = sum(
            conv.weight[:, 0, i, j, None, None] * padded[:, :, i : i + 5, j : j + 6]
            for i, j in product(range(3), repeat=2)
        )
        taps = taps + conv.bias[:, None, None]
        expected = x * torch.sigmoid(taps) if module is pa else x + taps
        assert (module(x) - expected).abs().max() < 1e-12
    assert torch.equal(ape(x), x + ape.theta)


# ---- combinations


def test_every_combination_runs_or_says_why_not():
    reasons: set[str] = set()
    kinds: dict[Parts, dict] = {}
    for options in combinations(RESTV2_OPTIONS):
        try:
            kinds.setdefault(SMALL.assemble(**options), options)
        except ValueError as error:
            reasons.add(str(error))
    assert {why for _, why in config.NONSENSE} <= reasons
    assert any("contradict each other" in reason for reason in reasons)
    assert len(kinds) > 100
    for parts, options in kinds.items():
        with torch.device("meta"), torch.inference_mode():
            block = Block(8, 2, 2, 1, parts=parts, size=(5, 9), window=window_of(parts))
            assert block(torch.empty(1, 45, 8), (5, 9)).shape == (1, 45, 8), options


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"attention": "emsa", "target": "k"}, "attention=emsa and target=k contradict each other"),
        ({"branches": "convnet", "attention": "emsa"}, "neither an attention nor an upsample branch"),
        ({"branches": "convnet", "mhim": True}, "MHIM works on the attention map, and a ConvNet has none"),
        ({"branches": "convnet", "target": "k"}, "no keys to upsample"),
        ({"branches": "convnet", "pe": "rpe"}, "RPE is added to the keys"),
        ({"target": "none", "upsample": "nearest"}, "nothing to upsample"),
        ({"branches": "convnet", "style": "win"}, "a ConvNet attends to nothing"),
        ({"pe": "rpe", "style": "hwin"}, "RPE is learnt for the keys of a whole map"),
        ({"style": "windows"}, "there is no 'windows'; there are global, win, cwin, hwin"),
        ({"attention": "emsav3"}, "there is no 'emsav3'; there are msa, sra, emsa, emsav2"),
        ({"stem": "pool"}, "ResTv2-T takes no option stem"),
    ],
)
def test_what_makes_no_sense_is_refused(options, why):
    with pytest.raises(ValueError, match=why):
        models.build("restv2_tiny", **options)


def test_the_deeper_convnets_are_of_resTv2_t():
    with pytest.raises(ValueError, match="has the paper's depths for ResTv2-T, not ResTv2-L"):
        models.build("restv2_large", branches="convnetv3")


@pytest.mark.parametrize("options", [{"branches": "convnet"}, {"mhim": True}])
def test_sdpa_says_why_it_cannot(options):
    with pytest.raises(ValueError, match="'sdpa'"):
        models.build("restv2_tiny", impl="sdpa", **options)


def test_positions_learnt_for_one_size_refuse_another():
    image = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match="were made for a 8x8 map, and this one is 16x16"):
        models.build("restv2_lite", pe="ape", size=(32, 32))(image)
    with pytest.raises(ValueError, match="were made for 1 keys, and here are 4"):
        models.build("restv2_lite", pe="rpe", size=(32, 32))(image)
    with pytest.raises(ValueError, match="positions were made for 64 tokens, and this map has 256"):
        models.build("pvt_tiny", size=(32, 32))(image)


# ---- how each runs

# One block a stage. ConvNetv2 and v3 are more of ConvNet's.
SHALLOW = (1, 1, 1, 1)
WHOLE = [
    *(
        (ResTv2, replace(SMALL, depths=SHALLOW), options)
        for options in VARIANTS
        if options.get("branches") not in ("convnetv2", "convnetv3")
    ),
    *((ResTv1, replace(SMALL_V1, depths=SHALLOW), options) for options in single(RESTV1_OPTIONS)),
    *(
        (PyramidVisionTransformer, replace(SMALL_PVT, depths=SHALLOW), options)
        for options in single(PVT_OPTIONS)
    ),
]


def whole_words(part):
    if isinstance(part, dict):
        return words(part)
    return part.__name__ if isinstance(part, type) else ""


def relative(out, truth):
    return ((out.double() - truth).abs().max() / truth.abs().max()).item()


@pytest.mark.parametrize(("kind", "small", "options"), WHOLE, ids=whole_words)
def test_every_variant_in_every_form(kind, small, options):
    """sdpa, channels last and under autocast: eager's results, within its own error."""
    size = (40, 72)
    eager = kind(small, size=size, **options).eval()
    image = torch.randn(2, 3, *size)
    last = torch.channels_last
    forms = {
        "channels last": (
            kind(small, size=size, **options).to(memory_format=last),
            image.to(memory_format=last),
        )
    }
    parts = small.assemble(**options)
    if parts.attends and not parts.mhim:
        forms["sdpa"] = (kind(small, size=size, impl="sdpa", **options), image)
    else:
        with pytest.raises(ValueError, match="'sdpa'"):
            kind(small, size=size, impl="sdpa", **options)
    for model, _ in forms.values():
        model.eval().load_state_dict(eager.state_dict())
    with torch.inference_mode():
        outs = {name: model(given) for name, (model, given) in forms.items()}
        plain = eager(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = eager(image)
        truth = eager.double()(image.double())
    for name, out in outs.items():
        assert relative(out, truth) <= 2 * relative(plain, truth) + 1e-5, name
    assert half.dtype == torch.bfloat16
    # eight bits leave nothing of MHIM's map at initial weights: see bench/checks.py
    assert half.isfinite().all() if parts.mhim else relative(half, truth) < 0.1


def assert_compiles(module, backend, *inputs):
    """In one graph, to eager's results."""
    compiled = torch.compile(module, backend=backend, dynamic=False, fullgraph=True)
    doubled = [each.double() if isinstance(each, torch.Tensor) else each for each in inputs]
    with torch.inference_mode():
        out, plain = compiled(*inputs), module(*inputs)
        truth = module.double()(*doubled)
    assert relative(out, truth) <= 2 * relative(plain, truth) + 1e-5


@pytest.mark.parametrize("options", VARIANTS, ids=words)
@pytest.mark.parametrize(
    "backend",
    [
        "eager",  # the captured graph as it is
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.trials,
                pytest.mark.skipif(
                    not any(map(shutil.which, ("g++", "c++", "clang++"))),
                    reason="inductor needs a C++ compiler",
                ),
            ],
        ),
    ],
)
def test_every_variant_compiles(options, backend):
    parts = SMALL.assemble(**options)
    block = Block(32, 2, 2, 4, parts=parts, size=(9, 7), window=window_of(parts)).eval()
    assert_compiles(block, backend, torch.randn(2, 9 * 7, 32), (9, 7))


@pytest.mark.parametrize(
    ("kind", "small", "options"),
    [
        (ResTv2, replace(SMALL, depths=SHALLOW), {"pe": "ape"}),
        (ResTv2, replace(SMALL, depths=SHALLOW), {"style": "cwin"}),
        (ResTv1, replace(SMALL_V1, depths=SHALLOW), {"stem": "pool"}),
        (PyramidVisionTransformer, replace(SMALL_PVT, depths=SHALLOW), {"attention": "emsav2"}),
    ],
    ids=whole_words,
)
def test_whole_models_compile(kind, small, options):
    assert_compiles(kind(small, size=(40, 72), **options).eval(), "eager", torch.randn(1, 3, 40, 72))


def gradcheck(module, *inputs):
    """Of the inputs and every parameter, against finite differences along random directions."""
    names, values = zip(*module.named_parameters(), strict=True)
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    others = inputs[len(tensors) :]

    def run(*given):
        parameters = dict(zip(names, given[len(tensors) :], strict=True))
        return functional_call(module, parameters, (*given[: len(tensors)], *others))

    given = [value.detach().double().requires_grad_() for value in (*tensors, *values)]
    return torch.autograd.gradcheck(run, given, fast_mode=True)


@pytest.mark.parametrize("options", VARIANTS, ids=words)
def test_gradients_of_every_variant(options):
    parts = SMALL.assemble(**options)
    block = randomised(Block(4, 2, 2, 2, parts=parts, size=(5, 3), window=window_of(parts)))
    assert gradcheck(block, torch.randn(2, 15, 4, dtype=torch.float64), (5, 3))


@pytest.mark.parametrize("options", single(RESTV1_OPTIONS), ids=words)
def test_gradients_of_restv1s_blocks(options):
    block = randomised(Block(4, 2, 2, 2, parts=SMALL_V1.assemble(**options)))
    assert gradcheck(block, torch.randn(2, 15, 4, dtype=torch.float64), (5, 3))


@pytest.mark.parametrize("stem", STEMS)
def test_gradients_of_restv1s_stems(stem):
    """Of a small image: a difference across the kink of a ReLU, or the edge of a maximum, is no gradient."""

    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = STEMS[stem](4, PixelAttention(4))

        def forward(self, image):
            return self.stem(image)[0]

    assert gradcheck(randomised(Tokens()), torch.randn(1, 3, 8, 12, dtype=torch.float64))


@pytest.mark.parametrize("options", [{}, {"attention": "msa"}, {"attention": "emsav2"}], ids=words)
def test_gradients_of_pvt(options):
    small = replace(SMALL_PVT, dims=(4, 4, 4, 4), heads=(1, 2, 2, 2), depths=(1, 1, 1, 1))
    model = randomised(PyramidVisionTransformer(small, size=(32, 40), num_classes=2, **options))
    assert gradcheck(model, torch.randn(1, 3, 32, 40, dtype=torch.float64))


# ---- stochastic depth


def test_drop_path_rates_rise_evenly_to_table_8s():
    assert drop_path_rates(0.1, (1, 2, 6, 2)) == [
        [0.0],
        pytest.approx([0.01, 0.02]),
        pytest.approx([0.03, 0.04, 0.05, 0.06, 0.07, 0.08]),
        pytest.approx([0.09, 0.1]),
    ]
    rates = {name: models.build(name).stage4[-1].drop_path.rate for name in RESTV2 if name != "restv2_lite"}
    assert rates == {
        "restv2_tiny": pytest.approx(0.1),
        "restv2_small": pytest.approx(0.2),
        "restv2_base": pytest.approx(0.3),
        "restv2_large": pytest.approx(0.5),
    }


def test_drop_path_leaves_out_whole_images_and_keeps_the_mean():
    drop, ones = DropPath(0.25), torch.ones(40_000, 2, 3)
    assert drop.eval()(ones) is ones
    dropped = drop.train()(ones)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)  # seven standard errors


def test_dropped_branches_leave_the_tokens_as_they_were():
    block = Block(8, 2, 1, 2, drop_path=1 - 1e-9).train()
    tokens = torch.randn(3, 6, 8)
    assert torch.equal(block(tokens, (2, 3)), tokens)


# ---- names


def test_every_choice_has_a_default_that_changes_nothing():
    """So that a table of variants can name its default row as it names the others."""
    for model in (SMALL, SMALL_V1, SMALL_PVT):
        for name, option in model.options.items():
            if option.values and name not in HEADS:
                same = [value for value in option.values if model.assemble(**{name: value}) == model.parts]
                assert len(same) == 1, (model.title, name)
