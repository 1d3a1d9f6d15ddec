"""Answers for programs: held to the schema that documents them, and safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from bench import answers
from bench.studies import STUDIES
from tests.support import synthetic_rows as synthetic
from tests.support.analyses import cka, fourier
from tests.support.json_schema import SCHEMA, faults


def rows() -> list[dict[str, Any]]:
    """A row of each harness, and one that failed."""
    made = [*synthetic.study_rows("table7"), fourier(study=None), cka(study=None)]
    failed = synthetic.throughput_row("restv2_tiny@224", outcome="failed", reason="out of memory")
    failed["result"] = None
    for row in made:
        if row["harness"] == "macs":
            row["result"]["uncounted"] = {"_fft_r2c": 3}
    return [*made, failed]


@pytest.mark.parametrize("command", ["measure", "run"])
def test_every_kind_of_row_is_printed_as_the_schema_has_it(command):
    document = answers.document(command, [answers.record_of(row) for row in rows()])
    assert list(faults(json.loads(json.dumps(document)), SCHEMA)) == []
    assert {record["harness"] for record in document["records"]} == {
        *("throughput", "compare", "macs", "peaks", "fourier", "cka")
    }


def test_a_document_that_is_not_so_is_told_apart():
    document = answers.document("measure", [answers.record_of(rows()[-1])])
    document["records"][0]["more"] = 1
    document["records"][0]["batch"] = "many"
    document["version"] = 2
    assert len(list(faults(document, SCHEMA))) == 3


def test_every_study_is_printed_as_the_schema_has_it():
    records = [record for study in STUDIES.values() for record in answers.records_of_study(study)]
    assert list(faults(answers.document("studies", records), SCHEMA)) == []


def test_a_record_says_in_numbers_what_the_lines_say_in_words():
    timed = synthetic.throughput_row("restv2_tiny@224", batch=8)
    timed["result"]["samples_s"] = [0.5] * 10
    record = answers.record_of(timed)
    assert (record["images_per_s"], record["ms"], record["batch"]) == (16.0, 500.0, 8)
    assert record["images_per_s_low"] == record["images_per_s_high"] == 16.0
    compared = synthetic.compare_row("restv2_tiny@224", "restv2_small@224", 2.0)
    record = answers.record_of(compared)
    assert record["ratio"] == pytest.approx(2, rel=0.01)
    assert record["ratio_low"] <= record["ratio"] <= record["ratio_high"]
    assert record["case"].startswith("restv2_tiny@224") and record["other_case"].startswith(
        "restv2_small@224"
    )
    counted = synthetic.count_row("restv2_tiny@224")
    counted["result"]["uncounted"] = {"_cdist_forward": 2}
    record = answers.record_of(counted, "paper")
    assert (record["macs"], record["convention"]) == (4_097_000_000, "paper")
    assert record["not_counted"] == {"_cdist_forward": 2}


def test_csv_has_no_column_that_is_empty_throughout_and_no_formula():
    row = synthetic.throughput_row("restv2_tiny@224", reason="=cmd|' /C calc'!A0", notes=["-1 + \x1b[31m"])
    row["device"] = {**row["device"], "name": "@SUM(1)"}
    (record,) = csv.DictReader(io.StringIO(answers.to_csv([answers.record_of(row)])))
    assert record["reason"] == "'=cmd|' /C calc'!A0"
    assert record["notes"] == "'-1 + \\x1b[31m"
    assert record["device_name"] == "'@SUM(1)"
    assert float(record["images_per_s"]) > 0
    assert "" not in record.values()
    assert "ratio" not in record and "macs" not in record
    assert set(record) < set(answers.record_of(row))


def test_markdown_of_one_row_is_a_line_a_field_and_of_several_a_line_a_row():
    one, two = (answers.record_of(synthetic.throughput_row(f"restv2_tiny@{size}")) for size in (224, 256))
    lines = answers.to_markdown([one]).splitlines()
    assert lines[:2] == ["| field | value |", "| --- | --- |"]
    assert "| case | restv2_tiny@224:b1:fp32:eager |" in lines
    lines = answers.to_markdown([one, two]).splitlines()
    assert len(lines) == 4
    assert "restv2_tiny@256:b1:fp32:eager" in lines[3]
