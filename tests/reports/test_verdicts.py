"""Verdicts: one word, one exit status and a reason each."""

import pytest

from bench.stats import Estimate
from reports.verdicts import Status, Verdict, exit_status, of_ratio


@pytest.mark.parametrize(
    ("value", "low", "high", "status"),
    [
        (1.1, 1.01, 1.2, Status.SLOWER),
        (0.9, 0.8, 0.99, Status.FASTER),
        (1.0, 0.995, 1.005, Status.SAME),
        (1.002, 1.001, 1.003, Status.SAME),  # significant, and of no practical size
        (0.997, 0.995, 0.999, Status.SAME),
        (1.008, 1.002, 1.015, Status.UNDECIDED),  # it may be more than 1 %, or less
        (1.0, 0.98, 1.02, Status.UNDECIDED),
        (1.1, 1.0, 1.2, Status.UNDECIDED),  # 1 is in the interval
        (1.1, 0.311, 2.15, Status.UNDECIDED),  # which nobody may call "no difference seen"
        (1.1, None, None, Status.UNDECIDED),
    ],
)
def test_the_verdict_on_a_ratio_needs_significance_and_a_practical_size(value, low, high, status):
    verdict = of_ratio(Estimate(value, low, high, 9, why="" if low else "2 of 5 visits"))
    assert verdict
    assert verdict.status is status
    assert (f"{low:.3f} to {high:.3f}" if low else "2 of 5 visits") in verdict.reason


def test_nothing_is_concluded_from_the_spread_within_one_run():
    verdict = of_ratio(Estimate(1.5, 1.4, 1.6, 9, within_run=True))
    assert verdict
    assert verdict.status is Status.UNDECIDED
    assert "spread within one run" in verdict.reason


def test_without_a_ratio_there_is_no_verdict():
    assert of_ratio(None) is None


def test_words_differ_and_exit_statuses_are_those_of_the_command_line():
    """0 as it should be, 1 fell short, 3 undecided; 2 is wrong usage, and never a verdict."""
    assert len({status.word for status in Status}) == len(Status)
    statuses = {status: Verdict(status).exit_status for status in Status}
    assert {status for status, ending in statuses.items() if ending == 1} == {
        *(Status.NO_MATCH, Status.SLOWER, Status.REFUTED, Status.IMPOSSIBLE)
    }
    assert {status for status, ending in statuses.items() if ending == 3} == {
        *(Status.UNDECIDED, Status.NOT_MEASURED)
    }
    assert set(statuses.values()) == {0, 1, 3}


C, R, U = Status.CONFIRMED, Status.REFUTED, Status.UNDECIDED


@pytest.mark.parametrize(
    ("statuses", "status"),
    [((C, C), 0), ((C, R, U), 1), ((C, U), 3), ((Status.NOT_MEASURED, C), 3), ((R, Status.NOT_MEASURED), 1)],
)
def test_the_exit_status_is_that_of_the_worst_verdict(statuses, status):
    assert exit_status(map(Verdict, statuses)) == status
