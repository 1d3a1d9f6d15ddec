"""The forward kernel in Triton's interpreter, against float64; `tests/support/interpreter.py` says how it is run."""

from math import prod

import pytest
import torch

from kernels.device import INTERPRETED
from kernels.emsa_upsample import launch, op, reference, tuning
from tests.support.emsa_upsample import (
    DTYPES,
    call_of,
    double,
    off,
    problem,
    random_problem,
    rms,
)
from tests.support.interpreter import of_this_share, round_to_bf16
from tests.support.poison import poisoned

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

round_to_bf16()
PROBLEMS = range(200)


@pytest.mark.parametrize("seed", of_this_share(PROBLEMS))
def test_within_eagers_own_error(seed, margins):
    """The largest error at most twice, that of all together at most 1.25 times eager's own, against float64.

    Nothing outside is written, for the margins keep their poison; nor read, for it would show in the result."""
    tensors, geometry, config = random_problem(seed)
    truth = reference.emsa_upsample(*double(tensors), **geometry)
    eager = reference.emsa_upsample(*tensors, **geometry)
    out = op.launch(config, call_of(tensors, geometry))
    assert out.shape == truth.shape
    assert out.dtype == tensors[0].dtype
    assert out.isfinite().all()
    assert off(out, truth) <= 2 * off(eager, truth) + 1e-5
    assert rms(out, truth) <= 1.25 * rms(eager, truth) + 1e-6
    assert margins
    assert all(margin.isnan().all() for margin in margins)


HOPPER: list[tuple[int, int, int, tuple[int, int], tuning.Config]] = [
    *[(*which, (2, 3), config) for which, config in tuning.FASTEST_ON_HOPPER.items()],
    *[(96, 4, 1, (6, 11), config) for config in tuning.FASTEST_OF_MANY_KEYS.values()],
    (96, 2, 2, (6, 11), tuning.OF_MANY_KEYS_IN_PAIRS),
]


@pytest.mark.parametrize("number", of_this_share(range(len(HOPPER))))
def test_what_runs_on_hopper_is_within_eagers_own_error(number):
    """The tiles that were fastest, whole: all heads, and as many products of a part as they make."""
    head_dim, reduction, heads, grid, config = HOPPER[number]
    dtype = (torch.float16, torch.bfloat16)[number % 2]
    torch.manual_seed(number)
    size, channels, keys = (grid[0] * reduction - 1, grid[1] * reduction), head_dim * heads, prod(grid)
    shapes: list[tuple[int, ...]] = [(1, prod(size), channels), (1, keys, channels), (1, keys, channels)]
    shapes += [(channels * reduction**2, 1, 3, 3), (channels * reduction**2,), (channels,), (channels,)]
    tensors = [torch.randn(shape).to(dtype) for shape in shapes]
    geometry = {"heads": heads, "size": size, "reduction": reduction}
    truth = reference.emsa_upsample(*double(tensors), **geometry)
    eager = reference.emsa_upsample(*tensors, **geometry)
    out = op.launch(config, call_of(tensors, geometry))
    assert off(out, truth) <= 2 * off(eager, truth) + 1e-5
    assert rms(out, truth) <= 1.25 * rms(eager, truth) + 1e-6


@pytest.mark.parametrize("seed", [161, 173, 178])
def test_of_small_values_nothing_is_rounded_once_more_than_by_eager(seed):
    """v of 1e-4 in bf16: all is LayerNorm; rounded to bf16 before its weights too, it was 1.25 to 1.4 times off."""
    tensors, geometry, config = random_problem(seed)
    assert tensors[2].dtype == torch.bfloat16 and tensors[2].abs().max() < 1e-3
    truth = reference.emsa_upsample(*double(tensors), **geometry)
    eager = reference.emsa_upsample(*tensors, **geometry)
    assert rms(op.launch(config, call_of(tensors, geometry)), truth) <= 1.05 * rms(eager, truth)


def test_the_problems_are_of_every_kind():
    drawn = [random_problem(seed) for seed in PROBLEMS]
    assert {tensors[0].dtype for tensors, *_ in drawn} == {*DTYPES}
    assert {geometry["reduction"] for _, geometry, _ in drawn} == {*tuning.REDUCTIONS}
    assert {tensors[0].shape[-1] // geometry["heads"] for tensors, geometry, _ in drawn} == {
        *tuning.HEAD_DIMS
    }
    assert {config.design for *_, config in drawn} == {*launch.DESIGNS}
    assert any(len(tensors[0]) == 0 for tensors, *_ in drawn)
    blocks = {-(-tensors[1].shape[1] // config.block_k) for tensors, _, config in drawn}
    assert {1, 2, 3} <= blocks
    assert {_products(tensors, geometry, config) for tensors, geometry, config in drawn} >= {1, 2, 4}


def _products(tensors, geometry, config):
    """The products that a head's first part is taken in; 0 by designs that make none."""
    heads = geometry["heads"]
    shape = (tensors[0].shape[-1] // heads, geometry["reduction"], heads, tensors[1].shape[1])
    return max(constants.get("N0", 0) for constants in tuning.kernels(config, *shape).values())


def test_the_test_sees_a_read_past_the_keys():
    """The poison works: with one key more than there are, the result is poison."""
    tensors, geometry = problem(2, (3, 5), dtype=torch.float32)
    tensors[1], tensors[2] = poisoned(tensors[1]), poisoned(tensors[2])
    keys = tensors[2].as_strided((2, 6, 32), (6 * 64, 64, 1), tensors[2].storage_offset() + 32)
    tensors[2] = keys
    out = op.launch(tuning.Config(16, 16, 4), call_of(tensors, geometry))
    assert out.isnan().any()
