"""A report is built once: lines, files and cases are not worked out again for each output."""

import sys
from collections import Counter
from contextlib import contextmanager, nullcontext

import pytest

from bench import cases, images
from bench.studies import STUDIES
from reports import __main__ as command
from reports import chapters, figures, lines, printed
from reports.chapters import costmodel, windows
from tests.support.sweeps import sweep


@pytest.fixture
def calls(monkeypatch):
    """How often lines are made, by study; files of the paper and COCO's sizes are read; and texts are parsed."""
    costmodel.printed_fit()  # reads Table 1 as a campaign of speeds, once for all reports
    counted: Counter[tuple[str, str]] = Counter()

    def count(owner, name, key):
        original = getattr(owner, name)

        def counting(*arguments, **named):
            counted[key(*arguments)] += 1
            return original(*arguments, **named)

        # wherever it was imported to
        for module in list(sys.modules.values()):
            if getattr(module, name, None) is original:
                monkeypatch.setattr(module, name, counting)
        monkeypatch.setattr(owner, name, counting)

    count(lines, "lines_of", lambda results, study, *_: ("lines", study.name))
    count(lines, "pairs_of", lambda results, study, *_: ("pairs", study.name))
    count(cases, "parse", lambda text: ("case", text))
    count(images, "read", lambda source: ("sizes", source))
    original = printed.csv.DictReader

    def reader(file, *arguments, **named):
        counted["file", file.name] += 1
        return original(file, *arguments, **named)

    monkeypatch.setattr(printed.csv, "DictReader", reader)
    for cached in (cases.parsed, printed._read, windows.coco_shapes):
        cached.cache_clear()
    return counted


@sweep
def test_everything_is_worked_out_once(everything, calls, monkeypatch):
    """`python -m reports` over all studies, with figures drawn in this process, where their calls are counted."""
    monkeypatch.setattr(command, "RESULTS", everything.folder.parent)
    monkeypatch.setattr(command, "drawing", lambda told: nullcontext())
    command.report("everything", command.results_of((), everything.key))
    of_kind = {kind: {name: times for (of, name), times in calls.items() if of == kind} for kind, _ in calls}
    assert set(of_kind) == {"lines", "pairs", "case", "sizes", "file"}
    assert set(of_kind["lines"]) == {name for name, study in STUDIES.items() if study.is_timed}
    for kind in ("lines", "pairs", "sizes", "file"):
        assert {name: times for name, times in of_kind[kind].items() if times > 1} == {}
    assert len(of_kind["file"]) >= 7  # the paper's tables, and COCO's sizes
    assert len(of_kind["case"]) > 400
    assert {text: times for text, times in of_kind["case"].items() if times > 2} == {}


def test_what_figures_share_with_the_tables_is_made_before_processes_fork(everything, monkeypatch):
    """What a process made after it was forked, its parent would make again."""
    told = chapters.tell(everything)

    @contextmanager
    def forked(jobs):
        assert all({"lines", "shown", "pairs", "context"} <= vars(chapter).keys() for chapter in told)
        yield iter([None] * len(jobs))

    monkeypatch.setattr(figures, "drawing", forked)
    with command.drawing(told):
        pass
