"""The chapter of the paper's sentences: what the page shows, what files hold, and what the command says."""

import csv
import io

import pytest

from reports import chapters
from reports.sentences import CLAIMS
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import column, results_of, run, table_of

NOT_MEASURED = "not measured"


def told_of_claims(results):
    return next(told for told in chapters.tell(results) if told.chapter.anchor == "sentences")


def test_the_page_shows_what_was_decided_and_lists_nothing_as_missing(cpu):
    shown = table_of(cpu, "claims")
    verdicts = column(shown, "verdict")
    assert NOT_MEASURED not in verdicts
    assert {"confirmed", "refuted"} <= set(verdicts)
    assert len(shown.notes) == verdicts.count("refuted")
    assert "SYNTHETIC CPU" in shown.caption


def test_the_file_holds_every_claim_with_its_reason(cpu):
    records = list(csv.DictReader(io.StringIO(told_of_claims(cpu).csv["claims.csv"])))
    assert [record["claim"] for record in records] == [claim.name for claim in CLAIMS]
    missing = [record for record in records if record["verdict"] == NOT_MEASURED]
    assert missing
    assert all(record["reason"] and not record["value"] for record in missing)


def test_a_gpu_on_which_everything_was_measured_leaves_no_claim_unmeasured(tmp_path):
    studies = ("table1", "table2", "table3", "table4", "table5", "table6", "table7")
    files = {name: synthetic.study_rows(name, kind="cuda") for name in studies}
    files["table1"] += [
        synthetic.count_row(text, device=synthetic.H200)
        for text in ("restv2_tiny[head=mask_rcnn]@800x1280", "swin_tiny[head=mask_rcnn]@800x1280")
    ]
    records = csv.DictReader(io.StringIO(told_of_claims(results_of(tmp_path, **files)).csv["claims.csv"]))
    assert [
        (record["claim"], record["reason"]) for record in records if record["verdict"] == NOT_MEASURED
    ] == []


def test_the_command_lists_every_claim_and_ends_with_the_worst_verdict(tmp_path):
    done = run(tmp_path, "claims")
    assert (done.returncode, done.stderr) == (1, "")
    for claim in CLAIMS:
        assert claim.name in done.stdout
    assert f"{len(CLAIMS)} claims: " in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("focal-speed", 0, "confirmed. “the actual inference throughput of Focal-T is only 0.42 times"),
        (
            "focal-average",
            1,
            "2.876 is the mean of 826 / 319, 582 / 192, 415 / 138; asked for is 1.8, rounded.",
        ),
        ("mhim-cost-64-here", 3, "`python -m bench compare 'restv2_lite[mhim]@224' 'restv2_lite@224'`"),
    ],
)
def test_a_single_claim_ends_with_its_own_verdict(tmp_path, name, status, said):
    done = run(tmp_path, "claims", name)
    assert (done.returncode, done.stderr) == (status, "")
    assert said in done.stdout


def test_pairs_of_the_folder_that_is_named_decide(tmp_path):
    synthetic.write(
        tmp_path / "results", [synthetic.compare_row("restv2_lite[mhim]@224", "restv2_lite@224", 1.05)]
    )
    done = run(tmp_path, "claims", "mhim-cost-64-here", "--gpu", "cpu")
    assert done.returncode == 0, done.stderr
    assert "mhim-cost-64-here, section 3.2: confirmed." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("claims", "focal-sped"), "did you mean 'focal-speed'?"),
        (("claims", "--out", "folder"), "claims a NAME and --gpu"),
        (("tables", "focal-speed", "--gpu", "cpu"), "all others --gpu or devices"),
    ],
)
def test_a_command_written_wrongly_is_wrong_usage(tmp_path, arguments, said):
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
