"""The command line as a person and as a program meet it: what is printed where, and the exit status.

Most of it runs in this process, with no GPU in sight whatever the machine has; measuring takes real workers.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from bench import jobs, process, protocols, record, studies
from bench.__main__ import main
from bench.cases import parse
from bench.conventions import CONVENTIONS
from bench.machine import devices, provenance
from bench.machine.devices import Device, Listing
from bench.protocols import Rules
from bench.studies import Study
from tests.support.json_schema import SCHEMA, faults
from tests.support.runs import count_here
from tests.support.sweeps import sweep

NO_DRIVER = "no CUDA driver: its library NVML is not on this machine"

NETS = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
"""


@pytest.fixture(autouse=True)
def this_process_stays_as_it_was() -> Iterator[None]:
    """The command line takes SIGTERM for itself."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder as the current one, with a user's module in it, on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(provenance.ROOT))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(devices, "devices", lambda: Listing([], NO_DRIVER))
    (tmp_path / "nets.py").write_text(NETS)
    sys.modules.pop("nets", None)
    return tmp_path


@pytest.fixture(autouse=True)
def counted_here(request, monkeypatch):
    """Counts are made in this process, as a worker would first import torch; not in tests marked `in_a_worker`."""
    if not request.node.get_closest_marker("in_a_worker"):
        count_here(monkeypatch)


def bench(*arguments: str, status: int = 0) -> SimpleNamespace:
    """Run a command, hold it to its exit status, and to saying no traceback."""
    result = CliRunner().invoke(main, arguments, prog_name="python -m bench")
    assert isinstance(result.exception, SystemExit | None), result.exc_info
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return SimpleNamespace(out=result.stdout, err=result.stderr, json=lambda: json.loads(result.stdout))


def record_of(*arguments: str) -> dict[str, Any]:
    """The one record that a command prints as JSON, held to the schema."""
    document = bench(*arguments, "--json").json()
    assert list(faults(document, SCHEMA)) == []
    assert document["command"] == arguments[0]
    (record,) = document["records"]
    return record


def refused(*arguments: str, status: int = 2) -> str:
    """The one line on standard error of a command that did nothing."""
    said = bench(*arguments, status=status)
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert not Path("results").is_dir()
    return line.removeprefix("error: ")


# --- The shape of it -------------------------------------------------------------------------------------

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


# --- Predictions and fits --------------------------------------------------------------------------------


def test_a_prediction_says_that_it_is_one_with_its_interval_and_where_its_rates_come_from():
    text = bench("predict", "restv2_lite:b8", "--gpu", "a100").out
    first, _, rates, *_ = text.splitlines()
    assert first.startswith("restv2_lite@224:b8:fp16:eager on NVIDIA A100 SXM4 80 GB: predicted ")
    assert "in nine of ten cases" in first and "rtx3090 and rtx4090" in rates
    document = bench("predict", "restv2_lite:b8", "--gpu", "a100", "--json").json()
    assert list(faults(document, SCHEMA)) == []
    (record,) = document["records"]
    (counted,) = bench("macs", "restv2_lite", "--convention", "core", "--json").json()["records"]
    assert (record["basis"], record["macs"]) == ("scaled", counted["macs"])
    ends = [record[f"predicted_images_per_s{end}"] for end in ("_low", "", "_high")]
    assert ends == sorted(ends)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["restv2_lite", "--gpu", "h1000"], "no datasheet of a GPU 'h1000'"),
        (["restv2_lite:train", "--gpu", "v100"], "inference is predicted"),
        (["restv2_lite:bf16", "--gpu", "v100"], "says no bf16"),
        (["restv2_lite[autocast]:fp16", "--gpu", "v100"], "bytes and launches unknown"),
    ],
)
def test_what_cannot_be_predicted_is_wrong_usage(arguments, why):
    assert why in bench("predict", *arguments, status=2).err


def test_our_own_rows_are_fitted():
    reference = str(provenance.ROOT / "results" / "reference" / "cpu")
    text = bench("fit", reference).out
    assert text.startswith("cpu, fp32, eager: 27 rows") and "MACs alone" in text and "GB/s" in text
    document = bench("fit", reference, "--json").json()
    assert list(faults(document, SCHEMA)) == []
    assert document["records"][0]["median_error"] < document["records"][0]["macs_alone_median_error"]


def test_nothing_to_fit_is_an_error(place):
    assert "no throughput in results/" in bench("fit", status=1).err
    (place / "other.csv").write_text("a,b\n1,2\n")
    assert "no speeds in it" in bench("fit", "other.csv", status=2).err


# --- What there is ---------------------------------------------------------------------------------------


def test_studies_are_listed_with_question_and_number_of_cases():
    text = bench("studies").out
    for study in studies.STUDIES.values():
        assert study.name in text
        assert study.question in text
        assert f"{len(study.parsed('cuda', False))} cases on a GPU" in text
    assert text.count("what `run` does by default") == len(studies.DEFAULT)


def test_studies_as_json_are_cases_that_parse():
    records = bench("studies", "--json").json()["records"]
    assert {asked["study"] for asked in records} == set(studies.STUDIES)
    for asked in records:
        assert asked["question"].endswith("?")
        assert asked["device_kind"] in ("cpu", "cuda")
        assert str(parse(asked["case"])) == asked["case"]
        assert (asked["harness"] == "compare") == (asked["other_case"] is not None)


def test_models_are_listed_with_implementations_and_options():
    text = bench("models").out
    for expected in (
        *("restv2_tiny", "ResTv2-T", "mhim", "swin_base", "timm:NAME", "module:Class", "autocast"),
        *("pe=none|ape|rpe|peg|pa", "stem=three_conv|pool", "weights=FILE", "images=FOLDER"),
    ):
        assert expected in text
    listed = bench("models", "--json").json()
    assert listed["restv2_tiny"]["title"] == "ResTv2-T"
    assert listed["restv2_tiny"]["options"].keys() == {
        *(
            "attention",
            "branches",
            "target",
            "upsample",
            "pe",
            "style",
            "mhim",
            "head",
            "detections",
            "weights",
        )
    }
    assert listed["restv2_tiny"]["options"]["target"]["values"] == ["none", "x", "k", "v"]
    every = ["eager", "sdpa", "compile", "fused", "fused+compile", "auto"]
    assert listed["restv2_tiny"]["implementations"] == every
    # MHIM needs the map, which SDPA never forms
    assert listed["restv1_base"]["implementations"] == [impl for impl in every if impl != "sdpa"]
    assert listed["pvt_tiny"]["implementations"] == ["eager", "sdpa", "compile", "auto"]
    assert listed["convnext_tiny"]["implementations"] == ["eager", "compile", "auto"]


def test_every_listed_model_and_option_is_taken_in_a_case():
    for name, about in bench("models", "--json").json().items():
        for impl in about["implementations"]:
            parse(f"{name}:{impl}")
        for option, its in about["options"].items():
            for value in its["values"] or [{"weights": "w.pth", "detections": "5"}.get(option, "")]:
                if name == "restv2_tiny" or not value.startswith(
                    "convnetv"
                ):  # the deeper ConvNets are ResTv2-T's
                    # parts are those of what has windows, and detections those of a detector
                    also = {"part": ",style=win", "detections": ",head=mask_rcnn"}.get(option, "")
                    parse(f"{name}[{option}{'=' if value else ''}{value}{also}]")


def test_counting_says_where_an_image_is_smaller_than_a_window():
    said = bench("macs", "attention_tiny[stage=4,style=win]@64x96").out
    line = (
        "an image of 64x96 is smaller than a window, which spans 256 pixels: 91 % of the tokens are padding"
    )
    assert said.splitlines()[-1].strip() == line
    for text in ("attention_tiny[stage=4]@64x96", "attention_tiny[stage=4,style=win]@256"):
        assert "window, " not in bench("macs", text).out


def test_gpus_says_what_is_known_and_that_none_is_here_and_why():
    said = bench("gpus")
    for name in ("v100", "t4", "a100", "l4", "rtx4090", "h100", "h200", "b200"):
        assert f"\n{name} " in f"\n{said.out}"
    assert f"no GPU here: {NO_DRIVER}" in said.out
    listed = bench("gpus", "--json").json()
    assert listed["here"] == []
    assert listed["reason"] == NO_DRIVER
    assert listed["known"].keys() >= {"v100", "h200"}


def synthetic_h200() -> Device:
    from bench.machine.gpus import profiles

    return Device("cuda", 0, "NVIDIA H200", "GPU-synthetic", 140.0, "9.0", "580", profile=profiles()["h200"])


def test_gpus_lists_what_is_here_with_the_name_to_type(monkeypatch):
    monkeypatch.setattr(devices, "devices", lambda: Listing([synthetic_h200()]))
    assert "here: NVIDIA H200 (index 0), as h200" in bench("gpus").out
    (here,) = bench("gpus", "--json").json()["here"]
    assert (here["key"], here["profile"], here["uuid"]) == ("h200", "h200", "GPU-synthetic")


def test_no_two_columns_of_a_listing_run_together():
    for command in ("models", "gpus"):
        lines = bench(command).out.splitlines()
        known = [line for line in lines if re.match(r"[a-z0-9_]+ ", line) and not line.startswith("no GPU")]
        assert len(known) > 5
        starts = {match.end() for line in known if (match := re.match(r"\S+ {2,}", line))}
        assert len(starts) == 1
    assert re.search(r"  ResTv2-T  +eager, sdpa", bench("models").out)


def test_the_papers_own_name_is_a_model_and_a_model_of_timms_is_called_one():
    assert str(parse("ResTv2-T@384")) == "restv2_tiny@384:eager"
    assert str(parse("Swin-T[cold]")) == "swin_tiny[cold]@224:eager"
    assert "timm:resnet18" in refused("macs", "resnet18")


def test_the_version_is_the_commit_and_what_decides_a_time():
    said = bench("--version").out
    assert said.startswith(f"commit {provenance.source()['commit']}")
    assert f"\ntorch {provenance.versions()['torch']}\n" in said


def test_a_dry_run_lists_each_row_with_its_cost_and_leaves_nothing():
    lines = bench("run", "--study", "table7", "--gpu", "cpu", "--dry-run").out.splitlines()
    for case in studies.STUDIES["table7"].parsed("cpu", False):
        assert [
            line
            for line in lines
            if re.fullmatch(rf"throughput +{re.escape(str(case.resolve(1, 'fp32')))} +\d+ s", line)
        ]
    assert lines[-1].startswith(f"{len(lines) - 1} rows ")
    assert not Path("results").exists()


def test_modules_are_rolled_up_to_the_depth_that_is_asked_for():
    whole = record_of("macs", "restv2_lite@64", "--by", "module")
    outer = record_of("macs", "restv2_lite@64", "--by", "module", "--depth", "1")
    assert outer["macs"] == sum(outer["macs_by_module"].values()) == sum(whole["macs_by_module"].values())
    assert {name.partition(".")[0] for name in whole["macs_by_module"]} == set(outer["macs_by_module"])
    assert "--by module" in refused("macs", "restv2_lite@64", "--depth", "1")


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


# --- Wrong names: one line, exit status 2, and nothing is made -------------------------------------------

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


# --- macs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["operator", "module"])
@pytest.mark.parametrize("convention", ["core", "fvcore", "paper", "paper-no-attention"])
def test_macs_as_json_are_integers_that_add_up(by, convention):
    printed = record_of("macs", "restv2_lite@64", "--convention", convention, "--by", by)
    assert printed["case"] == "restv2_lite@64:eager"
    assert printed["convention"] == convention
    parts = printed[f"macs_by_{by}"]
    numbers = [printed["parameters"], printed["macs"], *parts.values()]
    assert [number for number in numbers if type(number) is not int or number <= 0] == []
    assert sum(parts.values()) == printed["macs"]


def test_macs_of_a_users_model_by_hand():
    printed = record_of("macs", "nets:Net@8", "--convention", "core")
    # 4 filters of 3·3·3 and a bias; 4·5 and a bias. The map is 6 by 6.
    assert printed["parameters"] == 4 * 27 + 4 + 4 * 5 + 5
    assert printed["macs_by_operator"] == {"conv": 4 * 27 * 6 * 6, "linear": 4 * 5}
    by_module = record_of("macs", "nets:Net@8", "--convention", "core", "--by", "module")
    assert by_module["macs_by_module"] == {"0": 4 * 27 * 6 * 6, "3": 20}
    assert by_module["parameters_by_module"] == {"0": 4 * 27 + 4, "3": 4 * 5 + 5}
    lines = bench("macs", "nets:Net@8", "--convention", "core", "--by", "module").out.splitlines()
    # 3·8·8 elements in and 4·6·6 out of four bytes, and 112 weights: 2 · 3,888 FLOP over 1,792 bytes
    assert lines[3].split() == ["0", "3,888", "99.5", "%", "1", "1,344", "448", "4.339", "112"]


@pytest.mark.parametrize("depth", [(), ("--depth", "1"), ("--depth", "2")])
def test_parameters_by_module_add_up_at_every_depth(depth):
    printed = record_of("macs", "restv2_lite[pe=ape]@64", "--by", "module", *depth)
    owned = printed["parameters_by_module"]
    assert sum(owned.values()) == printed["parameters"]
    assert max(name.count(".") for name in owned) < (int(depth[1]) if depth else 99)
    lines = bench("macs", "restv2_lite[pe=ape]@64", "--by", "module", *depth).out.splitlines()
    said = {line.split()[0]: int(line.split()[-1].replace(",", "")) for line in lines[3:] if " % " in line}
    assert {name or "(model)": count for name, count in owned.items()}.items() <= said.items()
    assert sum(said.values()) == printed["parameters"]


def test_macs_for_a_person_name_the_convention_and_the_shares():
    lines = bench("macs", "nets:Net@8", "--convention", "core").out.splitlines()
    assert lines[0] == "nets:Net@8:eager: 137 parameters, 3,908 MACs (3.908 k) as `core` counts"
    assert lines[3].split() == ["conv", "3,888", "99.5", "%", "1", "1,344", "448", "4.339"]
    # 4 elements in, 5 out; 20 weights and 5 of bias; 40 FLOP over 136 bytes
    assert lines[4].split() == ["linear", "20", "0.5", "%", "1", "36", "100", "0.2941"]


def test_bytes_follow_from_dtype_and_batch():
    """Weights are read once for a batch, all else for each of its images."""
    one = record_of("macs", "nets:Net@8", "--convention", "core")
    conv = one["traffic_by_operator"]["conv"]
    assert (conv["bytes_per_image"], conv["bytes_once"]) == (4 * (192 + 144), 4 * 112)
    halved = record_of("macs", "nets:Net@8:b16:fp16", "--convention", "core")["traffic_by_operator"]["conv"]
    assert (halved["bytes_per_image"], halved["bytes_once"]) == (2 * (192 + 144), 2 * 112)
    assert halved["flop_per_byte"] == 2 * 16 * 3888 / (16 * 672 + 224)


def test_macs_check_with_fvcore_says_whether_it_agrees():
    assert "fvcore counts" in bench("macs", "nets:Net@8", "--check").out


LEAVES = """
import sys
from nets import Net


