"""The harnesses of speed: throughput, latency, two cases compared, and this CPU's peaks."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch

from bench import stats
from bench.cases import Case
from bench.errors import out_of_memory
from bench.harness import inputs, timing, training
from bench.harness.device import CpuMemory, CudaMemory, during, free, memory, worker_device, worker_monitor
from bench.harness.forms import TORCH_DTYPES
from bench.harness.graphs import captured
from bench.harness.prepare import Prepared, Say, Spent, precision, prepare
from bench.harness.ran import recording
from bench.machine.usual import unusual
from bench.protocols import Rules

MAX_OPERATORS = 12
CALL = "a call that is profiled"  # the name of its annotation
ITERATIONS_PER_GRAPH = 20
ENERGY_LEAST_S = 1.0  # the board counts its energy in steps of up to a tenth of a second

# places in a block of either side: the first case, and the second
SIDES = (slice(0, None, 3), slice(1, 3))

Answer = tuple[dict[str, Any], list[str]]  # a row's result, and its notes


def throughput(cases: Sequence[Case], rules: Rules, say: Say, spent: Spent) -> Answer:
    """Time a case back to back; out of memory halves its batch until it fits."""
    return _timed(cases[0], rules, say, spent, synchronised=False)


def latency(cases: Sequence[Case], rules: Rules, say: Say, spent: Spent) -> Answer:
    """Time a case, waiting for each iteration; out of memory halves its batch until it fits."""
    return _timed(cases[0], rules, say, spent, synchronised=True)


def _timed(case: Case, rules: Rules, say: Say, spent: Spent, *, synchronised: bool) -> Answer:
    """Time a case, its batch halved until it fits, and say which batch that was."""
    result, divisor, notes = halving(
        [case], lambda divisor: _measure(case, divisor, rules, say, spent, synchronised=synchronised), say
    )
    batch = case.batch or 1
    return {**result, "batch_requested": batch, "batch": batch // divisor}, notes


def halving(
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
    with spent.on("forward"), on_board(spent), precision():
        peak = peak_alone(case, prepared, usage)
        run, per_call = repeated(case, prepared, alone=synchronised)
        counted, monitor = Counted(run), worker_monitor()
        with (
            timing.Stamps(prepared.stamped, device) as stamps,
            monitor.watch(torch.get_num_threads) as watch,
        ):

            def started() -> None:
                usage.start()
                watch.begin_anew()

            taken = timing.sample(
                counted if device.type == "cuda" else run,
                timing.clock(device, cold=case.has("cold")),
                monitor,
                rules,
                synchronised=synchronised,
                per_call=per_call,
                board=board(),
                started=started,
                sampled=stamps.sampled,
            )
        state = during(watch)
        peak = usage.peak() if peak is None else peak
        (profiled,) = _profiled([prepared], device)
        seconds = stats.estimate(taken.samples_s, rules.statistic).value
        notes = prepared.notes + prepared.finish() + unusual(state)
    return {
        **asdict(taken),
        "statistic": rules.statistic,
        "mix": inputs.about_mix(case),
        "parts_s": stamps.samples_s or None,
        "check": prepared.check,
        "kernels": prepared.kernels,
        "digests": [prepared.digests] if prepared.digests and divisor == 1 else None,
        "peak_memory_bytes": peak,
        "operators": _ran(profiled, prepared),
        # between cold iterations the GPU flushes, which is neither the case's time nor its energy
        "device_share": None if case.has("cold") else profiled.share(seconds, prepared.per_call),
        "joules_per_image": None
        if case.has("cold")
        else _joules(state, counted.calls * per_call * ((case.batch or 1) // divisor)),
        "during": state,
        "notes": notes,
    }


@cache
def board() -> timing.Board:
    """The board as this process knows it, the same one at every call."""
    return timing.Board()


@contextmanager
def on_board(spent: Spent) -> Iterator[None]:
    """Books what of the time went to warming the board, which the next row of this process will not need."""
    before = board().spent_s
    yield
    spent.seconds["board"] = board().spent_s - before


def peak_alone(case: Case, prepared: Prepared, usage: CudaMemory | CpuMemory) -> int | None:
    """Bytes at the peak of one call before it is timed, where what times it takes memory too; else None.

    What flushes, and the pool of a graph, would be counted as the case's.
    """
    if not (case.has("cold") or case.has("graph")):
        return None
    usage.start()
    prepared.run()
    return usage.peak()


def repeated(case: Case, prepared: Prepared, *, alone: bool = False) -> tuple[Callable[[], object], int]:
    """The function to call again and again, and its iterations: one where each is timed `alone`."""
    if not case.has("graph"):
        return prepared.run, prepared.per_call
    # a replay, too, takes microseconds to launch
    calls = 1 if alone or case.has("cold") else ITERATIONS_PER_GRAPH
    replay, out = captured(prepared.run, calls)
    prepared.captured(replay, out)  # checked, once it was timed, through what was timed
    return replay, calls * prepared.per_call


def compare(cases: Sequence[Case], rules: Rules, say: Say, spent: Spent) -> Answer:
    """Time two cases interleaved in this one process; out of memory halves the batches of both."""
    result, divisor, notes = halving(cases, lambda divisor: _compare(cases, divisor, rules, say, spent), say)
    asked = [case.batch or 1 for case in cases]
    batches = {"batch_requested": asked, "batch": [batch // divisor for batch in asked]}
    first, second = map(str, cases)
    return {"a": first, "b": second, **result, **batches}, notes


def _compare(pair: Sequence[Case], divisor: int, rules: Rules, say: Say, spent: Spent) -> dict[str, Any]:
    """Prepare and interleave two cases: the row's result, with its notes."""
    device = worker_device()
    both = [prepare(case, divisor, device, say, spent, place) for place, case in enumerate(pair)]
    say("measuring, interleaved")
    with spent.on("forward"), on_board(spent), precision():
        (first, per_first), (second, per_second) = map(repeated, pair, both)
        monitor = worker_monitor()
        with monitor.watch(torch.get_num_threads) as watch:
            taken = timing.interleave(
                *(first, second, timing.clock(device), monitor, rules),
                per_call=(per_first, per_second),
                board=board(),
                started=watch.begin_anew,
            )
        state = during(watch)
        profiles = _profiled(both, device)
        times = [[time for block in taken.blocks for time in block[places]] for places in SIDES]
        shares = [
            profiled.share(stats.median(own).value, prepared.per_call)
            for profiled, prepared, own in zip(profiles, both, times, strict=True)
        ]
        notes = [note for prepared in both for note in prepared.notes + prepared.finish()] + unusual(state)
    keep_digests = divisor == 1 and all(prepared.digests for prepared in both)
    return {
        **asdict(taken),
        "checks": [prepared.check for prepared in both],
        "kernels": [prepared.kernels for prepared in both],
        "digests": [prepared.digests for prepared in both] if keep_digests else None,
        "operators": [_ran(*each) for each in zip(profiles, both, strict=True)],
        "device_share": shares,
        "during": state,
        "notes": list(dict.fromkeys(notes)),
    }


