"""Counting: conventions, other counters, and the figure by operator."""

from bench.conventions import CONVENTIONS
from bench.studies import STUDIES
from reports import printed


def test_every_convention_in_which_something_is_printed_is_explained():
    used = {
        row.numbers["macs"].convention
        for name in STUDIES
        for row in printed.rows(name)
        if "macs" in row.numbers
    }
    assert {"core", "paper", "paper-no-attention", "closed-form"} < used
    assert used <= set(CONVENTIONS)
