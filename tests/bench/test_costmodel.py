"""The cost model: known rates found again, families left out, intervals; and published speeds that it has not seen."""

from __future__ import annotations

import random
from math import exp, inf
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from bench import costmodel, speeds
from bench.costmodel import HeldOut, Timed, Work
from tests.support.published import FOLDER, needs_folder
from tests.support.sweeps import swept

REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference" / "cpu"
TFLOPS, GB_PER_S, US_PER_LAUNCH = 100.0, 800.0, 20.0


def invented(n: int, noise: float, us_per_launch: float = 0.0, seed: int = 0) -> list[Timed]:
    """Rows of twelve families whose seconds are made with the rates above, and noise."""
    draw, rows = random.Random(seed), []
    for i in range(n):
        macs, moved, launches = (
            10 ** draw.uniform(8.5, 10.5),
            10 ** draw.uniform(7.5, 9),
            draw.uniform(0.5, 20),
        )
        seconds = 2 * macs / (TFLOPS * 1e12) + moved / (GB_PER_S * 1e9) + launches * us_per_launch * 1e-6
        work = Work(macs, moved, launches)
        rows.append(Timed(f"net{i}", f"family{i % 12}", work, seconds * draw.lognormvariate(0, noise)))
    return rows


def test_rates_are_found_again_in_measurements_made_with_them_and_noise():
    rates = costmodel.fit(invented(300, 0.05)).rates
    assert rates["macs"] == pytest.approx(TFLOPS, rel=0.03)
    assert rates["bytes"] == pytest.approx(GB_PER_S, rel=0.03)


def test_microseconds_a_launch_are_found_too_and_the_term_is_chosen():
    rows = invented(300, 0.02, US_PER_LAUNCH)
    assert "launches" in costmodel.best_terms(rows)
    rates = costmodel.fit(rows, ("macs", "bytes", "launches")).rates
    assert rates["launches"] == pytest.approx(US_PER_LAUNCH, rel=0.03)
    assert rates["macs"] == pytest.approx(TFLOPS, rel=0.05)


@pytest.mark.parametrize("at_once", [1, 100, 5000])
def test_it_does_not_matter_how_many_weights_are_worked_on_together(monkeypatch, at_once):
    rows = invented(120, 0.1)
    whole = [each.predicted for each in costmodel.held_out(rows)]
    monkeypatch.setattr(costmodel, "WEIGHTS_AT_ONCE", at_once)
    assert [each.predicted for each in costmodel.held_out(rows)] == pytest.approx(whole, rel=1e-9)


def test_many_least_squares_at_once_are_those_of_scipy_one_by_one():
    """Three unknowns of which some would be below 0; one problem has a column of 0, and one two that are equal."""
    draw = np.random.default_rng(3)
    columns, aims = draw.normal(size=(60, 8, 3)), draw.normal(size=(60, 8))
    columns[1, :, 2] = 0
    columns[2, :, 1] = columns[2, :, 0]
    gram, aim = columns.transpose(0, 2, 1) @ columns, np.einsum("prt,pr->pt", columns, aims)
    for near in (np.zeros_like(aim), np.ones_like(aim)):
        found = costmodel._non_negative(gram, aim, near)
        assert (found >= 0).all()
        for each, of_problem, to in zip(found, columns, aims, strict=True):
            _, least = scipy.optimize.nnls(of_problem, to)
            assert np.linalg.norm(of_problem @ each - to) == pytest.approx(least, rel=1e-6)


def test_one_row_in_ten_that_is_ten_times_as_slow_moves_no_rate():
    rows = invented(300, 0.02)
    rows[::10] = [Timed(row.name, row.family, row.work, 10 * row.seconds) for row in rows[::10]]
    rates = costmodel.fit(rows).rates
    assert rates["macs"] == pytest.approx(TFLOPS, rel=0.03)
    assert rates["bytes"] == pytest.approx(GB_PER_S, rel=0.03)


def test_a_term_that_would_be_negative_is_none_and_its_rate_has_no_bound():
    # the more bytes the faster: 2 s for 2 MACs and no byte, 1 s for 1 MAC and 1 byte is 1 s a MAC and none a byte
    rows = [Timed("", "", Work(2, 0.5), 2.1), Timed("", "", Work(1, 1), 0.9), Timed("", "", Work(3, 3), 2.6)]
    model = costmodel.fit(rows)
    assert model.rates["bytes"] == inf
    assert model.seconds(Work(1, 1e9)) == model.seconds(Work(1, 0)) > 0


def test_a_family_is_predicted_by_the_others_alone():
    rows = [Timed(f"{n}", family, Work(n, 0), n) for family in "abc" for n in (1, 2, 3)]
    rows += [Timed(f"{n}", "odd", Work(n, 0), 7 * n) for n in (1, 2)]
    held = costmodel.held_out(rows, ("macs",))
    assert [each.row for each in held] == rows
    odd = [each for each in held if each.row.family == "odd"]
    assert [each.predicted for each in odd] == pytest.approx([1, 2], rel=0.01)
    assert [each.ratio for each in odd] == pytest.approx([7, 7], rel=0.01)
    assert odd[0].error == pytest.approx(1 / 7 - 1, rel=0.01)


