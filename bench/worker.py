"""The process that measures: `python -m bench.worker`, started by `bench.runner` and by nobody else.

It reads one job a line from standard input and answers on the file descriptor named in BENCH_REPLY, in JSON:
any number of {"phase": "…"}, then {"result": …, "notes": […]} or {"failed": "…", "fatal": bool}, either with
"spent" and "readings".
A case that is killed, hangs or corrupts the CUDA context costs this process, and no other case.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Profiling one case must leave nothing behind that slows the launches of the next; read when torch is imported.
os.environ.setdefault("TEARDOWN_CUPTI", "1")

_start = time.perf_counter()

import torch  # noqa: E402 (the import is a phase of its own, and is timed)

import models  # noqa: E402
from bench import cases, environment, inputs, macs, timing  # noqa: E402
from bench.cases import Case  # noqa: E402
from bench.memory import memory  # noqa: E402

IMPORT_S = time.perf_counter() - _start

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp64": torch.float64}

# Error of eager against fp64 that its dtype explains, as a share of the largest logit. Generous: it is there to
# catch a wrong model, a NaN or a precision flag left on. ResTv2-T on a CPU: 4e-7, 7e-4 (fp16), 7e-3 (bf16).
EAGER_BOUND = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 8e-2, "fp64": 1e-10}
CHECKED_IMAGES = 2
MAX_OPERATORS = 12

Say = Callable[[str], None]


class Wrong(Exception):
    """The output is not what it must be: no time without a pass."""


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
    """`attempt(divisor)`, batches divided by 1, 2, 4 … until the memory suffices; its result and what to note."""
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
    if result["throttled"]:
        notes.append(f"the GPU stayed too hot after {timing.MAX_DISCARDS} discarded samples")
    return result, divisor, notes


def _measure(
    case: Case, divisor: int, rules: timing.Rules, harness: str, say: Say, spent: Spent
) -> dict[str, Any]:
    device = _device()
    usage = memory(device)
    run, check = _ready(case, divisor, device, say, spent)
    say("measuring")
    with spent.on("forward"), _precision():
        taken = timing.sample(
            run,
            timing.clock(device),
            _monitor(),
            rules,
            synchronised=harness == "latency",
            started=usage.start,
        )
        peak = usage.peak()
        operators = _operators(run, device)
    return {
        **asdict(taken),
        "statistic": rules.statistic,
        "check": check,
        "peak_memory_bytes": peak,
        "operators": operators,
    }


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
    (first, first_check), (second, second_check) = (
        _ready(case, divisor, device, say, spent) for case in pair
    )
    say("measuring, interleaved")
    with spent.on("forward"), _precision():
        taken = timing.interleave(first, second, timing.clock(device), _monitor(), rules)
        operators = [_operators(run, device) for run in (first, second)]
    return {**asdict(taken), "checks": [first_check, second_check], "operators": operators}


JOBS = {"count": count, "peaks": peaks, "measure": measure, "compare": compare}


def _ready(
    case: Case, divisor: int, device: torch.device, say: Say, spent: Spent
) -> tuple[Callable[[], object], dict[str, Any]]:
    """A checked model on its input, as something to call again and again; and what the check saw.

    `divisor` is what the case's batch is divided by, for want of memory.
    """
    if case.impl == "compile" and not _compiler(device):
        needs = "a C++ compiler, and none is here: install g++, or set CXX"
        if device.type == "cuda":
            needs = "a C compiler for Triton's launcher, and none is here: install gcc, or set CC"
        raise ValueError(f"compile needs {needs}")
    say("building")
    with spent.on("build"):
        torch.manual_seed(inputs.SEED)
        eager = models.build(case.model, size=case.size, **case.model_options)
        model = _like(case, eager).to(device, **_form(case))
        images = inputs.images((case.batch or 1) // divisor, case.size, device).to(**_form(case))
    say("checking")
    with spent.on("forward"), _precision():
        check = _check(case, model, eager, images, device)

    @torch.inference_mode()
    def run() -> object:
        with _autocast(case, device):
            return model(images)

    return run, check


def _like(case: Case, eager: torch.nn.Module) -> torch.nn.Module:
    """The case's implementation with the very weights of `eager`."""
    if case.impl == "eager":
        return copy.deepcopy(eager)
    if case.impl == "compile":
        return models.compiled(copy.deepcopy(eager))
    options = {name: value for name, value in case.model_options.items() if name != "weights"}
    model = models.build(case.model, size=case.size, impl=case.impl, **options)
    model.load_state_dict(eager.state_dict())
    return model


