"""The fused kernel in Triton's interpreter, against float64; run by test_kernel.py in a process of its own.

Triton decides when it is imported whether it interprets, so TRITON_INTERPRET=1 must be set before.
"""

import random

import pytest
import torch

from bench.cases import parse
from bench.harness.prepare import Spent, prepare
from kernels.emsa_upsample import op, reference, tuning
from models.attention import Attention

assert op.INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CAPABILITIES = (70, 75, 80, 90, 100, 120)
MARGIN = 1000  # elements of poison before and after each tensor
POISON = float("nan")


def poisoned(tensor):
    """The same values, in rows with poison between them and around, so that what is read outside is seen."""
    wide = torch.full((2 * MARGIN + 2 * tensor.numel(),), POISON, dtype=tensor.dtype)
    inner = wide[MARGIN : MARGIN + 2 * tensor.numel()].view(*tensor.shape[:-1], 2 * tensor.shape[-1])
    inner[..., : tensor.shape[-1]] = tensor
    return inner[..., : tensor.shape[-1]]


@pytest.fixture
def margins(monkeypatch):
    """Every buffer that the launch allocates is poison, inside and around it; the list of what lies around."""
    around: list[torch.Tensor] = []

    def empty(shape, dtype, device):
        size = torch.Size(shape).numel()
        buffer = torch.full((2 * MARGIN + size,), POISON, dtype=dtype, device=device)
        around.extend((buffer[:MARGIN], buffer[MARGIN + size :]))
        return buffer[MARGIN : MARGIN + size].view(shape)

    monkeypatch.setattr(op.torch, "empty", empty)
    return around


def configs(dtype, head_dim, reduction):
    """All that may run on any GPU, and smaller tiles, so that a small problem has several of them."""
    offered = [
        config
        for capability in CAPABILITIES
        for keys in (1, 1000)
        for config in tuning.candidates(op.DTYPES[dtype], capability, head_dim, reduction, keys)
    ]
    small = [tuning.Config(16, 16, 4)]
    if reduction >= 4:
        small += [tuning.Config(16, 16, 4, per_cell=True), tuning.Config(16, 64, 4, per_cell=True)]
    return list(dict.fromkeys([*offered, *small]))


def programs(config, batch, heads, size, reduction):
    """How many the interpreter runs one after another."""
    cells, phases = torch.Size(reference.reduced(size, reduction)).numel(), reduction**2
    tiles = cells * phases // config.block_q if config.per_cell else phases * -(-cells // config.block_q)
    return tiles * batch * (heads if heads == 1 else heads + 2)


def problem(seed):
    """Tensors, geometry and a configuration, drawn at random; large ones seldom, for time's sake."""
    chosen, values = random.Random(seed), torch.Generator().manual_seed(seed)
    most = 64 if chosen.random() < 0.05 else 12
    while True:
        dtype = chosen.choice(DTYPES)
        reduction = chosen.choice(tuning.REDUCTIONS)
        heads, head_dim = chosen.choice((1, 1, 1, 2)), chosen.choice((*tuning.HEAD_DIMS, 64, 96))
        height, width = chosen.randint(2, 8 + reduction), chosen.randint(2, 8 + reduction)
        batch = chosen.choice((0, 1, 1, 1, 1, 1, 2))
        config = chosen.choice(configs(dtype, head_dim, reduction))
        if programs(config, batch, heads, (height, width), reduction) <= most:
            break
    channels = heads * head_dim
    rows, columns = reference.reduced((height, width), reduction)

    def normal(*shape, scale=1.0):
        return (torch.randn(shape, generator=values) * scale).to(dtype)

    q = normal(
        batch, height * width, channels, scale=chosen.choice((0.1, 1.0, 1.0, 30.0))
    )  # 30: one key wins
    k, v = normal(batch, rows * columns, 2 * channels).chunk(2, -1)  # as the models give them
    layout = chosen.choice(("chunk", "poisoned", "transposed"))
    if layout == "poisoned":
        q, k, v = map(poisoned, (q, k, v))
    elif layout == "transposed":
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    parameters = [
        normal(channels * reduction**2, 1, 3, 3, scale=0.3),
        normal(channels * reduction**2) if chosen.random() < 0.7 else None,
        normal(channels),
        normal(channels),
    ]
    geometry = {"heads": heads, "size": (height, width), "reduction": reduction}
    return [q, k, v, *parameters], geometry, config