@pytest.mark.parametrize("families", [1, 2])
def test_too_few_families_leave_nobody_to_be_told_of(families):
    rows = [Timed("", str(n % families), Work(n, n * n), n) for n in range(1, 9)]
    with pytest.raises(ValueError, match="families"):
        costmodel.held_out(rows)


def held(ratios: list[float], families: int = 99) -> list[HeldOut]:
    """Rows of so many families that were measured at so many times what was predicted."""
    rows = [Timed("", str(n % families), Work(1, 1), ratio) for n, ratio in enumerate(ratios)]
    return [HeldOut(row, 1.0) for row in rows]


def test_errors_are_the_median_and_the_ninth_decile():
    # predicted is 1: measured 1 / (1 + e) is an error of e
    errors = costmodel.errors(held([1 / (1 + n / 100) for n in range(1, 11)]))
    assert errors == pytest.approx((5.5, 9))


def test_an_interval_has_a_twentieth_of_the_rows_and_the_one_to_come_on_either_side():
    # of 99 rows and one more, 5 are below the 5th and 5 above the 95th
    assert costmodel.interval(held([float(n) for n in range(1, 100)])) == (5, 95)
    assert costmodel.interval(held([1.0, 2.0, 3.0], families=1)) == (1, 3)


def test_of_few_families_the_interval_is_over_their_means():
    """Logarithms 0, 0.2 | 0.4, 0.6 | 0.8, 1: means of variance 0.16, rows of 0.02, of which half is missing.

    Satterthwaite's degrees of freedom of 0.16 × 4 / 3 with 2, and of 0.01 with 3, are 2.2.
    """
    logs = {"a": (0, 0.2), "b": (0.4, 0.6), "c": (0.8, 1)}
    rows = [HeldOut(Timed("", name, Work(1, 1), exp(each)), 1.0) for name in logs for each in logs[name]]
    half = float(scipy.stats.t.ppf(0.95, 2)) * (0.16 * 4 / 3 + 0.01) ** 0.5
    assert costmodel.interval(rows) == pytest.approx((exp(0.5 - half), exp(0.5 + half)))


def test_from_nineteen_families_on_ranks_reach_nine_in_ten():
    ratios = [1 + n / 100 for n in range(19)]
    assert costmodel.interval(held(ratios)) == (ratios[0], ratios[-1])
    low, high = costmodel.interval(held(ratios[:-1]))
    assert low not in ratios and high not in ratios


@pytest.mark.parametrize(("families", "rows"), [(4, 3), (6, 4), (12, 8), (40, 6)])
def test_a_family_to_come_is_covered_however_few_there_were(families, rows):
    draw, covered = random.Random(0), []
    for _ in range(300):
        held_out = [
            HeldOut(Timed("", f"{family}", Work(1, 1), exp(offset + draw.gauss(0, 0.1))), 1.0)
            for family in range(families + 1)
            for offset in [draw.gauss(0, 0.3)]
            for _ in range(rows)
        ]
        ends = costmodel.interval(held_out[:-rows])
        covered += [ends.holds(each.ratio) for each in held_out[-rows:]]
    assert sum(covered) / len(covered) == pytest.approx(0.9, abs=0.04)


def test_nine_in_ten_rows_of_families_that_were_left_out_lie_in_their_intervals():
    shares = [costmodel.coverage(costmodel.held_out(invented(240, 0.1, seed=seed))) for seed in range(5)]
    assert sum(shares) / len(shares) == pytest.approx(0.9, abs=0.02)


def test_on_our_own_cpu_rows_half_of_the_error_of_macs_alone_is_left():
    (campaign,) = speeds.read(REFERENCE)
    assert len(campaign.rows) >= 24
    alone = costmodel.errors(costmodel.held_out(campaign.rows, costmodel.MACS_ALONE))
    best = costmodel.errors(costmodel.held_out(campaign.rows, costmodel.best_terms(campaign.rows)))
    assert best.median <= alone.median / 2
    assert best.ninth < alone.ninth


@needs_folder
@pytest.mark.parametrize(
    ("device", "way", "median", "ninth"),
    swept(
        [("rtx3090", "eager", 8, 25), ("rtx4090", "eager", 8, 32), ("rtx4090", "compile", 10, 33)],
        lambda each: each[1] == "compile",
    ),
)
def test_families_that_it_has_not_seen_on_published_gpus(device, way, median, ninth):
    """timm's tables for torch 2.4, NCHW, AMP; the bytes of a compiled model are those of its fused graph."""
    campaigns = speeds.read(FOLDER / "timm_published.csv.gz")
    (campaign,) = (
        each
        for each in campaigns
        if (each.device, each.way, each.about) == (device, way, "amp nchw torch 2.4")
    )
    assert len(campaign.rows) > 1400
    held_out = costmodel.held_out(campaign.rows, costmodel.best_terms(campaign.rows))
    errors = costmodel.errors(held_out)
    assert errors.median <= median and errors.ninth <= ninth
    assert 0.85 <= costmodel.coverage(held_out) <= 0.95
    alone = costmodel.errors(costmodel.held_out(campaign.rows, costmodel.MACS_ALONE))
    assert alone.median > 4 * errors.median and alone.ninth > 2.5 * errors.ninth
