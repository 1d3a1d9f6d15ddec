"""The forward kernels in windows in Triton's interpreter, against the padded and partitioned reference in float64."""

import pytest

from kernels.device import INTERPRETED
from kernels.emsa_upsample import cost, op, reference, tuning
from tests.support.emsa_upsample import call_of, double, off, random_problem, rms
from tests.support.interpreter import of_this_share, round_to_bf16

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

round_to_bf16()
PROBLEMS = range(200)


@pytest.mark.parametrize("seed", of_this_share(PROBLEMS))
def test_within_eagers_own_error(seed, margins):
    """On the map's own rows, which are all that there are: no padded query is read or written."""
    tensors, geometry, config = random_problem(seed, windowed=True)
    truth = reference.emsa_upsample(*double(tensors), **geometry)
    eager = reference.emsa_upsample(*tensors, **geometry)
    out = op.launch(config, call_of(tensors, geometry))
    assert out.shape == truth.shape == tensors[0].shape
    assert out.isfinite().all()
    assert off(out, truth) <= 2 * off(eager, truth) + 1e-5
    assert rms(out, truth) <= 1.25 * rms(eager, truth) + 1e-6
    assert all(margin.isnan().all() for margin in margins)


def test_the_problems_are_of_every_kind():
    drawn = [random_problem(seed, windowed=True) for seed in PROBLEMS]
    assert {geometry["reduction"] for _, geometry, _ in drawn} == {*tuning.REDUCTIONS}
    assert {config.design for *_, config in drawn} == {*tuning.DESIGNS_IN_WINDOWS}
    windows = {cost.windows_of(geometry["size"], geometry["window"]) for _, geometry, _ in drawn}
    assert {1, 2, 4} <= windows
    padded = [any(side % geometry["window"] for side in geometry["size"]) for _, geometry, _ in drawn]
    assert {*padded} == {True, False}
    cut = [geometry["window"] % geometry["reduction"] > 0 for _, geometry, _ in drawn]
    assert {*cut} == {True, False}
