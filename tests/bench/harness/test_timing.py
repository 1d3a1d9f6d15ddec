"""Warm-up, samples and the stopping rule, driven by clocks and readings that are synthetic, all of them.

No time here was measured and no reading captured: each is made up to bring about the one thing under test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest
import torch

from bench import stats
from bench.harness import timing
from bench.harness.timing import MAX_DISCARDS, CpuClock, CudaClock, interleave, sample, warm_up
from bench.machine.state import NoMonitor, Reading
from bench.protocols import PROTOCOLS, Rules

RULES = Rules("synthetic", 2, 0.0, 0.0, 6, None, 0.5, limit_s=60)

COOL, HOT, BRAKED = Reading(throttle=()), Reading(throttle=("thermal",)), Reading(throttle=("hardware",))
CAPPED, UNKNOWN = Reading(throttle=("power",)), Reading()


class SyntheticClock:
    """Says that an iteration took what `seconds` says next, and remembers what it was asked."""

    flush_s = 0.0

    def __init__(self, seconds: Iterable[float] | float) -> None:
        self._seconds: Iterator[float] = iter(() if isinstance(seconds, float) else seconds)
        self._always = seconds if isinstance(seconds, float) else None
        self.asked: list[tuple[Callable[[], object], int]] = []

    def __call__(self, run: Callable[[], object], iterations: int) -> float:
        self.asked.append((run, iterations))
        return iterations * (next(self._seconds) if self._always is None else self._always)


class SyntheticMonitor:
    """Gives these readings one after the other, then cool ones."""

    def __init__(self, *readings: Reading) -> None:
        self._readings = iter(readings)
        self.reads = 0

    def read(self) -> Reading:
        self.reads += 1
        return next(self._readings, COOL)


def nothing() -> None:
    """What is timed; the synthetic clock never calls it."""


def steady(seconds: float = 0.1, noise: float = 0.0) -> Iterator[float]:
    source = random.Random(11)
    while True:
        yield seconds * (1 + noise * source.uniform(-1, 1))


def no_pause(_: float) -> None:
    """In place of the pause in which a GPU cools."""


# --- Warm-up ---------------------------------------------------------------------------------------------


def test_warm_up_takes_the_iterations_it_is_told():
    clock = SyntheticClock(0.001)
    warm = warm_up(nothing, clock, replace(RULES, warmup_iterations=7))
    assert (warm.iterations, warm.seconds) == (7, 0.001)
    assert clock.asked == [(nothing, 1)] * 7


def test_warm_up_goes_on_until_its_time_is_spent():
    warm = warm_up(nothing, SyntheticClock(0.25), replace(RULES, warmup_s=1.0))
    assert (warm.iterations, warm.seconds, warm.spent_s) == (4, 0.25, 1.0)


def test_warm_up_says_how_long_the_last_few_iterations_took_not_the_cold_first_nor_a_single_outlier():
    """From the last alone a sample had once 4 iterations in place of 1300."""
    times = [9.0, 0.5, 0.1, 0.1, 0.1, 0.1, 32.5]
    warm = warm_up(nothing, SyntheticClock(times), replace(RULES, warmup_iterations=7))
    assert (warm.iterations, warm.seconds) == (7, 0.1)


def test_warm_up_goes_on_while_times_still_move_and_no_longer_than_its_bound():
    falling = (0.1 * (0.9 + 0.1 * 0.9**n) for n in range(1000))
    settling = replace(RULES, warmup_iterations=1, settle_s=30.0)
    warm = warm_up(nothing, SyntheticClock(falling), settling)
    assert 100 < warm.iterations < 320  # a third of the bound at the least
    assert warm.seconds == pytest.approx(0.09, rel=1e-3)
    assert warm.is_still
    forever = (0.1 * 1.01**n for n in range(1000))
    warm = warm_up(nothing, SyntheticClock(forever), settling)
    assert 30.0 <= warm.spent_s < 31.5
    assert not warm.is_still
    assert warm.drift and warm.drift.moves(0.1)


def test_warm_up_goes_on_while_the_devices_clock_moves():
    moving = SyntheticMonitor(*(Reading(sm_clock_mhz=mhz) for mhz in (1980, 1900, 1800, 1755, 1755)))
    settling = replace(RULES, warmup_iterations=1, settle_s=30.0)
    warm_up(nothing, SyntheticClock(0.1), settling, moving)
    assert moving.reads == 5


def test_no_warm_up_where_the_rules_ask_for_none():
    warm = warm_up(nothing, SyntheticClock([]), replace(RULES, warmup_iterations=0))
    assert (warm.iterations, warm.seconds, warm.drift) == (0, 0.0, None)


def test_a_board_is_warmed_by_the_first_case_of_a_process_and_by_the_next_while_it_moves():
    rules = replace(RULES, warmup_iterations=1, settle_s=0.3, board_least_s=2.0, board_most_s=10.0)
    still = timing.Board()
    assert still.warm_up(nothing, SyntheticClock(0.1), rules).spent_s == pytest.approx(2.0, abs=0.2)
    assert still.is_still
    assert still.warm_up(nothing, SyntheticClock(0.1), rules).spent_s < 0.5
    moving = timing.Board()
    forever = SyntheticClock(0.1 * 1.001**n for n in range(1000))
    assert moving.warm_up(nothing, forever, replace(rules, board_most_s=6.0)).spent_s == pytest.approx(
        6.0, abs=0.3
    )
    assert not moving.is_still
    assert moving.warm_up(nothing, forever, rules).spent_s == pytest.approx(4.0, abs=0.5)  # what is left
    assert moving.warm_up(nothing, forever, rules).spent_s < 0.8


def test_what_a_board_still_moved_is_in_the_samples_and_fades_with_time():
    seconds = [0.0]
    board = timing.Board(lambda: seconds[0])
    rules = replace(
        RULES, warmup_iterations=1, settle_s=0.3, board_least_s=5.0, board_most_s=10.0, max_samples=6
    )
    forever = SyntheticClock(0.1 * 1.001**n for n in range(1000))
    at_once = sample(nothing, forever, SyntheticMonitor(), rules, board=board)
    seconds[0] = stats.SLOWEST_S
    later = sample(nothing, forever, SyntheticMonitor(), rules, board=board)
    assert at_once.settling and later.settling
    assert at_once.board_s == pytest.approx(10.0, abs=0.3)
    assert later.settling.change == pytest.approx(at_once.settling.change / 2.718, rel=1e-3)


def test_a_short_round_warms_the_board_for_longest_and_one_that_took_long_gets_half_of_it_again():
    cpu = PROTOCOLS["default"]["cpu"]
    first, later, short = (
        cpu.in_round(0, short=False),
        cpu.in_round(1, short=False),
        cpu.in_round(1, short=True),
    )
    assert later.board_most_s < first.board_most_s < short.board_most_s
    gpu = PROTOCOLS["default"]["cuda"]
    assert gpu.in_round(1, short=False, took_s=100.0).board_least_s == 50.0
    assert gpu.in_round(1, short=False, took_s=10.0).board_least_s == gpu.board_least_s


# --- When to stop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5])
def test_how_many_samples_are_taken_does_not_depend_on_how_alike_they_are(noise):
    """A rule that stops at a narrow interval picks the moments in which noise happens to be small."""
    taken = sample(
        nothing, SyntheticClock(steady(noise=noise)), SyntheticMonitor(), replace(RULES, cap_s=3.05)
    )
    assert taken.stopped_by == "time"
    assert len(taken.samples_s) == pytest.approx(31, abs=2)


@pytest.mark.parametrize("least", [6, 10, 17])
def test_it_never_stops_before_the_fewest_samples_however_alike_they_are(least):
    rules = replace(RULES, min_samples=least, cap_s=0.0)
    taken = sample(nothing, SyntheticClock(0.1), SyntheticMonitor(), rules)
    assert taken.samples_s == pytest.approx([0.1] * least)
    assert taken.stopped_by == "time"


def test_the_time_waits_for_the_fewest_samples():
    taken = sample(
        nothing, SyntheticClock(steady(100.0, noise=0.5)), SyntheticMonitor(), replace(RULES, cap_s=1.0)
    )
    assert taken.stopped_by == "time"
    assert len(taken.samples_s) == RULES.min_samples


def test_warm_up_is_no_sample_and_does_not_count_against_the_cap():
    rules = replace(RULES, warmup_iterations=3, cap_s=1.0)
    taken = sample(nothing, SyntheticClock([50.0, 50.0, 0.5, *[0.1, 0.3] * 99]), SyntheticMonitor(), rules)
    assert taken.warmup_iterations == 3
    assert len(taken.samples_s) == 6
    assert max(taken.samples_s) < 0.5


def test_it_stops_at_the_count():
    rules = replace(RULES, max_samples=8, cap_s=0.0)
    taken = sample(nothing, SyntheticClock(steady(noise=0.5)), SyntheticMonitor(), rules)
    assert (len(taken.samples_s), taken.stopped_by) == (8, "count")


def test_samples_are_kept_raw_and_in_order():
    seconds = [0.1, 0.2, 0.5, 0.3, 0.4, 0.9, 0.6]
    rules = replace(RULES, warmup_iterations=1, max_samples=6)
    taken = sample(nothing, SyntheticClock(seconds), SyntheticMonitor(), rules)
    assert taken.samples_s == pytest.approx(seconds[1:])


# --- What a sample is ------------------------------------------------------------------------------------


def test_a_sample_of_throughput_is_as_many_iterations_as_fill_its_time():
    clock = SyntheticClock(0.004)
    taken = sample(nothing, clock, SyntheticMonitor(), replace(RULES, sample_s=0.05, cap_s=0.0))
    assert taken.iterations_per_sample == 12
    assert clock.asked == [(nothing, 1)] * 2 + [(nothing, 12)] * 6
    assert taken.samples_s == pytest.approx([0.004] * 6)  # seconds per iteration


def test_a_sample_of_latency_is_one_iteration_waited_for():
    clock = SyntheticClock(0.004)
    taken = sample(nothing, clock, SyntheticMonitor(), replace(RULES, sample_s=0.05), synchronised=True)
    assert taken.iterations_per_sample == 1
    assert {iterations for _, iterations in clock.asked} == {1}


def test_a_sample_is_one_iteration_at_least_and_a_clock_that_shows_nothing_is_survived():
    taken = sample(nothing, SyntheticClock(3.0), SyntheticMonitor(), replace(RULES, sample_s=0.05, cap_s=1.0))
    assert taken.iterations_per_sample == 1
    assert sample(
        nothing,
        SyntheticClock([0.0, 0.0, *[1e-9] * 99]),
        SyntheticMonitor(),
        replace(RULES, sample_s=1e-9, cap_s=0.0),
    ).samples_s == pytest.approx([1e-9] * 6)


def test_started_is_called_once_between_warm_up_and_the_first_sample():
    clock, asked_when_started = SyntheticClock(0.1), []
    sample(
        nothing, clock, SyntheticMonitor(), RULES, started=lambda: asked_when_started.append(len(clock.asked))
    )
    assert asked_when_started == [RULES.warmup_iterations]


def test_started_is_called_once_between_both_warm_ups_and_the_first_block():
    clock, asked_when_started = SyntheticClock(0.1), []
    timing.interleave(
        *(nothing, nothing, clock, SyntheticMonitor(), RULES),
        started=lambda: asked_when_started.append(len(clock.asked)),
    )
    assert asked_when_started == [2 * RULES.warmup_iterations]


# --- Heat, and power -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoilt", [HOT, BRAKED, Reading(throttle=("idle", "power", "thermal"))])
def test_a_sample_that_heat_spoilt_is_taken_again_after_a_pause(spoilt):
    rules = replace(RULES, warmup_iterations=0, max_samples=6)
    # the second and third are spoilt: they show what a hot GPU takes
    clock = SyntheticClock([0.1, 0.7, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1])
    pauses: list[float] = []
    taken = sample(nothing, clock, SyntheticMonitor(COOL, spoilt, spoilt), rules, pause=pauses.append)
    assert taken.samples_s == pytest.approx([0.1] * 6)
    assert taken.discarded == 2
    assert not taken.throttled
    assert pauses == [timing.COOLING_S] * 2


def test_the_state_is_read_after_every_sample_and_never_during_one():
    monitor = SyntheticMonitor()
    taken = sample(nothing, SyntheticClock(0.1), monitor, RULES)
    assert monitor.reads == len(taken.samples_s)


def test_a_gpu_that_stays_hot_is_given_up_on_and_its_samples_are_kept_and_flagged():
    monitor = SyntheticMonitor(*[HOT] * 1000)
    pauses: list[float] = []
    taken = sample(nothing, SyntheticClock(0.1), monitor, RULES, pause=pauses.append)
    assert taken.discarded == MAX_DISCARDS == len(pauses)
    assert taken.throttled
    assert len(taken.samples_s) == RULES.min_samples
    assert monitor.reads == MAX_DISCARDS + RULES.min_samples


def test_a_gpu_that_was_hot_often_but_not_too_often_is_not_flagged():
    taken = sample(
        nothing, SyntheticClock(0.1), SyntheticMonitor(*[HOT] * MAX_DISCARDS), RULES, pause=no_pause
    )
    assert taken.discarded == MAX_DISCARDS
    assert not taken.throttled


def test_discards_are_counted_over_the_whole_case_not_in_a_row():
    flickering = [HOT, COOL] * (MAX_DISCARDS + 5)
    rules = replace(RULES, max_samples=30)
    taken = sample(nothing, SyntheticClock(0.1), SyntheticMonitor(*flickering), rules, pause=no_pause)
    assert taken.discarded == MAX_DISCARDS
    assert taken.throttled
    assert len(taken.samples_s) == 30


def test_a_discarded_sample_still_counts_against_the_time_cap():
    rules = replace(RULES, cap_s=1.0)
    clock = SyntheticClock([0.1, 0.1, *[0.5, 0.1, 0.1] * 10, *[0.1, 0.3] * 99])  # and two to warm up again
    taken = sample(nothing, clock, SyntheticMonitor(*[HOT] * 10), rules, pause=no_pause)
    assert (len(taken.samples_s), taken.stopped_by) == (6, "time")


def test_a_power_cap_is_recorded_and_not_fought():
    taken = sample(nothing, SyntheticClock(0.1), SyntheticMonitor(COOL, CAPPED), RULES)
    assert taken.power_capped
    assert taken.discarded == 0
    assert not taken.throttled
    assert len(taken.samples_s) == RULES.min_samples


def test_the_cap_of_a_discarded_sample_is_recorded_too():
    both = Reading(throttle=("power", "thermal"))
    assert sample(nothing, SyntheticClock(0.1), SyntheticMonitor(both), RULES, pause=no_pause).power_capped


@pytest.mark.parametrize("reading", [COOL, UNKNOWN, Reading(throttle=("idle", "application_clocks"))])
def test_other_reasons_or_none_at_all_change_nothing(reading):
    taken = sample(nothing, SyntheticClock(0.1), SyntheticMonitor(*[reading] * 99), RULES)
    assert (taken.discarded, taken.throttled, taken.power_capped) == (0, False, False)


# --- The protocols ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_papers_protocol_is_50_warm_ups_and_the_mean_of_exactly_30(kind):
    rules, clock = PROTOCOLS["paper"][kind], SyntheticClock(steady(noise=0.3))
    taken = sample(nothing, clock, SyntheticMonitor(), rules)
    assert taken.warmup_iterations == 50
    assert taken.iterations_per_sample == 1
    assert (len(taken.samples_s), taken.stopped_by) == (30, "count")
    assert clock.asked == [(nothing, 1)] * 80
    assert (rules.batch, rules.dtype, rules.statistic) == (64, "fp32", "mean")


def test_the_papers_protocol_stops_at_30_even_if_the_first_six_were_all_alike():
    assert (
        len(sample(nothing, SyntheticClock(0.1), SyntheticMonitor(), PROTOCOLS["paper"]["cuda"]).samples_s)
        == 30
    )


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_every_protocol_ends_and_can_give_an_interval(name, kind):
    rules = PROTOCOLS[name][kind]
    assert rules.name == name
    assert rules.visits >= 4 if rules.visits > 1 else rules.min_samples >= 6
    assert rules.limit_s > rules.cap_s
    taken = sample(nothing, SyntheticClock(steady(0.2, noise=0.9)), SyntheticMonitor(), rules)
    assert taken.stopped_by
    assert Rules(**rules.as_dict()) == rules  # as the worker reads them back


def test_quick_is_no_slower_than_the_default():
    for kind, quick in PROTOCOLS["quick"].items():
        default = PROTOCOLS["default"][kind]
        assert quick.visits == 1 < default.visits
        assert quick.cap_s < default.visits * default.cap_s
        assert quick.board_most_s < default.board_most_s


# --- The clocks ------------------------------------------------------------------------------------------


class SyntheticEvent:
    """Stands for torch.cuda.Event: writes down when it was recorded, and says a made-up time."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def record(self) -> None:
        self.log.append(f"record {self.name}")

    def elapsed_time(self, end: SyntheticEvent) -> float:
        self.log.append(f"elapsed {self.name} to {end.name}")
        return 12.5  # milliseconds, as CUDA says them


