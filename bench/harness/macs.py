"""Parameters, MACs under each convention, bytes and launches, by operator and module, without running the arithmetic.

One forward of one image goes through the model on meta tensors, which have shapes and no data. In inference mode
PyTorch shows each call whole (`linear`, `layer_norm`, `scaled_dot_product_attention`) before taking it apart, so one
table of handles serves every implementation. Our fused operator is one call with several counts, nominal: those of the
operators that it stands for. `compile` and `fused+compile` are counted from the graphs that torch.compile captured,
node by node, not from the eager model again; their bytes and launches are those of Inductor's plan (`plan.py`).

The conventions of `bench/conventions.py` in detail (1 MAC = 2 FLOPs):

                   conv, linear, matmul   norm                    other
core               MACs                   –                       –
core+norm          MACs                   as fvcore               –
fvcore             MACs                   4, or 5 if affine, per  adaptive average pooling: input elements;
                                          element; BatchNorm 1, 2 upsampling: 1 (nearest) or 4 (bilinear) per output
paper              MACs, and the bias:    1, or 2 if affine, per  ReLU: output elements; pooling: input elements;
                   conv per output,       input element           upsampling: output elements
                   linear once
…-no-attention     as paper or core+norm, products between tensors left out

The attention products of `paper` are the published term 2·h·w·(h//r)·(w//r)·dim a block wherever r divides h and w;
where it does not, the key grid is rounded up, and what is run is what is counted.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import models
from bench import images
from bench.cases import Case, Mix
from bench.harness import draws, inputs
from bench.harness.counter import (
    Counter,
    Counts,
    FlopCounter,
    Seen,
    as_dicts,
    compared_with,
    compiled,
    module_names,
)
from bench.harness.operators import Count
from bench.traffic import Traffic, total
from kernels.emsa_upsample import cost as emsa_upsample
from kernels.mlp import cost as mlp
from models.config import CoreConfig, ForeignConfig, MLPConfig, PeerConfig
from models.cost import focal_macs
from models.switches import COMPILED
from models.variants import FOCAL, MODELS, OWN, config_of

if TYPE_CHECKING:
    from bench.harness.spent import Say, Spent
    from bench.protocols import Rules


_seen = Seen()  # of all cases that this process counts, but for users'


def count(case: Case) -> Counts:
    """Count one forward of one image of a case.

    A mix gives the mean over all of its images, each shape counted once.

    Raises:
        ValueError: the model cannot be built, or cannot run without data (it looks at its values), or there is no
            such mix.
    """
    with nullcontext() if case.is_users else _uncollected():
        return _count(case, built(case)) if case.mix is None else _count_mix(case, case.mix)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Looks for no garbage meanwhile: importing timm and counting make hardly any, and it takes a tenth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _count_mix(case: Case, mix: Mix) -> Counts:
    """The mean count of a mix; each of its shapes is counted once."""
    # a class that has INPUTS takes no mix, which is not asked of each size by itself
    inputs.examples(case, case.size)
    weights = images.shapes(images.read(mix.source))
    model = built(case)
    whole = {size: _count(replace(case, mix=None, size=size), model, case) for size in weights}
    return _mean({whole[size]: n for size, n in weights.items()})


def planned(case: Case) -> Counts:
    """Count a case, and where it is compiled, also what the kernels move that Inductor would make of it: seconds.

    Raises:
        ValueError: as `count` does.
    """
    counts = count(case)
    if case.has("autocast"):
        counts.traffic = {}
        counts.notes.append("bytes and launches unknown: autocast decides on its casts as it runs")
    elif case.impl in COMPILED:
        _plan(case, counts)
    return counts


def _plan(case: Case, counts: Counts) -> None:
    """Add to the count of a compiled case what its kernels would move, or a note on why that is not known."""
    from bench.harness import plan  # not above: all of the compiler

    if case.mix or not counts.graphs:
        why = (
            "of a compiled mix no plan is made"
            if case.mix
            else "a part of it runs between the captured graphs"
        )
        counts.notes.append(f"bytes and launches unknown: {why}")
        return
    try:
        parts = [
            {kind: part.times(captured.runs) for kind, part in plan.traffic(captured).items()}
            for captured in counts.graphs
        ]
    except Exception as error:  # PyTorch promises nothing of its inside
        counts.notes.append(f"bytes and launches unknown, for Inductor gives no plan: {type(error).__name__}")
        return
    if len(parts) > 1:
        counts.notes.append(f"bytes and launches are those of its {len(parts)} captured graphs alone")
    counts.traffic_of = plan.FOR
    for kind in dict.fromkeys(kind for part in parts for kind in part):  # a kernel is no one module's
        counts.traffic["", kind] = total(part[kind] for part in parts if kind in part)


def _mean(weights: dict[Counts, int]) -> Counts:
    """The mean of counts of one model, by the images of each; whole MACs in each module and operator."""
    total = sum(weights.values())
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for counts, n in weights.items():
        for module, count in counts.calls:
            cell = sums[module, count.operator]
            for i, macs in enumerate((count.core, count.fvcore, count.paper)):
                cell[i] += n * macs
    calls = [
        (module, Count(operator, *(round(macs / total) for macs in cell)))
        for (module, operator), cell in sums.items()
    ]
    moved_in_all: dict[tuple[str, str], Traffic] = {}
    for counts, n in weights.items():
        for where, part in counts.traffic.items():
            moved_in_all[where] = moved_in_all.get(where, Traffic()).plus(part.times(n))
    traffic = {where: part.times(1 / total) for where, part in moved_in_all.items()}
    first = next(iter(weights))
    uncounted = {name: times for counts in weights for name, times in counts.uncounted.items()}
    return Counts(
        first.parameters, first.parameters_by_module, calls, traffic, uncounted=uncounted, notes=first.notes
    )


def built(case: Case) -> nn.Module:
    """The case's model on meta tensors, not yet compiled.

    A user's is made on the CPU, as `measure` makes it, and moved: constructors look at values and bring buffers from
    elsewhere. Ours and timm's are only where they have to be, because some would not fit into memory.
    """
    inner, options = COMPILED.get(case.impl, case.impl), _options(case)

    def made() -> nn.Module:
        return models.build(case.model, size=case.size, impl=inner, **options)

    if not case.is_users:
        if isinstance(config_of(case.model), PeerConfig | ForeignConfig):
            importlib.import_module(
                "models.peers"
            )  # and timm, so that its ways of filling weights are left out too
        unbuilt = contextlib.suppress(Exception)  # on the CPU it fails again, or does not
        with unbuilt, without_compiler(), draws.none(), torch.device("meta"):
            return made().requires_grad_(False)
    with draws.none():
        return made().to("meta").requires_grad_(False)


def _count(case: Case, model: nn.Module, of: Case | None = None) -> Counts:
    """Count one size: on shapes alone; where the model does not run so, with new tensors on meta too, or on data.

    Args:
        of: the mix that the size is one of; the model is built for that.
    """
    attempts: list[Callable[[], Counts]] = [
        lambda: _counted(case, model, torch.device("meta")),
        lambda: _counted(case, model, torch.device("meta"), also_new=True),
        lambda: _counted(case, _on_data(of or case), torch.device("cpu")),
    ]
    for attempt in attempts:
        try:
            counts = attempt()
            break
        except (
            Exception
        ) as caught:  # a user's model may fail in any way; the last is how it fails in `measure` too
            error = caught
    else:
        why = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:140]}"
        if case.model not in MODELS:
            why += f"; {inputs.how_called(of or case)}"
        raise ValueError(f"{case.model} cannot be counted: {why}") from error
    if case.impl in COMPILED and case.model not in OWN:  # ours are one graph, or an error
        _add_between_graphs(case, counts, of)
    return counts


def _on_data(case: Case) -> nn.Module:
    torch.manual_seed(inputs.SEED)
    inner = COMPILED.get(case.impl, case.impl)
    return models.build(case.model, size=case.size, impl=inner, **_options(case)).requires_grad_(False)


def _counted(case: Case, model: nn.Module, device: torch.device, *, also_new: bool = False) -> Counts:
    given: tuple[Tensor, ...]
    if device.type == "meta":
        given = tuple(
            one[None].to(device) if isinstance(one, Tensor) else torch.empty(1, *one, device=device)
            for one in inputs.examples(case, case.size)
        )
    else:
        (given,) = inputs.calls(replace(case, mix=None), 1, device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    counts = Counts(
        parameters, _by_owner(model), closed_form=_closed_form(case), least_traffic=_least_traffic(case)
    )
    if device.type != "meta":
        counts.notes.append("counted on data: what this model runs may depend on them")
    check = FlopCounter()
    counter = Counter(counts, check, None if case.is_users else _seen)
    counter.images.add(given)
    with torch.inference_mode(), device if also_new else nullcontext():
        if case.impl in COMPILED:
            from bench.harness import plan  # not above: all of the compiler

            with plan.defaults():
                compiled(model, counter)(*given)
            counts.traffic.clear()  # of operators by themselves, which is not what runs
        else:
            apart = (
                nullcontext() if case.is_users else without_compiler()
            )  # a user's may compile a part of itself
            with apart, module_names(model, counter), counter:
                model(*given)
    counts.cross_checks += check.compared(counts)
    if device.type == "meta" and "mlp" in models.kernels_in(model, device, torch.float16):
        counts.notes.append("bytes and launches are half precision's: in fp32 the MLP is not fused")
    return counts


def _by_owner(model: nn.Module) -> dict[str, int]:
    """Parameters by the module that holds them itself; one that several hold counts with the first."""
    sums: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        sums[name.rpartition(".")[0]] += parameter.numel()
    return dict(sums)


def _add_between_graphs(case: Case, counts: Counts, of: Case | None) -> None:
    """Add what torch.compile leaves to Python: what eager runs more of an operator than the captured graphs have."""
    inner = COMPILED[case.impl]
    eager = built(replace(of or case, impl=inner))
    whole = _count(replace(case, impl=inner), eager, replace(of, impl=inner) if of else None)
    missing = []
    for operator in dict.fromkeys(count.operator for _, count in whole.calls):
        more = [
            max(0, whole.by_operator(name).get(operator, 0) - counts.by_operator(name).get(operator, 0))
            for name in ("core", "fvcore", "paper")
        ]
        if any(more):
            missing.append(Count(operator, *more))
    for name in whole.uncounted:
        counts.uncounted.setdefault(name, whole.uncounted[name])
    if missing:
        counts.graphs = []  # whose kernels are not all of the model's
        counts.calls += [("", count) for count in missing]
        of_them = sum(count.paper for count in missing)
        counts.notes.append(
            f"{of_them:,} of them, as `paper` counts, run between the graphs that were captured"
        )
        counts.cross_checks = list(whole.cross_checks)


def _closed_form(case: Case) -> int | None:
    """The MACs by the formula of the model's authors; None where there is none for the model or the size."""
    if case.model not in FOCAL or case.size[0] % 224 or case.size[1] % 224:  # the formula knows no padding
        return None
    return focal_macs(FOCAL[case.model], case.size)


