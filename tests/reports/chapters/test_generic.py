"""The chapter of a study that has none of its own: a user's from a file beside the rows, or a new built-in one."""

import re

import pytest

from bench.errors import UsageError
from bench.studies import STUDIES, Study, load
from reports import chapters, frame
from reports.columns import CSV
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import (
    column,
    csv_of,
    lines_of,
    not_measured,
    page_and_plots,
    page_of,
    results_of,
    table_of,
)

MINE = """
name = "mine"
question = "How much faster is a smaller image?"
cases = ["restv2_tiny@224", "restv2_tiny@384", "swin_tiny@224"]
pairs = [["swin_tiny@224", "restv2_tiny@224"]]
"""


def ran(root, text=MINE, name="mine.toml", kind="cpu"):
    """The results of a user's study, whose definition its run kept beside the rows."""
    folder = root / ("cpu" if kind == "cpu" else "h200")
    folder.mkdir(parents=True)
    (folder / name).write_text(text, encoding="utf-8")
    study = load(folder / name)
    return results_of(root, **{study.name: synthetic.rows_of(study, kind)})


def test_a_study_without_words_of_its_own_is_shown_all_the_same(tmp_path, monkeypatch):
    mine = Study("mine", "How fast is ResTv2-Lite?", lambda kind, quick: ("restv2_lite@224",))
    monkeypatch.setitem(STUDIES, "mine", mine)
    results = results_of(tmp_path, *synthetic.study_rows("mine"))
    html = page_of(results)
    assert "Study mine" in html
    assert "How fast is ResTv2-Lite?" in html
    with pytest.raises(UsageError, match="unknown study 'nobodys'"):
        chapters.of_study(results, "nobodys")


def test_a_users_study_has_its_tables_its_files_its_figure_and_its_section(tmp_path):
    results = ran(tmp_path)
    assert results.problems == []
    assert results.ran == ["mine"]
    table = table_of(results, "mine")
    assert column(table, "Model") == ["ResTv2-T", "ResTv2-T", "Swin-T"]
    assert [row["case"] for row in csv_of(results, "mine.csv")] == [
        f"{text}:b1:fp32:eager" for text in ("restv2_tiny@224", "restv2_tiny@384", "swin_tiny@224")
    ]
    assert column(table_of(results, "mine_pairs"), "second") == ["ResTv2-T"]
    assert csv_of(results, "mine_pairs.csv")[0]["first"].startswith("swin_tiny@224")
    html, plots = page_and_plots(results)
    assert [plot.name for plot in plots] == ["mine_against_macs"]
    assert "Throughput against MACs of 3 cases" in plots[0].alt
    assert "<h2>How much faster is a smaller image?</h2>" in html
    assert '<li><a href="#study-mine">mine</a></li>' in html
    assert not_measured(results).rows == []


WAYS = """
name = "ways"
question = "Which way to run a model is fastest?"
cases = ["restv2_tiny:b1:fp32:eager", "restv2_tiny:b1:fp32:sdpa", "restv2_tiny:b1:bf16:sdpa", "swin_tiny:b1:fp32:sdpa"]
pairs = [
    ["restv2_tiny:b1:fp32:sdpa", "restv2_tiny:b1:fp32:eager"],
    ["restv2_tiny:b1:bf16:sdpa", "restv2_tiny:b1:fp32:sdpa"],
]
"""


def test_ways_to_run_one_model_are_told_apart_in_the_table_the_pairs_and_the_figure(tmp_path):
    results = ran(tmp_path, WAYS, "ways.toml")
    table = table_of(results, "ways")
    assert column(table, "implementation") == ["eager", "sdpa", "sdpa", "sdpa"]
    pairs = table_of(results, "ways_pairs")
    assert column(pairs, "first") == ["ResTv2-T, sdpa", "ResTv2-T, bf16"]
    assert column(pairs, "second") == ["ResTv2-T, eager", "ResTv2-T, fp32"]
    svg = page_and_plots(results)[1][0].svg
    named = re.findall(r">((?:ResTv2|Swin)-T[^<]*)</text>", svg)
    assert sorted(named) == [
        *("ResTv2-T, eager, fp32", "ResTv2-T, sdpa, bf16", "ResTv2-T, sdpa, fp32", "Swin-T"),
    ]


