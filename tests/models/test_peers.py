"""timm's models under the paper's names."""

import torch

import models


def test_sdpa_of_a_peer_is_not_eager_and_agrees_with_it():
    torch.manual_seed(0)
    eager = models.build("swin_tiny", size=(64, 64))
    fused = models.build("swin_tiny", size=(64, 64), impl="sdpa")
    assert not eager.layers[0].blocks[0].attn.fused_attn
    assert fused.layers[0].blocks[0].attn.fused_attn
    fused.load_state_dict(eager.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(eager(image), fused(image), atol=1e-5)
