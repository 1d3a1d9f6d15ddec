"""PVT against loops over patches and tokens, and its gradients against finite differences."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch

from models.pvt import PyramidVisionTransformer
from models.switches import PVT_OPTIONS, assembled
from tests.support.ablations import SMALL_PVT, by_loops, gradcheck, randomised, single, words
from tests.support.sweeps import swept


def pvt_by_loops(model, image):
    """A patch, a token and a class token at a time: (3, H, W) → logits."""
    weights = dict(model.named_parameters())

    def linear(name, token):
        return weights[f"{name}.weight"] @ token + weights[f"{name}.bias"]

    def layer_norm(name, token):
        centred = token - token.mean()
        scaled = centred / (centred.square().mean() + 1e-6).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    grid = image
    for stage in range(1, 5):
        patch, name = 4 if stage == 1 else 2, f"patch_embed{stage}"
        rows, columns = math.ceil(grid.shape[1] / patch), math.ceil(grid.shape[2] / patch)
        padded = torch.zeros(len(grid), rows * patch, columns * patch).double()
        padded[:, : grid.shape[1], : grid.shape[2]] = grid
        tokens = [weights[f"{name}.cls"][0, 0]] if stage == 4 else []
        for y, x in product(range(rows), range(columns)):
            cut = padded[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            kernel = weights[f"{name}.proj.weight"].flatten(1)
            tokens.append(layer_norm(f"{name}.norm", kernel @ cut.flatten() + weights[f"{name}.proj.bias"]))
        stream = torch.stack(tokens) + weights[f"{name}.pos"][0]
        for index, block in enumerate(getattr(model, f"block{stage}")):
            own = f"block{stage}.{index}"
            normed = torch.stack([layer_norm(f"{own}.norm1", token) for token in stream])
            stream = stream + by_loops(block.attn, normed[None], (rows, columns))[0]
            hidden = [linear(f"{own}.mlp.fc1", layer_norm(f"{own}.norm2", token)) for token in stream]
            gelu = [each * (1 + torch.erf(each / math.sqrt(2))) / 2 for each in hidden]
            stream = stream + torch.stack([linear(f"{own}.mlp.fc2", each) for each in gelu])
        grid = stream.T.reshape(-1, rows, columns) if stage < 4 else None
    return linear("head", layer_norm("norm", stream[0]))


@pytest.mark.parametrize("options", single(PVT_OPTIONS), ids=words)
@pytest.mark.parametrize("size", [(32, 32), (36, 40)])  # the second is padded in three stages
def test_pvt_against_loops(options, size):
    small = replace(SMALL_PVT, dims=(4, 6, 10, 8), heads=(1, 2, 5, 2), depths=(1, 1, 1, 2))
    model = randomised(PyramidVisionTransformer(small, assembled(small, options), size=size, num_classes=3))
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        expected = torch.stack([pvt_by_loops(model, image) for image in images])
        assert (model(images) - expected).abs().max() < 1e-9 * expected.abs().max()


VARIANTS = [{}, {"attention": "msa"}, {"attention": "emsav2"}]


@pytest.mark.parametrize("options", swept(VARIANTS, lambda options: not options), ids=words)
def test_gradients_of_pvt(options):
    small = replace(SMALL_PVT, dims=(4, 4, 4, 4), heads=(1, 2, 2, 2), depths=(1, 1, 1, 1))
    model = randomised(
        PyramidVisionTransformer(small, assembled(small, options), size=(32, 40), num_classes=2)
    )
    assert gradcheck(model, torch.randn(1, 3, 32, 40, dtype=torch.float64))
