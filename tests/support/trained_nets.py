"""Small models that train, each with its own way of being right or wrong: their source, and preparing one."""

from __future__ import annotations

import torch

from bench.cases import parse
from bench.harness import training
from bench.harness.prepare import Prepared, Spent, prepare
from bench.protocols import Rules

CPU = torch.device("cpu")
RULES = Rules("tiny", 1, 0.0, 0.0, 3, None, 0.0, limit_s=120)

SOURCE = '''
import torch
from torch import nn


class Net(nn.Module):
    """Means of the colours, times weights."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5))
        self.bias = nn.Parameter(torch.zeros(5))

    def forward(self, x):
        return x.mean((2, 3)) @ self.weight + self.bias


class Wide(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, 2048), nn.Linear(2048, 4))


class DoubledInFp32(Net):
    """The right output, and twice the gradient."""

    def forward(self, x):
        if x.dtype != torch.float32:
            return super().forward(x)
        return x.mean((2, 3)) @ (2 * self.weight - self.weight.detach()) + self.bias


class DoubledWhenCompiled(Net):
    def forward(self, x):
        if not torch.compiler.is_compiling():
            return super().forward(x)
        return x.mean((2, 3)) @ (2 * self.weight - self.weight.detach()) + self.bias


class DetachedWhenCompiled(Net):
    def forward(self, x):
        bias = self.bias.detach() if torch.compiler.is_compiling() else self.bias
        return x.mean((2, 3)) @ self.weight + bias


class Dropping(Net):
    def __init__(self):
        super().__init__()
        self.drop, self.seen = nn.Dropout(0.5), []

    def forward(self, x):
        self.seen.append(self.training)
        return self.drop(super().forward(x))


class Spare(Net):
    """Four parameters that nothing uses."""

    def __init__(self):
        super().__init__()
        self.spare = nn.ParameterList(torch.ones(1) for _ in range(4))


class DetachedInTraining(Net):
    def forward(self, x):
        return x.mean((2, 3)) @ self.weight + (self.bias.detach() if self.training else self.bias)


class NaNInTraining(Net):
    def forward(self, x):
        return super().forward(x) * (float("nan") if self.training else 1)


class NaNGradient(Net):
    def forward(self, x):
        return super().forward(x) + (self.bias - self.bias.detach()).clamp_min(0).sqrt() * 0


class NaNGradientInTraining(Net):
    def forward(self, x):
        out = super().forward(x)
        return out + self.bias.clamp_min(0).sqrt() * 0 if self.training else out


class NaNLater(Net):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        return super().forward(x) * (float("nan") if self.calls > 3 else 1)


class Overflows(Net):
    """The gradients of the second step and of the fourth are infinite."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        out = super().forward(x)
        self.calls += self.training
        if self.training and self.calls in (2, 4):
            out.register_hook(lambda gradient: gradient * float("inf"))
        return out


class OverflowsAlways(Net):
    def forward(self, x):
        out = super().forward(x)
        if self.training:
            out.register_hook(lambda gradient: gradient * float("inf"))
        return out


class Steep(Net):
    """Where its output is fp16, the gradient is 256 times as large as the output's."""

    def forward(self, x):
        return (super().forward(x).float() / 256).half().float() * 256


class Constant(Net):
    def forward(self, x):
        return x.mean((2, 3))


class Frozen(Net):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


class Maps(Net):
    def forward(self, x):
        return x * self.bias.sum()


class Tuple(Net):
    def forward(self, x):
        return super().forward(x), x


class OneLogit(Net):
    def forward(self, x):
        return super().forward(x)[:, :1]


class Hungry(Net):
    """No room for more than four images in training; counts the tensors of its parameters that are alive then."""

    parameters_of_all, alive = [], []

    def forward(self, x):
        if self.training:
            self.parameters_of_all.append(self.watch(self.weight))
            self.alive.append(len({id(of()) for of in self.parameters_of_all if of() is not None}))
            if len(x) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().forward(x)
'''


def prepared(text: str, divisor: int = 1) -> Prepared:
    """A case of one of the models, checked."""
    return prepare(parse(text), divisor, CPU, lambda phase: None, Spent())


def step_of(case: Prepared) -> training.Step:
    """The step of training that a prepared case takes."""
    assert isinstance(case.run, training.Step)
    return case.run
