"""Cases profiled on this CPU: closed forms, PyTorch's own totals, phases, modules, and what fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module as global_hooks

from bench import record
from bench.cases import parse
from bench.harness import profile, timing
from bench.harness.prepare import Prepared, Spent
from bench.studies import TABLE1
from bench.trace import iterations, timeline
from kernels.emsa_upsample import cost
from tests.support.runs import RULES
from tests.support.small_models import shrink
from tests.support.sweeps import sweep, swept
from tests.support.traces import annotation, operator, written

NETS = '''
import torch
from torch import nn

class Net(nn.Module):
    """A convolution, a norm, a linear layer, a product."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.block = nn.Sequential(nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.block(self.conv(x).flatten(2).mT)
        return self.head((x @ (x.mT @ x)).mean(1))

class Hungry(Net):
    def forward(self, x):
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().forward(x)
'''
CONV, LINEAR, MATMUL = 16 * 16 * 8 * 27, 256 * 8 * 16 + 160, 2 * 256 * 16 * 16  # MACs of an image of 32×32


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch, write_module) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_module("profiled_nets", NETS)


def profiled(text: str) -> dict[str, Any]:
    result, _ = profile.run([parse(text)], RULES, lambda phase: None, Spent())
    result.pop("during")
    return json.loads(json.dumps(result))


def lines(result: dict[str, Any], by: str = "operator", phase: str = "all") -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in result["lines"][by] if line["phase"] == phase}


def macs(result: dict[str, Any], by: str = "operator", phase: str = "all") -> dict[str, int]:
    return {name: line["macs"] for name, line in lines(result, by, phase).items() if line.get("macs")}


def test_macs_bytes_and_calls_are_those_of_the_closed_form():
    result = profiled("profiled_nets:Net@32:b3:fp32")
    assert macs(result) == {"conv": 3 * CONV, "linear": 3 * LINEAR, "matmul": 3 * MATMUL}
    assert result["macs"] == 3 * (CONV + LINEAR + MATMUL)
    calls = {name: line["calls"] for name, line in lines(result).items()}
    assert (calls["conv"], calls["linear"], calls["matmul"], calls["norm"], calls["activation"]) == (
        1,
        2,
        2,
        1,
        1,
    )
    conv = lines(result)["conv"]
    assert conv["moved_bytes"] == 4 * (3 * 3 * 32**2 + 8 * 27 + 8 + 3 * 8 * 16**2)
    assert conv["tflops"] == pytest.approx(2 * 3 * CONV / (conv["ms"] / 1e3) / 1e12, rel=1e-4)


def test_the_parts_add_up_to_the_iteration_without_the_profiler():
    result = profiled("profiled_nets:Net@32:b3:fp32")
    assert record.damage("profile", result) is None
    samples = sorted(result["samples_s"])
    middle = (samples[(len(samples) - 1) // 2] + samples[len(samples) // 2]) / 2
    for by, of in result["lines"].items():
        assert sum(line["ms"] for line in of) == pytest.approx(1e3 * middle, rel=1e-4), by
    assert 0 <= result["outside_share"] < 1
    assert result["attributed"] == pytest.approx(1 - result["outside_share"], rel=1e-4)
    assert result["perturbation"] == pytest.approx(
        sum(result["profiled_s"]) / len(result["profiled_s"]) / middle
    )


def test_time_and_macs_go_by_the_models_own_names():
    by_module = macs(profiled("profiled_nets:Net@32:b3:fp32"), "module")
    assert by_module == {
        "conv": 3 * CONV,
        "block.2": 3 * 256 * 8 * 16,
        "head": 3 * 160,
        "(outside of modules)": 3 * MATMUL,
    }


def test_a_step_has_its_phases_apart():
    result = profiled("profiled_nets:Net@32:b3:fp32:train")
    assert {line["phase"] for line in result["lines"]["operator"]} == {
        "all",
        "forward",
        "backward",
        "optimizer",
    }
    assert macs(result, phase="forward") == {"conv": 3 * CONV, "linear": 3 * LINEAR, "matmul": 3 * MATMUL}
    # the image wants no gradient
    assert macs(result, phase="backward") == {"conv": 3 * CONV, "linear": 6 * LINEAR, "matmul": 6 * MATMUL}
    assert macs(result, phase="optimizer") == {}
    assert "element-wise" in lines(result, phase="optimizer")
    norms = [name for name in lines(result, "call", "forward") if "norm" in name]
    assert norms == ["layer_norm"]  # clipping is the optimizer's
    by_module = macs(result, "module", "backward")
    assert by_module["block.2"] == 6 * 256 * 8 * 16


SIDE, CHANNELS, REDUCTION = 8, 96, 8  # of the first stage of ResTv2-T, of an image of 32×32


def test_attention_in_one_kernel_is_counted_as_its_products_are():
    nominal = cost.macs(2, (SIDE, SIDE), CHANNELS, REDUCTION)
    eager, sdpa = (profiled(f"core_tiny[stage=1]@32:b2:fp32:{impl}") for impl in ("eager", "sdpa"))
    assert macs(eager) == {"matmul": nominal["attend"], "conv": nominal["up"]}
    assert macs(sdpa) == {"attention": nominal["attend"], "conv": nominal["up"]}


@sweep
def test_a_compiled_model_has_its_kernels_under_the_names_of_what_they_fuse():
    result = profiled("profiled_nets:Net@32:b3:fp32:compile")
    assert sum(macs(result).values()) == 3 * (CONV + LINEAR + MATMUL)
    fused = [name for name in lines(result, "call") if name.startswith("cpp_fused")]
    assert any("native_layer_norm" in name and "gelu" in name for name in fused)
    assert lines(result)["fused"]["macs_known"] == 1.0
    assert "compiled" in lines(result)  # guards and wrappers are listed, not dropped
    assert sum(line["share"] for line in lines(result).values()) == pytest.approx(1, rel=1e-4)
    torch.compiler.reset()


def test_out_of_memory_halves_the_batch():
    result, notes = profile.run(
        [parse("profiled_nets:Hungry@32:b8:fp32")], RULES, lambda phase: None, Spent()
    )
    assert (result["batch_requested"], result["batch"]) == (8, 2)
    assert notes[0] == "out of memory at batch 8: measured at 2"
    assert macs(result)["conv"] == 2 * CONV


def test_a_trace_is_kept_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv(iterations.KEPT, str(tmp_path / "kept.json"))
    result = profiled("profiled_nets:Net@32:b3:fp32")
    kept = timeline.read(tmp_path / "kept.json")
    names = [span.name for spans in kept.threads.values() for span in spans if span.kind == "annotation"]
    assert len([name for name in names if name.startswith("ProfilerStep#")]) == result["steps"]


def test_a_gpu_of_which_nothing_was_recorded_is_no_profile_of_the_cpu(tmp_path):
    file = written(tmp_path / "t.json", [annotation("ProfilerStep#1", 0, 20), operator("aten::relu", 5, 10)])
    assert profile._joined(file, 1e-5, 1, torch.device("cpu"))["busy_s"] is None
    with pytest.raises(RuntimeError, match="recorded nothing of the GPU"):
        profile._joined(file, 1e-5, 1, torch.device("cuda"))


def test_there_is_one_profiler_a_case_and_its_first_call_is_no_step(monkeypatch, tmp_path):
    """A second one would record nothing of a GPU, while PyTorch takes CUPTI down after the first."""
    made, calls = [], []

    class Profiler(torch.profiler.profile):
        def start(self):
            made.append(self)
            super().start()

    monkeypatch.setattr(profile, "profile", Profiler)
    device = torch.device("cpu")
    prepared = Prepared(print, {})

    def run() -> None:
        calls.append(torch.ones(8).relu())

    seconds, recorded = profile._profiled(run, prepared, timing.clock(device), 2, device)
    assert (len(made), len(seconds), len(calls)) == (1, profile.SAMPLES, 2 * profile.SAMPLES + 1)
    recorded.export_chrome_trace(str(tmp_path / "trace.json"))
    names = [event["name"] for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]]
    assert sum(name.startswith("ProfilerStep#") for name in names) == 2 * profile.SAMPLES
    assert names.count("aten::relu") == 2 * profile.SAMPLES + 1


def test_names_of_modules_leave_no_hook_behind():
    model = nn.Sequential(nn.Sequential(nn.ReLU()), nn.ReLU())
    before = len(global_hooks._global_forward_hooks), len(global_hooks._global_forward_pre_hooks)
    with profile.named_modules(model), torch.profiler.profile() as recorded:
        model(torch.ones(2))
        nn.ReLU()(torch.ones(2))  # of no name here
    assert (len(global_hooks._global_forward_hooks), len(global_hooks._global_forward_pre_hooks)) == before
    named = [event.key for event in recorded.key_averages() if event.key.startswith("nn.Module: ")]
    assert sorted(named) == ["nn.Module: 0", "nn.Module: 1"]  # twice 0: the inner one is of the outer one


# ---- PyTorch's own totals


def own_totals(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The µs that the profiler itself adds up for each operator in the steps, filled in once a trace is written."""
    totals: dict[str, float] = {}
    export = torch.profiler.profile.export_chrome_trace

    def exported(recorded: Any, path: str) -> None:
        export(recorded, path)
        events = [event for event in recorded.events() if not event.is_user_annotation]
        first = _end_of_the_first_call(events, Path(path))
        for event in events:
            if event.time_range.start >= first:
                totals[event.name] = totals.get(event.name, 0.0) + event.self_cpu_time_total

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", exported)
    return totals


def _end_of_the_first_call(events: list[Any], trace: Path) -> float:
    """When the first step begins, by the profiler's clock: it and the trace's have the first operator in common."""
    written = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("ph") == "X"]
    begun = min(event["ts"] for event in written if event["name"].startswith("ProfilerStep#"))
    first = min(event["ts"] for event in written if event.get("cat") == "cpu_op")
    return float(min(event.time_range.start for event in events) + begun - first)


def check_totals(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    totals = own_totals(monkeypatch)
    result = profiled(text)
    ours = {
        name: 1e3 * line["ms"] * result["steps"] / result["scale"]
        for name, line in lines(result, "kernel").items()
        if name != "outside of operators"
    }
    assert sum(ours.values()) == pytest.approx(sum(totals.values()), rel=1e-3)
    for name, took in ours.items():
        assert took == pytest.approx(totals[name], rel=0.01, abs=1.0 * result["steps"]), name


SMALL = ["restv2_lite@32:b2:fp32", "pvt_tiny@32:b1:fp32", "restv2_lite@32:b2:fp32:train"]


@pytest.mark.parametrize("text", swept(SMALL, lambda text: "pvt" in text))
def test_the_time_of_each_operator_is_what_torch_profiler_adds_up(monkeypatch, text):
    shrink(monkeypatch)
    check_totals(text, monkeypatch)


@pytest.mark.trials
@pytest.mark.parametrize("text", TABLE1)
def test_the_time_of_each_operator_of_table_1_is_what_torch_profiler_adds_up(monkeypatch, text):
    check_totals(f"{text}:b1:fp32", monkeypatch)


@pytest.mark.trials
@pytest.mark.parametrize("impl", ["eager", "sdpa", "compile"])
def test_macs_of_restv2_are_those_that_are_counted(impl):
    from bench.harness import macs as counting

    counts, _ = counting.run([parse("restv2_tiny@224")], RULES, lambda phase: None, Spent())
    assert profiled(f"restv2_tiny@224:b1:fp32:{impl}")["macs"] == counts["conventions"]["core"]["macs"]
    torch.compiler.reset()
