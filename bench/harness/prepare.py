"""A case made ready to be timed: built, checked, and something to call again and again."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import models
from bench.cases import Case
from bench.errors import Refused, Wrong
from bench.harness import digests, draws, inputs, training
from bench.harness.forms import TORCH_DTYPES, autocast, form, implemented, in_form, notes_on_weights
from bench.harness.gradients import check_gradients
from bench.harness.graphs import Graphed
from bench.harness.lively import Lively
from bench.harness.ran import recording
from bench.harness.spent import Say, Spent
from bench.harness.verify import CHECKED_IMAGES, Watched, check_finite, check_outputs, unsearched
from kernels.device import INTERPRETED
from kernels.emsa_upsample import op
from kernels.mlp import op as mlp
from models.config import MLPConfig
from models.switches import COMPILED, FUSED
from models.variants import MODELS, runs

SDPA = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
# Graphs that torch.compile may make of one function before it gives up on it, for each shape: torch's own limits.
GRAPHS, GRAPHS_OF_ALL = 8, 64


@dataclass
class Prepared:
    """A checked case, and how it is run."""

    run: Callable[[], object]
    check: dict[str, Any]  # what was found, for the row; of a check in the end alone, once it is finished
    notes: list[str] = field(default_factory=list)
    finish: Callable[[], list[str]] = list  # after the last iteration: notes, or Wrong
    per_call: int = 1  # iterations that a call of `run` makes: one of each size of a mix
    digests: list[digests.Digest] | None = None  # of the outputs, for later visits to compare with
    # nanoseconds by operator on a CPU, once it is finished; None where its last check does not record them
    took: dict[str, float] | None = None
    captured: Callable[[Callable[[], object], object], None] = lambda replay, out: None  # in a CUDA graph
    stamped: nn.Module | None = None  # the model, where its time can be split by submodule
    model: nn.Module | None = None  # where its modules run one by one
    kernels: dict[str, int] = field(default_factory=dict)  # ours that run, and in how many modules each


def prepare(
    case: Case, divisor: int, device: torch.device, say: Say, spent: Spent, place: int = 0
) -> Prepared:
    """Build and check a case: in full, or where an earlier visit was checked so, against what that one computed.

    Args:
        divisor: what its batch is divided by, for want of memory.
        place: the case's in its job.

    Raises:
        Wrong: what the model computes is not what it must be.
        Refused: this device does not run what the case asks for.
        ValueError: the model cannot be built, or not be compiled here.
    """
    no_kernel = _no_kernel(case, device)
    if case.impl in FUSED and no_kernel:
        raise Refused(no_kernel)
    if case.has("graph") and not _has_graphs(device):
        raise Refused("a CUDA graph needs an NVIDIA GPU")
    takes_kernel = not no_kernel and _takes_kernel(case)
    if takes_kernel and INTERPRETED:
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
        with nullcontext() if case.is_users else draws.quick(inputs.SEED, of_timm=case.is_timms):
            eager = models.build(case.model, size=case.size, **case.model_options)
        earlier = digests.earlier(place) if divisor == 1 else None
        given = inputs.calls(case, (case.batch or 1) // divisor, device, **form(case))
    if case.mode == "train" and len(given[0]) != 1:
        raise Refused(f"a step of training is of one input, and {case.model} has {len(given[0])}")
    with spent.on("forward"), precision(), unsearched(), inputs.explained(case):
        lively = _enlivened(eager, given[0], device)
    with spent.on("build"):
        # a visit that is held to an earlier one needs no reference, and no copy of large weights
        model = in_form(case, implemented(case, eager, keep=earlier is None), device)
    say("checking")
    graphs, shapes = _graphs(), len({tuple(tensor.shape for tensor in arguments) for arguments in given})
    if case.impl in COMPILED:
        _make_room(shapes)
    with spent.on("forward"), precision(), inputs.explained(case):
        try:
            if case.mode == "train":
                prepared = _to_train(case, model, eager, given, lively, device)
            else:
                prepared = _to_infer(case, model, eager, given, lively, device, earlier)
        except Exception as error:  # by its name, because an older torch does not have it
            if type(error).__name__ != "FailOnRecompileLimitHit":
                raise
            raise Wrong(f"torch.compile gave up on {shapes} shapes, and would go on in eager") from error
        finally:  # first of all: other inputs are why an output differs
            _check_inputs(case, given, device)
    if case.impl in COMPILED:
        _check_compiled(_graphs() - graphs, shapes)
    prepared.kernels = models.kernels_in(model, device, TORCH_DTYPES[case.dtype or "fp32"])
    prepared.notes += inputs.notes_on_sizes(case) + (notes_on_weights(case, model) if case.is_users else [])
    finish = prepared.finish

    def finished() -> list[str]:
        _check_inputs(case, given, device)
        return finish()

    prepared.finish = finished
    return prepared


def _no_kernel(case: Case, device: torch.device) -> str | None:
    """Why the kernel that a case needs to be called fused does not run there; None where it does."""
    config, dtype = MODELS.get(case.model), TORCH_DTYPES[case.dtype or "fp32"]
    if isinstance(config, MLPConfig):
        ((_, channels),) = config.inputs(case.size, **case.model_options)
        return mlp.why_not(device, dtype, channels, config.hidden(**case.model_options))
    return op.why_not(device, dtype)


def _make_room(shapes: int) -> None:
    """Let torch.compile make graphs of so many shapes, and have it fail where it would go on in eager.

    The limits are never lowered: both cases of a comparison have to keep what they were given.
    """
    from torch._dynamo import config

    for name, older, each in (
        ("recompile_limit", "cache_size_limit", GRAPHS),
        ("accumulated_recompile_limit", "accumulated_cache_size_limit", GRAPHS_OF_ALL),
    ):
        known = name if hasattr(config, name) else older  # until torch 2.5
        setattr(config, known, max(getattr(config, known), each * shapes))
    if hasattr(config, "fail_on_recompile_limit_hit"):
        config.fail_on_recompile_limit_hit = True


def _check_compiled(graphs: int, shapes: int) -> None:
    """See that there are as many graphs as shapes, at the least: an older torch gives up without an error.

    Raises:
        Wrong: there are fewer.
    """
    if not graphs:
        raise Wrong("torch.compile compiled nothing of it: the time would be that of eager operators")
    if graphs < shapes:
        raise Wrong(
            f"torch.compile made {graphs} graphs of {shapes} shapes: the time of the others would be that of eager "
            "operators"
        )


def _graphs() -> int:
    """Graphs that dynamo has handed to a compiler in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # importing it only to ask would take seconds
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo else 0


