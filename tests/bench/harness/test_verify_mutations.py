"""The check of outputs proved by mutation: whatever is done to what is timed, it is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models
from bench.cases import Case, parse
from bench.errors import Wrong
from bench.harness import draws, inputs, verify
from bench.harness import prepare as preparing
from bench.harness.forms import form, implemented
from bench.harness.gradients import check_gradients
from bench.harness.lively import Lively
from bench.harness.prepare import Spent, prepare
from bench.harness.verify import check_outputs
from bench.studies import STUDIES
from models.variants import config_of, runs
from tests.support.sweeps import sweep, swept

CPU = torch.device("cpu")

# a small one of each kind: layer scale of 1e-6, last norms of 0, and ours, with several keys to attend to
SMALL = ["restv2_lite@64", "restv1_lite@64", "timm:convnext_atto@32", "timm:regnety_002@32"]
MORE = ["restv2_lite[mhim]@32", "restv2_lite[pe=rpe,upsample=nearest]@32", "pvt_tiny@32", "timm:resnet10t@32"]
LARGE = [
    *SMALL,
    *MORE,
    "timm:convnextv2_atto@32",
    "timm:swinv2_cr_tiny_224",
    *STUDIES["table1"].cases("cpu", False),
]


def lively(case: Case, batch: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    eager = models.build(case.model, size=case.size, **case.model_options)
    (given,) = inputs.calls(case, batch, CPU)
    Lively(eager, given)
    return eager, given


@contextmanager
def scrambled(tensor: Tensor) -> Iterator[None]:
    """The same values in other places; of a single one, the negative."""
    before = tensor.detach().clone()
    with torch.no_grad():
        values = before.flatten()
        others = values[torch.randperm(values.numel())] if values.numel() > 1 else -values
        tensor.copy_(others.view_as(tensor))
    yield
    with torch.no_grad():
        tensor.copy_(before)


def passed(check: Callable[[], object]) -> bool:
    try:
        check()
    except Wrong:
        return False
    return True


def survivors(text: str, batch: int = 2) -> list[str]:
    """Tensors that may be scrambled without being noticed, but for those that change nothing at all."""
    case = parse(text).resolve(batch, "fp32")
    eager, given = lively(case, batch)
    model = implemented(case, eager)
    again = check_outputs(case, model, copy.deepcopy(eager), given, CPU).again
    assert passed(again)
    exact, found = eager.double(), []
    doubles = tuple(tensor.double() for tensor in given)
    with torch.no_grad():
        right = exact(*doubles)
    in_exact = dict([*exact.named_parameters(), *exact.named_buffers()])
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        name = name.removeprefix("_orig_mod.")
        state = torch.get_rng_state()
        with scrambled(tensor):
            if not passed(again):
                continue
        torch.set_rng_state(state)
        with scrambled(in_exact[name]), torch.no_grad():
            if (exact(*doubles) - right).abs().max() > 1e-9 * right.abs().max():
                found.append(name)
    return found


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("text", swept(SMALL, lambda text: text.startswith("restv2")))
def test_every_parameter_scrambled_is_refused(text):
    assert survivors(text) == []


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("impl", swept(["sdpa", "compile", "fused", "auto"], lambda impl: impl == "sdpa"))
def test_in_every_implementation(impl, monkeypatch):
    from kernels.emsa_upsample import op, reference

    monkeypatch.setattr(op, "emsa_upsample", reference.emsa_upsample)
    compiled = models.compiled
    monkeypatch.setattr(models, "compiled", lambda model: compiled(model, backend="eager"))
    torch.compiler.reset()
    assert survivors(f"restv2_lite@64:{impl}") == []


@sweep
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_weights_scrambled_in_half_precision_are_refused(dtype):
    """Each matrix in turn; but what a single query changes here, the rounding of bf16 changes too: all of them do."""
    case = parse(f"restv2_lite@64:{dtype}").resolve(2, dtype)
    eager, given = lively(case, 2)
    model = implemented(case, eager).to(CPU, **form(case))
    halves = tuple(inputs.formed(tensor, **form(case)) for tensor in given)
    again = check_outputs(case, model, copy.deepcopy(eager), halves, CPU).again
    assert passed(again)
    matrices = {name: tensor for name, tensor in model.named_parameters() if tensor.ndim >= 2}
    unseen = []
    for name, tensor in matrices.items():
        with scrambled(tensor):
            unseen += [name] if passed(again) else []
    queries = [name for name in matrices if name.endswith(".attn.q.weight")]
    assert set(unseen) <= (set(queries) if dtype == "bf16" else set())
    with ExitStack() as stack:
        for name in queries:
            stack.enter_context(scrambled(matrices[name]))
        assert not passed(again)


@pytest.mark.trials
@pytest.mark.parametrize("text", LARGE)
@pytest.mark.parametrize("impl", ["eager", "sdpa"])
def test_every_parameter_of_every_model(text, impl):
    case = parse(text)
    if impl != "eager" and not runs(config_of(case.model), impl, **case.model_options):
        pytest.skip(f"{case.model} does not run as {impl}")
    assert survivors(f"{case}".replace(":eager", f":{impl}"), 1) == []


@pytest.mark.parametrize("name", ["timm:convnext_atto", "timm:regnety_002"])
def test_a_compiled_peer_with_all_its_blocks_scrambled_is_refused(name, monkeypatch):
    """What passed at 2.5e-6 and 0 on initial weights."""
    plain = preparing.implemented

    def broken(case: Case, eager: nn.Module, **how: Any) -> nn.Module:
        model = plain(case, eager, **how)
        with torch.no_grad():
            for block, parameter in model.named_parameters():
                if "stages" in block or "s1" in block:
                    parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].view_as(parameter))
        return model

    monkeypatch.setattr(preparing, "implemented", broken)
    with pytest.raises(Wrong, match="differs from its own eager"):
        prepared(f"{name}@32:b2:fp32")
    with pytest.raises(Wrong, match="differs from its own eager"):
        prepared(f"{name}@32:b2:fp32:train")


def prepared(text: str) -> preparing.Prepared:
    return prepare(parse(text), 1, CPU, lambda phase: None, Spent())


TRAINED = ["restv2_lite@64:b2:fp32:train", "restv2_lite@64:b2:fp32:sdpa:train"]


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("text", swept(TRAINED, lambda text: "sdpa" in text))
def test_wrong_gradients_of_scrambled_parameters_are_refused(text):
    case = parse(text)
    eager, (images,) = lively(case, 2)
    model = implemented(case, eager)

    def check() -> object:
        return check_gradients(case, model, copy.deepcopy(eager), images, CPU, torch.enable_grad, False)

    assert passed(check)
    noticed = {}
    for name, parameter in list(model.named_parameters())[::9]:
        with scrambled(parameter):
            noticed[name] = not passed(check)
    unnoticed = [name for name, seen in noticed.items() if not seen]
    assert all(name.endswith("attn.k.bias") for name in unnoticed), unnoticed  # which softmax cancels


# ---- models that cheat, in what they give and when

CHEATS = {
    "Constant": "does not depend on the image|differs from",
    "Zero": "all zeros",
    "IgnoresImage": "differs from|does not depend",
    "ZeroLater": "differs from",
    "KeptLater": "differs from",
    "LateImage": r"differs from its own eager by .* for image 6 of 7",
    "AddsAndDrops": "differs from|does not depend",
    "WritesInput": "changes its input",
    "WritesInputLater": "changes its input|differs from",
    "OffByImage": "differs from",
}
SOURCE = '''
import copy
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
        self.net(torch.zeros(1, 3, 16, 16))
        self.calls, self.is_copy, self.kept = 0, False, None

    def __deepcopy__(self, memo):
        made = Net.__new__(type(self))
        nn.Module.__init__(made)
        made.net, made.calls, made.kept = copy.deepcopy(self.net), 0, None
        made.is_copy = not self.is_copy  # what is timed is a copy, and its reference a copy or itself
        type(self).made.append(made)
        return made

    made = []

    def forward(self, x):
        self.calls += 1
        out = self.net(x)
        is_timed = self.made and self is self.made[0]
        return self.cheat(x, out) if is_timed else out


class Honest(Net):
    made = []
    def cheat(self, x, out):
        return out

class Constant(Net):
    made = []
    def cheat(self, x, out):
        return torch.arange(10.0).expand(len(x), 10)

class Zero(Net):
    made = []
    def forward(self, x):
        return self.net(x) * 0

class IgnoresImage(Net):
    made = []
    def cheat(self, x, out):
        return self.net(torch.ones_like(x))

class ZeroLater(Net):
    made = []
    def cheat(self, x, out):
        return out * (self.calls <= 3)

class KeptLater(Net):
    """The very output that was right, without computing it again."""
    made = []
    def cheat(self, x, out):
        if self.calls == 4:
            self.kept = out
        return out if self.calls < 4 else self.kept

class LateImage(Net):
    made = []
    def cheat(self, x, out):
        return torch.cat([out[:5], out[5:6] * 1.01, out[6:]])

class AddsAndDrops(Net):
    made = []
    def forward(self, x):
        out = 1e6 * (1 + torch.arange(10.0)) + self.net(x)
        return out.round(decimals=-3) if self.made and self is self.made[0] else out

class WritesInput(Net):
    made = []
    def forward(self, x):
        out = self.net(x)
        x.mul_(1.5)
        return out

class WritesInputLater(Net):
    made = []
    def cheat(self, x, out):
        if self.calls == 5:
            x.mul_(1.5)
        return out

class OffByImage(Net):
    made = []
    def cheat(self, x, out):
        return out.roll(1, 0) if len(x) > 1 else out * 1.001
'''


def tried(text: str) -> None:
    it = prepared(text)
    for _ in range(6):
        it.run()
    it.finish()


@pytest.fixture
def cheats(write_module):
    write_module("cheating_nets", SOURCE)


@pytest.mark.usefixtures("cheats")
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("net", CHEATS)
def test_a_cheat_is_refused(net, batch):
    if net == "LateImage" and batch == 1:
        pytest.skip("there is no late image in a batch of one")
    with pytest.raises(Wrong, match=CHEATS[net]):
        tried(f"cheating_nets:{net}@16:b{batch}:fp32")


@pytest.mark.usefixtures("cheats")
@pytest.mark.parametrize("batch", [1, 7, 19])
def test_an_honest_one_is_not(batch):
    tried(f"cheating_nets:Honest@16:b{batch}:fp32")


def test_a_time_is_taken_on_the_models_own_weights():
    for text in ("restv2_lite@32:b2:fp32", "timm:convnext_atto@32:b1:fp16", "timm:regnety_002@32:b1:bf16"):
        case = parse(text)
        seen: list[nn.Module] = []
        torch.manual_seed(inputs.SEED)
        with draws.quick(inputs.SEED):
            own = models.build(case.model, size=case.size).to(**form(case)).state_dict()
        plain = preparing.implemented

        def kept(case: Case, eager: nn.Module, plain=plain, seen=seen, **how: Any) -> nn.Module:
            seen.append(plain(case, eager, **how))
            return seen[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(preparing, "implemented", kept)
            it = prepared(text)
        for name, tensor in seen[0].state_dict().items():
            torch.testing.assert_close(tensor, own[name], rtol=0, atol=1e-7)
        it.run()
        it.finish()


@pytest.mark.parametrize(("factor", "bound"), [(1.0, 1e-2), (1.01, 2e-2), (1.1, 3e-2)])
def test_a_peer_that_rounds_more_may_be_further_off_itself_but_not_much(factor, bound):
    """What its eager is off fp32 counts twice, as another algorithm may be as far off the other way."""

    class Rounding(torch.nn.Linear):
        def forward(self, given):
            return super().forward(given) * (factor if given.dtype == torch.float16 else 1.0)

    torch.manual_seed(0)
    eager, given = Rounding(64, 5), torch.randn(4, 64)
    case = parse("timm:resnet18@32:b4:fp16")
    with torch.inference_mode():
        plain = {verify.LOGIT: copy.deepcopy(eager).half()(given.half()).double()}
        found = verify._bounds_of_halves(
            case, eager, [(given.half(),)], plain, True, 1e-2, torch.device("cpu")
        )
    # the scale is without the mean of an image's values, so that a factor is a little more of it
    assert found[verify.LOGIT] == pytest.approx(bound, rel=0.5 if factor == 1.01 else 1e-9)
