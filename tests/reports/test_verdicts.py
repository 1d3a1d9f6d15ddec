"""Verdicts: one word, one exit status and a reason each."""

import pytest

from bench.stats import Estimate
from reports.verdicts import Status, Verdict, of_ratio


@pytest.mark.parametrize(
    ("low", "high", "status"),
    [
        (1.01, 1.2, Status.SLOWER),
        (0.8, 0.99, Status.FASTER),
        (0.99, 1.01, Status.NO_DIFFERENCE),
        (1.0, 1.2, Status.NO_DIFFERENCE),  # 1 is in the interval
        (0.8, 1.0, Status.NO_DIFFERENCE),
        (None, None, Status.TOO_FEW),
    ],
)
def test_the_verdict_on_a_ratio_is_the_intervals_alone(low, high, status):
    verdict = of_ratio(Estimate(1.1, low, high, 9))
    assert verdict
    assert verdict.status is status
    assert (f"{low:.3f} to {high:.3f}" if low else "9 blocks") in verdict.reason


def test_without_a_ratio_there_is_no_verdict():
    assert of_ratio(None) is None


def test_words_differ_and_exit_statuses_are_those_of_the_command_line():
    """0 as it should be, 1 fell short, 3 undecided; 2 is wrong usage, and never a verdict."""
    assert len({status.word for status in Status}) == len(Status)
    statuses = {status: Verdict(status).exit_status for status in Status}
    assert {status for status, exit_status in statuses.items() if exit_status == 1} == {
        *(Status.NO_MATCH, Status.SLOWER, Status.FAILS)
    }
    assert {status for status, exit_status in statuses.items() if exit_status == 3} == {
        *(Status.TOO_FEW, Status.UNDECIDED)
    }
    assert set(statuses.values()) == {0, 1, 3}