def _has_graphs(device: torch.device) -> bool:
    """Whether a device replays CUDA graphs."""
    return device.type == "cuda"


def _enlivened(eager: nn.Module, given: tuple[Tensor, ...], device: torch.device) -> Lively:
    """Make a new model lively, on the device that it will run on, and leave it on the CPU."""
    eager.to(device)
    few = tuple(tensor[:CHECKED_IMAGES] for tensor in given)
    lively = Lively(eager, tuple(tensor.float() if tensor.is_floating_point() else tensor for tensor in few))
    eager.cpu()
    return lively


def _check_inputs(case: Case, given: list[tuple[Tensor, ...]], device: torch.device) -> None:
    """See that the inputs are what they were made as.

    Raises:
        Wrong: the model writes into them, so that each iteration gets other ones.
    """
    fresh = inputs.calls(case, len(given[0][0]), device, **form(case))
    for are, were in zip(given, fresh, strict=True):
        if not all(map(torch.equal, are, were)):
            raise Wrong("the model changes its input")


@contextmanager
def precision() -> Iterator[None]:
    """Holds the fixed policy for the time of one case: no TF32 for fp32, and cuDNN tries its algorithms.

    The names since torch 2.9 and the older ones have to agree, or whatever reads an older one raises: inductor, say.
    """
    matmul, cudnn, mkldnn = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mkldnn
    flags: list[tuple[Any, str, Any]] = [(cudnn, "benchmark", True), (cudnn, "allow_tf32", False)]
    if hasattr(matmul, "fp32_precision"):  # after the older names, which set these too
        parts = (matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn)
        flags += [(part, "fp32_precision", "ieee") for part in parts]
    of_products, before = "highest", []
    # an older name cannot be read where a program used newer ones that contradict its default
    with suppress(RuntimeError):
        of_products = torch.get_float32_matmul_precision()
    for backend, name, value in flags:
        with suppress(RuntimeError):
            before.append((backend, name, getattr(backend, name), value))
    torch.set_float32_matmul_precision("highest")
    for backend, name, _, value in before:
        setattr(backend, name, value)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(of_products)
        for backend, name, value, _ in before:
            setattr(backend, name, value)


