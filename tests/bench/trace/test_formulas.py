"""MACs and bytes from recorded shapes: closed forms by hand, and PyTorch's own counter on real traces of a CPU."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from bench.trace import formulas, told
from bench.trace.joined import Joined
from bench.trace.operators import CLASSES, Operator, call_of, class_of
from kernels.emsa_upsample import cost
from kernels.mhim import cost as mhim
from kernels.mlp import cost as mlp
from kernels.window_reduce import cost as window_reduce


def recorded(
    name: str, *shapes: tuple[Any, ...], values: tuple[str, ...] = (), types: tuple[str, ...] = ()
) -> Operator:
    return Operator(name, shapes, types or tuple("float" if shape else "" for shape in shapes), values)


def conv(
    weight: tuple[int, ...], stride: str, padding: str, dilation: str = "[1, 1]", groups: str = "1"
) -> Operator:
    """A convolution of X with its settings, as they are recorded."""
    values = ("", "", "", stride, padding, dilation, groups)
    return recorded("aten::conv2d", X, weight, (), (), (), (), (), values=values)


X, W = (2, 8, 10, 12), (16, 8, 3, 3)
CONV = 2 * 16 * 8 * 9  # MACs of a pixel of the output, of both images
Q, K = (2, 4, 6, 8), (2, 4, 10, 8)

MACS = {
    "conv2d": (conv(W, "[2, 2]", "[1, 1]"), CONV * 5 * 6),
    "one number for both": (conv(W, "[2]", "[1]", "[1]"), CONV * 5 * 6),
    "dilated": (conv(W, "[1, 1]", "[2, 2]", "[2, 2]"), CONV * 10 * 12),
    "same": (conv(W, "[1, 1]", "same"), CONV * 10 * 12),
    "valid": (conv(W, "[1, 1]", "valid"), CONV * 8 * 10),
    "cuDNN's": (recorded("aten::cudnn_convolution", X, W, values=("", "", "[1, 1]", "[2, 2]", "[1, 1]", "1")),
                CONV * 5 * 6),
    "grouped": (conv((16, 2, 3, 3), "[1, 1]", "[1, 1]", groups="4"),
                CONV * 120 // 4),
    "conv1d": (recorded("aten::conv1d", (2, 8, 10), (16, 8, 3), (), values=("", "", "", "[1]", "[0]", "[1]", "1")),
               2 * 16 * 8 * 3 * 8),
    "transposed": (recorded("aten::convolution", X, (8, 5, 3, 3), (),
                            values=("", "", "", "[2, 2]", "[0, 0]", "[1, 1]", "True")),
                   2 * 8 * 120 * 5 * 9),
    "no settings": (recorded("aten::conv2d", X, W, ()), None),
    "both gradients": (recorded("aten::convolution_backward", (2, 16, 5, 6), X, W), 2 * CONV * 30),
    "one gradient": (recorded("aten::convolution_backward", (2, 16, 5, 6), X, W, (), (), (), (), (), (), (), (),
                              values=("",) * 10 + ("[False, True, True]",)), CONV * 30),
    "both gradients, as of old": (recorded("aten::cudnn_convolution_backward", X, (2, 16, 5, 6), W), 2 * CONV * 30),
    "the input's gradient alone": (recorded("aten::cudnn_convolution_backward_input", (), (2, 16, 5, 6), W), CONV * 30),
    "linear": (recorded("aten::linear", (2, 7, 8), (5, 8), (5,)), 2 * 7 * 8 * 5),
    "addmm": (recorded("aten::addmm", (5,), (14, 8), (8, 5)), 14 * 8 * 5),
    "mm": (recorded("aten::mm", (14, 8), (8, 5)), 14 * 8 * 5),
    "bmm": (recorded("aten::bmm", (3, 14, 8), (3, 8, 5)), 3 * 14 * 8 * 5),
    "baddbmm": (recorded("aten::baddbmm", (3, 14, 5), (3, 14, 8), (3, 8, 5)), 3 * 14 * 8 * 5),
    "broadcast": (recorded("aten::matmul", (3, 1, 14, 8), (6, 8, 5)), 3 * 6 * 14 * 8 * 5),
    "with a vector": (recorded("aten::matmul", (3, 14, 8), (8,)), 3 * 14 * 8),
    "flash": (recorded("aten::_scaled_dot_product_flash_attention", Q, K, K), 2 * 4 * 6 * 10 * 16),
    "flash, length first": (recorded("aten::_flash_attention_forward", (2, 6, 4, 8), (2, 10, 4, 8), (2, 10, 4, 8)),
                            2 * 4 * 6 * 10 * 16),
    "flash, packed": (recorded("aten::_flash_attention_forward", (12, 4, 8), (20, 4, 8), (20, 4, 8)), None),
    "its backward": (recorded("aten::_scaled_dot_product_efficient_attention_backward", Q, Q, K, K),
                     2 * 2 * 4 * 6 * 10 * 16),
    "cuDNN's own backward": (recorded("aten::_cudnn_attention_backward", Q, Q, K, K),
                     2 * 2 * 4 * 6 * 10 * 16),
    "our fused operator": (recorded("restv2::emsa_upsample", (2, 2240, 96), (2, 35, 96), (2, 35, 96), (6144, 1, 3, 3)),
                           sum(cost.macs(2, (56, 40), 96, 8).values())),
    "its gradients": (recorded("restv2::emsa_upsample_backward", (2, 2240, 96), (2, 2240, 96), (2, 35, 96), (2, 35, 96),
                               (6144, 1, 3, 3)), 2 * sum(cost.macs(2, (56, 40), 96, 8).values())),
    "softmax": (recorded("aten::_softmax", Q), 0),
    "of nothing": (recorded("aten::mm", (), ()), None),
    "of too few": (recorded("aten::mm"), None),
    "in no table": (recorded("mine::mm", (3, 4), (4, 5)), None),
    "of a size that no memory holds": (recorded("aten::mm", (1 << 40, 1 << 40), (1 << 40, 1 << 40)), None),
}  # fmt: skip


@pytest.mark.parametrize("name", MACS)
def test_macs_are_those_of_the_closed_form(name):
    operator, expected = MACS[name]
    call, kind = call_of(operator)
    assert formulas.macs(call, kind) == expected


MOVED = {
    "linear": (recorded("aten::addmm", (5,), (14, 8), (8, 5)), 4 * (5 + 14 * 8 + 8 * 5 + 14 * 5)),
    "bmm": (recorded("aten::bmm", (3, 14, 8), (3, 8, 5)), 4 * 3 * (14 * 8 + 8 * 5 + 14 * 5)),
    "baddbmm": (MACS["baddbmm"][0], 4 * 3 * (14 * 5 + 14 * 8 + 8 * 5 + 14 * 5)),
    "addmm of a matrix": (recorded("aten::addmm", (14, 5), (14, 8), (8, 5)), 4 * (70 + 14 * 8 + 8 * 5 + 70)),
    "conv": (MACS["conv2d"][0], 4 * (2 * 8 * 120 + 16 * 8 * 9 + 2 * 16 * 30)),
    "both gradients of conv": (MACS["both gradients"][0], 2 * 4 * (2 * 16 * 30 + 2 * 8 * 120 + 16 * 8 * 9)),
    "softmax": (recorded("aten::_softmax", (4, 5), (), ()), 4 * 2 * 20),
    "softmax backward": (recorded("aten::_softmax_backward_data", (4, 5), (4, 5), (), ()), 4 * 3 * 20),
    "add": (recorded("aten::add", (4, 5), (4, 5), ()), 4 * 3 * 20),
    "add of a row": (recorded("aten::add", (4, 5), (5,), ()), 4 * (20 + 5 + 20)),
    "relu": (recorded("aten::clamp_min", (4, 5), (), (4, 5)), 4 * 2 * 20),  # the third is where it writes
    "copy with a cast": (recorded("aten::copy_", (4, 5), (4, 5), types=("c10::Half", "float")), (2 + 4) * 20),
    "fill": (recorded("aten::zero_", (4, 5)), 4 * 20),
    "layer norm": (recorded("aten::native_layer_norm", (4, 5), (), (5,), (5,)), 4 * (2 * 20 + 10)),
    "comparison": (recorded("aten::lt", (4, 5), (4, 5)), 4 * 40 + 20),
    "half": (recorded("aten::mul", (4, 5), (4, 5), types=("c10::BFloat16",) * 2), 2 * 60),
    "a pool whose output is not known": (recorded("aten::max_pool2d", X), None),
    "a type that is not known": (recorded("aten::add", (4, 5), types=("Quantum",)), None),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVED)
def test_bytes_are_those_of_the_tensors_each_once(name):
    operator, expected = MOVED[name]
    assert formulas.moved(operator) == expected


def test_an_expanded_tensor_is_read_once():
    operator = recorded("aten::add", (4, 5), (4, 5))
    operator.strides = ((5, 1), (0, 1))
    assert formulas.moved(operator) == 4 * (20 + 5 + 20)


def test_the_fused_core_is_what_its_own_cost_says():
    images, size, channels, reduction = 3, (6, 10), 8, 4  # whose keys are 2×3, and cover more than the map
    keys = prod(cost.ceil_div(size, reduction))
    tokens, filters = (images, 60, channels), (channels * reduction**2, 1, 3, 3)
    call = recorded(
        "restv2::emsa_upsample",
        *(tokens, (images, keys, channels), (images, keys, channels)),
        *(filters, filters[:1], (channels,), (channels,), (), (), (), (), ()),
    )
    assert class_of(call.name) == "attention"
    assert formulas.macs(call, "attention") == sum(cost.macs(images, size, channels, reduction).values())
    elements, parameters = cost.least_traffic(size, channels, reduction)
    assert formulas.moved(call) == 4 * (images * elements + parameters)


def test_the_reduction_inside_windows_is_what_its_own_cost_says():
    shapes: tuple[tuple[int, ...], ...] = ((3, 35, 16), (16, 1, 3, 3), (16,), (), (), (), ())
    call = recorded("restv2::window_reduce", *shapes, values=("", "", "", "5", "7", "2", "4"))
    assert class_of(call.name) == "conv"
    assert formulas.macs(call, "conv") == window_reduce.macs(3, (5, 7), 16, 2, 4)
    elements, parameters = window_reduce.least_traffic((5, 7), 16, 2, 4)
    assert formulas.moved(call) == 4 * (3 * elements + parameters)
    values = ("", "", "", "", "5", "7", "2", "4")
    backward = recorded("restv2::window_reduce_backward", (12, 4, 16), *shapes, values=values)
    assert class_of(backward.name) == "conv"
    assert formulas.macs(backward, "conv") == 2 * window_reduce.macs(3, (5, 7), 16, 2, 4)
    # tokens and parameters, and the gradients of both
    assert formulas.moved(backward) == 4 * (3 * elements + 2 * parameters + 3 * 35 * 16)


@pytest.mark.parametrize("branch", [True, False])
def test_the_fused_mhim_is_what_its_own_cost_says(branch):
    images, size, channels, heads = 3, (6, 10), 32, 2
    shapes: list[tuple[int, ...]] = [(images, 60, channels), *[(images, 6, channels)] * 2, (2, 2, 1, 1), (2,)]
    shapes.append((channels * 16, 1, 3, 3) if branch else ())
    call = recorded("restv2::mhim", *shapes)
    assert class_of(call.name) == "attention"
    expected = sum(mhim.macs(images, size, channels, heads, 4, has_branch=branch).values())
    assert formulas.macs(call, "attention") == expected
    gradients = recorded("restv2::mhim_backward", shapes[0], *shapes)
    assert class_of(gradients.name) == "attention"
    assert formulas.macs(gradients, "attention") == 2 * expected


def test_the_fused_core_in_windows_has_no_query_that_is_padding():
    """Two windows of 4×4 for a map of 4×5: 4 keys each."""
    shapes = ((3, 20, 8), (6, 4, 8), (6, 4, 8), (32, 1, 3, 3), (32,), (8,), (8,))
    call = recorded("restv2::emsa_upsample", *shapes)
    assert formulas.macs(call, "attention") == 2 * 3 * 20 * 4 * 8 + 9 * 6 * 4 * 32


def test_the_fused_feed_forward_is_what_its_own_cost_says():
    tokens, w1, w2 = (3, 49, 64), (256, 64), (64, 256)
    call = recorded("restv2::mlp", tokens, w1, (256,), w2, (64,))
    assert class_of(call.name) == "linear"
    assert formulas.macs(call, "linear") == mlp.macs(3 * 49, 64, 256)
    elements, parameters = mlp.least_traffic(49, 64, 256)
    assert formulas.moved(call) == 4 * (3 * elements + parameters)


def test_every_name_with_a_formula_has_a_class_with_macs():
    assert {class_of(f"aten::{name}") or class_of(name) for name in formulas.MACS} == {
        *("conv", "linear", "matmul", "attention")
    }
    assert set(CLASSES) >= {"conv", "linear", "matmul", "norm", "activation", "pool", "upsample"}


# ---- real traces of this CPU


class Net(nn.Module):
    """Convolutions of every kind, linear layers, products, attention."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False)
        self.dilated = nn.Conv2d(8, 12, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.along = nn.Conv1d(6, 16, 3)
        self.lines = nn.Linear(16, 16)
        self.unbiased = nn.Linear(16, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = F.relu(self.norm(self.plain(x)))
        x = self.up(F.gelu(self.dilated(self.grouped(x))))
        x = self.lines(self.along(x.flatten(2)).mT)
        x = torch.softmax(x @ x.mT, dim=-1) @ x
        return self.unbiased(x.mean(1))


def trace_of(
    net: nn.Module, images: torch.Tensor, folder: Path, is_trained: bool
) -> tuple[Joined, int, float]:
    """A trace of one pass, the FLOPs that PyTorch counts of it, and the µs that its profiler adds up."""

    def run() -> None:
        out = net(images)
        if is_trained:
            out.square().sum().backward()

    with FlopCounterMode(display=False) as counter:
        run()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        run()
    profiler.export_chrome_trace(str(folder / "it.json.gz"))
    took = sum(event.self_cpu_time_total for event in profiler.key_averages())
    return told.read(folder / "it.json.gz"), counter.get_total_flops(), took


@pytest.mark.parametrize("is_trained", [False, True], ids=["forward", "training"])
def test_macs_and_time_of_a_real_trace_are_what_pytorch_says(tmp_path, is_trained):
    images = torch.randn(2, 3, 16, 16)
    # PyTorch's counter takes the gradient of a grouped convolution's weight for that of an ungrouped one
    net = Net(groups=1 if is_trained else 8)
    joined, counted, took = trace_of(net, images, tmp_path, is_trained)
    assert joined.is_cpu
    assert 2 * joined.macs == counted
    assert joined.took == pytest.approx(took, rel=0.01)
    assert {call.phase for call in joined.calls} == ({"forward", "backward"} if is_trained else {"forward"})
    assert [
        call.label for call in joined.calls if call.kind in ("conv", "linear", "matmul") and call.macs is None
    ] == []


def test_attention_of_a_real_trace_is_counted(tmp_path):
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    joined, counted, _ = trace_of(Attention(), torch.randn(2, 4, 32, 16), tmp_path, False)
    assert (
        2 * joined.macs == 2 * 2 * 2 * 4 * 32 * 32 * 16
    )  # PyTorch's counter knows the GPU's operators alone
    assert counted in (0, 2 * joined.macs)
    assert {call.kind for call in joined.calls if call.macs} == {"attention"}
