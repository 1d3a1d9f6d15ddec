"""The chapters in the page's order, and how results are told by them: each once, for every output."""

from __future__ import annotations

from bench.studies import STUDIES
from reports.chapter import Chapter, Told
from reports.chapters import (
    ablations,
    audit,
    branches,
    claims,
    classifiers,
    costmodel,
    counting,
    dense,
    gaps,
    generic,
    kernels,
    profile,
    sweep,
    windows,
)
from reports.results import Results

_PLACES = {name: place for place, name in enumerate(STUDIES)}

# Chapters of studies that are timed, in the order of the studies; then those about analyses, and about all of it.
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
OF_THE_WHOLE: tuple[Chapter, ...] = (
    *claims.CHAPTERS,
    *audit.CHAPTERS,
    *profile.BY_HAND,
    *branches.CHAPTERS,
    *costmodel.CHAPTERS,
    *counting.CHAPTERS,
    *gaps.CHAPTERS,
)
CHAPTERS = (*OF_STUDIES, *OF_THE_WHOLE)


def of_study(results: Results, name: str) -> Chapter:
    """The chapter of a study: its own, or the generic one.

    Raises:
        UsageError: no such study.
    """
    study = results.study(name)
    own = (chapter for chapter in OF_STUDIES if chapter.study == name)
    return next(own, None) or generic.chapter_of(study)


def tell(results: Results) -> list[Told]:
    """The chapters of the studies that were run, in the page's order. Nothing is made before it is asked for."""
    timed = [name for name in results.shown if results.study(name).is_timed]
    told: list[Told] = []
    for chapter in (*(of_study(results, name) for name in timed), *OF_THE_WHOLE):
        if new := chapter.tell(results, tuple(told)):
            told.append(new)
    return told