def double(tensors):
    return [None if tensor is None else tensor.double() for tensor in tensors]


def flat(geometry):
    return geometry["heads"], *geometry["size"], geometry["reduction"], 1e-6


def off(out, truth):
    return (out.double() - truth).abs().max().item() if truth.numel() else 0.0


@pytest.mark.parametrize("seed", range(200))
def test_within_twice_eagers_own_error(seed, margins):
    """Nothing outside is written, for the margins keep their poison; nor read, for it would show in the result."""
    tensors, geometry, config = problem(seed)
    truth = reference.emsa_upsample(*double(tensors), **geometry)
    eager = reference.emsa_upsample(*tensors, **geometry)
    out = op.launch(config, *tensors, *flat(geometry))
    assert out.shape == truth.shape
    assert out.dtype == tensors[0].dtype
    assert out.isfinite().all()
    assert off(out, truth) <= 2 * off(eager, truth) + 1e-5
    assert margins
    assert all(margin.isnan().all() for margin in margins)


def test_the_problems_are_of_every_kind():
    drawn = [problem(seed) for seed in range(200)]
    assert {tensors[0].dtype for tensors, *_ in drawn} == {*DTYPES}
    assert {geometry["reduction"] for _, geometry, _ in drawn} == {*tuning.REDUCTIONS}
    assert {tensors[0].shape[-1] // geometry["heads"] for tensors, geometry, _ in drawn} == {
        *tuning.HEAD_DIMS
    }
    assert {config.per_cell for *_, config in drawn} == {True, False}
    assert any(len(tensors[0]) == 0 for tensors, *_ in drawn)
    blocks = {-(-tensors[1].shape[1] // config.block_k) for tensors, _, config in drawn}
    assert {1, 2, 3} <= blocks


def small(dtype=torch.float32, seed=0, heads=2):
    values = torch.Generator().manual_seed(seed)
    shapes = [
        (2, 15, 16 * heads),
        (2, 6, 16 * heads),
        (2, 6, 16 * heads),
        (64 * heads, 1, 3, 3),
        (64 * heads,),
    ]
    shapes += [(16 * heads,), (16 * heads,)]
    tensors = [torch.randn(shape, generator=values).to(dtype) for shape in shapes]
    return tensors, {"heads": heads, "size": (3, 5), "reduction": 2}


def test_the_test_sees_a_read_past_the_keys():
    """What the poison is for: one key more than there are, and the result is poison."""
    tensors, geometry = small()
    tensors[1], tensors[2] = poisoned(tensors[1]), poisoned(tensors[2])
    keys = tensors[2].as_strided((2, 6, 32), (6 * 64, 64, 1), tensors[2].storage_offset() + 32)
    tensors[2] = keys
    out = op.launch(tuning.Config(16, 16, 4), *tensors, *flat(geometry))
    assert out.isnan().any()


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_autograds(bias):
    tensors, geometry = small()
    if not bias:
        tensors[4] = None
    live = [tensor.requires_grad_() for tensor in tensors if tensor is not None]
    upstream = torch.randn(2, 15, 32)
    found = torch.autograd.grad(op.emsa_upsample(*tensors, **geometry), live, upstream)
    exact = [tensor.detach().double().requires_grad_() for tensor in live]
    arguments = exact if bias else [*exact[:4], None, *exact[4:]]
    truth = torch.autograd.grad(reference.emsa_upsample(*arguments, **geometry), exact, upstream.double())
    for one, other in zip(found, truth, strict=True):
        assert off(one, other) < 1e-5 * (1 + other.abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    """Schema, fake tensors, autograd's registration and torch.compile's tracing, forward and backward."""
    tensors, geometry = small(dtype, heads=1)
    tensors = [tensor.requires_grad_() for tensor in tensors]
    torch.library.opcheck(torch.ops.restv2.emsa_upsample.default, (*tensors, *flat(geometry)))


def test_torch_compile_takes_it_in_one_graph_with_its_backward():
    torch.compiler.reset()
    tensors, geometry = small(heads=1)
    tensors = [tensor.requires_grad_() for tensor in tensors]

    def twice(*tensors):
        return 2 * op.emsa_upsample(*tensors, **geometry)

    found = torch.compile(twice, fullgraph=True, backend="aot_eager")(*tensors)
    assert torch.equal(found, twice(*tensors))
    one, other = (torch.autograd.grad(out.sum(), tensors) for out in (found, twice(*tensors)))
    assert all(map(torch.allclose, one, other))


def test_autocast_casts_as_for_a_product():
    tensors, geometry = small()
    with torch.autocast("cpu", torch.bfloat16):
        out = op.emsa_upsample(*tensors, **geometry)
    assert out.dtype == torch.bfloat16
    truth = reference.emsa_upsample(*double(tensors), **geometry)
    with torch.autocast("cpu", torch.bfloat16):
        eager = reference.emsa_upsample(*tensors, **geometry)
    assert off(out, truth) <= 2 * off(eager, truth) + 1e-5
    assert op.emsa_upsample(*tensors, **geometry).dtype == torch.float32


def wrong(**changes):
    tensors, geometry = small()
    for name, value in changes.items():
        if name in geometry:
            geometry[name] = value
        else:
            tensors[int(name[1:])] = value
    return tensors, geometry


WRONG = {
    "a reduction of 3 is none of 1, 2, 4, 8": wrong(reduction=3),
    "32 channels in 4 heads: a head is a multiple of 16 wide, and at most 128": wrong(heads=4),
    "k is (2, 5, 32), not (2, 6, 32) as for a 3x5 map and reduction 2": wrong(t1=torch.zeros(2, 5, 32)),
    "q is (2, 15, 32), not (2, 20, 32) as for a 4x5 map and reduction 2": wrong(size=(4, 5)),
    "up_weight is (1,), not (128, 1, 3, 3) as for a 3x5 map and reduction 2": wrong(t3=torch.zeros(1)),
    "q, k and v are torch.float16, torch.float32 and torch.float32, and must be of one dtype": wrong(
        t0=torch.zeros(2, 15, 32, dtype=torch.float16)
    ),
}


@pytest.mark.parametrize("why", WRONG)
def test_what_it_does_not_take_is_a_line(why):
    tensors, geometry = WRONG[why]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are what is compared)
        op.emsa_upsample(*tensors, **geometry)
    assert str(caught.value) == why


def test_a_dtype_that_it_does_not_take():
    tensors, geometry = small(torch.float64)
    with pytest.raises(RuntimeError, match="takes fp32, fp16, bf16, not float64"):
        op.emsa_upsample(*tensors, **geometry)


def test_a_models_attention():
    eager, fused = (Attention(64, 2, 4, impl=impl) for impl in ("eager", "fused"))
    fused.load_state_dict(eager.state_dict())
    tokens = torch.randn(1, 7 * 10, 64)  # cropped in both directions
    with torch.inference_mode():
        assert off(fused(tokens, (7, 10)), eager(tokens, (7, 10)).double()) < 1e-5


@pytest.mark.parametrize("impl", ["fused", "auto"])
def test_nothing_interpreted_is_measured(impl):
    with pytest.raises(ValueError, match="TRITON_INTERPRET"):
        prepare(parse(f"restv2_lite@32:b1:fp32:{impl}"), 1, torch.device("cpu"), lambda phase: None, Spent())
