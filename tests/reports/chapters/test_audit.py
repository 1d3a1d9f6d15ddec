"""The chapter of the printed speeds, and its command: all of the paper's, and a user's own."""

import csv
import io

import pytest

from reports import chapters, printed
from reports.chapters.audit import findings, paper_speeds
from reports.verdicts import Status
from tests.support.reporting import ROOT, run, table_of


def test_every_speed_that_the_paper_prints_is_audited():
    printed_ones = [
        row
        for number in range(1, 10)
        for row in printed.rows(f"table{number}")
        if {"throughput", "ms"} & row.numbers.keys()
    ]
    assert len(paper_speeds()) == len(printed_ones) > 40
    of_windows = next(speed for speed in paper_speeds() if speed.model == "Win")
    assert of_windows.images_per_s == pytest.approx(1000 / 149.6)
    assert {speed.gpu for speed in paper_speeds()} == {"v100"}


def test_print_alone_shows_that_table_5_is_beyond_a_v100_and_whose_numbers_it_has():
    """ResTv2-B: 19.2 images/s × 2 × 1095 G = 42.0 TFLOP/s, of 15.7. ResNet-50's 23.4 are of 512 × 512 pixels."""
    found = findings(None)
    impossible = [each for each in found if each.verdict.status is Status.IMPOSSIBLE and each.kind == "speed"]
    assert all("Table 5" in each.subject for each in impossible)
    base = next(each for each in impossible if each.subject.startswith("ResTv2-B"))
    assert base.tflops == pytest.approx(19.2 * 2 * 1.095)
    (resnet,) = [each for each in found if each.kind == "sources" and "ResNet-50 at" in each.subject]
    assert "for images of 512 where here they have 512x2048" in resnet.sentence


def test_table_1_mixes_campaigns():
    """Its Swin rows are the Swin README's; RegNetY-4G's authors have 64 images in 68 ms, where it has 1156 in 1 s."""
    sentences = [each.sentence for each in findings(None) if each.kind == "sources"]
    for model, speed in (("Swin-T", 755), ("Swin-S", 437), ("Swin-B", 278), ("Swin-B", 85)):
        assert any(
            f"{model}: {speed} images/s in Table 1 is the number of microsoft/Swin" in text
            for text in sentences
        )
    assert any("RegNetY-4G: 1156" in text and "1156 / 941 = 1.228" in text for text in sentences)


def test_the_page_and_the_file_hold_every_finding(cpu):
    tables = [table_of(cpu, name) for name in ("audit", "audit_sources", "audit_plausible")]
    told = next(told for told in chapters.tell(cpu) if told.chapter.anchor == "printed-speeds")
    records = list(csv.DictReader(io.StringIO(told.csv["audit.csv"])))
    assert sum(len(table.rows) for table in tables) == len(records) == len(findings(cpu))
    assert all(record["sentence"].endswith(".") for record in records)


def test_counted_with_bytes_restv2_large_at_384_is_at_the_limit():
    """By the committed counts: 36.61 GMAC of linear layers alone take 4.88 of the 7.09 ms at 15.0 TFLOP/s."""
    from reports.results import load

    found = findings(load(ROOT / "results", "reference/cpu"))
    (large,) = [each for each in found if each.kind == "speed" and each.subject == "ResTv2-L at 384, Table 1"]
    assert large.verdict.status is Status.AT_THE_LIMIT
    assert 2 * 36.607860736e9 / (13.4e12 * 15.7 / 14) * 141 < (large.of_floor or 0) < 1.1


def test_the_command_audits_a_users_own_file_and_ends_with_the_worst_verdict(tmp_path):
    path = tmp_path / "speeds.csv"
    path.write_text("model,gpu,images_per_s,gmacs\nMine,v100,100,4\n")
    assert run(tmp_path, "audit", "speeds.csv").returncode == 0
    path.write_text("model,gpu,images_per_s,gmacs\nMine,v100,100,4\nToo fast,t4,9000,4.1\n")
    done = run(tmp_path, "audit", "speeds.csv")
    assert (done.returncode, done.stderr) == (1, "")
    assert "2 findings: 1 impossible and 1 plausible." in done.stdout
    assert "9000 images/s × 2 × 4.10 GMAC = 73.80 TFLOP/s" in " ".join(done.stdout.split())
    path.write_text("model,gpu\n")
    done = run(tmp_path, "audit", "speeds.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: speeds.csv: ")
