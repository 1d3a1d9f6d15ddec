"""Compiling ahead of time: toys whose instructions are known, what is judged and shown, a slice that is compiled."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton

from kernels import aot, sass
from kernels.launches import Call, Kernel, Launch

ROOT = Path(__file__).resolve().parents[2]
TYPES = (("x", "*fp16"), ("out", "*fp32"), ("q", "*fp16"), ("k", "*fp16"), ("v", "*fp16"))


def toy(function, capability, multiplies=""):
    pointers = frozenset(name for name, _ in TYPES)
    name = f"tests.support.toy_kernels:{function}"
    return Kernel(name, capability, TYPES, pointers, (), 4, 2, multiplies)


KERNEL = toy("nested", 90, "HGMMA")
OTHER = toy("nested", 80, "HMMA.16816")
GOOD = aot.Binary(168, 0, 1024, {(): sass.Counts({"HGMMA.64x64x16.F32": 1.0})})
CALL = Call(
    *(
        "emsa_upsample",
        "query and head",
        "ResTv2-T, stage 1 at 224",
        "D=96",
        "cell 64x64/4w",
        True,
        90,
        "fp16",
    ),
    *(
        1000,
        40_000_000,
        40_000_000,
        1_000_000,
        1,
        (Launch(KERNEL, 20, (("nested.row", 3), ("nested.column", 7))),),
    ),
)


def compiled(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "kernels.aot", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


# ---- what is compiled


@pytest.fixture(autouse=True)
def _same_environment(monkeypatch):
    """`build` says in the environment of its process where Triton keeps what it compiles."""
    for name in ("TRITON_CACHE_DIR", "TRITON_DISABLE_LINE_INFO", "TRITON_PTXAS_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


needs_cuda13 = pytest.mark.skipif(triton.__version__ < "3.2", reason="Triton 3.1 knows no GPU from sm_90 on")


@needs_cuda13
@pytest.mark.parametrize(
    ("capability", "products"),
    [(80, {"HMMA.16816.F32": 32}), (90, {"HGMMA.64x64x16.F32": 4})],  # 64³ of them: 2048 or 64·64·16/4 a warp
)
def test_a_toy_has_the_instructions_that_it_must_have(capability, products):
    """64×64 numbers are 32 for each of 128 threads: an exponential each, and a store of four of them each."""
    binary = aot.build(toy("nested", capability))
    assert not binary.spilled_bytes and not binary.undefined
    ran = sass.run(binary.counts, {"nested.row": 3, "nested.column": 7})
    assert {name: ran.times[name] for name in ("MUFU.EX2", "STG.E.128")} == {
        "MUFU.EX2": 3 * 7 * 32,
        "STG.E.128": 3 * 8,
    }
    assert {name: times for name, times in ran.times.items() if sass.family(name)} == {
        name: 3 * 7 * times for name, times in products.items()
    }
    assert ran.macs == 3 * 7 * 64**3 / 4


@needs_cuda13
def test_of_a_loop_that_ptxas_unrolls_in_part_a_round_is_counted_each_time():
    """What is left over of the rounds, three at the most, stands beside the loops and counts once."""
    counted = aot.build(toy("short", 90)).counts
    nine, ten = (sass.run(counted, {"short.number": often}).times for often in (9, 10))
    assert {name: ten[name] - nine[name] for name in ("LDG.E.U16", "FADD", "STG.E")} == {
        "LDG.E.U16": 1,
        "FADD": 1,
        "STG.E": 0,
    }


@needs_cuda13
def test_the_older_ptxas_reads_what_nothing_wrote_and_ours_does_not(monkeypatch):
    """The fault that an H100 showed: a second product whose operands are swizzled in another way than the first's."""
    kernel = toy("split_heads", 90, "HGMMA")
    assert aot.fault(kernel, aot.build(kernel)) is None
    older = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(older))
    fault = aot.fault(kernel, aot.build(kernel))
    assert fault and fault.startswith("reads what nothing wrote: ")


