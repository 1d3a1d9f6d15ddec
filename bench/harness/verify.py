"""The check of a model's output, before and after it is timed. No time without a pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases import Case
from bench.errors import Wrong
from bench.harness import digests, inputs
from bench.harness.digests import Digest
from bench.harness.forms import autocast, form, implemented, in_form, in_same_form
from models.exact import QuickDoubles
from models.switches import FUSED, assembled
from models.variants import OWN

CHECKED_IMAGES = 2  # at a time: what a reference runs, and the images whose gradients are held against one
MAX_VALUES = 2**20  # of an image's output are kept to compare
EXACT, OWN_EAGER, ITSELF = "eager in fp64", "its own eager", "itself before it was timed"
FIRST_VISIT = "the first visit, which was checked in full"

# Error of eager against fp64 that its dtype explains, as a share of the largest logit. Generous: it is there to
# catch a wrong model, a NaN or a precision flag left on. ResTv2-T on a CPU: 4e-7, 7e-4 (fp16), 7e-3 (bf16).
EAGER_BOUND = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 8e-2, "fp64": 1e-10}

# How much more of either MHIM is allowed. Its InstanceNorm divides by the spread of an attention map that is almost
# flat at initial weights, and multiplies the map's rounding by up to 300: ResTv1-Lite 2.2e-4 in fp32, on a CPU.
MHIM_FACTOR = 20
MOST_APART = 3  # times the bound on rounding, at most, for a peer whose own eager rounds by more
ROUGHLY = 0.5  # how far off itself MHIM in half precision may be, which rounds by nearly as much
LOGIT = "the largest logit"  # the scale of a difference in output


@contextlib.contextmanager
def unsearched() -> Iterator[None]:
    """Has cuDNN take the algorithm that it expects to be fastest: to try them all pays for what is timed alone."""
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, False
    try:
        yield
    finally:
        cudnn.benchmark = before


def mhim_factor(case: Case) -> int:
    """Factor on the rounding bounds: MHIM_FACTOR where a case normalises its attention map, else 1."""
    config = OWN.get(case.model)
    return MHIM_FACTOR if config and assembled(config, case.model_options).mhim else 1


def _rounding(case: Case) -> float:
    """The difference that rounding explains, as a share of the largest value of an image."""
    return EAGER_BOUND[case.dtype or "fp32"] * mhim_factor(case)


def in_single(case: Case) -> Case:
    """The case whose numbers are checked in place of a case: fp32 for MHIM in half precision, else the case itself.

    At initial weights half precision leaves nothing of MHIM's logits to compare: ResTv1-Lite's are off by as much as
    they are large, from rounding alone. What is timed must still be finite and of the right shape. Our kernel rounds
    the map when it has been normalised, and is held to twice what eager is off in half precision itself.
    """
    if case.dtype not in ("fp16", "bf16") or mhim_factor(case) == 1 or case.impl in FUSED:
        return case
    options = tuple(option for option in case.options if option[0] != "autocast")
    return replace(case, dtype="fp32", options=options)


def named_single(check: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    return {**check, "against": f"{check['against']}, run in fp32; finite in {dtype}"}


Watched = Callable[[], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True)
class Checked:
    """A check that was passed, if it was made before the model is timed, and the one to make when it has been."""

    found: dict[str, Any] | None  # for the row; None where it is made in the end alone
    after: Callable[[Watched], dict[str, Any]]
    # for later visits; None where rounding leaves nothing of the outputs to compare
    digest: Digest | None = None

    def again(self, watched: Watched = contextlib.nullcontext) -> dict[str, Any]:
        """Check once more, when the model has been timed, and give what is found.

        Args:
            watched: a context for each call of the model.

        Raises:
            Wrong: as `check_outputs`.
        """
        return self.after(watched)


Outputs = dict[str, Tensor]  # by the scale that an error is relative to


@dataclass(frozen=True)
class Expected:
    """The right outputs, a row an image: every image of a batch is one of these, or none is."""

    of: Outputs  # (images, values) each, in fp64 on the CPU
    bounds: dict[str, float]
    against: str

    def part(self, rows: slice) -> Expected:
        """The outputs of some images."""
        return replace(self, of={name: out[rows] for name, out in self.of.items()})

    def check(self, outs: Outputs, shift: int = 0) -> dict[str, Any]:
        """Compare each image's output with its own; gives what a row says of the worst.

        Args:
            shift: by how many places the batch was rolled.

        Raises:
            Wrong: an image's output is further off than the bound, or there are other outputs.
        """
        if outs.keys() != self.of.keys():
            raise Wrong(f"the output has other parts than {self.against}")
        found = [
            _images_within(out, self.of[name], self.bounds[name], self.against, name, shift)
            for name, out in outs.items()
        ]
        return max(found, key=lambda check: check["error"] / check["bound"])


def _images_within(
    out: Tensor, expected: Tensor, bound: float, against: str, scale_name: str, shift: int = 0
) -> dict[str, Any]:
    """Compare outputs image by image, each by its own scale.

    The scale is the largest expected value of the image once their mean is taken off: what is added to all of them
    says nothing of the network.

    Raises:
        Wrong: an image is further off than the bound.
    """
    if out.shape[1:] != expected.shape[1:]:
        raise Wrong(f"the output has {out.shape[1]} values an image, not {expected.shape[1]} as {against}")
    worst, scales = 0.0, _scales(expected)
    for place, row in enumerate(out):
        number = (place - shift) % len(out) % len(expected)
        error = (row - expected[number]).abs().max().item() / scales[number]
        if not error <= bound:
            where = f" for image {place + 1} of {len(out)}" if len(out) > 1 else ""
            raise Wrong(
                f"the output differs from {against} by {error:.2e} of {scale_name}{where}; {bound:.2e} is allowed"
            )
        worst = max(worst, error)
    return {"against": against, "of": scale_name, "error": worst, "bound": bound}


def _scales(expected: Tensor) -> list[float]:
    """The scale of each image's error; of all images where one is a single value, or all its values are alike."""
    centred = (expected - expected.mean(1, keepdim=True)).abs().amax(1)
    spread = (expected - expected.mean(0)).abs().max().item() if len(expected) > 1 else 0.0
    whole = spread or expected.abs().max().item()
    return [max(own.item() if own > 1e-12 * whole else whole, 1e-30) for own in centred]


