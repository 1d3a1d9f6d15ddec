"""Timing: clocks, warm-up, samples and when to stop, and stamps that split a time by submodule.

A sample is seconds per iteration, over a few iterations back to back. A stamp is a CUDA event, or a reading of the
clock on a CPU, taken while the samples are: it waits for nothing and costs no further runs. A submodule's time is that
between two stamps on the device itself, waiting for the CPU included, as where boxes are chosen.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import nn

from bench import stats
from bench.machine.state import Monitor, Reading
from bench.protocols import Rules

FLUSH_BYTES = 2**28  # twice the largest L2 of a GPU that has a profile: B200's 126 MB

# A sample spoilt by heat is taken again, so often at the most, each time after a pause to cool.
MAX_DISCARDS, COOLING_S = 20, 2.0
CLOCK_STEP = 0.01  # a clock that moves by less stands still: the steps of a GPU's are 15 MHz
STILL = 0.0005  # the change of times still to come, below which they stand still
GO_ON_ERRORS = 1.5  # a change of so many standard errors may be one: a longer look tells
LOOK_EVERY = 1.25  # times the time of the last look
LAST = 5  # iterations of a warm-up whose median says how long one takes


class Clock(Protocol):
    """Runs something `iterations` times and says how many seconds it took.

    A clock that flushes the caches before each iteration leaves that out of its answer; `flush_s` is what it takes.
    """

    flush_s: float

    def __call__(self, run: Callable[[], object], iterations: int) -> float: ...


class CpuClock:
    """Reads the CPU's clock around the iterations; cold, around each iteration, after the flush."""

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
    """Records CUDA events around the iterations, and waits for the last before it returns.

    Cold, they stand around each iteration, and the flush before it lasts for longer than its launch: the GPU does not
    wait for the CPU in between.
    """

    def __init__(
        self, event: Any = None, synchronize: Any = None, flush: Callable[[], object] | None = None
    ) -> None:
        """
        Args:
            event: makes an event, `synchronize` waits for the device; default: torch.cuda's. A test hands in its own.
            flush: empties the caches before each iteration.
        """
        if event is None:
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
    """The clock of a device.

    Args:
        cold: flush the caches before each iteration, by writing, then reading, more than they hold.
    """
    flush = None
    if cold:
        written, read = torch.zeros(2, FLUSH_BYTES // 8, dtype=torch.int64, device=device)

        def flush() -> None:
            written.zero_()  # evicts what the case left
            read.sum()  # and writes back what that left dirty, before the case is timed

        flush()
    return CudaClock(flush=flush) if device.type == "cuda" else CpuClock(flush)


@dataclass
class Heat:
    """The effect of heat and power on samples while they were taken."""

    discarded: int = 0  # samples taken again because the GPU was too hot
    throttled: bool = False  # it stayed too hot: the samples after MAX_DISCARDS were kept
    power_capped: bool = False

    def spoils(self, reading: Reading, pause: Callable[[float], None]) -> bool:
        """Whether the sample before a reading is to be taken again; if so, after a pause to cool."""
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
    """The samples of one case: part of a row's `result`."""

    samples_s: list[float] = field(default_factory=list)
    iterations_per_sample: int = 1
    warmup_iterations: int = 0
    stopped_by: str = ""  # time | count
    board_s: float = 0.0  # that this process has spent on warming its board
    settling: stats.Drift | None = None  # how its board still moved then


@dataclass
class Blocks(Heat):
    """The interleaved blocks of two cases: part of a row's `result`."""

    blocks: list[list[float]] = field(default_factory=list)
    iterations_per_sample: list[int] = field(default_factory=list)  # the first's, the second's
    stopped_by: str = ""
    seed: int = 0  # of the coins
    coins: str = ""  # A where a block was taken as A B B A, B where as B A A B


@dataclass(frozen=True)
class WarmUp:
    """A warm-up that has ended: because times and the clock stood still, or at its bound while they still moved."""

    iterations: int
    seconds: (
        float  # of an iteration at the end: the median of the last few, for a single one may be ten times off
    )
    spent_s: float
    is_still: bool
    drift: stats.Drift | None  # of the times, as far as it may go on; None of too few


def warm_up(
    run: Callable[[], object],
    clock: Clock,
    rules: Rules,
    monitor: Monitor | None = None,
    *,
    settle_s: float | None = None,
    least_s: float | None = None,
) -> WarmUp:
    """Run until the rules are met, then for a least time, then within a bound until neither times nor the clock move.

    Args:
        settle_s: the bound; default: the rules'.
        least_s: default: a third of the bound.
    """
    settle_s = rules.settle_s if settle_s is None else settle_s
    least_s = max(rules.warmup_s, settle_s / 3 if least_s is None else min(least_s, settle_s))
    times: list[float] = []
    clocks: list[int | None] = []
    spent, look_at = 0.0, 0.0
    while True:
        if len(times) >= rules.warmup_iterations and spent >= least_s:
            at_bound = spent >= settle_s
            if (
                at_bound or spent >= look_at
            ):  # at growing intervals, or looking would take longer than warming
                look_at = LOOK_EVERY * spent
                clocks.append(monitor.read().sm_clock_mhz if monitor and settle_s else None)
                drift = stats.to_come([seconds for seconds in times if seconds > 0])
                is_still = not (drift and drift.moves(STILL, GO_ON_ERRORS)) and _same(clocks)
                if at_bound or is_still:
                    break
        times.append(clock(run, 1))
        spent += times[-1]
    return WarmUp(len(times), statistics.median(times[-LAST:]) if times else 0.0, spent, is_still, drift)


def _same(clocks: list[int | None]) -> bool:
    """Whether the clock is the same as when it was looked at last; one that nobody can see does not move."""
    if clocks[-1] is None:
        return True
    return len(clocks) > 1 and abs(clocks[-1] - (clocks[-2] or 0)) <= CLOCK_STEP * clocks[-1]


class Board:
    """A board as a process knows it: whether it has stood still yet, and how it moved at the last look.

    The imports let a board cool. The first case of a process warms it up, and the next ones go on where it has not
    stood still, until the rules' time for it is spent.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.is_still, self.spent_s = False, 0.0
        self._now, self._ended = now, 0.0
        self._drift: stats.Drift | None = None

    @property
    def settling(self) -> stats.Drift | None:
        """The drift that may still come, after what has run since the board was looked at; None where none is known."""
        if self._drift is None:
            return None
        return self._drift.times(math.exp((self._ended - self._now()) / stats.SLOWEST_S))

    def warm_up(
        self, run: Callable[[], object], clock: Clock, rules: Rules, monitor: Monitor | None = None
    ) -> WarmUp:
        """Warm up for a case, and the board as far as it needs it."""
        left_s = 0.0 if self.is_still else rules.board_most_s - self.spent_s
        if left_s <= rules.settle_s:
            return warm_up(run, clock, rules, monitor)
        warm = warm_up(run, clock, rules, monitor, settle_s=left_s, least_s=rules.board_least_s)
        self.spent_s += warm.spent_s
        self.is_still, self._drift, self._ended = warm.is_still, warm.drift, self._now()
        return warm


def sample(
    run: Callable[[], object],
    clock: Clock,
    monitor: Monitor,
    rules: Rules,
    *,
    synchronised: bool = False,
    per_call: int = 1,
    board: Board | None = None,
    started: Callable[[], None] = lambda: None,
    sampled: Callable[[bool], None] = lambda kept: None,
    pause: Callable[[float], None] = time.sleep,
) -> Samples:
    """Warm up, then take samples for the time of a visit, or as many as the rules say.

    How many does not depend on what they show.

    Args:
        synchronised: one iteration a sample, waited for (latency); else as many as fill `sample_s` (throughput).
        per_call: iterations that one call of `run` makes.
        board: what the process knows of its board; default: one that is warm.
        started: called between warm-up and the first sample.
        sampled: called after each warm-up and after each sample with whether it counts.
    """
    warm = (board.warm_up if board else warm_up)(run, clock, rules, monitor)
    calls = 1 if synchronised else _calls(warm.seconds, clock, rules)
    taken = Samples(iterations_per_sample=per_call * calls, warmup_iterations=per_call * warm.iterations)
    if board:
        taken.board_s, taken.settling = board.spent_s, board.settling
    sampled(False)
    started()
    spent, began = 0.0, time.perf_counter()
    while not taken.stopped_by:
        elapsed = clock(run, calls)
        spent += elapsed
        looked = time.perf_counter()
        spoilt = taken.spoils(monitor.read(), pause)
        sampled(not spoilt)
        if spoilt:  # it has cooled in the pause, and its clock would be higher than it can keep
            warm_up(run, clock, rules, monitor)
            sampled(False)
            began += time.perf_counter() - looked  # a pause takes nothing of the time for samples
            continue
        taken.samples_s.append(elapsed / taken.iterations_per_sample)
        taken.stopped_by = _enough(len(taken.samples_s), spent, rules)
        spent = max(spent, time.perf_counter() - began)  # what lies between short samples counts too
    return taken


def interleave(
    first: Callable[[], object],
    second: Callable[[], object],
    clock: Clock,
    monitor: Monitor,
    rules: Rules,
    *,
    per_call: tuple[int, int] = (1, 1),
    board: Board | None = None,
    started: Callable[[], None] = lambda: None,
    seed: int | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Blocks:
    """Blocks of seconds per iteration, each taken in the order A B B A or B A A B as a coin says.

    A drift favours neither, nor does a disturbance that comes back with the period of a block. However it was taken, a
    block is kept as [A, B, B, A]. A block that heat spoilt is taken again, as in `sample`. Each of the two has the time
    of a case.

    Args:
        per_call: iterations that one call of the first makes, and of the second.
        board: what the process knows of its board; default: one that is warm.
        started: called between the warm-ups and the first block.
        seed: of the coins; default: one at random, which the blocks keep.
    """
    taken = Blocks(seed=random.SystemRandom().randrange(2**32) if seed is None else seed)
    coin = random.Random(taken.seed)
    sides = []
    for run, own in zip((first, second), per_call, strict=True):
        warm = (board.warm_up if board else warm_up)(run, clock, rules, monitor)
        sides.append((run, calls := _calls(warm.seconds, clock, rules), own * calls))
        taken.iterations_per_sample.append(own * calls)
    started()
    spent = 0.0
    while not taken.stopped_by:
        begins = coin.randrange(2)
        order = (0, 1, 1, 0) if begins == 0 else (1, 0, 0, 1)
        times: tuple[list[float], list[float]] = ([], [])
        for side in order:
            run, calls, iterations = sides[side]
            elapsed = clock(run, calls)
            spent += elapsed
            times[side].append(elapsed / iterations)
        if taken.spoils(monitor.read(), pause):
            for run, _, _ in sides:
                warm_up(run, clock, rules, monitor)
            continue
        (a1, a2), (b1, b2) = times
        taken.blocks.append([a1, b1, b2, a2])
        taken.coins += "AB"[begins]
        taken.stopped_by = _enough(len(taken.blocks), spent / 2, rules)
    return taken


def _calls(seconds: float, clock: Clock, rules: Rules) -> int:
    """The number of calls of so many seconds that fill a sample, with what the clock does besides."""
    return max(1, round(rules.sample_s / max(seconds + clock.flush_s, 1e-9)))


def _enough(taken: int, spent: float, rules: Rules) -> str:
    """The reason to stop now, or "" to go on."""
    if rules.max_samples:
        return "count" if taken >= rules.max_samples else ""
    return "time" if taken >= rules.min_samples and spent >= rules.cap_s else ""


Stamp = Any


class Stamps(AbstractContextManager["Stamps"]):
    """Stamps on entering the first of a model's submodules and on leaving each, while the context lasts.

    The submodules are those that the model names in `SUBMODULES`, in the order in which they run; a model without
    any gets none.
    """

    def __init__(
        self,
        model: nn.Module | None,
        device: torch.device,
        stamp: Callable[[], Stamp] | None = None,
        seconds_between: Callable[[Stamp, Stamp], float] | None = None,
    ) -> None:
        """
        Args:
            stamp: takes a stamp; default: the device's. A test hands in its own, with `seconds_between` for two of
                them.
        """
        self.names: tuple[str, ...] = getattr(model, "SUBMODULES", ())
        self._modules = [getattr(model, name) for name in self.names]
        on_gpu = device.type == "cuda"
        self._stamp = stamp or (_event if on_gpu else time.perf_counter)
        self._between = seconds_between or (_event_seconds if on_gpu else lambda first, then: then - first)
        self._stamps: list[Stamp] = []
        self._hooks: list[Any] = []
        self.samples_s: dict[str, list[float]] = {name: [] for name in self.names}

    def __enter__(self) -> Stamps:
        def take(*_: object) -> None:
            self._stamps.append(self._stamp())

        for module in self._modules[:1]:
            self._hooks.append(module.register_forward_pre_hook(take))
        for module in self._modules:
            self._hooks.append(module.register_forward_hook(take))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def sampled(self, kept: bool) -> None:
        """Read the stamps of a sample that has been waited for: seconds of each submodule for one call of the model.

        Args:
            kept: whether the sample counts; else its stamps are forgotten.
        """
        runs = len(self.names) + 1
        calls = [self._stamps[start : start + runs] for start in range(0, len(self._stamps), runs)]
        self._stamps = []
        if not (kept and calls):
            return
        for part, name in enumerate(self.names):
            spent = [self._between(call[part], call[part + 1]) for call in calls]
            self.samples_s[name].append(sum(spent) / len(spent))


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _event_seconds(first: torch.cuda.Event, then: torch.cuda.Event) -> float:
    return first.elapsed_time(then) / 1e3