@pytest.mark.trials
def test_a_slice_compiles_for_every_gpu_of_the_stack(tmp_path):
    path = tmp_path / "rows.json"
    done = compiled("--quick", "--json", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(path.read_text(encoding="utf-8"))
    assert all(row["fault"] is None for row in written["rows"])
    assert written["bounds"] and all(0 < row["share_of_roof"] <= 1 for row in written["bounds"])


@pytest.mark.trials
def test_everything_that_may_run_compiles(tmp_path):
    done = compiled("--json", str(tmp_path / "rows.json"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_usage_is_two():
    assert compiled("--slow").returncode == 2


def test_what_cuobjdump_says():
    assert aot.resources("REG:168 STACK:8 SHARED:1024 LOCAL:16 CONSTANT[0]:600") == (168, 24, 1024)
    with pytest.raises(ValueError, match="nothing of LOCAL, SHARED"):
        aot.resources("REG:168 STACK:8")


def test_a_compiler_that_ends_its_process_costs_that_kernel_alone(monkeypatch):
    monkeypatch.setattr(aot, "build", end_or_build)
    done = aot.run([KERNEL, OTHER, OTHER], workers=1)
    assert done == {KERNEL: "the compiler ended its process", OTHER: GOOD}


def end_or_build(kernel):
    if kernel == KERNEL:
        os._exit(1)
    return GOOD


# ---- what is a fault


def test_what_is_a_fault():
    spills = aot.Binary(255, 8, 1024, GOOD.counts)
    large = aot.Binary(168, 0, 100 * 1024, GOOD.counts)
    reads = aot.Binary(168, 0, 1024, GOOD.counts, ("UMOV UR4, UR6 reads UR6",))
    assert aot.fault(KERNEL, GOOD) is None
    assert aot.fault(toy("nested", 100, "UTCHMMA"), GOOD) == "multiplies by HGMMA, not UTCHMMA"
    assert aot.fault(KERNEL, spills) == "spills 8 bytes"
    assert aot.fault(KERNEL, large) is None
    assert aot.fault(toy("nested", 120), large) == (
        "asks for 102400 bytes of shared memory, and has 101376 at most"
    )
    assert aot.fault(KERNEL, reads) == "reads what nothing wrote: UMOV UR4, UR6 reads UR6"
    assert aot.fault(KERNEL, "the compiler ended its process") == "the compiler ended its process"
    assert aot.fault(toy("nested", 90), aot.Binary(1, 0, 0, {(): sass.Counts({"FFMA": 1.0})})) is None


def test_a_loop_without_trips_is_a_fault_of_its_call():
    binary = aot.Binary(168, 0, 1024, {("nested.other",): GOOD.counts[()]})
    (row,) = aot.rows(CALL, {KERNEL: binary})
    assert row["fault"] == "the trips of nested.other are not given"
    assert aot.bounded(CALL, {KERNEL: binary}) == []


# ---- what a call takes


BINARY = aot.Binary(
    *(100, 0, 2048),
    {
        (): sass.Counts({"MOV": 10.0}),
        ("nested.row",): sass.Counts({"STG.E.128": 2.0}),
        ("nested.column", "nested.row"): sass.Counts({"HGMMA.64x64x16.F32": 4.0, "LDG.E": 1.0}),
    },
)


def test_instructions_are_of_one_result_that_is_there():
    """20 programs of 4 warps, 3 rows of 7 columns, for 1000 results."""
    (row,) = aot.rows(CALL, {KERNEL: BINARY})
    assert row["instructions"] == pytest.approx((10 + 3 * 2 + 3 * 7 * 5) * 4 * 20 / 1000, abs=0.05)
    assert (row["fault"], row["registers"], row["matrix"]) == (None, 100, "HGMMA")
    assert (
        row["occupancy"] == 16 / 64
    )  # 100 registers, given out as 104: 19 warps, four of each scheduler's 16


def test_the_launches_of_a_call_are_added():
    twice = Launch(KERNEL, 40, CALL.launches[0].trips)
    both = Call(**{**vars(CALL), "launches": (*CALL.launches, twice)})
    one, three = (aot.bounded(call, {KERNEL: BINARY})[0] for call in (CALL, both))
    assert three["instructions"] == pytest.approx(3 * one["instructions"], abs=0.2)


def test_what_runs_of_a_model_has_a_bound_on_each_gpu_of_its_capability():
    found = aot.bounded(CALL, {KERNEL: BINARY})
    assert [row["gpu"] for row in found] == ["H100", "H200"]
    assert all(row["pipe"] == "dram" and row["share_of_roof"] == 1 for row in found)
    assert aot.bounded(Call(**{**vars(CALL), "is_default": False}), {KERNEL: BINARY}) == []
    assert aot.bounded(Call(**{**vars(CALL), "of": ""}), {KERNEL: BINARY}) == []


# ---- what was accepted


@pytest.fixture
def found():
    return aot.bounded(CALL, {KERNEL: BINARY})


def test_what_was_accepted_is_written_and_read_back(found, tmp_path):
    path = tmp_path / "bounds.csv"
    aot.accept(found, everything=True, path=path)
    before = aot.accepted(path)
    assert [aot.worse(row, before[aot.key(row)]) for row in found] == [None, None]
    assert next(iter(csv.DictReader(path.open())))["config"] == "cell 64x64/4w"


@pytest.mark.parametrize(
    ("column", "factor", "words"),
    [
        ("instructions", 1.03, "instructions, and"),
        ("clocks", 1.03, "clocks, and"),
        ("occupancy", 0.9, "an occupancy of"),
        ("instructions", 1.01, None),  # within the slack
        ("registers", 2, None),
        ("instructions", 0.5, None),
    ],
)
def test_what_got_worse_is_a_fault(found, tmp_path, column, factor, words):
    aot.accept(found, everything=True, path=tmp_path / "bounds.csv")
    before = aot.accepted(tmp_path / "bounds.csv")
    row = found[0] | {column: found[0][column] * factor}
    fault = aot.worse(row, before[aot.key(row)])
    assert (fault or "").count(words or "takes") == (words is not None)


def test_what_was_never_accepted_is_a_fault(found):
    assert aot.worse(found[0], None) == "is not in bounds.csv: --accept writes it"


def test_a_slice_is_accepted_beside_the_rest_and_a_whole_run_in_place_of_it(found, tmp_path):
    path = tmp_path / "bounds.csv"
    other, foreign = found[0] | {"of": "ResTv2-T, stage 2 at 224"}, found[0] | {"gpu": "V100"}
    aot.accept([*found, other, foreign], everything=True, path=path)
    changed = [row | {"instructions": 1.0} for row in found]
    aot.accept(changed, everything=False, path=path)
    assert len(aot.accepted(path)) == 4
    assert aot.accepted(path)[aot.key(found[0])]["instructions"] == "1.0"
    aot.accept(changed, everything=True, path=path)
    assert {key[0] for key in aot.accepted(path)} == {"H100", "H200", "V100"}
    assert aot.key(other) not in aot.accepted(path)


# ---- what is shown


def test_the_tables_say_what_fails(found):
    text = aot.table([found[0] | {"fault": "takes more"}], aot.BOUNDS)
    header, line = text.splitlines()
    assert header.split()[:3] == ["GPU", "type", "of"] and line.startswith("H100")
    assert line.endswith("FAILS: takes more") and "100%" in line


def test_the_stages_of_a_model_are_added_by_their_blocks(found):
    stages = [
        found[0] | {"of": f"ResTv2-T, stage {n} at 224", "us": 10.0, "times": times}
        for n, times in enumerate((1, 2, 6, 2), 1)
    ]
    assert aot.sums(stages) == ["H100 fp16: all emsa_upsample of ResTv2-T at 224: 110 µs at the least"]
    assert aot.sums(stages[:3]) == []
