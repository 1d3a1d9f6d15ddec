"""The harnesses of speed: throughput, latency, two cases compared, and this CPU's peaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import torch

from bench.cases import Case
from bench.harness import inputs, timing, training
from bench.harness.device import during, free, memory, out_of_memory, worker_device, worker_monitor
from bench.harness.prepare import Prepared, Say, Spent, precision, prepare
from bench.harness.verify import TORCH_DTYPES
from bench.machine.usual import unusual
from bench.protocols import Rules

MAX_OPERATORS = 12
ITERATIONS_PER_GRAPH = 20

Answer = tuple[dict[str, Any], list[str]]  # a row's result, and its notes


def throughput(cases: Sequence[Case], rules: Rules, say: Say, spent: Spent) -> Answer:
    """Time a case back to back; out of memory halves its batch until it fits."""
    return _timed(cases[0], rules, say, spent, synchronised=False)


def latency(cases: Sequence[Case], rules: Rules, say: Say, spent: Spent) -> Answer:
    """Time a case, waiting for each iteration; out of memory halves its batch until it fits."""
    return _timed(cases[0], rules, say, spent, synchronised=True)


def _timed(case: Case, rules: Rules, say: Say, spent: Spent, *, synchronised: bool) -> Answer:
    """Time a case, its batch halved until it fits, and say which batch that was."""
    result, divisor, notes = _halving(
        [case], lambda divisor: _measure(case, divisor, rules, say, spent, synchronised=synchronised), say
    )
    batch = case.batch or 1
    return {**result, "batch_requested": batch, "batch": batch // divisor}, notes


def _halving(
    cases: Sequence[Case], attempt: Callable[[int], dict[str, Any]], say: Say
) -> tuple[dict[str, Any], int, list[str]]:
    """Attempt with batches divided by 1, 2, 4 … until the memory suffices.

    Returns the result of the attempt that succeeded, its divisor, and the notes, which an attempt's result holds
    as "notes".
    """
    divisor, notes = 1, []
    asked = " and ".join(str(case.batch) for case in cases)
    while True:
        try:
            result = attempt(divisor)
            break
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or min(case.batch or 1 for case in cases) < 2 * divisor:
                raise
            error.__traceback__ = None  # it holds the frames that hold the tensors
        free()
        divisor *= 2
        now = " and ".join(str((case.batch or 1) // divisor) for case in cases)
        notes = [f"out of memory at batch {asked}: measured at {now}"]
        say(f"out of memory, now batch {now}")
    notes += result.pop("notes")
    if result["throttled"]:
        notes.append(f"the GPU stayed too hot after {timing.MAX_DISCARDS} discarded samples")
    return result, divisor, notes


def _measure(
    case: Case, divisor: int, rules: Rules, say: Say, spent: Spent, *, synchronised: bool
) -> dict[str, Any]:
    """Prepare and time a case: the row's result, with its notes."""
    device = worker_device()
    if case.mode == "train":
        with spent.on("build"):
            training.load()  # before the memory is looked at that is this case's
    usage = memory(device)
    prepared = prepare(case, divisor, device, say, spent)
    say("measuring")
    with spent.on("forward"), precision():
        alone = case.has("cold") or case.has("graph")
        if alone:  # what flushes, and the pool of a graph, would be counted as the case's
            usage.start()
            prepared.run()
            peak = usage.peak()
        run, per_call = _repeated(case, prepared, alone=synchronised)
        monitor = worker_monitor()
        with (
            timing.Stamps(prepared.stamped, device) as stamps,
            monitor.watch(torch.get_num_threads) as watch,
        ):
            taken = timing.sample(
                run,
                timing.clock(device, cold=case.has("cold")),
                monitor,
                rules,
                synchronised=synchronised,
                per_call=per_call,
                board=_board(),
                started=usage.start,
                sampled=stamps.sampled,
            )
        state = during(watch)
        if not alone:
            peak = usage.peak()
        operators = _operators(prepared.run, device)
        notes = prepared.notes + prepared.finish() + unusual(state)
    return {
        **asdict(taken),
        "statistic": rules.statistic,
        "mix": inputs.about_mix(case),
        "parts_s": stamps.samples_s or None,
        "check": prepared.check,
        "digests": [prepared.digests] if prepared.digests else None,
        "peak_memory_bytes": peak,
        "operators": operators,
        "during": state,
        "notes": notes,
    }


@cache
def _board() -> timing.Board:
    """What this process knows of its board."""
    return timing.Board()


