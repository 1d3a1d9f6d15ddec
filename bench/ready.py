"""A case made ready to be timed: built, checked, and something to call again and again."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import models
from bench import inputs, training
from bench.cases import Case
from bench.checks import (
    CHECKED_IMAGES,
    EAGER_BOUND,
    GRADIENT_BOUND,
    MHIM_FACTOR,
    Wrong,
    gradients_within,
    within,
)
from kernels.emsa_upsample import op
from models.switches import COMPILED, FUSED, assembled
from models.variants import MODELS, OWN, runs

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}

LOGIT = "the largest logit"  # that differences of an output are a share of

SDPA = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}

Say = Callable[[str], None]


class Spent:
    """Seconds by what they went to, so that a run can tell its own cost from the models'."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start


class Refused(ValueError):
    """The case asks for something that this device or this stack does not do: no failure of anybody's."""


@dataclass
class Ready:
    """A checked case."""

    run: Callable[[], object]
    check: dict[str, Any]  # what the check saw
    notes: list[str] = field(default_factory=list)
    finish: Callable[[], list[str]] = list  # after the last iteration: notes, or Wrong
    each: int = 1  # iterations that a call of `run` makes: one of each size of a mix
    in_parts: nn.Module | None = None  # the model, where its time can be split


def ready(case: Case, divisor: int, device: torch.device, say: Say, spent: Spent) -> Ready:
    """Build and check a case. `divisor` is what its batch is divided by, for want of memory.

    Raises:
        Wrong: what it computes is not what it must be.
        Refused: this device does not run what it asks for.
        ValueError: it cannot be built, or not be compiled here.
    """
    no_kernel = op.why_not(device, TORCH_DTYPES[case.dtype or "fp32"])
    if case.impl in FUSED and no_kernel:
        raise Refused(no_kernel)
    if case.has("graph") and device.type != "cuda":
        raise Refused("a CUDA graph needs an NVIDIA GPU")
    takes_kernel = not no_kernel and _takes_kernel(case)
    if takes_kernel and op.INTERPRETED:
        raise ValueError("TRITON_INTERPRET is set: an interpreted kernel is not worth a measurement")
    by_triton = takes_kernel and device.type == "cuda"
    if (case.impl in COMPILED or by_triton) and not _compiler(device):
        needs = "a C++ compiler, and none is here: install g++, or set CXX"
        if device.type == "cuda":
            needs = "a C compiler for Triton's launcher, and none is here: install gcc, or set CC"
        raise ValueError(f"{case.impl} needs {needs}")
    say("building")
    with spent.on("build"):
        torch.manual_seed(inputs.SEED)
        eager = models.build(case.model, size=case.size, **case.model_options)
        model = _like(case, eager).to(device, **form(case))
        given = inputs.calls(case, (case.batch or 1) // divisor, device, **form(case))
    say("checking")
    with spent.on("forward"), precision():
        if case.mode == "train":
            it = _to_train(case, model, eager, given[0][0], device)
        else:
            it = _to_infer(case, model, eager, given, device)
    it.notes += inputs.notes_on_sizes(case)
    return it


def form(case: Case) -> dict[str, Any]:
    """What weights and images of a case are converted to."""
    return {
        "dtype": torch.float32 if case.has("autocast") else TORCH_DTYPES[case.dtype or "fp32"],
        "memory_format": torch.channels_last if case.has("channels_last") else torch.contiguous_format,
    }


def autocast(case: Case, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, TORCH_DTYPES[case.dtype or "fp32"], enabled=case.has("autocast"))


@contextmanager
def precision() -> Iterator[None]:
    """The fixed policy, for the time of one case: no TF32 for fp32, and cuDNN tries its algorithms."""
    flags = (
        (torch.backends.cuda.matmul, "allow_tf32", False),
        (torch.backends.cudnn, "allow_tf32", False),
        (torch.backends.cudnn, "benchmark", True),
    )
    before = [getattr(backend, name) for backend, name, _ in flags]
    for backend, name, value in flags:
        setattr(backend, name, value)
    try:
        yield
    finally:
        for (backend, name, _), value in zip(flags, before, strict=True):
            setattr(backend, name, value)


def _like(case: Case, eager: nn.Module) -> nn.Module:
    """The case's implementation with the very weights of `eager`."""
    inner = COMPILED.get(case.impl, case.impl)
    if inner == "eager":
        model = copy.deepcopy(eager)
    else:
        options = {name: value for name, value in case.model_options.items() if name != "weights"}
        model = models.build(case.model, size=case.size, impl=inner, **options)
        model.load_state_dict(eager.state_dict())
    return models.compiled(model) if case.impl in COMPILED else model


def _in_form(case: Case, eager: nn.Module, device: torch.device) -> nn.Module:
    """Eager as the case would run it; `eager` itself stays as it is."""
    return copy.deepcopy(eager).to(device, **form(case))


# ---- MHIM


def _mhim_factor(case: Case) -> int:
    """By what a bound on rounding is wider for the case."""
    config = OWN.get(case.model)
    return MHIM_FACTOR if config and assembled(config, case.model_options).mhim else 1


def _in_single(case: Case) -> Case:
    """The case as its numbers are checked: MHIM in half precision as MHIM in fp32, and anything else as it is.

    At initial weights half precision leaves nothing of its logits to compare: ResTv1-Lite's are off by as much as
    they are large, from rounding alone. What is timed must still be finite and of the right shape.
    """
    if case.dtype not in ("fp16", "bf16") or _mhim_factor(case) == 1:
        return case
    options = tuple(option for option in case.options if option[0] != "autocast")
    return replace(case, dtype="fp32", options=options)


def _named_single(check: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    return {**check, "against": f"{check['against']}, run in fp32; finite in {dtype}"}


# ---- inference


def _to_infer(
    case: Case, model: nn.Module, eager: nn.Module, given: list[tuple[Tensor, ...]], device: torch.device
) -> Ready:
    each_size = list({id(arguments): arguments for arguments in given}.values())
    with _sdpa(case):
        checks = [_check_outputs(case, model, eager, arguments, device) for arguments in each_size]
    check = max(checks, key=lambda found: found["error"] / found["bound"] if "bound" in found else 0.0)

    @torch.inference_mode()
    def run() -> object:
        with autocast(case, device):
            for arguments in given:
                out = model(*arguments)
            return out

    each, in_parts = len(given), model if _in_parts(case) else None
    if not case.has("sdpa"):
        return Ready(run, check, each=each, in_parts=in_parts)

    def run_so() -> object:
        with sdpa_kernel(
            SDPA[str(dict(case.options)["sdpa"])]
        ):  # `_sdpa` would count its warnings as the case's
            return run()

    return Ready(run_so, check, each=each, in_parts=in_parts)


@contextmanager
def _sdpa(case: Case) -> Iterator[None]:
    """The kernel of scaled_dot_product_attention that the case insists on, if it does.

    Raises:
        Refused: it does not take these tensors; PyTorch's reasons, which it gives as warnings, are in the line.
    """
    wanted = str(dict(case.options).get("sdpa", ""))
    if not wanted:
        yield
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with sdpa_kernel(SDPA[wanted]):
                yield
        except RuntimeError as error:
            if not any(words in str(error) for words in ("No available kernel", "No viable backend")):
                raise
            whys = [str(each.message).partition(" (Triggered")[0] for each in said]
            whys = [why for why in whys if "because:" not in why and "kernel not used" not in why]
            reason = f": {whys[0]}" if whys else ""
            raise Refused(f"SDPA has no {wanted} kernel for this{reason}") from None


def captured(run: Callable[[], object], iterations: int) -> Callable[[], object]:
    """A replay of so many iterations of `run` from one CUDA graph. `run` has run before, and compiled what it does."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # as PyTorch asks for: what is set up lazily, is then set up
        run()
    torch.cuda.current_stream().wait_stream(aside)
    torch.cuda.empty_cache()  # the graph has a pool of its own
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(iterations):
            run()
    return graph.replay


def _check_outputs(
    case: Case, model: nn.Module, eager: nn.Module, given: tuple[Tensor, ...], device: torch.device
) -> dict[str, Any]:
    """Run the case and compare its first images: ours with eager in fp64, a compiled peer with its own eager.

    Raises:
        Wrong: the output is further off than eager's own error explains, not finite, or of the wrong shape.
    """
    few, detects = tuple(tensor[:CHECKED_IMAGES] for tensor in given), case.head == "mask_rcnn"
    with torch.inference_mode():
        with autocast(case, device):
            whole = model(*given)  # all of them: another batch may be another graph, another algorithm
            _check_whole(case, whole, len(given[0]))
            outs = _compared(case, model, few) if detects else {LOGIT: whole[:CHECKED_IMAGES]}
        del whole
        if (single := _in_single(case)) is not case:
            in_single = _like(single, eager).to(device, **form(single))
            alike = tuple(tensor.to(**form(single)) for tensor in few)
            return _named_single(_check_outputs(single, in_single, eager, alike, device), case.dtype)
        ours = case.model in OWN
        if not ours and case.impl == "eager":
            return {"against": "finite and of the right shape"}
        plains = outs
        if case.impl != "eager":
            with autocast(case, device):
                plains = _compared(case, _in_form(case, eager, device), few)
        truths = None
        if ours:
            exact = eager.to(device, torch.float64)
            truths = _compared(case, exact, tuple(tensor.double() for tensor in few))
    bound = EAGER_BOUND[case.dtype or "fp32"] * _mhim_factor(case)
    checks = []
    for of, out in outs.items():
        if truths is None:
            checks.append(within(out, plains[of], bound, "its own eager", of))
            continue
        check = within(plains[of], truths[of], bound, "eager in fp64", of)
        if case.impl != "eager":
            # twice what eager itself is off by, and a little for a dtype in which eager happens to be exact
            check = within(out, truths[of], 2 * check["error"] + 1e-5, "eager in fp64", of)
        checks.append(check)
    return max(checks, key=lambda check: check["error"] / check["bound"])


def _check_whole(case: Case, whole: object, batch: int) -> None:
    """Raises Wrong for what is not finite, or not a tensor of `batch` images; of a detector, a tensor of each thing."""
    named: dict[str, Any] = vars(whole) if case.head == "mask_rcnn" else {"": whole}
    if not all(isinstance(each, Tensor) for each in named.values()):
        raise Wrong(f"the output is {type(whole).__name__} for {batch} images")
    for name, each in named.items():
        what = f"the output {name}".strip()
        if each.shape[:1] != (batch,):
            raise Wrong(f"{what} is {tuple(each.shape)} for {batch} images")
        if not each.isfinite().all():
            raise Wrong(f"{what} is not finite")


def _compared(case: Case, model: nn.Module, given: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """What is compared of a model's output, by the value that a difference is a share of: all of it; of a detector
    what it computes before it chooses boxes, since which it chooses may turn on the last bit."""
    if case.head != "mask_rcnn":
        return {LOGIT: model(*given)}
    dense: Any = model.dense
    return {f"the largest of {name}": each for name, each in dense(*given).items()}


def _in_parts(case: Case) -> bool:
    """Whether the modules run one by one, and are those that stand around a backbone."""
    return case.head != "classifier" and case.impl not in COMPILED and not case.has("graph")


# ---- training


def _to_train(case: Case, model: nn.Module, eager: nn.Module, images: Tensor, device: torch.device) -> Ready:
    """Gradients checked in evaluation mode, where they are determined; then the first real step, in training mode."""

    def cast() -> torch.autocast:
        return autocast(case, device)

    scaled = case.dtype == "fp16"
    check, idle = _check_gradients(case, model, eager, images[:CHECKED_IMAGES], device, cast, scaled)
    eager.to("meta")  # a step may need all the memory there is
    step = training.Step(model, images, cast, scaled=scaled)
    step.first(idle)
    return Ready(step, check, [f"no gradient reaches {_listed(sorted(idle))}"] if idle else [], step.finish)


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def _check_gradients(
    case: Case,
    model: nn.Module,
    eager: nn.Module,
    few: Tensor,
    device: torch.device,
    cast: training.Cast,
    scaled: bool,
) -> tuple[dict[str, Any], frozenset[str]]:
    """Loss and gradients of `few` images, held against the references that `_check_outputs` takes.

    Returns also the parameters that no gradient reaches, in eager either.

    Raises:
        Wrong: they are further off than eager's own error explains, not finite, or there are none.
    """
    found = training.gradients(model, few, cast, scaled=scaled)
    ours = case.model in OWN
    if not ours and case.impl == "eager":
        if not math.isfinite(found.loss):
            raise Wrong(f"the loss is {found.loss}")
        for name, gradient in found.by_name.items():
            if not gradient.isfinite().all():
                raise Wrong(f"the gradient of {name} is not finite")
        return {"against": "finite loss and gradients"}, found.missing
    if (single := _in_single(case)) is not case:
        if not all(gradient.isfinite().all() for gradient in found.by_name.values()):
            raise Wrong("a gradient is not finite")
        in_single = _like(single, eager).to(device, **form(single)).train(model.training)
        images = few.to(**form(single))
        check, idle = _check_gradients(
            single, in_single, eager, images, device, contextlib.nullcontext, scaled=False
        )
        return _named_single(check, case.dtype), idle
    plain = found
    if case.impl != "eager":
        plain = training.gradients(_in_form(case, eager, device), few, cast, scaled=scaled)
    bound, loss_bound = (
        bounds[case.dtype or "fp32"] * _mhim_factor(case) for bounds in (GRADIENT_BOUND, EAGER_BOUND)
    )
    if not ours:
        return gradients_within(found, plain, bound, loss_bound, "its own eager"), plain.missing
    exact = eager.to(device, torch.float64)
    truth = training.gradients(exact, few.double(), contextlib.nullcontext, scaled=False)
    against = "eager in fp64"
    by_eager = gradients_within(plain, truth, bound, loss_bound, against)
    if case.impl == "eager":
        return by_eager, truth.missing
    # the loss, a single number, may be right by chance in eager, and so its bound is that of the dtype
    return gradients_within(found, truth, 2 * by_eager["error"] + 1e-5, loss_bound, against), truth.missing


def _takes_kernel(case: Case) -> bool:
    """Whether the case runs the fused kernel on a device that can."""
    if case.impl != "auto":
        return case.impl in FUSED
    return case.model in MODELS and runs(MODELS[case.model], "fused", **case.model_options)


def _compiler(device: torch.device) -> str | None:
    """What inductor calls on a CPU, or Triton on a GPU."""
    names = ("g++", "c++", "clang++") if device.type == "cpu" else ("gcc", "clang", "cc")
    named = os.environ.get("CXX" if device.type == "cpu" else "CC")
    return next(filter(None, map(shutil.which, filter(None, (named, *names)))), None)
