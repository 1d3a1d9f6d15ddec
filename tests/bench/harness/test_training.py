"""A step of training: what it computes, what is checked before it is timed, and its rows.

Expected values are formulas, written out here. The models that go wrong are a user's, given as `module:Class`.
"""

from __future__ import annotations

import math
import os
import random
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import models
from bench import describe as words
from bench.__main__ import main
from bench.cases import parse
from bench.errors import Wrong
from bench.harness import device, inputs, speed, training, verify
from bench.harness import prepare as preparing
from bench.harness.prepare import Prepared, Spent
from bench.harness.training import Gradients
from bench.harness.verify import gradient_errors, gradients_within
from bench.jobs import job_of
from bench.machine import devices, provenance
from bench.machine.devices import Device
from bench.machine.gpus import profiles
from bench.protocols import PROTOCOLS, Rules
from bench.runner import Runner
from bench.screen import Screen, describe
from models.layers import DropPath

CPU = torch.device("cpu")
RULES = Rules("tiny", 1, 0.0, 0.0, 3, None, 0.02, 0.0, limit_s=120)

NETS = '''
import torch
from torch import nn


class Net(nn.Module):
    """Means of the colours, times weights."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5))
        self.bias = nn.Parameter(torch.zeros(5))

    def forward(self, x):
        return x.mean((2, 3)) @ self.weight + self.bias


class Wide(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, 2048), nn.Linear(2048, 4))


class DoubledInFp32(Net):
    """The right output, and twice the gradient."""

    def forward(self, x):
        if x.dtype != torch.float32:
            return super().forward(x)
        return x.mean((2, 3)) @ (2 * self.weight - self.weight.detach()) + self.bias


class DoubledWhenCompiled(Net):
    def forward(self, x):
        if not torch.compiler.is_compiling():
            return super().forward(x)
        return x.mean((2, 3)) @ (2 * self.weight - self.weight.detach()) + self.bias


class DetachedWhenCompiled(Net):
    def forward(self, x):
        bias = self.bias.detach() if torch.compiler.is_compiling() else self.bias
        return x.mean((2, 3)) @ self.weight + bias


class Dropping(Net):
    def __init__(self):
        super().__init__()
        self.drop, self.seen = nn.Dropout(0.5), []

    def forward(self, x):
        self.seen.append(self.training)
        return self.drop(super().forward(x))


class Spare(Net):
    """Four parameters that nothing uses."""

    def __init__(self):
        super().__init__()
        self.spare = nn.ParameterList(torch.ones(1) for _ in range(4))


class DetachedInTraining(Net):
    def forward(self, x):
        return x.mean((2, 3)) @ self.weight + (self.bias.detach() if self.training else self.bias)


class NaNInTraining(Net):
    def forward(self, x):
        return super().forward(x) * (float("nan") if self.training else 1)


class NaNGradient(Net):
    def forward(self, x):
        return super().forward(x) + self.bias.clamp_min(0).sqrt() * 0


class NaNGradientInTraining(Net):
    def forward(self, x):
        out = super().forward(x)
        return out + self.bias.clamp_min(0).sqrt() * 0 if self.training else out


class NaNLater(Net):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        return super().forward(x) * (float("nan") if self.calls > 3 else 1)


class Overflows(Net):
    """The gradients of the second step and of the fourth are infinite."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        out = super().forward(x)
        self.calls += self.training
        if self.training and self.calls in (2, 4):
            out.register_hook(lambda gradient: gradient * float("inf"))
        return out


class OverflowsAlways(Net):
    def forward(self, x):
        out = super().forward(x)
        if self.training:
            out.register_hook(lambda gradient: gradient * float("inf"))
        return out


class Steep(Net):
    """Where its output is fp16, the gradient is 256 times as large as the output's."""

    def forward(self, x):
        return (super().forward(x).float() / 256).half().float() * 256


class Constant(Net):
    def forward(self, x):
        return x.mean((2, 3))


class Frozen(Net):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


class Maps(Net):
    def forward(self, x):
        return x * self.bias.sum()


class Tuple(Net):
    def forward(self, x):
        return super().forward(x), x


class OneLogit(Net):
    def forward(self, x):
        return super().forward(x)[:, :1]


class Hungry(Net):
    """No room for more than four images in training; counts the tensors of its parameters that are alive then."""

    parameters_of_all, alive = [], []

    def forward(self, x):
        if self.training:
            self.parameters_of_all.append(self.watch(self.weight))
            self.alive.append(len({id(of()) for of in self.parameters_of_all if of() is not None}))
            if len(x) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().forward(x)
'''


