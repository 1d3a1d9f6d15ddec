"""Measurements by hand, and cases that were not measured."""

import json

from tests.support import synthetic_rows as synthetic
from tests.support.reporting import not_measured, results_of, row_where


def test_a_case_that_failed_and_was_then_measured_is_not_called_a_failure(tmp_path):
    rows = synthetic.study_rows("table7")
    early = json.loads(json.dumps(row_where(rows, "throughput", "restv2_lite@224")))
    early.update(
        outcome="failed", reason="too hot", result=None, key="early", when="2026-11-21T00:00:00+00:00"
    )
    late = json.loads(json.dumps(row_where(rows, "throughput", "restv2_tiny@224")))
    late.update(outcome="failed", reason="crashed", result=None, key="late", when="2026-11-23T00:00:00+00:00")
    results = results_of(tmp_path, early, *rows, late)
    assert [row[2].text for row in not_measured(results).rows] == ["crashed"]
