"""Calls that are kept for the next model: they change no count, and a failure stays one."""

import pytest
import torch
from torch import nn

from bench.cases import parse
from bench.harness import macs
from bench.harness.counter import Counter, Counts, FlopCounter, Seen, _Cost, _Known


def counted(text):
    """A case's row, but for what stands in it of one Python object."""
    return macs.count(parse(text)).as_dict()


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("texts", [("restv2_lite@64", "restv2_lite@64:sdpa", "restv2_lite@64x96")])
def test_what_other_models_met_before_changes_no_count(monkeypatch, texts):
    alone = []
    for text in texts:
        monkeypatch.setattr(macs, "_seen", Seen())
        alone.append(counted(text))
    monkeypatch.setattr(macs, "_seen", Seen())
    assert [counted(text) for text in texts] == alone
    assert [counted(text) for text in texts] == alone  # each after itself and the others


def count(model, seen):
    check = FlopCounter()
    counter = Counter(counts := Counts(0), check, seen)
    with torch.inference_mode(), counter:
        model(torch.empty(1, 8, device="meta"))
    return counts, check


def test_the_second_asks_for_nothing_that_the_first_did(monkeypatch):
    seen, model = Seen(), nn.Sequential(nn.Linear(8, 8), nn.GELU()).to("meta")
    first, check = count(model, seen)
    monkeypatch.setattr(Counter, "_cost", None)
    again, same = count(model, seen)
    assert again.calls == first.calls and again.traffic == first.traffic
    assert same.total == check.total == 2 * 8 * 8


def test_a_formula_of_pytorchs_that_fails_is_heard_of_each_time_and_of_it_alone(monkeypatch):
    seen, model = Seen(), nn.Sequential(nn.Linear(8, 8), nn.GELU()).to("meta")

    def fails(*_, **__):
        raise ValueError

    for _ in range(2):
        counter_of_pytorch = FlopCounter()
        for name in (torch.ops.aten.addmm, torch.ops.aten.mm):
            monkeypatch.setitem(counter_of_pytorch.flop_registry, name, fails)
        counter = Counter(Counts(0), counter_of_pytorch, seen)
        with torch.inference_mode(), counter:
            model(torch.empty(1, 8, device="meta"))
        assert "ValueError" in counter_of_pytorch.failed
    kept = {operator._schema.name for (_, operator), *_ in seen.calls}
    assert "aten::gelu" in kept and "aten::linear" not in kept


def test_of_too_many_calls_the_earlier_ones_are_forgotten(monkeypatch):
    monkeypatch.setattr(Seen, "MOST", 2)
    seen = Seen()
    for key in range(5):
        seen.keep(key, _Known(_Cost([]), False, []))
    assert list(seen.calls) == [4]
