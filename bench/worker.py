"""The process that measures: `python -m bench.worker`, started by `bench.runner` and by nobody else.

It reads one job a line from standard input and answers on the file descriptor named in BENCH_REPLY, in JSON:
any number of {"phase": "…"}, then {"result": …, "notes": […]} or {"failed": "…", "refused": bool, "fatal": bool},
either with "spent" and "readings".
A case that is killed, hangs or corrupts the CUDA context costs this process, and no other case.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Profiling one case must leave nothing behind that slows the launches of the next; read when torch is imported.
os.environ.setdefault("TEARDOWN_CUPTI", "1")

_start = time.perf_counter()

import torch  # noqa: E402 (the import is a phase of its own, and is timed)

import models  # noqa: E402
from bench import branches, cases, environment, inputs, macs, timing, training  # noqa: E402
from bench.cases import Case  # noqa: E402
from bench.checks import Wrong  # noqa: E402
from bench.memory import memory  # noqa: E402
from bench.ready import (  # noqa: E402
    TORCH_DTYPES,
    Ready,
    Refused,
    Say,
    Spent,
    autocast,
    captured,
    form,
    precision,
    ready,
)
from bench.split import Split  # noqa: E402

IMPORT_S = time.perf_counter() - _start

MAX_OPERATORS = 12
ITERATIONS_PER_GRAPH = 20


def count(job: dict[str, Any], say: Say, spent: Spent) -> tuple[dict[str, Any], list[str]]:
    say("counting")
    return macs.count(cases.parse(job["case"])).as_dict(), []


def peaks(job: dict[str, Any], say: Say, spent: Spent) -> tuple[dict[str, Any], list[str]]:
    """What this CPU can do at most: the faster of a large product and a large convolution, and a copy.

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
    """A peak is what was reached at best, so here, and only here, the minimum counts."""
    return min(timing.CpuClock()(run, 1) for _ in range(times))


