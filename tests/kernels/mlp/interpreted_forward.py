"""The kernel in Triton's interpreter, against float64; `tests/support/interpreter.py` says how it is run."""

from itertools import product

import pytest
import torch

from kernels.device import INTERPRETED
from kernels.mlp import op, reference, tuning
from tests.support.interpreter import of_this_share, round_to_bf16
from tests.support.mlp import DTYPES, double, errors, problem, random_problem
from tests.support.poison import poisoned
from tests.support.sweeps import swept

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

round_to_bf16()
PROBLEMS = range(128)


def launched(config, tensors):
    """The kernel's result, as many values as x has, none of them poison."""
    out = op.launch(config, op.Call(*tensors))
    assert out.shape == tensors[0].shape
    assert out.dtype == tensors[0].dtype
    assert out.isfinite().all()
    return out


@pytest.mark.parametrize("seed", of_this_share(PROBLEMS))
def test_within_eagers_own_error(seed, margins):
    """Nothing outside is written, for the margins keep their poison; nor read, for it would show in the result."""
    tensors, config = random_problem(seed)
    truth = reference.mlp(*double(tensors))
    largest, rms = errors(launched(config, tensors), truth)
    largest_eager, rms_eager = errors(reference.mlp(*tensors), truth)
    assert largest <= 2 * largest_eager + 1e-5
    assert rms <= 1.25 * rms_eager + 1e-6
    assert margins
    assert all(margin.isnan().all() for margin in margins)


def test_the_problems_are_of_every_kind():
    drawn = [random_problem(seed) for seed in PROBLEMS]
    assert {(tensors[0].dtype, tensors[0].shape[-1]) for tensors, _ in drawn} == {
        (dtype, channels) for dtype in DTYPES for channels in tuning.CHANNELS
    }
    assert {config.gelu for _, config in drawn} == {*reference.GELUS}
    assert any(len(tensors[0]) == 0 for tensors, _ in drawn)
    tiles = {-(-tensors[0].shape[:-1].numel() // config.block_t) for tensors, config in drawn}
    assert {1, 2, 3} <= tiles


@pytest.mark.parametrize(
    ("gelu", "dtype"), swept(product(reference.GELUS, DTYPES), lambda value: value == ("exp", torch.float16))
)
def test_the_gelu_of_any_number(gelu, dtype):
    """fc1 spreads one number a token over all hidden channels, and fc2 takes one of them: only GELU is between.

    Numbers from the smallest to the largest: those that the polynomial would turn back for are among them.
    """
    numbers = torch.cat(
        [torch.linspace(-20, 20, 201), torch.logspace(-7, 4.8, 60), -torch.logspace(-7, 4.8, 60)]
    )
    x = torch.zeros(len(numbers), 64, dtype=dtype)
    x[:, 0] = numbers
    w1, w2 = torch.zeros(128, 64, dtype=dtype), torch.zeros(64, 128, dtype=dtype)
    w1[:, 0] = 1
    w2[0, 5] = 1
    tensors = [x, w1, torch.zeros(128, dtype=dtype), w2, torch.zeros(64, dtype=dtype)]
    out = launched(tuning.Config(16, 32, 4, gelu=gelu), tensors)[:, 0].double()
    near = reference.GELUS[gelu](x[:, 0].double())
    # half a unit in the last place, of normal numbers and of the smallest; and fp32's, where 1 + tanh x nears zero
    limits = torch.finfo(dtype)
    bound = (
        0.51 * limits.eps * near.abs() + limits.smallest_normal * limits.eps + 2e-7 * x[:, 0].double().abs()
    )
    assert ((out - near).abs() <= bound).all()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_token_is_its_own(value):
    """What is not finite in one token is nowhere else."""
    tensors = problem((1, 40), dtype=torch.float16)
    plain = launched(tuning.Config(16, 32, 4), tensors)
    tensors[0][0, 17, 3] = value
    out = op.launch(tuning.Config(16, 32, 4), op.Call(*tensors))
    assert not out[0, 17].isfinite().any()
    others = torch.arange(40) != 17
    assert torch.equal(out[0, others], plain[0, others])


def test_the_test_sees_a_read_past_the_tokens():
    """The poison works: with one token more than there are, the result is poison."""
    tensors = problem((1, 20), dtype=torch.float16)
    x = poisoned(tensors[0])
    tensors[0] = x.as_strided((1, 21, 64), x.stride(), x.storage_offset())
    assert op.launch(tuning.Config(16, 32, 4), op.Call(*tensors)).isnan().any()
