"""A step of training: Table 8 written out by hand, and what a step leaves behind."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from bench.cases import parse
from bench.harness import device, forms, speed, training
from bench.harness.prepare import Spent
from models.layers import DropPath
from tests.support.trained_nets import RULES, prepared, step_of

pytestmark = pytest.mark.usefixtures("nets")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two would meet after each of AdamW's thousand small operations, and wait there for a core that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def by_hand(
    weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor, target: torch.Tensor, steps: int
) -> tuple[list[float], torch.Tensor, torch.Tensor]:
    """Losses, weight and bias of a linear classifier after steps of Table 8: every formula written out."""
    batch, classes = target.shape
    lr = 1.5e-4 * batch / 256
    smooth = 0.9 * target + 0.1 / classes
    losses, moments = [], dict.fromkeys(("weight", "bias"), (0.0, 0.0))
    values = {"weight": weight.clone(), "bias": bias.clone()}
    for t in range(1, steps + 1):
        logits = x @ values["weight"].T + values["bias"]
        log_p = logits - logits.exp().sum(1, keepdim=True).log()
        losses.append(-(smooth * log_p).sum().item() / batch)
        by_logits = (log_p.exp() - smooth) / batch
        gradients = {"weight": by_logits.T @ x, "bias": by_logits.sum(0)}
        norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients.values()))
        for name, gradient in gradients.items():
            clipped = gradient * min(1.0, 1.0 / (norm + 1e-6))
            m, v = moments[name]
            m, v = 0.9 * m + 0.1 * clipped, 0.999 * v + 0.001 * clipped**2
            moments[name] = m, v
            values[name] = values[name] * (1 - lr * 0.05)  # decoupled: it does not pass through the moments
            values[name] -= lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return losses, values["weight"], values["bias"]


@pytest.mark.parametrize(("scale", "clipped"), [(0.05, False), (20.0, True)], ids=["unclipped", "clipped"])
def test_a_step_is_table_8_written_out(scale, clipped):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7)).double()
    weight, bias = (parameter.detach().clone() for parameter in model.parameters())
    images = scale * torch.randn(64, 3, 2, 2, dtype=torch.float64)
    target = training.targets(model(images))
    losses, weight, bias = by_hand(weight, bias, images.flatten(1), target, steps=3)

    step = training.Step(model, images, torch.enable_grad, scaled=False)
    assert [step().item() for _ in losses] == pytest.approx(losses, abs=1e-12)
    assert (model[1].weight - weight).abs().max() < 1e-12
    assert (model[1].bias - bias).abs().max() < 1e-12

    fresh = nn.functional.cross_entropy(model(images), target, label_smoothing=0.1)
    fresh.backward()
    assert (torch.cat([p.grad.flatten() for p in model.parameters()]).norm() > 1) == clipped


def test_targets_are_two_classes_an_image_whose_shares_sum_to_one():
    target = training.targets(torch.zeros(9, 1000))
    assert target.shape == (9, 1000)
    assert target.sum(1).tolist() == pytest.approx([1] * 9)
    assert {int(n) for n in (target > 0).sum(1)} == {2}
    assert len({tuple(row.nonzero().flatten().tolist()) for row in target}) == 9


def test_targets_are_the_same_in_every_run_and_for_the_first_images_of_every_batch():
    torch.manual_seed(1)
    assert torch.equal(training.targets(torch.zeros(2, 10)), training.targets(torch.ones(6, 10))[:2])


@pytest.mark.parametrize(
    ("dtype", "expected"), [("fp16", "fp32"), ("bf16", "fp32"), ("fp32", "fp32"), ("fp64", "fp64")]
)
def test_the_loss_is_in_fp32_at_least(dtype, expected):
    logits = torch.randn(2, 5).to(forms.TORCH_DTYPES[dtype])
    assert training.loss_of(logits, training.targets(logits)).dtype == forms.TORCH_DTYPES[expected]


def test_gradients_leave_the_weights_alone_and_nothing_behind():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7)).eval()
    before = [parameter.clone() for parameter in model.parameters()]
    training.gradients(model, torch.randn(2, 3, 2, 2), torch.enable_grad, scaled=True)
    assert all(map(torch.equal, before, model.parameters()))
    assert [parameter.grad for parameter in model.parameters()] == [None, None]
    assert not model.training


def test_scaled_gradients_are_those_of_the_loss():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 7)), torch.randn(2, 3, 2, 2)
    plain, scaled = (
        training.gradients(model, x, torch.enable_grad, scaled=of).by_name for of in (False, True)
    )
    for name, gradient in plain.items():
        torch.testing.assert_close(scaled[name], gradient)


def test_what_is_random_is_off_in_the_check_and_on_in_the_step():
    it = prepared("trained_nets:Dropping@8:b3:fp32:train")
    model = step_of(it).model
    assert model.seen == [False, False, True]  # outputs, gradients, the first step
    it.run()
    assert model.seen == [False, False, True, True]


def test_stochastic_depth_is_at_work_in_the_step():
    step = step_of(prepared("restv2_lite@32:b2:fp32:train"))
    changed = []
    for module in step.model.modules():
        if isinstance(module, DropPath) and module.rate:
            module.register_forward_hook(lambda _, x, out: changed.append(not torch.equal(x[0], out)))
    step()
    assert changed and all(changed)


def test_batch_norm_learns_in_the_step_alone():
    step = step_of(prepared("restv2_lite@32:b2:fp32:train"))
    norms = [module for module in step.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert {int(norm.num_batches_tracked) for norm in norms} == {1}  # the first step's


def test_inference_stays_inference():
    out = prepared("trained_nets:Net@8:b3:fp32").run()
    assert isinstance(out, torch.Tensor) and out.is_inference()
    assert not step_of(prepared("trained_nets:Net@8:b3:fp32:train"))().is_inference()


def test_out_of_memory_halves_the_batch_and_nothing_of_the_attempt_before_is_kept(monkeypatch, nets):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(device.gc, "freeze", lambda: None)  # pytest's objects are not the worker's
    monkeypatch.setattr(nets.Hungry, "watch", staticmethod(weakref.ref), raising=False)
    case = parse("trained_nets:Hungry@8:b11:fp32:train")
    monkeypatch.setattr(speed, "unusual", lambda state: [])  # this machine may be busy
    result, notes = speed.throughput([case], RULES, lambda phase: None, Spent())
    assert notes == ["out of memory at batch 11: measured at 2"]
    assert (result["batch_requested"], result["batch"]) == (11, 2)
    assert set(nets.Hungry.alive) == {1}
    assert len(nets.Hungry.alive) > 4
