"""Analyses as jobs and rows: what they depend on, and the command that shows them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench import jobs, process
from bench.__main__ import main
from bench.cases import parse
from bench.errors import UsageError
from bench.harness import branches, inputs
from bench.harness.branches import CKA, analyse
from bench.harness.prepare import Spent
from bench.jobs import job_of
from bench.machine import devices, provenance
from bench.protocols import PROTOCOLS
from bench.record import read
from tests.support.pictures import picture
from tests.support.sweeps import sweep

RULES = PROTOCOLS["default"]["cpu"]
CPU = devices.cpu_device()


def test_a_job_fills_in_what_the_case_leaves_open_and_ignores_the_protocol(tmp_path):
    job = job_of("cka", CPU, RULES, parse("restv2_lite"), study="figure4")
    assert (job.text, job.study) == ("restv2_lite@224:b16:fp32:eager", "figure4")
    assert job_of("cka", CPU, RULES, parse("restv2_lite:b8:fp64:sdpa")).text.endswith(":b8:fp64:sdpa")
    quick, other = replace(job, rules=PROTOCOLS["quick"]["cpu"]), replace(job, harness="fourier")
    key, *keys = (jobs.key_of(each, "source", {}, CPU) for each in (job, quick, other))
    assert key == keys[0] != keys[1]
    assert key != jobs.key_of(job, "another source", {}, CPU)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("restv2_lite[images=nowhere]", "images=nowhere: there is no such folder"),
        ("restv2_lite:compile", "branches are looked at in eager or sdpa"),
    ],
)
def test_what_cannot_be_looked_at_is_wrong_usage_before_anything_starts(tmp_path, monkeypatch, text, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=reason):
        job_of("fourier", CPU, RULES, parse(text))


def test_a_time_of_given_images_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="images=FOLDER is for `branches` to look at"):
        job_of("throughput", CPU, RULES, parse(f"restv2_lite[images={tmp_path}]"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five photographs."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for seed in range(5):
        picture((50 + seed, 60), seed).save(folder / ("below" if seed % 2 else "") / f"{seed}.png")
    return folder


def test_a_row_stands_for_these_images_and_weights_and_for_no_others(tmp_path, folder):
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"one")

    def key() -> str:
        case = parse(f"restv2_lite[images={folder},weights={weights}]")
        job = job_of("cka", CPU, RULES, case)
        (source,) = jobs.hashes_of_sources([job])
        return jobs.key_of(job, source, {}, CPU)

    keys = [key()]
    assert key() == keys[0]
    (folder / "notes.txt").write_text("none of its images")
    assert key() == keys[0]
    os.utime(folder / "0.png", (1, 1))
    assert key() == keys[0]  # the same picture, copied again
    picture((51, 49)).save(folder / "0.png")
    keys.append(key())
    (folder / "2.png").rename(folder / "9.png")
    keys.append(key())
    picture((50, 50)).save(folder / "below" / "new.jpg")
    keys.append(key())
    weights.write_bytes(b"two")
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_jobs_that_look_at_no_images_keep_the_keys_that_their_rows_have():
    assert jobs.stamps(job_of("throughput", CPU, RULES, parse("restv2_lite"))) == {}
    assert jobs.stamps(job_of("peaks", CPU, RULES)) == {}


def test_too_little_memory_is_a_line_that_says_what_to_do(monkeypatch):
    def greedy(*arguments, **named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(branches, "analyse", greedy)
    job = job_of("fourier", CPU, RULES, parse("restv2_lite@32"))
    with pytest.raises(
        ValueError, match="out of memory with 16 images at a time: ask for fewer, as :b4 does"
    ):
        branches.fourier(job.cases, RULES, lambda phase: None, Spent())


def test_weights_are_told_apart_by_where_they_come_from(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"abc")
    given = branches.origin(parse(f"restv2_lite[weights={tmp_path / 'w.pth'}]"))
    # SHA-256 of "abc", FIPS 180-2
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert given == {"source": "file", "file": "w.pth", "hash": digest}
    assert branches.origin(parse("restv2_lite"))["source"] == "initial"
    assert branches.origin(parse("timm:vit_tiny_patch16_224"))["source"] == "initial"
    assert branches.origin(parse("my.nets:Net"))["source"] == "module"


@sweep
def test_the_command_looks_at_a_checkpoint_and_a_folder_prints_its_blocks_and_uses_its_rows_again(
    tmp_path, folder, monkeypatch, lite
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "devices", lambda: devices.Listing([], "no driver"))
    of_now = provenance.source_hash(["bench", "models", "kernels"])  # somebody may edit them meanwhile
    monkeypatch.setattr(jobs, "source_hash", lambda paths: of_now)
    torch.save(lite.state_dict(), "lite.pth")
    text = "restv2_lite[images=photos,weights=lite.pth]@32"
    said = CliRunner().invoke(main, ["branches", text, "--gpu", "cpu"])
    assert said.exit_code == 0, said.output
    lines = said.stdout.splitlines()
    assert lines[0].endswith("fourier of 8 blocks, lite.pth, 5 images (folder)")
    assert lines[1].split() == ["up", "to", "Δ", "com", "Δ", "attn", "Δ", "up"]
    assert (
        "cka of 8 blocks, lite.pth, 5 images (folder); CKA of 5 images is noise, and no figure" in lines[10]
    )
    assert lines[11].split() == ["attn_com", "up_com", "up_attn"]
    assert [line.split()[0] for line in lines[2:10]] == [line.split()[0] for line in lines[12:]]

    rows = read(tmp_path / "results" / "cpu").rows
    assert [row["harness"] for row in rows] == ["fourier", "cka"]
    with torch.inference_mode():
        images = inputs.pictures("photos", (32, 32))
        expected = analyse(lite, images, CKA(), batch=16)["cka"]
    for pair, values in expected.items():
        assert rows[1]["result"]["cka"][pair] == pytest.approx(values, abs=1e-4)
    shown = float(lines[12].split()[3])
    assert shown == pytest.approx(expected["up_attn"][0], abs=6e-4)
    for row in rows:
        assert row["result"]["images"] == images.about()
        assert row["result"]["weights"] == branches.origin(parse(text))

    monkeypatch.setattr(process.Worker, "_start", lambda worker: pytest.fail("a row was not used again"))
    again = CliRunner().invoke(main, ["branches", text, "--gpu", "cpu"])
    assert again.stdout == said.stdout
    assert len(read(tmp_path / "results" / "cpu").rows) == 2


@pytest.mark.parametrize(("used", "words"), [(4, "is noise, and no figure"), (16, "off by 0.1"), (64, None)])
def test_a_cka_of_few_images_says_so_in_its_row(used, words, monkeypatch):
    found = {"images": {"used": used}, "cka": {}}
    monkeypatch.setattr(branches, "_looked_at", lambda *_: (found, ["before"]))
    _, notes = branches.cka([parse("restv2_lite@32")], RULES, lambda phase: None, Spent())
    assert notes[0] == "before"
    assert [words in note for note in notes[1:]] == ([True] if words else [])
