"""The cost of the op on paper, against worked examples: stage 1 of ResTv2-T at 224, 3136 tokens of 96 channels."""

from kernels.mlp import cost


def test_the_macs():
    """Two products, each of 3136 × 96 × 384."""
    assert cost.macs(3136, 96, 384) == 3136 * 96 * 384 + 3136 * 384 * 96


def test_the_least_traffic():
    """Tokens in and out; two weights, two biases."""
    assert cost.least_traffic(3136, 96, 384) == (2 * 3136 * 96, 96 * 384 + 384 + 384 * 96 + 96)
