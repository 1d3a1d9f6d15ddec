"""Focal Transformer (arXiv 2107.00641): windows attend to themselves, to what surrounds them, and to pooled windows.

A window of w×w tokens is the query. Its keys and values are, in this order:

    own          its w² tokens
    surrounding  tokens up to e rows and columns away. They are read off the map shifted by e to each of the four
                 diagonals: of each shifted window the part that lies outside of the window. Where two shifts
                 overlap (w − 2e rows or columns a side) a token is a key twice, as for the authors: 132 keys of
                 120 tokens at w = 7, e = 3
    pooled       the f×f windows around it, each one token: a linear map of its w² tokens, the same for every channel

with a position bias for each: own and pooled by the relative position of query and key, surrounding by the pair.
At 224×224 a window has 230, 206, 190 and 50 keys in the four stages.

Pooled windows beyond the border are masked, by −100 on the score. Surrounding tokens beyond it are not: the
shifts are cyclic, so a window at the border attends to the opposite side. That is the authors' definition
(github.com/microsoft/Focal-Transformer, classification/focal_transformer.py), and at 224×224 it is all of it.

At other sizes a map is padded to whole windows with zeros, after the first LayerNorm, on the right and at the bottom.
The authors' code does so too, but for one size per model, and lets the padding be attended to (their QKV bias is its
key). Here the padding is masked, as own and as surrounding key, and is never a query; a pooled window that is partly
padding counts the padding as zeros. Cyclic means around the padded map. A map of which one side is no longer than a
window has no surroundings, as in the authors' code, where this is why stage 4 has none at 224×224; here stage 4 has
none at any size, for the released models have no biases for them.

# B batch, H W feature map, N = H·W tokens, C = A·D channels, A heads, D head width
# w window, e expand size, f focal window; I J rows and columns of windows, i j of tokens in one
# G = I·J windows, Q = i·j = w² queries and M keys of a window, P = A·G pairs of a head and a window
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.emsa_upsample.cost import ceil_div
from models.config import FocalConfig, Size, doubled
from models.layers import (
    MLP,
    DropPath,
    check_size,
    drop_path_rates,
    initialise,
    pad_to_multiple,
    to_map,
    to_tokens,
)

MASKED = -100.0  # the authors' value, not −inf


# ---- the products


def attend(q_BPQD: Tensor, k_BPMD: Tensor, v_BPMD: Tensor, bias_PQM: Tensor) -> Tensor:
    """softmax(q kᵀ / √d + bias) v: (B, P, Q, D). Windows are beside the heads, so that one bias is for all images."""
    # the scale on the smallest factor, the bias in place: the map of scores is by far the largest tensor here
    score_BPQM = (q_BPQD * q_BPQD.shape[-1] ** -0.5) @ k_BPMD.transpose(-2, -1)
    return score_BPQM.add_(bias_PQM).softmax(-1) @ v_BPMD


def attend_sdpa(q_BPQD: Tensor, k_BPMD: Tensor, v_BPMD: Tensor, bias_PQM: Tensor) -> Tensor:
    """`attend` through PyTorch's own fused attention."""
    return F.scaled_dot_product_attention(q_BPQD, k_BPMD, v_BPMD, attn_mask=bias_PQM.unsqueeze(0))


# The products and the softmax by implementation; `compile` compiles eager's.
ATTEND: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "eager": attend,
    "sdpa": attend_sdpa,
    "auto": attend_sdpa,
}


# ---- which token is a key of which window


class Keys(NamedTuple):
    """The keys of a map's windows: the same for all blocks of a stage, and made anew in every forward.

    They are not kept: kept ones would have to follow the model to other devices, dtypes, sizes and out of inference
    mode, and a few small operations make them.
    """

    size: Size  # H, W
    surrounded: bool
    index_GM: Tensor  # rows of a table of the map's N tokens, then its G pooled windows, then a row of zeros
    mask_GM: Tensor | None  # to add to the scores; None where nothing is masked


def windows(x_HW: Tensor, window: int) -> Tensor:
    """A map of whole windows by window: (..., H, W) → (..., I, J, i, j), a view."""
    return x_HW.unflatten(-1, (-1, window)).unflatten(-3, (-1, window)).transpose(-3, -2)


