"""The fused backward in Triton's interpreter, a share here, another in sweeps, all in trials; filters laid out."""

import pytest
import torch

from kernels.emsa_upsample import backward, backward_tuning, tuning
from tests.support.sweeps import shared_out


@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", shared_out(20, first=8))
def test_in_tritons_interpreter(share, interpreted):
    interpreted("tests/kernels/emsa_upsample/interpreted_backward.py", share)


@pytest.mark.parametrize("reduction", tuning.REDUCTIONS)
def test_filters_of_a_patch_against_loops(reduction):
    """The pixel (y, x) of a patch has the filter of its phase, and sees from its own cell on."""
    side, channels = backward_tuning.PATCH_SIDE[reduction], 2
    weight = torch.randn(channels * reduction**2, 1, 3, 3, dtype=torch.float64)
    bias = torch.randn(channels * reduction**2, dtype=torch.float64)
    truth = torch.zeros(
        channels, (side * reduction) ** 2, backward_tuning.taps(reduction), dtype=torch.float64
    )
    for c in range(channels):
        for y in range(side * reduction):
            for x in range(side * reduction):
                own = c * reduction**2 + y % reduction * reduction + x % reduction
                row = truth[c, y * side * reduction + x]
                row[(side + 2) ** 2] = bias[own]
                for i in range(3):
                    for j in range(3):
                        row[(y // reduction + i) * (side + 2) + x // reduction + j] = weight[own, 0, i, j]
    assert torch.equal(backward.pack(weight, bias, reduction, torch.float64), truth)


@pytest.mark.parametrize("reduction", tuning.REDUCTIONS)
def test_unpacking_is_the_transpose_of_packing(reduction):
    """⟨pack(w, b), p⟩ = ⟨(w, b), unpack(p)⟩, as it is of a gradient."""
    weight = torch.randn(3 * reduction**2, 1, 3, 3, dtype=torch.float64)
    bias = torch.randn(3 * reduction**2, dtype=torch.float64)
    packed = backward.pack(weight, bias, reduction, torch.float64)
    other = torch.randn_like(packed)
    of_weight, of_bias = backward.unpack(other, reduction)
    assert of_weight.shape == weight.shape
    assert of_bias.shape == bias.shape
    assert torch.isclose((packed * other).sum(), (of_weight * weight).sum() + (of_bias * bias).sum())
