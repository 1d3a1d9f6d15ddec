"""How kernels are launched: how often they are compiled, and which fp32 products are asked for."""

import csv
from pathlib import Path

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from bench.images import padded, resized
from kernels.emsa_upsample import cost, launch, op, tuning

SIZES = Path(__file__).resolve().parents[3] / "bench" / "coco_val2017_sizes.csv"
STAGES = ((1, 8), (2, 4), (4, 2), (8, 1))  # heads and reduction; one head more is 96 channels more


@pytest.fixture
def compiled(monkeypatch):
    """What would be compiled: kernels with all that Triton compiles one for. Nothing runs."""
    found = set()
    backend = make_backend(GPUTarget("cuda", 90, 32))

    def run(kernel, *arguments, grid, warmup, **options):
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        _, specialised, rest = bind(*arguments, **options)
        found.add((kernel.__name__, str(specialised), str(sorted(rest.items()))))

    monkeypatch.setattr(triton.runtime.JITFunction, "run", run)
    return found


def call(heads, size, reduction, batch=1, dtype=torch.float16):
    channels, keys = 96 * heads, torch.Size(cost.ceil_div(size, reduction)).numel()
    shapes: list[tuple[int, ...]] = [
        (batch, torch.Size(size).numel(), channels),
        *[(batch, keys, channels)] * 2,
    ]
    shapes += [(channels * reduction**2, 1, 3, 3), (channels * reduction**2,), (channels,), (channels,)]
    tensors = [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]
    return launch.Call._make([*tensors, heads, *size, reduction, 1e-6, None])


def run(one):
    shape = (one.head_dim, one.reduction, one.heads, one.keys)
    launch.launch(tuning.choose(op.DTYPES[one.q.dtype], 90, *shape), one)


def test_the_sizes_of_a_collection_take_few_compilations(compiled):
    """A detector's, all of COCO val2017's: a dozen kernels at most for the four stages."""
    with SIZES.open(encoding="utf-8") as file:
        sizes = {padded(resized((int(row["height"]), int(row["width"])))) for row in csv.DictReader(file)}
    assert len(sizes) > 50
    for height, width in sizes:
        for level, (heads, reduction) in enumerate(STAGES):
            run(call(heads, (height >> level + 2, width >> level + 2), reduction))
    assert len(compiled) <= 12


def test_batches_and_small_sizes_take_no_compilation_of_their_own(compiled):
    for batch, side in ((1, 56), (2, 56), (64, 56), (16, 48), (1, 8), (3, 7)):
        run(call(1, (side, side), 8, batch))
    assert {name for name, *_ in compiled} == {"emsa_resident"}
    assert len(compiled) == 1


@pytest.mark.parametrize(
    ("capability", "setting", "tf32"), [(75, "high", False), (80, "high", True), (90, "highest", False)]
)
def test_tf32_is_for_gpus_that_have_it_and_where_it_is_allowed(monkeypatch, capability, setting, tf32):
    monkeypatch.setattr(launch, "capability", lambda device: capability)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        assert launch._allows_tf32(torch.device("cpu")) == tf32
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
@pytest.mark.parametrize(("setting", "tf32"), [("tf32", True), ("ieee", False)])
def test_the_newer_setting_is_read_where_the_older_one_raises(monkeypatch, setting, tf32):
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = setting
    try:
        assert launch._allows_tf32(torch.device("cpu")) == tf32
    finally:
        matmul.fp32_precision = before
