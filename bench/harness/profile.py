"""The harness of profiles: where the time of a case goes, its operators joined with their MACs and bytes.

An iteration is timed without the profiler, then with it, then without it again; the trace of the profiled iterations
is read by `bench/trace`. Seconds, shares and rates are of the unprofiled iteration, as bench/trace/iterations.py says.
A row's `result` has all that one of `throughput` has of samples, state and check (`samples_s`, `statistic`, `batch`,
`batch_requested`, `iterations_per_sample`, `warmup_iterations`, `mix`, `check`, `digests`, `peak_memory_bytes` …), the
samples being those without the profiler, half of them from before the profiled iterations and half from after; and

    profiled_s     seconds of an iteration with the profiler, a number a sample
    perturbation   mean of profiled_s over the median of samples_s: 1.2 is a profiler that adds a fifth
    steps          the profiler's steps that were joined; a step is an iteration, of a mix one of each size
    scale          what the profiled times of operators are multiplied by, as bench/trace/iterations.py says; 1 on a GPU
    busy_s         on a GPU: seconds of an iteration in which a kernel ran, as profiled; null on a CPU
    idle_share     on a GPU: 1 - busy_s over the unprofiled iteration, at least 0; null on a CPU
    outside_share  on a CPU: the share of the unprofiled iteration that operators leave; null on a GPU
    calls          of operators in an iteration (and of stretches outside of them, one for each module)
    launches       kernels, copies and fills in an iteration; null on a CPU
    macs           MACs of an iteration, all its images, as far as the join knows them
    known          the share of time in calls whose MACs are known
    attributed     the share of time that belongs to an operator
    unattributed   why the rest does not: [{"why", "share", "names": at most 5, the longest first}]
    unjoined       why MACs are not known, likewise
    lines          {"operator": [line, …], "call": …, "kernel": …, "module": …}, each longest first

A line has the fields of `bench.trace.tables.Line`, for one iteration; what is unknown is left out, and
`bench.trace.iterations.unpacked` makes a `Line` of it again. `ms` is of the unprofiled iteration: on a CPU those of
the phase "all" add up to it, the class "outside" among them; on a GPU to the time that kernels took, which is busy_s
where none overlap. `ms_per_step_low` and `_high` are the least and the most of the profiled steps: a spread within one
process, no interval to conclude from. `share` is of all time on the lines, idle time left out.
There are lines of the phase "all" and, for a step of training, of forward, backward and optimizer. Names by module are
the model's own (`stages.0.1.attn`), cut to at most 80; a model that runs as one graph has none. `bench/profiles.py`
joins the lines of all visits of a row, with intervals.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as global_hooks
from torch.profiler import ProfilerActivity, profile, record_function

from bench import stats
from bench.cases import Case
from bench.errors import UsageError
from bench.harness import inputs, timing, training
from bench.harness.device import during, memory, worker_device, worker_monitor
from bench.harness.prepare import Prepared, Say, Spent, precision, prepare
from bench.harness.speed import Answer, board, halving, on_board, peak_alone, repeated
from bench.machine.usual import unusual
from bench.protocols import Rules
from bench.trace import iterations
from bench.trace.timeline import MODULE
from models.switches import COMPILED

SAMPLES = 3  # with the profiler
MOST_STEPS = 12  # of all of them: a trace has a thousand events an iteration


def run(cases: Sequence[Case], rules: Rules, say: Say, spent: Spent) -> Answer:
    """Profile a case; out of memory halves its batch until it fits."""
    case = cases[0]
    result, divisor, notes = halving([case], lambda divisor: _measure(case, divisor, rules, say, spent), say)
    batch = case.batch or 1
    return {**result, "batch_requested": batch, "batch": batch // divisor}, notes


def _measure(case: Case, divisor: int, rules: Rules, say: Say, spent: Spent) -> dict[str, Any]:
    """Prepare, time and profile a case: the row's result, with its notes."""
    device = worker_device()
    if case.mode == "train":
        with spent.on("build"):
            training.load()
    usage = memory(device)
    with _kernels_recorded(case):
        prepared = prepare(case, divisor, device, say, spent)
        with spent.on("forward"), on_board(spent), precision():
            peak = peak_alone(case, prepared, usage)
            call, per_call = repeated(case, prepared, alone=True)
            clock, monitor, half = timing.clock(device), worker_monitor(), _half(rules)
            with monitor.watch(torch.get_num_threads) as watch:

                def started() -> None:
                    usage.start()
                    watch.begin_anew()

                say("measuring")
                before = timing.sample(
                    *(call, clock, monitor, half), per_call=per_call, board=board(), started=started
                )
                peak = usage.peak() if peak is None else peak
                say("profiling")
                calls = min(before.iterations_per_sample // per_call, MOST_STEPS // SAMPLES)
                profiled, recorded = _profiled(call, prepared, clock, calls, device)
                say("measuring")
                after = timing.sample(call, clock, monitor, half, per_call=per_call)
            state = during(watch)
            notes = prepared.notes + prepared.finish() + unusual(state)
    say("joining")
    samples_s = before.samples_s + after.samples_s
    profiled_s = [seconds / calls / per_call for seconds in profiled]
    unprofiled_s = stats.estimate(samples_s, rules.statistic).value
    with _trace_file() as file:
        recorded.export_chrome_trace(str(file))
        told = _joined(file, unprofiled_s, per_call, device)
    return {
        **asdict(before),
        "samples_s": samples_s,
        "discarded": before.discarded + after.discarded,
        "throttled": before.throttled or after.throttled,
        "power_capped": before.power_capped or after.power_capped,
        "statistic": rules.statistic,
        "mix": inputs.about_mix(case),
        "parts_s": None,
        "check": prepared.check,
        "kernels": prepared.kernels,
        "digests": [prepared.digests] if prepared.digests and divisor == 1 else None,
        "peak_memory_bytes": peak,
        "device_share": None if told["idle_share"] is None else 1 - told["idle_share"],
        "profiled_s": profiled_s,
        "perturbation": sum(profiled_s) / len(profiled_s) / unprofiled_s,
        **told,
        "during": state,
        "notes": notes,
    }


def _half(rules: Rules) -> Rules:
    """The rules for half of the samples."""
    most = rules.max_samples and math.ceil(rules.max_samples / 2)
    return replace(
        rules, min_samples=math.ceil(rules.min_samples / 2), max_samples=most, cap_s=rules.cap_s / 2
    )


def _joined(file: Path, unprofiled_s: float, per_call: int, device: torch.device) -> dict[str, Any]:
    """Read what the trace tells of an iteration.

    Raises:
        RuntimeError: the profiler recorded nothing, or of a GPU's case nothing but what the CPU did.
    """
    try:
        told = iterations.read(file, unprofiled_s, per_call)
    except UsageError as error:
        raise RuntimeError(f"torch.profiler recorded no time: {error}") from None
    if device.type == "cuda" and told["busy_s"] is None:
        raise RuntimeError("torch.profiler recorded nothing of the GPU: its counters were not to be had")
    return told


@contextmanager
def _trace_file() -> Iterator[Path]:
    """A file for a trace, which is gone afterwards unless it is to be kept."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        yield file
        if kept := os.environ.get(iterations.KEPT):
            shutil.copyfile(file, kept)


@contextmanager
def _kernels_recorded(case: Case) -> Iterator[None]:
    """Has inductor record its kernels of a CPU by their names, which it does not do by itself.

    It adds one call for each of them, of nanoseconds while no profiler runs.
    """
    if case.impl not in COMPILED:
        yield
        return
    from torch._inductor import config  # takes seconds

    with config.patch({"cpp.enable_kernel_profile": True}):
        yield


def _profiled(
    call: Callable[[], object],
    prepared: Prepared,
    clock: timing.Clock,
    calls: int,
    device: torch.device,
) -> tuple[list[float], profile]:
    """Seconds of samples with the profiler, each of so many calls, and what it recorded."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    number = 0

    def step() -> None:
        nonlocal number
        number += 1
        with record_function(f"ProfilerStep#{number}"):
            call()

    with (
        named_modules(prepared.model) if prepared.model is not None else nullcontext(),
        profile(activities=activities, record_shapes=True) as recorded,
    ):
        # The profiler's own set-up falls into a call that is no step. Not into a profiler before this one: when that
        # ends, PyTorch takes CUPTI down at some later call of CUDA's, in this one's midst (pytorch/kineto#1554).
        clock(call, 1)
        seconds = [clock(step, calls) for _ in range(SAMPLES)]
        if on_gpu:
            torch.cuda.synchronize()
    return seconds, recorded


@contextmanager
def named_modules(model: nn.Module) -> Iterator[None]:
    """Annotates each call of a model's modules with its name, as a part of the one that it is called in.

    The hooks are those of all modules: some layers of PyTorch's take another path where a module has its own.
    """
    paths = {module: path for path, module in model.named_modules() if path}
    opened: list[tuple[nn.Module, str, record_function]] = []

    def enter(module: nn.Module, _: object) -> None:
        path = paths.get(module)
        if path is not None:
            outer = opened[-1][1] if opened else ""
            annotation = record_function(MODULE + path.removeprefix(f"{outer}."))
            annotation.__enter__()
            opened.append((module, path, annotation))

    def leave(module: nn.Module, *_: object) -> None:
        if opened and opened[-1][0] is module:
            opened.pop()[2].__exit__(None, None, None)

    hooks = [
        global_hooks.register_module_forward_pre_hook(enter),
        global_hooks.register_module_forward_hook(leave),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
