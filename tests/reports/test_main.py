"""`python -m reports`: what it writes, prints and refuses."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import Failure
from reports import __main__ as command
from tests.support import synthetic_rows as synthetic
from tests.support.reporting import ROOT, run


@pytest.fixture
def folder(tmp_path):
    """A working directory with results in it: of a small table, where any will do."""
    synthetic.write(tmp_path / "results", synthetic.study_rows("table7"))
    return tmp_path


def test_the_command_writes_everything_without_torch(folder):
    ours = [
        row for row in synthetic.study_rows() if row["case"].startswith("restv2") and "384" not in row["case"]
    ]
    with synthetic.write(folder / "results", ours).joinpath("run.jsonl").open("a") as file:
        file.write("not a row\n")
    code = """if True:
        import sys
        class NoTorch:
            def find_spec(self, name, *_):
                if name.partition(".")[0] in ("torch", "torchvision", "timm", "triton"):
                    raise ImportError(f"{name} is blocked")
        sys.meta_path.insert(0, NoTorch())
        from reports.__main__ import main
        main(prog_name="python -m reports", args=[])"""
    done = run(folder, code=code, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "not JSON, passed over" in done.stderr
    report = folder / "results/cpu/report"
    named = done.stdout.strip().splitlines()[-1].partition(": ")[2].split(", ")
    assert sorted(named) == sorted(path.name for path in report.iterdir())
    assert {
        "table1.md",
        "table1.csv",
        "index.html",
        "throughput_against_macs.svg",
        "macs_by_operator.png",
    } <= set(named)
    assert "ResTv2-L" in done.stdout


@pytest.mark.parametrize(
    ("part", "unneeded", "written"),
    [("tables", "matplotlib", "table7.csv"), ("page", "pandas", "index.html"), ("--help", "pandas", None)],
)
def test_each_part_does_without_the_others_slow_imports(folder, part, unneeded, written):
    code = f"""if True:
        import sys
        sys.modules["{unneeded}"] = None
        from reports.__main__ import main
        main(args=["{part}"])"""
    done = run(folder, code=code)
    assert done.returncode == 0, done.stderr
    report = folder / "results/cpu/report"
    assert (report / written).exists() if written else not report.exists()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--gpu", "cpo"], 2, "did you mean 'cpu'?"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_wrong_usage_is_told_in_a_line(folder, arguments, status, said):
    done = run(folder, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_no_rows_is_one_clear_line(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: no measurements under results/; `make bench` or `python -m bench run` makes some"
    ]


def test_an_unwritable_folder_is_one_clear_line(folder):
    (folder / "results/cpu/report").write_text("a file where the folder should be")
    done = run(folder, "tables")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"error: cannot write results/cpu/report: {os.strerror(17)}"]


def test_a_disk_that_fills_up_leaves_the_old_files_whole(tmp_path, monkeypatch):
    command.write(tmp_path, {"a": b"old", "b": b"old"})
    real = Path.write_bytes

    def full_at_the_second(path, content):
        if path.name == "b":
            raise OSError(28, os.strerror(28))
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_at_the_second)
    with pytest.raises(Failure, match="No space left"):
        command.write(tmp_path, {"a": b"new", "b": b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old", "b": b"old"}


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_report_that_is_killed_leaves_nothing_that_the_next_does_not_clear_away(tmp_path, kill):
    code = f"""if True:
        import os
        from pathlib import Path
        from reports import __main__ as command
        real = Path.write_bytes
        def killed_at_the_second(path, content):
            if path.name == "b":
                os.kill(os.getpid(), {int(kill)})
            return real(path, content)
        Path.write_bytes = killed_at_the_second
        command.report = lambda *_: command.write(Path({str(tmp_path)!r}), dict(a=b"new", b=b"new"))
        command.main(args=[])"""
    done = run(tmp_path, code=code)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "a").exists() is False
    if kill != signal.SIGKILL:  # after which nobody can clear away
        assert list(tmp_path.iterdir()) == []
    command.write(tmp_path, {"a": b"newer"})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_ctrl_c_while_it_still_imports_is_no_traceback(tmp_path):
    for module, ended in (("reports", (-signal.SIGINT, "", "")), ("bench", (130, "", "stopped\n"))):
        code = f"""if True:
            import os, runpy, signal, sys
            class Interrupting:  # as soon as a library of somebody else's is imported
                def find_spec(self, name, *_):
                    if name == "click":
                        os.kill(os.getpid(), signal.SIGINT)
            sys.meta_path.insert(0, Interrupting())
            sys.argv = ["{module}", "--help"]
            runpy.run_module("{module}", run_name="__main__", alter_sys=True)"""
        done = run(tmp_path, code=code)
        assert (done.returncode, done.stdout, done.stderr) == ended


def test_the_terminal_shows_the_studies_that_were_run(tmp_path):
    synthetic.write(tmp_path / "results", synthetic.study_rows("sweep"))
    only_sweep = run(tmp_path, "tables").stdout
    assert "Batch and resolution" in only_sweep
    assert "Table 1, measured" not in only_sweep
    synthetic.write(tmp_path / "results", synthetic.study_rows("table1"), "table1.jsonl")
    assert "Table 1, measured" in run(tmp_path, "tables").stdout


@pytest.mark.parametrize("onward", ["| head -1", ">&-"], ids=["who leaves early", "closed"])
def test_the_report_is_written_whoever_reads_what_is_printed(folder, onward):
    done = subprocess.run(
        f"'{sys.executable}' -m reports tables {onward}",
        shell=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(folder.rglob("table7.csv"))


def test_an_empty_name_is_no_file_and_not_the_papers(folder):
    done = run(folder, "audit", "")
    assert done.returncode == 2 and "error: " in done.stderr and not done.stdout


def test_a_full_output_is_one_clear_line(folder):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "reports", "tables"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "error: output: No space left on device\n")
