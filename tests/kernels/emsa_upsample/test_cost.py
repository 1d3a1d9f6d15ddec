"""The cost of the op on paper, against a worked example."""

from kernels.emsa_upsample import cost


def test_the_least_traffic():
    """Stage 1 of ResTv2-T at 224: q and out of 3136 queries, k and v of 49 keys, 96 channels."""
    image, parameters = 96 * (2 * 3136 + 2 * 49), 96 * (64 * 9 + 64 + 2)
    assert cost.least_traffic((56, 56), 96, 8) == (image, parameters)