def keys_of(size: Size, window: int, focal: int, expand: int, like: Tensor) -> Keys:
    """The keys of a map's windows. Tokens and windows are numbered, and the numbers are shifted, not the tokens.

    Args:
        size: H, W of the map.
        like: a tensor on the device of the index, in the dtype of the mask.
    """
    rows, columns = ceil_div(size, window)
    tokens, nothing = size[0] * size[1], size[0] * size[1] + rows * columns
    number = torch.arange(nothing, device=like.device)
    padding = (0, columns * window - size[1], 0, rows * window - size[0])
    token_HW = F.pad(number[:tokens].unflatten(0, size), padding, value=nothing)
    numbers = [windows(token_HW, window)]
    surrounded = expand > 0 and min(size) > window
    if surrounded:
        for down in (expand, -expand):
            for right in (expand, -expand):
                shifted = windows(token_HW.roll((-down, -right), (0, 1)), window)
                numbers += _outside(shifted, down, right)
    border = (focal // 2,) * 4
    pooled_IJ = F.pad(number[tokens:].unflatten(0, (rows, columns)), border, value=nothing)
    numbers.append(pooled_IJ.unfold(0, focal, 1).unfold(1, focal, 1))
    index_GM = torch.cat([keys.flatten(2).flatten(0, 1) for keys in numbers], 1)
    if focal == 1 and not any(padding):
        return Keys(size, surrounded, index_GM, None)
    return Keys(size, surrounded, index_GM, (index_GM == nothing).to(like.dtype) * MASKED)


def _outside(shifted_IJij: Tensor, down: int, right: int) -> list[Tensor]:
    """The part of shifted windows that lies outside of the windows before the shift: an L of two rectangles.

    It is in row-major order, as in the authors' code, which the columns of `surrounding_bias` follow too.
    """
    new_columns = slice(-right, None) if right > 0 else slice(None, -right)
    if down > 0:
        return [shifted_IJij[:, :, :-down, new_columns], shifted_IJij[:, :, -down:]]
    return [shifted_IJij[:, :, :-down], shifted_IJij[:, :, -down:, new_columns]]


# ---- modules


class FocalAttention(nn.Module):
    """Focal self-attention (section 3.2).

    Args:
        dim: channels C, a multiple of `heads`.
        window, focal, expand: w, f (odd) and e.
        impl: a key of ATTEND.
    """

    def __init__(
        self, dim: int, heads: int, window: int, focal: int, expand: int, impl: str = "eager"
    ) -> None:
        super().__init__()
        self.heads, self.window, self.focal = heads, window, focal
        self._attend = ATTEND[impl]
        self.pool = nn.Linear(window**2, 1)
        self.qkv = nn.Linear(dim, 3 * dim)  # of tokens and of pooled windows
        self.proj = nn.Linear(dim, dim)
        self.own_bias = nn.Parameter(torch.zeros(heads, 2 * window - 1, 2 * window - 1))
        self.pooled_bias = nn.Parameter(torch.empty(heads, window + focal - 1, window + focal - 1))
        nn.init.trunc_normal_(self.pooled_bias, std=0.02)
        if expand:
            surrounding = 4 * (window**2 - (window - expand) ** 2)
            self.surrounding_bias = nn.Parameter(torch.empty(heads, window**2, surrounding))
            nn.init.trunc_normal_(self.surrounding_bias, std=0.02)

    def forward(self, x_BNC: Tensor, keys: Keys) -> Tensor:
        """Attended and projected tokens, from normed ones: (B, N, C) → (B, N, C)."""
        x_BGCQ = self._windows(x_BNC, keys.size).permute(0, 2, 3, 1, 4, 5).flatten(4).flatten(1, 2)
        qkv_BGC = self.qkv(self.pool(x_BGCQ).squeeze(-1))
        qkv_BNC = self.qkv(x_BNC)
        k_BPMD, v_BPMD = self._gather(qkv_BNC, qkv_BGC, keys.index_GM)
        q_BNC = qkv_BNC[..., : x_BNC.shape[-1]]
        q_BADIJij = self._windows(q_BNC, keys.size).unflatten(1, (self.heads, -1))
        q_BAIJijD = q_BADIJij.movedim(2, -1)
        q_BPQD = q_BAIJijD.flatten(4, 5).flatten(1, 3)
        out_BPQD = self._attend(q_BPQD, k_BPMD, v_BPMD, self._bias(keys))
        return self.proj(self._merge(out_BPQD, keys.size))

    def _windows(self, x_BNC: Tensor, size: Size) -> Tensor:
        """Tokens by window, padded with zeros: (B, N, C) → (B, C, I, J, i, j), a view where there is nothing to pad."""
        return windows(pad_to_multiple(to_map(x_BNC, size), self.window), self.window)

    def _gather(self, qkv_BNC: Tensor, qkv_BGC: Tensor, index_GM: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all windows, (B, P, M, D) each.

        Heads are split before the tokens are copied to each window that has them as keys. Split afterwards, nearly
        five times as many tokens would be copied: G·M, not N.
        """
        fine, pooled = (
            x.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4) for x in (qkv_BNC, qkv_BGC)
        )
        zeros = fine.new_zeros(2, *fine.shape[1:3], 1, fine.shape[-1])
        table = torch.cat([fine[1:], pooled[1:], zeros], 3)
        gathered = table[:, :, :, index_GM.flatten()]
        k_BPMD, v_BPMD = gathered.unflatten(3, index_GM.shape).flatten(2, 3).unbind(0)
        return k_BPMD, v_BPMD

    def _bias(self, keys: Keys) -> Tensor:
        """Position bias plus mask: (P, Q, M)."""
        own, pooled = _relative(self.own_bias, self.window), _relative(self.pooled_bias, self.focal)
        biases = [own, self.surrounding_bias, pooled] if keys.surrounded else [own, pooled]
        bias_AGQM = torch.cat(biases, -1).unsqueeze(1)
        if keys.mask_GM is None:
            bias_AGQM = bias_AGQM.expand(-1, len(keys.index_GM), -1, -1)
        else:
            bias_AGQM = bias_AGQM + keys.mask_GM.unsqueeze(1)
        return bias_AGQM.flatten(0, 1)

    def _merge(self, x_BPQD: Tensor, size: Size) -> Tensor:
        """Windows back in their places, padding cropped: (B, P, Q, D) → (B, N, C)."""
        grid, window = ceil_div(size, self.window), (self.window, self.window)
        x_BAIJijD = x_BPQD.unflatten(1, (self.heads, *grid)).unflatten(4, window)
        x_BIiJjC = x_BAIJijD.permute(0, 2, 4, 3, 5, 1, 6).flatten(5)
        return x_BIiJjC.flatten(3, 4).flatten(1, 2)[:, : size[0], : size[1]].flatten(1, 2)


def _relative(bias_A: Tensor, keys: int) -> Tensor:
    """A table by relative position, (A, w+k−1, w+k−1), as one by query and key, (A, w², k²).

    Query y and key y′ find theirs in row y − y′ + k − 1. Windows of k rows of the table, last row first, are just that.
    """
    return bias_A.unfold(1, keys, 1).unfold(2, keys, 1).flip(3, 4).flatten(3).flatten(1, 2)


class Block(nn.Module):
    """One block: x + FocalAttention(norm(x)), then x + MLP(norm(x)). Tokens in, tokens out: (B, N, C)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        window: int,
        focal: int,
        expand: int,
        *,
        mlp_ratio: int = 4,
        drop_path: float = 0.0,
        impl: str = "eager",
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = FocalAttention(dim, heads, window, focal, expand, impl)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BNC: Tensor, keys: Keys) -> Tensor:
        x_BNC = x_BNC + self.drop_path(self.attn(self.norm1(x_BNC), keys))
        return x_BNC + self.drop_path(self.mlp(self.norm2(x_BNC)))


class PatchEmbed(nn.Module):
    """A convolution over patches that do not overlap, then LayerNorm over channels."""

    def __init__(self, channels_in: int, channels: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels_in, channels, patch, stride=patch)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Size]:
        """Tokens, (B, N, C), and the map's size: each side divided by the patch, rounded up, as zeros fill the last."""
        x_BNC, size = to_tokens(self.proj(pad_to_multiple(x_BCHW, self.proj.stride[0])))
        return self.norm(x_BNC), size