def test_the_cuda_clock_waits_records_runs_records_and_waits_with_synthetic_events():
    log: list[str] = []
    names = iter(["start", "end"])
    clock = CudaClock(lambda: SyntheticEvent(log, next(names)), lambda: log.append("synchronize"))
    seconds = clock(lambda: log.append("run"), 3)
    assert log == [
        "synchronize",  # nothing of before may run into the measurement
        "record start",
        *["run"] * 3,  # back to back: no waiting in between
        "record end",
        "synchronize",  # or the end would not have happened yet
        "elapsed start to end",
    ]
    assert seconds == 0.0125


def test_the_cuda_clock_takes_new_events_each_time():
    log: list[str] = []
    numbers = iter(range(10))
    clock = CudaClock(lambda: SyntheticEvent(log, str(next(numbers))), lambda: None)
    clock(nothing, 1)
    clock(nothing, 1)
    assert log == ["record 0", "record 1", "elapsed 0 to 1", "record 2", "record 3", "elapsed 2 to 3"]


def test_the_cpu_clock_runs_as_often_as_asked_and_its_seconds_are_real(monkeypatch):
    ticks = iter([10.0, 10.75])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(ticks))
    calls: list[int] = []
    assert CpuClock()(lambda: calls.append(1), 5) == 0.75
    assert len(calls) == 5


