"""Compiling ahead of time: the arithmetic, what is read off the tools' output, and a slice that is really compiled."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import aot
from kernels.emsa_upsample import tuning
from kernels.emsa_upsample.tuning import Config
from tests.support.sweeps import sweep

ROOT = Path(__file__).resolve().parents[2]
JOB = aot.Job("forward._emsa_upsample", 90, "fp16", 96, 8, 1, 1, Config(64, 64, 4, design="cell"))


def compiled(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "kernels.aot", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@sweep
@pytest.mark.timeout(400)
def test_a_slice_compiles_for_every_gpu_of_the_stack(tmp_path):
    path = tmp_path / "rows.json"
    done = compiled("--quick", "--json", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert {row["kernel"] for row in rows} >= {"forward._emsa_upsample", "forward_resident.emsa_resident"}
    assert all(row["spilled_bytes"] == 0 and row["fault"] is None for row in rows)


@pytest.mark.trials
def test_everything_that_may_run_compiles(tmp_path):
    done = compiled("--json", str(tmp_path / "rows.json"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_usage_is_two():
    assert compiled("--slow").returncode == 2


@pytest.mark.parametrize(
    ("capability", "registers", "num_warps", "shared", "occupancy"),
    [
        (90, 32, 4, 0, 1.0),
        (90, 255, 4, 0, 8 / 64),  # 65536 registers, 256 · 32 a warp: 8 warps
        (90, 168, 4, 21504, 12 / 64),
        (90, 32, 4, 100 * 1024, 8 / 64),  # two programs of 101 KB in 228
        (75, 64, 4, 0, 1.0),  # half the warps of the others
        (120, 128, 4, 50 * 1024, 4 / 48),  # 51 KB with the system's, of 100
    ],
)
def test_occupancy(capability, registers, num_warps, shared, occupancy):
    assert aot.occupancy(capability, registers, num_warps, shared) == occupancy


SASS = """
.text._emsa_upsample:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/              @!P0 HMMA.16816.F32 R4, R8, R2, R4 ;
        /*0020*/               @P0 BRA `(.L_x_0) ;
        /*0030*/                   EXIT ;
.L_x_1:
        /*0040*/                   BRA `(.L_x_1);
        /*0050*/                   NOP;
"""


def test_instructions_are_counted_without_padding_and_loops_by_their_trips():
    assert aot.disassembly(SASS, 1) == (4, "HMMA.16816")
    assert aot.disassembly(SASS, 3) == (8, "HMMA.16816")
    with pytest.raises(ValueError, match="no instruction"):
        aot.disassembly("", 1)


@pytest.mark.parametrize(
    ("mnemonic", "family"),
    [
        ("HMMA.884.F32.F32.STEP0", "HMMA.884"),
        ("HMMA.16816.F32.BF16", "HMMA.16816"),
        ("HMMA.1688.F32.TF32", "HMMA.1688.TF32"),
        ("HGMMA.64x64x16.F32", "HGMMA"),
        ("UTCHMMA", "UTCHMMA"),
        ("FFMA", ""),
        ("HFMA2", ""),
    ],
)
def test_families_of_matrix_instructions(mnemonic, family):
    assert aot.family(mnemonic) == family


def test_what_cuobjdump_says():
    assert aot.resources("REG:168 STACK:8 SHARED:1024 LOCAL:16 CONSTANT[0]:600") == (168, 24, 1024)
    with pytest.raises(ValueError, match="nothing of LOCAL, SHARED"):
        aot.resources("REG:168 STACK:8")


def test_what_is_a_fault():
    good = aot.Binary(168, 0, 1024, 100, "HGMMA")
    assert aot.fault(JOB, good, "HGMMA") is None
    assert aot.fault(JOB, good, "UTCHMMA") == "multiplies by HGMMA, not UTCHMMA"
    assert aot.fault(JOB, aot.Binary(255, 8, 1024, 100, "HGMMA"), "HGMMA") == "spills 8 bytes"
    assert aot.fault(JOB, "the compiler ended its process", "HGMMA") == "the compiler ended its process"


def test_a_compiler_that_ends_its_process_costs_that_job_alone(monkeypatch):
    other = aot.Job("forward._emsa_upsample", 80, "fp16", 96, 8, 1, 1, Config(64, 64, 4))
    monkeypatch.setattr(aot, "build", end_or_build)
    done = aot.run([JOB, other], workers=1)
    assert done[JOB] == "the compiler ended its process"
    assert done[other] == aot.Binary(1, 0, 0, 1, "FFMA")


def end_or_build(job):
    if job == JOB:
        os._exit(1)
    return aot.Binary(1, 0, 0, 1, "FFMA")


def test_nothing_refused_is_compiled():
    for stack, triton in {"cuda12": (3, 1), "cuda13": (3, 6)}.items():
        todo = aot.jobs(triton, aot.STACKS[stack])
        assert len(todo) == len({*todo})
        for job in todo:
            assert tuning.refusal(triton, job.capability, aot.dtype_of(job.precision)) is None
        assert {job.capability for job in todo} == {*aot.STACKS[stack]}
        assert {job.capability for job in aot.jobs(triton, aot.STACKS[stack], quick=True)} == {
            *aot.STACKS[stack]
        }
