"""Counting MACs: what each convention counts, the operators of Table 1's models, and other counters beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.conventions import CONVENTIONS
from reports.chapter import Chapter, Told, no_tables
from reports.columns import SIZE, WORDS, Column, Form
from reports.figures import (
    OPERATOR_LOOKS,
    OTHER_OPERATOR,
    WIDE,
    Plot,
    bar_look,
    finish,
    for_both,
    name_rows,
    new_figure,
    stacked_bars,
)
from reports.lines import ANALYSIS, Line
from reports.measurements import Counts, CrossCheck
from reports.results import Results
from reports.tables import Table, made_of

DRAWN = "table1"  # the study whose models are drawn by operator

# ---- other counters

Check = tuple[Counts, CrossCheck]
GIGA3 = Form(lambda macs: f"{macs / 1e9:.3f}")


def _difference(check: CrossCheck) -> str:
    return "0" if check.macs == check.ours else f"{100 * check.difference:+.2f} %"


CHECKS: tuple[Column[Check], ...] = (
    Column("title", "Model", lambda row: row[0].case.title),
    Column("size", "Size", lambda row: row[0].case, SIZE),
    Column("counter", "counter", lambda row: row[1].counter),
    Column("its_macs", "its GMACs", lambda row: row[1].macs, GIGA3),
    Column("convention", "our convention", lambda row: row[1].compared_with),
    Column("our_macs", "our GMACs", lambda row: row[1].ours, GIGA3),
    Column(
        "difference",
        "difference",
        lambda row: row[1],
        Form(_difference, sort=lambda check: abs(check.difference)),
    ),
    Column("why", "why", lambda row: row[1].why, WORDS),
)


def cross_checks(results: Results) -> Table:
    """Our counts beside those of other counters, with the difference and its reason."""
    newest = {str(counts.case): counts for counts in results.counts if counts.ok}
    rows = [(counts, check) for counts in newest.values() for check in counts.cross_checks]
    agree = sum(check.macs == check.ours for _, check in rows)
    return made_of(
        CHECKS, rows, "counters", "Other counters", f"{agree} of {len(rows)} counts agree to the last MAC."
    )


# ---- the figure: MACs by operator


def macs_by_operator(told: Told) -> Plot | None:
    """Stacked bars of Table 1's models in its order, one panel a size, because 384 pixels need three times the room."""
    lines = [line for before in told.before if before.chapter.study == DRAWN for line in before.shown]
    shown = [line for line in lines if line.macs(ANALYSIS)]
    if not shown:
        return None
    return for_both("macs_by_operator", lambda name, width: _drawn(shown, name, width))


def _drawn(shown: Sequence[Line], name: str, width: float) -> Plot:
    sizes = sorted({line.case.size for line in shown})
    groups = [[line for line in shown if line.case.size == size] for size in sizes]
    title = _title(shown)
    subtitle = f"Nominal MACs in the {ANALYSIS} convention; counted, not measured."
    height = 1.5 + 0.75 * len(groups) + 0.26 * len(shown)
    with new_figure(width, height + (0.3 if width < WIDE else 0), title, subtitle) as figure:
        panels = figure.subplots(
            len(groups), 1, squeeze=False, height_ratios=[len(group) + 0.5 for group in groups]
        )[:, 0]
        for axes, group, size in zip(panels, groups, sizes, strict=True):
            rows = [{name: macs / 1e9 for name, macs in _by_operator(line).items()} for line in group]
            stacked_bars(axes, rows, _looks(group), height=0.72, room=1.1 if width == WIDE else 1.25)
            name_rows(axes, [line.title for line in group])
            axes.set_title(f"One image of {' × '.join(map(str, size))} pixels")
        own_scale = (
            f"{' ' if width == WIDE else chr(10)}(each panel has its own scale)" if len(groups) > 1 else ""
        )
        panels[-1].set_xlabel(f"GMACs per image{own_scale}")
        if width == WIDE:
            panels[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=6, **_legend(shown))
        else:  # beside the panel's title there is no room
            figure.legend(loc="outside lower center", ncols=3, **_legend(shown))
        alt = f"MACs by operator of {len(shown)} models, stacked bars. {title}."
        return finish(figure, name, title, alt)


def _by_operator(line: Line) -> dict[str, int]:
    return line.counted.by_operator(ANALYSIS) if line.counted else {}


def _looks(lines: Sequence[Line]) -> dict[str, tuple[str, str]]:
    """The look of each operator that was counted: known ones in a fixed order, then whatever else was named."""
    named = {name for line in lines for name in _by_operator(line)}
    known = [name for name in OPERATOR_LOOKS if name in named]
    others = sorted(named - set(OPERATOR_LOOKS))
    return {name: OPERATOR_LOOKS.get(name, OTHER_OPERATOR) for name in (*known, *others)}


def _legend(lines: Sequence[Line]) -> dict[str, Any]:
    """The settings of a legend of the operators that have any MACs."""
    from matplotlib.patches import Patch

    used = {
        name: look
        for name, look in _looks(lines).items()
        if any(_by_operator(line).get(name) for line in lines)
    }
    return {
        "handles": [Patch(label=name, **bar_look(*look)) for name, look in used.items()],
        "frameon": False,
        "fontsize": 8.5,
        "handlelength": 2.2,
        "handleheight": 1.1,
    }


def _title(shown: Sequence[Line]) -> str:
    """The figure's title: the two models that lie furthest apart in their share of convolutions."""

    def share(line: Line) -> float:
        return _by_operator(line).get("conv", 0) / (line.macs(ANALYSIS) or 1)

    least, most = min(shown, key=share), max(shown, key=share)
    if least is most:
        return f"Convolutions are {_percent(share(most))} of {most.title}'s MACs"
    high, low = _percent(share(most)), _percent(share(least))
    return f"Convolutions are {high} of {most.title}'s MACs, {low} of {least.title}'s"


def _percent(share: float) -> str:
    """A share in per cent; nearly all is not all, and nearly none is not none."""
    if 0.995 <= share < 1:
        return "over 99 %"
    return "under 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


CHAPTERS = (
    Chapter(
        heading="Counting MACs",
        nav="Counting",
        tables=no_tables,
        context=lambda told: {"conventions": CONVENTIONS, "cross_checks": cross_checks(told.results)},
        figures=(macs_by_operator,),
        template="counting.html",
        own_anchor="counting",
    ),
)