class Focal(nn.Module):
    """The classifier, for any image of at least 32×32. At 224×224 it is the authors'; elsewhere maps are padded.

    Args:
        impl: a key of ATTEND.
    """

    def __init__(self, config: FocalConfig, *, impl: str = "eager", num_classes: int = 1000) -> None:
        super().__init__()
        self.config = config
        self.embeds, self.stages = nn.ModuleList(), nn.ModuleList()
        channels_in = 3
        rates_of_stages = drop_path_rates(config.drop_path, config.depths)
        for stage, (channels, rates) in enumerate(zip(doubled(config.width), rates_of_stages, strict=True)):
            self.embeds.append(PatchEmbed(channels_in, channels, 2 if stage else 4))
            blocks = [
                Block(
                    channels,
                    config.heads[stage],
                    config.window,
                    config.focal_windows[stage],
                    config.expand_sizes[stage],
                    mlp_ratio=config.mlp_ratio,
                    drop_path=rate,
                    impl=impl,
                )
                for rate in rates
            ]
            self.stages.append(nn.ModuleList(blocks))
            channels_in = channels
        self.norm = nn.LayerNorm(channels)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # the authors leave convolutions as PyTorch starts them
                initialise(module)

    def features(self, x_BCHW: Tensor) -> list[Tensor]:
        """The four stages' maps, (B, C, H, W) each, at 1/4, 1/8, 1/16 and 1/32 of the image, rounded up.

        Raises:
            ValueError: the image is smaller than 32×32.
        """
        check_size(x_BCHW, self.config.min_size)
        maps = []
        for stage, (embed, blocks) in enumerate(zip(self.embeds, self.stages, strict=True)):
            x_BNC, size = embed(x_BCHW)
            focal, expand = self.config.focal_windows[stage], self.config.expand_sizes[stage]
            keys = keys_of(size, self.config.window, focal, expand, like=x_BNC)
            for block in blocks:
                x_BNC = block(x_BNC, keys)
            # not `to_map`: an embedding that is given one image channels last converts all its weights each time
            x_BCHW = x_BNC.transpose(1, 2).unflatten(2, size)
            maps.append(x_BCHW)
        return maps

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits, (B, num_classes)."""
        last_BCHW = self.features(x_BCHW)[-1]
        normed_BNC = self.norm(last_BCHW.flatten(2).transpose(1, 2))
        return self.head(self.avg_pool(to_map(normed_BNC, last_BCHW.shape[2:])).flatten(1))
