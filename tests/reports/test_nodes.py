"""Devices of one type beside each other, by the cases that several measured."""

from __future__ import annotations

from typing import Any

import pytest

from reports import nodes
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import page_of, results_of

CASES = ("restv2_tiny@224:b8", "swin_tiny@224:b8")


def on(
    uuid: str, factor: float, case: str = CASES[0], node: str | None = None, **more: Any
) -> dict[str, Any]:
    """A row of an H200 that takes `factor` times as long as others."""
    row = synthetic.throughput_row(case, 8, "fp16", device={**synthetic.H200, "uuid": uuid}, **more)
    row["result"]["samples_s"] = [
        factor * 0.1 * (1 + n / 1e4) for n in range(len(row["result"]["samples_s"]))
    ]
    row["key"] = f"{uuid} {case}"
    row["environment"]["slurm"] = node and {"job": "7", "node": node, "shared": False}
    return row


def test_a_device_is_beside_the_middle_one(tmp_path):
    rows = [on(f"GPU-{n}", factor) for n, factor in enumerate((1.0, 1.01, 0.99))]
    found = results_of(tmp_path, rows).nodes
    assert {node.name: round(node.ratio, 3) for node in found} == {
        "GPU-0": 1.0,
        "GPU-1": 1.01,
        "GPU-2": 0.99,
    }
    assert not any(node.is_odd for node in found)


def test_an_odd_one_is_named_with_its_node_and_the_page_shows_all(tmp_path):
    rows = [on(f"GPU-{n}", factor, node=f"n{n}") for n, factor in enumerate((1.0, 1.01, 1.2))]
    results = results_of(tmp_path, rows)
    (named,) = [problem for problem in results.problems if "left out" not in problem]
    assert named.startswith("GPU-2 in n2 takes 1.188 times as long as the middle device, over 1 case ")
    html = page_of(results, drawn=False)
    assert "Devices of this type" in html
    assert html.count("times as long as the middle device, over 1 case") >= 3


def test_ratios_are_of_like_with_like_and_meet_in_their_geometric_mean(tmp_path):
    """Neither another protocol nor a case that one alone measured is compared."""
    rows = [on("GPU-0", 1.0), on("GPU-1", 1.02), on("GPU-0", 1.0, CASES[1]), on("GPU-1", 1.08, CASES[1])]
    rows += [on("GPU-0", 5.0, "swin_small@224:b8")]
    quick = on("GPU-1", 9.0, CASES[0])
    quick["key"] += " quick"
    quick["protocol"] = {**quick["protocol"], "name": "quick"}
    found = {node.name: node for node in results_of(tmp_path, [*rows, quick]).nodes}
    assert found["GPU-1"].ratio == pytest.approx((1.02 * 1.08) ** 0.5, rel=1e-3)
    assert found["GPU-0"].ratio == pytest.approx(1 / found["GPU-1"].ratio, rel=1e-6)
    assert [len(node.ratios) for node in found.values()] == [2, 2]


def test_of_two_devices_the_slower_is_named_and_which_is_odd_is_not_said(tmp_path):
    (named,) = results_of(tmp_path, [on("GPU-0", 1.0), on("GPU-1", 1.2)]).problems[:1]
    assert named.startswith("GPU-1 takes 1.200 times as long as the other device, over 1 case")
    assert named.endswith("which of the two is odd cannot be told")


@pytest.mark.parametrize("differs", ["hash", "versions", "driver", "launches", "visits"])
def test_what_is_of_other_code_or_of_several_devices_or_waited_is_not_compared(tmp_path, differs):
    rows = [on("GPU-0", 1.0), on("GPU-1", 1.5)]
    if differs == "hash":
        rows[1]["environment"]["source"] = {**rows[1]["environment"]["source"], "hash": "another"}
    elif differs == "versions":
        rows[1]["environment"]["versions"] = {"torch": "9"}
    elif differs == "driver":
        rows[1]["device"] = {**rows[1]["device"], "driver": "999"}
    elif differs == "launches":
        rows[1]["result"]["device_share"] = 0.3
    else:
        parts = synthetic.visits_of(rows[1])
        parts[0]["device"] = {**parts[0]["device"], "uuid": "GPU-2"}
        rows[1:] = parts
    found = results_of(tmp_path, rows)
    assert found.nodes == [] and not any("takes" in problem for problem in found.problems)


def test_what_a_shard_took_to_compare_is_not_told_as_left_out(tmp_path):
    rows = [on("GPU-0", 1.0, shard="1/2"), on("GPU-1", 1.0), on("GPU-1", 1.0, CASES[1], shard="2/2")]
    results = results_of(tmp_path, rows)
    assert results.problems == []
    assert len(results.nodes) == 2


def test_one_device_or_failed_rows_are_nothing_to_compare(tmp_path):
    assert results_of(tmp_path / "one", [on("GPU-0", 1.0), on("GPU-0", 1.0, CASES[1])]).nodes == []
    failed = {**on("GPU-1", 1.0), "outcome": "failed", "reason": "no memory", "result": None}
    assert results_of(tmp_path / "failed", [on("GPU-0", 1.0), failed]).nodes == []
    assert nodes.beside([]) == []
