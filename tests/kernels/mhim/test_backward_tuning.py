"""The backward's tiles as data: that they cover what they are to cover."""

import pytest

from kernels.emsa_upsample import backward_tuning as core
from kernels.mhim import backward_tuning


@pytest.mark.parametrize("capability", [80, 86, 90, 100, 120])
@pytest.mark.parametrize("heads", [2, 3, 8, 16])
def test_both_tiles_have_the_same_keys_and_the_branch_is_the_cores(capability, heads):
    """A map is written in blocks of keys by one tile, and read by the other."""
    for head_dim in (16, 64, 96, 128):
        for reduction, keys in ((8, 49), (1, 49), (4, 1050)):
            where = (capability, head_dim, reduction, heads, keys)
            offered = backward_tuning.candidates(*where)
            assert backward_tuning.choose(*where) == offered[0]
            for config in offered:
                assert config.attention.block_k == config.scores.block_k
                assert config.attention.block_q % 16 == config.scores.block_q % 16 == 0
                branch = core.choose(capability, head_dim, reduction, keys)
                assert (config.statistics, config.upsample) == (branch.statistics, branch.upsample)