def _form(case: Case) -> dict[str, Any]:
    """What weights and images of a case are converted to."""
    return {
        "dtype": torch.float32 if case.has("autocast") else TORCH_DTYPES[case.dtype or "fp32"],
        "memory_format": torch.channels_last if case.has("channels_last") else torch.contiguous_format,
    }


def _check(
    case: Case, model: torch.nn.Module, eager: torch.nn.Module, images: torch.Tensor, device: torch.device
) -> dict[str, Any]:
    """Run the case and compare its first images: ours with eager in fp64, a compiled peer with its own eager.

    Raises:
        Wrong: the output is further off than eager's own error explains, not finite, or of the wrong shape.
    """
    few = images[:CHECKED_IMAGES]
    with torch.inference_mode():
        with _autocast(case, device):
            whole = model(images)  # all of them: another batch may be another graph, another algorithm
        if not isinstance(whole, torch.Tensor) or whole.shape[:1] != images.shape[:1]:
            shape = tuple(whole.shape) if isinstance(whole, torch.Tensor) else type(whole).__name__
            raise Wrong(f"the output is {shape} for {len(images)} images")
        if not whole.isfinite().all():
            raise Wrong("the output is not finite")
        out = whole[:CHECKED_IMAGES]
        ours = case.model in models.RESTV2
        if not ours and case.impl == "eager":
            return {"against": "finite and of the right shape"}
        bound = EAGER_BOUND[case.dtype or "fp32"]
        plain = out if case.impl == "eager" else _eager(case, eager, few, device)
        if not ours:
            return _within(out, plain, bound, "its own eager")
        truth = eager.to(device, torch.float64)(few.double())
    against = "eager in fp64"
    by_eager = _within(plain, truth, bound, against)
    if case.impl == "eager":
        return by_eager
    # twice what eager itself is off by, and a little for a dtype in which eager happens to be exact
    return _within(out, truth, 2 * by_eager["error"] + 1e-5, against)


def _eager(case: Case, eager: torch.nn.Module, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """What eager makes of `images` in the case's dtype; `eager` itself stays as it is."""
    model = copy.deepcopy(eager).to(device, **_form(case))
    with _autocast(case, device):
        return model(images)


def _within(out: torch.Tensor, expected: torch.Tensor, bound: float, against: str) -> dict[str, Any]:
    """The largest difference as a share of the largest expected value, which `bound` must not be below."""
    if out.shape != expected.shape:
        raise Wrong(f"the output is {tuple(out.shape)}, not {tuple(expected.shape)} as {against}")
    scale = max(expected.abs().max().item(), 1e-30)  # beside zeros, any difference is too large
    error = (out.double() - expected.double()).abs().max().item() / scale
    if not error <= bound:
        raise Wrong(
            f"the output differs from {against} by {error:.2e} of the largest logit; {bound:.2e} is allowed"
        )
    return {"against": against, "error": error, "bound": bound}


def _operators(run: Callable[[], object], device: torch.device) -> list[str] | None:
    """What really ran, by its own time, longest first: CUDA kernels on a GPU, operators on a CPU."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    try:
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
            run()
        events = profiled.key_averages()
    except RuntimeError:  # another profiler holds the counters
        return None
    own = (
        (lambda event: event.self_device_time_total) if on_gpu else (lambda event: event.self_cpu_time_total)
    )
    return [event.key for event in sorted(events, key=own, reverse=True)[:MAX_OPERATORS] if own(event)]


@contextmanager
def _precision() -> Iterator[None]:
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


def _autocast(case: Case, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, TORCH_DTYPES[case.dtype or "fp32"], enabled=case.has("autocast"))


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


def _compiler(device: torch.device) -> str | None:
    """What inductor calls on a CPU, or Triton on a GPU."""
    names = ("g++", "c++", "clang++") if device.type == "cpu" else ("gcc", "clang", "cc")
    named = os.environ.get("CXX" if device.type == "cpu" else "CC")
    return next(filter(None, map(shutil.which, filter(None, (named, *names)))), None)


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
            reply = {"failed": _one_line(error), "fatal": False}
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