def measure(job: dict[str, Any], say: Say, spent: Spent) -> tuple[dict[str, Any], list[str]]:
    """Throughput or latency of one case; out of memory halves the batch until it fits."""
    case, rules = cases.parse(job["case"]), timing.Rules(**job["rules"])
    result, divisor, notes = _halving(
        [case], lambda divisor: _measure(case, divisor, rules, job["harness"], say, spent), say
    )
    batch = case.batch or 1
    return {**result, "batch_requested": batch, "batch": batch // divisor}, notes


def _halving(
    of: list[Case], attempt: Callable[[int], dict[str, Any]], say: Say
) -> tuple[dict[str, Any], int, list[str]]:
    """`attempt(divisor)`, batches divided by 1, 2, 4 … until the memory suffices; its result and what to note.

    What to note of an attempt is among its result's, as "notes".
    """
    divisor, notes = 1, []
    asked = " and ".join(str(case.batch) for case in of)
    while True:
        try:
            result = attempt(divisor)
            break
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error) or min(case.batch or 1 for case in of) < 2 * divisor:
                raise
            error.__traceback__ = None  # it holds the frames that hold the tensors
        _free()
        divisor *= 2
        now = " and ".join(str((case.batch or 1) // divisor) for case in of)
        notes = [f"out of memory at batch {asked}: measured at {now}"]
        say(f"out of memory, now batch {now}")
    notes += result.pop("notes")
    if result["throttled"]:
        notes.append(f"the GPU stayed too hot after {timing.MAX_DISCARDS} discarded samples")
    return result, divisor, notes


def _measure(
    case: Case, divisor: int, rules: timing.Rules, harness: str, say: Say, spent: Spent
) -> dict[str, Any]:
    device = _device()
    if case.mode == "train":
        with spent.on("build"):
            training.load()  # before the memory is looked at that is this case's
    usage = memory(device)
    it = ready(case, divisor, device, say, spent)
    say("measuring")
    with spent.on("forward"), precision():
        alone = case.has("cold") or case.has("graph")
        if alone:  # what flushes, and the pool of a graph, would be counted as the case's
            usage.start()
            it.run()
            peak = usage.peak()
        run, each = _repeated(case, it, alone=harness == "latency")
        with Split(it.in_parts, device) as split:
            taken = timing.sample(
                run,
                timing.clock(device, cold=case.has("cold")),
                _monitor(),
                rules,
                synchronised=harness == "latency",
                each=each,
                started=usage.start,
                sampled=split.sampled,
            )
        if not alone:
            peak = usage.peak()
        operators = _operators(it.run, device)
        notes = it.notes + it.finish()
    return {
        **asdict(taken),
        "statistic": rules.statistic,
        "mix": inputs.about_mix(case),
        "parts_s": split.samples_s or None,
        "check": it.check,
        "peak_memory_bytes": peak,
        "operators": operators,
        "notes": notes,
    }


def _repeated(case: Case, it: Ready, *, alone: bool = False) -> tuple[Callable[[], object], int]:
    """What is called again and again, and how many iterations that is: one where each is timed `alone`."""
    if not case.has("graph"):
        return it.run, it.each
    # a replay, too, takes microseconds to launch
    calls = 1 if alone or case.has("cold") else ITERATIONS_PER_GRAPH
    return captured(it.run, calls), calls * it.each


def compare(job: dict[str, Any], say: Say, spent: Spent) -> tuple[dict[str, Any], list[str]]:
    """Two cases, interleaved in this one process; out of memory halves the batches of both."""
    texts, rules = [job["a"], job["b"]], timing.Rules(**job["rules"])
    pair = [cases.parse(text) for text in texts]
    result, divisor, notes = _halving(pair, lambda divisor: _compare(pair, divisor, rules, say, spent), say)
    asked = [case.batch or 1 for case in pair]
    batches = {"batch_requested": asked, "batch": [batch // divisor for batch in asked]}
    return {"a": texts[0], "b": texts[1], **result, **batches}, notes


def _compare(pair: list[Case], divisor: int, rules: timing.Rules, say: Say, spent: Spent) -> dict[str, Any]:
    device = _device()
    both = [ready(case, divisor, device, say, spent) for case in pair]
    say("measuring, interleaved")
    with spent.on("forward"), precision():
        (first, of_first), (second, of_second) = map(_repeated, pair, both)
        taken = timing.interleave(
            first, second, timing.clock(device), _monitor(), rules, each=(of_first, of_second)
        )
        operators = [_operators(it.run, device) for it in both]
        notes = [note for it in both for note in it.notes + it.finish()]
    return {
        **asdict(taken),
        "checks": [it.check for it in both],
        "operators": operators,
        "notes": list(dict.fromkeys(notes)),
    }


def analyse(job: dict[str, Any], say: Say, spent: Spent) -> tuple[dict[str, Any], list[str]]:
    """What the branches of each block carry. Initial weights are the same in every run, as for a measurement."""
    case = cases.parse(job["case"])
    device, into, batch = _device(), form(case), case.batch or 1
    if case.mix:
        raise ValueError("images are looked at in one size, not in a mix")
    folder = dict(case.options).get("images")
    pictures = inputs.pictures(str(folder) if folder else None, case.size)
    say("building")
    with spent.on("build"):
        torch.manual_seed(inputs.SEED)
        model = models.build(case.model, size=case.size, impl=case.impl, **case.model_options)
        model = model.to(device, **into)
    try:
        with spent.on("forward"), precision(), torch.inference_mode(), autocast(case, device):
            result = branches.analyse(
                model,
                pictures,
                branches.ANALYSES[job["analysis"]](),
                batch=batch,
                prepare=lambda images: images.to(device, **into),
                say=say,
            )
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        raise ValueError(f"out of memory with {batch} images at a time: ask for fewer, as :b4 does") from None
    return {**result, "weights": branches.origin(case)}, []


JOBS = {"count": count, "peaks": peaks, "measure": measure, "compare": compare, "analyse": analyse}


def _operators(run: Callable[[], object], device: torch.device) -> list[str] | None:
    """What really ran, by its own time, longest first: CUDA kernels on a GPU, operators on a CPU."""
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


def _out_of_memory(error: BaseException) -> bool:
    """Whether more memory would have helped; libraries below PyTorch say so in words only."""
    words = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        word in str(error) for word in words
    )


def _free() -> None:
    if "torch._dynamo" in sys.modules:  # importing it only to reset it would take seconds
        torch.compiler.reset()
    gc.collect()
    gc.freeze()  # what is left are imports and caches: looking through them after each case costs seconds a run
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _device() -> torch.device:
    return torch.device("cpu" if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else "cuda:0")


def _monitor() -> environment.Monitor:
    if _device().type == "cpu":
        return environment.NoMonitor()
    return environment.NvmlMonitor(os.environ["CUDA_VISIBLE_DEVICES"], os.getpid())


def _die_with_parent() -> None:
    """A killed run must not leave a worker behind that goes on measuring, and disturbs the next."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def _limit_memory() -> None:
    """Make a too large batch an error that can be caught, before the kernel kills somebody for it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return
    limit = int(
        0.9 * min(int(available.split()[1]) * 1024, (environment.host()["memory_gib"] or 1e6) * 2**30)
    )
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to handle
    _die_with_parent()
    threads = environment.host()["available_cores"]
    torch.set_num_threads(threads)
    if _device().type == "cpu":
        _limit_memory()
    replies = os.fdopen(int(os.environ["BENCH_REPLY"]), "w")

    def answer(**message: Any) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    if _device().type == "cuda":
        torch.cuda.init()  # a driver too old for this torch is one error now, and not one a case
    answer(phase="ready", import_s=IMPORT_S, threads=threads)
    for line in sys.stdin:
        job, spent, started = json.loads(line), Spent(), time.perf_counter()
        before = environment.as_dict(_monitor().read())
        reply: dict[str, Any]
        try:
            result, notes = JOBS[job["do"]](job, lambda text: answer(phase=text), spent)
            reply = {"result": result, "notes": notes}
        except (ValueError, Wrong) as error:
            refused = isinstance(error, Refused)
            reply = {"failed": _one_line(error), "refused": refused, "fatal": False}
        except Exception as error:  # whatever a model does must become a row, and a fresh worker
            reply = {"failed": f"{type(error).__name__}: {_one_line(error)}", "fatal": True}
        readings = {"before": before, "after": environment.as_dict(_monitor().read())}
        answer(**reply, spent={**spent.seconds, "all": time.perf_counter() - started}, readings=readings)
        _free()


def _one_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()[
        :300
    ]


if __name__ == "__main__":
    main()
