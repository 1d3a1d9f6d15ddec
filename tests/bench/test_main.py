"""The command line as a person and as a program meet it: what is printed where, and the exit status.

It runs in this process, with no GPU in sight whatever the machine has.
"""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from bench.__main__ import main
from bench.machine import devices, provenance
from bench.machine.devices import Listing
from tests.support.command_line import NO_DRIVER, bench, refused, synthetic_h200

pytestmark = pytest.mark.usefixtures("place", "counted_here")


# Names choose, they do not configure: a new flag needs a reason, and a line here.
FORMS = ("--json", "--csv", "--md")


PARAMETERS = {
    "studies": [*FORMS],
    "models": ["--json"],
    "gpus": ["--json"],
    "run": ["--study", "--gpu", "--quick", "--protocol", "--fresh", "--shard", "--dry-run", *FORMS],
    "status": ["--json"],
    "slurm": ["--gpu", "--study", "--quick", "--shards", "--submit"],
    "macs": ["case", "--convention", "--by", "--depth", "--check", *FORMS],
    "measure": ["case", "--gpu", "--quick", *FORMS],
    "compare": ["first", "second", "--gpu", "--quick", *FORMS],
    "branches": ["case", "--gpu", *FORMS],
    "regress": ["chosen", "--base", "--module", "--gpu", "--fresh", *FORMS],
    "predict": ["case", "--gpu", *FORMS],
    "fit": ["file", *FORMS],
    "baseline": ["chosen", "--reason", "--gpu", "--fresh"],
    "profile": ["what", "--by", "--gpu", "--quick", "--keep-trace", *FORMS],
}


def test_the_commands_and_their_options_are_these_and_no_others():
    found = {
        name: [
            parameter.opts[0] if isinstance(parameter, click.Option) else parameter.name
            for parameter in command.params
        ]
        for name, command in main.commands.items()
    }
    assert found == PARAMETERS
    assert [parameter.opts for parameter in main.params] == [["--version"]]


@pytest.mark.parametrize("command", PARAMETERS)
def test_help_says_what_it_does_and_explains_each_option(command):
    text = bench(command, "--help").out
    assert text.startswith(f"Usage: python -m bench {command} ")
    assert len(text.split("\n\n")[1].split()) >= 4  # a sentence
    for parameter in main.commands[command].params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in text
            choices = isinstance(parameter.type, click.Choice)
            assert parameter.help or choices
    assert bench(command, "-h").out == text


def test_the_first_help_lists_the_commands_how_a_case_is_written_and_the_exit_statuses():
    text = " ".join(bench("--help").out.split())
    for expected in (
        *PARAMETERS,
        "model[options]@size:bN:dtype:impl:mode",
        "Exit status: 0 done, 1",
        "2 wrong usage",
    ):
        assert expected in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["runn"],
        ["run", "--studdy", "table1"],
        ["measure"],
        ["compare", "restv2_tiny"],
        ["macs", "restv2_tiny", "--convention", "nominal"],
        ["macs", "restv2_tiny", "--by", "layer"],
        ["run", "table1"],
    ],
    ids=" ".join,
)
def test_a_command_written_wrongly_is_wrong_usage_and_the_last_line_says_why(arguments):
    said = bench(*arguments, status=2)
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("Error: ")


def test_the_version_is_the_commit_and_what_decides_a_time():
    said = bench("--version").out
    assert said.startswith(f"commit {provenance.source()['commit']}")
    assert f"\ntorch {provenance.versions()['torch']}\n" in said


@pytest.mark.parametrize("module", ["bench", "reports"])
def test_a_python_without_the_environment_is_told_how_to_enter_it(place, module):
    done = subprocess.run(
        [sys.executable, "-S", "-m", module, "--help"],
        env={**os.environ, "PYTHONPATH": str(provenance.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert ".venv-cuda12/bin/activate" in done.stderr
    assert done.stderr.count("\n") == 1


WRONG = {
    ("compare", "core_lite[cold]@32", "core_lite@32"): ["a comparison is of iterations back to back"],
    ("run", "--study", "tabel1"): ["unknown study 'tabel1'", "did you mean 'table1'?"],
    ("run", "--study", "table1", "--study", "zzz"): ["unknown study 'zzz'", "there are: table1"],
    ("run", "--gpu", "h2000"): ["unknown GPU 'h2000'", "did you mean h200?"],
    ("run", "--gpu", "h200"): ["GPU 'h200' is not here", NO_DRIVER, "type cpu or auto instead"],
    ("measure", "restv2_lite", "--gpu", "h200"): ["GPU 'h200' is not here", NO_DRIVER],
    ("compare", "restv2_lite", "restv2_tiny", "--gpu", "0"): ["GPU '0' is not here", NO_DRIVER],
    ("run", "--protocol", "papper"): ["unknown protocol 'papper'", "did you mean 'paper'?"],
    ("run", "--protocol", "quick"): ["unknown protocol 'quick'"],
    ("run", "--quick", "--protocol", "paper"): ["--quick shortens the default protocol"],
    ("measure", "restv2_tyni"): ["unknown model 'restv2_tyni'", "did you mean 'restv2_tiny'?"],
    ("macs", "restv2_tiny[mihm]"): ["unknown option 'mihm'", "did you mean 'mhim'?"],
    ("macs", "restv2_tiny@31"): ["size 31"],
    ("macs", "restv2_tiny:fp61"): ["unknown part 'fp61'"],
    ("compare", "restv2_tiny", "convnext_tiny:sdpa"): ["ConvNeXt-T has no attention"],
    ("measure", "restv2_lite[autocast]"): ["autocast is for fp16 and bf16, not fp32"],
    ("macs", "timm:no_such_model"): ["timm has no model 'no_such_model'"],
    ("macs", "nets:Absent"): ["cannot make nets:Absent", "AttributeError"],
    ("macs", "no_module_of_this_name:Net"): ["ModuleNotFoundError"],
    ("macs", "a..b:Net"): ["cannot make a..b:Net: ModuleNotFoundError"],
    ("macs", "restv2_tiny[mhim]:sdpa"): ["MHIM works on the attention map"],
}


@pytest.mark.parametrize(("arguments", "expected"), WRONG.items(), ids=lambda value: " ".join(value)[:60])
def test_a_wrong_name_is_one_line_and_status_2(arguments, expected):
    if arguments[0] == "measure" and "autocast" in arguments[1]:
        line = bench(*arguments, status=2).err.splitlines()[-1]  # the results folder is there by then, empty
    else:
        line = refused(*arguments)
    assert [part for part in expected if part not in line] == []


def test_an_absent_gpu_is_told_what_was_found_instead(monkeypatch):
    monkeypatch.setattr(devices, "devices", lambda: Listing([synthetic_h200()]))
    line = refused("run", "--gpu", "a100")
    assert line == "GPU 'a100' is not here: found NVIDIA H200 (index 0) = h200; type h200 or cpu instead"


def test_a_real_process_says_one_line_without_a_traceback_and_returns_2(place):
    """With the machine's own driver or want of one: `nonesuch` is nowhere."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", "--gpu", "nonesuch"],
        env={**os.environ, "PYTHONPATH": str(provenance.ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: unknown GPU 'nonesuch'; ")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_seen_enough_ends_it_quietly(place):
    """`python -m bench models | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "bench", "models"],
        env={**os.environ, "PYTHONPATH": str(provenance.ROOT)},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert done.stderr == ""
