"""The study of windows: what is computed for COCO's sizes stands beside what was measured."""

import io

import pytest
from rich.console import Console

from bench import images
from bench.cases import parse
from models import cost
from models.variants import TABLE3
from reports import frame
from reports.chapters import windows
from reports.results import load
from reports.tables import to_markdown, to_terminal
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import (
    all_tables,
    page_of,
    plots_of,
    tables_of,
    told_of,
)


def test_the_table_is_the_mean_over_the_images_and_shows_the_padding():
    table = windows.work_table()
    assert [row[0].text for row in table.rows] == ["1", "2", "3", "4"]
    by_header = {header: [row[i].sort for row in table.rows] for i, header in enumerate(table.headers)}
    # every window spans 256 pixels, so padding is the same share in each stage
    assert len({row[table.headers.index("padded tokens")].text for row in table.rows}) == 1
    for useful, executed in zip(by_header["useful"], by_header["executed"], strict=True):
        assert isinstance(useful, float) and isinstance(executed, float) and useful < executed
    weights = images.shapes(images.read("coco"))
    first = sum(n * cost.stage_work(TABLE3, shape, "win")[0].executed_macs for shape, n in weights.items())
    assert by_header["executed"][0] == first / weights.total() / 1e9


def test_the_figure_says_what_it_computes(cpu):
    plot = windows.padding(told_of(cpu, "windows"))
    assert "are padding, on average" in plot.title
    assert "Computed, not measured" in plot.svg
    assert "5,000 images" in plot.svg


def test_both_are_shown_with_the_study_and_not_without_it(tmp_path):
    for name, there in (("windows", True), ("table9", False)):
        synthetic.write(tmp_path / name, synthetic.study_rows(name), f"{name}.jsonl")
        results = load(tmp_path / name)
        names = [table.name for table in all_tables(results)]
        assert ("windows_work" in names) == ("windows_attention" in names) == there
        assert ("window_padding" in [plot.name for plot in plots_of(results)]) == there


def test_a_mix_says_how_it_was_timed_and_has_no_rate(tmp_path):
    """Its count is of all images, and its time of some shapes: the two do not divide."""
    rows = synthetic.study_rows("windows")
    for row in rows:
        if row["harness"] == "throughput" and "@coco" in row["case"]:
            row["result"]["mix"] = {
                "shapes": [[800, 1216]],
                "images": 5000,
                "area_ratio": 1.072,
                "share": 0.28,
            }
    synthetic.write(tmp_path, rows, "windows.jsonl")
    table = tables_of(load(tmp_path), "windows")[0]
    rates = {row[1].text: row[table.headers.index("GMAC/s here")].text for row in table.rows}
    assert rates.pop("coco~1") == "–"
    assert "–" not in rates.values()
    (said,) = (note for note in table.notes if "timed on" in note)
    assert "timed on 1 shape in place of 5,000 images, of which 28 % have such a shape" in said
    assert said.endswith("the mean area timed is 1.072 times theirs")


def attention_rows():
    """The rows of a whole run, with round times: 0.4 s globally, 0.1 s in windows, a fifth of it copies."""
    rows = synthetic.study_rows("windows")
    for row in rows:
        if row["harness"] == "throughput" and (attention := parse(row["case"]).attention):
            seconds = {"global": 0.4, "win": 0.1}[attention.style]
            seconds *= {"all": 1, "copies": 0.2, "inside": 0.85}[attention.part]
            row["result"]["samples_s"] = [seconds] * 9
    return rows


def picked(rows, harness, case):
    (row,) = (row for row in rows if row["harness"] == harness and row["case"].startswith(case))
    return row


def windows_of(folder, rows):
    synthetic.write(folder, rows, "windows.jsonl")
    results = load(folder)
    return results, {table.name: table for table in tables_of(results, "windows")}


def cells(table, size, stage):
    """The cells of a row, by header."""
    (row,) = (row for row in table.rows if [cell.text for cell in row[:2]] == [size, str(stage)])
    return dict(zip(table.headers, row, strict=True))


def test_a_block_has_its_times_beside_what_it_multiplies(tmp_path):
    rows = attention_rows()
    turns = picked(rows, "compare", "attention_tiny[stage=2,style=win]@800x1344")
    turns["result"]["blocks"] = [[0.25, 1.0, 1.0, 0.25]] * 12
    _, tables = windows_of(tmp_path, rows)
    table = tables["windows_attention"]
    assert [(row[0].text, row[1].text) for row in table.rows] == [
        (size, str(stage)) for size in ("800x1344", "768x1280") for stage in range(1, 5)
    ]
    for shape in ((800, 1344), (768, 1280)):
        whole, cut = (cost.stage_work(TABLE3, shape, style) for style in ("global", "win"))
        for stage in range(1, 5):
            block = cells(table, f"{shape[0]}x{shape[1]}", stage)
            times = [block[f"{name}, ms"].text for name in ("global", "win", "copies", "inside")]
            assert times == ["400", "100", "20.0" if shape == (800, 1344) else "–", "85.0"]
            work = cut[stage - 1]
            assert block["GMACs global"].sort == pytest.approx(whole[stage - 1].executed_macs / 1e9)
            assert block["useful in win"].sort == pytest.approx(work.useful_macs / 1e9)
            assert block["executed in win"].sort == pytest.approx(work.executed_macs / 1e9)
            assert block["padded tokens"].sort == cost.padded_share(shape)
            assert block["GMAC/s global"].sort == pytest.approx(whole[stage - 1].executed_macs / 0.4e9)
            assert block["win, executed"].sort == pytest.approx(work.executed_macs / 0.1e9)
            assert block["win, useful"].sort == pytest.approx(work.useful_macs / 0.1e9)
            assert (block["win, useful"].sort == block["win, executed"].sort) == (shape == (768, 1280))
            assert block["MiB copied"].sort == pytest.approx(work.copied_bytes(4) / 2**20)  # fp32 on a CPU
            assert block["launches to copy"].sort == work.launches == (5 if shape == (800, 1344) else 2)
            if shape == (800, 1344):
                assert block["copies, GB/s"].sort == pytest.approx(work.copied_bytes(4) / 0.02e9)
    assert cells(table, "800x1344", 2)["win / global"].text == "0.250 (0.250 to 0.250)"


