"""Studies, and a user's own: what a TOML file may say, and the one line that a bad one gets."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import record, studies
from bench.__main__ import main
from bench.cases import Case, parse
from bench.errors import Failure, UsageError
from bench.jobs import HARNESSES, jobs_of
from bench.machine.devices import cpu_device
from bench.protocols import PROTOCOLS
from bench.study import MAX_CASES, Study, always, keep
from tests.support.sweeps import sweep

RULES = PROTOCOLS["quick"]["cpu"]

WHOLE = """
name = "mine"
question = "How does speed grow with resolution?"
harness = "latency"
convention = "paper"
cases = ["restv2_tiny@{size}:b{batch}", "swin_tiny@224:b{batch}", "restv2_lite"]
pairs = [["restv2_tiny@{size}:b1", "restv2_tiny[mhim]@{size}:b1"]]
counted = ["restv2_large@{size}"]
[lists]
size = [224, "800x1344"]
batch = [1, 8]
"""
LEAST = {"name": '"mine"', "question": '"?"', "cases": '["restv2_lite"]'}


def written(folder: Path, text: str | None = None, **values: str) -> Path:
    """A file with `text`, or with what every study has and `values`."""
    path = folder / "study.toml"
    lines = (f"{key} = {value}" for key, value in {**LEAST, **values}.items() if value)
    path.write_text("\n".join(lines) if text is None else text)
    return path


def load(folder: Path, text: str | None = None, **values: str) -> Study:
    return studies.load(written(folder, text, **values))


# --- what a file says -------------------------------------------------------------------------------------


def test_lists_are_crossed_into_the_texts_that_name_them(tmp_path):
    study = load(tmp_path, WHOLE)
    assert (study.name, study.question) == ("mine", "How does speed grow with resolution?")
    assert (study.harness, study.convention, study.is_timed) == ("latency", "paper", True)
    cases = (
        *("restv2_tiny@224:b1", "restv2_tiny@224:b8", "restv2_tiny@800x1344:b1", "restv2_tiny@800x1344:b8"),
        *("swin_tiny@224:b1", "swin_tiny@224:b8", "restv2_lite"),
    )
    for kind in ("cpu", "cuda"):
        for quick in (True, False):
            assert study.cases(kind, quick) == cases
            assert study.parsed(kind, quick) == tuple(map(parse, cases))
            assert study.pairs(kind, quick) == (
                ("restv2_tiny@224:b1", "restv2_tiny[mhim]@224:b1"),
                ("restv2_tiny@800x1344:b1", "restv2_tiny[mhim]@800x1344:b1"),
            )
    besides = (parse("restv2_large@224"), parse("restv2_large@800x1344"))
    assert study.to_count("cpu", False) == (*study.parsed("cpu", False), *besides)


def test_without_more_said_it_is_a_study_of_throughput_counted_as_core(tmp_path):
    study = load(tmp_path)
    assert (study.harness, study.convention) == ("throughput", "core")
    assert study.pairs("cpu", False) == study.counted("cpu", False) == ()


def test_cases_that_come_again_are_dropped(tmp_path):
    study = load(
        tmp_path, cases='["restv2_lite", "restv2_lite@224", "swin_tiny@{s}"]\nlists = {s = [224, "224"]}'
    )
    assert study.cases("cpu", False) == ("restv2_lite", "swin_tiny@224")


def test_a_study_may_be_of_pairs_alone(tmp_path):
    study = load(tmp_path, cases="", pairs='[["restv2_lite", "swin_tiny"]]')
    assert study.cases("cpu", False) == study.to_count("cpu", False) == ()
    jobs = jobs_of(study, cpu_device(), RULES, quick=True)
    assert [job.harness for job in jobs] == ["peaks", "compare"]


def test_jobs_are_those_of_a_built_in_study(tmp_path):
    jobs = jobs_of(load(tmp_path, WHOLE), cpu_device(), RULES, quick=True)
    assert [job.harness for job in jobs] == ["peaks", *["macs"] * 9, *["latency"] * 7, *["compare"] * 2]
    assert {job.study for job in jobs[1:]} == {"mine"}


def test_an_analysis_can_be_a_study_too(tmp_path):
    study = load(tmp_path, harness='"cka"')
    (job,) = jobs_of(study, cpu_device(), RULES, quick=False)
    assert (job.harness, job.text) == ("cka", "restv2_lite@224:b16:fp32:eager")


# --- bad files --------------------------------------------------------------------------------------------

BAD = {
    "not TOML: ": {"name": "mine"},
    "key 'name' is missing": {"name": ""},
    "key 'question' is missing": {"question": ""},
    "key 'cases' is missing": {"cases": ""},
    "unknown key 'case' in FILE; did you mean 'cases'?": {"case": '["restv2_lite"]'},
    "unknown key 'gpu' in FILE; there are: name, question, cases": {"gpu": "3"},
    "key 'name': expected text, found 3": {"name": "3"},
    "key 'question': expected text, found ' '": {"question": '" "'},
    "key 'cases': expected a list of cases as text, found 'restv2_lite'": {"cases": '"restv2_lite"'},
    "key 'cases': expected a list of cases as text, found 1 in it": {"cases": '["restv2_lite", 1]'},
    "key 'cases': expected a list of cases as text, found an empty one": {"cases": "[]"},
    "key 'pairs': expected a list of pairs of cases, each a list of two texts, found ['a'] in it": {
        "pairs": '[["a"]]'
    },
    "key 'pairs': expected a list of pairs of cases, each a list of two texts, found 'ab' in it": {
        "pairs": '["ab"]'
    },
    "key 'lists': expected a table of lists, found 3": {"lists": "3"},
    "key 'lists': expected 'size' to be a list of texts or whole numbers, found 224": {
        "lists": "{size = 224}"
    },
    "key 'lists': expected 'size' to be a list of texts or whole numbers, found []": {"lists": "{size = []}"},
    "key 'lists': expected texts or whole numbers in 'size', found 1.5": {"lists": "{size = [1.5]}"},
    "key 'lists': expected texts or whole numbers in 'size', found True": {"lists": "{size = [true]}"},
    "key 'lists': nothing uses the list 'size': no text has {size}": {"lists": "{size = [224]}"},
    "key 'cases': unknown list 'size' for {size} in 'a@{size}'; there is no table [lists]": {
        "cases": '["a@{size}"]'
    },
    "key 'cases': unknown list 'sizes' for {sizes} in 'a@{sizes}:b{size}'; did you mean 'size'?": {
        "cases": '["a@{sizes}:b{size}"]',
        "lists": "{size = [224]}",
    },
    "key 'cases': unknown model 'restv2_tinny' in 'restv2_tinny'; also timm:restv2_tinny and module:Class": {
        "cases": '["restv2_tinny"]'
    },
    "key 'cases': size 3 in 'restv2_lite@3': restv2_lite takes 32 to 16384 pixels a side": {
        "cases": '["restv2_lite@{size}"]',
        "lists": "{size = [224, 3]}",
    },
    "key 'cases': images=FOLDER is for `branches` to look at": {"cases": '["restv2_lite[images=x]"]'},
    "key 'cases': branches are looked at in eager or sdpa": {
        "harness": '"cka"',
        "cases": '["restv2_lite:compile"]',
    },
    "key 'counted': unknown model 'x' in 'x'": {"counted": '["x"]'},
    "key 'pairs': a comparison is of iterations back to back": {
        "pairs": '[["restv2_lite[cold]", "restv2_lite"]]'
    },
    "key 'pairs': a study of cka times nothing": {
        "harness": '"cka"',
        "pairs": '[["restv2_lite", "restv2_tiny"]]',
    },
    "key 'counted': a study of cka times nothing": {"harness": '"cka"', "counted": '["restv2_lite"]'},
    "key 'harness': unknown harness 'latancy'; did you mean 'latency'?": {"harness": '"latancy"'},
    "key 'harness': unknown harness 'macs'; ": {"harness": '"macs"'},
    "key 'convention': unknown convention 'papper'; did you mean 'paper'?": {"convention": '"papper"'},
    "key 'name': 'table1' is a built-in study's": {"name": '"table1"'},
    "key 'name': 'measure' is the name under which": {"name": '"measure"'},
    "key 'name': '../mine' is no name for a file": {"name": '"../mine"'},
    "key 'name': 'Mine' is no name for a file": {"name": '"Mine"'},
    f"key 'name': '{59 * 'a'}…' is no name for a file": {"name": f'"{300 * "a"}"'},
    "key 'pairs': 'restv2_lite' and 'restv2_lite@224' are one case": {
        "pairs": '[["restv2_lite", "restv2_lite@224"]]'
    },
    "key 'cases': 1,000,000 of them; a study has 10,000 at most": {
        "cases": '["restv2_lite@{a}{b}"]',
        "lists": f"{{a = {list(range(1000))}, b = {list(range(1000))}}}",
    },
}


@pytest.mark.parametrize("said", BAD)
def test_a_bad_file_is_one_line_with_file_and_key(tmp_path, said):
    path = written(tmp_path, **BAD[said])
    with pytest.raises(UsageError) as caught:
        studies.load(path)
    line = str(caught.value)
    assert "\n" not in line
    expected = said.replace("FILE", str(path)) if "FILE" in said else f"{path}: {said}"
    assert line.startswith(expected)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"name = [", b"name = 'a'\nname = 'b'", b"a = " + b"[" * 5000, b"a = " + b"9" * 5000],
    ids=["not UTF-8", "torn", "twice", "deep", "long"],
)
def test_what_is_not_toml_says_so(tmp_path, content):
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"^{re.escape(str(path))}: not TOML: [^\n]+$"):
        studies.load(path)


def test_a_mark_at_the_start_is_no_part_of_a_file(tmp_path):
    path = written(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert studies.load(path).name == "mine"


def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "mine.toml"
    os.mkfifo(path)
    with pytest.raises(UsageError, match="is a pipe or a device"):
        studies.load(path)


def test_a_file_that_is_not_there_or_is_a_folder_is_one_line(tmp_path):
    for path, reason in ((tmp_path / "absent.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=f"^{re.escape(str(path))}: cannot be read: {reason}"):
            studies.load(path)


def test_a_name_that_ends_in_toml_is_a_file_and_any_other_a_built_in_study(tmp_path):
    assert studies.find(str(written(tmp_path))).name == "mine"
    assert studies.find("table1") is studies.STUDIES["table1"]
    with pytest.raises(UsageError, match="unknown study 'mine'"):
        studies.find("mine")


def test_as_many_cases_as_allowed_are_read(tmp_path):
    sizes = list(range(1000, 1000 + MAX_CASES // 10))
    study = load(tmp_path, cases='["nets:Net@{s}:b{b}"]', lists=f"{{s = {sizes}, b = {list(range(1, 11))}}}")
    assert len(study.cases("cpu", False)) == MAX_CASES


# --- kept beside the rows ---------------------------------------------------------------------------------


def test_the_definition_beside_the_rows_can_be_read_back_and_follows_the_file(tmp_path):
    folder = tmp_path / "results" / "cpu"
    study = load(tmp_path, WHOLE)
    keep(study, folder)
    again = studies.load(folder / "mine.toml")
    assert again.cases("cpu", False) == study.cases("cpu", False)
    assert again.pairs("cpu", False) == study.pairs("cpu", False)
    before = (folder / "mine.toml").stat().st_mtime_ns
    keep(again, folder)
    assert (folder / "mine.toml").stat().st_mtime_ns == before, "the same is not written again"
    keep(load(tmp_path), folder)
    assert studies.load(folder / "mine.toml").cases("cpu", False) == ("restv2_lite",)
    assert [path.name for path in folder.iterdir()] == ["mine.toml"]


def test_a_built_in_study_leaves_no_definition(tmp_path):
    keep(studies.STUDIES["table1"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(Failure, match=r"^cannot write .*mine\.toml: "):
        keep(load(tmp_path), tmp_path / "results" / "cpu")


# --- parsing ----------------------------------------------------------------------------------------------


def test_each_text_is_parsed_once_however_often_it_is_asked_for(monkeypatch):
    from bench import study as module

    texts = ("restv2_lite@{}:b1", "restv2_lite@{}:b2")
    cases = tuple(text.format(size) for text in texts for size in range(501, 511))
    parsed: list[str] = []

    def noted(text: str) -> Case:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(module, "parse", noted)
    pairs = tuple(zip(cases[:10], cases[10:], strict=True))
    study = Study("s", "?", always(*cases), pairs=lambda kind, quick: pairs, counted=always(*cases))
    for _ in range(3):
        for kind in ("cpu", "cuda"):
            assert len(study.parsed(kind, False)) == len(study.to_count(kind, False)) == 20
            assert len(study.compared(kind, False)) == 10
    assert sorted(parsed) == sorted(cases)


def test_every_built_in_study_names_a_harness_that_studies_can_have():
    assert all(HARNESSES[study.harness].in_studies for study in studies.STUDIES.values())


# --- the whole way ----------------------------------------------------------------------------------------

NETS = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
"""