class Counted:
    """A function that counts its calls."""

    def __init__(self, run: Callable[[], object]) -> None:
        self._run, self.calls = run, 0

    def __call__(self) -> object:
        self.calls += 1
        return self._run()


def _joules(state: dict[str, Any], images: int) -> float | None:
    """Joules that the board took for an image, pauses and warm-up included; None where they are not this case's alone.

    Args:
        state: that of the watch in which so many images were computed.
    """
    energy, lasted = state.get("energy_j"), state.get("energy_s") or 0.0
    shared = state.get("other_processes") or os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("MIG")
    if not energy or not images or shared or lasted < ENERGY_LEAST_S:
        return None
    return float(energy) / images


@dataclass(frozen=True)
class Profile:
    """The operators that one call ran on the device, and how long they took."""

    operators: list[str] | None  # CUDA kernels on a GPU, PyTorch's operators on a CPU, longest first
    busy_s: float | None  # in which the GPU computed or copied; None on a CPU

    def share(self, iteration_s: float, per_call: int) -> float | None:
        """The share of an iteration in which the GPU computed; None where it is not known.

        The profiler stretches the time between kernels and hardly that of a kernel, so the busy time is related to an
        iteration as it was timed without it.

        Args:
            per_call: iterations of the call.
        """
        return None if self.busy_s is None else min(1.0, self.busy_s / per_call / iteration_s)


def busy(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans (start, end): kernels that run side by side count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _profiled(cases: Sequence[Prepared], device: torch.device) -> list[Profile]:
    """The profiles of cases; on a CPU empty ones of those whose operators are recorded in their last check."""
    if device.type == "cuda":
        return _profiled_on_gpu([case.run for case in cases])
    return [Profile(_profiled_on_cpu(case.run) if case.took is None else None, None) for case in cases]


def _profiled_on_cpu(run: Callable[[], object]) -> list[str]:
    """The operators of one call."""
    took: dict[str, float] = {}
    with recording(took):
        run()
    return _longest(took)


def _ran(profiled: Profile, prepared: Prepared) -> list[str] | None:
    """The operators of a case that is finished, the longest first; None where they are not known."""
    return profiled.operators or _longest(prepared.took or {}) or None


def _profiled_on_gpu(runs: Sequence[Callable[[], object]]) -> list[Profile]:
    """The profile of a call of each; empty ones where another profiler holds the counters.

    By one profiler: when one ends, PyTorch takes CUPTI down at some later call of CUDA's, and another one that begins
    meanwhile records nothing (pytorch/kineto#1554).
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile, record_function

    try:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            for run in runs:
                with record_function(CALL):
                    run()
                    torch.cuda.synchronize()
        events = [(event, event.time_range) for event in profiled.events() or ()]
    except RuntimeError:
        return [Profile(None, None) for _ in runs]
    on_cpu = (
        when.start for event, when in events if event.device_type == DeviceType.CPU and event.name == CALL
    )
    starts = sorted(on_cpu)
    if len(starts) != len(runs):
        return [Profile(None, None) for _ in runs]
    spans: list[list[tuple[float, float]]] = [[] for _ in runs]
    took: list[dict[str, float]] = [defaultdict(float) for _ in runs]
    for event, when in events:
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            call = max(0, bisect_right(starts, when.start) - 1)  # each was waited for before the next
            spans[call].append((when.start, when.end))
            took[call][event.name] += when.end - when.start
    return [
        Profile(_longest(of_call), busy(spans_of) / 1e6 or None)  # from µs
        for of_call, spans_of in zip(took, spans, strict=True)
    ]


def _longest(took: Mapping[str, float]) -> list[str]:
    """The names of what took time, the longest first, and not too many."""
    return sorted((name for name, time in took.items() if time), key=lambda name: -took[name])[:MAX_OPERATORS]


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
