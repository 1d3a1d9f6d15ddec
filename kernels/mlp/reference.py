"""The feed-forward of a block in plain PyTorch, y = fc2(GELU(fc1(x))): what the kernel is compared with.

# ... any leading dimensions, T tokens in all, C channels, H hidden channels (4C in the models)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def mlp(x_C: Tensor, w1_HC: Tensor, b1_H: Tensor, w2_CH: Tensor, b2_C: Tensor) -> Tensor:
    """Both layers with their biases and the exact GELU between: (..., C) → (..., C)."""
    return F.linear(F.gelu(F.linear(x_C, w1_HC, b1_H)), w2_CH, b2_C)


def gradients(
    grad_C: Tensor, x_C: Tensor, w1_HC: Tensor, b1_H: Tensor, w2_CH: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, w1, b1, w2 and b2, from the gradient of the result.

    They are explicit formulas, because torch.compile traces an operator's gradient, where autograd cannot be called.
    The hidden map is computed again: nothing of the forward is kept but its inputs.
    """
    grad_TC, x_TC = grad_C.flatten(0, -2), x_C.flatten(0, -2)
    u_TH = F.linear(x_TC, w1_HC, b1_H)
    grad_u_TH = torch.ops.aten.gelu_backward(grad_TC @ w2_CH, u_TH)
    return (
        (grad_u_TH @ w1_HC).view_as(x_C),
        grad_u_TH.T @ x_TC,
        grad_u_TH.sum(0),
        grad_TC.T @ F.gelu(u_TH),
        grad_TC.sum(0),
    )


# ---- GELUs that the kernel has


def exact(x: Tensor) -> Tensor:
    """x/2 (1 + erf(x/√2)), PyTorch's own."""
    return 0.5 * x * (1 + torch.erf(x * math.sqrt(0.5)))


def near(x: Tensor) -> Tensor:
    """x/2 (1 + tanh(x (a + b x² + c x⁴))), at most 2.52e-5 from the exact one anywhere, in exact arithmetic.

    With c the polynomial fits erf; without it, PyTorch's "tanh" is up to 4.7e-4 off. It would turn back past its
    summit at x² = 52.6: from 52 on it is held, where tanh is 1 to 30 digits.
    """
    square = (x * x).clamp(max=52.0)
    return 0.5 * x * (1 + torch.tanh(x * (0.797508 + (0.0370056 - 0.000351516 * square) * square)))


# As `tuning.Config.gelu` names them. "exp" takes the tanh from an exponential and a reciprocal, with fp32's precision;
# "tanh" from one instruction, whose relative error is up to 2^-11 (PTX ISA, tanh.approx.f32).
GELUS: dict[str, Callable[[Tensor], Tensor]] = {"erf": exact, "exp": near, "tanh": near}