def test_the_device_decides_which_clock_it_is(monkeypatch):
    assert isinstance(timing.clock(torch.device("cpu")), CpuClock)
    assert isinstance(timing.clock(torch.device("cuda:0")), CudaClock)


def test_the_cpu_has_nothing_that_could_spoil_a_sample():
    assert not NoMonitor().read().spoils_sample


# --- Interleaving ----------------------------------------------------------------------------------------


def first() -> None:
    """A."""


def second() -> None:
    """B."""


class TwoSpeeds(SyntheticClock):
    """A takes 0.2 s, B 0.1 s, both ever longer by `drift` a call."""

    def __init__(self, drift: float = 0.0) -> None:
        super().__init__(0.0)
        self.drift = drift

    def __call__(self, run: Callable[[], object], iterations: int) -> float:
        self.asked.append((run, iterations))
        return iterations * (0.2 if run is first else 0.1) * (1 + self.drift * len(self.asked))


@pytest.fixture
def pauses() -> list[float]:
    """The pauses that were asked for; none is taken."""
    return []


def test_blocks_are_taken_in_the_order_that_a_coin_says_and_kept_in_one():
    clock = TwoSpeeds()
    taken = interleave(first, second, clock, SyntheticMonitor(), replace(RULES, min_samples=20), seed=3)
    warm, measured = clock.asked[:4], clock.asked[4:]
    assert [run for run, _ in warm] == [first, first, second, second]
    orders = {"A": [first, second, second, first], "B": [second, first, first, second]}
    assert [run for run, _ in measured] == [run for coin in taken.coins for run in orders[coin]]
    assert set(taken.coins) == {"A", "B"}
    assert taken.blocks == [pytest.approx([0.2, 0.1, 0.1, 0.2])] * 20
    assert (taken.stopped_by, taken.seed) == ("time", 3)
    assert stats.ratio(taken.blocks).value == pytest.approx(2)
    again = interleave(first, second, TwoSpeeds(), SyntheticMonitor(), replace(RULES, min_samples=20), seed=3)
    assert again.coins == taken.coins


