"""Several devices side by side: what is shown of them, and which conclusions travel."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bench import record
from reports import chapters
from reports.beside import device_of
from reports.chapters import devices
from reports.device_speeds import SIDE_BY_SIDE
from reports.results import Results, load
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import ROOT, column, results_of, run, table_of

TINY, SWIN = "restv2_tiny@224", "swin_tiny@224"


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Results:
    """Table 1 on a CPU, with the same on a GPU beside it."""
    root = tmp_path_factory.mktemp("two")
    results_of(root, synthetic.study_rows(kind="cuda"))
    results_of(root, synthetic.study_rows())
    results = load(root, "cpu")
    results.beside = [device_of(load(root, "h200"))]
    return results


def test_one_device_alone_has_no_such_section(cpu):
    told = chapters.by_anchor(cpu)["devices"]
    assert not (told.tables or told.plots or told.csv or told.context)


def test_speeds_stand_in_columns(two):
    table = table_of(two, "devices_speeds")
    assert table.headers[2:] == ["SYNTHETIC CPU, images/s", "SYNTHETIC H200, images/s"]
    assert len(table.rows) == 24
    speeds = [[float(row[place].sort or 0) for row in table.rows] for place in (2, 3)]
    assert all(one < other for one, other in zip(*speeds, strict=True))


def test_files_of_one_name_are_told_apart(many):
    alike = [replace(device, key="run", name="GPU") for device in many.beside[:2]]
    assert devices.names(alike) == ["GPU (run-1)", "GPU (run-2)"]
    (table,) = devices.costmodel_table([replace(alike[0], fitted=None), alike[1]])
    assert [row[1].text for row in table.rows] == ["–"] * len(table.rows)
    assert table.headers[1:] == ["GPU (run-1)", "GPU (run-2)"]


@pytest.mark.parametrize(
    ("holding", "word"),
    [
        ([True, True], "yes"),
        ([False, False, None], "yes"),
        ([True, False], "no"),
        ([True, None], "open"),
        ([None, None], "open"),
    ],
)
def test_a_conclusion_travels_where_two_devices_can_tell_and_none_contradicts(holding, word):
    assert devices.travels(holding) == word


@pytest.mark.parametrize(("there", "word"), [(1.5, "yes"), (0.5, "no")])
def test_a_sentence_travels_where_both_devices_decide_it_alike(tmp_path, there, word):
    """Is ResTv2-T faster than Swin-T? On the CPU Swin-T takes 1.5 times as long."""
    results_of(tmp_path, synthetic.compare_row(SWIN, TINY, 1.5))
    synthetic.write(tmp_path, [synthetic.compare_row(SWIN, TINY, there, device=synthetic.H200)])
    results = load(tmp_path, "cpu")
    results.beside = [device_of(load(tmp_path, "h200"))]
    table = table_of(results, "devices_claims")
    place = column(table, "claim").index("faster-than-swin-t")
    assert column(table, "travels")[place] == word
    assert column(table, "SYNTHETIC CPU")[place].startswith("confirmed: 1.5")
    assert column(table, "SYNTHETIC H200")[place].startswith("confirmed" if word == "yes" else "refuted")


def test_the_cost_model_stands_in_columns_and_its_conclusion_with_them():
    results = load(ROOT / "results", "reference/h100")
    cpu = device_of(load(ROOT / "results", "reference/cpu"))
    results.beside = [cpu]
    table = table_of(results, "devices_costmodel")
    assert cpu.fitted and table.headers[1:] == ["NVIDIA H100 80GB HBM3", "AMD EPYC"]
    of_h100, of_cpu = ({row[0].text: row[place].text for row in table.rows} for place in (1, 2))
    assert (of_h100["rows"], of_h100["uncertain rows"]) == ("20", "20 of one visit, 4 launch-bound")
    cases = {
        line["case"]
        for line in record.read(ROOT / "results/reference/cpu").rows
        if line["harness"] == "throughput"
    }
    assert of_cpu["rows"] == str(len(cases) - len(cpu.fitted.campaign.left))
    conclusions = table_of(results, "devices_conclusions")
    for place, of in ((1, of_h100), (2, of_cpu)):
        alone, best = (float(of[f"{name}: half within, %"]) for name in ("MACs alone", "best terms"))
        assert conclusions.rows[-1][place].text == (
            f"{'yes' if best < alone else 'no'}: {of['best terms: half within, %']} % off beside "
            f"{of['MACs alone: half within, %']} % ({of['uncertain rows']})"
        )
    assert "cannot tell: no pair in turns" in column(conclusions, "NVIDIA H100 80GB HBM3")


def test_the_figure_says_what_it_shows_and_has_a_form_for_a_phone(two):
    (plot,) = next(told for told in chapters.tell(two) if told.chapter.anchor == "devices").plots
    assert plot.narrow and plot.title.startswith("SYNTHETIC H200 is ")
    assert plot.title.endswith("times as fast as SYNTHETIC CPU, model by model, at another batch or dtype")


def test_devices_stand_beside_each_other_by_themselves_or_as_they_are_named(tmp_path):
    root = tmp_path / "results"
    synthetic.write(root, synthetic.study_rows("table7"))
    synthetic.write(root, synthetic.study_rows("table7", kind="cuda"))
    assert "Speeds by device" in run(tmp_path, "tables", "--gpu", "cpu").stdout
    file = root / "h200" / "run.jsonl"
    named = run(tmp_path, "tables", "cpu", str(file))
    assert named.returncode == 0, named.stderr
    assert "Speeds by device" in named.stdout
    assert "results/cpu/report" in named.stdout
    alone = run(tmp_path, "tables", str(file))
    assert "Speeds by device" not in alone.stdout
    assert (root / "h200" / "run-report" / "table7.csv").exists()
    wrong = run(tmp_path, "tables", "cpu", "h20")
    assert wrong.returncode == 2 and "did you mean 'h200'?" in wrong.stderr
    for names in (("cpu", "results/cpu"), ("h200", str(file))):
        same = run(tmp_path, "tables", *names)
        assert same.returncode == 2 and "hold the same rows: name them once" in same.stderr
    (root / "bare").mkdir()
    assert run(tmp_path, "tables", "cpu", "bare").stderr == "error: no measurements in bare\n"
    assert "not an empty text" in run(tmp_path, "tables", "cpu", "").stderr
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "run.jsonl").write_bytes(file.read_bytes())
    assert "are of one device (GPU-synthetic)" in run(tmp_path, "tables", "h200", "copy").stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(tmp_path, "tables", str(empty)).stderr == f"error: no measurements in {empty}\n"


@pytest.fixture(scope="module")
def many(two) -> Results:
    """Table 1 on a CPU, and beside it on more devices than have a column each."""
    (gpu,) = two.beside
    return replace(two, beside=[replace(gpu, key=f"h200-{n}", name=f"GPU {n}") for n in range(SIDE_BY_SIDE)])


def test_many_devices_have_a_row_each_or_are_counted(many):
    speeds = table_of(many, "devices_speeds")
    assert column(speeds, "Device") == ["SYNTHETIC CPU", *(f"GPU {n}" for n in range(SIDE_BY_SIDE))]
    assert column(speeds, "Models") == ["24"] * (SIDE_BY_SIDE + 1)
    assert column(speeds, "speeds on SYNTHETIC CPU and here")[0] == "–"  # with itself
    of_model = table_of(many, "devices_costmodel")
    assert column(of_model, "Device") == column(speeds, "Device")
    counted = column(table_of(many, "devices_conclusions"), f"on how many of {SIDE_BY_SIDE + 1} devices")
    words = [dict(each.split(": ") for each in text.split(", ")) for text in counted]
    assert all(sum(map(int, times.values())) == SIDE_BY_SIDE + 1 for times in words)
    here, *there = (devices.conclusions([device])[0].word(0) for device in (device_of(many), *many.beside))
    assert words[0] == {key: str(times) for key, times in Counter([here, *there]).items()}


def test_every_speed_is_in_the_file_and_the_figure_is_of_two_devices(many):
    told = next(told for told in chapters.tell(many) if told.chapter.anchor == "devices")
    header, *lines = told.csv["devices.csv"].splitlines()
    keys = ["cpu", *(f"h200-{n}" for n in range(SIDE_BY_SIDE))]
    assert header.split(",")[4:] == [f"{key}_images_per_s" for key in keys]
    # the GPUs' at their batch, and once more beside the CPU at its own
    assert Counter(tuple(line.split(",")[2:4]) for line in lines) == {("64", "fp16"): 24, ("", ""): 24}
    (plot,) = told.plots
    assert "as fast as SYNTHETIC CPU" in plot.title
