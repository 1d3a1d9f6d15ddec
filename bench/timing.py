"""Warm-up, samples, and when to stop. A sample is seconds per iteration, over a few iterations back to back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from bench import stats
from bench.environment import Monitor, Reading

if TYPE_CHECKING:  # the runner reads the rules, and has no need to wait for torch
    import torch

FLUSH_BYTES = 2**28  # twice the largest L2 of a GPU that has a profile: B200's 126 MB

# A sample spoilt by heat is taken again, so often at the most, each time after a pause to cool.
MAX_DISCARDS, COOLING_S = 20, 2.0


@dataclass(frozen=True)
class Rules:
    """How long to measure. Every row carries them."""

    name: str
    warmup_iterations: int
    warmup_s: float
    sample_s: float  # a sample is as many iterations as fill this; 0 is one iteration
    min_samples: int  # 6 is the fewest that give a 95 % interval
    max_samples: int | None
    half_width: float | None  # stop once the interval's half-width is within this share of the median
    cap_s: float  # stop sampling then at the latest, once there are min_samples
    limit_s: float  # a case that takes longer, all in all, is taken for hung
    statistic: str = "median"
    batch: int | None = None  # where the case does not say
    dtype: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# The interval is looked at after each sample, so it is not quite what it says: in simulations with 0.5 to 2 % of
# noise and the GPU's rules, 97 to 90 % of the intervals held the true median.
_GPU = Rules("default", 10, 0.5, 0.05, 10, None, 0.005, 10.0, limit_s=600)
_CPU = Rules("default", 1, 0.2, 0.1, 6, None, 0.02, 4.0, limit_s=600)  # compiling takes minutes on two cores
# Section 4's "Inference throughput is measured on a V100 GPU, following [47]": batch 64, 50 warm-ups, mean of 30
# iterations. Each is waited for here, which costs microseconds beside the 50 ms and more that they take.
_PAPER = Rules("paper", 50, 0, 0, 30, 30, None, 0, limit_s=7200, statistic="mean", batch=64, dtype="fp32")

PROTOCOLS: dict[str, dict[str, Rules]] = {
    "default": {"cuda": _GPU, "cpu": _CPU},
    "quick": {
        "cuda": replace(_GPU, name="quick", min_samples=6, half_width=0.02, cap_s=1.5),
        "cpu": replace(_CPU, name="quick", warmup_s=0, sample_s=0, half_width=0.05, cap_s=1.0),
    },
    "paper": {"cuda": _PAPER, "cpu": _PAPER},
}


class Clock(Protocol):
    """Runs something `iterations` times and says how many seconds it took.

    A clock that flushes the caches before each iteration leaves that out of its answer; `flush_s` is what it takes.
    """

    flush_s: float

    def __call__(self, run: Callable[[], object], iterations: int) -> float: ...


class CpuClock:
    def __init__(self, flush: Callable[[], object] | None = None) -> None:
        self._flush = flush
        self.flush_s = 0.0 if flush is None else CpuClock()(flush, 1)

    def __call__(self, run: Callable[[], object], iterations: int) -> float:
        if self._flush is None:
            start = time.perf_counter()
            for _ in range(iterations):
                run()
            return time.perf_counter() - start
        spent = 0.0
        for _ in range(iterations):
            self._flush()
            start = time.perf_counter()
            run()
            spent += time.perf_counter() - start
        return spent


class CudaClock:
    """CUDA events around the iterations; it waits for the last before it returns.

    Cold, they stand around each iteration, and the flush before it lasts for longer than its launch: the GPU does not
    wait for the CPU in between.

    `event` and `synchronize` are torch.cuda's; a test hands in its own.
    """

    def __init__(
        self, event: Any = None, synchronize: Any = None, flush: Callable[[], object] | None = None
    ) -> None:
        if event is None:
            import torch

            event, synchronize = lambda: torch.cuda.Event(enable_timing=True), torch.cuda.synchronize
        self._event, self._synchronize, self._flush = event, synchronize, flush
        self.flush_s = 0.0 if flush is None else CudaClock(event, synchronize)(flush, 1)

    def __call__(self, run: Callable[[], object], iterations: int) -> float:
        spans = []
        self._synchronize()
        for _ in range(iterations if self._flush else 1):
            if self._flush:
                self._flush()
            start, end = self._event(), self._event()
            start.record()
            for _ in range(1 if self._flush else iterations):
                run()
            end.record()
            spans.append((start, end))
        self._synchronize()
        return sum(start.elapsed_time(end) for start, end in spans) / 1e3


def clock(device: torch.device, *, cold: bool = False) -> Clock:
    """`cold`: with the caches flushed before each iteration, by writing more than they hold."""
    flush = None
    if cold:
        import torch

        flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device).zero_
        flush()
    return CudaClock(flush=flush) if device.type == "cuda" else CpuClock(flush)


@dataclass
class Heat:
    """What heat and power did while samples were taken."""

    discarded: int = 0  # samples taken again because the GPU was too hot
    throttled: bool = False  # it stayed too hot: the samples after MAX_DISCARDS were kept
    power_capped: bool = False

    def spoils(self, reading: Reading, pause: Callable[[float], None]) -> bool:
        """Whether the sample before `reading` is to be taken again; if so, after a pause to cool."""
        self.power_capped |= "power" in (reading.throttle or ())
        if not reading.spoils_sample:
            return False
        if self.discarded == MAX_DISCARDS:
            self.throttled = True
            return False
        self.discarded += 1
        pause(COOLING_S)
        return True


@dataclass
class Samples(Heat):
    """What `sample` took: part of a row's `result`."""

    samples_s: list[float] = field(default_factory=list)
    iterations_per_sample: int = 1
    warmup_iterations: int = 0
    stopped_by: str = ""  # interval | time cap | count


