"""Attention inside windows: every style against a loop over single windows, its gradients, and every way to run it."""

from dataclasses import replace

import pytest
import torch

import models
from bench import protocols
from bench.cases import parse
from bench.conventions import BY_CALL
from bench.harness import branches, inputs, macs, speed
from bench.harness.prepare import Spent
from kernels.emsa_upsample import op, reference
from kernels.window_reduce import op as reduce_op
from kernels.window_reduce import reference as reduce_reference
from models import windows
from models.rest import Block, ResTv2
from models.switches import EMSAV2, Switches
from models.variants import RESTV2
from tests.support.ablations import SMALL, assert_compiles, in_windows, randomised, relative
from tests.support.modules import whole_attentions, whole_mlps
from tests.support.sweeps import sweep, swept

STYLES = ("win", "cwin", "hwin")

# Two blocks in the third stage, so that a last block has another before it; windows a quarter of the paper's.
CONFIG = replace(SMALL, depths=(1, 1, 2, 1), windows=(16, 8, 4, 2))

# Of images: one window; several without padding; padding right, below, and both; smaller than a window.
SIZES = [(64, 64), (128, 192), (128, 100), (100, 128), (76, 140), (40, 72), (33, 47)]


def pair(style, config=CONFIG):
    """A model with windows and one without, in fp64, with the same weights of a size at which every part matters."""
    inside = ResTv2(config, Switches(style=style), num_classes=3).double().eval()
    for parameter in inside.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    outside = ResTv2(config, EMSAV2, num_classes=3).double().eval()
    shared = {name: value for name, value in inside.state_dict().items() if not name.startswith("across")}
    outside.load_state_dict(shared)
    return inside, outside


def by_windows(outside, inside, style, image, config=CONFIG):
    """The maps of a model with windows: the blocks of one without, an image and a window at a time."""
    maps = []
    embeddings = [outside.stem, outside.patch_2, outside.patch_3, outside.patch_4]
    for stage, (embed, window) in enumerate(zip(embeddings, config.windows, strict=True)):
        x, size = embed(image)
        blocks = getattr(outside, f"stage{stage + 1}")
        for block in blocks:
            normed = block.norm1(x)
            if style == "hwin" and block is blocks[-1]:
                x = x + block.attn(normed, size)
            else:
                x = x + in_windows(block.attn, normed, size, window)
            x = x + block.mlp(block.norm2(x))
        image = x.transpose(1, 2).reshape(len(x), -1, *size)
        if style == "cwin":
            conv = inside.across[stage].conv
            taps = torch.nn.functional.unfold(image, 7, padding=3).unflatten(1, (-1, 49))
            image = image + (conv.weight.flatten(1)[..., None] * taps).sum(2).unflatten(2, size)
            image = image + conv.bias[:, None, None]
        maps.append(image)
    return maps


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_the_whole_attention_on_each_padded_window(style, size):
    inside, outside = pair(style)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        expected = by_windows(outside, inside, style, images)
        for ours, theirs in zip(inside.features(images), expected, strict=True):
            assert ours.shape == theirs.shape
            assert (ours - theirs).abs().max() < 1e-10 * max(1, theirs.abs().max())


@pytest.mark.parametrize("style", STYLES)
def test_with_the_papers_windows(style):
    """64 to 8 tokens a side, on a map that has more than one and needs padding, and on one at 224 that has less."""
    config = replace(CONFIG, windows=RESTV2["restv2_tiny"].windows)
    assert config.windows == (64, 32, 16, 8)
    inside, outside = pair(style, config)
    for size in [(160, 288), (224, 224)]:
        images = torch.randn(1, 3, *size, dtype=torch.float64)
        with torch.inference_mode():
            expected = by_windows(outside, inside, style, images, config)
            for ours, theirs in zip(inside.features(images), expected, strict=True):
                assert (ours - theirs).abs().max() < 1e-10 * max(1, theirs.abs().max())


@pytest.mark.parametrize("style", STYLES)
def test_gradients_are_those_of_the_loop(style):
    """Gradients of the image and of every parameter; none may come back from padding."""
    inside, outside = pair(style)
    image = torch.randn(1, 3, 76, 140, dtype=torch.float64)
    given = [image.clone().requires_grad_(), image.clone().requires_grad_()]
    maps = inside.features(given[0])
    weights = [torch.randn_like(each) for each in maps]
    found = [maps, by_windows(outside, inside, style, given[1])]
    ours, theirs = (
        torch.autograd.grad(
            sum((weight * each).sum() for weight, each in zip(weights, its, strict=True)),
            [start, *dict(model.named_parameters()).values()],
            allow_unused=True,  # what belongs to the classifier
        )
        for its, start, model in zip(found, given, (inside, outside), strict=True)
    )
    names = [["image", *(name for name, _ in model.named_parameters())] for model in (inside, outside)]
    ours, theirs = (
        dict(zip(name, each, strict=True)) for name, each in zip(names, (ours, theirs), strict=True)
    )
    assert sum(value is not None for value in theirs.values()) > 50
    for name, expected in theirs.items():
        if expected is None:
            assert ours[name] is None
        else:
            assert (ours[name] - expected).abs().max() <= 1e-9 * max(1, expected.abs().max()), name


