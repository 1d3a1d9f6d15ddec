"""Rows with one wrong field each: none stops a report, and what cannot be read is named and counted."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from bench import visits
from reports import __main__ as command
from reports import chapters, page
from reports.results import Results, load
from tests.support import synthetic_rows as synthetic
from tests.support.analyses import cka, fourier
from tests.support.profiled import line, profile_row
from tests.support.sweeps import sweep

WRONG: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 10**400, float("nan"), float("inf"), [], {}, [None], {"a": []}, [[1], "x"]),
    *("", "text", "12", "\ud800", "$\\frac{$", "\x1b]0;x\x07", "=cmd|' /C calc'!A0", "<b>", "2026-13-45"),
)

ALONE = int(os.environ.get("DAMAGES", "60"))  # a report for each


def good_rows() -> list[dict[str, Any]]:
    """A row of each kind that a results folder can hold."""
    rows = synthetic.study_rows("table7")
    rows += synthetic.study_rows("table3")[:1]
    rows += [row for row in synthetic.study_rows("table3") if row["harness"] in ("throughput", "compare")][:1]
    visited = [visit for row in rows for visit in synthetic.visits_of(row)]
    profile = profile_row("restv2_lite@224:b1:fp32:eager", {"conv": 2.0, "copy": 1.0}, {"conv": 9})
    profile["result"]["lines"]["module"] = [line("stem", 3.0, 3.0).record()]
    return [*visited, fourier(study="figure3"), cka(study="figure4"), *synthetic.visits_of(profile)]


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a row; of a list the first place stands for all."""
    items = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    for name, inner in items:
        yield (*path, name)
        yield from paths(inner, (*path, name))


def damaged(row: dict[str, Any], path: tuple[Any, ...], wrong: Any) -> dict[str, Any]:
    """The row with one wrong value in it, or without it."""
    changed = copy.deepcopy(row)
    holder = changed
    for name in path[:-1]:
        holder = holder[name]
    if wrong == "absent":
        del holder[path[-1]]
    else:
        holder[path[-1]] = wrong
    return changed


def damages(first: int, step: int = 1) -> list[dict[str, Any]]:
    """So many rows, each good but for one place, in an order that is the same each time."""
    good = good_rows()
    all_damages = [(row, path, wrong) for row in good for path in paths(row) for wrong in (*WRONG, "absent")]
    random.Random(0).shuffle(all_damages)
    return [damaged(*damage) for damage in all_damages[: first * step : step]]


def written(results: Results) -> dict[str, bytes]:
    """Everything that a report writes but its figures, which no row of these changes in kind."""
    told = chapters.tell(results)
    tables = [table for chapter in told for table in chapter.tables]
    for chapter in told:
        chapter.plots = []
    for table in tables:
        command.console(80).print(command.to_terminal(table))
    return {
        **command.table_files(told, tables),
        "index.html": page.render(results, told).encode(),
    }


def test_four_thousand_rows_with_one_wrong_field_each_stop_no_report(tmp_path, capsys):
    good, wrong = good_rows(), damages(4000)
    for number, row in enumerate(wrong):
        if isinstance(row.get("key"), str):
            row["key"] = f"{number}"
    folder = synthetic.write(tmp_path, good)
    with (folder / "a.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in wrong)
    results = load(tmp_path)
    files = written(results)
    assert {visits.group_of(row) for row in good} <= {visits.group_of(row) for row in results.rows}
    assert len(results.problems) > 400
    assert all(problem.isprintable() for problem in results.problems)
    assert "\x1b" not in capsys.readouterr().out
    assert b"ResTv2-Lite" in files["table7.md"]
    assert b"\x1b" not in b"".join(files.values())
    assert folder.name == "cpu"


@pytest.mark.parametrize(
    ("first", "step"),
    [
        (ALONE // 10, 250),
        pytest.param(ALONE // 2, 50, marks=sweep),
        pytest.param(ALONE, 25, marks=pytest.mark.trials),
    ],
)
def test_a_damaged_row_in_place_of_a_good_one_stops_no_report(tmp_path, first, step):
    """Each alone, so that it is the one that every table asks for."""
    good = good_rows()
    for number, row in enumerate(damages(first, step)):
        folder = tmp_path / str(number)
        mine = [row.get("harness"), row.get("case")]
        path = synthetic.write(folder, [other for other in good if [other["harness"], other["case"]] != mine])
        with (path / "z.jsonl").open("w") as file:
            file.write(json.dumps(row) + "\n")
        try:
            written(load(folder))
        except Exception as error:
            raise AssertionError(f"{row}") from error
