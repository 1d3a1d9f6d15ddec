"""The study `windows` in the reports: what is computed for COCO's sizes stands beside what was measured."""

import synthetic_rows as synthetic

from bench import sizes, windowcost, windowwork
from reports import measured, plots, study_tables, window_padding, windows


def test_the_table_is_the_mean_over_the_images_and_shows_the_padding():
    table = windows.work_table()
    assert [row[0].text for row in table.rows] == ["1", "2", "3", "4"]
    by_header = {header: [row[i].sort for row in table.rows] for i, header in enumerate(table.headers)}
    # every window spans 256 pixels, so padding is the same share in each stage
    assert len({row[table.headers.index("padded tokens")].text for row in table.rows}) == 1
    for useful, executed in zip(by_header["useful"], by_header["executed"], strict=True):
        assert isinstance(useful, float) and isinstance(executed, float) and useful < executed
    weights = sizes.shapes(sizes.read("coco").sizes)
    first = sum(
        n * windowwork.stage_work(windowcost.TABLE3, shape, "win")[0].executed_macs
        for shape, n in weights.items()
    )
    assert by_header["executed"][0] == first / weights.total() / 1e9


def test_the_figure_says_what_it_computes():
    plot = window_padding.padding()
    assert "are padding, on average" in plot.title
    assert "Computed, not measured" in plot.svg
    assert "5,000 images" in plot.svg


def test_both_are_shown_with_the_study_and_not_without_it(tmp_path):
    for name, there in (("windows", True), ("table9", False)):
        synthetic.write(tmp_path / name, synthetic.study_rows(name), f"{name}.jsonl")
        results = measured.load(tmp_path / name)
        assert ("windows_work" in [table.name for table in study_tables.all_tables(results)]) == there
        assert ("window_padding" in [plot.name for plot in plots.all_plots(results)]) == there


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
    table = study_tables.tables_of(measured.load(tmp_path), "windows")[0]
    rates = {row[1].text: row[table.headers.index("GMAC/s here")].text for row in table.rows}
    assert rates.pop("coco~1") == "–"
    assert "–" not in rates.values()
    (said,) = (note for note in table.notes if "timed on" in note)
    assert "timed on 1 shape in place of 5,000 images, of which 28 % have such a shape" in said
    assert said.endswith("the mean area timed is 1.072 times theirs")