def _least_traffic(case: Case) -> tuple[int, int] | None:
    """Elements that a core or an MLP has to move for an image, and once for a batch; None for any other case."""
    config = MODELS.get(case.model)
    if not isinstance(config, CoreConfig | MLPConfig):
        return None
    stage = config.shape(case.size, **case.model_options)
    if isinstance(config, MLPConfig):
        return mlp.least_traffic(prod(stage.map_size), stage.dim, config.hidden(**case.model_options))
    return emsa_upsample.least_traffic(stage.map_size, stage.dim, stage.reduction)


def _options(case: Case) -> dict[str, Any]:
    """The model's options without weights, which change no count and have no room in a meta tensor."""
    return {name: value for name, value in case.model_options.items() if name != "weights"}


def without_compiler() -> contextlib.AbstractContextManager[object]:
    """Lets PyTorch's functions for shapes run as they are, where nothing is captured that they could get into.

    Each asks, by this name in that module, for its form that the compiler stays out of; to make the first imports
    the whole compiler, and calls of them take longer than what they do.
    """
    return patch.object(torch._compile, "getattr", lambda function, *_: function, create=True)


def fvcore_macs(case: Case) -> int:
    """MACs as fvcore counts them, tracing the eager or sdpa model on real tensors; seconds, not milliseconds.

    Eager stands for `fused` too, which needs a GPU and is a single operator in the trace. fvcore gets a handle for the
    attention that it would skip; its other gaps are the convention's.
    """
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape

    def sdpa(inputs: list[Any], outputs: list[Any]) -> int:
        query, key, value = (get_shape(tensor) or [] for tensor in inputs[:3])
        return prod((get_shape(outputs[0]) or [])[:-1]) * key[-2] * (query[-1] + value[-1])

    impl = "sdpa" if case.impl == "sdpa" else "eager"
    model = models.build(case.model, size=case.size, impl=impl, **_options(case))
    (given,) = inputs.calls(replace(case, mix=None), 1, torch.device("cpu"))
    analysis = FlopCountAnalysis(model, given)
    analysis.set_op_handle("aten::scaled_dot_product_attention", sdpa)
    with torch.inference_mode():
        return int(analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())


