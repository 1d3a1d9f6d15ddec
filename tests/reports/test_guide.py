"""FLOPs as a guide to time: pairs in turns whose times have the ratio of their MACs, or surely another one."""

import pytest

from reports import chapters, page
from reports.guide import Guide
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import cards_of, page_of, results_of

TINY, SWIN, LARGE = "restv2_tiny@224", "swin_tiny@224", "restv2_large@224"
GMACS = {
    text: synthetic.count_row(text)["result"]["conventions"]["core"]["macs"] for text in (TINY, SWIN, LARGE)
}


def guide(tmp_path, *rows) -> Guide:
    return Guide(results_of(tmp_path, [synthetic.count_row(text) for text in GMACS], *rows))


def test_a_pair_in_the_ratio_of_its_macs_is_not_off(tmp_path):
    of_large = GMACS[LARGE] / GMACS[TINY]
    found = guide(tmp_path, synthetic.compare_row(LARGE, TINY, of_large))
    (pair,) = found.pairs
    assert pair.macs_ratio == pytest.approx(of_large)
    assert (found.off, pair.is_inverted) == ([], False)
    assert found.sentence().startswith("Of 1 pair of models ")
    assert "none has surely another ratio of times than of MACs" in found.sentence()


def test_the_larger_model_stands_first_whichever_was_measured_first(tmp_path):
    """ResTv2-T beside Swin-T, which has more MACs, and here half of its time."""
    found = guide(tmp_path, synthetic.compare_row(TINY, SWIN, 2.0))
    (pair,) = found.off
    assert (pair.larger.model, pair.is_inverted) == ("swin_tiny", True)
    assert pair.time.value == pytest.approx(0.5, rel=0.02)
    assert (
        f"Swin-T has {GMACS[SWIN] / GMACS[TINY]:.2f} × the MACs of ResTv2-T and takes 0.50 × its time"
        in found.sentence()
    )
    assert "in 1 the one with more MACs is the faster" in found.sentence()


def test_the_furthest_off_is_told_and_the_numbers_are_counted(tmp_path):
    rows = [
        synthetic.compare_row(LARGE, TINY, GMACS[LARGE] / GMACS[TINY]),
        synthetic.compare_row(TINY, SWIN, 2.0),
    ]
    rows.append(synthetic.compare_row(LARGE, SWIN, 8.0))
    found = guide(tmp_path, *rows)
    assert [pair.larger.model for pair in found.off] == ["restv2_large", "swin_tiny"]
    assert "the times of 2 of 3 pairs of models" in found.sentence()
    (card,) = [card for card in cards_of(found.results) if "in turns" in card.text]
    assert card.value == "2 of 3"


def test_one_visit_one_model_run_two_ways_and_what_is_not_counted_say_nothing(tmp_path):
    quick = synthetic.compare_row(TINY, SWIN, 2.0)
    quick["protocol"] = {"name": "quick", "visits": 1}
    quick["result"]["blocks"] = quick["result"]["blocks"][:3]
    ways = synthetic.compare_row(f"{TINY}:sdpa", TINY, 0.5)
    uncounted = synthetic.compare_row("restv2_small@224", TINY, 9.0)
    found = guide(tmp_path, ways, uncounted)
    assert found.pairs == []
    assert found.sentence().startswith("No two models were measured in turns on SYNTHETIC CPU")
    assert not any("in turns" in card.text for card in cards_of(found.results))


def test_the_answer_has_three_sentences_whatever_was_measured(tmp_path, cpu, everything):
    for results in (cpu, everything, results_of(tmp_path, synthetic.count_row(TINY))):
        assert len(page.answer(results, chapters.tell(results))) == 3
    html = page_of(results_of(tmp_path), drawn=False)
    for said in (
        "No two models were measured in turns",
        "Nothing was profiled here",
        "Too few models were measured here",
    ):
        assert said in html
    assert f"<h1>{page.QUESTION}</h1>" in html
