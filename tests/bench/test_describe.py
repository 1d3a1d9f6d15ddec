"""Rows in words: what a line says of a case besides its time."""

import pytest

from bench import describe
from tests.support import synthetic_rows as synthetic


@pytest.mark.parametrize(
    ("kernels", "said"),
    [
        ({"emsa_upsample": 11, "mlp": 3}, "; emsa_upsample in 11 modules; mlp in 3 modules"),
        ({"mlp": 1}, "; mlp in 1 module"),
        ({}, ""),
        (None, ""),  # an older row
    ],
)
@pytest.mark.parametrize("harness", ["throughput", "latency"])
def test_which_of_our_kernels_ran(harness, kernels, said):
    row = synthetic.throughput_row("restv2_tiny@224:fused", 8, "fp16", harness=harness, device=synthetic.H200)
    plain = getattr(describe, harness)(row)
    row["result"] |= {"kernels": kernels} if kernels is not None else {}
    assert getattr(describe, harness)(row) == plain + said
