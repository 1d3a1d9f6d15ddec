"""The paper's numbers as they are printed, against the paper's text, and how counts are matched with them."""

import re

import pytest

from bench.cases import parse
from bench.studies import STUDIES
from reports import chapters, printed
from reports.printed import Printed
from tests.support.reporting import ROOT


def test_the_papers_csv_has_the_printed_table():
    paper = printed.table("table1")
    assert len(paper) == len(printed.rows("table1")) == 24
    assert {tuple(metrics) for metrics in paper.values()} == {
        ("parameters", "macs", "throughput", "top1", "top5")
    }
    spots = {  # copied from the paper's text, not from the CSV
        "regnety_4g@224": ("21", "4.0", "1156", "79.4", "94.7"),
        "focal_small@224": ("51", "9.4", "192", "83.6", "96.2"),
        "restv1_large[stem=pool]@224": ("52", "7.9", "429", "83.6", "96.3"),
        "restv2_tiny@384": ("30", "12.7", "319", "83.7", "96.6"),
        "swin_base@384": ("88", "47.1", "85", "84.5", "97.0"),
        "restv2_large@384": ("87", "42.4", "141", "85.4", "97.1"),
    }
    assert {case: tuple(number.text for number in paper[case].values()) for case in spots} == spots


def test_the_papers_csv_is_the_papers_text():
    """Every row of the extracted text, where it lies beside the checkout."""
    text = ROOT.parent / "shared" / "paper" / "restv2.txt"
    if not text.exists():
        pytest.skip("the paper's text is not there")
    lines = text.read_text(encoding="utf-8").partition("Table 1:")[2].partition("4.3 Ablation")[0]
    rows = re.findall(r"2?(?:224|384)2 (\d+)M ([\d.]+)G (\d+) ([\d.]+) ([\d.]+)$", lines, re.MULTILINE)
    paper = printed.table("table1")
    assert rows == [tuple(number.text for number in metrics.values()) for metrics in paper.values()]


@pytest.mark.parametrize(
    ("text", "count", "match"),
    [
        ("4.1", 4_097_000_000, True),
        ("4.1", 4_050_000_000, True),
        ("4.1", 4_049_999_999, False),
        ("4.1", 4_150_000_000, False),
        ("45.0", 45_120_000_000, False),
        ("45.0", 45_049_999_999, True),
        ("4.10", 4_097_000_000, True),
        ("4.10", 4_094_000_000, False),
    ],
)
def test_a_count_matches_to_the_printed_precision(text, count, match):
    assert Printed(text, "G", "core", "").matches(count) is match


def test_parameters_match_in_whole_millions():
    assert Printed("30", "M", "", "").matches(30_434_800)
    assert not Printed("30", "M", "", "").matches(30_500_000)


PRINTED = ("table1", "table2", "table6", "table7", "table9")


@pytest.mark.parametrize("name", PRINTED)
def test_the_printed_rows_are_the_cases_of_the_study(name):
    rows = printed.rows(name)
    assert {row.case for row in rows} == set(STUDIES[name].cases("cuda", False))
    assert all(str(parse(row.case)) == f"{row.case}:eager" for row in rows)  # as a case prints its options
    (chapter,) = [chapter for chapter in chapters.CHAPTERS if chapter.study == name]
    assert set(chapter.references) <= {row.case for row in rows}


def test_table_2_has_its_four_parts_in_the_papers_order():
    rows = [(row.panel, row.name) for row in printed.rows("table2")]
    assert rows == [
        *(("(a)", name) for name in ("w/o", "x′", "K", "V")),
        *(("(b)", name) for name in ("w/o", "nearest", "bilinear", "pixel-shuffle")),
        *(("(c)", name) for name in ("EMSA", "ConvNet", "ConvNetv2", "ConvNetv3", "EMSAv2")),
        *(("(d)", name) for name in ("w/o", "APE", "RPE", "PEG", "PA")),
    ]


PATTERNS = {  # of a row in the paper's text, and the metrics that it holds
    "table2": (
        r"^(?:[\w/′-]+)(?: \[\d+\])?(?: ([\d.]+)M)?(?: ([\d.]+)G)? (\d\d\.\d\d)(?: (\d\d\.\d\d))?$",
        ("parameters", "macs", "top1", "top5"),
    ),
    "table6": (
        r"^[\w-]+(?:\[\d+\])?[∗†]? ([\d.]+)M ([\d.]+)G (\d+) ([\d.]+)$",
        ("parameters", "macs", "throughput", "top1"),
    ),
    "table7": (
        r"^(?:ResTv2-\w+|\+MHIM) \d\d ([\d.]+) ?M ([\d.]+)G (\d+)(?:\(-\d+\))? ([\d.]+)",
        ("parameters", "macs", "throughput", "top1"),
    ),
}


SPANS = {
    "table2": ("Table 2: Ablation", "provide information not captured"),
    "table6": ("Table 6: Results", "B Results of Multi-head"),
    "table7": ("Table 7: Results", "C Experimental Settings"),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_the_csv_is_the_papers_text(name):
    """Where the extracted text lies beside the checkout."""
    path = ROOT.parent / "shared" / "paper" / "restv2.txt"
    if not path.exists():
        pytest.skip("the paper's text is not there")
    start, end = SPANS[name]
    text = path.read_text(encoding="utf-8").partition(start)[2].partition(end)[0]
    pattern, metrics = PATTERNS[name]
    numbers = [
        tuple(row.numbers[metric].text if metric in row.numbers else "" for metric in metrics)
        for row in printed.rows(name)
    ]
    assert re.findall(pattern, text, re.MULTILINE) == numbers