@dataclass
class Blocks(Heat):
    """What `interleave` took: part of a row's `result`."""

    blocks: list[list[float]] = field(default_factory=list)
    iterations_per_sample: list[int] = field(default_factory=list)  # of the first, of the second
    stopped_by: str = ""


def warm_up(run: Callable[[], object], clock: Clock, rules: Rules) -> tuple[int, float]:
    """Run until the rules are met; the number of iterations, and seconds per iteration at the end."""
    done, spent, last = 0, 0.0, 0.0
    while done < rules.warmup_iterations or spent < rules.warmup_s:
        last = clock(run, 1)
        done, spent = done + 1, spent + last
    return done, last


def sample(
    run: Callable[[], object],
    clock: Clock,
    monitor: Monitor,
    rules: Rules,
    *,
    synchronised: bool = False,
    each: int = 1,
    started: Callable[[], None] = lambda: None,
    sampled: Callable[[bool], None] = lambda kept: None,
    pause: Callable[[float], None] = time.sleep,
) -> Samples:
    """Warm up, then take samples until the stopping rule says enough.

    Args:
        synchronised: one iteration a sample, waited for (latency); else as many as fill `sample_s` (throughput).
        each: iterations that one call of `run` makes.
        started: called between warm-up and the first sample.
        sampled: called after the warm-up and after each sample with whether it counts.
    """
    warmed, seconds = warm_up(run, clock, rules)
    calls = 1 if synchronised else _calls(seconds, clock, rules)
    taken = Samples(iterations_per_sample=each * calls, warmup_iterations=each * warmed)
    sampled(False)
    started()
    spent, began = 0.0, time.perf_counter()
    while not taken.stopped_by:
        elapsed = clock(run, calls)
        spent += elapsed
        spoilt = taken.spoils(monitor.read(), pause)
        sampled(not spoilt)
        if spoilt:
            continue
        taken.samples_s.append(elapsed / taken.iterations_per_sample)
        taken.stopped_by = _enough(len(taken.samples_s), lambda: stats.median(taken.samples_s), spent, rules)
        spent = max(spent, time.perf_counter() - began)  # what lies between short samples counts too
    return taken


def interleave(
    first: Callable[[], object],
    second: Callable[[], object],
    clock: Clock,
    monitor: Monitor,
    rules: Rules,
    *,
    each: tuple[int, int] = (1, 1),
    pause: Callable[[float], None] = time.sleep,
) -> Blocks:
    """Blocks of seconds per iteration in the order A, B, B, A, so that a drift favours neither.

    A block that heat spoilt is taken again, as in `sample`. Each of the two has the time cap of a case, and `each` says
    how many iterations one call of it makes.
    """
    taken = Blocks()
    turns = []
    for run, own in zip((first, second), each, strict=True):
        _, seconds = warm_up(run, clock, rules)
        turns.append((run, calls := _calls(seconds, clock, rules), own * calls))
        taken.iterations_per_sample.append(own * calls)
    a, b = turns
    spent = 0.0
    while not taken.stopped_by:
        times = [(clock(run, calls), iterations) for run, calls, iterations in (a, b, b, a)]
        spent += sum(seconds for seconds, _ in times)
        if taken.spoils(monitor.read(), pause):
            continue
        taken.blocks.append([seconds / iterations for seconds, iterations in times])
        taken.stopped_by = _enough(len(taken.blocks), lambda: stats.ratio(taken.blocks), spent / 2, rules)
    return taken


def _calls(seconds: float, clock: Clock, rules: Rules) -> int:
    """How many calls that take so long fill a sample, with what the clock does besides."""
    return max(1, round(rules.sample_s / max(seconds + clock.flush_s, 1e-9)))


def _enough(taken: int, estimate: Callable[[], stats.Estimate], spent: float, rules: Rules) -> str:
    """Why to stop now, or "" to go on."""
    if rules.max_samples and taken >= rules.max_samples:
        return "count"
    if taken < rules.min_samples:
        return ""
    if rules.half_width and estimate().half_width <= rules.half_width:
        return "interval"
    return "time cap" if not rules.max_samples and spent >= rules.cap_s else ""
