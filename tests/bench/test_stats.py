"""Medians, ratios, and intervals that cover as often as they say."""

import random
from math import comb, exp, inf, log

import pytest
from scipy.stats import binom, ttest_1samp

from bench import stats
from bench.stats import Estimate

# 95 % intervals for a median by order statistics, 1-based ranks of both ends: the published table
# (Conover, Practical Nonparametric Statistics, table A3 at p = 1/2; the sign test's critical values).
RANKS = {6: (1, 6), 7: (1, 7), 8: (1, 8), 9: (2, 8), 10: (2, 9), 11: (2, 10), 12: (3, 10), 15: (4, 12)}
RANKS |= {20: (6, 15), 25: (8, 18), 30: (10, 21), 50: (18, 33), 100: (40, 61)}


def shuffled_ranks(n: int) -> list[float]:
    """1 … n, so that each value is its own rank, in no order."""
    values = [float(rank) for rank in range(1, n + 1)]
    random.Random(n).shuffle(values)
    return values


@pytest.mark.parametrize(("n", "ranks"), RANKS.items())
def test_the_interval_is_the_published_one(n, ranks):
    estimate = stats.median(shuffled_ranks(n))
    assert (estimate.low, estimate.high) == ranks
    assert estimate.value == (n + 1) / 2
    assert estimate.n == n


@pytest.mark.parametrize("n", range(1, 6))
def test_too_few_samples_give_a_median_without_an_interval(n):
    estimate = stats.median(shuffled_ranks(n))
    assert estimate == Estimate((n + 1) / 2, None, None, n)
    assert estimate.half_width == inf


@pytest.mark.parametrize("n", range(6, 200))
def test_coverage_is_at_least_95_percent_and_the_next_narrower_is_not(n):
    estimate = stats.median(shuffled_ranks(n))
    assert estimate.low is not None
    k = int(estimate.low)
    assert estimate.high == n + 1 - k  # as much at one end as at the other

    def missed(rank: int) -> float:
        """Chance that the true median is below the rank-th sample: fewer than `rank` samples under it."""
        return sum(comb(n, under) for under in range(rank)) / 2**n

    assert 2 * missed(k) <= 0.05
    assert 2 * missed(k + 1) > 0.05


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_another_confidence_is_kept_too(confidence):
    estimate = stats.median(shuffled_ranks(40), confidence)
    assert estimate.low is not None
    assert 2 * binom.cdf(estimate.low - 1, 40, 0.5) <= 1 - confidence < 2 * binom.cdf(estimate.low, 40, 0.5)


@pytest.mark.parametrize("n", [6, 13, 40])
def test_simulated_coverage_on_a_skewed_distribution_is_the_exact_one(n):
    source, runs = random.Random(20220415), 4000
    true_median = log(2)  # of an exponential: times, too, have a long tail on one side
    covered, exact = 0, None
    for _ in range(runs):
        estimate = stats.median([source.expovariate(1) for _ in range(n)])
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= true_median <= estimate.high
    k = int(stats.median(shuffled_ranks(n)).low or 0)
    exact = 1 - 2 * binom.cdf(k - 1, n, 0.5)
    assert exact >= 0.95
    assert abs(covered / runs - exact) < 4 * (exact * (1 - exact) / runs) ** 0.5


def test_the_median_of_no_samples_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        stats.median([])


def test_the_samples_are_left_as_they_were():
    samples = [3.0, 1.0, 2.0, 6.0, 5.0, 4.0]
    stats.median(samples)
    assert samples == [3.0, 1.0, 2.0, 6.0, 5.0, 4.0]


def test_half_width_is_relative_to_the_value():
    assert Estimate(10, 9, 12, 8).half_width == 0.15
    assert Estimate(-10, -12, -9, 8).half_width == 0.15


