"""The backward's tiles as data: that they cover what they are to cover, and what is refused."""

import pytest

from kernels.emsa_upsample import backward_tuning, tuning


@pytest.mark.parametrize(("reduction", "taps"), [(8, 16), (4, 16), (2, 32), (1, 64)])
def test_taps_have_room_for_the_window_and_the_bias(reduction, taps):
    """Windows of 3×3, 3×3, 4×4 and 6×6 cells."""
    assert backward_tuning.taps(reduction) == taps


@pytest.mark.parametrize("reduction", tuning.REDUCTIONS)
@pytest.mark.parametrize("capability", [80, 86, 90, 100, 120])
def test_tiles_divide_what_they_are_of(capability, reduction):
    pixels = (backward_tuning.PATCH_SIDE[reduction] * reduction) ** 2
    assert pixels >= 16
    for head_dim in tuning.HEAD_DIMS:
        for heads in (1, 2, 4, 8):
            for keys in (1, 49, 64, 65, 1050):
                offered = backward_tuning.candidates(capability, head_dim, reduction, heads, keys)
                assert len({*offered}) == len(offered)
                assert backward_tuning.choose(capability, head_dim, reduction, heads, keys) == offered[0]
                for config in offered:
                    for tile in (config.statistics, config.upsample):
                        assert pixels % tile.pixels == 0
                        assert heads * head_dim % tile.channels == 0
                        assert tile.channels % tile.num_warps == 0
                        assert tile.patches % 16 == tile.pixels % 16 == 0  # a product sums over each


@pytest.mark.parametrize(
    ("triton", "capability", "dtype", "why"),
    [
        ((3, 6), 80, "fp16", None),
        ((3, 6), 120, "bf16", None),
        ((3, 6), 90, "fp32", "takes half precision"),
        ((3, 6), 75, "fp16", "compute capability 8.0"),
        ((3, 1), 70, "fp16", "cuda13 stack"),
    ],
)
def test_what_is_refused(triton, capability, dtype, why):
    found = backward_tuning.refusal(triton, capability, dtype)
    assert found is None if why is None else found and why in found
