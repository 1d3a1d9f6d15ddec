"""Arithmetic: values of printed and counted numbers, and how they are written."""

import pytest

from reports.arithmetic import (
    COUNTED,
    Computed,
    Number,
    difference,
    farthest,
    gain,
    least,
    mean,
    most,
    ratio,
    share,
)
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import results_of

FOCAL, SWIN, RESTV2 = (
    Number("Table 1", "throughput", f"{name}@224") for name in ("focal_tiny", "swin_tiny", "restv2_tiny")
)


@pytest.mark.parametrize(
    ("term", "value", "text"),
    [
        (ratio(FOCAL, SWIN), 319 / 755, "319 / 755"),
        (gain(SWIN, FOCAL), 100 * (755 / 319 - 1), "100 × (755 / 319 − 1)"),
        (difference(RESTV2, SWIN), 71, "826 − 755"),
        (share(FOCAL, SWIN, RESTV2), 100 * 319 / (755 + 826), "100 × 319 / (755 + 826)"),
        (share(FOCAL, SWIN), 100 * 319 / 755, "100 × 319 / 755"),
        (mean(FOCAL, SWIN), 537, "the mean of 319, 755"),
        (least(SWIN, FOCAL, RESTV2), 319, "the least of 755, 319, 826"),
        (most(SWIN, FOCAL, RESTV2), 826, "the most of 755, 319, 826"),
        (
            farthest(ratio(SWIN, RESTV2), ratio(FOCAL, SWIN)),
            319 / 755,
            "the farthest from 1 of 755 / 826, 319 / 755",
        ),
        (ratio(ratio(FOCAL, SWIN), ratio(SWIN, RESTV2)), 319 * 826 / 755**2, "(319 / 755) / (755 / 826)"),
        (Computed(lambda: 63, "a closed form"), 63, "a closed form"),
    ],
)
def test_values_and_their_arithmetic(term, value, text):
    known = term.known(None)
    assert known.value == pytest.approx(value)
    assert known.text == text


def test_counts_are_of_a_convention_of_one_of_its_operators_and_of_parameters(tmp_path):
    counted = synthetic.count_row("restv2_tiny@224")
    results = results_of(tmp_path, counted)
    conventions = counted["result"]["conventions"]
    for metric, count, text in (
        ("core", conventions["core"]["macs"] / 1e9, "4.08 G"),
        ("core.matmul", conventions["core"]["by_operator"]["matmul"] / 1e9, "0.11 G"),
        ("parameters", 30.4348, "30.43 M"),
    ):
        known = Number(COUNTED, metric, "restv2_tiny@224").known(results)
        assert known.value == pytest.approx(count)
        assert known.text == text
    assert Number(COUNTED, "core.softmax", "restv2_tiny@224").known(results).value == 0


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (Number("Table 1", "ms", "swin_tiny@224"), "Table 1 prints no ms of swin_tiny@224"),
        (Number("Table 8", "throughput", "swin_tiny@224"), "Table 8 prints no throughput"),
        (Number(COUNTED, "core", "swin_tiny@224"), "swin_tiny@224 is not counted"),
        (Number(COUNTED, "closed-form", "restv2_tiny@224"), "not counted as `closed-form`"),
    ],
)
def test_a_number_that_is_missing_is_named(tmp_path, number, said):
    results = results_of(tmp_path, synthetic.count_row("restv2_tiny@224"))
    with pytest.raises(LookupError, match=said):
        ratio(number, number).known(results)


def test_where_numbers_are_from():
    assert ratio(FOCAL, Number(COUNTED, "core", "swin_tiny@224")).sources == {"Table 1", COUNTED}
    assert Computed(lambda: 1, "").sources == {COUNTED}
