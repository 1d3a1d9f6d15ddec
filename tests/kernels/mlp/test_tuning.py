"""The tiles as data: what is offered, and what is refused."""

import pytest

from kernels.mlp import op, reference, tuning
from tests.support import measured

STATED = (80, 86, 89, 90, 100, 120)


@pytest.mark.parametrize("channels", tuning.CHANNELS)
@pytest.mark.parametrize("capability", STATED)
@pytest.mark.parametrize("dtype", tuning.DTYPES)
def test_what_is_offered(dtype, capability, channels):
    offered = tuning.candidates(dtype, capability, channels)
    assert tuning.choose(dtype, capability, channels) == offered[0]
    assert len({*offered}) == len(offered)
    assert {config.gelu for config in offered} == {*reference.GELUS}
    for config in offered:
        assert tuning.HIDDEN_MULTIPLE % config.block_h == 0
        assert op.MOST_STRIDE * config.block_t <= 2**31


@pytest.mark.parametrize(
    ("triton", "capability", "dtype", "channels", "hidden", "why"),
    [
        ((3, 6), 90, "bf16", 96, 384, None),
        ((3, 6), 80, "fp16", 256, 1024, None),
        ((3, 6), 90, "fp32", 96, 384, "takes fp16 and bf16, not fp32"),
        ((3, 6), 90, "fp16", 384, 1536, "takes 64, 96, 128, 192, 256 channels, not 384"),
        ((3, 6), 90, "fp16", 64, 200, "multiples of 128, not 200"),
        ((3, 6), 75, "fp16", 96, 384, "needs compute capability 8.0, and this GPU has 7.5"),
        ((3, 1), 70, "fp16", 96, 384, "needs compute capability 8.0, and this GPU has 7.0"),
        ((3, 1), 100, "fp16", 96, 384, "use the cuda13 stack"),
    ],
)
def test_what_is_refused_before_it_is_compiled(triton, capability, dtype, channels, hidden, why):
    found = tuning.refusal(triton, capability, dtype, channels, hidden)
    assert found is None if why is None else found and why in found


@pytest.mark.parametrize(("problem", "times"), list(measured.times("mlp")), ids=str)
def test_what_runs_on_hopper_was_the_fastest_on_an_h100(problem, times):
    """Of the tiles with its GELU: a faster one would round too much."""
    model, stage, _ = problem
    config = tuning.choose("fp16", 90, {"ResTv2-T": 96, "ResTv2-L": 128}[model] * stage)
    alike = [us for name, us in times.items() if f"gelu={config.gelu!r}" in name]
    assert len(alike) > 1 and times[measured.named(config)] <= measured.AGAIN * min(alike)
