"""The tiles as data: what is offered, what is refused, and that both agree with what is compiled."""

import pytest

from kernels.emsa_upsample import op, tuning


@pytest.mark.parametrize(
    ("head_dim", "parts"),
    [
        (16, (16, 0)),
        (48, (32, 16)),
        (64, (64, 0)),
        (80, (64, 16)),
        (96, (64, 32)),
        (112, (64, 64)),
        (128, (128, 0)),
    ],
)
def test_a_head_is_taken_in_powers_of_two(head_dim, parts):
    assert tuning.powers_of_two(head_dim) == parts


@pytest.mark.parametrize(
    ("triton", "capability", "dtype", "why"),
    [
        ((3, 1), 70, "fp16", None),
        ((3, 1), 75, "fp32", None),
        ((3, 6), 75, "fp32", None),
        ((3, 6), 90, "bf16", None),
        ((3, 1), 61, "fp32", "compute capability 7.0, and this GPU has 6.1"),
        ((3, 1), 75, "bf16", "bf16 needs compute capability 8.0, and this GPU has 7.5"),
        ((3, 6), 75, "fp16", "use the cuda12 stack"),
        ((3, 1), 100, "fp16", "use the cuda13 stack"),
    ],
)
def test_what_is_refused_before_it_is_compiled(triton, capability, dtype, why):
    found = tuning.refusal(triton, capability, dtype)
    assert found is None if why is None else found and why in found


def test_refused_and_expected_agree():
    """`make kernels` compiles what runs, and nothing that is refused."""
    triton = {"cuda12": (3, 1), "cuda13": (3, 6)}
    for (stack, capability, precision), want in tuning.EXPECTED.items():
        dtype = "fp32" if precision == "tf32" else precision
        refused = tuning.refusal(triton[stack], capability, dtype)
        if precision != "tf32":
            assert (refused is not None) == isinstance(want, tuning.Refused), (stack, capability, precision)


@pytest.mark.parametrize("reduction", tuning.REDUCTIONS)
def test_a_cells_tile_is_never_larger_than_the_cell(reduction):
    for dtype in op.DTYPES.values():
        for capability in (70, 75, 80, 90, 100, 120):
            for head_dim in tuning.HEAD_DIMS:
                for keys in (49, 1050):
                    for config in tuning.candidates(dtype, capability, head_dim, reduction, keys):
                        assert not config.per_cell or config.block_q <= reduction**2
