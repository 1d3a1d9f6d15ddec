"""The time of counting Table 1: MACs, bytes and launches by ours on shapes alone; MACs by fvcore on real tensors."""

import pytest

from bench.cases import parse
from bench.harness import macs
from bench.studies import TABLE1


def _ours():
    return [macs.count(parse(text)) for text in TABLE1]


def _fvcore():
    return [macs.fvcore_macs(parse(text)) for text in TABLE1]


@pytest.mark.benchmark(group="count Table 1")
@pytest.mark.parametrize("count", [_ours, _fvcore], ids=["ours, no arithmetic", "fvcore, real tensors"])
@pytest.mark.timeout(600)
def test_counting_table1(benchmark, count):
    assert len(benchmark.pedantic(count, rounds=2)) == len(TABLE1)