@pytest.mark.parametrize(
    ("estimate", "is_wide", "is_uncertain"),
    [
        (Estimate(10, 9.1, 10.9, 5), False, False),
        (Estimate(10, 8.9, 11.1, 5), True, True),
        (Estimate(10, 9.9, 10.1, 20, within_run=True), False, True),
        (Estimate(10, 5, 20, 20, within_run=True), False, True),  # of one visit, whatever its width
        (Estimate(10, None, None, 1, why="1 of 5 visits"), False, True),
    ],
)
def test_nothing_is_concluded_without_an_interval_from_one_visit_or_from_a_wide_interval(
    estimate, is_wide, is_uncertain
):
    assert (estimate.is_wide, estimate.is_uncertain) == (is_wide, is_uncertain)


def test_the_mean_is_plain_and_claims_no_interval():
    assert stats.mean([1, 2, 6]) == Estimate(3, None, None, 3)
    assert stats.mean([1, 2, 6]).half_width == inf


# --- Ratios ----------------------------------------------------------------------------------------------


def noisy_blocks(
    a: float, b: float, drift: float = 0.0, noise: float = 0.01, n: int = 20
) -> list[list[float]]:
    """Blocks A B B A with times that grow by `drift` a measurement, and noise of a fixed seed."""
    source, blocks, slowdown = random.Random(7), [], 1.0
    for _ in range(n):
        block = []
        for seconds in (a, b, b, a):
            block.append(seconds * slowdown * (1 + noise * source.uniform(-1, 1)))
            slowdown += drift
        blocks.append(block)
    return blocks


def swapped(blocks: list[list[float]]) -> list[list[float]]:
    """The same measurements with A and B renamed: the block begins with the other one."""
    return [[b1, a1, a2, b2] for a1, b1, b2, a2 in blocks]


def test_the_ratio_is_how_many_times_as_long_the_first_takes():
    ratio = stats.ratio([[2.0, 1.0, 1.0, 2.0]] * 6)
    assert ratio == Estimate(2.0, 2.0, 2.0, 6)


@pytest.mark.parametrize("n", [6, 7, 20])
def test_a_over_b_is_the_inverse_of_b_over_a_interval_and_all(n):
    blocks = noisy_blocks(3.0, 2.0, noise=0.2, n=n)
    there, back = stats.ratio(blocks), stats.ratio(swapped(blocks))
    assert there.low is not None
    assert there.high is not None
    assert there.low < there.value < there.high
    assert back.value == pytest.approx(1 / there.value, rel=1e-12)
    assert back.low == pytest.approx(1 / there.high, rel=1e-12)
    assert back.high == pytest.approx(1 / there.low, rel=1e-12)


def test_a_steady_drift_cancels_within_each_block():
    # 1 % slower with every measurement: after 20 blocks all takes 1.8 times as long
    ratio = stats.ratio(noisy_blocks(1.0, 1.0, drift=0.01, noise=0))
    assert ratio.value == pytest.approx(1, abs=1e-12)
    assert ratio.half_width < 1e-12
    # in the order A B A B the very same drift would pass for a difference: the order is what cancels it
    first_then_second = [a / b for a, b in ((1 + 0.02 * i, 1.01 + 0.02 * i) for i in range(20))]
    assert max(first_then_second) < 0.999


def test_too_few_blocks_give_a_ratio_without_an_interval():
    ratio = stats.ratio(noisy_blocks(3.0, 2.0, n=5))
    assert ratio.low is None
    assert ratio.high is None
    assert ratio.half_width == inf
    assert ratio.value == pytest.approx(1.5, rel=0.02)


def test_the_ratio_of_no_blocks_is_an_error():
    with pytest.raises(ValueError, match="no samples"):
        stats.ratio([])


# --- map -------------------------------------------------------------------------------------------------


def test_a_decreasing_function_swaps_the_ends():
    per_second = Estimate(0.5, 0.25, 1.0, 9).map(lambda seconds: 1 / seconds)
    assert per_second == Estimate(2.0, 1.0, 4.0, 9)


