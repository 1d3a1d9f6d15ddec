"""One run at a time on a device, whatever it writes, and on any file system."""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import replace

import pytest

from bench.errors import Failure
from bench.machine.devices import Device, cpu_device
from bench.machine.lock import held, path_of

ONE = Device("cuda", 0, "NVIDIA H200", "GPU-1", 140.0)
OTHER = replace(ONE, index=1, uuid="GPU-2")


def test_two_runs_on_one_device_are_one_too_many_and_on_two_equal_ones_are_not():
    with held(ONE) as said:
        assert said is None
        with held(OTHER), held(cpu_device()):
            pass
        with pytest.raises(Failure, match="another run is measuring on NVIDIA H200"), held(ONE):
            pass
    with held(ONE):
        pass


def test_the_cpu_is_one_device_however_much_of_it_a_run_may_use():
    half = replace(cpu_device(), uuid="CPU-of-half-a-core")
    with held(cpu_device()), pytest.raises(Failure, match="another run"), held(half):
        pass


@pytest.mark.parametrize("code", [errno.EBADF, errno.ENOSYS, errno.ENOLCK])
def test_where_nothing_can_be_locked_the_run_goes_on_and_says_so(monkeypatch, code):
    def refuse(file: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with held(ONE) as said:
        assert "cannot be locked" in (said or "")


def test_a_folder_that_refuses_is_said_and_another_can_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_LOCKS", str(tmp_path / "absent"))
    with held(ONE) as said:
        assert "No such file" in (said or "")
    monkeypatch.setenv("BENCH_LOCKS", str(tmp_path))
    with held(ONE) as said:
        assert said is None
    assert path_of(ONE).parent == tmp_path
    assert path_of(ONE).stat().st_mode & 0o777 == 0o666  # another user's run has to be kept out as well


def test_a_link_in_a_shared_folder_is_not_followed(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_LOCKS", str(tmp_path))
    (tmp_path / "theirs").touch()
    path_of(ONE).symlink_to(tmp_path / "theirs")
    with held(ONE) as said:
        assert said
