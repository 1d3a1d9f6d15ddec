"""What only a GPU can show: `make test-gpu`. Numerics before anything is timed."""

import time

import pytest
import torch

from bench import protocols
from bench.alone import UNITS, visit
from bench.cases import parse
from bench.harness import speed, timing
from bench.harness.forms import TORCH_DTYPES
from bench.harness.graphs import captured
from bench.harness.prepare import Spent, precision, prepare
from bench.harness.timing import Stamps
from bench.jobs import job_of
from bench.machine import devices, state
from bench.machine.state import NvmlMonitor
from bench.runner import Runner
from bench.screen import Screen
from bench.sides import Sides
from kernels.emsa_upsample import op
from models.switches import FUSED, IMPLS
from tests.support.on_gpu import NEEDS_GPU

pytestmark = NEEDS_GPU

BF16 = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0),
    reason="no bf16 units before Ampere",
)
DTYPES = ["fp32", "fp16", pytest.param("bf16", marks=BF16)]
NETS = """
import torch
from torch import nn


class Hungry(nn.Module):
    \"\"\"Takes an eighth of the GPU's memory for each image.\"\"\"

    def forward(self, x):
        if x.is_cuda:
            total = torch.cuda.get_device_properties(x.device).total_memory
            torch.empty(len(x) * (total // 8), dtype=torch.uint8, device=x.device)
        return x.mean((2, 3))
"""


@pytest.fixture(scope="module")
def device():
    torch.cuda.init()
    chosen = devices.choose("auto", devices.devices(), busy=lambda device: None)  # busy with us
    assert chosen.kind == "cuda"
    return chosen


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("size", ["224", "255", "797x1333"])
def test_every_implementation_is_within_eagers_own_error(impl, dtype, size):
    """`prepare` raises where an output is further off float64 than eager's own error allows."""
    if impl in FUSED and (why := op.why_not(torch.device("cuda"), TORCH_DTYPES[dtype])):
        pytest.skip(why)
    torch.compiler.reset()
    case = parse(f"restv2_tiny@{size}:b2:{dtype}:{impl}")
    check = prepare(case, 1, torch.device("cuda"), lambda text: None, Spent()).check
    assert check["error"] <= check["bound"]


@pytest.mark.parametrize("options", ["channels_last", "autocast"])
def test_options_of_the_run(options):
    case = parse(f"restv2_lite[{options}]@224:b2:fp16")
    check = prepare(case, 1, torch.device("cuda"), lambda text: None, Spent()).check
    assert check["error"] <= check["bound"]


@pytest.mark.parametrize(
    "text",
    [
        "restv2_tiny@224:b8:fp32:train",
        "restv2_tiny[autocast]@224:b8:fp16:sdpa:train",
        "restv2_tiny[autocast]@224:b8:fp16:compile:train",
        pytest.param("restv2_tiny@224:b8:bf16:sdpa:train", marks=BF16),
    ],
)
def test_a_step_of_training_is_within_eagers_own_error(text):
    torch.compiler.reset()
    it = prepare(parse(text), 1, torch.device("cuda"), lambda text: None, Spent())
    assert it.check["error"] <= it.check["bound"]
    it.run()
    it.finish()  # the loss is finite


