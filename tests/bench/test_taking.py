"""What is read from the rows of visits; test_regress.py and test_trend.py have the taking of them."""

from __future__ import annotations

from bench import taking
from bench.taking import Environment, Reading


def test_peak_memory_and_registers_are_exact_on_a_gpu_alone():
    kernels = [{"registers of f": 130, "spills of f": 0}, {"registers of f": 128, "spills of f": 0}]
    result = {"peak_memory_bytes": [2000, 1000], "kernels": kernels, "loaded": [{}, {}]}
    row = {"result": result, "device": {"kind": "cuda"}}
    assert taking.changes(*taking.counts_of(row)) == [
        "bytes of peak memory 1,000 → 2,000",
        "registers of f 128 → 130",
    ]
    assert taking.changes(*taking.counts_of({**row, "device": {"kind": "cpu"}})) == []


def test_cycles_are_seconds_times_the_clock():
    result = {"blocks": [[2.0, 1.0, 1.0, 2.0]], "clocks_mhz": [[500, 1000, 1000, 500]]}
    visit = taking.visit_of({"result": result})
    assert visit.times == [2.0]
    assert visit.cycles == [1.0]
    assert taking.visit_of({"result": {**result, "clocks_mhz": None}}).cycles is None


def test_a_reading_has_the_median_of_each_unit():
    result = {"rounds": [[1.0, 20.0, 300.0], [3.0, 10.0, 100.0], [2.0, 30.0, 200.0]]}
    assert taking.reading_of({"result": result}) == Reading(2.0, 20.0, 200.0)


def test_what_changed_of_an_environment_is_named_one_by_one():
    then = Environment(["GPU-1", "570"], {"torch": "2.10", "timm": "1"}, {"OMP_NUM_THREADS": "1", "A": "b"})
    now = Environment(["GPU-1", "580"], {"torch": "2.11", "timm": "1"}, {"A": "b", "NEW": "c"})
    assert now.since(then) == [
        "torch 2.10 → 2.11",
        "driver 570 → 580",
        "OMP_NUM_THREADS 1 → not set",
        "NEW not set → c",
    ]
    assert now.since(now) == []
