"""The kernel in Triton's interpreter, against the padded reference in float64."""

import random

import pytest
import torch

from kernels.window_reduce import op, reference, tuning
from tests.support.emsa_upsample import double, off, rms
from tests.support.interpreter import of_this_share, round_to_bf16
from tests.support.poison import poisoned

assert op.INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

round_to_bf16()
PROBLEMS = range(100)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def random_problem(seed):
    """Tensors, geometry and a tile, drawn at random."""
    chosen = random.Random(seed)
    torch.manual_seed(seed)
    dtype, reduction = chosen.choice(DTYPES), chosen.choice(tuning.REDUCTIONS)
    window = reduction * chosen.randint(1, 2)
    size = (chosen.randint(1, 2 * window), chosen.randint(1, 2 * window))
    channels, batch = chosen.choice((16, 48, 64, 96)), chosen.choice((0, 1, 1, 2))
    x = (torch.randn(batch, size[0] * size[1], channels) * chosen.choice((1e-4, 1.0, 1.0, 30.0))).to(dtype)
    layout = chosen.choice(("plain", "poisoned", "transposed"))
    if layout == "poisoned":
        x = poisoned(x)
    elif layout == "transposed":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    weight = torch.randn(channels, 1, reduction + 1, reduction + 1).to(dtype)
    bias = torch.randn(channels).to(dtype) if chosen.random() < 0.7 else None
    geometry = {"size": size, "reduction": reduction, "window": window}
    return [x, weight, bias], geometry, chosen.choice(tuning.candidates(channels))


def launched(config, tensors, geometry):
    numbers = (*geometry["size"], geometry["reduction"], geometry["window"])
    return op.launch(config, op.Call._make([*tensors, *numbers]))


@pytest.mark.parametrize("seed", of_this_share(PROBLEMS))
def test_within_eagers_own_error(seed, margins):
    tensors, geometry, config = random_problem(seed)
    truth = reference.window_reduce(*double(tensors), **geometry)
    eager = reference.window_reduce(*tensors, **geometry)
    out = launched(config, tensors, geometry)
    assert out.shape == truth.shape
    assert out.dtype == tensors[0].dtype
    assert out.isfinite().all()
    assert off(out, truth) <= 2 * off(eager, truth) + 1e-5
    assert rms(out, truth) <= 1.25 * rms(eager, truth) + 1e-6
    assert all(margin.isnan().all() for margin in margins)
