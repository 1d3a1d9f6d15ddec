"""The history of the regression suite, from rows and baselines that are made up: nothing here was measured."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import baseline, record
from bench.baseline import Acceptance, Figures
from bench.errors import Failure, UsageError
from bench.machine.devices import Device, as_dict
from bench.taking import Environment, Reading
from reports import __main__ as command
from reports import history

GPU = Device("cuda", 0, "SYNTHETIC H200", "GPU-1", 140.0)
CASE, OTHER = "restv2_lite@32:b1:fp32:eager", "restv2_tiny@224:b1:fp32:eager"
ONE, TWO = "1" * 40, "2" * 40


def row(number: int, result: dict, *, harness: str, when: str, study: str = "rows", case: str = CASE) -> dict:
    """A row of the gate: visit `number` of a group that its moment names."""
    return {
        **{"schema": record.SCHEMA, "key": f"{when}{case}{number}", "group": when + case, "visit": number},
        **{"harness": harness, "study": study, "case": case, "outcome": "ok", "when": when},
        **{"device": as_dict(GPU), "result": result},
    }


def turns(new_s: float, old_s: float, new: str = TWO, old: str = ONE) -> dict:
    return {"blocks": [[new_s, old_s, old_s, new_s]] * 3, "revisions": [new, old]}


def alone(seconds: float) -> dict:
    return {"rounds": [[seconds, 1.0, 1.0]] * 3, "revisions": [TWO]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of a GPU: two commits in turns, one of them alone, an A/A night, and an acceptance."""
    rows = [
        *(row(n, turns(0.021, 0.020), harness="turns", when="2026-01-02T00:00:00+00:00") for n in range(4)),
        *(
            row(n, turns(0.9, 0.9, ONE, ONE), harness="turns", when="2026-01-03T00:00:00+00:00")
            for n in range(4)
        ),
        *(
            row(n, {**turns(0.9, 0.9), "revisions": None}, harness="turns", when="2026-01-03T01:00:00+00:00")
            for n in range(4)
        ),
        *(
            row(n, alone(s), harness="calibrated", when="2026-01-04T00:00:00+00:00")
            for n, s in enumerate((0.03, 0.04))
        ),
        row(0, alone(0.9), harness="calibrated", when="2026-01-05T00:00:00+00:00", study="accepted"),
        row(0, alone(0.5), harness="calibrated", when="2026-01-06T00:00:00+00:00", case=OTHER),
    ]
    file = tmp_path / "results" / "h200" / "regress" / "rows.jsonl"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"".join(map(record.line_of, rows)))
    figures = {CASE: Figures([Reading(0.019, 1.0, 1.0), Reading(0.021, 1.0, 1.0)], {})}
    environment = Environment(["GPU-1", None], {}, {})
    accepted = Acceptance("2026-01-01T00:00:00+00:00", ONE, "the first", environment, "a CPU", figures)
    baseline.accept(accepted, replace(GPU, name="NVIDIA H200"), tmp_path / "baselines")
    return tmp_path


def told(folder: Path, case: str | None = None) -> list[history.Entry]:
    return history.entries("h200", folder / "results" / "h200", folder / "baselines", case)


def test_figures_stand_in_order_with_their_commit_and_source_and_neither_aa_nor_what_was_to_be_accepted(
    folder,
):
    found = [(entry.commit, entry.source, entry.seconds.n) for entry in told(folder, "restv2_lite@32")]
    assert found == [
        (ONE, "accepted", 2),
        (TWO, "in turns", 4),
        (ONE, "in turns", 4),
        (TWO, "alone", 2),
    ]
    seconds = [entry.seconds for entry in told(folder, CASE)]
    # geometric means: √(19·21), and √(30·40)
    assert [each.value for each in seconds] == pytest.approx([0.0199750, 0.021, 0.020, 0.0346410], rel=1e-5)
    # two restarts: t(95 %, 1) = 12.7062 times half the distance of the logarithms
    assert seconds[-1].high == pytest.approx(0.0346410 * (40 / 30) ** (12.7062 / 2), rel=1e-4)
    assert told(folder)[-1].case == OTHER
    assert told(folder)[-1].seconds.low is None  # of one restart


def test_an_unknown_case_and_no_history_are_one_clear_line(folder):
    with pytest.raises(UsageError, match="unknown case 'swin_tiny'"):
        told(folder, "swin_tiny")
    with pytest.raises(Failure, match="no history of a100"):
        history.entries("a100", folder / "results" / "a100", folder / "baselines")


@pytest.mark.parametrize("lacks", ["group", "when", "device", "study", "result"])
def test_a_row_that_other_hands_wrote_without_what_an_entry_needs_stops_nothing(folder, lacks):
    before = told(folder)
    partial = row(0, alone(0.7), harness="calibrated", when="2026-01-07T00:00:00+00:00", case=OTHER)
    del partial[lacks]
    file = folder / "results" / "h200" / "regress" / "hers.jsonl"
    file.write_text(json.dumps(partial) + "\n")
    assert told(folder) == before