class Gone(Net):
    def forward(self, x):
        sys.exit(0)


class Loud(Net):
    def forward(self, x):
        print("hello")
        return super().forward(x)
"""


@pytest.mark.in_a_worker
def test_a_model_that_ends_its_process_cannot_end_macs_in_silence(place):
    (place / "leaves.py").write_text(LEAVES)
    line = refused("macs", "leaves:Gone@8", status=1)
    assert line.startswith("leaves:Gone@8")
    assert "crashed with exit status 0" in line


@pytest.mark.in_a_worker
def test_what_a_model_prints_is_not_in_the_json(place):
    (place / "leaves.py").write_text(LEAVES)
    assert record_of("macs", "leaves:Loud@8")["parameters"] == 137


# --- Checkpoints that are none ---------------------------------------------------------------------------


class Malicious:
    """Touches a file when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.fixture
def checkpoints(place) -> dict[str, str]:
    """File by what is wrong with it."""
    (place / "corrupt.pth").write_bytes(b"PK\x03\x04 not a zip file")
    (place / "malicious.pth").write_bytes(pickle.dumps(Malicious()))
    torch.save({"model": {"weight": Malicious()}}, place / "malicious_zip.pth")
    torch.save({"model": {"fc.weight": torch.zeros(3)}}, place / "foreign.pth")
    return {
        "corrupt.pth": "corrupt",
        "malicious.pth": "would execute code",
        "malicious_zip.pth": "would execute code",
        "foreign.pth": "does not fit the model",
    }


