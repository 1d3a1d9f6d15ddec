"""The chapter of a study that has none of its own."""

import pytest

from bench.errors import UsageError
from bench.studies import STUDIES, Study
from reports import chapters
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import page_of, results_of


def test_a_study_without_words_of_its_own_is_shown_all_the_same(tmp_path, monkeypatch):
    mine = Study("mine", "How fast is ResTv2-Lite?", lambda kind, quick: ("restv2_lite@224",))
    monkeypatch.setitem(STUDIES, "mine", mine)
    results = results_of(tmp_path, *synthetic.study_rows("mine"))
    html = page_of(results)
    assert "Study mine" in html
    assert "How fast is ResTv2-Lite?" in html
    with pytest.raises(UsageError, match="unknown study 'nobodys'"):
        chapters.of_study(results, "nobodys")
