"""Predictions and fits on the command line."""

from __future__ import annotations

import pytest

from bench.machine import provenance
from tests.support.command_line import bench
from tests.support.json_schema import SCHEMA, faults

pytestmark = pytest.mark.usefixtures("place", "counted_here")


def test_a_prediction_says_that_it_is_one_with_its_interval_and_where_its_rates_come_from():
    text = bench("predict", "restv2_lite:b8", "--gpu", "a100").out
    first, _, rates, *_ = text.splitlines()
    assert first.startswith("restv2_lite@224:b8:fp16:eager on NVIDIA A100 SXM4 80 GB: predicted ")
    assert "in nine of ten cases" in first and "rtx3090 and rtx4090" in rates
    document = bench("predict", "restv2_lite:b8", "--gpu", "a100", "--json").json()
    assert list(faults(document, SCHEMA)) == []
    (record,) = document["records"]
    (counted,) = bench("macs", "restv2_lite", "--convention", "core", "--json").json()["records"]
    assert (record["basis"], record["macs"]) == ("scaled", counted["macs"])
    ends = [record[f"predicted_images_per_s{end}"] for end in ("_low", "", "_high")]
    assert ends == sorted(ends)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["restv2_lite", "--gpu", "h1000"], "no datasheet of a GPU 'h1000'"),
        (["restv2_lite:train", "--gpu", "v100"], "inference is predicted"),
        (["restv2_lite:bf16", "--gpu", "v100"], "says no bf16"),
        (["restv2_lite[autocast]:fp16", "--gpu", "v100"], "bytes and launches unknown"),
    ],
)
def test_what_cannot_be_predicted_is_wrong_usage(arguments, why):
    assert why in bench("predict", *arguments, status=2).err


def test_our_own_rows_are_fitted():
    reference = str(provenance.ROOT / "results" / "reference" / "cpu")
    text = bench("fit", reference).out
    about = "cpu, fp32, eager: 42 rows (31 with an interval wider than ± 10 %), 2 left out (2 without an interval)"
    assert text.startswith(about) and "MACs alone" in text and "GB/s" in text
    document = bench("fit", reference, "--json").json()
    assert list(faults(document, SCHEMA)) == []
    assert document["records"][0]["median_error"] < document["records"][0]["macs_alone_median_error"]


def test_nothing_to_fit_is_an_error(place):
    assert "no throughput in results/" in bench("fit", status=1).err
    (place / "other.csv").write_text("a,b\n1,2\n")
    assert "no speeds in it" in bench("fit", "other.csv", status=2).err