def test_one_way_to_run_them_all_needs_no_column_and_no_longer_names(tmp_path):
    """Nor do two sizes of a model: one is filled, the other hollow."""
    results = ran(tmp_path)
    assert "implementation" not in table_of(results, "mine").headers
    svg = page_and_plots(results)[1][0].svg
    assert sorted(re.findall(r">((?:ResTv2|Swin)-T[^<]*)</text>", svg)) == ["ResTv2-T", "ResTv2-T", "Swin-T"]


def test_a_study_of_latency_is_told_in_milliseconds(tmp_path):
    results = ran(tmp_path, MINE + 'harness = "latency"\n', kind="cuda")
    table = table_of(results, "mine")
    assert {"ms here", "± 95 %"} < {*table.headers}
    assert "images/s here" not in table.headers
    rows = csv_of(results, "mine.csv")
    assert {"ms", "ms_low", "ms_high"} < {*rows[0]}
    assert not any(name.startswith("images_per_s") for name in rows[0])
    assert list(frame.frame(results, "mine").columns) == list(rows[0])
    for line, shown, row in zip(lines_of(results, "mine"), column(table, "ms here"), rows, strict=True):
        assert line.timing and line.timing.row["harness"] == "latency"
        assert line.seconds and line.seconds.low
        assert float(shown) == pytest.approx(1e3 * line.seconds.value, rel=0.01)
        assert float(row["ms"]) == 1e3 * line.seconds.value
        assert float(row["ms_low"]) == 1e3 * line.seconds.low
    assert column(table_of(results, "mine_pairs"), "verdict") == ["slower"]
    html, plots = page_and_plots(results)
    assert "Time against MACs" in plots[0].title
    assert re.search(r"<text[^>]*>ms</text>", plots[0].svg)
    section = html.partition('id="study-mine"')[2].partition('id="branches"')[0].partition('id="counting"')[0]
    assert "ms here" in section and "images/s here" not in section


def test_throughput_and_latency_of_the_same_cases_are_kept_apart(tmp_path):
    results = ran(tmp_path, MINE + 'harness = "latency"\n')
    assert [row["case"] for row in csv_of(results, "mine.csv")]
    assert set(CSV) > {"images_per_s"}
    assert all(line.timing is None for line in lines_of(results, "table9"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "mine.toml"),
        ('name = "mine"', "mine.toml"),
        (MINE.replace("restv2_tiny@384", "restv3_tiny"), "restv3_tiny"),
        (MINE.replace('"mine"', '"table1"'), "table1"),
        (MINE.replace("[[", "[").replace("]]", "]"), "mine.toml"),
    ],
    ids=["not TOML", "half a study", "no such model", "a name of the project's", "pairs that are none"],
)
def test_a_damaged_definition_is_a_problem_and_not_an_error(tmp_path, text, said):
    synthetic.write(tmp_path, synthetic.study_rows("table9"), "table9.jsonl")
    (tmp_path / "cpu" / "mine.toml").write_text(text)
    results = results_of(tmp_path)
    (problem,) = results.problems
    assert said in problem and problem.endswith(", passed over") and "\n" not in problem
    assert results.ran == ["table9"]
    assert table_of(results, "table9")


def test_pairs_of_cases_that_are_not_timed_are_compared_too(tmp_path):
    text = MINE.replace('pairs = [["swin_tiny@224"', 'pairs = [["convnext_tiny@224"')
    results = ran(tmp_path, text)
    assert column(table_of(results, "mine_pairs"), "first") == ["ConvNeXt-T"]


def test_one_case_makes_no_figure(tmp_path):
    text = MINE.replace('"restv2_tiny@384", "swin_tiny@224"]', "]").replace(
        '"swin_tiny@224", "restv2', '"restv2'
    )
    text = text.partition("pairs")[0]
    _, plots = page_and_plots(ran(tmp_path, text))
    assert plots == []
