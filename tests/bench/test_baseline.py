"""The file of accepted figures: what is kept in it, and what is refused. No time here was measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench import baseline
from bench.baseline import Acceptance, Figures
from bench.errors import Failure, UsageError
from bench.machine.devices import Device, cpu_device
from bench.taking import Environment, Reading

GPU = Device("cuda", 0, "NVIDIA H200", "GPU-1", 140.0, "9.0", "580")
ENVIRONMENT = Environment(["GPU-1", "580"], {"torch": "2"}, {})


def acceptance(reason: str, **cases: float) -> Acceptance:
    figures = {
        case: Figures([Reading(seconds, 0.01, 0.02)] * 3, {"MACs": 7}) for case, seconds in cases.items()
    }
    return Acceptance("2026-01-02T03:04:05+00:00", "c" * 40, reason, ENVIRONMENT, "a CPU", figures)


def test_what_was_accepted_is_read_again_with_its_reason(tmp_path):
    first, second = acceptance("the first", a=0.1, b=0.2), acceptance("torch 3", b=0.3)
    for each in (first, second):
        path = baseline.accept(each, GPU, tmp_path)
    assert path == tmp_path / "h200.json"
    assert baseline.read(GPU, tmp_path) == [first, second]
    assert baseline.newest([first, second]) == {"a": first, "b": second}


def test_any_board_of_a_model_has_its_figures_and_no_other_model(tmp_path):
    baseline.accept(acceptance("first", a=0.1), GPU, tmp_path)
    assert baseline.read(replace(GPU, uuid="GPU-2", driver="999"), tmp_path)
    assert baseline.read(replace(GPU, name="NVIDIA A100-SXM4-80GB"), tmp_path) == []
    (tmp_path / "h200.json").rename(tmp_path / "a100.json")
    other = replace(GPU, name="NVIDIA A100-SXM4-80GB")
    with pytest.raises(
        UsageError, match=r"a100\.json is of another GPU: NVIDIA H200, not NVIDIA A100"
    ) as refused:
        baseline.read(replace(other, mig=None), tmp_path)
    assert refused.value.status == 2


def test_a_cpu_has_figures_of_its_kind_alone(tmp_path):
    baseline.accept(acceptance("first", a=0.1), cpu_device(), tmp_path)
    with pytest.raises(
        UsageError,
        match=r"of another CPU, .* \(CPU-.*\), than .* \(CPU-of-a-friend\) here: a CPU's figures hold for its kind",
    ):
        baseline.read(replace(cpu_device(), uuid="CPU-of-a-friend"), tmp_path)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda text: text[:-20], "is not JSON"),
        (lambda text: "<<<<<<< ours\n" + text, "is not JSON"),
        (lambda text: "", "is not JSON"),
        (lambda text: "[1, 2]", "is not a baseline"),
        (lambda text: '{"schema": 1, "device": {}, "sum": ""}', "is not a baseline"),
        (lambda text: text.replace("0.1", "0.2"), "was damaged, or edited"),
        (lambda text: re.sub('"reason": "first"', '"reason": "better"', text), "was damaged, or edited"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "has schema 2"),
        (lambda text: text.replace("[0.1, 0.01, 0.02]", "[0.1]"), "is not a baseline"),
    ],
)
def test_a_file_that_was_damaged_is_one_clear_line_and_stays_as_it_is(tmp_path, damage, line):
    path = baseline.accept(acceptance("first", a=0.1), GPU, tmp_path)
    path.write_text(damage(path.read_text()))
    before = path.read_bytes()
    with pytest.raises(UsageError, match=line) as refused:
        baseline.accept(acceptance("second", a=0.2), GPU, tmp_path)
    assert refused.value.status == 2
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = baseline.accept(acceptance("first", a=0.1), GPU, tmp_path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(baseline.os, "fsync", full)
    with pytest.raises(Failure, match="No space left on device; it is as it was"):
        baseline.accept(acceptance("second", a=0.2), GPU, tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_has_a_line_an_acceptance_so_that_a_change_can_be_read(tmp_path):
    for reason in ("first", "second"):
        path = baseline.accept(acceptance(reason, a=0.1), GPU, tmp_path)
    lines = path.read_text().splitlines()
    assert [json.loads(line.rstrip(","))["reason"] for line in lines[1:-1]] == ["first", "second"]


def test_a_folder_in_the_place_of_the_file_is_one_clear_line(tmp_path: Path):
    (tmp_path / "h200.json").mkdir()
    with pytest.raises(UsageError, match=r"cannot read .*Is a directory"):
        baseline.read(GPU, tmp_path)
