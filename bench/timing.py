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
    """Runs something `iterations` times and says how many seconds it took."""

    def __call__(self, run: Callable[[], object], iterations: int) -> float: ...


class CpuClock:
    def __call__(self, run: Callable[[], object], iterations: int) -> float:
        start = time.perf_counter()
        for _ in range(iterations):
            run()
        return time.perf_counter() - start


class CudaClock:
    """CUDA events around the iterations; it waits for the last before it returns.

    `event` and `synchronize` are torch.cuda's; a test hands in its own.
    """

    def __init__(self, event: Any = None, synchronize: Any = None) -> None:
        if event is None:
            import torch

            event, synchronize = lambda: torch.cuda.Event(enable_timing=True), torch.cuda.synchronize
        self._event, self._synchronize = event, synchronize

    def __call__(self, run: Callable[[], object], iterations: int) -> float:
        start, end = self._event(), self._event()
        self._synchronize()
        start.record()
        for _ in range(iterations):
            run()
        end.record()
        self._synchronize()
        return start.elapsed_time(end) / 1e3


def clock(device: torch.device) -> Clock:
    return CudaClock() if device.type == "cuda" else CpuClock()


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
    started: Callable[[], None] = lambda: None,
    pause: Callable[[float], None] = time.sleep,
) -> Samples:
    """Warm up, then take samples until the stopping rule says enough.

    Args:
        synchronised: one iteration a sample, waited for (latency); else as many as fill `sample_s` (throughput).
        started: called between warm-up and the first sample.
    """
    warmed, seconds = warm_up(run, clock, rules)
    iterations = 1 if synchronised else max(1, round(rules.sample_s / max(seconds, 1e-9)))
    taken = Samples(iterations_per_sample=iterations, warmup_iterations=warmed)
    started()
    spent, began = 0.0, time.perf_counter()
    while not taken.stopped_by:
        elapsed = clock(run, iterations)
        spent += elapsed
        if taken.spoils(monitor.read(), pause):
            continue
        taken.samples_s.append(elapsed / iterations)
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
    pause: Callable[[float], None] = time.sleep,
) -> Blocks:
    """Blocks of seconds per iteration in the order A, B, B, A, so that a drift favours neither.

    A block that heat spoilt is taken again, as in `sample`. Each of the two has the time cap of a case.
    """
    taken = Blocks()
    for run in (first, second):
        _, seconds = warm_up(run, clock, rules)
        taken.iterations_per_sample.append(max(1, round(rules.sample_s / max(seconds, 1e-9))))
    a, b = zip((first, second), taken.iterations_per_sample, strict=True)
    spent = 0.0
    while not taken.stopped_by:
        times = [(clock(run, iterations), iterations) for run, iterations in (a, b, b, a)]
        spent += sum(seconds for seconds, _ in times)
        if taken.spoils(monitor.read(), pause):
            continue
        taken.blocks.append([seconds / iterations for seconds, iterations in times])
        taken.stopped_by = _enough(len(taken.blocks), lambda: stats.ratio(taken.blocks), spent / 2, rules)
    return taken


def _enough(taken: int, estimate: Callable[[], stats.Estimate], spent: float, rules: Rules) -> str:
    """Why to stop now, or "" to go on."""
    if rules.max_samples and taken >= rules.max_samples:
        return "count"
    if taken < rules.min_samples:
        return ""
    if rules.half_width and estimate().half_width <= rules.half_width:
        return "interval"
    return "time cap" if not rules.max_samples and spent >= rules.cap_s else ""