# ---- the steps


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (5, 11), (3, 2), (9, 4)])
def test_windows_hold_the_maps_pixels_and_come_back(size):
    height, width = size
    tokens = torch.arange(1.0, 2 * height * width * 3 + 1).view(2, height * width, 3)
    padded = windows.pad(tokens, size, 4)
    rows, columns = -(-height // 4), -(-width // 4)
    assert padded.shape == (2, 4 * rows, 4 * columns, 3)
    cut = windows.partition(padded, 4)
    assert cut.shape == (2 * rows * columns, 16, 3)
    for index, window in enumerate(cut):
        image, row, column = index // (rows * columns), index // columns % rows, index % columns
        for token, value in enumerate(window):
            y, x = 4 * row + token // 4, 4 * column + token % 4
            inside = y < height and x < width
            assert torch.equal(value, tokens[image, y * width + x] if inside else torch.zeros(3))
    assert torch.equal(windows.reverse(cut, size, 4), tokens)


def is_view(out, of):
    return out.untyped_storage().data_ptr() == of.untyped_storage().data_ptr()


def test_nothing_is_moved_where_nothing_has_to_be():
    one, several, odd = (torch.randn(2, 4 * columns, 3) for columns in (4, 8, 7))
    assert is_view(windows.pad(one, (4, 4), 4), one)
    assert is_view(windows.pad(several, (4, 8), 4), several)
    assert not is_view(windows.pad(odd, (4, 7), 4), odd)
    assert is_view(windows.partition(windows.pad(one, (4, 4), 4), 4), one)
    assert not is_view(windows.partition(windows.pad(several, (4, 8), 4), 4), several)
    assert is_view(windows.reverse(one, (4, 4), 4), one)


# ---- how each style runs


@pytest.mark.parametrize(
    ("style", "size"),
    swept(
        [*((style, (76, 140)) for style in STYLES), ("win", (64, 64)), ("win", (33, 47))],
        lambda value: value == ("hwin", (76, 140)),
    ),
    ids=str,
)
def test_every_form_gives_what_eager_gives(style, size):
    """sdpa, auto, compile's captured graph, channels last and autocast, within eager's own error.

    Every style where windows are padded on two sides; one, as all pad alike, where nothing is padded, and where the
    image is smaller than a window.
    """
    eager, _ = pair(style)
    eager = eager.float()
    image = torch.randn(2, 3, *size)
    last = torch.channels_last
    forms = {
        name: ResTv2(CONFIG, Switches(style=style), impl=name, num_classes=3).eval()
        for name in ("sdpa", "auto")
    }
    forms["last"] = ResTv2(CONFIG, Switches(style=style), num_classes=3).eval()
    for model in forms.values():
        model.load_state_dict(eager.state_dict())
    forms["last"].to(memory_format=last)
    with torch.inference_mode():
        outs = {
            name: model(image.to(memory_format=last) if name == "last" else image)
            for name, model in forms.items()
        }
        outs["compile"] = models.compiled(eager, backend="eager")(image)
        plain = eager(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = eager(image)
        truth = eager.double()(image.double())
    for name, out in outs.items():
        assert relative(out, truth) <= 2 * relative(plain, truth) + 1e-5, name
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()


def test_a_block_with_windows_compiles():
    assert_compiles(Block(32, 2, 2, 4, window=4).eval(), "eager", torch.randn(2, 9 * 7, 32), (9, 7))


def test_the_kernel_is_given_windows(monkeypatch):
    seen = []

    def instead(*args, **kwargs):
        seen.append((len(args[0]), kwargs["size"], kwargs.get("window")))
        return reference.emsa_upsample(*args, **kwargs)

    monkeypatch.setattr(op, "emsa_upsample", instead)
    monkeypatch.setattr(op, "why_not", lambda device, dtype: None)
    monkeypatch.setattr(reduce_op, "window_reduce", reduce_reference.window_reduce)
    image = torch.randn(2, 3, 100, 300)
    eager, fused = (models.build("restv2_lite", impl=impl, style="hwin") for impl in ("eager", "fused"))
    fused.load_state_dict(eager.state_dict())
    with torch.inference_mode():
        assert torch.allclose(fused.double()(image.double()), eager.double()(image.double()), atol=1e-9)
    # maps of 25×75, 13×38, 7×19 and 4×10; the second of two blocks is global
    maps = [(25, 75), (13, 38), (7, 19), (4, 10)]
    assert seen[::2] == [(2, size, window) for size, window in zip(maps, (64, 32, 16, 8), strict=True)]
    assert seen[1::2] == [(2, size, None) for size in maps]


@sweep
@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("style", STYLES)
def test_every_implementation_counts_alike(style):
    case = parse(f"restv2_lite[style={style}]@100x300")
    eager = macs.count(case)
    assert not eager.uncounted
    for impl in ("sdpa", "fused", "compile", "fused+compile", "auto"):
        other = macs.count(replace(case, impl=impl))
        assert not other.uncounted
        for convention in BY_CALL:
            assert other.by_operator(convention) == eager.by_operator(convention), impl
            # where no window is cut out, the reduction is the attention's own, and so are padding's projections
            theirs, its = (whole_attentions(whole_mlps(x.by_module(convention))) for x in (other, eager))
            assert theirs == its, impl


def test_branches_are_of_the_whole_map():
    model, _ = pair("win")
    seen = {}

    def fold(block, features, size):
        seen[block] = {name: x.shape for name, x in features.items()}, size

    image = torch.randn(2, 3, 76, 140, dtype=torch.float64)
    with torch.inference_mode(), branches.watched(model, fold):
        model(image)
    shapes, size = seen["stage1.0"]
    assert size == (19, 35)
    assert set(shapes.values()) == {(2, 19 * 35, 16)}
    attention, tokens = model.stage1[0].attn, torch.randn(1, 19 * 35, 16, dtype=torch.float64)
    with torch.inference_mode():
        both = sum(attention.branches(tokens, (19, 35)))
        assert (attention.proj(both) - attention(tokens, (19, 35))).abs().max() < 1e-12


# ---- weights


@pytest.mark.usefixtures("small_models")
def test_released_weights_fit_every_style_but_cwin(tmp_path):
    """CWin's convolutions are in nobody's released weights: they are missed by name, not left as they happen to be."""
    file = tmp_path / "restv2_lite.pth"
    torch.save(models.build("restv2_lite").state_dict(), file)
    for style in ("global", "win", "hwin"):
        model = models.build("restv2_lite", style=style, weights=str(file))
        assert torch.equal(model.head.weight, torch.load(file, weights_only=True)["head.weight"])
    with pytest.raises(
        ValueError, match=r"does not fit the model: missing across\.0\.conv\.weight"
    ) as caught:
        models.build("restv2_lite", style="cwin", weights=str(file))
    assert "\n" not in str(caught.value)
    torch.save(models.build("restv2_lite", style="cwin").state_dict(), file)
    models.build("restv2_lite", style="cwin", weights=str(file))


def test_an_image_smaller_than_a_window_is_padded_up_to_one():
    attention = randomised(windows.WindowAttention(6, 2, 2, window=8))
    tokens = torch.randn(1, 6, 6, dtype=torch.float64)
    padded = torch.zeros(1, 8, 8, 6, dtype=torch.float64)
    padded[:, :2, :3] = tokens.view(1, 2, 3, 6)
    with torch.inference_mode():
        whole = super(windows.WindowAttention, attention).forward(padded.flatten(1, 2), (8, 8))
        expected = whole.view(1, 8, 8, 6)[:, :2, :3].reshape(1, 6, 6)
        assert (attention(tokens, (2, 3)) - expected).abs().max() < 1e-12


SMALL_NOTE = (
    "an image of 64x96 is smaller than a window, which spans 256 pixels: 91 % of the tokens are padding"
)


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize(
    ("text", "notes"),
    swept(
        [
            ("restv2_lite[style=win]@64x96:b1:fp32", [SMALL_NOTE]),
            ("restv2_lite[style=hwin]@64x96:b1:fp32:train", [SMALL_NOTE]),
            ("attention_tiny[part=copies,stage=4,style=win]@64x96:b1:fp32", [SMALL_NOTE]),
            ("restv2_lite[style=global]@64x96:b1:fp32", []),
            ("attention_tiny[stage=4]@64x96:b1:fp32", []),
            ("attention_tiny[stage=4,style=win]@256:b1:fp32", []),
        ],
        lambda value: "stage=4" in value[0],
    ),
)
def test_the_row_of_an_image_smaller_than_a_window_says_so(monkeypatch, text, notes):
    """The note goes once with what is timed, alone or in turns; no other row has it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    rules = replace(protocols.PROTOCOLS["quick"]["cpu"], warmup_s=0, min_samples=1, max_samples=1)
    for harness, number in ((speed.throughput, 1), (speed.compare, 2)):
        _, said = harness([parse(text)] * number, rules, lambda phase: None, Spent())
        assert [note for note in said if "window" in note] == notes


def test_every_small_size_of_a_mix_is_named(monkeypatch):
    monkeypatch.setattr(inputs, "sizes_of", lambda case: [(32, 64), (255, 300), (256, 256), (32, 64)])
    said = inputs.notes_on_sizes(parse("restv2_lite[style=cwin]@coco"))
    assert [note.split()[3] for note in said] == ["32x64", "255x300"]
    assert inputs.notes_on_sizes(parse("restv2_lite@coco")) == []
