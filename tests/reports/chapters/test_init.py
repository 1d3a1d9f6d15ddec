"""The chapters together: every study has one, none knows another, and nothing but a chapter knows a study."""

import ast
from pathlib import Path

import pytest

from bench.jobs import HARNESSES
from bench.studies import STUDIES
from reports import chapters
from tests.support.reporting import ROOT, results_of
from tests.support.synthetic_rows import study_rows

REPORTS = ROOT / "reports"
SHARED = sorted(REPORTS.glob("*.py"))
CHAPTERS = sorted((REPORTS / "chapters").glob("*.py"))


def literals(path: Path) -> list[str]:
    """The texts in a file that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


def names_of_studies(path: Path) -> list[str]:
    """Texts in a file that are the name of a study and of no harness, or of one of its tables or figures."""
    return [
        text
        for text in literals(path)
        for name in STUDIES
        if (text == name and name not in HARNESSES) or (text.startswith(f"{name}_") and " " not in text)
    ]


def test_every_study_has_one_chapter():
    told = [chapter.study for chapter in chapters.CHAPTERS if chapter.study]
    told += [name for chapter in chapters.CHAPTERS for name in chapter.analyses]
    assert sorted(told) == sorted(STUDIES)


def test_the_chapters_of_studies_stand_in_the_studies_order():
    names = [chapter.study for chapter in chapters.OF_STUDIES]
    assert names == [name for name, study in STUDIES.items() if study.is_timed]
    after_the_answer = [chapter.study for chapter in chapters.CHAPTERS if chapter.study]
    assert after_the_answer == ["profile", *(name for name in names if name != "profile")]


def test_anchors_are_unique_and_a_chapter_draws_nothing_twice():
    anchors = [chapter.anchor for chapter in chapters.CHAPTERS]
    assert len(set(anchors)) == len(anchors)
    for chapter in chapters.CHAPTERS:  # a figure that chapters share is named after the study
        assert len(set(chapter.figures)) == len(chapter.figures)


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.name)
def test_no_study_is_known_outside_of_the_chapters(path):
    assert names_of_studies(path) == []


def test_a_name_that_is_known_would_be_found(tmp_path):
    path = tmp_path / "file.py"
    path.write_text(
        '"""The study sweep."""\n\ndef show():\n    """table1."""\n    return ["sweep", f"{1}table3_pairs"]\n'
    )
    assert names_of_studies(path) == ["sweep", "table3_pairs"]


def test_only_what_was_run_is_told_and_what_is_about_all_of_it(tmp_path):
    results = results_of(tmp_path, table9=study_rows("table9"))
    anchors = [told.chapter.anchor for told in chapters.tell(results)]
    assert anchors == [
        "by-hand",
        "profile-by-hand",
        "sentences",
        "cost-model",
        "devices",
        "study-table9",
        "printed-speeds",
        "branches",
        "counting",
        "gaps",
    ]
