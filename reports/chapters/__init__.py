"""The chapters in the page's order, and how results are told by them: each once, for every output."""

from __future__ import annotations

from bench.studies import STUDIES
from reports.chapter import Chapter, Told
from reports.chapters import (
    ablations,
    audit,
    branches,
    by_hand,
    claims,
    classifiers,
    costmodel,
    counting,
    dense,
    devices,
    gaps,
    generic,
    kernels,
    profile,
    sweep,
    windows,
)
from reports.results import Results

_PLACES = {name: place for place, name in enumerate(STUDIES)}

# Chapters of studies that are timed, in the order of the studies.
OF_STUDIES: tuple[Chapter, ...] = tuple(
    sorted(
        (
            *classifiers.CHAPTERS,
            *ablations.CHAPTERS,
            *dense.CHAPTERS,
            *sweep.CHAPTERS,
            *kernels.CHAPTERS,
            *windows.CHAPTERS,
            *profile.CHAPTERS,
        ),
        key=lambda chapter: _PLACES[chapter.study],
    )
)
# Those of the whole run, around the studies' own: what was asked for by hand and the answer stand before the tables.
ASKED = (*by_hand.CHAPTERS, *profile.BY_HAND)
ANSWERS = (*claims.CHAPTERS, *profile.CHAPTERS, *costmodel.CHAPTERS, *devices.CHAPTERS)
BESIDES = (*audit.CHAPTERS, *branches.CHAPTERS, *counting.CHAPTERS, *gaps.CHAPTERS)
CHAPTERS = tuple(dict.fromkeys((*ASKED, *ANSWERS, *OF_STUDIES, *BESIDES)))


def of_study(results: Results, name: str) -> Chapter:
    """The chapter of a study: its own, or the generic one.

    Raises:
        UsageError: no such study.
    """
    study = results.study(name)
    own = (chapter for chapter in OF_STUDIES if chapter.study == name)
    return next(own, None) or generic.chapter_of(study)


def tell(results: Results) -> list[Told]:
    """The chapters of what was run, in the page's order. Nothing is made before it is asked for.

    First what a reader asked for herself, by hand or by a study of her own; then what the whole run answers, then the
    built-in studies' tables.
    """
    studied = [of_study(results, name) for name in results.ran if results.study(name).is_timed]
    of_studies = [told for chapter in studied if (told := chapter.tell(results))]
    whole = [chapter for chapter in (*ASKED, *ANSWERS, *BESIDES) if not chapter.study]
    of_whole = [told for chapter in whole if (told := chapter.tell(results, of_studies))]
    places = {chapter: place for place, chapter in enumerate(CHAPTERS)}

    def place(told: Told) -> tuple[bool, int]:
        is_asked = told.chapter in ASKED or told.chapter.study in results.own_studies
        return not is_asked, places.get(told.chapter, len(places))

    return sorted((*of_studies, *of_whole), key=place)


def by_anchor(results: Results) -> dict[str, Told]:
    """The chapters of what was run, by the id of their section of the page."""
    return {told.chapter.anchor: told for told in tell(results)}