def test_an_increasing_function_keeps_the_ends():
    assert Estimate(0.5, 0.25, 1.0, 9).map(lambda seconds: 1e3 * seconds) == Estimate(500, 250, 1000, 9)


def test_a_missing_interval_stays_missing():
    assert Estimate(0.5, None, None, 3).map(lambda seconds: 1 / seconds) == Estimate(2.0, None, None, 3)


def test_images_per_second_of_a_median_is_the_median_of_images_per_second():
    samples = [0.011, 0.010, 0.012, 0.013, 0.0105, 0.0125, 0.0115]  # an odd number: the middle one exists
    rate = stats.median(samples).map(lambda seconds: 64 / seconds)
    assert rate == stats.median([64 / seconds for seconds in samples])


def test_the_ratio_is_for_an_image_where_the_batches_differ():
    blocks = [[8.0, 1.0, 1.0, 8.0]] * 6  # 8 s for 4 images against 1 s for one
    assert stats.ratio(blocks, (4, 1)).value == pytest.approx(2)


# --- Machines that settle, and two modes --------------------------------------------------------------------


def test_a_drift_is_the_change_from_first_to_last_and_its_error_allows_for_neighbours_alike():
    source = random.Random(3)
    found = [
        stats.drift([1 + 0.01 * n / 99 + 0.001 * source.gauss(0, 1) for n in range(100)]) for _ in range(200)
    ]
    assert all(each and abs(each.change - 0.01) < 5 * each.error for each in found)
    assert stats.drift([1.0] * 5) is None
    alike, state = 0, 0.0
    for _ in range(300):
        samples = []
        for _ in range(100):
            state = 0.8 * state + 0.6 * source.gauss(0, 1)
            samples.append(1 + 0.01 * state)
        drift = stats.drift(samples)
        alike += drift is not None and drift.moves()
    assert alike < 0.06 * 300  # without the allowance a quarter


def test_what_is_to_come_of_a_decay_is_what_the_ratio_of_its_halves_says():
    times = [0.1 * (1 - 0.1 * 0.98**n) * (1 + 1e-5 * (-1) ** n) for n in range(200)]
    found = stats.to_come(times)
    assert found is not None
    assert found.change == pytest.approx(0.1 * 0.98**200, rel=0.6)
    assert found.moves()


VISITS = [[1.0, 1.001, 0.999, 1.002], [1.003, 1.002, 1.004, 1.003], [0.998, 0.999, 1.0, 0.997], [1.001] * 4]


def test_visits_whose_machine_still_moved_give_no_interval_and_say_so():
    moved = stats.over_visits(VISITS, 4, settling=[stats.Drift(0.02, 0.002)] * 4)
    assert moved.low is None
    assert moved.why == "not steady: times still moved by 2.0% when sampling began"


def test_an_interval_reaches_further_to_where_the_machine_may_still_move():
    still = stats.over_visits(VISITS, 4, settling=[None] * 4)
    rising = stats.over_visits(VISITS, 4, settling=[stats.Drift(0.002, 0.002)] * 4)
    assert still.low == rising.low
    assert still.high and rising.high == pytest.approx(still.high * (1 + 0.002 - 0.0005), rel=1e-4)
    unknown = stats.over_visits(VISITS, 4, settling=[stats.Drift(0.5, 0.5)] * 4)
    assert unknown == still