def _to_infer(
    case: Case,
    model: nn.Module,
    eager: nn.Module,
    given: list[tuple[Tensor, ...]],
    lively: Lively,
    device: torch.device,
    earlier: Sequence[digests.Digest] | None,
) -> Prepared:
    """Check the outputs of every size, and prepare one inference of each in turn."""
    graphed = Graphed(model, given[0]) if case.has("graph") else None
    called: nn.Module = graphed or model
    each_size = list({id(arguments): arguments for arguments in given}.values())
    befores: Sequence[digests.Digest | None] = earlier or [None] * len(each_size)
    # The first call is to be made now where it compiles, captures a graph, or has a GPU's libraries search; and by a
    # model that is not known here, which may keep something of the weights that it was first called with.
    is_plain = device.type == "cpu" and _runs_by_module(case) and case.model in MODELS
    late = is_plain and earlier is not None and len(given[0][0]) == 1
    with _sdpa(case):
        checks = [
            check_outputs(case, called, eager, arguments, device, before, late=late)
            for arguments, before in zip(each_size, befores, strict=True)
        ]
        lively.rest(model)
        if case.has("weights") or case.is_users:
            check_finite(case, model, given[0], device)  # theirs may be anything
    taken = [check.digest for check in checks if check.digest is not None]
    took: dict[str, float] = {}

    def finish() -> list[str]:
        lively.wake(model)
        watched: Watched = nullcontext
        if device.type == "cpu" and earlier is None:
            watched = partial(recording, took)
        with _sdpa(case):
            found = [check.again(watched) for check in checks]
        if late:
            prepared.check = _worst(found)
        return []

    @torch.inference_mode()
    def run() -> object:
        with autocast(case, device):
            for arguments in given:
                out = model(*arguments)
            return out

    per_call, by_module = len(given), model if _runs_by_module(case) else None
    captured = graphed.captured if graphed else lambda replay, out: None

    def run_so() -> object:
        with sdpa_kernel(SDPA[case.option("sdpa")]):  # `_sdpa` would count its warnings as the case's
            return run()

    prepared = Prepared(
        run_so if case.has("sdpa") else run,
        _worst(check.found for check in checks),
        finish=finish,
        per_call=per_call,
        captured=captured,
        stamped=by_module if case.head != "classifier" else None,
        took=took if device.type == "cpu" else None,
        digests=taken,
        model=by_module,
    )
    return prepared


def _worst(found: Iterable[dict[str, Any] | None]) -> dict[str, Any]:
    """The finding nearest to its bound, which is a row's; an empty one where no check has been made yet."""
    made = [each for each in found if each]
    return max(made, key=lambda each: each["error"] / each["bound"], default={})


@contextmanager
def _sdpa(case: Case) -> Iterator[None]:
    """Holds scaled_dot_product_attention to the one kernel that the case names, if it names one.

    Raises:
        Refused: the kernel does not take these tensors; PyTorch's reasons, which it gives as warnings, are in the line.
    """
    wanted = case.option("sdpa")
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
            whys = [str(warning.message).partition(" (Triggered")[0] for warning in said]
            whys = [why for why in whys if "because:" not in why and "kernel not used" not in why]
            reason = f": {whys[0]}" if whys else ""
            raise Refused(f"SDPA has no {wanted} kernel for this{reason}") from None


def _runs_by_module(case: Case) -> bool:
    """Whether the modules of a model run one by one, and not as one graph."""
    return case.impl not in COMPILED and not case.has("graph")


def _to_train(
    case: Case,
    model: nn.Module,
    eager: nn.Module,
    given: list[tuple[Tensor, ...]],
    lively: Lively,
    device: torch.device,
) -> Prepared:
    """Check outputs and gradients in evaluation mode, where they are determined; then take the first real step."""
    (images,) = given[0]

    def cast() -> torch.autocast:
        return autocast(case, device)

    scaled = case.dtype == "fp16"
    check, idle = check_gradients(case, model, eager, images[:CHECKED_IMAGES], device, cast, scaled)
    check_outputs(case, model, eager, given[0], device)
    lively.rest(model)
    eager.to("meta")  # a step may need all the memory there is
    step = training.Step(model, images, cast, scaled=scaled)
    step.first(idle)

    def finish() -> list[str]:
        """Whether what was trained still computes what its weights say; a new reference is given those."""
        notes = step.finish()
        reference = models.build(case.model, size=case.size, **case.model_options)
        state = model.state_dict()
        reference.load_state_dict({name.removeprefix("_orig_mod."): value for name, value in state.items()})
        model.eval()
        check_outputs(case, model, reference, given[0], device)
        model.train()
        return notes

    notes = [f"no gradient reaches {_listed(sorted(idle))}"] if idle else []
    return Prepared(step, check, notes, finish, model=model if _runs_by_module(case) else None)


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def _takes_kernel(case: Case) -> bool:
    """Whether the case runs the fused kernel on a device that can."""
    if case.impl != "auto":
        return case.impl in FUSED
    return case.model in MODELS and runs(MODELS[case.model], "fused", **case.model_options)


def _compiler(device: torch.device) -> str | None:
    """The compiler that inductor calls on a CPU, or Triton on a GPU; None where there is none."""
    names = ("g++", "c++", "clang++") if device.type == "cpu" else ("gcc", "clang", "cc")
    named = os.environ.get("CXX" if device.type == "cpu" else "CC")
    return next(filter(None, map(shutil.which, filter(None, (named, *names)))), None)
