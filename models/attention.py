"""The attention of ResTv1, ResTv2 and PVT: one module with switches, around `kernels.emsa_upsample.reference`.

    EMSAv2(x) = proj(softmax(Q Kᵀ / √d) V + Up(V)), Q = x Wq, (K, V) = x′ Wkv, x′ = LayerNorm(reduce(x))

MSA, PVT's SRA, ResTv1's EMSA and the ConvNets of Table 2(c) leave some of it out, as `models.switches.Switches` says.

# B batch, H W feature map, N = H·W queries, M keys, C = A·D channels, A heads, r spatial reduction
# T tokens beside the map's, before them: the class token of PVT's last stage, or none
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.emsa_upsample import op, reference, tuning
from kernels.emsa_upsample.cost import ceil_div
from kernels.emsa_upsample.reference import merge_heads, split_heads
from kernels.mhim import op as mhim
from kernels.mhim import reference as of_mhim
from models.config import StageShape
from models.layers import pad_to_multiple, product_dtype, to_map
from models.switches import EMSAV2, Request, Switches, reason

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def attend_sdpa(q_BNC: Tensor, k_BMC: Tensor, v_BMC: Tensor, heads: int) -> Tensor:
    """`reference.attend` through PyTorch's own fused attention: (B, N, C)."""
    q, k, v = (split_heads(x, heads) for x in (q_BNC, k_BMC, v_BMC))
    return merge_heads(F.scaled_dot_product_attention(q, k, v))


# The products and the softmax, where they are run apart from the upsample branch. `compile` compiles eager's; `fused`
# is one call for both branches, except where each is asked for; `auto` is fused, or, where that cannot run, sdpa.
ATTEND: dict[str, Attend] = {
    "eager": reference.attend,
    "sdpa": attend_sdpa,
    "fused": reference.attend,
    "auto": attend_sdpa,
}


