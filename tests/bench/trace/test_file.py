"""Reading a trace file: every form of it, in pieces, and what is broken, hostile or no trace at all."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UsageError
from bench.trace import file, told
from tests.support.traces import kernel, launch, launched, operator, written

EVENTS = [
    *launched("aten::mm", 0, 10, [[2, 3], [3, 4]]),
    {
        "ph": "X",
        "name": 'quo"te \\ ü 日本 \U0001f600',
        "numbers": [1, -2.5e3, 12345678],
        "more": {"a": [{}, [], None]},
    },
]


def read(path: Path) -> tuple[list[Any], dict[str, Any]]:
    taken: list[Any] = []
    return taken, file.read(path, taken.append)


@pytest.mark.parametrize("name", ["it.json", "it.json.gz", "it.trace"])
def test_a_trace_is_read_packed_or_not(tmp_path, name):
    events, beside = read(written(tmp_path / name, EVENTS, other={"a": 1}))
    assert events == EVENTS
    assert beside["other"] == {"a": 1} and beside["schemaVersion"] == 1


def test_what_is_packed_is_told_by_its_content_and_not_by_its_name(tmp_path):
    packed = written(tmp_path / "it.json.gz", EVENTS)
    assert read(packed.rename(tmp_path / "it.json"))[0] == EVENTS


def test_a_bare_list_of_events_is_a_trace_as_well(tmp_path):
    path = tmp_path / "it.json"
    path.write_text(f"\ufeff \n{json.dumps(EVENTS)}\n", encoding="utf-8")
    assert read(path) == (EVENTS, {})


def test_what_stands_after_the_events_is_read_too(tmp_path):
    path = tmp_path / "it.json"
    path.write_text(json.dumps({"traceEvents": EVENTS, "deviceProperties": [{"id": 0}], "n": 12}))
    assert read(path) == (EVENTS, {"deviceProperties": [{"id": 0}], "n": 12})


@pytest.mark.parametrize("more", ["x", "{}", " \n[1]"])
@pytest.mark.parametrize("first", ["{}", "[]"])
def test_a_second_trace_behind_the_first_is_told(tmp_path, first, more):
    path = tmp_path / "it.json"
    path.write_text((json.dumps({"traceEvents": EVENTS}) if first == "{}" else json.dumps(EVENTS)) + more)
    with pytest.raises(UsageError, match="goes on behind the end of its trace"):
        read(path)
    path.write_text(path.read_text().removesuffix(more) + " \r\n" * 9)
    assert read(path)[0] == EVENTS


@pytest.mark.parametrize("size", range(1, 40))
def test_it_does_not_matter_where_the_pieces_of_a_file_end(tmp_path, monkeypatch, size):
    monkeypatch.setattr(file, "CHUNK", size)
    path = tmp_path / "it.json"
    path.write_text(
        json.dumps({"a": 1234567, "traceEvents": EVENTS, "b": [1.5, "ü"], "c": 98765}, ensure_ascii=False)
    )
    assert read(path) == (EVENTS, {"a": 1234567, "b": [1.5, "ü"], "c": 98765})


TEXT = json.dumps({"traceEvents": EVENTS}).encode()
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "broken or cut off"),
    "blank": (b" \n", "broken or cut off"),
    "a number": (b"12", "is not a trace"),
    "text": (b"hello", "is not a trace"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0", "is not a trace"),
    "another document": (b'{"version": 1, "records": []}', "no list `traceEvents`"),
    "events that are no list": (b'{"traceEvents": {}}', "no list `traceEvents`"),
    "no comma": (b'{"traceEvents": [{} {}]}', "broken or cut off"),
    "no colon": (b'{"traceEvents" [{}]}', "broken or cut off"),
    "a key that is no text": (b'{3: 1, "traceEvents": []}', "broken or cut off"),
    "no events": (b'{"traceEvents": []}', "neither kernels nor operators"),
    "events that are none": (b'{"traceEvents": [1, null, [], "x", {}]}', "neither kernels nor operators"),
    "cut off in an event": (TEXT[:150], "cut off"),
    "cut off after an event": (b'{"traceEvents": [{"ph": "M"},', "ends after 1 events"),
    "cut off at the end": (TEXT[:-1], "cut off"),
    "nested too deep": (b'{"traceEvents": [' + b"[" * 200_000, "nested too deep"),
    "nested too deep beside": (b'{"a": ' + b'{"a":' * 200_000, "nested too deep"),
    "a number of too many digits": (b'{"traceEvents": [' + b"1" * 50_000 + b"]}", "broken or cut off"),
    "cut off and packed": (gzip.compress(TEXT)[:-30], "damaged or cut off"),
    "damaged and packed": (
        gzip.compress(TEXT)[:40] + b"\0" * 20 + gzip.compress(TEXT)[60:],
        "damaged or cut off",
    ),
    "packed without anything": (gzip.compress(b""), "broken or cut off"),
    "the first two bytes of a packed file": (b"\x1f\x8b", "damaged or cut off"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_whole_trace_is_one_line(tmp_path, name):
    content, expected = BROKEN[name]
    path = tmp_path / "it.json"
    path.write_bytes(content)
    with pytest.raises(UsageError) as raised:
        told.read(path)
    assert expected in str(raised.value) and str(path) in str(raised.value)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def test_a_pipe_a_folder_and_nothing_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, expected in (
        ("pipe", "is not a file"),
        (".", "is not a file"),
        ("none", "there is no such file"),
    ):
        with pytest.raises(UsageError, match=expected):
            told.read(tmp_path / name)


def test_a_file_that_unpacks_without_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "MOST_CHARACTERS", 4 << 20)
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b'{"traceEvents": [' + b" " * (64 << 20)))
    assert path.stat().st_size < 100_000
    with pytest.raises(UsageError, match="GB of text"):
        told.read(path)


def test_more_events_than_are_held_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "MOST_EVENTS", 1000)
    path = tmp_path / "many.json"
    path.write_text('{"traceEvents": [' + "{}," * 1001 + "{}]}")
    with pytest.raises(UsageError, match="more than 1,000 events"):
        told.read(path)


def test_a_value_that_does_not_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "MOST_VALUE", 1 << 20)
    path = tmp_path / "long.json"
    path.write_text('{"traceEvents": [{"name": "' + "x" * (8 << 20))
    with pytest.raises(UsageError, match="a value of more than 1 MB"):
        told.read(path)


ODD: list[Any] = [None, True, -1, 1.5, 10**400, "x", "9" * 30, [], [[[[1]]]], [-1, "a", None], {}, {"a": {}}]


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:12])
def test_any_value_of_any_field_is_borne(tmp_path, value):
    """A field of an unexpected type leaves its event out, or what hangs on the field unknown; nothing else."""
    events = [
        operator(
            "aten::mm", 0, 4, [[2, 3], [3, 4]], id=1, values=["", ""], strides=[[3, 1], [4, 1]], sequence=3
        ),
        launch(7, 1),
        kernel(7, 5, 10, external=1),
        *launched("aten::add", 100, 10, [[2, 2], [2, 2]], number=9),
    ]
    for place in range(3):
        fields = [(name, None) for name in events[place]]
        fields += [("args", name) for name in events[place]["args"]]
        for outer, inner in fields:
            changed = json.loads(json.dumps(events))
            if inner is None:
                changed[place][outer] = value
            else:
                changed[place][outer][inner] = value
            joined = told.read(written(tmp_path / "it.json", changed))
            assert joined.took in (10, 20, 10 + 1.5)
            for by in ("operator", "call", "kernel", "module"):
                assert list(told.lines(joined, by))
                json.dumps(told.document(joined, by), allow_nan=False)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_a_time_that_is_no_number_leaves_its_event_out_and_is_said(tmp_path, number):
    path = written(tmp_path / "it.json", [*launched("aten::mm", 0, 10, [[2, 3], [3, 4]]), kernel(5, 50, 77)])
    path.write_text(path.read_text().replace("77", number))
    joined = told.read(path)
    assert joined.took == 10
    assert "1 events without a time are left out" in list(told.lines(joined, "operator"))


def test_device_properties_of_any_type_are_borne(tmp_path):
    for value in [*ODD, [{"id": [], "name": "x"}], [{"name": 3}], [None, 3]]:
        path = tmp_path / "it.json"
        path.write_text(json.dumps({"deviceProperties": value, "traceEvents": launched("aten::mm", 0, 10)}))
        assert told.read(path).took == 10