def _repeated(case: Case, prepared: Prepared, *, alone: bool = False) -> tuple[Callable[[], object], int]:
    """The function to call again and again, and its iterations: one where each is timed `alone`."""
    if not case.has("graph"):
        return prepared.run, prepared.per_call
    # a replay, too, takes microseconds to launch
    calls = 1 if alone or case.has("cold") else ITERATIONS_PER_GRAPH
    return captured(prepared.run, calls), calls * prepared.per_call


def captured(run: Callable[[], object], iterations: int) -> Callable[[], object]:
    """A function that replays so many iterations of `run` from one CUDA graph.

    `run` has run before, and compiled what it compiles.
    """
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


def compare(cases: Sequence[Case], rules: Rules, say: Say, spent: Spent) -> Answer:
    """Time two cases interleaved in this one process; out of memory halves the batches of both."""
    result, divisor, notes = _halving(cases, lambda divisor: _compare(cases, divisor, rules, say, spent), say)
    asked = [case.batch or 1 for case in cases]
    batches = {"batch_requested": asked, "batch": [batch // divisor for batch in asked]}
    first, second = map(str, cases)
    return {"a": first, "b": second, **result, **batches}, notes


def _compare(pair: Sequence[Case], divisor: int, rules: Rules, say: Say, spent: Spent) -> dict[str, Any]:
    """Prepare and interleave two cases: the row's result, with its notes."""
    device = worker_device()
    both = [prepare(case, divisor, device, say, spent, place) for place, case in enumerate(pair)]
    say("measuring, interleaved")
    with spent.on("forward"), precision():
        (first, per_first), (second, per_second) = map(_repeated, pair, both)
        monitor = worker_monitor()
        with monitor.watch(torch.get_num_threads) as watch:
            taken = timing.interleave(
                *(first, second, timing.clock(device), monitor, rules),
                per_call=(per_first, per_second),
                board=_board(),
            )
        state = during(watch)
        operators = [_operators(prepared.run, device) for prepared in both]
        notes = [note for prepared in both for note in prepared.notes + prepared.finish()] + unusual(state)
    return {
        **asdict(taken),
        "checks": [prepared.check for prepared in both],
        "digests": [prepared.digests for prepared in both] if all(each.digests for each in both) else None,
        "operators": operators,
        "during": state,
        "notes": list(dict.fromkeys(notes)),
    }


def _operators(run: Callable[[], object], device: torch.device) -> list[str] | None:
    """The operators that really ran, longest first: CUDA kernels on a GPU, PyTorch's operators on a CPU."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    try:
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
            run()
        events = [event for event in profiled.key_averages() if not event.is_user_annotation]
    except RuntimeError:  # another profiler holds the counters
        return None
    own = (
        (lambda event: event.self_device_time_total) if on_gpu else (lambda event: event.self_cpu_time_total)
    )
    return [event.key for event in sorted(events, key=own, reverse=True)[:MAX_OPERATORS] if own(event)]


def peaks(cases: Sequence[Case], rules: Rules, say: Say, spent: Spent) -> Answer:
    """Measure what this CPU can do at most: the faster of a large product and a large convolution, and a copy.

    Both, because they come from different libraries: on some CPUs one leaves half of the vector units idle.
    """
    say("measuring this CPU's peaks")
    with torch.inference_mode():
        reached = {name: _rates(TORCH_DTYPES[name]) for name in ("fp32", "fp64")}
        source, target = torch.ones(2, 2**25)  # no cache holds them
        bytes_moved = 2 * source.nbytes  # once read, once written
        return {
            "tflops": {name: max(rates.values()) for name, rates in reached.items()},
            "reached_tflops": reached,
            "bandwidth_gb_s": bytes_moved / _fastest(lambda: target.copy_(source)) / 1e9,
        }, []


def _rates(dtype: torch.dtype) -> dict[str, float]:
    """TFLOP/s of a 1536³ product, and of a 3×3 convolution of 256 channels on 32×32."""
    a, b = torch.randn(2, 1536, 1536, dtype=dtype)
    conv = torch.nn.Conv2d(256, 256, 3, padding=1, bias=False).to(dtype, memory_format=torch.channels_last)
    image = torch.randn(1, 256, 32, 32, dtype=dtype).to(memory_format=torch.channels_last)
    return {
        "matmul": 2 * 1536**3 / _fastest(lambda: a @ b) / 1e12,
        "conv": 2 * 32**2 * 256**2 * 9 / _fastest(lambda: conv(image), 20) / 1e12,
    }


def _fastest(run: Callable[[], object], times: int = 7) -> float:
    """The least seconds of a few runs: a peak is what was reached at best, so here alone the minimum counts."""
    return min(timing.CpuClock()(run, 1) for _ in range(times))