def test_each_side_gets_as_many_iterations_as_fill_a_sample():
    clock = TwoSpeeds()
    taken = interleave(first, second, clock, SyntheticMonitor(), replace(RULES, sample_s=1.0))
    assert {(run, iterations) for run, iterations in clock.asked[4:]} == {(first, 5), (second, 10)}
    assert taken.blocks[0] == pytest.approx([0.2, 0.1, 0.1, 0.2])  # seconds per iteration all the same


def test_a_drift_favours_neither_side():
    taken = interleave(first, second, TwoSpeeds(drift=0.01), SyntheticMonitor(), RULES)
    assert stats.ratio(taken.blocks).value == pytest.approx(2, rel=1e-3)


def test_a_block_that_heat_spoilt_is_taken_again_as_a_whole(pauses):
    monitor = SyntheticMonitor(COOL, HOT, BRAKED)
    clock = TwoSpeeds()
    taken = interleave(first, second, clock, monitor, RULES, pause=pauses.append)
    assert len(taken.blocks) == RULES.min_samples
    assert len(clock.asked) == 4 + 4 * (RULES.min_samples + 2) + 2 * 4  # and warmed up again, twice
    assert pauses == [timing.COOLING_S] * 2


def test_a_gpu_that_stays_hot_does_not_keep_a_comparison_from_ending(pauses):
    taken = interleave(
        first, second, TwoSpeeds(), SyntheticMonitor(*[HOT] * 1000), RULES, pause=pauses.append
    )
    assert len(taken.blocks) == RULES.min_samples
    assert len(pauses) == taken.discarded == MAX_DISCARDS
    assert taken.throttled


def test_a_power_cap_costs_a_comparison_nothing(pauses):
    monitor = SyntheticMonitor(*[CAPPED] * 1000)
    taken = interleave(first, second, TwoSpeeds(), monitor, RULES, pause=pauses.append)
    assert pauses == []
    assert (taken.discarded, taken.throttled, taken.power_capped) == (0, False, True)


def test_a_comparison_stops_at_the_time_cap_of_both_together():
    noisy = SyntheticClock(steady(0.1, noise=0.9))
    taken = interleave(first, second, noisy, SyntheticMonitor(), replace(RULES, cap_s=2.0))
    assert taken.stopped_by == "time"
    assert 4.0 <= sum(map(sum, taken.blocks)) < 4.0 + 4 * 0.19


def test_a_comparison_stops_at_the_count():
    rules = PROTOCOLS["paper"]["cuda"]
    taken = interleave(first, second, TwoSpeeds(), SyntheticMonitor(), rules)
    assert (len(taken.blocks), taken.stopped_by) == (30, "count")
