"""Configurations of the kernels as they were timed: read from the committed file, and from one of three lines."""

from __future__ import annotations

import pytest

from reports import candidates
from tests.support.reporting import ROOT, cell

FILE = ROOT / "results/reference/h100/candidates.csv"
LINES = """operator,model,stage,image,batch,configuration,us,us_again,largest_error,rms_error
mlp,ResTv2-T,1,224,64,"block_t=64, num_warps=4",90,110,0.9,0.8
mlp,ResTv2-T,1,224,64,"block_t=128, num_warps=8",145,155,0.7,0.6
mlp,ResTv2-T,1,224,64,formulas in ATen,20,30,,
"""


@pytest.fixture
def few(tmp_path):
    path = tmp_path / "candidates.csv"
    path.write_text(LINES)
    return candidates.read(path)


def test_the_fastest_is_by_the_mean_of_both_passes_and_formulas_are_none(few):
    table = candidates.fastest(few, "mlp")
    assert len(table.rows) == 1
    shown = [
        cell(table, 0, header) for header in ("configurations", "fastest, µs", "warps", "with other warps, ×")
    ]
    assert shown == ["2", "100", "4", "1.50"]
    assert cell(table, 0, "largest error, × eager's") == "0.90"


def test_the_title_counts(few):
    plot = candidates.spread(few, "mlp", "a machine")
    assert plot.title == (
        "Where warps can be chosen, the fastest program has 4 in 1 of 1 calls; "
        "the slowest takes up to 1.50 times as long"
    )
    assert plot.narrow


def test_the_title_names_the_warps_that_win_most_where_there_is_a_choice(tmp_path):
    """Of three calls two can be had with 4 and with 8 warps; 8 is the faster in both of them."""
    path = tmp_path / "candidates.csv"
    turned = LINES.replace("90,110", "290,310").splitlines()
    lines = [*turned, *(line.replace("T,1", "T,2") for line in turned[1:]), turned[1].replace("T,1", "T,3")]
    path.write_text("\n".join(lines))
    plot = candidates.spread(candidates.read(path), "mlp", "a machine")
    assert "has 8 in 2 of 2 calls; the slowest takes up to 2.00 times" in plot.title


def test_lines_are_chosen_by_their_columns_and_need_both_times(tmp_path):
    path = tmp_path / "candidates.csv"
    head, *lines = LINES.replace("90,110", "90,").splitlines()
    path.write_text("\n".join([f"tree,{head}", *(f"after,{line}" for line in lines), f"before,{lines[1]}"]))
    assert [one.us for one in candidates.read(path, tree="after")] == [145, 20]
    assert [one.us for one in candidates.read(path, tree="before")] == [145]
    assert len(candidates.read(path)) == 3


def test_every_line_of_the_committed_file_is_read():
    found = candidates.read(FILE)
    assert len(found) == len(FILE.read_text().splitlines()) - 1
    assert {one.operator for one in found} == set(candidates.OPERATORS)
    assert {one.warps for one in found if one.warps} == set(candidates.LOOKS)
