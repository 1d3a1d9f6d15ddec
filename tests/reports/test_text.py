"""Numbers and lists as people read them."""

import pytest

from bench.stats import Estimate
from reports import text


@pytest.mark.parametrize(
    ("function", "value", "shown"),
    [
        (text.significant, 1156.4, "1156"),
        (text.significant, 99.94, "99.9"),
        (text.significant, 99.95, "100"),
        (text.significant, 9.994, "9.99"),
        (text.significant, 9.995, "10.0"),
        (text.percent, 0.0994, "9.9 %"),
        (text.percent, 0.0995, "10 %"),
        (text.percent, 0.0009, "<0.1 %"),
        (text.share, 0.0994, "9.9 %"),
        (text.share, 0.0995, "10 %"),
        (text.rate, 999e9, "999 GMAC/s"),
        (text.rate, 1e12, "1.00 TMAC/s"),
        (text.interval, Estimate(1.0, 0.98, 1.02, 9), "0.980 to 1.020"),
        (text.interval, Estimate(1.0, None, None, 3), ""),
        (text.with_interval, Estimate(1.0, 0.98, 1.02, 9), "1.000 (0.980 to 1.020)"),
        (text.with_interval, Estimate(1.0, None, None, 3), "1.000"),
        (text.enumerated, ["a"], "a"),
        (text.enumerated, ["a", "b", "c"], "a, b and c"),
        (text.enumerated, [], ""),
    ],
)
def test_as_people_write_it(function, value, shown):
    assert function(value) == shown


def test_empty_texts_are_no_sentences():
    assert text.sentences("One", "", "Two") == "One. Two."


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (4.083, "4.08"),
        (0.1, "0.10"),
        (0.0039, "0.0039"),
        (0.000137, "0.00014"),
        (3.9e-6, "3.9e-06"),
        (0, "0.00"),
    ],
)
def test_a_small_count_is_not_shown_as_none(value, shown):
    assert text.hundredths(value) == shown
