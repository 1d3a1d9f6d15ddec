"""One call of each kernel on a GPU, forward and backward, for a tool that watches a process: compute-sanitizer.

python -m tests.support.one_call_each
"""

from __future__ import annotations

import importlib

import torch

from kernels import aot, assembler
from kernels.device import TRITON, capability
from kernels.emsa_upsample import op as core
from kernels.mhim import op as mhim
from kernels.mlp import op as mlp
from kernels.window_reduce import op as window_reduce
from tests.support import mhim as mhims
from tests.support import mlp as mlps
from tests.support.on_gpu import CUDA

# heads, head width, size, reduction, window: each stage of ResTv2-T cropped, heads of 64, and many keys
CORES = [
    *[
        (1, 96, (17, 18), 8, None),
        (2, 96, (9, 10), 4, None),
        (4, 96, (5, 6), 2, None),
        (8, 96, (7, 7), 1, None),
    ],
    *[(2, 64, (17, 18), 8, None), (4, 64, (9, 10), 4, None), (1, 96, (66, 70), 8, None)],
    *[(2, 96, (40, 44), 4, None)],
    *[(1, 96, (17, 18), 8, 16), (2, 96, (9, 10), 4, 8), (4, 96, (5, 6), 2, 4)],
]


def main() -> None:
    """Make the calls, and wait for them."""
    torch.manual_seed(0)
    for heads, head_dim, size, reduction, window in CORES:
        channels = heads * head_dim
        regions = 1 if not window else -(-size[0] // window) * -(-size[1] // window)
        keys = [-(-side // reduction) for side in ((window, window) if window else size)]
        shapes: list[tuple[int, ...]] = [
            (1, size[0] * size[1], channels),
            *[(regions, keys[0] * keys[1], channels)] * 2,
        ]
        shapes += [(channels * reduction**2, 1, 3, 3), (channels * reduction**2,), (channels,), (channels,)]
        tensors = [torch.randn(shape, dtype=torch.float16, device="cuda") for shape in shapes]
        geometry = {"heads": heads, "size": size, "reduction": reduction, "window": window}
        _both_ways(core.emsa_upsample, tensors, geometry)
    for heads, size, reduction, branch in (
        (2, (9, 10), 4, True),
        (4, (5, 6), 2, False),
        (2, (40, 44), 4, True),
    ):
        tensors, geometry = mhims.problem(
            heads, size, reduction, head_dim=96, branch=branch, dtype=torch.float16, device="cuda"
        )
        _both_ways(mhim.mhim, tensors, geometry)
    for channels, reduction in ((96, 8), (192, 4), (384, 2)):
        shapes = [(1, 9 * 10, channels), (channels, 1, reduction + 1, reduction + 1), (channels,)]
        tensors = [torch.randn(shape, dtype=torch.float16, device="cuda") for shape in shapes]
        geometry = {"size": (9, 10), "reduction": reduction, "window": 8 * reduction}
        _both_ways(window_reduce.window_reduce, tensors, geometry)
    for channels in (96, 192):
        _both_ways(mlp.mlp, mlps.problem((100,), channels, 4 * channels, torch.float16, "cuda"), {})
    torch.cuda.synchronize()
    if missing := expected() - launched():
        raise SystemExit(f"not called: {', '.join(sorted(missing))}")
    print("every kernel was called")


def expected() -> set[str]:
    """The kernels that some call in fp16 launches on this GPU, of those that are compiled ahead of time for it."""
    here, stack = capability(CUDA), "cuda12" if TRITON < (3, 2) else "cuda13"
    calls = (call for module in aot.OPERATORS for call in importlib.import_module(module).calls(stack, False))
    return {
        launch.kernel.name
        for call in calls
        if (call.capability, call.precision, call.is_default) == (here, "fp16", True)
        for launch in call.launches
    }


def launched() -> set[str]:
    """The kernels that this process launched."""
    return {what.partition(" of ")[2] for what in assembler.assembled()}


def _both_ways(run, tensors, geometry) -> None:
    live = [None if x is None else x.requires_grad_() for x in tensors]
    run(*live, **geometry).sum().backward()


if __name__ == "__main__":
    main()
