"""Devices summed up to stand beside others: read in processes of their own, in order, whatever becomes of those."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from bench.errors import Failure
from reports import __main__ as command
from reports import beside, results
from reports.results import Source, load, neighbours
from tests.support import synthetic_rows as synthetic

KEYS = ("h200", "cpu")


@pytest.fixture
def root(tmp_path):
    """Table 7 of two devices."""
    for kind in ("cuda", "cpu"):
        synthetic.write(tmp_path, synthetic.study_rows("table7", kind=kind))
    return tmp_path


def test_devices_are_read_in_order_and_one_without_rows_is_none(root):
    (root / "empty").mkdir()
    sources = [*(Source(key, root / key) for key in KEYS), Source("empty", root / "empty")]
    *devices, nothing = beside.read(sources)
    assert nothing is None
    assert [device and device.key for device in devices] == list(KEYS)
    assert devices == [beside.device_of(load(root, key)) for key in KEYS]
    assert devices[0] and devices[1] and devices[0].name != devices[1].name


def test_what_a_device_says_is_what_its_lines_do(root):
    device = beside.device_of(load(root, "cpu"))
    (speed,) = device.speeds["restv2_tiny@224", "eager", ()].values()
    timing = load(root, "cpu").timing(speed.case, results.STUDIES["table7"])
    assert timing and speed.images_per_s == timing.images_per_s.value
    counts = load(root, "cpu").counted(speed.case)
    assert counts and speed.macs == counts.macs["core"]
    assert (speed.title, speed.batch) == ("ResTv2-Tiny", timing.batch)
    assert [finding.claim for finding in device.findings] == beside.OF_TIME


def test_one_core_reads_without_other_processes(root, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr("multiprocessing.get_context", None)
    devices = beside.read([Source(key, root / key) for key in KEYS])
    assert [device and device.key for device in devices] == list(KEYS)


def test_a_process_that_the_system_ends_is_one_line(root, monkeypatch):
    def ended(_):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(beside, "device_of", ended)
    with pytest.raises(Failure, match="reading 2 devices was ended from outside"):
        beside.read([Source(key, root / key) for key in KEYS])


def test_a_link_to_a_devices_rows_is_no_other_device(root):
    (root / "link").symlink_to(root / "cpu")
    assert [source.path.resolve().name for source in neighbours(root, load(root, "h200"))] == ["cpu"]
    assert [source.key for source in neighbours(root, load(root, "cpu"))] == ["h200"]


def test_devices_whose_keys_end_like_places_have_names_of_their_own(root):
    (device,) = beside.read([Source("cpu", root / "cpu")])
    assert device
    alike = [replace(device, key=key) for key in ("h100", "h100", "h100-1")]
    assert len(set(beside.keys(alike))) == len(set(beside.names(alike))) == 3


def test_neighbours_are_those_of_the_same_folder_with_the_last_run_first(root):
    reference = root / "reference" / "h100"
    reference.mkdir(parents=True)
    for place, folder in enumerate((root / "h200", root / "cpu", reference)):
        file = folder / "run.jsonl"
        file.touch()
        os.utime(file, (1000 + place, 1000 + place))
        for other in folder.glob("*.jsonl"):
            os.utime(other, (1000 + place, 1000 + place))
    assert [source.key for source in neighbours(root, load(root, "h200"))] == ["cpu"]
    assert [source.key for source in results.sources(root)] == ["reference/h100", "cpu", "h200"]


def test_problems_of_a_device_beside_are_a_warning(root, monkeypatch):
    with (root / "h200" / "run.jsonl").open("a") as file:
        file.write("not JSON\n")
    monkeypatch.setattr(command, "RESULTS", root)
    found = command.results_of(["cpu", "h200"], None)
    assert found.problems == ["h200: 1 problem in its rows, as its own report says"]
