"""Calls with their class, MACs, phase, step and module; what cannot be joined, and why; idle time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.trace import joined as join
from bench.trace import told
from bench.trace.joined import Call, Joined
from tests.support.traces import H100, Event, annotation, kernel, launch, launched, operator, written


def read(folder: Path, *events: Event, device: str | None = H100) -> Joined:
    return told.read(written(folder / "it.json", list(events), device))


def only(found: Joined) -> Call:
    (call,) = found.calls
    return call


def inside(*names: str, dims: list[list[int]]) -> list[Event]:
    """Operators one inside another, the innermost of which launches a kernel."""
    nest = [operator(name, n, 100 - 2 * n, dims, id=n) for n, name in enumerate(names)]
    return [*nest, launch(1, 30), kernel(1, 200, 10)]


SQUARE = [[8, 8], [8, 8]]


@pytest.mark.parametrize(
    ("names", "label", "kind"),
    [
        (["aten::linear", "aten::addmm"], "linear", "linear"),
        (["aten::linear", "aten::matmul", "aten::mm"], "linear", "linear"),
        (["aten::matmul", "aten::bmm"], "matmul", "matmul"),
        (["aten::matmul", "aten::expand", "aten::clone", "aten::copy_"], "clone", "copy"),
        (["aten::conv2d", "aten::convolution", "aten::_convolution", "aten::add_"], "conv2d", "conv"),
        (["aten::relu_", "aten::clamp_min_", "aten::clamp_min"], "relu_", "activation"),
        (["aten::softmax", "aten::_softmax"], "softmax", "softmax"),
        (["aten::rms_norm", "aten::mul"], "rms_norm", "norm"),
        (["aten::scaled_dot_product_attention", "aten::_scaled_dot_product_attention_math", "aten::_softmax"],
         "_softmax", "softmax"),
        (["aten::scaled_dot_product_attention", "aten::_scaled_dot_product_flash_attention",
          "aten::_flash_attention_forward"], "_scaled_dot_product_flash_attention", "attention"),
        (["mine::layer", "aten::mul"], "mul", "element-wise"),
        (["aten::mul", "mine::kernel"], "mul", "element-wise"),
        (["mine::layer", "mine::kernel"], "mine::kernel", "other"),
        (["aten::_foreach_add_"], "_foreach_add_", "element-wise"),
        (["triton_poi_fused_add_0"], "triton_poi_fused_add_0", "fused"),
        (["graph_3_cpp_fused_add_mean_12"], "cpp_fused_add_mean", "fused"),
        (["Torch-Compiled Region: 0/0", "graph_0_cpp_fused_0"], "cpp_fused", "fused"),
        (["Torch-Compiled Region: 0/0"], "Torch-Compiled Region: 0/0", "compiled"),
        (["Torch-Compiled Region: 0/0", "aten::mm"], "mm", "matmul"),
        (["c10d::allreduce_", "nccl:all_reduce"], "c10d::allreduce_", "communication"),
    ],
)  # fmt: skip
def test_a_kernel_is_of_the_outermost_operator_that_its_own_is_part_of(tmp_path, names, label, kind):
    call = only(read(tmp_path, *inside(*names, dims=SQUARE)))
    assert (call.label, call.kind) == (label, kind)


def test_macs_of_a_call_are_counted_once_however_many_kernels_it_has(tmp_path):
    events = [*NESTED_CONV, launch(1, 30), kernel(1, 200, 10), launch(2, 35), kernel(2, 300, 20)]
    call = only(read(tmp_path, *events))
    assert call.macs == 2 * 4 * 3 * 9 * 16
    assert (len(call.works), call.took, call.label) == (2, 30, "conv2d 3×3")


def test_on_a_cpu_bytes_are_those_of_the_innermost_operators_alone(tmp_path):
    events = [operator(name, n, 100 - 20 * n, SQUARE) for n, name in enumerate(("aten::matmul", "aten::mm"))]
    call = only(read(tmp_path, *events, device=None))
    assert (call.label, call.moved) == ("matmul", 4 * 3 * 64)


VALUES = ["", "", "", "[2, 2]", "[1, 1]", "[1, 1]", "1"]
NESTED_CONV = [
    operator("aten::conv2d", 0, 90, [[2, 3, 8, 8], [4, 3, 3, 3], [4], [], [], [], []], values=VALUES),
    operator("aten::cudnn_convolution", 20, 40, [[2, 3, 8, 8], [4, 3, 3, 3]]),
]


def test_autocast_is_seen_in_the_operator_that_works(tmp_path):
    half = operator("aten::mm", 20, 40, SQUARE, types=["c10::Half", "c10::Half"])
    call = only(
        read(tmp_path, operator("aten::linear", 0, 90, SQUARE), half, launch(1, 30), kernel(1, 200, 10))
    )
    assert (call.dtype, call.kind, call.moved) == ("fp16", "linear", 2 * 3 * 64)


def test_tf32_is_seen_in_the_kernels_name(tmp_path):
    events = launched(
        "aten::mm", 0, 10, SQUARE, kernel="sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize64x64x32"
    )
    assert only(read(tmp_path, *events)).dtype == "tf32"


def test_phases_are_told_by_the_engine_and_the_optimizer(tmp_path):
    engine = operator("autograd::engine::evaluate_function: AddmmBackward0", 200, 90, tid=2)
    found = read(
        tmp_path,
        *launched("aten::addmm", 0, 10, [[8], *SQUARE], number=1),
        *(engine, operator("AddmmBackward0", 205, 80, tid=2)),
        *launched("aten::mm", 210, 10, SQUARE, number=2, tid=2),
        annotation("Optimizer.step#SGD.step", 400, 90),
        *launched("aten::add_", 410, 10, SQUARE, number=3),
        *launched("aten::gelu_backward", 600, 10, SQUARE, number=4),
    )
    assert [(call.label, call.kind, call.phase) for call in found.calls] == [
        ("addmm", "linear", "forward"),
        ("mm", "linear", "backward"),  # AddmmBackward's
        ("add_", "element-wise", "optimizer"),
        ("gelu_backward", "activation", "backward"),
    ]


@pytest.mark.parametrize(("outer", "kind"), [("aten::linear", "linear"), ("aten::matmul", "matmul")])
def test_a_product_in_a_backward_is_what_the_forward_of_its_number_was(tmp_path, outer, kind):
    """The gradients of a linear layer without bias and of any other product are both `mm` in MmBackward0."""
    found = read(
        tmp_path,
        *(operator(outer, 0, 50, SQUARE, sequence=7), operator("aten::mm", 5, 30, SQUARE, sequence=7)),
        *(launch(1, 10), kernel(1, 60, 5)),
        operator("autograd::engine::evaluate_function: MmBackward0", 200, 90, tid=2, sequence=7),
        *launched("aten::mm", 210, 10, SQUARE, number=2, tid=2),
    )
    assert [(call.kind, call.phase) for call in found.calls] == [(kind, "forward"), (kind, "backward")]


def test_modules_are_those_around_the_call_and_of_a_backward_those_of_its_forward(tmp_path):
    modules = [
        operator("nn.Module: Net_0", 0, 100, cat="python_function"),
        operator("nn.Module: Linear_3", 5, 50, cat="python_function"),
        operator("net.py(3): forward", 6, 45, cat="python_function"),
    ]
    found = read(
        tmp_path,
        *modules,
        *launched("aten::linear", 10, 5, SQUARE, number=1, sequence=4),
        operator("autograd::engine::evaluate_function: MmBackward0", 200, 90, tid=2, sequence=4),
        *launched("aten::mm", 210, 10, SQUARE, number=2, tid=2),
        *launched("aten::relu", 300, 5, SQUARE, number=3),
    )
    assert [call.module for call in found.calls] == ["Net_0.Linear_3", "Net_0.Linear_3", ""]


def test_a_call_is_of_the_step_in_which_it_was_launched(tmp_path):
    """Kernels run later: the first one's starts when the second step has begun."""
    found = read(
        tmp_path,
        *(annotation("ProfilerStep#4", 0, 100), annotation("ProfilerStep#5", 100, 100)),
        *(operator("aten::mm", 90, 8, SQUARE), launch(1, 95), kernel(1, 150, 10)),
        *launched("aten::mm", 110, 20, SQUARE, number=2, tid=2),
        *launched("aten::mm", 300, 5, SQUARE, number=3),
    )
    assert [call.step for call in found.calls] == ["ProfilerStep#4", "ProfilerStep#5", None]
    assert found.steps == ["ProfilerStep#4", "ProfilerStep#5"]


