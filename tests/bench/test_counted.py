"""The committed table of counts: whole, and its work as bytes of a dtype and a batch."""

from __future__ import annotations

import pytest

from bench.counted import CAST_BYTES, Counted, counted
from reports import printed

LINE = Counted("timm:net@224", "net", 1000, 600, 7, 10, 400, 80, 6, 300, 60)


def test_work_is_in_bytes_of_the_dtype_with_weights_shared_by_the_batch():
    work = LINE.work("fp16", 4)
    assert (work.macs, work.conv_macs, work.product_macs) == (1000, 600, 400)
    assert work.bytes == 2 * (400 + 80 / 4)
    assert (work.launches, work.calls, work.casts) == (10 / 4, 1 / 4, 0)
    assert LINE.work("fp32", 1).bytes == 4 * 480


def test_a_compiled_model_moves_what_its_fused_graph_does_and_casts_nothing_besides():
    compiled = LINE.work("fp16", 4, is_compiled=True, is_autocast=True)
    assert (compiled.bytes, compiled.launches, compiled.casts) == (2 * (300 + 60 / 4), 6 / 4, 0)
    assert LINE.work("fp16", 4, is_autocast=True).casts == 7 * CAST_BYTES


def test_the_table_has_every_speed_of_the_papers_table_1():
    asked = {row.case for row in printed.rows("table1") if "throughput" in row.numbers}
    assert len(asked) == 24 and asked <= counted().keys()


@pytest.mark.parametrize("line", list(counted().values())[::100], ids=lambda line: line.case)
def test_fusing_takes_launches_and_bytes_away_and_adds_none(line):
    assert 0 < line.fused_launches <= line.launches
    assert 0 < line.fused_each <= line.each
    assert line.conv_macs + line.macs > 0 and line.conv_macs <= line.macs