@pytest.fixture(scope="module", autouse=True)
def nets(tmp_path_factory) -> Iterator[Any]:
    """A user's module, importable here and, by the current folder, in a worker."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "trained_nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(provenance.ROOT))
        import trained_nets  # type: ignore[import-not-found]

        yield trained_nets
    sys.modules.pop("trained_nets")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two would meet after each of AdamW's thousand small operations, and wait there for a core that is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made_ready(text: str, divisor: int = 1) -> Prepared:
    return preparing.prepare(parse(text), divisor, CPU, lambda phase: None, Spent())


def step_of(it: Prepared) -> training.Step:
    assert isinstance(it.run, training.Step)
    return it.run


# --- What a step computes --------------------------------------------------------------------------------


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
    logits = torch.randn(2, 5).to(verify.TORCH_DTYPES[dtype])
    assert training.loss_of(logits, training.targets(logits)).dtype == verify.TORCH_DTYPES[expected]


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


# --- How gradients are compared --------------------------------------------------------------------------


def test_of_two_tensors_the_smaller_counts():
    """The mean of the two would hide the smaller behind the larger."""
    assert gradient_errors(gradients_of(a=100.0, b=2.0), gradients_of(a=100.0, b=1.0))["b"] == 1


def gradients_of(loss: float = 1.0, **values: float) -> Gradients:
    return Gradients(loss, {name: torch.tensor([value, 0.0]) for name, value in values.items()})


def test_an_error_is_a_share_of_the_tensors_norm_or_of_the_median_tensors():
    expected = gradients_of(large=100.0, usual=1.0, tiny=1e-9)
    found = gradients_of(large=101.0, usual=0.75, tiny=1e-9 + 1e-3)
    errors = gradient_errors(found, expected)
    assert errors == pytest.approx({"large": 0.01, "usual": 0.25, "tiny": 1e-3}, rel=1e-5)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (gradients_of(a=100.0, b=1.5, c=1.0), "the gradient of b differs from eager by 5.00e-01"),
        (gradients_of(a=100.0, b=math.nan, c=9.0), "the gradient of b differs from eager by nan"),
        (gradients_of(a=100.0, b=math.inf, c=9.0), "the gradient of b differs from eager by inf"),
        (gradients_of(a=100.0, b=1.0), "no gradient reaches c, unlike in eager"),
        (gradients_of(a=100.0, b=1.0, c=1.0, d=0.0), "a gradient reaches d, unlike in eager"),
        (gradients_of(1.1, a=100.0, b=1.0, c=1.0), "the loss differs from eager by 1.00e-01"),
        (gradients_of(math.nan, a=100.0, b=1.0, c=1.0), "the loss differs from eager by nan"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_gradient_is_named(found, said):
    expected = gradients_of(a=100.0, b=1.0, c=1.0)
    with pytest.raises(Wrong, match=said):
        gradients_within(found, expected, 0.1, 0.01, "eager")
    assert gradients_within(expected, expected, 0.1, 0.01, "eager")["error"] == 0


# --- No time without a pass ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "restv2_lite@32:b2:fp32:train",
        "restv2_lite[channels_last]@32:b2:fp32:sdpa:train",
        "restv2_lite@32:b2:bf16:train",
        "restv2_lite[autocast]@32:b2:bf16:train",
        "restv2_lite[autocast]@32:b1:fp16:train",
        "restv2_lite@32:b1:fp64:sdpa:train",
    ],
)
def test_ours_are_within_eagers_own_error_of_fp64_in_every_precision(text):
    it = made_ready(text)
    assert it.check["against"] == "eager in fp64"
    assert "of the gradient of" in words.check(it.check)
    assert it.notes == []
    assert all(math.isfinite(step_of(it)().item()) for _ in range(2))
    assert it.finish() == [] or ":fp16:" in text  # whose gradients may overflow again


def compile_through(monkeypatch, backend: str) -> None:
    compiled = models.compiled
    monkeypatch.setattr(models, "compiled", lambda model: compiled(model, backend=backend))
    monkeypatch.setattr(preparing, "_compiler", lambda device: "c++")
    torch.compiler.reset()


def test_our_models_compile_into_a_single_graph_in_training_mode_too(monkeypatch):
    compile_through(monkeypatch, "eager")
    it = made_ready("restv2_lite@32:b2:fp32:compile:train")
    assert it.check["against"] == "eager in fp64"
    assert step_of(it).model.training
    assert torch._dynamo.utils.counters["graph_break"] == {}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("DoubledWhenCompiled", "the gradient of weight differs from its own eager by"),
        ("DetachedWhenCompiled", "no gradient reaches bias, unlike in its own eager"),
        ("Net", None),
    ],
)
def test_a_compiled_peer_is_held_against_its_own_eager(monkeypatch, model, said):
    compile_through(monkeypatch, "aot_eager")
    if said is None:
        assert made_ready(f"trained_nets:{model}@8:b3:fp32:compile:train").check["against"] == "its own eager"
        return
    with pytest.raises(Wrong, match=said):
        made_ready(f"trained_nets:{model}@8:b3:fp32:compile:train")


def test_a_wrong_gradient_of_a_right_output_is_not_timed(monkeypatch, nets):
    text = "restv2_lite@32:b3:fp32"  # which stands for it, because only ours is held against fp64
    monkeypatch.setattr(models, "build", lambda name, **_: nets.DoubledInFp32().eval())
    assert made_ready(text).check["error"] < 1e-6  # inference knows nothing of it
    with pytest.raises(Wrong, match=r"the gradient of weight differs from eager in fp64 by 1\.00e\+00"):
        made_ready(f"{text}:train")


WRONG = {
    "DetachedInTraining": "no gradient reaches bias in the first step",
    "NaNInTraining": "the loss of the first step is nan",
    "NaNGradient": "the gradient of bias is not finite",
    "NaNGradientInTraining": "is not finite after the first step",
    "Constant": "no gradient reaches any parameter",
    "Maps": r"the output is \(2, 3, 8, 8\) for 2 images, and training needs a row of logits for each",
    "Tuple": "the output is tuple for 2 images, and training needs",
    "OneLogit": r"the output is \(2, 1\) for 2 images",
}


@pytest.mark.parametrize(("model", "said"), WRONG.items())
def test_what_cannot_be_right_is_not_timed(model, said):
    with pytest.raises(Wrong, match=said):
        made_ready(f"trained_nets:{model}@8:b3:fp32:train")


def test_gradients_that_overflow_at_any_scale_are_not_timed():
    with pytest.raises(Wrong, match="the first step is never taken"):
        made_ready("trained_nets:OverflowsAlways[autocast]@8:b3:fp16:train")


def test_a_model_without_parameters_to_train_says_so():
    with pytest.raises(ValueError, match="no parameter to train"):
        made_ready("trained_nets:Frozen@8:b3:fp32:train")


def test_parameters_that_nothing_uses_are_noted():
    it = made_ready("trained_nets:Spare@8:b3:fp32:train")
    assert it.notes == ["no gradient reaches spare.0, spare.1, spare.2 and 1 more"]
    assert it.check == {"against": "finite loss and gradients"}


def test_a_parameter_that_stays_as_it_was_is_not_timed():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7))
    step = training.Step(model, torch.randn(2, 3, 2, 2), torch.enable_grad, scaled=False)
    step._optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(Wrong, match=r"1\.weight is the same after the first step"):
        step.first()


def test_the_first_step_changes_every_weight_that_its_dtype_lets_it():
    torch.manual_seed(inputs.SEED)
    before = {name: of.detach().clone() for name, of in models.build("restv2_lite").named_parameters()}
    after = dict(step_of(made_ready("restv2_lite@32:b2:fp32:train")).model.named_parameters())
    assert before.keys() == after.keys()
    assert [name for name, of in after.items() if torch.equal(of, before[name]) and of.count_nonzero()] == []


def test_a_loss_that_becomes_infinite_later_is_a_failure_and_not_a_time():
    it = made_ready("trained_nets:NaNLater@8:b3:fp32:train")
    for _ in range(2):
        it.run()
    assert it.finish() == []
    it.run()
    with pytest.raises(Wrong, match="the loss is nan after 4 steps"):
        it.finish()


def test_steps_without_adamw_are_noted():
    it = made_ready("trained_nets:Overflows[autocast]@8:b3:fp16:train")
    for _ in range(4):
        it.run()
    assert it.finish() == ["2 of 5 steps, warm-up included, left AdamW out: their gradients overflowed"]


def test_fp16_is_tried_until_its_gradients_fit():
    it = made_ready("trained_nets:Steep[autocast]@8:b3:fp16:train")
    step = step_of(it)
    assert step._before_first > 0  # steps that overflowed, as the check's own do: not to be noted
    assert step._scaler.get_scale() == 2.0 ** (16 - step._before_first)
    step()
    assert it.finish() == []


# --- Training mode, and what is left of it ---------------------------------------------------------------


def test_what_is_random_is_off_in_the_check_and_on_in_the_step():
    it = made_ready("trained_nets:Dropping@8:b3:fp32:train")
    model = step_of(it).model
    assert model.seen == [False, True]
    it.run()
    assert model.seen == [False, True, True]


def test_stochastic_depth_is_at_work_in_the_step():
    step = step_of(made_ready("restv2_lite@32:b2:fp32:train"))
    changed = []
    for module in step.model.modules():
        if isinstance(module, DropPath) and module.rate:
            module.register_forward_hook(lambda _, x, out: changed.append(not torch.equal(x[0], out)))
    step()
    assert changed and all(changed)


def test_batch_norm_learns_in_the_step_alone():
    step = step_of(made_ready("restv2_lite@32:b2:fp32:train"))
    norms = [module for module in step.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert {int(norm.num_batches_tracked) for norm in norms} == {1}  # the first step's


def test_inference_stays_inference():
    out = made_ready("trained_nets:Net@8:b3:fp32").run()
    assert isinstance(out, torch.Tensor) and out.is_inference()
    assert not step_of(made_ready("trained_nets:Net@8:b3:fp32:train"))().is_inference()


def test_out_of_memory_halves_the_batch_and_nothing_of_the_attempt_before_is_kept(monkeypatch, nets):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(device.gc, "freeze", lambda: None)  # pytest's objects are not the worker's
    monkeypatch.setattr(nets.Hungry, "watch", staticmethod(weakref.ref), raising=False)
    case = parse("trained_nets:Hungry@8:b11:fp32:train")
    result, notes = speed.throughput([case], RULES, lambda phase: None, Spent())
    assert notes == ["out of memory at batch 11: measured at 2"]
    assert (result["batch_requested"], result["batch"]) == (11, 2)
    assert set(nets.Hungry.alive) == {1}
    assert len(nets.Hungry.alive) > 4


# --- Which dtype, where nobody says ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "capability", "text", "expected"),
    [
        ("v100", "7.0", "restv2_tiny:train", "fp32"),
        ("t4", "7.5", "restv2_tiny:train", "fp32"),
        ("a100", "8.0", "restv2_tiny:train", "bf16"),
        ("b200", "10.0", "restv2_tiny:train", "bf16"),
        ("h200", None, "restv2_tiny:train", "fp32"),
        ("v100", "7.0", "restv2_tiny[autocast]:train", "fp16"),
        ("h200", "9.0", "restv2_tiny[autocast]:train", "fp16"),
        ("h200", "9.0", "restv2_tiny:fp32:train", "fp32"),
        ("h200", "9.0", "restv2_tiny", "fp16"),
        ("v100", "7.0", "restv2_tiny", "fp16"),
    ],
)
def test_an_open_dtype_becomes_one_that_trains(gpu, capability, text, expected):
    device = Device("cuda", 0, gpu, "GPU-1", 16.0, capability, profile=replace(profiles()[gpu], dtype="fp16"))
    (case,) = job_of("throughput", device, RULES, parse(text)).cases
    assert case.dtype == expected
    assert parse(str(case)) == case
    if text == "restv2_tiny:train":
        (case,) = job_of("throughput", device, PROTOCOLS["paper"]["cuda"], parse(text)).cases
        assert case.dtype == "fp32"


def test_on_a_cpu_it_is_fp32_and_one_image():
    job = job_of("throughput", devices.cpu_device(), RULES, parse("restv2_tiny:train"))
    assert job.text == "restv2_tiny@224:b1:fp32:eager:train"


# --- Counts ----------------------------------------------------------------------------------------------


def test_a_count_is_shared_with_inference():
    trained, inferred = (
        job_of("macs", devices.cpu_device(), RULES, parse(f"restv2_lite@64:b2:{rest}"))
        for rest in ("bf16:train", "fp32")
    )
    assert trained == inferred
    assert trained.text == "restv2_lite@64:eager"


def test_the_macs_of_a_training_case_are_the_forwards_and_say_so():
    trained = CliRunner().invoke(main, ["macs", "trained_nets:Net@8:train"]).stdout.splitlines()
    inferred = CliRunner().invoke(main, ["macs", "trained_nets:Net@8"]).stdout.splitlines()
    assert trained[0] == (
        "trained_nets:Net@8:eager:train: 20 parameters, 15 MACs (0.000 G) as `paper` counts, of the forward alone"
    )
    assert trained[1:] == inferred[1:]
    as_json = CliRunner().invoke(main, ["macs", "trained_nets:Net@8:train", "--json"]).stdout
    assert '"case": "trained_nets:Net@8:eager:train"' in as_json


# --- Rows ------------------------------------------------------------------------------------------------


@contextmanager
def on_one_core() -> Iterator[None]:
    """For the workers that are started in it: one thread each, for the reason that there is `one_thread`."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {random.choice(sorted(cores))})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def rows(nets, tmp_path_factory) -> dict[tuple[str, str], dict[str, Any]]:
    """By harness and case as written here; one worker for all."""
    device, texts = devices.cpu_device(), ["trained_nets:Wide@32:b2:fp32", "trained_nets:Net@8:b2:train"]
    texts += ["trained_nets:Wide@32:b2:fp32:train", "restv2_lite@32:b2:train"]
    asked = {
        (harness, text): harness
        for text in texts
        for harness in ("throughput", "latency")
        if harness == "latency" or "Wide" not in text
    }
    jobs = [job_of(harness, device, RULES, parse(text)) for harness, text in asked]
    net = parse("trained_nets:Net@8:b2:fp32:eager")
    jobs.append(job_of("compare", device, RULES, replace(net, mode="train"), net))
    jobs.append(job_of("latency", device, RULES, parse("trained_nets:NaNLater@8:b2:train")))
    names = [*asked, ("compare", ""), ("latency", "NaNLater")]
    with on_one_core():
        summary = Runner(device, tmp_path_factory.mktemp("results"), Screen(announce=False)).run(jobs, "tiny")
    return dict(zip(names, summary.rows, strict=True))


