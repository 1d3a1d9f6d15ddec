"""UperNet around our backbones: against the formulas of its parts, and as a case."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from bench.cases import parse
from bench.errors import Wrong
from bench.harness import macs
from bench.harness.prepare import Spent, prepare
from models.config import SEGMENTER
from models.segmentation import UperNet
from tests.support.sweeps import sweep, swept

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(2)
    return models.build("restv2_lite", head="upernet").double()


def unit(module: Any, x: Tensor) -> Tensor:
    """Convolution, batch norm in evaluation, ReLU: by their definitions."""
    conv, norm = module[0], module[1]
    y = F.conv2d(x, conv.weight, padding=conv.weight.shape[-1] // 2)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return ((y - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]).clamp(
        min=0
    )


def resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


def test_it_is_the_papers_figure_part_by_part(model):
    """Unified perceptual parsing, figure 4: pooling on the coarsest map, a pyramid top down, all levels fused."""
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    decoder = model.decoder
    for module in model.modules():  # or a norm that is left out would not be missed
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    with torch.inference_mode():
        c2, c3, c4, c5 = model.backbone(images)
        pooled = [
            resized(unit(pool[1], F.adaptive_avg_pool2d(c5, grid)), c5)
            for pool, grid in zip(decoder.pyramid_pooling.pools, SEGMENTER.grids, strict=True)
        ]
        p5 = unit(decoder.pyramid_pooling.bottleneck, torch.cat([c5, *pooled], 1))
        l2, l3, l4 = (unit(lateral, c) for lateral, c in zip(decoder.laterals, (c2, c3, c4), strict=True))
        p4 = l4 + resized(p5, l4)
        p3 = l3 + resized(p4, l3)
        p2 = l2 + resized(p3, l2)
        levels = [unit(output, p) for output, p in zip(decoder.outputs, (p2, p3, p4), strict=True)] + [p5]
        fused = unit(decoder.fuse, torch.cat([resized(level, p2) for level in levels], 1))
        expected = resized(decoder.classify(fused), images)
        torch.testing.assert_close(model(images), expected)


def test_the_auxiliary_head_is_there_and_does_not_run(model):
    with torch.device("meta"):
        whole: Any = models.build("restv2_lite", head="upernet")
    ran: list[object] = []
    model.auxiliary.register_forward_hook(lambda *_: ran.append(1))
    with torch.inference_mode():
        model(torch.randn(1, 3, 32, 32, dtype=torch.float64))
    assert ran == []
    without = sum(p.numel() for name, p in whole.named_parameters() if not name.startswith("auxiliary"))
    channels = whole.backbone.channels[2]
    auxiliary = channels * 256 * 9 + 2 * 256 + 256 * 150 + 150
    assert macs.count(parse("restv2_lite[head=upernet]")).parameters == without + auxiliary


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("restv2_lite[head=upernet,style=win]@64x96:b2:fp32", marks=sweep),
        "restv2_lite[head=upernet]@40x72:b1:fp32:sdpa",
        pytest.param("restv2_lite[head=upernet]@64:b1:fp32:compile", marks=pytest.mark.trials),
        pytest.param("convnext_tiny[head=upernet]@64:b1:fp32:compile", marks=pytest.mark.trials),
        pytest.param("restv2_lite[head=upernet]@32:b1:bf16", marks=sweep),
    ],
)
def test_it_is_checked_and_run_as_a_case(text):
    case = parse(text)
    it = prepare(case, 1, CPU, lambda phase: None, Spent())
    assert 0 <= it.check["error"] <= it.check["bound"]
    out = it.run()
    assert isinstance(out, Tensor)
    assert out.shape == (case.batch, 150, *case.size)
    assert isinstance(it.stamped, UperNet) == (case.impl != "compile")


PARTS = ["backbone.body.stage1.0.attn", "decoder.laterals.0", "decoder.fuse"]


@pytest.mark.usefixtures("small_models", "narrow_heads")
@pytest.mark.parametrize("part", swept(PARTS, lambda part: part == "decoder.fuse"))
def test_an_error_in_any_part_is_seen(monkeypatch, part):
    build = models.build

    def wrongly(name: str, impl: str = "eager", **options: Any) -> nn.Module:
        model = build(name, impl=impl, **options)
        if impl == "sdpa":
            model.get_submodule(part).register_forward_hook(lambda module, given, out: 1.1 * out)
        return model

    monkeypatch.setattr(models, "build", wrongly)
    with pytest.raises(Wrong, match="the output differs from eager in fp64"):
        prepare(parse("restv2_lite[head=upernet]@64:b1:fp32:sdpa"), 1, CPU, lambda phase: None, Spent())


@sweep
@pytest.mark.usefixtures("small_models", "narrow_heads")
def test_compile_counts_the_same_as_eager():
    eager, compiled = (
        macs.count(parse(f"restv2_lite[head=upernet]@64{impl}")).by_operator("paper")
        for impl in ("", ":compile")
    )
    assert eager == compiled
