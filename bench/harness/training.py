"""One step of training as the paper pre-trains: forward, loss, backward, gradient clipping, AdamW.

The settings are those of Table 8, and stand here alone. A step leaves out three things that Table 8 lists:
RandAugment, Mixup and CutMix, which make the images and so are data loading (their soft targets are part of the loss,
and are here); the learning rate's schedule, which changes one number from time to time; EMA, another pass over the
weights after the step. Stochastic depth is the model's own, at the rate that it was built with.

With bf16 weights the time is right and the training would not be: AdamW's steps are about the learning rate, which
bf16 rounds away beside a weight near 1. For training one takes [autocast], whose weights are fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from bench.errors import Wrong
from bench.harness.inputs import SEED

INITIAL_SCALE = 2.0**16  # factor on a loss in fp16, torch.amp.GradScaler's own
MAX_SKIPPED = 32  # steps in a row that overflow while that scale is halved

Cast = Callable[[], AbstractContextManager[object]]  # torch.autocast for one forward, or nothing


@dataclass(frozen=True)
class Gradients:
    """The loss and gradients of one backward pass."""

    loss: float
    by_name: dict[str, Tensor]  # the gradients, of parameters that got one
    missing: frozenset[str] = frozenset()  # parameters that want one and got none


def load() -> None:
    """Have PyTorch import what its optimizers need: a hundred megabytes that no case is to be charged with."""
    torch.optim.AdamW([nn.Parameter(torch.zeros(()))])


@dataclass(frozen=True)
class Recipe:
    """The settings of a step. Weight decay is of every parameter: Table 8 exempts none."""

    learning_rate: float  # for REFERENCE_BATCH images, and in proportion for another batch
    weight_decay: float
    betas: tuple[float, float]
    label_smoothing: float
    max_norm: float  # all gradients together are scaled down to it

    REFERENCE_BATCH = 256

    def rate(self, batch: int) -> float:
        """The learning rate for a batch, once the warm-up is over."""
        return self.learning_rate * batch / self.REFERENCE_BATCH


# Table 8 of the paper, pre-training; section 4.1 says that the learning rate is for 256 images
PRETRAINING = Recipe(1.5e-4, weight_decay=0.05, betas=(0.9, 0.999), label_smoothing=0.1, max_norm=1.0)


def targets(logits_BK: Tensor) -> Tensor:
    """Soft targets for logits: two classes an image, as Mixup and CutMix leave them. (B, K), rows sum to 1.

    Seeded; the first rows do not depend on the batch. At least in fp32, so that the loss is.
    """
    batch, classes = logits_BK.shape
    generator = torch.Generator().manual_seed(SEED)
    share = torch.rand((), generator=generator, dtype=torch.float64)
    labels_B2 = torch.randint(classes, (batch, 2), generator=generator)
    first_BK, second_BK = (F.one_hot(labels_B, classes) for labels_B in labels_B2.T)
    dtype = torch.promote_types(logits_BK.dtype, torch.float32)
    return (share * first_BK + (1 - share) * second_BK).to(logits_BK.device, dtype)


def loss_of(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Cross-entropy with label smoothing, mean over the images, in the targets' dtype."""
    logits_BK = logits_BK.to(targets_BK.dtype)
    return F.cross_entropy(logits_BK, targets_BK, label_smoothing=PRETRAINING.label_smoothing)