def _rows(outs: Outputs) -> Outputs:
    """Outputs as (images, values) in fp64 on the CPU; of an image's values no more than MAX_VALUES, evenly spread."""
    rows = {}
    for name, out in outs.items():
        out = torch.view_as_real(out) if out.is_complex() else out  # both parts count
        flat = out.detach().flatten(1) if out.ndim > 1 else out.detach()[:, None]
        step = -(-flat.shape[1] // MAX_VALUES) | 1  # odd, so that no column of a map is left out for good
        rows[name] = flat[:, ::step].to("cpu", torch.float64)
    return rows


def _in_chunks(
    case: Case, model: nn.Module, calls: list[tuple[Tensor, ...]], by_image: bool, **form: Any
) -> Outputs:
    """The outputs of a reference, a few images at a time: it may take more memory an image than what is timed."""
    parts = []
    for given in calls:
        step = CHECKED_IMAGES if by_image else len(given[0])
        for start in range(0, len(given[0]), step):
            few = tuple(_formed(tensor[start : start + step], form) for tensor in given)
            parts.append(_rows(_compared(case, model, few)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _formed(tensor: Tensor, form: dict[str, Any]) -> Tensor:
    """A tensor in a form; whole numbers stay such."""
    return inputs.formed(tensor, **form)


def check_outputs(
    case: Case,
    model: nn.Module,
    eager: nn.Module,
    given: tuple[Tensor, ...],
    device: torch.device,
    before: Digest | None = None,
    *,
    late: bool = False,
) -> Checked:
    """Run the case and compare every image of its batch: ours with eager in fp64, others with their own eager.

    Args:
        eager: the reference, with the same weights; it may be converted.
        before: what an earlier visit left of its outputs. It is the reference then, and eager does not run.
        late: of an image alone, whose outputs an earlier visit left: run nothing now, but in the end.

    Raises:
        Wrong: the output is further off than eager's own error explains, not finite, all zero, of the wrong shape,
            or the same whatever the images are.
    """

    def outputs(of: tuple[Tensor, ...], watched: Watched = contextlib.nullcontext) -> tuple[Outputs, bool]:
        with torch.inference_mode(), autocast(case, device):
            with watched():
                whole = model(*of)  # all of them: another batch may be another graph, another algorithm
            found = _check_whole(case, whole, len(given[0]))
            by_image = all(len(out) == len(given[0]) for out in found.values())
            rows = _rows(_compared(case, model, of) if case.head == "mask_rcnn" else found)
            return digests.sampled(rows) if before else rows, by_image

    other = inputs.unlike(given)
    if before is not None:
        expected = Expected(digests.tensors(before), dict.fromkeys(before, _rounding(case)), FIRST_VISIT)
    if late:
        return Checked(
            None, lambda watched: expected.part(slice(1, None)).check(outputs(other, watched)[0]), before
        )
    outs, by_image = outputs(given)
    if before is None and (single := in_single(case)) is not case:
        model_in_single = in_form(single, implemented(single, eager), device)
        alike = tuple(_formed(tensor[:CHECKED_IMAGES], form(single)) for tensor in given)
        found = check_outputs(single, model_in_single, eager, alike, device).found
        assert found is not None  # as it is not late
        bounds = dict.fromkeys(outs, ROUGHLY)
        itself = Expected({name: out[: inputs.DISTINCT] for name, out in outs.items()}, bounds, ITSELF)
        return Checked(
            named_single(found, case.dtype), lambda watched: itself.check(outputs(given, watched)[0])
        )
    images = tuple(tensor[: inputs.DISTINCT] for tensor in given) if by_image else given
    alone = len(given[0]) == 1 or not by_image
    if before is None and alone:  # another image shows whether the output depends on it
        more, _ = outputs(other)
        outs = {name: torch.cat([out, more[name]]) for name, out in outs.items()}
    if before is None:
        expected = _expected(case, eager, [images, other] if alone else [images], outs, by_image, device)
        found = expected.check(outs)
        _check_dependence(case, eager, expected, outs, given, device)
    else:  # the other image has its turn in the end: a later visit is to be short
        found = (expected.part(slice(1)) if alone else expected).check(outs)

    def after(watched: Watched) -> dict[str, Any]:
        if alone:
            return expected.part(slice(1, None)).check(outputs(other, watched)[0])
        # another place for each image, or what was kept of the first call would be right
        return expected.check(outputs(inputs.rolled(given), watched)[0], shift=1)

    return Checked(found, after, digests.taken(outs, inputs.DISTINCT) if before is None else before)


def _expected(
    case: Case,
    eager: nn.Module,
    images: list[tuple[Tensor, ...]],
    outs: Outputs,
    by_image: bool,
    device: torch.device,
) -> Expected:
    """The right outputs for the images of some calls, and how far off the case's own may be.

    Raises:
        Wrong: eager's are not finite, all zero, or further off than their dtype explains.
    """
    ours = case.model in OWN
    bound = _rounding(case)
    plain: Outputs = outs
    with torch.inference_mode(), unsearched():
        if case.impl != "eager" or not ours:
            with autocast(case, device):
                plain = _in_chunks(case, in_same_form(case, eager, device), images, by_image)
        if not ours:
            bounds = dict.fromkeys(plain, bound)
            if case.dtype in ("fp16", "bf16"):
                bounds = _bounds_of_halves(case, eager, images, plain, by_image, bound, device)
            return Expected(_not_zero(plain), bounds, OWN_EAGER)
        exact = eager.to(device, torch.float64)
        with QuickDoubles():
            truth = _not_zero(_in_chunks(case, exact, images, by_image, dtype=torch.float64))
    if case.impl == "eager":
        return Expected(truth, dict.fromkeys(truth, bound), EXACT)
    by_eager = {name: _images_within(out, truth[name], bound, EXACT, name) for name, out in plain.items()}
    # twice what eager itself is off by, and a little for a dtype in which eager happens to be exact
    return Expected(truth, {name: 2 * check["error"] + 1e-5 for name, check in by_eager.items()}, EXACT)


def _bounds_of_halves(
    case: Case,
    eager: nn.Module,
    images: list[tuple[Tensor, ...]],
    plain: Outputs,
    by_image: bool,
    bound: float,
    device: torch.device,
) -> dict[str, float]:
    """Bounds on how far two runs of a peer in half precision differ: twice what eager is off fp32, at least `bound`.

    A library rounds by another algorithm where the batch is another: RegNetY-4G in fp16 on an H100 by 1.3e-2 of the
    largest logit. Beyond MOST_APART bounds nothing is excused.
    """
    single = in_form(replace(case, dtype="fp32"), eager, device)
    right = _not_zero(_in_chunks(case, single, images, by_image, dtype=torch.float32))
    found = {}
    for name, out in plain.items():
        off = max(
            (row - truth).abs().max().item() / scale
            for row, truth, scale in zip(out, right[name], _scales(right[name]), strict=True)
        )
        found[name] = min(max(bound, 2 * off), MOST_APART * bound)
    return found


def _not_zero(outs: Outputs) -> Outputs:
    if not any(out.any() for out in outs.values()):
        raise Wrong("the output is all zeros: nothing can be told of it")
    return outs


def _check_dependence(
    case: Case,
    eager: nn.Module,
    expected: Expected,
    outs: Outputs,
    given: tuple[Tensor, ...],
    device: torch.device,
) -> None:
    """See that the output changes with the image as the right one does, in a finer dtype if need be.

    A bound on rounding alone would let a constant pass where the images hardly tell.

    Raises:
        Wrong: it does not.
    """
    seen = False
    for name, right in expected.of.items():
        differences, ours = right - right[0], outs[name][: len(right)] - outs[name][0]
        most = differences.abs().max().item()
        if most and (ours - differences).abs().max().item() <= most / 2:
            return
        seen |= most > 0
    same_code = (
        case.impl == "eager" and case.model not in OWN
    )  # which rounds alike, and sees what its eager sees
    if (seen and same_code) or (finer := _finer(case)) is None:
        raise Wrong("the output does not depend on the image as it should")
    model = in_form(finer, implemented(finer, eager), device)
    check_outputs(finer, model, eager, tuple(_formed(tensor[:2], form(finer)) for tensor in given), device)


def _finer(case: Case) -> Case | None:
    """The case in a dtype that tells more, which the kernel has to know; None where there is none."""
    finest = "fp32" if case.impl in FUSED else "fp64"
    if case.dtype == finest:
        return None
    options = tuple(option for option in case.options if option[0] != "autocast")
    return replace(case, dtype=finest, options=options)


def _named(out: object, name: str = "") -> dict[str, Tensor]:
    """The tensors in an output by their places in it: of a tensor itself, or of mappings, sequences and objects."""
    if isinstance(out, Tensor):
        return {name: out}
    if isinstance(out, Mapping):
        inside = {str(key): value for key, value in out.items()}
    elif isinstance(out, list | tuple):
        names = getattr(out, "_fields", range(len(out)))
        inside = {str(key): value for key, value in zip(names, out, strict=True)}
    elif hasattr(out, "__dict__"):
        inside = vars(out)
    else:
        return {}
    found: dict[str, Tensor] = {}
    for key, value in inside.items():
        found |= _named(value, f"{name}.{key}".removeprefix("."))
    return found


def _check_whole(case: Case, whole: object, batch: int) -> Outputs:
    """Look at the whole output, and give what of it is compared: all that is not whole numbers, a row an image.

    Raises:
        Wrong: there is no tensor in it, or one is not finite or has no row for each image.
    """
    tensors = _named(whole)
    if not tensors:
        raise Wrong(f"the output is {type(whole).__name__} for {batch} images, and holds no tensor")
    by_image = all(tensor.shape[:1] == (batch,) for tensor in tensors.values())
    for name, tensor in tensors.items():
        what = f"the output {name}".strip()
        if not by_image and ((isinstance(whole, Tensor) and tensor.ndim) or case.head == "mask_rcnn"):
            raise Wrong(f"{what} is {tuple(tensor.shape)} for {batch} images")
        if not tensor.isfinite().all():
            raise Wrong(f"{what} is not finite")
    outs = {
        f"the largest of {name}" if name else LOGIT: tensor if by_image else tensor[None]
        for name, tensor in tensors.items()
        if (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel()
    }
    if not outs:
        raise Wrong("the output holds whole numbers alone, of which none can be compared")
    return outs


@torch.inference_mode()
def check_finite(case: Case, model: nn.Module, given: tuple[Tensor, ...], device: torch.device) -> None:
    """Run the case on weights that nothing is known of.

    Raises:
        Wrong: its output is not finite or all zero.
    """
    with autocast(case, device):
        _not_zero(_check_whole(case, model(*given), len(given[0])))


def _compared(case: Case, model: nn.Module, given: tuple[Tensor, ...]) -> Outputs:
    """Outputs to compare, keyed by the scale that their error is relative to.

    A detector gives everything before box selection, because which boxes win can turn on the last bit.
    """
    if case.head != "mask_rcnn":
        return _check_whole(case, model(*given), len(given[0]))
    dense: Any = model.dense
    return {f"the largest of {name}": each for name, each in dense(*given).items()}
