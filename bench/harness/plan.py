"""Inductor's plan of a captured graph: the kernels that it fuses operators into, and what each reads and writes.

torch.compile schedules a graph before it writes any code, and its scheduler knows the buffers of every kernel. Here it
is asked for that and stopped: nothing is compiled, nothing runs, and tensors have no data. The plan is that for an
NVIDIA GPU of compute capability 8.0, by Triton, on whatever machine it is made; autotuning and CUDA graphs are off, as
they are by default. A kernel of Triton's is of the class "fused", as in a profile; what is left to a library is of its
operator's class, and a product with a weight is "linear". This reaches into PyTorch where nothing is promised: whoever
calls has to expect any exception.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.harness.moved import Captured, class_of_call
from bench.harness.operators import HANDLES, SEVERAL, known_as
from bench.traffic import Traffic

FOR = "Inductor's kernels for an NVIDIA GPU of compute capability 8.0, as it plans them"

# Of an A100, as far as fusing asks: it has no other figures, so that the plan is the same on every machine
_GPU = SimpleNamespace(
    name="A100", major=8, minor=0, multi_processor_count=108, warp_size=32, regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048, shared_memory_per_block_optin=166912, total_memory=80 * 2**30,
)  # fmt: skip


class _Planned(BaseException):
    """The plan is made: PyTorch goes no further. No Exception, because PyTorch wraps those."""


# What an environment could ask for otherwise
_DEFAULTS = {
    "force_disable_caches": True,
    "max_autotune": False,
    "max_autotune_gemm": False,
    "max_autotune_pointwise": False,
    "coordinate_descent_tuning": False,
    "freezing": False,  # makes weights a part of the graph as early as it is captured
    "triton.cudagraphs": False,
}


def defaults() -> contextlib.AbstractContextManager[object]:
    """Hold Inductor to its defaults, whatever the environment asks for, while a graph is captured or planned."""
    from torch._inductor import config

    patched: contextlib.AbstractContextManager[object] = config.patch(_DEFAULTS)
    return patched


def traffic(captured: Captured) -> dict[str, Traffic]:
    """Count what the kernels of a captured graph move and launch when it runs once, by class."""
    from torch._inductor import compile_fx
    from torch._inductor.graph import GraphLowering

    found: dict[str, Traffic] = {}

    def planned(lowered: Any) -> None:
        lowered.init_wrapper_code()
        lowered._update_scheduler()
        names = lowered.graph_input_names
        for kind, part in _parts(lowered, {names[place] for place in captured.weights}):
            found[kind] = found.get(kind, Traffic()).plus(part)
        raise _Planned

    with contextlib.ExitStack() as scope:
        for each in _on_the_gpu():
            scope.enter_context(each)
        scope.enter_context(patch.object(GraphLowering, "codegen", planned))
        scope.enter_context(defaults())
        scope.enter_context(torch.no_grad())
        with contextlib.suppress(_Planned):
            compile_fx.compile_fx(_moved_over(captured.graph), _fakes(captured.given))
    return found


def _on_the_gpu() -> Iterator[Any]:
    """Patches by which Inductor plans for the GPU, whether or not there is one."""
    from torch._inductor.runtime.hints import DeviceProperties

    told = DeviceProperties(
        type="cuda",
        index=0,
        multi_processor_count=_GPU.multi_processor_count,
        cc=80,
        major=_GPU.major,
        regs_per_multiprocessor=_GPU.regs_per_multiprocessor,
        max_threads_per_multi_processor=_GPU.max_threads_per_multi_processor,
        warp_size=_GPU.warp_size,
    )
    yield patch.object(DeviceProperties, "create", lambda device: told)
    yield patch("torch.cuda.get_device_properties", lambda *_: _GPU)
    yield patch("torch.cuda.get_device_capability", lambda *_: (_GPU.major, _GPU.minor))
    yield patch("torch._inductor.scheduler.has_triton", lambda *_: True)


def _moved_over(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph for tensors on the GPU: what it makes itself is made there too."""
    moved = fx.GraphModule(graph, fx.Graph())
    moved.graph.output(moved.graph.graph_copy(graph.graph, {}))
    for node in moved.graph.nodes:
        node.meta = {}
        if isinstance(node.kwargs.get("device"), torch.device):
            node.kwargs = {**node.kwargs, "device": torch.device("cuda", 0)}
    moved.recompile()
    return moved


def _fakes(given: Sequence[Any]) -> list[Any]:
    with FakeTensorMode():
        return [
            torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device="cuda:0")
            if isinstance(each, Tensor)
            else each
            for each in given
        ]


def _parts(lowered: Any, constant: set[str]) -> Iterator[tuple[str, Traffic]]:
    """The class and the traffic of each kernel.

    Args:
        constant: names of buffers that do not depend on the image; those computed of them alone are taken in.
    """
    from torch._inductor import ir
    from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode

    for node in lowered.scheduler.nodes:
        if isinstance(node, NopKernelSchedulerNode) or isinstance(node.node, ir.MultiOutput):
            continue  # an allocation, or one of several results of a kernel
        read = node.get_read_write_buffer_accesses(include_reads=True, include_writes=False)
        written = node.get_read_write_buffer_accesses(include_reads=False, include_writes=True)
        of_image = not read.keys() <= constant
        if not of_image:
            constant |= written.keys()
        sums = {"read": 0, "written": 0, "once": 0, "other_bytes": 0, "other_bytes_once": 0}
        for way, accesses in (("read", read), ("written", written)):
            for name, size in accesses.items():
                is_each = of_image and name not in constant
                dtype = lowered.get_dtype(name)
                if dtype.is_floating_point:
                    sums[way if is_each else "once"] += size // dtype.itemsize
                else:
                    sums["other_bytes" if is_each else "other_bytes_once"] += size
        kind, macs = "fused", 0
        if isinstance(node, ExternKernelSchedulerNode):
            kind, macs = _of_library(node.node)
            if kind == "matmul" and constant & read.keys():
                kind = "linear"
        yield kind, Traffic(launches=1, macs=macs, **sums)


def _of_library(kernel: Any) -> tuple[str, int]:
    """The class and the MACs of a call that Inductor leaves to a library, by the operator that it stands for."""
    operators = [node for node in kernel.get_origins() if isinstance(node.target, torch._ops.OpOverload)]
    for node in operators:
        name = known_as(node.target)
        if name not in HANDLES and name not in SEVERAL:
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda each: each.meta["val"])
        call = dict.fromkeys(argument.name for argument in node.target._schema.arguments)
        call |= dict(zip(call, args, strict=False)) | kwargs
        out = node.meta["val"]
        counts = SEVERAL[name](call, out) if name in SEVERAL else [HANDLES[name](call, out)]
        return class_of_call(node.target), sum(count.core for count in counts)
    own = getattr(kernel, "op_overload", None)
    return (class_of_call(own) if isinstance(own, torch._ops.OpOverload) else "other"), 0