def gradients(model: nn.Module, images: Tensor, cast: Cast, *, scaled: bool) -> Gradients:
    """The gradients of one loss, in the mode that the model is in. Its weights stay as they are.

    Args:
        scaled: the loss goes backward multiplied, as far as fp16 can hold the gradients then.

    Raises:
        Wrong: there is no row of logits for each image, or they depend on no parameter.
    """
    parameters, scale = trained(model), INITIAL_SCALE if scaled else 1.0
    while True:
        with torch.enable_grad():
            with cast():
                logits = as_logits(model(images), images)
            loss = loss_of(logits, targets(logits))
        if not loss.requires_grad:
            raise Wrong("no gradient reaches any parameter")
        (loss * scale).backward()
        by_name = {name: p.grad / scale for name, p in parameters.items() if p.grad is not None}
        model.zero_grad(set_to_none=True)
        if scale <= 1 or all(gradient.isfinite().all() for gradient in by_name.values()):
            return Gradients(loss.item(), by_name, frozenset(parameters.keys() - by_name.keys()))
        scale /= 2


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that a step changes, by their names in the model itself.

    Raises:
        ValueError: there are none.
    """
    parameters = {
        name.removeprefix("_orig_mod."): parameter  # as torch.compile names what it wraps
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    if not parameters:
        raise ValueError("the model has no parameter to train")
    return parameters


def as_logits(out: object, images: Tensor) -> Tensor:
    """A model's output, once it is sure to be a row of logits for each image.

    Raises:
        Wrong: it is something else.
    """
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(images) or out.shape[1] < 2:
        what = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise Wrong(
            f"the output is {what} for {len(images)} images, and training needs a row of logits for each"
        )
    return out


class Step:
    """A step of training, to be called again and again on the same images, so that the weights drift to fit these.

    AdamW is PyTorch's, run as it does by default: many tensors a kernel on a GPU, one after another on a CPU.
    """

    def __init__(self, model: nn.Module, images: Tensor, cast: Cast, *, scaled: bool) -> None:
        """
        Args:
            model: is put into training mode.
            cast: the forward runs in it.
            scaled: use a torch.amp.GradScaler, as gradients in fp16 need.
        """
        self.model, self.images = model.train(), images
        self.loss = torch.tensor(torch.nan)  # the last step's
        self._cast, self._parameters = cast, trained(model)
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(),
            lr=PRETRAINING.rate(len(images)),
            betas=PRETRAINING.betas,
            weight_decay=PRETRAINING.weight_decay,
        )
        self._scaler = torch.amp.GradScaler(images.device.type, INITIAL_SCALE, enabled=scaled)
        self._targets: Tensor | None = None
        self._calls = self._before_first = 0

    @torch.enable_grad()
    def __call__(self) -> Tensor:
        """Take a step; gives the loss before the weights change."""
        with self._cast():
            logits = self.model(self.images)
        if self._targets is None:
            self._targets = targets(as_logits(logits, self.images))
        loss = loss_of(logits, self._targets)
        self._scaler.scale(loss).backward()
        with record_function("Optimizer.clip"):  # of a profile's phases it belongs to the optimizer's
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._parameters.values(), PRETRAINING.max_norm)
        self._scaler.step(self._optimizer)  # left out where a gradient is not finite
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self._calls += 1
        self.loss = loss.detach()
        return self.loss

    def first(self, idle: frozenset[str] = frozenset()) -> None:
        """Take one step, and look whether it did what it has to. Not to be timed.

        In fp16 it is tried again while the gradients overflow, for each time the scaler halves what it multiplies by.

        Args:
            idle: parameters that are known to get no gradient.

        Raises:
            Wrong: the loss is not finite; a parameter got no gradient; or it got one and is as it was, or not finite.
        """
        before = {
            name: parameter.detach().to("cpu", copy=True) for name, parameter in self._parameters.items()
        }
        while not self._taken():
            self._before_first = self._calls
            if self._calls == MAX_SKIPPED:
                raise Wrong(
                    "the first step is never taken: its gradients overflow whatever the loss is scaled by"
                )
            if not self().isfinite():
                raise Wrong(f"the loss of the first step is {self.loss.item()}")
        for name, parameter in self._parameters.items():
            if parameter not in self._optimizer.state:
                if name not in idle:
                    raise Wrong(f"no gradient reaches {name} in the first step")
            elif not parameter.isfinite().all():
                raise Wrong(f"{name} is not finite after the first step")
            elif torch.equal(parameter.detach().cpu(), before[name]) and self._moves(parameter, before[name]):
                raise Wrong(f"{name} is the same after the first step")

    def finish(self) -> list[str]:
        """Notes for the row, once all steps are taken.

        Raises:
            Wrong: the last loss is not finite.
        """
        if not self.loss.isfinite():
            raise Wrong(f"the loss is {self.loss.item()} after {self._calls} steps")
        calls = self._calls - self._before_first
        skipped = calls - self._taken()
        note = f"{skipped} of {calls} steps, warm-up included, left AdamW out: their gradients overflowed"
        return [note] if skipped else []

    def _taken(self) -> int:
        """The number of steps that AdamW took."""
        return max((int(state["step"]) for state in self._optimizer.state.values()), default=0)

    def _moves(self, parameter: Tensor, before: Tensor) -> bool:
        """Whether the first step has to change a parameter: it has a gradient, and its dtype room for the learning
        rate.

        AdamW's first step is by about the learning rate, whatever the gradient.
        """
        rate, eps = PRETRAINING.rate(len(self.images)), torch.finfo(before.dtype).eps
        gradient = self._optimizer.state[parameter]["exp_avg"].cpu() / (1 - PRETRAINING.betas[0])
        return bool(((gradient.abs() > 1e-6) & (before.abs() * eps < rate / 2)).any())