def test_steps_of_several_ranks_are_steps_of_their_own(tmp_path):
    found = read(
        tmp_path,
        *(annotation("ProfilerStep#4", 0, 100, pid=pid) for pid in (10, 11)),
        *launched("aten::mm", 10, 5, SQUARE, number=1, pid=10),
        *launched("aten::mm", 10, 5, SQUARE, number=2, pid=11),
    )
    assert found.steps == ["ProfilerStep#4 of 10", "ProfilerStep#4 of 11"]
    assert [call.step for call in found.calls] == found.steps


@pytest.mark.parametrize(
    ("events", "why"),
    [
        (launched("aten::mm", 0, 10), join.NO_SHAPES),
        (launched("aten::conv2d", 0, 10, [[2, 3, 8, 8], [4, 3, 3, 3]]), join.NO_OUTPUT),
        (launched("mine::op", 0, 10, SQUARE), join.NO_TABLE),
        (launched("aten::_flash_attention_forward", 0, 10, [[9, 4, 8]] * 3), join.NO_FORMULA),
        (launched("triton_tem_fused_mm_0", 0, 10, SQUARE, kernel="triton_tem_fused_mm_0"), join.NO_TEMPLATE),
        ([launch(1, 0), kernel(1, 10, 10)], "launched outside of any operator"),
        (
            [launch(1, 0, "cudaGraphLaunch"), kernel(1, 10, 10)],
            "launched by a CUDA graph, which keeps no operators",
        ),
        ([kernel(1, 10, 10)], "their launch is not in the trace"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_joined_is_listed_with_its_reason_and_share(tmp_path, events, why):
    found = read(tmp_path, *events, *launched("aten::relu", 900, 30, SQUARE, number=99))
    (listed,) = told.summary(found)["unjoined"]
    assert (listed["why"], listed["share"]) == (why, 0.25)
    assert told.summary(found)["known"] == 0.75
    (line,) = (line for line in told.lines(found, "operator") if why in line)
    has_operator = any(event["cat"] == "cpu_op" for event in events)
    assert line.startswith(
        "MACs unknown for 25.0 % of the time" if has_operator else "25.0 % of the time belongs to no operator"
    )
    lost = [reason["why"] for reason in told.summary(found)["unattributed"]]
    assert lost == ([] if has_operator else [why])


def test_fused_kernels_that_the_compiler_names_have_no_products(tmp_path):
    found = read(
        tmp_path, *launched("triton_poi_fused_add_0", 0, 10, SQUARE, kernel="triton_poi_fused_add_0")
    )
    assert (only(found).macs, only(found).unknown, only(found).moved) == (0, None, 2 * 256)


def test_a_fused_kernel_without_an_operator_is_fused_all_the_same(tmp_path):
    found = read(tmp_path, launch(1, 0), kernel(1, 10, 10, name="triton_red_fused_sum_1"))
    assert (only(found).kind, only(found).macs, told.summary(found)["attributed"]) == ("fused", 0, 0)
    expected = (
        "100.0 % of the time belongs to no operator, launched outside of any operator: triton_red_fused_sum_1"
    )
    assert expected in list(told.lines(found, "operator"))


def test_what_no_operator_launched_has_the_phase_step_and_module_of_its_launch(tmp_path):
    found = read(
        tmp_path,
        *(annotation("ProfilerStep#1", 0, 100), annotation("Optimizer.step#Mine.step", 5, 50)),
        operator("nn.Module: Net_0", 7, 40, cat="python_function"),
        *(launch(1, 10), kernel(1, 60, 5)),
    )
    assert (only(found).phase, only(found).step, only(found).module) == (
        "optimizer",
        "ProfilerStep#1",
        "Net_0",
    )


def test_a_kernel_whose_launch_is_missing_is_of_no_phase(tmp_path):
    found = read(tmp_path, *launched("aten::mm", 0, 10, SQUARE), kernel(9, 50, 5))
    assert [call.phase for call in found.calls] == ["forward", "unknown"]


def test_steps_of_one_name_are_steps_of_their_own(tmp_path):
    """A script that profiles twice numbers its steps anew."""
    found = read(
        tmp_path,
        *(annotation("ProfilerStep#4", start, 100) for start in (0, 1000)),
        *launched("aten::mm", 10, 5, SQUARE, number=1),
        *launched("aten::mm", 1010, 5, SQUARE, number=2),
    )
    assert found.steps == [call.step for call in found.calls] == ["ProfilerStep#4", "ProfilerStep#4 at 1000"]


def test_idle_is_the_share_of_the_span_in_which_no_kernel_ran(tmp_path):
    """Two streams of a device that overlap count once; each device has a span of its own."""
    found = read(
        tmp_path,
        *(operator("aten::mm", 0, 90, SQUARE), *(launch(n, 10 + n) for n in (1, 2, 3, 4, 5))),
        *(kernel(1, 100, 50), kernel(2, 120, 50, stream=8), kernel(3, 130, 10, stream=9), kernel(4, 190, 10)),
        kernel(5, 1000, 100, device=1, pid=1),
    )
    assert (found.span, found.busy, found.took) == (100 + 100, 70 + 10 + 100, 50 + 50 + 10 + 10 + 100)
    assert told.idle(found) == pytest.approx(0.1)


def test_a_device_of_another_number_is_the_one_kind_that_the_trace_names(tmp_path):
    """ROCm's kernels name the device by its number in the machine, its properties by that in the process."""
    events = [operator("aten::mm", 0, 9, SQUARE), launch(1, 5), kernel(1, 10, 10, device=7, pid=7)]
    assert read(tmp_path, *events).device == H100
    beside = [{"id": 0, "name": H100}, {"id": 1, "name": "Tesla T4"}]
    path = written(tmp_path / "it.json", events, None)
    path.write_text(
        path.read_text().replace('"deviceProperties": []', f'"deviceProperties": {json.dumps(beside)}')
    )
    found = told.read(path)
    assert (found.device, dict(found.peaks.tflops)) == ("", {})


def test_peaks_are_those_of_the_gpu_that_the_trace_names(tmp_path):
    events = launched("aten::mm", 0, 10, SQUARE)
    assert read(tmp_path, *events).peaks.tflops["fp32"] == 67
    for device in ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "AMD Instinct MI300X", None):
        found = read(tmp_path, *events, device=device)
        assert not found.peaks.tflops and found.peaks.bandwidth_gb_s is None
        assert found.device == (device or "")
