"""Counts that are kept: made once, anew where what they depend on is another, and never believed damaged."""

from __future__ import annotations

import pytest

from bench import kept
from bench.cases import parse
from bench.errors import UsageError
from bench.jobs import job_of
from bench.machine import provenance
from bench.machine.devices import cpu_device
from bench.protocols import PROTOCOLS

CPU = cpu_device()
COUNT = {"parameters": 30_400_000, "conventions": {"core": {"macs": 4_100_000_000}}}, ["a note"]


class Counting:
    """Answers each job with COUNT, and knows how often it was asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self, job, device):
        self.asked += 1
        return COUNT


@pytest.fixture(autouse=True)
def source(monkeypatch):
    """A source whose hash need not be taken."""

    def source_hash(paths):
        assert paths == provenance.OURS  # of all, whatever a count comes from
        return "source"

    monkeypatch.setattr(provenance, "source_hash", source_hash)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(kept.FOLDER, str(tmp_path / "kept"))
    return tmp_path / "kept"


def asked(*texts: str, harness: str = "breakdown", times: int = 2) -> int:
    """How often somebody who asks for each case some times is answered by a count made anew."""
    counting = Counting()
    for text in texts * times:
        job = job_of(harness, CPU, PROTOCOLS["default"]["cpu"], parse(text))
        assert kept.once(job, CPU, counting) == COUNT
    return counting.asked


def test_a_count_is_made_once_and_each_case_has_its_own(folder):
    assert asked("restv2_tiny", "restv2_tiny@384", "restv2_tiny[mhim]", times=3) == 3
    assert len(list(folder.iterdir())) == 3
    assert asked("restv2_tiny") == 0


@pytest.mark.parametrize("what", ["the source", "a version"])
def test_another_source_or_version_counts_anew(folder, monkeypatch, what):
    assert asked("swin_tiny") == 1
    if what == "the source":
        monkeypatch.setattr(provenance, "source_hash", lambda paths: f"another of {paths}")
    else:
        versions = provenance.versions()
        monkeypatch.setattr(provenance, "versions", lambda: {**versions, "timm": "0.1"})
    assert asked("swin_tiny") == 1


def test_what_is_damaged_in_any_byte_or_cut_off_is_counted_anew(folder):
    assert asked("restv2_tiny") == 1
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert asked("restv2_tiny") == 1
        file.write_bytes(whole[:place])
        assert asked("restv2_tiny") == 1
    assert file.read_bytes() == whole


def test_a_users_module_and_a_check_are_counted_each_time(folder):
    assert asked("hers:Net") == 2
    assert asked("restv2_tiny", harness="checked_breakdown") == 2


def test_a_folder_that_cannot_be_written_or_none_costs_only_the_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for folder in (str(tmp_path / "file"), "/proc/nowhere", ""):
        monkeypatch.setenv(kept.FOLDER, folder)
        assert asked("restv2_tiny") == 2
    monkeypatch.delenv(kept.FOLDER)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert asked("restv2_tiny") == 2


def test_an_error_is_not_kept(folder):
    def fail(job, device):
        raise UsageError("no such model")

    job = job_of("breakdown", CPU, PROTOCOLS["default"]["cpu"], parse("restv2_tiny"))
    with pytest.raises(UsageError):
        kept.once(job, CPU, fail)
    assert not folder.exists()