OWN = """
name = "own"
question = "How long does an image take?"
harness = "latency"
cases = ["own_nets:Net@{size}:b1"]
pairs = [["own_nets:Net@{size}:b1", "own_nets:Net@{size}:b2"]]
lists = {size = [8, 16]}
"""


@sweep
def test_a_users_study_of_a_users_model_is_run_kept_and_used_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "own_nets.py").write_text(NETS)
    (tmp_path / "own study.toml").write_text(OWN)
    command = ["run", "--study", "own study.toml", "--gpu", "cpu", "--quick", "--json"]
    said = CliRunner().invoke(main, command)
    assert said.exit_code == 0, said.stderr
    assert json.loads(said.stdout)["runs"][0]["measured"] == 1 + 2 + 2 + 2
    folder = tmp_path / "results" / "cpu"
    rows = record.read(folder).rows
    assert [row["harness"] for row in rows] == [
        "peaks",
        "macs",
        "macs",
        "latency",
        "latency",
        "compare",
        "compare",
    ]
    assert [row["study"] for row in rows] == [None, *["own"] * 6]
    assert rows[3]["case"] == "own_nets:Net@8:b1:fp32:eager"
    assert re.search(r"own_nets:Net@8:b1:fp32:eager: [0-9.]+( \(.*\))? ms", said.stderr)
    assert studies.load(folder / "own.toml").question == "How long does an image take?"
    again = CliRunner().invoke(main, command)
    (counted,) = json.loads(again.stdout)["runs"]
    assert {name: value for name, value in counted.items() if not name.endswith("_s")} == {
        **{"study": "own", "device": "cpu", "measured": 0, "reused": 7, "failed": 0, "refused": 0},
    }


def test_two_studies_of_one_name_are_not_run_into_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("a.toml", "b.toml"):
        (tmp_path / file).write_text(OWN)
    said = CliRunner().invoke(main, ["run", "--study", "a.toml", "--study", "b.toml", "--gpu", "cpu"])
    assert (said.exit_code, said.stderr) == (
        2,
        "error: 2 of the studies are named 'own': run them one by one\n",
    )
    assert not (tmp_path / "results").exists()
