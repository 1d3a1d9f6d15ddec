"""The conventions of counting: the README shows the table, and the counter counts by it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.cases import parse
from bench.conventions import BY_CALL, CONVENTIONS
from bench.harness import counter, macs
from bench.studies import STUDIES

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readmes_table_is_the_table():
    rows = re.findall(r"^\| `([^`|]+)` \| (.+) \| (.+) \|$", README.read_text(), re.MULTILINE)
    rows = [row for row in rows if row[0] not in STUDIES]  # another table
    assert rows == [(name, each.counts, each.reproduces) for name, each in CONVENTIONS.items()]


def test_every_studys_convention_is_one():
    assert {study.convention for study in STUDIES.values()} <= CONVENTIONS.keys()


@pytest.fixture(scope="module")
def focal() -> counter.Counts:
    return macs.count(parse("focal_tiny"))


def test_a_row_holds_every_convention_that_the_model_has(focal):
    assert list(focal.as_dict()["conventions"]) == list(CONVENTIONS)
    assert list(macs.count(parse("restv2_lite@32")).as_dict()["conventions"]) == list(BY_CALL)


def test_a_convention_that_is_a_formula_has_a_total_and_no_calls(focal):
    formulas = CONVENTIONS.keys() - set(BY_CALL)
    assert formulas == {"closed-form"}
    for name in formulas:
        assert focal.macs(name) == focal.closed_form == focal.as_dict()["conventions"][name]["macs"]
        assert focal.by_operator(name) == focal.by_module(name) == {}


@pytest.mark.parametrize("text", ["restv2_lite@32", "focal_tiny@96"])
def test_a_model_or_a_size_without_a_formula_is_one_clear_line(text):
    with pytest.raises(ValueError, match=r"^`closed-form` has no formula for this model and size"):
        macs.count(parse(text)).macs("closed-form")