def test_a_batch_that_was_halved_still_gives_the_time_of_an_image(tmp_path):
    rows = attention_rows()
    picked(rows, "throughput", "attention_tiny[stage=1]@800x1344")["result"]["batch"] = 4
    _, tables = windows_of(tmp_path, rows)
    block = cells(tables["windows_attention"], "800x1344", 1)
    (whole, *_) = cost.stage_work(TABLE3, (800, 1344), "global")
    assert block["global, ms"].text == "100"
    assert block["GMAC/s global"].sort == pytest.approx(whole.executed_macs / 0.1e9)


def test_microseconds_are_not_rounded_away(tmp_path):
    rows = attention_rows()
    copies = picked(rows, "throughput", "attention_tiny[part=copies,stage=4,style=win]@800x1344")
    copies["result"]["samples_s"] = [12e-6] * 9
    _, tables = windows_of(tmp_path, rows)
    assert cells(tables["windows_attention"], "800x1344", 4)["copies, ms"].text == "0.012"


def test_what_failed_says_so_and_what_was_not_tried_is_a_dash(tmp_path):
    rows = attention_rows()
    failure = {"outcome": "failed", "reason": "killed", "result": None}
    picked(rows, "throughput", "attention_tiny[stage=1]@800x1344").update(failure)
    picked(rows, "compare", "attention_tiny[stage=1,style=win]@800x1344").update(failure)
    for harness in ("throughput", "compare"):
        rows.remove(picked(rows, harness, "attention_tiny[stage=2,style=win]@800x1344"))
    _, tables = windows_of(tmp_path, rows)
    table = tables["windows_attention"]
    failed, missing = (cells(table, "800x1344", stage) for stage in (1, 2))
    assert (failed["global, ms"].text, failed["win / global"].text) == ("failed", "failed")
    assert (failed["GMAC/s global"].text, failed["win, ms"].text) == ("–", "100")
    assert "Attention of ResTv2-T [stage=1] at 800x1344: failed: killed" in table.notes
    for header in ("win, ms", "win, executed", "win, useful", "win / global"):
        assert missing[header].text == "–"
    assert missing["executed in win"].text != "–"  # it is computed


def test_of_a_run_without_blocks_there_is_no_table_of_them(tmp_path):
    rows = [row for row in attention_rows() if "attention" not in row["case"]]
    _, tables = windows_of(tmp_path, rows)
    assert list(tables) == ["windows", "windows_work", "windows_pairs"]


def test_the_backbones_tables_have_no_blocks_and_the_csv_has_all(tmp_path):
    results, tables = windows_of(tmp_path, attention_rows())
    assert list(tables) == ["windows", "windows_work", "windows_attention", "windows_pairs"]
    for name in ("windows", "windows_pairs"):
        assert "stage=" not in to_markdown(tables[name])
    assert len(tables["windows"].rows) == 4 + 2 * 3
    assert len(tables["windows_pairs"].rows) == 3 + 3
    data, pairs = frame.frame(results, "windows"), frame.pairs_frame(results, "windows")
    assert data["case"].str.startswith("attention_tiny").sum() == 4 * (4 + 3)
    assert pairs["first"].str.startswith("attention_tiny").sum() == 4 * 2
    copies = data[data["case"].str.contains("part=copies")]
    assert set(copies["core_macs"]) == {0}


def test_every_form_shows_the_blocks(tmp_path):
    results, tables = windows_of(tmp_path, attention_rows())
    table = tables["windows_attention"]
    markdown = to_markdown(table)
    assert markdown.count("| 800x1344 |") == 4
    out = io.StringIO()
    Console(file=out, width=80).print(to_terminal(table))
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert out.getvalue().count("800x1344") == 3 * 4  # the times, the rates, the copies
    html = page_of(results, drawn=False)
    assert 'id="windows_attention"' in html
    assert "computed" in table.caption


def test_many_with_one_note_are_counted_and_few_are_named(tmp_path):
    rows = attention_rows()
    blocks = [
        row for row in rows if row["harness"] == "throughput" and row["case"].startswith("attention_tiny")
    ]
    for row in blocks[:4]:
        row["notes"] = ["too warm"]
    blocks[0]["notes"] = ["too warm", "too cold"]
    for row in rows:
        if row["harness"] == "compare" and row["case"].startswith("attention_tiny"):
            row["notes"] = ["too slow"]
    _, tables = windows_of(tmp_path, rows)
    notes = tables["windows_attention"].notes
    assert f"4 of {len(blocks)} cases: too warm" in notes
    assert "8 of 8 comparisons: too slow" in notes
    assert "Attention of ResTv2-T [stage=1] at 800x1344: too cold" in notes
