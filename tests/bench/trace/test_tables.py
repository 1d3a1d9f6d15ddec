"""The rows of a profile: rates, shares of the roof, what lies beyond a peak; as lines, records and a command."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.trace import file, tables, told
from bench.trace.joined import Joined
from bench.trace.operators import BY
from bench.trace.tables import Line
from tests.support.json_schema import SCHEMA, faults
from tests.support.traces import H100, Event, annotation, kernel, launch, launched, operator, written

FP32, MEMORY = 67e12, 3.35e12  # of the H100's datasheet
SQUARE = [[4096, 4096], [4096, 4096]]
MACS, BYTES = 4096**3, 4 * 3 * 4096**2


def read(folder: Path, *events: Event, device: str | None = H100) -> Joined:
    return told.read(written(folder / "it.json", list(events), device))


def rows(found: Joined, by: str = "operator", phase: str = "all") -> dict[str, Line]:
    return {line.name: line for line in tables.lines(found, by) if line.phase == phase}


def test_rates_are_those_of_the_macs_bytes_and_time(tmp_path):
    line = rows(read(tmp_path, *launched("aten::mm", 0, 4000, SQUARE)))["matmul"]
    assert (line.macs, line.moved_bytes, line.ms, line.launches, line.dtype) == (MACS, BYTES, 4, 1, "fp32")
    assert line.tflops == pytest.approx(2 * MACS / 4e-3 / 1e12)
    assert line.gb_per_s == pytest.approx(BYTES / 4e-3 / 1e9)
    assert line.flop_per_byte == pytest.approx(2 * MACS / BYTES)
    assert line.flop_per_launch == 2 * MACS
    assert line.share_of_peak == pytest.approx(2 * MACS / 4e-3 / FP32)
    # so dense a product is bound by arithmetic
    assert line.share_of_attainable == pytest.approx(line.share_of_peak)
    assert line.ms_at_roof == pytest.approx(1e3 * 2 * MACS / FP32)
    assert line.remarks == ()


def test_what_has_no_macs_is_held_against_the_memory(tmp_path):
    line = rows(read(tmp_path, *launched("aten::add", 0, 100, [[4096, 4096]] * 2)))["element-wise"]
    assert (line.macs, line.tflops, line.share_of_peak) == (0, None, None)
    assert line.share_of_attainable == pytest.approx(BYTES / 100e-6 / MEMORY)


def test_rates_leave_out_the_time_of_what_is_not_known(tmp_path):
    """Two products, one without shapes: its time is in the row and in no rate."""
    events = [*launched("aten::mm", 0, 4000, SQUARE), *launched("aten::mm", 100, 12000, number=2)]
    line = rows(read(tmp_path, *events))["matmul"]
    assert (line.ms, line.macs, line.macs_known, line.bytes_known) == (16, MACS, 0.25, 0.25)
    assert line.tflops == pytest.approx(2 * MACS / 4e-3 / 1e12)


def test_a_copy_from_the_host_is_not_held_against_the_memory(tmp_path):
    events = launched("aten::copy_", 0, 100, SQUARE, kernel="Memcpy HtoD (Pageable -> Device)")
    line = rows(read(tmp_path, *events))["copy"]
    assert (line.moved_bytes, line.share_of_attainable, line.macs) == (None, None, 0)


def test_dtypes_have_their_own_peaks(tmp_path):
    half = ["c10::BFloat16"] * 2
    events = [
        *launched("aten::mm", 0, 1000, SQUARE, types=half),
        *launched("aten::mm", 100, 4000, SQUARE, number=2),
    ]
    line = rows(read(tmp_path, *events))["matmul"]
    assert line.dtype == "bf16+fp32"
    assert line.share_of_peak == pytest.approx((2 * MACS / 989.4e12 + 2 * MACS / FP32) / 5e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("volta_scudnn_winograd_128x128", "Winograd multiplies less"),
        ("void fft2d_r2c_32x32<float>", "Fourier transform"),
        ("Kernel2", "names do not say why"),
    ],
)
def test_a_call_beyond_the_peak_is_shown_and_explained_not_clipped(tmp_path, name, why):
    values = ["", "", "", "[1, 1]", "[1, 1]", "[1, 1]", "1"]
    dims = [[32, 256, 56, 56], [256, 256, 3, 3], [], [], [], [], []]
    macs = 32 * 56 * 56 * 256 * 256 * 9
    us = 2 * macs / (1.5 * FP32) * 1e6
    found = read(tmp_path, *launched("aten::conv2d", 0, us, dims, values=values, kernel=name))
    line = rows(found)["conv"]
    assert line.share_of_peak == line.fastest_share_of_peak == pytest.approx(1.5)
    assert line.share_of_attainable == pytest.approx(1.5)
    (remark,) = line.remarks
    assert "1 of 1 calls beyond fp32's 67 TFLOP/s" in remark and "(150 %)" in remark and why in remark
    assert f"conv: {remark}" in list(told.lines(found, "operator"))


def test_bytes_beyond_the_memory_are_explained_by_caches(tmp_path):
    line = rows(read(tmp_path, *launched("aten::add", 0, 1e6 * BYTES / MEMORY / 2, [[4096, 4096]] * 2)))
    assert line["element-wise"].share_of_bandwidth == pytest.approx(2)
    assert "200 % of the memory's 3350 GB/s: tensors stay in a cache" in line["element-wise"].remarks[0]


def two_steps(sizes: tuple[int, int] = (10, 30)) -> list[Event]:
    """Two steps of a forward, a backward and an optimizer, whose forward alone differs."""
    events = []
    for step, us in enumerate(sizes):
        start = 1000 * step
        events += [
            annotation(f"ProfilerStep#{step}", start, 900),
            *launched("aten::linear", start + 10, us, [[8, 8], [8, 8], [8]], number=10 * step + 1),
            operator("autograd::engine::evaluate_function: AddmmBackward0", start + 100, 90, tid=2),
            *launched("aten::mm", start + 110, 20, [[8, 8], [8, 8]], number=10 * step + 2, tid=2),
            annotation("Optimizer.step#SGD.step", start + 400, 90),
            *launched("aten::add_", start + 410, 5, [[8, 8], [8, 8]], number=10 * step + 3),
        ]
    return events


def test_time_a_step_is_the_mean_with_the_shortest_and_the_longest(tmp_path):
    found = read(tmp_path, *two_steps())
    line = rows(found)["linear"]
    assert (line.ms_per_step, line.ms_per_step_low, line.ms_per_step_high) == (0.04, 0.03, 0.05)
    assert told.summary(found)["ms_per_step"] == pytest.approx(0.045)
    assert next(told.lines(found, "operator")) == (
        "NVIDIA H100 80GB HBM3: 0.09 ms, 6 kernels of 6 calls; 0.04 ms a step (0.04 to 0.06 in 2 steps)"
    )


def test_forward_backward_and_optimizer_add_up_to_the_whole(tmp_path):
    found = read(tmp_path, *two_steps())
    lines = tables.lines(found)
    assert {line.phase for line in lines} == {"all", "forward", "backward", "optimizer"}
    for field in ("ms", "share", "macs", "calls", "launches"):
        whole = sum(getattr(line, field) for line in lines if line.phase == "all")
        parts = sum(getattr(line, field) for line in lines if line.phase != "all")
        assert whole == pytest.approx(parts)
    assert sum(line.share for line in lines if line.phase == "all") == pytest.approx(1)


@pytest.mark.parametrize("by", BY)
def test_time_is_the_same_however_it_is_split(tmp_path, by):
    found = read(tmp_path, *two_steps(), launch(99, 5000), kernel(99, 5000, 7, "lost"))
    assert sum(line.ms for line in rows(found, by).values()) == pytest.approx(found.took / 1e3)


def test_kernels_have_time_and_no_macs(tmp_path):
    line = rows(read(tmp_path, *two_steps()), "kernel")["gemm"]
    assert (line.ms, line.launches, line.macs, line.tflops) == (pytest.approx(0.09), 6, None, None)


def test_long_names_are_cut_where_they_say_the_least(tmp_path):
    modules = [operator(f"nn.Module: Layer_{n}", n, 100 - 2 * n, cat="python_function") for n in range(9)]
    found = read(tmp_path, *modules, *launched("aten::mm", 20, 10, SQUARE, kernel="k" * 60))
    names = {by: list(told.lines(found, by))[6].split()[0] for by in ("module", "kernel")}
    assert names["module"].startswith("…") and names["module"].endswith(".Layer_8")
    assert names["kernel"] == "k" * 47 + "…"
    assert len(names["module"]) == len(names["kernel"]) == told.WIDEST


# ---- the command


def bench(*arguments: str, status: int = 0) -> Any:
    done = CliRunner().invoke(main, ["profile", *arguments], prog_name="python -m bench")
    assert done.exit_code == status, done.output
    return done


def test_the_document_is_as_the_schema_has_it(tmp_path):
    cpu = [operator("aten::mm", 0, 5, [[2, 3], [3, 4]])]
    for events in (two_steps(), launched("mine::op", 0, 10), [*two_steps(), kernel(99, 9000, 5)], cpu):
        path = written(tmp_path / "it.json.gz", events)
        for by in BY:
            document = json.loads(bench(str(path), "--by", by, "--json").stdout)
            assert list(faults(document, SCHEMA)) == []
            assert document["command"] == "profile"
            assert document["trace"]["ms"] == pytest.approx(
                sum(record["ms"] for record in document["records"] if record["phase"] == "all")
            )


def test_a_table_for_people_and_its_columns(tmp_path):
    path = written(tmp_path / "it.json", launched("aten::mm", 0, 4000, SQUARE))
    lines = bench(str(path)).stdout.splitlines()
    assert lines[1] == (
        "100.0 % of the time belongs to an operator; MACs are known for 100.0 %; no kernel ran in 0.0 % of 4.00 ms"
    )
    assert lines[4:7] == [
        "all phases: 4.00 ms, 100.0 %",
        "  operator  calls  launches    ms    share  GMACs  of MACs  dtype"
        "  TFLOP/s  GB/s  FLOP/B  MFLOP/launch  of roof",
        "  matmul        1         1  4.00  100.0 %   68.7  100.0 %   fp32"
        "     34.4  50.3     683       137,439   51.3 %",
    ]


EVIL = "\x1b[31m=cmd|' /C calc'!A0 <script>alert(1)</script> | `x` \u202e\n2"


def test_names_of_a_trace_are_never_markup_and_never_act(tmp_path):
    events = launched(EVIL, 0, 10, kernel=EVIL)
    path = written(tmp_path / "it.json", events, device=EVIL)
    for by in BY:
        for form in ("", "--csv", "--md", "--json"):
            out = bench(str(path), "--by", by, *filter(None, [form])).stdout
            assert "\x1b" not in out and "\u202e" not in out
    text = bench(str(path), "--by", "call", "--md").stdout
    assert "<script>" not in text.replace("\\<script\\>", "")
    (record,) = csv.DictReader(io.StringIO(bench(str(path), "--by", "kernel", "--csv").stdout))
    assert not record["name"].startswith("=") and "\n" not in record["name"]


def test_nothing_of_a_traces_metadata_is_copied(tmp_path):
    beside: dict[str, Any] = {
        "distributedInfo": {"hostname": "secret-host"},
        "PATH": "secret-path",
        "trace_id": "secret-id",
    }
    label = {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "secret-process"}}
    events = [*launched("aten::mm", 0, 10, SQUARE), label]
    events[0]["args"]["Call stack"] = "secret-stack"
    path = written(tmp_path / "it.json", events, **beside)
    for form in ([], ["--json"], ["--csv"], ["--md"]):
        assert "secret" not in bench(str(path), *form).output


@pytest.mark.parametrize("content", [b"", b"hello", b'{"traceEvents": [', b"\x1f\x8b\0"])
def test_a_broken_file_is_one_line_and_wrong_usage(tmp_path, content):
    path = tmp_path / "it.json"
    path.write_bytes(content)
    done = bench(str(path), status=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {path}") and done.stdout == ""


@pytest.mark.trials
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_trace_of_100_mb_is_read_in_30_s_and_2_gb(tmp_path, packed):
    path, events = tmp_path / "large.json", 0
    with path.open("w") as text:
        text.write('{"deviceProperties": [{"id": 0, "name": "Tesla T4"}], "traceEvents": [')
        while text.tell() < 100 << 20:
            three = launched(
                "aten::linear", 20 * events, 12, [[64, 197, 768], [3072, 768], [3072]], number=events + 1
            )
            three[0]["args"]["Call stack"] = "a/b/c.py(12): forward;" * 12
            text.write(("," if events else "") + json.dumps(three)[1:-1])
            events += 1
        text.write("]}")
    if packed:
        subprocess.run(["gzip", "-1", str(path)], check=True)
    code = (
        "import resource, sys, time; from bench.__main__ import main\n"
        "try: main(['profile', sys.argv[1]])\n"
        "except SystemExit as done: assert not done.code\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, time.process_time())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"{path}{packed}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    gb, seconds = map(float, done.stdout.split()[-2:])
    assert f"{events:,} kernels of {events:,} calls" in done.stdout
    assert gb < 2 and seconds < 30, (gb, seconds)
    assert file.MOST_CHARACTERS > 1 << 30