@pytest.mark.parametrize(
    ("levels", "settles"),
    [
        ([1.0, 1.06, 1.08, 1.085], True),
        ([1.085, 1.025, 1.005, 1.0], True),
        ([1.0, 1.03, 1.06, 1.09], True),  # as a machine does whose end is not in sight
        ([1.09, 1.06, 1.03, 1.0], True),
        ([1.0, 1.05, 1.053, 1.058], True),
        ([1.0, 1.005, 1.02, 1.08], False),  # by chance: nothing settles by more and more
        ([1.08, 1.07, 1.04, 1.0], False),
        ([1.0, 1.06, 1.05, 1.085], False),
        ([1.0, 1.0001, 1.00015, 1.0002], False),  # as noise explains
    ],
)
@pytest.mark.parametrize("noise_of_each", [0.0003, 0.002])
def test_visits_settle_in_one_direction_and_by_no_more_from_step_to_step(noise_of_each, levels, settles):
    noise = random.Random(2)
    visits = [[level * (1 + noise_of_each * noise.gauss(0, 1)) for _ in range(5)] for level in levels]
    assert ("not steady: each visit" in stats.unsteady(visits)) == settles
    way = stats.Drift(0.01 if levels[0] > 1 else -0.01, 0.001)  # the other way, when they began
    assert stats.unsteady(visits, way) == ""


def test_levels_that_each_process_has_by_chance_are_seldom_taken_for_settling():
    noise = random.Random(3)

    def run() -> list[list[float]]:
        levels = [1 + 0.1 * noise.random() for _ in range(4)]
        return [[level * (1 + 0.002 * noise.gauss(0, 1)) for _ in range(5)] for level in levels]

    refused = sum(bool(stats.unsteady(run())) for _ in range(2000))
    assert refused / 2000 < 0.05  # 1 / 36 where no step may be larger than the first, and visits with a trend


def test_an_interval_holds_both_values_that_samples_lie_around():
    noise = random.Random(1)
    visits = [[1 + 0.002 * noise.gauss(0, 1) for _ in range(4)] for _ in range(4)]
    visits[2][2:] = [1.031, 1.029]
    estimate = stats.over_visits(visits, 4)
    assert estimate.low is not None and estimate.high is not None
    assert estimate.low < 1.0
    assert estimate.high >= 1.0299


def test_rare_slow_samples_are_no_mode_a_fast_one_is():
    noise = random.Random(1)
    visits = [[1 + 0.002 * noise.gauss(0, 1) for _ in range(4)] for _ in range(4)]
    assert stats.modes_of(visits) is None
    visits[0][1] = visits[2][3] = 1.5
    assert stats.modes_of(visits) is None
    visits[0][1] = visits[2][3] = 1.0
    visits[1][0] = 0.97
    assert stats.modes_of(visits) is not None


# --- Tests over visits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 4, 7, 12])
def test_the_chance_is_that_of_scipys_t_test(n):
    source = random.Random(n)
    logs = [source.gauss(0.004, 0.01) for _ in range(n)]
    visits = [[exp(value)] * 3 for value in logs]
    assert stats.chance(visits) == pytest.approx(ttest_1samp(logs, 0).pvalue, rel=1e-9)


def test_the_chance_of_visits_that_are_all_alike():
    assert stats.chance([[1.0], [1.0]]) == 1
    assert stats.chance([[1.1], [1.1]]) == 0
    with pytest.raises(ValueError, match="fewer than two"):
        stats.chance([[1.0]])


def test_holm_steps_down_and_stops_at_the_first_that_fails():
    # at 5 %: held to 0.0125, 0.0167, 0.025 and 0.05 in turn
    assert stats.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == {"d", "a"}
    assert stats.holm({"a": 0.013, "b": 0.013, "c": 0.013, "d": 0.013}) == set()
    assert stats.holm({"a": 0.0125, "b": 0.0166, "c": 0.025, "d": 0.05}) == {"a", "b", "c", "d"}
    assert stats.holm({}) == set()


def test_a_verdict_takes_another_practical_size():
    ratio = Estimate(1.03, 1.02, 1.04, 6)
    assert stats.verdict(ratio)[0] is stats.Verdict.SLOWER
    assert stats.verdict(ratio, 0.05)[0] is stats.Verdict.SAME
    assert stats.verdict(ratio, 0.035)[0] is stats.Verdict.UNDECIDED