@pytest.mark.parametrize(
    "result",
    [
        *({**alone(0.7), "revisions": revisions} for revisions in (3, [None], [TWO, ONE], {"a": 1})),
        *({**alone(0.7), "rounds": rounds} for rounds in ([0.1, 0.2], {"a": 0.1}, [[0.1], []], "0.1")),
    ],
)
def test_a_row_of_other_types_stops_nothing(folder, result):
    before = told(folder)
    damaged = row(0, result, harness="calibrated", when="2026-01-07T00:00:00+00:00", case=OTHER)
    file = folder / "results" / "h200" / "regress" / "hers.jsonl"
    file.write_text(json.dumps(damaged) + "\n")
    assert told(folder) == before


def test_what_a_terminal_would_obey_is_written_out(folder):
    damaged = row(
        0, alone(0.7), harness="calibrated", when="2026-01-07T00:00:00+00:00", case="\x1b[2J \ud800"
    )
    file = folder / "results" / "h200" / "regress" / "hers.jsonl"
    file.write_text(json.dumps(damaged) + "\n")
    assert [entry.case for entry in told(folder) if "2J" in entry.case] == ["\\x1b[2J \\ud800"]


def test_a_case_that_has_another_name_by_now_stands_beside_the_others(folder):
    old = row(0, alone(0.7), harness="calibrated", when="2026-01-07T00:00:00+00:00", case="old_name@32")
    (folder / "results" / "h200" / "regress" / "old.jsonl").write_bytes(record.line_of(old))
    assert told(folder)[-1].case == "old_name@32"
    assert {entry.case for entry in told(folder, "restv2_lite@32")} == {CASE}


def test_other_tools_read_it(folder):
    files = history.files(told(folder))
    lines = list(csv.DictReader(io.StringIO(files["history.csv"])))
    assert [line["source"] for line in lines].count("in turns") == 2
    assert lines[0]["reason"] == "the first"
    assert float(lines[0]["seconds"]) == pytest.approx(0.0199750, rel=1e-5)
    wide = list(csv.DictReader(io.StringIO(files["history_wide.csv"])))
    assert [line["commit"] for line in wide] == [TWO, ONE]
    assert float(wide[0][CASE]) == pytest.approx(0.0346410, rel=1e-5)  # the newest of that commit
    assert wide[1][OTHER] == ""
    metrics = json.loads(files["history_bencher.json"])
    assert metrics[OTHER] == {"latency": {"value": 0.5e9}}
    assert (
        metrics[CASE]["latency"]["lower_value"]
        < metrics[CASE]["latency"]["value"]
        == pytest.approx(34_641_016)
    )


def test_the_figure_has_a_panel_a_case_and_says_it_in_words(folder):
    plot = history.draw(told(folder))
    assert CASE in plot.svg
    assert OTHER in plot.svg
    assert f"{CASE}: 34.6 ms alone at 2222222" in plot.alt
    assert "accepted" in plot.svg


def test_figures_of_several_devices_say_so(folder):
    """Rows of a pool of GPUs lie under one key: what looks like a step may be another card."""
    found = told(folder)
    assert history.UUID.header not in history.table(found).headers
    mixed = [*found, replace(found[-1], uuid="GPU-2", when="2026-02-01T00:00:00+00:00")]
    table = history.table(mixed)
    assert {row[-1].text for row in table.rows} >= {"GPU-1", "GPU-2"}
    assert "Figures are of 2 devices" in table.caption
    assert "2 devices" in history.draw(mixed).svg
    lines = list(csv.DictReader(io.StringIO(history.to_csv(mixed))))
    assert lines[-1]["uuid"] == "GPU-2"


def test_the_command_prints_a_table_and_writes_the_rest(folder, monkeypatch, capsys):
    monkeypatch.setattr(command, "RESULTS", folder / "results")
    monkeypatch.setattr(baseline, "FOLDER", folder / "baselines")
    assert command.dispatch("history", (CASE,), None, None) == 0
    said = capsys.readouterr().out
    assert "the first" in said
    assert OTHER not in said
    written = {path.name for path in (folder / "results" / "h200" / "report").iterdir()}
    names = ("md", "csv", "svg", "png")
    assert written == {
        *(f"history.{name}" for name in names),
        *("history_wide.csv", "history_bencher.json"),
    }
    with pytest.raises(UsageError, match="history a CASE"):
        command.dispatch("history", (CASE,), None, folder)


def test_without_anything_it_says_how_to_get_some(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(baseline, "FOLDER", tmp_path / "baselines")
    with pytest.raises(Failure, match=r"no history.*`make regress` measures"):
        command.dispatch("history", (), None, None)


def test_a_damaged_baseline_is_one_clear_line(folder):
    file = folder / "baselines" / "h200.json"
    file.write_text(file.read_text()[:-9])
    with pytest.raises(UsageError, match=r"h200\.json is not JSON"):
        told(folder)
