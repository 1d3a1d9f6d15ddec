"""Training with the kernels in Triton's interpreter: 20 steps of a block follow eager's."""

from typing import Any

import pytest
import torch

from kernels.device import INTERPRETED
from models.rest import Block
from models.switches import EMSAV1, EMSAV2

assert INTERPRETED, "TRITON_INTERPRET=1 must be set before Triton is imported"

STEPS = 20
BLOCKS: dict[str, dict[str, Any]] = {
    "EMSAv2": {},
    "MHIM": {"switches": EMSAV1},
}


def trained(impl, order, **options):
    """Losses of the steps, and the parameters after them: a block with two heads on a map of 3×3.

    Args:
        order: of the two images, and so of the sums over them.
    """
    torch.manual_seed(0)
    block = Block(32, 2, 1, 2, impl=impl, **{"switches": EMSAV2, **options}).train()
    for parameter in block.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    tokens, target = torch.randn(2, 9, 32), torch.randn(2, 9, 32)
    optimiser = torch.optim.AdamW(block.parameters(), lr=1e-2)
    losses = []
    for _ in range(STEPS):
        found = block(tokens[order], (3, 3))
        loss = torch.nn.functional.mse_loss(found, target[order])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return torch.tensor(losses), torch.cat([parameter.detach().flatten() for parameter in block.parameters()])


@pytest.mark.parametrize("name", BLOCKS)
def test_it_follows_eager_as_eager_does_with_sums_in_another_order(name):
    """The distance of parameters after 20 steps of AdamW: its first steps are signs, which a last bit may turn."""
    losses, parameters = trained("eager", [0, 1], **BLOCKS[name])
    reversed_losses, reversed_parameters = trained("eager", [1, 0], **BLOCKS[name])
    fused_losses, fused_parameters = trained("fused", [0, 1], **BLOCKS[name])
    assert losses[-1] < losses[0] / 4
    most = (losses - reversed_losses).abs().max()
    assert (losses - fused_losses).abs().max() <= 2 * most + 1e-5
    apart = (parameters - reversed_parameters).norm()
    assert (parameters - fused_parameters).norm() <= 2 * apart + 1e-3
