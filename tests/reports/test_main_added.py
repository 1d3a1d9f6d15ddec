"""Files that have to be touched to add something: three for a study with its chapter, one for a column.

Each is done here as somebody would do it, in a copy of the project, and read in every output of `python -m reports`.
"""

import csv
import shutil
from pathlib import Path

import pytest

from bench.studies import Study
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import ROOT, run

CASES = ("restv2_tiny@224", "restv2_lite@224")
STUDY = f"""

STUDIES["toy"] = Study("toy", "How fast are two toys?", lambda kind, quick: {CASES!r})
"""
CHAPTER = '''

# ---- a chapter of two toys


def _microseconds(line):
    return 1e6 * line.seconds.value if line.seconds else None


def toys(told):
    """A bar a toy."""
    return for_both("toy_bars", lambda name, width: _toys(told, name, width))


def _toys(told, name, width):
    with new_figure(width, 2, "Toys have bars", "Invented.") as figure:
        axes = figure.subplots()
        axes.barh([line.title for line in told.shown], [_microseconds(line) for line in told.shown])
        return finish(figure, name, "Toys have bars", "Two bars.")


CHAPTERS = (
    *CHAPTERS,
    Chapter(
        study="toy",
        title="Toys, timed",
        heading="Two toys beside each other",
        nav="Toys",
        text="These words are the toys' own.",
        columns=(
            Column("toy_us", "toy µs", _microseconds, NUMBER),
            Column("toy_letters", "letters", lambda line: len(line.title), COUNT),
        ),
        layout=Layout(("model", "paper_throughput", "images_per_s", "toy_us", "toy_letters")),
        csv=(*CSV, "toy_us", "toy_letters"),
        figures=(toys,),
    ),
)
'''
PAPER = """source,row,case,metric,value,unit,convention,note
Table 0,Toy one,restv2_tiny@224,throughput,1234,images/s,,
"""
COLUMN = """

COLUMNS["image_us"] = Column(
    "image_us", "µs an image", lambda line: line.images_per_s and 1e6 / line.images_per_s.value, NUMBER
)
PAPER = Layout((*PAPER.names, "image_us"), (*PAPER.narrow, ("model", "image_us")))
CSV = (*CSV, "image_us")
"""


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of what reports are made of."""
    for folder in ("bench", "kernels", "models", "reports"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def appended(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def reported(project: Path) -> dict[str, str]:
    """The copy's terminal output, and the text files that it writes, by name."""
    done = run(project, PYTHONPATH=str(project))
    assert done.returncode == 0, done.stderr
    files = {path.name: path for path in (project / "results" / "cpu" / "report").iterdir()}
    texts = {name: path.read_text("utf-8") for name, path in files.items() if path.suffix != ".png"}
    return {"terminal": done.stdout, **texts}


def test_a_study_with_words_two_columns_and_a_figure_touches_three_files(project):
    appended(project / "bench" / "studies.py", STUDY)
    sweep = project / "reports" / "chapters" / "sweep.py"
    imported = sweep.read_text("utf-8").replace(
        "from reports.columns import Layout\n",
        "from reports.columns import COUNT, CSV, NUMBER, Column, Layout\n",
    )
    sweep.write_text(imported + CHAPTER, "utf-8")
    (project / "reports" / "paper" / "toy.csv").write_text(PAPER, "utf-8")
    toy = Study("toy", "", lambda kind, quick: CASES)
    synthetic.write(project / "results", synthetic.rows_of(toy), "toy.jsonl")
    out = reported(project)
    for name in ("terminal", "toy.md"):
        for text in ("Toys, timed", "toy µs", "letters", "Toy one", "1234"):
            assert text in out[name], (name, text)
    (first, second) = csv.DictReader(out["toy.csv"].splitlines())
    assert (first["title"], first["toy_letters"]) == ("Toy one", "7")
    assert float(first["toy_us"]) == pytest.approx(1e6 * float(first["seconds"]))
    assert second["paper_images_per_s"] == ""
    page = out["index.html"]
    for text in (
        "Two toys beside each other",
        "These words are the toys&#39; own.",
        ">toy µs</button>",
        ">letters<",
    ):
        assert text in page, text
    assert '<svg id="toy_bars"' in page and '<svg id="toy_bars_narrow"' in page
    assert "Toys have bars" in out["toy_bars.svg"]
    assert '<li><a href="#study-toy">Toys</a></li>' in page


def test_a_column_touches_one_file(project):
    appended(project / "reports" / "columns.py", COLUMN)
    synthetic.write(project / "results", synthetic.study_rows("table9"), "table9.jsonl")
    out = reported(project)
    row = next(csv.DictReader(out["table9.csv"].splitlines()))
    assert float(row["image_us"]) == pytest.approx(1e6 / float(row["images_per_s"]))
    shown = next(line for line in out["table9.md"].splitlines() if line.startswith("| ResTv2-T "))
    assert f"| {float(row['image_us']):.0f} |" in shown
    assert "µs an image" in out["table9.md"]
    assert "µs an" in out["terminal"]  # the header folds to the width of its numbers
    assert f"{float(row['image_us']):.0f}" in out["terminal"].split()
    assert ">µs an image</button>" in out["index.html"]
