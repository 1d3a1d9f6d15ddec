"""`python -m bench macs`, and what a count has to do with weights."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from bench import process
from bench.__main__ import main
from bench.conventions import CONVENTIONS
from tests.support.command_line import bench, record_of, refused
from tests.support.sweeps import sweep

pytestmark = pytest.mark.usefixtures("place", "counted_here")


def test_counting_says_where_an_image_is_smaller_than_a_window():
    said = bench("macs", "attention_tiny[stage=4,style=win]@64x96").out
    line = (
        "an image of 64x96 is smaller than a window, which spans 256 pixels: 91 % of the tokens are padding"
    )
    assert said.splitlines()[-1].strip() == line
    for text in ("attention_tiny[stage=4]@64x96", "attention_tiny[stage=4,style=win]@256"):
        assert "window, " not in bench("macs", text).out


@pytest.mark.usefixtures("small_models")
def test_modules_are_rolled_up_to_the_depth_that_is_asked_for():
    whole = record_of("macs", "restv2_lite@64", "--by", "module")
    outer = record_of("macs", "restv2_lite@64", "--by", "module", "--depth", "1")
    assert outer["macs"] == sum(outer["macs_by_module"].values()) == sum(whole["macs_by_module"].values())
    assert {name.partition(".")[0] for name in whole["macs_by_module"]} == set(outer["macs_by_module"])
    assert "--by module" in refused("macs", "restv2_lite@64", "--depth", "1")


@pytest.mark.usefixtures("small_models")
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


@pytest.mark.usefixtures("small_models")
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


@sweep
@pytest.mark.in_a_worker
def test_what_a_model_prints_is_not_in_the_json(place):
    (place / "leaves.py").write_text(LEAVES)
    assert record_of("macs", "leaves:Loud@8")["parameters"] == 137


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


def test_the_conventions_of_the_command_are_those_of_the_counter():
    option = next(parameter for parameter in main.commands["macs"].params if parameter.name == "convention")
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == tuple(CONVENTIONS)
