"""The kernels in Triton's interpreter, against float64; `tests/support/interpreter.py` says how it is run."""

import pytest
import torch

from kernels.device import INTERPRETED
from kernels.emsa_upsample.tuning import REDUCTIONS, Config
from kernels.mhim import op, reference
from tests.support.emsa_upsample import double, off, rms
from tests.support.interpreter import of_this_share, round_to_bf16
from tests.support.mhim import DTYPES, call_of, problem, random_problem
from tests.support.poison import poisoned

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

round_to_bf16()
PROBLEMS = range(200)


@pytest.mark.parametrize("seed", of_this_share(PROBLEMS))
def test_within_eagers_own_error(seed, margins):
    """In the dtype's own precision, also where the map is almost flat.

    Nothing outside is written, for the margins keep their poison; nor read, for it would show in the result."""
    tensors, geometry, config = random_problem(seed)
    truth = reference.mhim(*double(tensors), **geometry)
    eager = reference.mhim(*tensors, **geometry)
    out = op.launch(config, call_of(tensors, geometry))
    assert out.shape == truth.shape
    assert out.dtype == tensors[0].dtype
    assert out.isfinite().all()
    assert off(out, truth) <= 2 * off(eager, truth) + 1e-5
    assert rms(out, truth) <= 1.25 * rms(eager, truth) + 1e-6
    assert all(margin.isnan().all() for margin in margins)


def test_the_problems_are_of_every_kind():
    drawn = [random_problem(seed) for seed in PROBLEMS]
    assert {tensors[0].dtype for tensors, *_ in drawn} == {*DTYPES}
    assert {geometry["reduction"] for _, geometry, _ in drawn} == {*REDUCTIONS}
    assert {2, 4, 8, 16} == {geometry["heads"] for _, geometry, _ in drawn}
    assert {tensors[5] is None for tensors, *_ in drawn} == {True, False}
    assert any(len(tensors[0]) == 0 for tensors, *_ in drawn)
    assert {1, 2} <= {-(-tensors[1].shape[1] // config.block_k) for tensors, _, config in drawn}


def test_in_half_precision_nothing_is_lost_of_an_almost_flat_map():
    """Eager rounds P itself; here P - 1/M is rounded, to a share of its own size, the branch left out."""
    torch.manual_seed(0)
    tensors, geometry = problem(size=(4, 6), branch=False, dtype=torch.float32)
    tensors[0] *= 0.01
    half = [None if x is None else x.half() for x in tensors]
    truth = reference.mhim(*double(half), **geometry)
    out = op.launch(Config(16, 16, 4), call_of(half, geometry))
    assert off(out, truth) < 2e-3 * truth.abs().max()
    assert off(reference.mhim(*half, **geometry), truth) > 2e-2 * truth.abs().max()


def test_the_test_sees_a_read_past_the_keys():
    """The poison works: with a row of keys more than there is, the result is poison."""
    tensors, geometry = problem(dtype=torch.float32, branch=False)
    for place in (1, 2):
        x = poisoned(tensors[place])
        tensors[place] = x.as_strided((1, 9, 32), x.stride(), x.storage_offset())
    out = op.launch(
        Config(16, 16, 4), call_of(tensors, geometry | {"size": (5, 5)})._replace(q=torch.zeros(1, 25, 32))
    )
    assert out.isnan().any()