@pytest.mark.parametrize("text", ["trained_nets:Net@8:b2:train", "restv2_lite@32:b2:train"])
@pytest.mark.parametrize("harness", ["throughput", "latency"])
def test_a_row_of_training(rows, text, harness):
    row = rows[harness, text]
    assert row["outcome"] == "ok", row["reason"]
    assert row["case"] == f"{text.removesuffix(':train')}:fp32:eager:train"
    result = row["result"]
    assert len(result["samples_s"]) >= RULES.min_samples
    assert min(result["samples_s"]) > 0
    assert result["batch"] == 2
    assert "notes" not in result
    ours = text.startswith("restv2")
    assert result["check"]["against"] == ("eager in fp64" if ours else "finite loss and gradients")
    assert any("ackward" in operator for operator in result["operators"]) or not ours
    assert not any(operator.startswith("Optimizer") for operator in result["operators"])
    assert (" images/s" if harness == "throughput" else " ms") in describe(row)


def test_a_comparison_of_a_step_with_a_forward(rows):
    row = rows["compare", ""]
    assert row["outcome"] == "ok", row["reason"]
    assert row["case"] == "trained_nets:Net@8:b2:fp32:eager:train / trained_nets:Net@8:b2:fp32:eager"
    assert [check["against"] for check in row["result"]["checks"]] == [
        "finite loss and gradients",
        "finite and of the right shape",
    ]


def test_a_loss_that_is_not_finite_after_timing_is_a_failed_row(rows):
    row = rows["latency", "NaNLater"]
    assert row["outcome"] == "failed"
    assert row["reason"].startswith("the loss is nan after ")
    assert row["result"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory of a process is read from /proc")
def test_memory_includes_gradients_and_the_optimizers_state(rows):
    weights = 4 * (3 * 32 * 32 * 2048 + 2048 + 2048 * 4 + 4)  # 24 MiB
    inferred, trained = (
        rows["latency", f"trained_nets:Wide@32:b2:fp32{mode}"]["result"]["peak_memory_bytes"]
        for mode in ("", ":train")
    )
    assert 0.9 * weights < inferred < 2 * weights
    # weights, gradients and two moments; AdamW of one tensor after the other makes a few more for a moment
    assert 3.9 * weights < trained < 8 * weights
