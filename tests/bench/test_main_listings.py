"""The listings of the command line: studies, models, GPUs, the rows of a dry run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import studies
from bench.cases import parse
from bench.machine import devices
from bench.machine.devices import Listing
from tests.support.command_line import NO_DRIVER, bench, refused, synthetic_h200

pytestmark = pytest.mark.usefixtures("place", "counted_here")


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


def test_gpus_says_what_is_known_and_that_none_is_here_and_why():
    said = bench("gpus")
    for name in ("v100", "t4", "a100", "l4", "rtx4090", "h100", "h200", "b200"):
        assert f"\n{name} " in f"\n{said.out}"
    assert f"no GPU here: {NO_DRIVER}" in said.out
    listed = bench("gpus", "--json").json()
    assert listed["here"] == []
    assert listed["reason"] == NO_DRIVER
    assert listed["known"].keys() >= {"v100", "h200"}


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
