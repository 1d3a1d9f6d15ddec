"""EMSAv2, the attention of ResTv2 (section 3.2), as a module around `kernels.emsa_upsample.reference`.

# B batch, H W feature map, N = H·W queries, M keys, C = A·D channels, A heads, r spatial reduction
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.emsa_upsample import reference
from kernels.emsa_upsample.reference import merge_heads, split_heads
from models.layers import to_map

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def attend_sdpa(q_BNC: Tensor, k_BMC: Tensor, v_BMC: Tensor, heads: int) -> Tensor:
    """`reference.attend` through PyTorch's own fused attention: (B, N, C)."""
    q, k, v = (split_heads(x, heads) for x in (q_BNC, k_BMC, v_BMC))
    return merge_heads(F.scaled_dot_product_attention(q, k, v))


# How the products and the softmax are run. `compile` compiles eager's.
ATTEND: dict[str, Attend] = {"eager": reference.attend, "sdpa": attend_sdpa}


def _instance_norm(x_BANM: Tensor) -> Tensor:
    """nn.InstanceNorm2d without affine, but for a map of a single element too, as a 32×32 image has in stage 4."""
    return torch.instance_norm(x_BANM, None, None, None, None, True, 0.1, 1e-5, torch.backends.cudnn.enabled)


class EMSAv2(nn.Module):
    """softmax(Q Kᵀ / √d) V + LayerNorm(PixelShuffle(DWConv(V))), then the output projection.

    Args:
        dim: channels C, a multiple of `heads`.
        reduction: r; keys and values come from a depthwise convolution of kernel r+1 and stride r.
        mhim: the multi-head interaction module of ResTv1: Norm(Softmax(Conv(Q Kᵀ / √d))) V, appendix B.
            Left out where there is one head, as in ResTv1.
        impl: a key of ATTEND.

    Raises:
        ValueError: `mhim` with an implementation that never forms the attention map.
    """

    def __init__(
        self, dim: int, heads: int, reduction: int, *, mhim: bool = False, impl: str = "eager"
    ) -> None:
        super().__init__()
        if mhim and impl != "eager":
            raise ValueError(
                f"MHIM works on the attention map, which {impl!r} never forms: run it as eager or compile"
            )
        self.heads, self.reduction = heads, reduction
        self._attend = ATTEND[impl]
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction + 1, stride=reduction, padding=reduction // 2, groups=dim)
            self.sr_norm = nn.LayerNorm(dim, eps=1e-6)
        self.mhim = mhim and heads > 1
        if self.mhim:
            self.transform_conv = nn.Conv2d(heads, heads, 1)
        self.up = nn.Sequential(
            nn.Conv2d(dim, dim * reduction**2, 3, padding=1, groups=dim), nn.PixelShuffle(reduction)
        )
        self.up_norm = nn.LayerNorm(dim, eps=1e-6)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        q_BNC = self.q(x_BNC)
        k_BMC, v_BMC = self.kv(self._reduce(x_BNC, size)).chunk(2, dim=-1)
        attend = self._attend_mhim if self.mhim else self._attend
        attended_BNC = attend(q_BNC, k_BMC, v_BMC, self.heads)
        return self.proj(attended_BNC + self._upsample(v_BMC, size))

    def _reduce(self, x_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, C) → (B, M, C)."""
        if self.reduction == 1:
            return x_BNC
        return self.sr_norm(self.sr(to_map(x_BNC, size)).flatten(2).transpose(1, 2))

    def _attend_mhim(self, q_BNC: Tensor, k_BMC: Tensor, v_BMC: Tensor, heads: int) -> Tensor:
        map_BANM = self.transform_conv(reference.scores(q_BNC, k_BMC, heads)).softmax(-1)
        return merge_heads(_instance_norm(map_BANM) @ split_heads(v_BMC, heads))

    def _upsample(self, v_BMC: Tensor, size: tuple[int, int]) -> Tensor:
        conv, norm = self.up[0], self.up_norm
        return reference.upsample(
            v_BMC, conv.weight, conv.bias, norm.weight, norm.bias, size, self.reduction, norm.eps
        )
