"""The paper's sentences: enough of them, each with its words, and what their arithmetic gives."""

from collections import Counter

import pytest

from bench.cases import parsed
from bench.studies import STUDIES
from reports import claims
from reports.claims import InTurns
from reports.sentences import CLAIMS, padding
from reports.verdicts import Status

FOUND = {finding.claim.name: finding for finding in claims.find(None, CLAIMS)}


def test_there_are_enough_and_each_has_one_name_the_papers_words_and_what_they_ask():
    assert len(CLAIMS) >= 25
    assert len(FOUND) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.place.split()[0] in ("section", "Table", "appendix")
        assert claim.quote
        assert claim.asks.words


def test_print_alone_decides_at_least_twelve():
    decided = [
        finding for finding in FOUND.values() if finding.verdict.status in (Status.CONFIRMED, Status.REFUTED)
    ]
    assert Counter(finding.claim.by for finding in decided)["printed"] >= 12
    assert all(finding.working for finding in decided)


# By hand, from the paper's tables.
@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("focal-speed", 319 / 755, Status.CONFIRMED),
        ("focal-average", (826 / 319 + 582 / 192 + 415 / 138) / 3, Status.REFUTED),
        ("base-beside-focal", 203.125, Status.CONFIRMED),
        ("large-throughput", 415 / 292, Status.CONFIRMED),
        ("accuracy-at-384", (1.4 + 1.3 + 1.4 + 1.2) / 4, Status.REFUTED),
        ("mhim-cost-by-width", 926 * 826 / (945 * 792), Status.REFUTED),
        ("windows-time", (149.6 + 150.7 + 135.9) / 3 / 79.9, Status.CONFIRMED),
        ("matmul-share", 100 * 36.66 / 229.73, Status.CONFIRMED),
        ("upernet-accuracy", 0.6, Status.REFUTED),
        ("upernet-gain-swin", 100 * (19.2 / 14.7 - 1), Status.CONFIRMED),
        ("upernet-gain-convnext", 100 * (19.2 / 15.3 - 1), Status.CONFIRMED),
        ("flops-are-not-speed", 582 / 429, Status.CONFIRMED),
        ("resolution-density", 141 / 415 * 42.4 / 13.8, Status.CONFIRMED),
    ],
)
def test_the_verdict_of_what_is_printed_follows_from_the_tables(name, value, status):
    finding = FOUND[name]
    assert finding.effect
    assert finding.effect.value == pytest.approx(value, rel=1e-9)
    assert finding.verdict.status is status


def test_padding_is_at_most_63_tokens_a_side_and_56_where_maps_are_of_multiples_of_8():
    """Windows of stage 1 have 64 tokens a side: a map of one token more than a whole number of them gets 63."""
    assert padding(1) == -65 % 64 == 63
    assert padding(8) == -72 % 64 == 56


def test_every_pair_in_turns_is_one_that_a_study_measures():
    asked = {
        tuple(sorted((parsed(first).paper_name, parsed(second).paper_name)))
        for study in STUDIES.values()
        for first, second in study.pairs("cuda", False)
    }
    pairs = [claim.evidence for claim in CLAIMS if isinstance(claim.evidence, InTurns)]
    assert pairs
    for pair in pairs:
        assert tuple(sorted((parsed(pair.first).paper_name, parsed(pair.second).paper_name))) in asked, pair


def test_every_case_is_written_as_the_paper_names_it():
    """So that rows are found by it."""
    for claim in CLAIMS:
        if isinstance(claim.evidence, InTurns):
            for text in (claim.evidence.first, claim.evidence.second):
                assert parsed(text).left_open == parsed(text).without_run