def fvcore_check(case: Case, counts: Counts) -> dict[str, Any]:
    """A cross-check of counts against fvcore's own."""
    return compared_with("fvcore", fvcore_macs(case), counts, "fvcore")


def run(cases: Sequence[Case], rules: Rules, say: Say, spent: Spent) -> tuple[dict[str, Any], list[str]]:
    """Count a case: the row's result."""
    say("counting")
    counts = planned(cases[0])
    return counts.as_dict(), counts.notes


def breakdown(
    cases: Sequence[Case], rules: Rules, say: Say, spent: Spent
) -> tuple[dict[str, Any], list[str]]:
    """Count a case for a reader: the row's result with MACs by module besides."""
    counts = planned(cases[0])
    return _by_module_too(counts), counts.notes + inputs.notes_on_sizes(cases[0])


def checked_breakdown(
    cases: Sequence[Case], rules: Rules, say: Say, spent: Spent
) -> tuple[dict[str, Any], list[str]]:
    """Count a case for a reader, with fvcore beside it, which runs the model on real tensors."""
    counts = planned(cases[0])
    try:
        counts.cross_checks.append(fvcore_check(cases[0], counts))
    except Exception as error:  # a check is no reason to lose the count
        counts.notes.append(f"fvcore cannot trace it, and is no check: {type(error).__name__}: {error}"[:300])
    return _by_module_too(counts), counts.notes + inputs.notes_on_sizes(cases[0])


def _by_module_too(counts: Counts) -> dict[str, Any]:
    result = counts.as_dict()
    for name, convention in result["conventions"].items():
        convention["by_module"] = counts.by_module(name)
    if counts.traffic:
        result["traffic"]["by_module"] = as_dicts(counts.traffic_by(0))
    return {**result, "parameters_by_module": counts.parameters_by_module}