def test_fp32_is_not_tf32():
    """Products of numbers with more bits than TF32 keeps come out exact to fp32."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 512, 512, device="cuda")
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with precision():
            out = a @ b
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    truth = a.double() @ b.double()
    assert ((out - truth).abs().max() / truth.abs().max()).item() < 1e-5


def test_the_clock_waits_for_what_it_times():
    calls = []
    a = torch.randn(2048, 2048, device="cuda")

    def run():
        calls.append(1)
        return a @ a

    assert timing.CudaClock()(run, 10) > 0
    assert len(calls) == 10
    assert torch.cuda.current_stream().query()  # nothing is left in the queue


def test_nvml_reads_the_gpu_that_torch_uses(device):
    reading = NvmlMonitor(device.uuid, own_pid=0).read()
    assert reading.sm_clock_mhz is None or reading.sm_clock_mhz > 0
    assert reading.temperature_c is None or 0 < reading.temperature_c < 120
    assert device.name.removeprefix("NVIDIA ") in torch.cuda.get_device_properties(0).name


def test_rows_of_a_run(device, tmp_path, monkeypatch):
    torch.cuda.synchronize()
    time.sleep(2)  # until NVML has forgotten the tests before this one: a run refuses a busy GPU
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rules = protocols.PROTOCOLS["quick"]["cuda"]
    jobs = [
        job_of("throughput", device, rules, parse("restv2_lite:b8")),
        job_of("latency", device, rules, parse("restv2_lite:b1")),
        job_of("throughput", device, rules, parse("nets:Hungry@32:b64:fp32")),
    ]
    summary = Runner(device, tmp_path / "results", Screen()).run(jobs, "test")
    assert [row["reason"] for row in summary.rows] == [None, None, None]
    for row in summary.rows:
        assert row["device"]["uuid"] == device.uuid
        assert row["result"]["peak_memory_bytes"] > 0
        assert row["result"]["operators"]
        assert (
            row["readings"]["after"]["sm_clock_mhz"] is None or row["readings"]["after"]["sm_clock_mhz"] > 0
        )
    hungry = summary.rows[2]
    assert hungry["result"]["batch"] < hungry["result"]["batch_requested"] == 64
    assert "out of memory at batch 64" in hungry["notes"][0]


@pytest.mark.parametrize("dtype", [*DTYPES, "autocast"])
@pytest.mark.parametrize("impl", ["eager", "sdpa", "fused", "auto"])
@pytest.mark.parametrize("head", ["mask_rcnn", "upernet"])
def test_every_style_under_a_head_is_within_eagers_own_error(head, impl, dtype):
    for style in ("global", "win"):
        options = f"[{'autocast,' * (dtype == 'autocast')}head={head},style={style}]"
        case = parse(f"restv2_lite{options}@192x320:b2:{dtype.replace('autocast', 'fp16')}:{impl}")
        it = prepare(case, 1, torch.device("cuda:0"), lambda phase: None, Spent())
        assert it.check["error"] <= it.check["bound"]
        it.run()


def test_a_time_is_split_by_events_that_add_up():
    case = parse("restv2_tiny[head=mask_rcnn,style=win]@800x1280:b1:fp16")
    device = torch.device("cuda:0")
    it = prepare(case, 1, device, lambda phase: None, Spent())
    rules = protocols.PROTOCOLS["quick"]["cuda"]
    with precision(), Stamps(it.stamped, device) as split:
        taken = timing.sample(it.run, timing.clock(device), state.NoMonitor(), rules, sampled=split.sampled)
    parts = split.samples_s
    assert list(parts) == ["backbone", "fpn", "rpn", "heads"]
    for number, whole in enumerate(taken.samples_s):
        assert sum(each[number] for each in parts.values()) == pytest.approx(whole, rel=0.05)
    assert all(seconds > 0 for each in parts.values() for seconds in each)


@pytest.mark.parametrize("model", ["restv2_tiny", "swin_tiny", "convnext_tiny", "regnety_4g"])
def test_a_whole_model_from_a_graph_is_checked_through_it(model):
    """Changed weights and other images show in what is replayed, as `finish` sees."""
    case = parse(f"{model}[graph]@224:b2:fp16")
    it = prepare(case, 1, torch.device("cuda:0"), lambda phase: None, Spent())
    with precision():
        replay, out = captured(it.run, 3)
        it.captured(replay, out)
        replay()
        it.finish()


def test_both_sides_of_a_pair_know_how_long_the_gpu_computed(device, monkeypatch):
    """A second profiler right after the first one would record nothing."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", device.uuid)  # as a worker has it
    rules = protocols.PROTOCOLS["quick"]["cuda"]
    pair = [parse(f"core_tiny[graph,stage={stage}]@224:b64:fp16") for stage in (1, 2)]
    result, _ = speed.compare(pair, rules, lambda text: None, Spent())
    assert all(share is not None and share > 0.5 for share in result["device_share"])
    assert all(result["operators"])


def test_the_gates_process_tells_registers_and_its_memory_is_the_cases_alone(device):
    rules = protocols.Rules("turns", 2, 0.0, 0.01, 3, 3, 0.0, limit_s=600)
    process = Sides(device, [None])
    process.start()
    try:
        fused, eager = (
            visit(
                process, job_of("turns", device, rules, parse(f"core_tiny[stage=1]@224:b1:{impl}")), (None,)
            )
            for impl in ("fused", "eager")
        )
    finally:
        process.kill()
    (kernels,) = fused["kernels"]
    assert min(count for name, count in kernels.items() if name.startswith("registers")) > 0
    assert eager["kernels"] == [{}]
    assert all(len(in_round) == len(UNITS) for in_round in fused["rounds"])
    assert fused["peak_memory_bytes"][0] < 2**28  # no matrix and no copy of the calibration's is in it
