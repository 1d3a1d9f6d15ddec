"""What only a GPU can show of the MLP's kernel: that what the compiler made of it is right. `make test-gpu`."""

import pytest
import torch

from kernels.device import capability
from kernels.mlp import op, reference, tuning
from tests.support.mlp import DTYPES, errors, problem
from tests.support.on_gpu import CUDA, NEEDS_GPU, same_from_a_graph

pytestmark = NEEDS_GPU

TOKENS = 12345  # a multiple of nothing that a tile is


@pytest.fixture(autouse=True)
def _runs():
    if why := op.why_not(CUDA, torch.float16, 64, 256):
        pytest.skip(why)
    torch.manual_seed(0)


def offered(dtype, channels):
    return tuning.candidates(op.DTYPES[dtype], capability(CUDA), channels)


def expected(tensors):
    """The result in float64, and eager's two errors."""
    truth = reference.mlp(*(tensor.double() for tensor in tensors))
    return truth, errors(reference.mlp(*tensors), truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", tuning.CHANNELS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_every_tile_is_within_eagers_own_error(channels, dtype, scale, margins):
    """A GELU that is rougher than the dtype's own is only timed: accuracy is why it does not run by default."""
    tensors = problem((TOKENS,), channels, 4 * channels, dtype, "cuda")
    tensors[0] *= scale
    truth, (largest, rms) = expected(tensors)
    for config in offered(dtype, channels):
        if (op.DTYPES[dtype], config.gelu) == ("fp16", "tanh"):
            continue
        out = op.launch(config, op.Call(*tensors))
        off = errors(out, truth)
        assert off[0] <= 2 * largest + 1e-5, config
        assert off[1] <= 1.25 * rms + 1e-6, config
    assert margins
    assert all(margin.isnan().all() for margin in margins)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", tuning.CHANNELS)
def test_the_same_bits_every_time(channels, dtype):
    """1000 times what runs by default, 10 times every other tile."""
    tensors = problem((4099,), channels, 4 * channels, dtype, "cuda")
    for place, config in enumerate(offered(dtype, channels)):
        first = op.launch(config, op.Call(*tensors))
        repeats = range(10 if place else 1000)
        assert all(torch.equal(op.launch(config, op.Call(*tensors)), first) for _ in repeats), config


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 127, 129, 257])
def test_any_number_of_tokens(tokens):
    tensors = problem((tokens,), 96, 384, torch.float16, "cuda")
    truth, (largest, _) = expected(tensors)
    for config in offered(torch.float16, 96):
        if config.gelu != "tanh":
            assert errors(op.launch(config, op.Call(*tensors)), truth)[0] <= 2 * largest + 1e-5


def test_tokens_with_gaps_between_them_and_weights_in_another_order():
    tensors = problem((2, 100), 64, 256, torch.float16, "cuda")
    plain = op.mlp(*tensors)
    wide = torch.full((2, 100, 200), float("nan"), dtype=torch.float16, device="cuda")
    wide[..., 8:72] = tensors[0]
    assert torch.equal(op.mlp(wide[..., 8:72], *tensors[1:]), plain)
    turned = [tensor.mT.contiguous().mT if tensor.ndim == 2 else tensor for tensor in tensors[1:]]
    assert torch.equal(op.mlp(tensors[0].transpose(0, 1).contiguous().transpose(0, 1), *turned), plain)


def test_more_elements_than_32_bits_count():
    tokens = 2**31 // 64 + 200
    if torch.cuda.mem_get_info()[0] < 6 * tokens * 64:
        pytest.skip("needs 13 GB")
    tensors = problem((100,), 64, 256, torch.float16, "cuda")
    many = torch.zeros(tokens, 64, dtype=torch.float16, device="cuda")
    many[:100], many[-100:] = tensors[0], tensors[0]
    out, few = op.mlp(many, *tensors[1:]), op.mlp(*tensors)
    assert torch.equal(out[:100], few)
    assert torch.equal(out[-100:], few)


def test_gradients_in_half_precision():
    live = [tensor.requires_grad_() for tensor in problem((2, 500), 96, 384, torch.float16, "cuda")]
    upstream = torch.randn(2, 500, 96, dtype=torch.float16, device="cuda")
    exact = [tensor.detach().double().requires_grad_() for tensor in live]
    truth = torch.autograd.grad(reference.mlp(*exact), exact, upstream.double())
    found, eager = (torch.autograd.grad(run(*live), live, upstream) for run in (op.mlp, reference.mlp))
    for one, other, right in zip(found, eager, truth, strict=True):
        assert errors(one, right)[0] <= 2 * errors(other, right)[0] + 1e-5


def test_in_a_cuda_graph():
    tensors = problem((2, 500), 96, 384, torch.float16, "cuda")
    assert same_from_a_graph(lambda: op.mlp(*tensors))


def test_on_a_gpu_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    tensors = problem((2, 50), 64, 256, torch.float16, "cuda:1")
    with torch.cuda.device(0):
        out = op.mlp(*tensors)
    truth, (largest, _) = expected(tensors)
    assert out.device == tensors[0].device
    assert errors(out, truth)[0] <= 2 * largest + 1e-5


@pytest.mark.parametrize("gelu", reference.GELUS)
def test_the_hardwares_gelu_is_as_near_as_it_is_said_to_be(gelu):
    """fc1 and fc2 pass numbers on as they are; bf16's weights, fp16's rounding. tanh.approx errs by 2^-11 at most."""
    numbers = torch.cat([torch.linspace(-20, 20, 4001), torch.logspace(-4, 4.5, 400)]).cuda()
    x = torch.zeros(len(numbers), 64, dtype=torch.float16, device="cuda")
    x[:, 0] = numbers
    w1, w2 = torch.zeros(256, 64, device="cuda").half(), torch.zeros(64, 256, device="cuda").half()
    w1[:, 0] = w2[0, 7] = 1
    call = op.Call(x, w1, torch.zeros(256, device="cuda").half(), w2, torch.zeros(64, device="cuda").half())
    config = next(config for config in offered(torch.float16, 64) if config.gelu == gelu)
    out, x = op.launch(config, call)[:, 0].double(), x[:, 0].double()
    near = reference.GELUS[gelu](x)
    tanh = 2**-11 * x.abs() / 2 if gelu == "tanh" else 0
    bound = tanh + 2**-11 * 1.05 * near.abs() + 1e-6 * x.abs() + 2**-24
    assert ((out - near).abs() <= bound).all()