@pytest.mark.parametrize(
    "command",
    [
        ["measure", "restv2_lite[weights={}]@32"],
        ["measure", "nets:Net[weights={}]@8"],
        ["compare", "nets:Net@8", "restv2_lite[weights={}]@32"],
        ["branches", "restv2_lite[weights={}]@32"],
        ["run", "--study", "own.toml"],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("name", ["absent.pth", "folder", "loop.pth", "x" * 300])
def test_weights_that_are_not_there_are_one_line_before_a_worker_starts(place, command, name, monkeypatch):
    (place / "folder").mkdir()
    (place / "loop.pth").symlink_to("loop.pth")
    study = 'name = "own"\nquestion = "?"\ncases = ["nets:Net@8", "restv2_lite[weights={}]@32"]\n'
    (place / "own.toml").write_text(study.format(name))
    monkeypatch.setattr(process.Worker, "__init__", None)  # none is to be started
    line = refused(*(part.format(name) for part in command), "--gpu", "cpu")
    assert line.startswith(f"cannot read {name}: ")
    assert f"weights={name}]" in line  # the case that is meant


def test_a_count_needs_no_weights_and_does_not_open_the_file(checkpoints):
    plain = record_of("macs", "restv2_lite@64")
    for name in checkpoints:
        counted = record_of("macs", f"restv2_lite[weights={name}]@64")
        assert counted.pop("case") == f"restv2_lite[weights={name}]@64:eager"
        assert counted.items() <= plain.items()
    assert not Path("executed").exists()


# --- Measuring, for real ---------------------------------------------------------------------------------

TINY = Rules("default", 1, 0.0, 0.0, 6, None, 0.02, limit_s=100)


@pytest.fixture
def in_no_time(monkeypatch) -> None:
    """The protocols, but for a second or less."""
    for name in ("default", "quick"):
        monkeypatch.setitem(protocols.PROTOCOLS[name], "cpu", TINY)


def unhurried(line: str) -> str:
    """A row's line without the notes that a busy host adds, which a test cannot foresee."""
    return re.sub(r"; (busy host|a container's quota|\d+ threads? computed)[^;]*", "", line)


def test_measure_prints_macs_throughput_latency_and_memory_and_keeps_the_rows(place, in_no_time):
    said = bench("measure", "nets:Net@8:b2", "--gpu", "cpu")
    counted, rate, memory, delay = said.out.splitlines()
    assert counted.startswith("nets:Net@8:eager: 137 parameters, 3,908 MACs")
    assert rate.startswith("nets:Net@8:b2:fp32:eager: ")
    assert unhurried(rate).endswith(" images/s, back to back")
    assert re.search(r" ms for a batch of 2, each waited for(; p9\d [\d.]+)*$", unhurried(delay))
    assert "peak memory" in memory
    assert "of the largest logit off its own eager" in memory
    assert "nets:Net" not in said.err  # each row is said once
    rows = record.read(place / "results" / "cpu").rows
    assert [row["harness"] for row in rows] == ["macs", "throughput", "latency"]
    assert {row["outcome"] for row in rows} == {"ok"}


LOOKS = [("measure", "nets:Net@8"), ("compare", "nets:Net@8", "nets:Net@9")]


@pytest.mark.parametrize("asked", [LOOKS[0], pytest.param(LOOKS[1], marks=sweep)])
def test_a_quick_look_is_one_visit_from_which_nothing_is_concluded(place, asked):
    timed = [
        printed
        for printed in bench(*asked, "--gpu", "cpu", "--quick", "--json").json()["records"]
        if printed["harness"] != "macs"
    ]
    assert {(printed["protocol"], printed["visits"]) for printed in timed} == {("quick", 1)}
    assert {printed["interval"] for printed in timed} == {"the spread within one run"}
    assert {printed["verdict"] for printed in timed} <= {None, "undecided"}


def test_compare_prints_a_ratio_with_its_interval_and_as_json_the_same(place, in_no_time):
    printed = record_of("compare", "nets:Net@8", "nets:Net@16:b3")
    assert (printed["harness"], printed["outcome"]) == ("compare", "ok")
    assert printed["case"] == "nets:Net@8:b1:fp32:eager"
    assert printed["other_case"] == "nets:Net@16:b3:fp32:eager"
    assert printed["ratio_low"] <= printed["ratio"] <= printed["ratio_high"]
    (row,) = record.read(place / "results" / "cpu").rows
    assert printed["row"] == row["key"]
    from bench.screen import describe

    line = describe(row)
    assert re.search(
        r" / nets:Net@16:b3:fp32:eager: the first takes [0-9.]+ times as long an image \(.* to ", line
    )


@pytest.fixture
def unchanging_source(monkeypatch) -> None:
    """Somebody may edit the checkout while the tests run; the rows of a moment ago are to count even so."""
    of_now = provenance.source_hash(["bench", "models", "kernels"])
    monkeypatch.setattr(jobs, "source_hash", lambda paths: of_now)


def test_run_measures_a_study_says_what_failed_and_returns_1_then_reuses_it(
    place, in_no_time, unchanging_source, checkpoints, monkeypatch
):
    tried = ("malicious_zip.pth", "foreign.pth")
    good, bad = "nets:Net@8", [f"restv2_lite[weights={name}]@32" for name in tried]
    chosen = [good, *bad]
    study = Study("trial", "Is this a trial?", lambda kind, quick: tuple(chosen))
    monkeypatch.setattr(studies, "STUDIES", {"trial": study})
    said = bench("run", "--study", "trial", "--study", "trial", "--quick", "--json", status=1)
    assert list(faults(said.json(), SCHEMA)) == []
    (summary,) = said.json()["runs"]  # named twice, run once
    assert summary["device"] == "cpu"
    assert (summary["measured"], summary["reused"], summary["failed"]) == (1 + 2 * len(chosen), 0, len(bad))
    assert {"all_s", "imports_s", "build_s", "forward_s"} < set(summary)
    outcomes = [printed["outcome"] for printed in said.json()["records"]]
    assert outcomes.count("ok") == 2 + len(chosen)
    rows = record.read(place / "results" / "cpu").rows
    assert [row["harness"] for row in rows] == [
        "peaks",
        *["macs"] * len(chosen),
        *["throughput"] * len(chosen),
    ]
    for name in tried:
        (row,) = (row for row in rows if f"weights={name}" in row["case"] and row["harness"] == "throughput")
        assert row["outcome"] == "failed"
        assert checkpoints[name] in row["reason"]
        assert f"{row['case']}: failed: {row['reason']}" in said.err.splitlines()
    assert not Path("executed").exists()

    study = Study("trial", "Is this a trial?", lambda kind, quick: (good,))
    monkeypatch.setattr(studies, "STUDIES", {"trial": study})
    again = bench("run", "--study", "trial", "--quick")
    assert again.out == ""
    assert "3 of 3 rows are there already and are used again" in again.err
    assert "0 rows measured, 3 used again, 0 failed" in again.err
    assert len(record.read(place / "results" / "cpu").rows) == len(rows)


def test_what_this_device_does_not_run_ends_a_study_well_and_a_single_measurement_badly(
    in_no_time, monkeypatch
):
    graph = "core_lite[graph,stage=4]@32:b1"
    study = Study("trial", "?", lambda kind, quick: (graph, "core_lite[stage=4]@32:b1:sdpa"))
    monkeypatch.setattr(studies, "STUDIES", {"trial": study})
    said = bench("run", "--study", "trial", "--quick", "--json")
    assert f"{graph}:fp32:eager: refused: a CUDA graph needs an NVIDIA GPU" in said.err
    assert "0 failed, 1 not to be had here" in said.err
    assert said.json()["runs"][0]["refused"] == 1
    said = bench("measure", graph, status=1)
    assert "refused: a CUDA graph needs an NVIDIA GPU" in said.out


@pytest.mark.parametrize("command", [["run", "--study", "table1"], ["measure", "nets:Net@8"]], ids=" ".join)
def test_a_results_folder_that_cannot_be_written_is_one_line_and_status_1(place, command):
    (place / "results").write_text("a file where a folder has to be")
    said = bench(*command, "--gpu", "cpu", status=1)
    assert said.out == ""
    line = said.err.splitlines()[-1]
    assert line.startswith("error: cannot write results/cpu/")
    assert len(said.err.splitlines()) <= 2  # what was to be run, and why it is not


def test_a_second_run_into_the_same_file_is_refused(place):
    with record.ResultsFile(Path("results/cpu/measure.jsonl")).locked():
        assert "another run is measuring into" in bench("measure", "nets:Net@8", status=1).err


# --- How the tests above can say so little of counting ---------------------------------------------------


def test_the_conventions_of_the_command_are_those_of_the_counter():
    option = next(parameter for parameter in main.commands["macs"].params if parameter.name == "convention")
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == tuple(CONVENTIONS)
