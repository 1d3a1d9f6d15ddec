"""Results files: what was appended stays, what is broken is said, and nothing else is lost."""

import contextlib
import errno
import fcntl
import json
import math
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import record
from bench.errors import Failure
from bench.record import ResultsFile

NAME = "table1.jsonl"


def row(number: int, **parts: object) -> record.Row:
    """A row as far as `record` looks into it, long enough that a torn one is plainly torn."""
    return {
        "schema": record.SCHEMA,
        "key": f"key-{number}",
        "harness": "throughput",
        "case": f"restv2_tiny@224:b{number + 1}:fp32:eager",
        "outcome": "ok",
        "result": {"samples_s": [0.1 * number] * 20, "title": "ResTv2-T · ß"},
        **parts,
    }


def write(folder: Path, *rows: record.Row) -> Path:
    """A results file with these rows, written as the product writes it."""
    with ResultsFile(folder / NAME).locked() as results:
        for each in rows:
            results.append(each)
    return folder / NAME


def keys(folder: Path) -> list[str]:
    return [found["key"] for found in record.read(folder).rows]


def in_a_process(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """`code` in a Python of its own; it finds `path`, ResultsFile and Failure there."""
    prelude = (
        "import os, resource, sys\nfrom pathlib import Path\nfrom bench.errors import Failure\n"
        "from bench.record import ResultsFile\npath = Path(sys.argv[1])\n"
    )
    return subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code), str(path)],
        env={**os.environ, "PYTHONPATH": str(Path(record.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- Appending and reading -------------------------------------------------------------------------------


def test_what_was_appended_is_read_back_in_order(tmp_path):
    rows = [row(number) for number in range(5)]
    write(tmp_path, *rows)
    assert record.read(tmp_path) == record.Rows(rows, [])


def test_the_folder_is_made_and_a_second_run_appends(tmp_path):
    folder = tmp_path / "results" / "cpu"
    write(folder, row(0))
    write(folder, row(1))
    assert keys(folder) == ["key-0", "key-1"]


def test_a_row_is_one_line_whatever_is_in_it(tmp_path):
    odd = row(0, reason='line\nbreak, "quotes", \u2028, \ud800, \x00')
    path = write(tmp_path, odd)
    assert path.read_bytes().count(b"\n") == 1
    assert record.read(tmp_path).rows == [odd]


def test_an_appended_row_is_on_the_disk_before_append_returns(tmp_path, monkeypatch):
    calls: list[str] = []
    write_, fsync = os.write, os.fsync

    def noted_write(file: int, data: bytes) -> int:
        calls.append("write")
        return write_(file, data)

    def noted_fsync(file: int) -> None:
        calls.append("fsync")
        fsync(file)

    monkeypatch.setattr(os, "write", noted_write)
    monkeypatch.setattr(os, "fsync", noted_fsync)
    with ResultsFile(tmp_path / NAME).locked() as results:
        results.append(row(0))
        assert calls == ["write", "fsync"]  # one write, so that no kill can leave half a row
        results.append(row(1))
        assert calls == ["write", "fsync"] * 2


def test_a_row_survives_the_process_being_killed_right_after_append(tmp_path):
    killed = in_a_process(
        """
        with ResultsFile(path).locked() as results:
            results.append({"schema": 1, "key": "k", "harness": "h", "case": "c", "outcome": "ok"})
            os.kill(os.getpid(), 9)
        """,
        tmp_path / NAME,
    )
    assert killed.returncode == -9
    assert keys(tmp_path) == ["k"]
    with ResultsFile(tmp_path / NAME).locked() as results:  # and its lock died with it
        assert results.set_aside is None


def test_all_files_of_a_folder_are_read_and_nothing_beside_them(tmp_path):
    write(tmp_path, row(0))
    (tmp_path / NAME).rename(tmp_path / "sweep.jsonl")
    write(tmp_path, row(1))
    (tmp_path / "table1.torn").write_text('{"schema":')
    (tmp_path / "notes.txt").write_text("not ours")
    assert record.read(tmp_path) == record.Rows([row(0), row(1)], [])


def test_an_empty_or_absent_folder_holds_no_rows(tmp_path):
    (tmp_path / NAME).touch()
    assert record.read(tmp_path) == record.Rows()
    assert record.read(tmp_path / "absent") == record.Rows()


def test_ok_rows_are_those_of_the_harness_that_did_not_fail(tmp_path):
    rows = [row(0), row(1, outcome="failed"), row(2, harness="latency")]
    assert record.Rows(rows).ok("throughput") == [rows[0]]


def test_the_newest_row_of_a_key_counts():
    failed, again, other = row(0, outcome="failed"), row(0), row(1)
    assert record.newest([failed, other, again]) == {"key-0": again, "key-1": other}


def test_a_key_depends_on_every_part_and_not_on_their_order():
    key = record.key_of(case="a", versions={"torch": "2", "python": "3"})
    assert key == record.key_of(versions={"python": "3", "torch": "2"}, case="a")
    assert key != record.key_of(case="b", versions={"torch": "2", "python": "3"})
    assert key != record.key_of(case="a", versions={"torch": "2", "python": "4"})
    assert key != record.key_of(case="a", versions={"torch": "2", "python": None})


# --- A torn last line ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [1, 30, -1])
def test_a_torn_last_line_is_set_aside_and_said_and_no_row_is_lost(tmp_path, kept):
    path = write(tmp_path, row(0), row(1), row(2))
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    torn = whole[last:-1][:kept]
    path.write_bytes(whole[:last] + torn)

    with ResultsFile(path).locked() as results:
        assert results.set_aside
        assert NAME in results.set_aside
        assert "table1.torn" in results.set_aside
        results.append(row(3))

    assert record.read(tmp_path) == record.Rows([row(0), row(1), row(3)], [])
    assert (tmp_path / "table1.torn").read_bytes() == torn + b"\n"


def test_a_file_that_is_nothing_but_half_a_line_is_emptied(tmp_path):
    (tmp_path / NAME).write_bytes(b'{"schema":1,"ke')
    with ResultsFile(tmp_path / NAME).locked() as results:
        assert results.set_aside
    assert (tmp_path / NAME).read_bytes() == b""
    assert (tmp_path / "table1.torn").read_bytes() == b'{"schema":1,"ke\n'


def test_torn_lines_of_several_kills_are_all_kept(tmp_path):
    for torn in (b"first", b"second"):
        with (tmp_path / NAME).open("ab") as file:
            file.write(torn)
        with ResultsFile(tmp_path / NAME).locked() as results:
            assert results.set_aside
    assert (tmp_path / "table1.torn").read_bytes() == b"first\nsecond\n"


def test_a_whole_file_is_not_touched(tmp_path):
    path = write(tmp_path, row(0))
    before = path.read_bytes()
    with ResultsFile(path).locked() as results:
        assert results.set_aside is None
    assert path.read_bytes() == before
    assert not (tmp_path / "table1.torn").exists()


def test_a_reader_meets_a_row_that_is_just_being_written(tmp_path):
    path = write(tmp_path, row(0), row(1))
    half = path.read_bytes()[:-40]
    path.write_bytes(half)
    found = record.read(tmp_path)
    assert found.rows == [row(0)]
    assert found.problems == [f"{NAME} line 2: not JSON, passed over"]
    assert path.read_bytes() == half  # reading mends nothing: the writer may still be at it


# --- Broken lines in the middle --------------------------------------------------------------------------

BROKEN = {
    "not JSON": b"{'schema': 1}",
    "half a row": b'{"schema":1,"key":"k","harn',
    "not UTF-8": b'{"schema":1,"key":"\xff\xfe"}',
    "bytes": bytes(range(128, 200)),
    "no object": b"[1, 2, 3]",
    "a number": b"7",
    "null": b"null",
    "a string": b'"schema"',
    "another schema": json.dumps(row(7, schema=99)).encode(),
    "a later schema in words": json.dumps(row(7, schema="two")).encode(),
    "no schema": b'{"key":"k","harness":"macs","case":"c","outcome":"ok"}',
    "no key": b'{"schema":1,"harness":"macs","case":"c","outcome":"ok"}',
    "a key that cannot be one": json.dumps(row(7, key=["k"])).encode(),
    "an outcome that is no word": json.dumps(row(7, outcome=None)).encode(),
    "no outcome": b'{"schema":1,"key":"k","harness":"macs","case":"c"}',
    "nested beyond reason": b"[" * 100_000,
    "a number of too many digits": b'{"schema":' + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_reported_and_passed_over(tmp_path, broken):
    path = write(tmp_path, row(0), row(1))
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, broken, second, b""]))
    found = record.read(tmp_path)
    assert found.rows == [row(0), row(1)]
    (problem,) = found.problems
    assert problem.startswith(f"{NAME} line 2: not ")
    assert problem.endswith(", passed over")
    assert "\n" not in problem
    assert len(problem) < 300


def test_the_problem_names_the_schema_it_found(tmp_path):
    write(tmp_path, row(0, schema=2))
    assert record.read(tmp_path).problems == [f"{NAME} line 1: not a row (schema 2, not 1), passed over"]


def test_every_broken_line_is_reported_and_empty_ones_are_nothing(tmp_path):
    path = write(tmp_path, row(0))
    path.write_bytes(b"\n" + path.read_bytes() + b"\n   \nbad\n\nworse\n")
    found = record.read(tmp_path)
    assert found.rows == [row(0)]
    assert [problem.split(":")[0] for problem in found.problems] == [f"{NAME} line 5", f"{NAME} line 7"]


def test_a_row_can_be_appended_after_broken_lines_and_they_stay(tmp_path):
    (tmp_path / NAME).write_bytes(b"bad\n")
    write(tmp_path, row(0))
    assert (tmp_path / NAME).read_bytes().startswith(b"bad\n{")
    assert keys(tmp_path) == ["key-0"]


# --- A disk that is full, a folder that refuses ----------------------------------------------------------


@contextmanager
def small_disk(folder: Path, *, read_only: bool = False) -> Iterator[Path]:
    """A file system of 64 KiB, where this process may mount one."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        if read_only:
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill_up(results: ResultsFile) -> tuple[int, str]:
    """Append until it is refused: how many rows were taken, and what was said."""
    for number in range(10_000):
        try:
            results.append(row(number))
        except Failure as error:
            return number, str(error)
    raise AssertionError("the disk never filled up")


def test_a_full_disk_is_one_line_and_every_earlier_row_is_kept(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        with ResultsFile(disk / NAME).locked() as results:
            taken, said = fill_up(results)
        assert taken > 100
        assert said == f"cannot write {disk / NAME}: No space left on device; every earlier row is kept"
        assert (disk / NAME).read_bytes().endswith(b"\n")
        assert keys(disk) == [f"key-{number}" for number in range(taken)]


def test_a_run_goes_on_once_a_full_disk_has_room_again(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(32 * 1024))
        with ResultsFile(disk / NAME).locked() as results:
            taken, _ = fill_up(results)
            ballast.unlink()
            results.append(row(taken))
        assert keys(disk) == [f"key-{number}" for number in range(taken + 1)]


def test_a_torn_line_that_a_full_disk_cannot_set_aside_stays_and_is_a_failure(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        with ResultsFile(disk / NAME).locked() as results:
            taken, _ = fill_up(results)
        with (disk / NAME).open("ab") as file:
            file.write(b'{"torn')  # fits into what is left of the last page
        with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))
        with pytest.raises(Failure, match="No space left on device"), ResultsFile(disk / NAME).locked():
            pass
        assert (disk / NAME).read_bytes().endswith(b'{"torn')
        assert keys(disk) == [f"key-{number}" for number in range(taken)]


def test_a_file_that_may_not_grow_is_one_line_and_every_earlier_row_is_kept(tmp_path):
    """The same without a mount: the process's own limit on the size of files."""
    done = in_a_process(
        """
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        row = {"schema": 1, "harness": "h", "case": "c" * 90, "outcome": "ok"}
        with ResultsFile(path).locked() as results:
            for number in range(1000):
                try:
                    results.append({**row, "key": f"key-{number}"})
                except Failure as error:
                    print(number, error)
                    break
        """,
        tmp_path / NAME,
    )
    taken, said = done.stdout.strip().split(" ", 1)
    assert int(taken) > 10
    assert said.startswith(f"cannot write {tmp_path / NAME}: ")
    assert said.endswith("; every earlier row is kept")
    assert (tmp_path / NAME).read_bytes().endswith(b"\n")
    assert keys(tmp_path) == [f"key-{number}" for number in range(int(taken))]


def test_a_write_that_reaches_the_file_but_not_the_disk_is_taken_back(tmp_path, monkeypatch):
    with ResultsFile(tmp_path / NAME).locked() as results:
        results.append(row(0))

        def refuse(_: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(Failure, match="Input/output error; every earlier row is kept"):
            results.append(row(1))
    assert keys(tmp_path) == ["key-0"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "results").write_text("a file where a folder has to be")
    for path in (tmp_path / "results" / NAME, tmp_path / "results" / "cpu" / NAME):
        with pytest.raises(Failure) as caught:
            ResultsFile(path)
        assert str(caught.value).startswith(f"cannot write {path}: ")
        assert caught.value.status == 1


def test_a_read_only_folder_is_one_line(tmp_path):
    with small_disk(tmp_path / "disk", read_only=True) as disk:
        with pytest.raises(Failure, match="Read-only file system"):
            ResultsFile(disk / "cpu" / NAME)
        with pytest.raises(Failure, match="Read-only file system"):
            ResultsFile(disk / NAME)


def test_a_folder_in_the_files_place_is_one_line(tmp_path):
    (tmp_path / NAME).mkdir()
    with pytest.raises(Failure, match=f"cannot write .*{NAME}: Is a directory"):
        ResultsFile(tmp_path / NAME)
    with pytest.raises(Failure, match=f"cannot read .*{NAME}: Is a directory"):
        record.read(tmp_path)


# --- One writer ------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    path = tmp_path / NAME
    with ResultsFile(path).locked() as first:
        first.append(row(0))
        with pytest.raises(Failure, match="another run is measuring into"), ResultsFile(path).locked():
            pass
        first.append(row(1))  # the refused one broke nothing
    write(tmp_path, row(2))
    assert keys(tmp_path) == ["key-0", "key-1", "key-2"]


def test_the_lock_holds_against_another_process_and_leaves_its_half_line_alone(tmp_path):
    path = tmp_path / NAME
    with ResultsFile(path).locked():
        with path.open("ab") as file:
            file.write(b'{"half')  # as if the holder were in the middle of a row
        done = in_a_process(
            """
            try:
                with ResultsFile(path).locked():
                    print("got it")
            except Failure as error:
                print(error)
            """,
            path,
        )
        assert done.stdout.startswith("another run is measuring into")
        assert path.read_bytes() == b'{"half'


def test_the_lock_is_given_back_when_the_run_fails(tmp_path):
    with pytest.raises(RuntimeError), ResultsFile(tmp_path / NAME).locked():
        raise RuntimeError
    write(tmp_path, row(0))


def test_reading_needs_no_lock(tmp_path):
    with ResultsFile(tmp_path / NAME).locked() as results:
        results.append(row(0))
        assert keys(tmp_path) == ["key-0"]
        results.append(row(1))
        assert keys(tmp_path) == ["key-0", "key-1"]


@pytest.mark.parametrize("code", [errno.EBADF, errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_written_and_said(tmp_path, monkeypatch, code):
    """NFS, Lustre and the like answer so; only EWOULDBLOCK means that another run has the file."""

    def refuse(file: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with ResultsFile(tmp_path / NAME).locked() as results:
        assert "cannot be locked" in (results.noticed or "")
        results.append(row(0))
    assert keys(tmp_path) == ["key-0"]


def test_what_is_locked_is_a_file_open_for_writing(tmp_path, monkeypatch):
    """Network file systems turn flock into a lock that needs write access."""
    locked: list[int] = []
    flock = fcntl.flock

    def noted(file: int, operation: int) -> None:
        locked.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", noted)
    write(tmp_path, row(0))
    assert locked == [os.O_RDWR]


# --- Damage, and other programs --------------------------------------------------------------------------


def test_every_flipped_bit_of_a_row_is_noticed(tmp_path):
    """1,500 of them at random, line breaks included: no damaged row stands for a measurement."""
    path, source = write(tmp_path, row(0), row(1), row(2)), random.Random(15)
    whole, rows = path.read_bytes(), [row(0), row(1), row(2)]
    for _ in range(1500):
        place = source.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        found = record.read(tmp_path)
        assert all(each in rows for each in found.rows), place
        assert found.sealed == found.rows, place
        if place // 8 < len(whole) - 1:  # the end of the file, where a line break ends nothing
            assert found.problems, place
            assert len(found.rows) < 3, place


def test_line_ends_and_a_mark_of_another_system_damage_nothing(tmp_path):
    path = write(tmp_path, row(0), row(1))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    found = record.read(tmp_path)
    assert (found.sealed, found.problems) == ([row(0), row(1)], [])


@pytest.mark.parametrize("at_once", [1, 300, 1 << 18])
def test_it_does_not_matter_how_much_of_a_file_is_looked_at_together(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(record, "AT_ONCE", at_once)
    plain = [row(number, result={"samples_s": [0.1] * 20}) for number in range(3)]
    odd = row(3)  # for whose title a report looks value by value
    path = write(tmp_path, *plain, odd)
    whole = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*whole[:2], b"", b"torn", *whole[2:]]))
    found = record.read(tmp_path)
    assert found.sealed == [*plain, odd]
    assert [id(each) in found.plain for each in found.rows] == [True, True, True, False]
    assert [problem.partition(":")[0] for problem in found.problems] == [f"{NAME} line 4"]


def test_a_row_without_a_sum_is_read_and_not_sealed(tmp_path):
    (tmp_path / NAME).write_text(json.dumps(row(0)) + "\n")
    found = record.read(tmp_path)
    assert (found.rows, found.sealed, found.problems) == ([row(0)], [], [])


GOOD = {"samples_s": [0.1, 0.2], "batch": 2, "statistic": "median"}
DAMAGED = {
    "nothing": None,
    "an empty one": {},
    "a list": [1, 2],
    "no samples": {**GOOD, "samples_s": []},
    "a sample that is no number": {**GOOD, "samples_s": [0.1, math.nan]},
    "an endless one": {**GOOD, "samples_s": [0.1, math.inf]},
    "a negative one": {**GOOD, "samples_s": [0.1, -0.1]},
    "a sample of nothing": {**GOOD, "samples_s": [0.1, 0]},
    "samples in words": {**GOOD, "samples_s": "0.1"},
    "no batch": {"samples_s": [0.1], "statistic": "median"},
    "the result of a count": {"parameters": 3, "conventions": {}},
}


@pytest.mark.parametrize("result", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_result_is_told(result):
    assert record.damage("throughput", GOOD) is None
    assert record.damage("throughput", result)


def replaced(path: Path, content: bytes) -> None:
    """Another file takes the name, as by `sed -i`, an editor or rsync."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def rewritten(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.mark.parametrize("change", [replaced, rewritten, lambda path, _: path.unlink()])
def test_rows_are_not_lost_to_a_program_that_rewrites_the_file(tmp_path, change):
    path = write(tmp_path, row(0))
    before = path.read_bytes()
    with ResultsFile(path).locked() as results:
        results.append(row(1))
        change(path, before)  # what it had read before our row was there
        results.append(row(2))
        assert "were missing there and were put back" in (results.noticed or "")
        assert keys(tmp_path)[-2:] == ["key-1", "key-2"]
        change(path, before)  # and once more, after the last row
    assert keys(tmp_path)[-2:] == ["key-1", "key-2"]
    assert record.read(tmp_path).problems == []


@pytest.mark.parametrize(
    ("value", "is_plain"),
    [
        *((value, True) for value in ("fused+compile", "core+norm", 10**17, -(10**17), 0.1, -1e-300, None)),
        *((value, True) for value in (0.00012345678901234567, [0.00098765432109876543] * 3, 1.5e15)),
        *(
            (value, False)
            for value in ("×", "a\nb", 'a "b"', "\x7f", "\x1b[2J", math.nan, -math.inf, 10**18, -(10**18))
        ),
        *((value, False) for value in ([1, 10**30], [-(10**30)], {"a": 10**19}, 1e300, 9.3e18)),
    ],
)
def test_a_line_tells_whether_its_values_have_to_be_looked_through(tmp_path, value, is_plain):
    row = {"schema": 1, "key": "k", "harness": "h", "case": "c", "outcome": "ok", "result": {"value": value}}
    (tmp_path / "a.jsonl").write_bytes(record.line_of(row))
    rows = record.read(tmp_path)
    assert (id(rows.rows[0]) in rows.plain) == is_plain


def test_of_a_line_that_others_wrote_nothing_is_told(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"schema":1,"key":"k","harness":"h","case":"c","outcome":"ok","result":1E400}'
    )
    rows = record.read(tmp_path)
    assert len(rows.rows) == 1
    assert rows.plain == set()
