"""The README held to the code: its commands parse, its paths exist, its line for completion completes."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.shard import SCHEDULERS, of_environment

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"^python -m bench .*$|`(python -m bench [^`]*)`", TEXT, re.M)) - {""}) + [
    line for line in TEXT.splitlines() if line.startswith("python -m bench ")
]
OF_THE_READER = ("my_", "path/", "w.pth")  # files that only the reader has


def test_there_are_commands():
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line):
    words = shlex.split(line, comments=True)[3:]
    if words == ["--help"]:
        return
    with main.make_context("python -m bench", list(words)) as context:
        name, command, rest = main.resolve_command(context, [*context._protected_args, *context.args])
        assert command
        command.make_context(name, rest, parent=context)


def test_the_variables_of_schedulers_are_those_that_are_read():
    table = TEXT.partition("| scheduler |")[2].partition("\n\n")[0]
    told = [tuple(re.findall(r"`([A-Z_]+)`", line.split("|")[2])) for line in table.splitlines()[2:]]
    assert told == [(scheduler.number, scheduler.count) for scheduler in SCHEDULERS]
    environ = {"JOB_COMPLETION_INDEX": "3", "BENCH_SHARDS": "4"}  # of the last of its Job's four
    assert str(of_environment(environ)[0]) == "4/4"


def test_every_path_exists():
    linked = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert len(linked) > 4
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_every_make_target_and_variable_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", TEXT, re.M))
    for target in {first or second for first, second in targets}:
        assert re.search(rf"^{target}:", makefile, re.M), target
    for variable in set(re.findall(r"\b(GPU|STUDY|CASE|QUICK|STACK)=", TEXT)):
        assert variable in makefile


def test_the_line_for_completion_completes(tmp_path):
    (line,) = re.findall(r"`(eval .*?python -m bench\)\")`", TEXT.replace("\n", " "))
    script = f"""{line}
complete -p bench >&2
COMPREPLY=(); COMP_WORDS=(bench mac); COMP_CWORD=1; _bench_completion bench mac bench; echo "${{COMPREPLY[@]}}"
COMPREPLY=(); COMP_WORDS=(bench macs restv2_l); COMP_CWORD=2; _bench_completion bench; echo "${{COMPREPLY[@]}}"
COMPREPLY=(); COMP_WORDS=(bench measure --g); COMP_CWORD=2; _bench_completion bench; echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "-c", script],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["macs", "restv2_large restv2_lite", "--gpu"], done.stderr


def test_the_answer_is_the_one_that_the_committed_rows_give():
    """So that the first screen changes with the rows, or with the words of the page."""
    from bench.prediction import FILE
    from reports import chapters, page
    from reports.results import load
    from reports.text import significant

    results = load(ROOT / "results", "reference/h100")
    said = page.answer(results, chapters.tell(results))[-1]
    assert said in re.sub(r"\n> ?|\n", " ", TEXT)
    with FILE.open(newline="") as file:
        published = [line for line in csv.DictReader(file) if line["about"] == "amp nchw torch 2.4"]
    assert len(published) == 3
    for line in published:
        errors = [float(line[name]) for name in ("macs_alone_median_error", "median_error")]
        shown = " | ".join([line["rows"], *(f"{significant(error)} %" for error in errors)])
        gpu = f"{line['device'].upper().replace('RTX', 'RTX ')}, {line['dtype']}, {line['way']}"
        assert f"| {gpu} | {shown} |" in TEXT
