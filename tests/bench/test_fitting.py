"""Fits in words and as records; and the committed rates, which a fit of the published tables gives again."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from bench import fitting, speeds
from bench.costmodel import Timed, Work
from bench.machine.provenance import ROOT
from bench.prediction import FILE
from bench.speeds import Campaign
from tests.support.published import FOLDER, needs_folder


def campaign(n: int, families: int) -> Campaign:
    """Rows that take a second for 50e12 MACs, and one for 400e9 bytes; which is 100 TFLOP/s and 400 GB/s."""
    rows = []
    for i in range(n):
        work = Work(1e9 * (1 + i % 7), 1e7 * (1 + i % 5), 1 + i % 3, calls=1)
        rows.append(Timed(f"net{i}", f"{i % families}", work, work.macs / 50e12 + work.bytes / 400e9))
    return Campaign("rtx3090", "fp16", rows=rows)


def test_a_fit_tells_rates_with_units_errors_and_shares_of_the_datasheet():
    made = campaign(40, 5)
    text = "\n".join(fitting.lines(made, fitting.fitted(made)))
    assert "100.0 TFLOP/s, 400.0 GB/s" in text and "MACs alone" in text
    assert "141 % of 71.00 TFLOP/s, 43 % of 936.0 GB/s" in text  # 100 / 71 and 400 / 936
    assert "5 families" in text


@pytest.mark.parametrize(("n", "families"), [(7, 5), (40, 2)])
def test_too_few_rows_or_families_are_told_and_not_fitted(n, families):
    made = campaign(n, families)
    assert fitting.fitted(made) is None
    assert "too few" in "\n".join(fitting.lines(made, None))


def test_rows_that_were_left_out_are_counted_with_their_reason():
    made = campaign(40, 5)
    made.left = [("a", "not in counted.csv"), ("a", "not in counted.csv")]
    assert "40 rows, 2 left out (2 not in counted.csv)" in next(fitting.lines(made, None))


def test_rows_from_which_alone_nothing_can_be_concluded_are_counted_for_people_and_programs():
    made = campaign(40, 5)

    def counted() -> int | None:
        fit = fitting.fitted(made)
        assert fit
        return fitting.record(fit)["uncertain"]

    assert counted() is None  # whose intervals nobody gave
    made.source = "results"
    assert counted() == 0
    made.rows[:3] = [
        replace(made.rows[0], doubts=("of one visit", "launch-bound")),
        *(replace(row, doubts=("of one visit",)) for row in made.rows[1:3]),
    ]
    assert "40 rows (3 of one visit, 1 launch-bound)" in next(fitting.lines(made, None))
    assert counted() == 3


def test_the_committed_rates_of_the_h100_are_those_of_the_committed_rows():
    with FILE.open(newline="", encoding="utf-8") as file:
        (line,) = [line for line in csv.DictReader(file) if line["device"] == "h100"]
    (campaign,) = [each for each in speeds.read(ROOT / "results/reference/h100") if each.way == "eager"]
    fit = fitting.fitted(campaign)
    assert fit
    made = fitting.record(fit)
    assert {name: text for name, text in line.items() if text and name not in ("source", "about")} == {
        name: str(made[name]) for name in line if made.get(name) not in (None, "", campaign.source)
    }


@needs_folder
def test_the_committed_rates_are_those_of_the_published_tables():
    with FILE.open(newline="", encoding="utf-8") as file:
        known = [line for line in csv.DictReader(file) if "benchmark-infer" in line["source"]]
    published = speeds.read(FOLDER / "timm_published.csv.gz")
    assert len(known) == len(published)
    for line, each in zip(known, published, strict=True):
        assert (line["device"], line["way"], line["about"]) == (each.device, each.way, each.about)
        assert int(line["rows"]) == len(each.rows)
    compiled = next(each for each in published if each.is_compiled)
    rates = fitting.costmodel.fit(compiled.rows).rates
    line = next(line for line in known if line["way"] == "compile")
    assert float(line["tflops"]) == pytest.approx(rates["macs"], rel=1e-3)
    assert float(line["gb_per_s"]) == pytest.approx(rates["bytes"], rel=1e-3)