class Attention(nn.Module):
    """Attention and upsample branch, as far as `switches` has them, then the output projection.

    Args:
        dim: channels C, a multiple of `heads`.
        reduction: r. Depthwise: kernel r+1, stride r, padded, as in ResT; dense: kernel and stride r, as in PVT.
        switches: the ablation. MHIM is left out where there is one head, as in ResTv1.
        size: H, W of the feature map, for RPE alone, which is learnt for it.
        impl: a key of ATTEND.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        reduction: int,
        *,
        switches: Switches = EMSAV2,
        size: tuple[int, int] = (0, 0),
        norm_eps: float = 1e-6,
        impl: str = "eager",
    ) -> None:
        super().__init__()
        self.heads, self.switches = heads, switches
        self.reduction = reduction = reduction if switches.reduction else 1
        self.impl = impl
        self._attend = ATTEND["eager" if impl == "auto" and reason(Request("sdpa", switches)) else impl]
        self.mhim = switches.mhim and heads > 1
        self.may_fuse = (
            reason(Request("fused", switches)) is None
            and dim // heads in tuning.HEAD_DIMS
            and reduction in tuning.REDUCTIONS
        )
        # MHIM alone has a kernel without a branch; a stage of one head has no MHIM
        self.has_kernel = self.mhim or switches.target is not None
        if switches.attends:
            self.q = nn.Linear(dim, dim)
            self.kv = nn.Linear(dim, 2 * dim)
        else:
            self.v = nn.Linear(dim, dim)
        if reduction > 1 and switches.reduction == "depthwise":
            self.sr = nn.Conv2d(dim, dim, reduction + 1, reduction, padding=reduction // 2, groups=dim)
        elif reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction, reduction)
        if reduction > 1:
            self.sr_norm = nn.LayerNorm(dim, eps=norm_eps)
        if switches.pe == "rpe":
            rows, columns = ceil_div(size, reduction)
            self.rpe_h = nn.Parameter(torch.empty(heads, rows, 1, dim // heads))
            self.rpe_w = nn.Parameter(torch.empty(heads, 1, columns, dim // heads))
            for table in (self.rpe_h, self.rpe_w):
                nn.init.trunc_normal_(table, std=0.02)
        if self.mhim:
            self.transform_conv = nn.Conv2d(heads, heads, 1)
        if switches.target and switches.upsample == "pixel_shuffle":
            up_conv = nn.Conv2d(dim, dim * reduction**2, 3, padding=1, groups=dim, bias=switches.up_bias)
            self.up = nn.Sequential(up_conv, nn.PixelShuffle(reduction))
            self.up_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """Attended and projected tokens: (B, T+N, C) → (B, T+N, C).

        Raises:
            RuntimeError: `impl` is fused, and the kernel cannot run here.
        """
        if self._fuses(x_BNC):
            k_BMC, v_BMC = self.kv(self._reduce(x_BNC, size)).chunk(2, dim=-1)
            keys_BMC = self._positioned(k_BMC) if self.switches.pe == "rpe" else k_BMC
            return self.proj(self._fused(self.q(x_BNC), keys_BMC, v_BMC, size))
        attended_BNC, up_BNC = self.branches(x_BNC, size)
        if attended_BNC is None:
            return self.proj(up_BNC)
        return self.proj(attended_BNC if up_BNC is None else attended_BNC + up_BNC)

    def branches(self, x_BNC: Tensor, size: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
        """The two terms of equation 2, (B, T+N, C) each: attention, then upsample branch. None where it is left out."""
        reduced_BMC = self._reduce(x_BNC, size)
        if not self.switches.attends:
            return None, self._upsample({"x": reduced_BMC, "v": self.v(reduced_BMC)}, size)
        q_BNC = self.q(x_BNC)
        k_BMC, v_BMC = self.kv(reduced_BMC).chunk(2, dim=-1)
        keys_BMC = self._positioned(k_BMC) if self.switches.pe == "rpe" else k_BMC
        attend = self._attend_mhim if self.mhim else self._attend
        attended_BNC = attend(q_BNC, keys_BMC, v_BMC, self.heads)
        return attended_BNC, self._upsample({"x": reduced_BMC, "k": k_BMC, "v": v_BMC}, size)

    def kernel(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Name of our kernel that is to run for tokens of a dtype, autocast's under autocast; None where none is."""
        fuses = self.impl == "fused"
        if self.impl == "auto":
            fuses = self.may_fuse and op.why_not(device, dtype) is None
        if not (fuses and self.has_kernel):
            return None
        return "mhim" if self.mhim else "emsa_upsample"

    def _fuses(self, x_BNC: Tensor) -> bool:
        """Whether the kernel is to run. `auto` can tell only now, from the device and the dtype."""
        return self.kernel(x_BNC.device, product_dtype(x_BNC)) is not None

    def _fused(
        self, q_BNC: Tensor, k_BMC: Tensor, v_BMC: Tensor, size: tuple[int, int], window: int | None = None
    ) -> Tensor:
        """Sum of both branches, or attention with MHIM alone, in one call of the kernel: (B, N, C)."""
        tensors: list[Tensor | None] = [q_BNC, k_BMC, v_BMC]
        geometry: dict[str, Any] = {"heads": self.heads, "size": size, "reduction": self.reduction}
        if self.mhim:
            tensors += [self.transform_conv.weight, self.transform_conv.bias]
        if self.switches.target:
            conv, norm = self.up[0], self.up_norm
            tensors += [conv.weight, conv.bias, norm.weight, norm.bias]
            geometry["eps"] = norm.eps
        if self.mhim:
            return mhim.mhim(*tensors, **geometry)
        return op.emsa_upsample(*tensors, **geometry, window=window)

    def _reduce(self, x_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """The reduced tokens x′: (B, N, C) → (B, M, C)."""
        if self.reduction == 1:
            return x_BNC
        x_BCHW = to_map(x_BNC, size)
        if (
            self.switches.reduction == "dense"
        ):  # its convolution is not padded, and would leave the last rows out
            x_BCHW = pad_to_multiple(x_BCHW, self.reduction)
        return self.sr_norm(self.sr(x_BCHW).flatten(2).transpose(1, 2))

    def _positioned(self, k_BMC: Tensor) -> Tensor:
        """Keys with their relative positions, K + P of equation 4: (B, M, C).

        Raises:
            ValueError: the map is not of the size that P was learnt for.
        """
        position_MC = (self.rpe_h + self.rpe_w).permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
        if len(position_MC) != k_BMC.shape[1]:
            raise ValueError(
                f"relative positions were made for {len(position_MC)} keys, and here are {k_BMC.shape[1]}"
            )
        return k_BMC + position_MC

    def _attend_mhim(self, q_BNC: Tensor, k_BMC: Tensor, v_BMC: Tensor, heads: int) -> Tensor:
        """Attention with MHIM, equation 1: Norm(Softmax(Conv(Q Kᵀ / √d))) V."""
        return of_mhim.attend(q_BNC, k_BMC, v_BMC, heads, self.transform_conv)

    def _upsample(self, targets: dict[str, Tensor], size: tuple[int, int]) -> Tensor | None:
        """Upsample branch of equation 2: (B, T+N, C), zero for the T tokens that are in no map."""
        if not self.switches.target:
            return None
        target_BMC = targets[self.switches.target]
        rows, columns = ceil_div(size, self.reduction)
        beside = target_BMC.shape[1] - rows * columns
        if beside:
            target_BMC = target_BMC[:, beside:]
        if self.switches.upsample == "pixel_shuffle":
            conv, norm = self.up[0], self.up_norm
            up_BNC = reference.upsample(
                target_BMC, conv.weight, conv.bias, norm.weight, norm.bias, size, self.reduction, norm.eps
            )
        else:
            up_BNC = self._interpolate(target_BMC, size)
        return F.pad(up_BNC, (0, 0, beside, 0)) if beside else up_BNC

    def _interpolate(self, x_BMC: Tensor, size: tuple[int, int]) -> Tensor:
        """Nearest or bilinear upsampling: (B, M, C) → (B, N, C), cropped where r does not divide H or W."""
        if self.reduction == 1:
            return x_BMC
        grid = ceil_div(size, self.reduction)
        up_BCHW = F.interpolate(to_map(x_BMC, grid), scale_factor=self.reduction, mode=self.switches.upsample)
        return up_BCHW[..., : size[0], : size[1]].flatten(2).transpose(1, 2)


class Core(Attention):
    """Equation 2 alone, between the projections: what one call of the fused kernel computes."""

    def __init__(self, shape: StageShape, *, impl: str = "eager") -> None:
        super().__init__(shape.dim, shape.heads, shape.reduction, impl=impl)
        self.size = shape.map_size
        for name in ("q", "kv", "sr", "sr_norm", "proj"):
            if hasattr(self, name):
                delattr(self, name)

    def forward(self, q_BNC: Tensor, kv_BM2C: Tensor) -> Tensor:
        """Sum of both terms of equation 2, (B, N, C). Keys and values come side by side, as projected together."""
        k_BMC, v_BMC = kv_BM2C.chunk(2, dim=-1)
        if self._fuses(q_BNC):
            return self._fused(q_BNC, k_BMC, v_BMC, self.size)
        up_BNC = self._upsample({"v": v_BMC}, self.size)
        return torch.add(self._attend(q_BNC, k_BMC, v_BMC, self.heads), up_BNC)
