"""The fused kernel without a GPU: its results in Triton's interpreter, its gradient, its costs, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kernels.emsa_upsample import cost, op, reference, tuning

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(900)
def test_in_tritons_interpreter():
    """Every test of interpreted.py, where Triton was imported to interpret."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/kernels/interpreted.py", "-p", "no:cacheprovider"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def problem(reduction, size, heads=2, bias=True, dtype=torch.float64, device="cpu"):
    channels, keys = 16 * heads, 1
    for side in cost.ceil_div(size, reduction):
        keys *= side
    shapes: list[tuple[int, ...]] = [
        (2, size[0] * size[1], channels),
        (2, keys, channels),
        (2, keys, channels),
    ]
    shapes += [(channels * reduction**2, 1, 3, 3), (channels * reduction**2,), (channels,), (channels,)]
    tensors = [torch.randn(shape, dtype=dtype, device=device) for shape in shapes]
    if not bias:
        tensors[4] = None
    return tensors, {"heads": heads, "size": size, "reduction": reduction}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("reduction", "size"), [(1, (3, 4)), (2, (5, 4)), (4, (6, 7)), (8, (8, 9))])
def test_the_gradients_formulas_are_autograds(reduction, size, bias):
    torch.manual_seed(0)
    tensors, geometry = problem(reduction, size, bias=bias)
    live = [tensor.requires_grad_() for tensor in tensors if tensor is not None]
    out = reference.emsa_upsample(*tensors, **geometry)
    upstream = torch.randn_like(out)
    truth = torch.autograd.grad(out, live, upstream)
    with torch.no_grad():
        found = reference.gradients(upstream, *tensors, **geometry)
    assert [grad is None for grad in found] == [tensor is None for tensor in tensors]
    for one, other in zip((grad for grad in found if grad is not None), truth, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("reduction", "size"), [(1, (3, 4)), (2, (5, 4)), (4, (6, 7)), (8, (16, 24))])
def test_its_flops_are_the_references(reduction, size):
    tensors, geometry = problem(reduction, size, dtype=torch.float32, device="meta")
    counted = []
    for run in (op.emsa_upsample, reference.emsa_upsample):
        with FlopCounterMode(display=False) as counter:
            assert run(*tensors, **geometry).shape == tensors[0].shape
        counted.append(counter.get_total_flops())
    macs = cost.macs(2, size, 32, reduction)
    assert counted == [2 * (macs["attend"] + macs["up"])] * 2


def test_the_least_traffic():
    """Stage 1 of ResTv2-T at 224: q and out of 3136 queries, k and v of 49 keys, 96 channels."""
    image, parameters = 96 * (2 * 3136 + 2 * 49), 96 * (64 * 9 + 64 + 2)
    assert cost.least_traffic((56, 56), 96, 8) == (image, parameters)


@pytest.mark.parametrize(
    ("head_dim", "parts"),
    [
        (16, (16, 0)),
        (48, (32, 16)),
        (64, (64, 0)),
        (80, (64, 16)),
        (96, (64, 32)),
        (112, (64, 64)),
        (128, (128, 0)),
    ],
)
def test_a_head_is_taken_in_powers_of_two(head_dim, parts):
    assert tuning.parts(head_dim) == parts


@pytest.mark.parametrize(
    ("triton", "capability", "dtype", "why"),
    [
        ((3, 1), 70, "fp16", None),
        ((3, 1), 75, "fp32", None),
        ((3, 6), 75, "fp32", None),
        ((3, 6), 90, "bf16", None),
        ((3, 1), 61, "fp32", "compute capability 7.0, and this GPU has 6.1"),
        ((3, 1), 75, "bf16", "bf16 needs compute capability 8.0, and this GPU has 7.5"),
        ((3, 6), 75, "fp16", "use the cuda12 stack"),
        ((3, 1), 100, "fp16", "use the cuda13 stack"),
    ],
)
def test_what_is_refused_before_it_is_compiled(triton, capability, dtype, why):
    found = tuning.refusal(triton, capability, dtype)
    assert found is None if why is None else found and why in found


def test_refused_and_expected_agree():
    """`make kernels` compiles what runs, and nothing that is refused."""
    triton = {"cuda12": (3, 1), "cuda13": (3, 6)}
    for (stack, capability, precision), want in tuning.EXPECTED.items():
        dtype = "fp32" if precision == "tf32" else precision
        refused = tuning.refusal(triton[stack], capability, dtype)
        if precision != "tf32":
            assert (refused is not None) == isinstance(want, tuning.Refused), (stack, capability, precision)


@pytest.mark.parametrize("reduction", tuning.REDUCTIONS)
def test_a_cells_tile_is_never_larger_than_the_cell(reduction):
    for dtype in op.DTYPES.values():
        for capability in (70, 75, 80, 90, 100, 120):
            for head_dim in tuning.HEAD_DIMS:
                for keys in (49, 1050):
                    for config in tuning.candidates(dtype, capability, head_dim, reduction, keys):
                        assert not config.per_cell or config.block_q <= reduction**2
